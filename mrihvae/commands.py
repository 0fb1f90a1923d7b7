"""What commands share that go over files one by one: weights on a device, earlier calls, a scan to its results."""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mrihvae.errors import InputError
from mrihvae.fastmri_files import Scan, write_reconstruction
from mrihvae.figures import volume_panel
from mrihvae.geometry import VOXEL
from mrihvae.kspace_files import open_kspace
from mrihvae.masks import effective_acceleration
from mrihvae.memory import return_large_blocks
from mrihvae.model import HVAE
from mrihvae.stages import recorded
from mrihvae.volumes import SAMPLING_METHODS, Method, Undersampling, mask_of, reconstruct_volume, sample_volume
from mrihvae.weights import load_model


def load_on(checkpoint: str, device: str) -> HVAE:
    """Load weights by name or path onto a device.

    Raises
    ------
    InputError
        As `mrihvae.weights.load_model` does, or a device that cannot be used.
    """
    try:
        return load_model(checkpoint, torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {device}: cannot be used ({reason}); try cpu") from error


def finished_before(path: Path, summary: Mapping[str, Any], same: Sequence[str], entries: str) -> dict[str, Any]:
    """Read which files an earlier call finished, as its summary at `path` lists them under `entries`; none without one.

    Raises
    ------
    InputError
        Not a summary, or one of a call in which any of `same` was another.
    """
    if not path.is_file():
        return {}
    try:
        earlier = json.loads(path.read_text())
        finished = {entry["file"]: entry for entry in earlier[entries]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a summary of this command ({error}); leave out --resume") from error
    for key in same:
        if earlier.get(key) != summary[key]:
            raise InputError(
                f"{path}: was made with {key} {earlier.get(key)}, not {summary[key]}; choose another --output, or "
                "leave out --resume to replace it"
            )
    return finished


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is that there was too little memory, of which torch's CPU allocator has no type."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


@lru_cache(maxsize=1)
def opened(file: Path) -> list[Scan]:
    """Open a file with k-space, and keep it for the next of its scans; `cache_clear` before files may have changed."""
    return open_kspace(file, lazy=True)


def reconstruct_file(file: Path, folder: Path, *settings: Any) -> list[dict[str, Any]]:
    """Reconstruct the scans of a file of any format, with `settings` as `reconstruct_scan` takes them; gives its rows.

    Raises
    ------
    InputError
        As `mrihvae.kspace_files.open_kspace` and `reconstruct_scan` do.
    """
    return_large_blocks()
    with _caught() as caught:
        scans = open_kspace(file, lazy=True)
    rows = [reconstruct_scan(scan, file, folder, *settings) for scan in scans]
    for row in rows:
        row["warnings"] = sorted({*row["warnings"], *(str(one.message) for one in caught)})
    if len(rows) == 1 and rows[0]["file"] == file.name:
        return rows
    return [{**row, "source": file.name, "scans": len(rows)} for row in rows]


def reconstruct_scan(
    scan: Scan,
    file: Path,
    folder: Path,
    method: Method,
    undersampling: Undersampling | None,
    batch_size: int,
    sampled: bool = False,
    kept: bool = False,
    seed: int = 0,
    options: str = "--",
) -> dict[str, Any]:
    """Reconstruct a scan: `reconstructions/NAME.h5` and `panels/NAME.png` below `folder`, with the scan's name.

    Parameters
    ----------
    file : where the scan comes from, for errors
    undersampling : for complete scans; None takes the file's own mask
    sampled : draw `method.samples` posterior samples, with `seed`; write their mean, and `uncertainty` beside it
    kept : write the samples, too
    options : what stands before the name of a setting where the user gives it, for errors

    Returns
    -------
    what to tell of the volume (see `told`): file, slices, effective_acceleration, seconds_per_slice, which of these
    its stages took ("maps": sensitivity maps, of several coils), warnings

    Raises
    ------
    InputError
        As `mrihvae.volumes.mask_of` does; too little memory, a reconstruction that is not finite, or files that cannot
        be written.
    """
    mask = mask_of(scan, undersampling)
    effective = round(effective_acceleration(mask), 3)
    began = time.perf_counter()
    caught: list[warnings.WarningMessage]
    with (
        tqdm(total=len(scan.kspace), desc=scan.name, unit="slice", leave=False) as bar,
        _caught() as caught,
        recorded() as stages,
    ):
        try:
            if sampled:
                posterior = sample_volume(scan, mask, method, seed, batch_size, bar.update)
                volume = posterior.mean
            else:
                volume, posterior = reconstruct_volume(scan, mask, method, batch_size, bar.update), None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            size = " x ".join(map(str, scan.kspace.shape[-2:]))
            fewer = f"--batch-size or {options}samples" if sampled else "--batch-size"
            raise InputError(f"{file}: too little memory for slices of {size}; lower {fewer}") from error
    if not np.isfinite(volume).all():
        hint = f"lower {options}step, or leave {options}rule and {options}step out"
        hint = f"lower {options}gamma or {options}tau" if method.name == "pnp" else hint
        raise InputError(f"{file}: the reconstruction is not finite; {hint}")
    seconds = (time.perf_counter() - began) / len(volume)
    attributes: dict[str, Any] = {"method": method.name, "effective_acceleration": effective}
    acceleration = undersampling.acceleration if undersampling else scan.attributes.get("acceleration")
    if acceleration is not None:
        attributes["acceleration"] = acceleration
    attributes |= {} if scan.voxel is None else {VOXEL: scan.voxel}
    attributes |= {} if scan.geometry is None else scan.geometry.attributes()
    further = {} if posterior is None else {"uncertainty": posterior.std}
    if posterior is not None:
        attributes["uncertainty_factor"] = posterior.widened
    if posterior is not None and kept:
        further["samples"] = posterior.samples
    write_reconstruction(folder / "reconstructions" / scan.name, volume, attributes, further)
    panel = folder / "panels" / f"{Path(scan.name).stem}.png"
    _panel(panel, scan, mask, method, volume, effective, None if posterior is None else posterior.std)
    return {
        "file": scan.name,
        "slices": len(volume),
        "effective_acceleration": effective,
        "seconds_per_slice": seconds,
        "stages": {name: round(total / len(volume), 4) for name, total in stages.items()},
        "warnings": sorted({str(one.message) for one in caught}),
    }


def told(row: Mapping[str, Any]) -> str:
    """Write the line that tells of a volume that `reconstruct_file` made."""
    effective, seconds = row["effective_acceleration"], row["seconds_per_slice"]
    stages = "".join(f", {name} {part:.2f}" for name, part in row.get("stages", {}).items())
    within = f" ({stages.removeprefix(', ')})" if stages else ""
    parts = [f"{row['slices']} slices", f"R = {effective:.2f}", f"{seconds:.2f} s per slice{within}", *row["warnings"]]
    return f"{row['file']}: {', '.join(parts)}"


def inference_of(method: Method) -> dict[str, Any] | None:
    """Give the settings with which a method infers, as they count for it; None for methods that do not."""
    if method.name not in SAMPLING_METHODS:
        return None
    without = {"amortised": {"views": 1, "rounds": 1, "sweeps": 0}, "samples": {"sweeps": 0}}
    return {**dataclasses.asdict(method.inference), **without.get(method.name, {})}


@contextmanager
def _caught() -> Iterator[list[warnings.WarningMessage]]:
    """Collect the package's own warnings, to tell of them in its own words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        yield caught


def _panel(
    path: Path,
    scan: Scan,
    mask: np.ndarray,
    method: Method,
    volume: np.ndarray,
    effective: float,
    uncertainty: np.ndarray | None,
) -> None:
    """Draw the middle slice: zero-filled, reconstruction, target, errors, and the uncertainty map if there is one."""
    middle = len(volume) // 2
    one = scan.one(middle)
    zero_filled = reconstruct_volume(one, mask, Method("zero-filled"))
    name = method.name if uncertainty is None else "mean of samples"
    images = {"zero-filled": zero_filled, name: volume[middle : middle + 1]}
    shown = None if uncertainty is None else uncertainty[middle : middle + 1]
    volume_panel(path, f"{scan.name}, slice {middle}, R = {effective:.2f}", images, one.target, uncertainty=shown)
