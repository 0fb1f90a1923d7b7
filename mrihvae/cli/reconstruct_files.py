"""Reconstruction of files of scans, with panels and summaries: for `reconstruct` and `run`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mrihvae.cli.reconstruction_images import write_images
from mrihvae.data.geometry import VOXEL_KEY
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.evaluation.figures import volume_panel
from mrihvae.io.fastmri import write_reconstruction
from mrihvae.io.kspace import open_kspace
from mrihvae.physics.fastmri_masks import effective_acceleration
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.methods import HybridMethod, Method, PnPMethod
from mrihvae.recon.undersampling import check_signal, mask_of
from mrihvae.recon.volumes import Reconstruction, reconstruct_scan, zero_filled_volume
from mrihvae.utils.memory import is_out_of_memory, return_large_blocks
from mrihvae.utils.notices import collect_notices
from mrihvae.utils.stages import record_stages
from mrihvae.utils.text import printable


@lru_cache(maxsize=1)
def open_cached(file: Path, key: str | None = None, uncentered: bool = False) -> list[Scan]:
    """Open a file with k-space, and keep it for the next of its scans; `cache_clear` before files may have changed."""
    return open_kspace(file, lazy=True, key=key, uncentered=uncentered)


def reconstruct_file(
    file: Path, folder: Path, *settings: Any, reading: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Reconstruct the scans of a file of any format, with the `settings` of `reconstruct_to_files`; return its rows.

    `reading` has options of `mrihvae.open_kspace`.

    Raises
    ------
    InputError
        As `mrihvae.io.kspace.open_kspace` and `reconstruct_to_files` do.
    """
    return_large_blocks()
    with collect_notices() as notices:
        scans = open_kspace(file, lazy=True, **(reading or {}))
    rows = [reconstruct_to_files(scan, file, folder, *settings) for scan in scans]
    for row in rows:
        row["warnings"] = sorted({*row["warnings"], *notices})
    if len(rows) == 1 and rows[0]["file"] == file.name:
        return rows
    return [{**row, "source": file.name, "scans": len(rows)} for row in rows]


def reconstruct_to_files(
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
    form: str = "h5",
) -> dict[str, Any]:
    """Reconstruct a scan: `reconstructions/NAME.h5` and `panels/NAME.png` below `folder`, with the scan's name.

    Parameters
    ----------
    file : where the scan comes from, for errors
    undersampling : for fully sampled scans; None takes the file's own mask
    sampled : draw `method.samples` posterior samples, with `seed`; write their mean, and `uncertainty` beside it
    kept : write the samples, too
    options : what stands before the name of a setting where the user gives it, for errors
    form : h5; nii or dcm for images in that form, too, as `mrihvae.cli.reconstruction_images.write_images`

    Returns
    -------
    the summary of the volume (see `describe`): file, slices, effective_acceleration, seconds_per_slice, which of these
    its stages took ("maps": sensitivity maps, of several coils; "check": see `InferenceSettings.tv_blend`), tv_shares
    where there are any (see `Reconstruction`), warnings

    Raises
    ------
    InputError
        As `mrihvae.recon.undersampling.mask_of` does; too little memory, a reconstruction that is not finite, or files
        that cannot be written.
    """
    mask = mask_of(scan, undersampling)
    check_signal(scan, mask)
    effective = round(effective_acceleration(mask), 3)
    began = time.perf_counter()
    with (
        tqdm(total=len(scan.kspace), desc=printable(scan.name), unit="slice", leave=False) as bar,
        collect_notices() as notices,
        record_stages() as stages,
    ):
        found = _reconstruct_or_sample(scan, file, mask, method, batch_size, sampled, seed, options, bar.update)
    volume = found.magnitude
    seconds = (time.perf_counter() - began) / len(volume)
    attributes = _attributes(scan, method, undersampling, effective)
    with collect_notices() as further_notices:
        _write(folder, scan, found, attributes, kept, form)
    panel = folder / "panels" / f"{Path(scan.name).stem}.png"
    _panel(panel, scan, mask, method, volume, effective, found.std)
    return {
        "file": scan.name,
        "slices": len(volume),
        "effective_acceleration": effective,
        "seconds_per_slice": seconds,
        "stages": {name: round(total / len(volume), 4) for name, total in stages.items()},
        **({"tv_shares": found.tv_shares} if found.tv_shares else {}),
        "warnings": sorted({*notices, *further_notices}),
    }


