"""What has been run: who made each step's results, how long it took, and whether that still holds.

benchmarks/results/steps.json has a record a step: its command, the SHA-256 of weights, protocol, inputs and peers,
version, processor, threads and seconds. Results that are older than this file are judged by what they say themselves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks import HERE
from benchmarks.common.made_by import digests_of, weights_path
from benchmarks.common.provenance import file_digest, provenance
from benchmarks.steps import Step
from mrihvae.errors import InputError
from mrihvae.model.weights import fingerprint
from mrihvae.utils.files import atomic_write

RECORDS = "steps.json"
CURRENT, STALE, MISSING = "current", "stale", "missing"


@dataclass(frozen=True)
class State:
    """How a step stands.

    Attributes
    ----------
    name : "current", "stale" or "missing"
    why : what is not as it was
    lacks : what is missing, such as a peer's weights, without which the step cannot run
    """

    name: str
    why: str = ""
    lacks: str = ""


class Ledger:
    """The records of a results folder.

    Parameters
    ----------
    results : the folder
    root : of the checkout, where protocols and peers' weights lie
    """

    def __init__(self, results: Path, root: Path = HERE.parent) -> None:
        self.results, self.root = results, root

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """The records by step.

        Raises
        ------
        InputError
            A file that is no such records.
        """
        path = self.results / RECORDS
        if not path.is_file():
            return {}
        try:
            found = json.loads(path.read_text())
            return {str(name): dict(record) for name, record in found.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: not readable as records ({error}); remove it to judge by results") from error

    def identity(self, step: Step) -> dict[str, Any]:
        """Say what a step's results depend on: command, and the SHA-256 of weights, protocol, inputs, peers."""
        protocol, inputs = step.protocol, [self.results / name for name in step.inputs]
        peers = [self.root / name for name in step.peers]
        return {
            "command": f"python -m benchmarks.{step.command}",
            "weights": {name: fingerprint(weights_path(name)) for name in step.weights},
            "protocol_sha256": file_digest(self.root / protocol) if protocol else None,
            "inputs": {path.name: file_digest(path) for path in inputs if path.is_file()},
            "peers": {path.parent.name: file_digest(path) for path in peers if path.is_file()},
        }

    def state(self, step: Step) -> State:
        """Compare a step's results with what would make them now."""
        missing = [name for name in step.peers if not (self.root / name).is_file()]
        lacks = ", ".join(missing)
        files = [sorted(self.results.glob(name)) for name in step.results]
        if not all(files):
            return State(MISSING, lacks=lacks)
        record, now = self.records.get(step.name), self.identity(step)
        if record is None:
            return State(*self._judge(step, files[0]), lacks)
        differing = [key.removesuffix("_sha256") for key in now if self._differs(key, record.get(key), now[key])]
        return State(STALE, f"other {', '.join(differing)}", lacks) if differing else State(CURRENT, lacks=lacks)

    @staticmethod
    def _differs(key: str, before: Any, now: Any) -> bool:
        """Compare; a peer's weights that are not there now change nothing."""
        if key == "peers":
            return any((before or {}).get(name) not in (None, digest) for name, digest in now.items())
        return bool(before != now)

    def _judge(self, step: Step, files: list[Path]) -> tuple[str, str]:
        """Judge results without a record by the weights that they name."""
        if not step.weights:
            return CURRENT, "by its own words"
        wanted = {fingerprint(weights_path(name)) for name in step.weights}
        found = set()
        for path in files:
            if path.suffix == ".json":
                try:
                    found |= digests_of(json.loads(path.read_text()))
                except (OSError, ValueError, AttributeError):
                    return STALE, "not readable"
        if not found:
            return STALE, "does not say which weights made it"
        return (CURRENT, "by its own words") if found <= wanted else (STALE, "other weights")

    def seconds(self, step: Step) -> float | None:
        """Estimate how long a step takes: as recorded, else as its rows say, else as steps.toml does."""
        record = self.records.get(step.name)
        if record and isinstance(record.get("seconds"), int | float):
            return float(record["seconds"])
        path = self.results / step.results[0]
        if path.suffix == ".json" and path.is_file():
            try:
                rows = json.loads(path.read_text()).get("volumes", [])
                total = sum(row["seconds"] * row["slices"] for row in rows)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                total = 0.0
            if total:
                return float(total)
        return None if step.minutes is None else 60 * step.minutes

    def record(self, step: Step, seconds: float, load: float) -> None:
        """Write down that a step has run."""
        about = {key: value for key, value in provenance().items() if key != "torch"}
        self.records[step.name] = {
            **self.identity(step), **about, "seconds": round(seconds, 1), "load_before": round(load, 2),
        }  # fmt: skip
        with atomic_write(self.results / RECORDS) as temporary:
            temporary.write_text(json.dumps(self.records, indent=1) + "\n")
