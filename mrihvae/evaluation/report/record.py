"""What `mrihvae run` or `mrihvae reconstruct` recorded of its results: the JSON in its output folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrihvae.errors import InputError
from mrihvae.evaluation.scores import METRICS
from mrihvae.physics.sampling import Undersampling
from mrihvae.utils.config import from_dict

RECORDS = ("run.json", "reconstruct.json")
BOUNDS = ("psnr_at_least", "ssim_at_least", "level", "calibration_persons")
NUMBERS = ("slices", "effective_acceleration", "seconds_per_slice", "peak_memory_mb", "shift_p_value", *BOUNDS)


@dataclass(frozen=True)
class Record:
    """What an earlier command recorded of its results.

    Attributes
    ----------
    path, text : its JSON
    values : what that holds
    rows : its volumes
    method : by which they were reconstructed
    undersampling : of fully sampled scans, or None
    places : folders, or a file, where the scans were
    means : scores of all volumes (""), and of each acquisition; empty where it has none
    """

    path: Path
    text: str
    values: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    method: str
    undersampling: Undersampling | None
    places: Sequence[Path]
    means: Mapping[str, Mapping[str, float]]

    def reconstruction(self, row: Mapping[str, Any]) -> Path:
        """Return the file with the reconstruction of a volume."""
        return self.path.parent / "reconstructions" / str(row["file"])

    def describe(self, slices: int) -> list[str]:
        """Return lines that say what was reconstructed, and how."""
        settings = self.values.get("settings") or {}
        weights, samples = self.values.get("weights"), self.values.get("samples")
        mean = f", uncertainty of {samples} samples" if samples else ""
        parts = [f"{quantity(len(self.rows), 'volume')}, {quantity(slices, 'slice')}", f"method {self.method}{mean}"]
        if weights:
            parts.append(f"weights {settings.get('weights') or self.values.get('checkpoint')} ({weights})")
        if u := self.undersampling:
            parts.append(f"{u.mask_type} mask, {u.acceleration}x, center fraction {u.center_fraction:.3g}")
        description = settings.get("description")
        return [*([str(description)] if description else []), "; ".join(parts)]

    def failed(self) -> list[tuple[str, str]]:
        """List the files that could not be reconstructed, and why."""
        rows = self.values.get("failed") or ()
        return [(str(row.get("file")), str(row.get("error"))) for row in rows if isinstance(row, Mapping)]


def read_record(folder: Path) -> Record:
    """Read the JSON that `mrihvae run` or `mrihvae reconstruct` left in its output folder.

    Raises
    ------
    InputError
        The folder is missing, has no such JSON, or two, or a damaged one.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the --output of 'mrihvae run' or 'mrihvae reconstruct'")
    found = [folder / name for name in RECORDS if (folder / name).is_file()]
    if len(found) != 1:
        has = "neither run.json nor reconstruct.json" if not found else "both run.json and reconstruct.json"
        hint = "give the --output of 'mrihvae run' or 'mrihvae reconstruct'" if not found else "remove the older one"
        raise InputError(f"{folder}: has {has}; {hint}")
    path = found[0]
    try:
        return _parse(path, path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        why = f"no '{error.args[0]}' in it" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise InputError(f"{path}: damaged ({why}); run the command that wrote it again") from error


def source_name(row: Mapping[str, Any]) -> str:
    """Return the name of the file that held a scan; `mrihvae run` records only the scan's, which is mostly the same."""
    return row.get("source", row["file"])  # type: ignore[no-any-return]


def quantity(number: int, noun: str) -> str:
    """Return a number with its noun, "1 slice" or "2 slices"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _parse(path: Path, text: str) -> Record:
    values = json.loads(text)
    rows = values["volumes"]
    if not rows or any(Path(name).name != name for row in rows for name in (row["file"], source_name(row))):
        raise ValueError("it lists no volumes, or not by file name")
    rows = [{**row, "scores": _numbers(row["scores"]) if row.get("scores") else None} for row in rows]
    numbers = [row.get(key) for row in rows for key in NUMBERS]
    numbers += [seconds for row in rows for seconds in (row.get("stages") or {}).values()]
    if any("psnr_at_least" in row and not all(name in row for name in BOUNDS) for row in rows):
        raise ValueError("bounds that are not whole")
    if not all(number is None or type(number) in (int, float) for number in numbers):
        raise ValueError("text where a number should be")
    totals = {"": values["overall"], **values["acquisitions"]} if values.get("overall") else {}
    means = {name: _numbers(part["means"]) for name, part in totals.items()}
    if path.name == "run.json":
        settings = values["settings"]
        method, mask = settings["solver"]["method"], {**settings["mask"]}
        mask.pop("seed", None)
        undersampling = {"mask_type": mask.pop("type"), **mask}
        places = [Path(values["data"]) / settings["data"], Path(values["data"])]
    else:
        method, undersampling = values["method"], values["undersampling"]
        places = [Path(values["input"])] if values.get("input") else []
    chosen = None if undersampling is None else from_dict(Undersampling, undersampling, "undersampling")
    return Record(path, text, values, rows, str(method), chosen, places, means)


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    """Convert scores from JSON, where null stands for an infinite PSNR of a perfect reconstruction."""
    return {metric: math.inf if scores[metric] is None else float(scores[metric]) for metric in METRICS}