def _write(folder: Path, scan: Scan, found: Reconstruction, attributes: dict[str, Any], kept: bool, form: str) -> None:
    """Write a reconstruction as HDF5, with its uncertainty map and, if they are kept, its samples; and in `form`."""
    further = {} if found.std is None else {"uncertainty": found.std}
    if found.samples is not None:
        attributes = {**attributes, "uncertainty_factor": found.factor}
        further |= {"samples": found.samples} if kept else {}
    write_reconstruction(folder / "reconstructions" / scan.name, found.magnitude, attributes, further)
    write_images(folder, scan, found, attributes, form)


def _reconstruct_or_sample(
    scan: Scan,
    file: Path,
    mask: np.ndarray,
    method: Method,
    batch_size: int,
    sampled: bool,
    seed: int,
    options: str,
    progress: Callable[[int], None],
) -> Reconstruction:
    """Reconstruct a scan, or draw samples."""
    try:
        count = method.samples if sampled and isinstance(method, HybridMethod) else 0
        found = reconstruct_scan(scan, mask, method, samples=count, seed=seed, batch_size=batch_size, progress=progress)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size = " x ".join(map(str, scan.kspace.shape[-2:]))
        fewer = f"--batch-size or {options}samples" if sampled else "--batch-size"
        raise InputError(f"{file}: too little memory for slices of {size}; lower {fewer}") from error
    if not np.isfinite(found.magnitude).all():
        hint = f"lower {options}step, or leave {options}rule and {options}step out"
        hint = f"lower {options}gamma or {options}tau" if isinstance(method, PnPMethod) else hint
        raise InputError(f"{file}: the reconstruction is not finite; {hint}")
    return found


def _attributes(scan: Scan, method: Method, undersampling: Undersampling | None, effective: float) -> dict[str, Any]:
    """Return attributes for HDF5: how a volume was made, and its geometry."""
    attributes: dict[str, Any] = {"method": method.name, "effective_acceleration": effective}
    acceleration = undersampling.acceleration if undersampling else scan.attributes.get("acceleration")
    if acceleration is not None:
        attributes["acceleration"] = acceleration
    attributes |= {} if scan.voxel is None else {VOXEL_KEY: scan.voxel}
    return attributes | ({} if scan.geometry is None else scan.geometry.attributes())


def describe(row: Mapping[str, Any]) -> str:
    """Describe a volume that `reconstruct_file` made, in one line."""
    effective, seconds = row["effective_acceleration"], row["seconds_per_slice"]
    stages = "".join(f", {name} {part:.2f}" for name, part in row.get("stages", {}).items())
    within = f" ({stages.removeprefix(', ')})" if stages else ""
    parts = [f"{row['slices']} slices", f"R = {effective:.2f}", f"{seconds:.2f} s per slice{within}", *row["warnings"]]
    return printable(f"{row['file']}: {', '.join(parts)}")


def lines_about(row: Mapping[str, Any], shown: set[str], verbose: bool = False) -> list[str]:
    """Describe a volume in a line; with `verbose` in several, for seconds of stages and all warnings.

    Warnings that are in `shown`, as volumes before had them, are counted; others are added to it.
    """
    if verbose:
        stages = [f"  {name}: {seconds:.4f} s per slice" for name, seconds in row.get("stages", {}).items()]
        return [describe({**row, "warnings": []}), *stages, *(f"  warning: {text}" for text in row["warnings"])]
    fresh = [text for text in row["warnings"] if text not in shown]
    shown.update(fresh)
    repeated = len(row["warnings"]) - len(fresh)
    again = [f"{repeated} warning{'s' if repeated > 1 else ''} as before"] if repeated else []
    return [describe({**row, "warnings": fresh + again})]


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
    single = scan.single_slice(middle)
    zero_filled = zero_filled_volume(single, mask)
    name = method.name if uncertainty is None else "mean of samples"
    images = {"zero-filled": zero_filled, name: volume[middle : middle + 1]}
    uncertainty_map = None if uncertainty is None else uncertainty[middle : middle + 1]
    volume_panel(
        path, f"{scan.name}, slice {middle}, R = {effective:.2f}", images, single.target, uncertainty=uncertainty_map
    )
