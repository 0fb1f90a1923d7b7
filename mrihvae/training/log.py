"""The log of a run: a line of JSON for every step."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrihvae.errors import InputError
from mrihvae.training.batches import DegradedImages, Scans
from mrihvae.training.objective import PriorTerms, Rollout
from mrihvae.training.run import Run
from mrihvae.utils.files import atomic_write


def write_step(
    path: Path, run: Run, scans: Scans | DegradedImages, masked: Rollout | None, prior: PriorTerms | None
) -> dict[str, Any]:
    """Append the line of a step, and return it; numbers are nats per real dimension unless named otherwise."""
    line = dataclasses.asdict(run.counters)
    if isinstance(scans, Scans):
        line["coils"] = scans.coils
    if masked is not None:
        line |= {
            "rollout": round(float(masked.error), 5),
            "guess": round(float(masked.guess), 5),
            "stages": [round(float(stage), 5) for stage in masked.stages],
            "zero_filled": round(float(masked.zero_filled), 5),
        }
    if prior is not None:
        line |= {
            "elbo": round(float(prior.elbo.detach()), 5),
            "distortion": round(float(prior.distortion.detach()), 5),
            "kl": [round(v, 6) for v in prior.kl.tolist()],
            "matching": [round(v, 6) for v in prior.matching.tolist()],
            "active": [round(v, 5) for v in prior.active.tolist()],
        }
    append_line(path, line)
    return line


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line of JSON.

    Raises
    ------
    InputError
        A file that cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free space or choose another place") from error


def cut_log(path: Path, step: int) -> None:
    """Drop log lines after the checkpoint's step, of a run that was killed: those steps will be done again.

    Raises
    ------
    InputError
        A line that is no step's.
    """
    if not path.is_file():
        return
    try:
        with path.open() as file:
            lines = [line for line in file if line.endswith("\n") and json.loads(line)["step"] <= step]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: is not a log of a run ({error}); move it away, and resume again") from error
    with atomic_write(path) as temporary:
        temporary.write_text("".join(lines))
