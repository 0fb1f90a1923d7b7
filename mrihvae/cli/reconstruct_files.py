"""Reconstruction of files of scans, with panels and summaries: for `reconstruct` and `run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from mrihvae.cli.console import progress
from mrihvae.cli.pieces import Piece, add_stages, join_pieces, reconstruct_piece
from mrihvae.cli.reconstruction_images import write_images
from mrihvae.data.geometry import VOXEL_KEY
from mrihvae.data.scan import Scan
from mrihvae.evaluation.bounds import describe_bounds
from mrihvae.evaluation.figures import volume_panel
from mrihvae.io.fastmri import write_reconstruction
from mrihvae.io.kspace import open_kspace
from mrihvae.physics.fastmri_masks import effective_acceleration
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.methods import Method
from mrihvae.recon.reconstruction import Reconstruction
from mrihvae.recon.undersampling import check_signal, mask_of
from mrihvae.recon.volumes import zero_filled_volume
from mrihvae.utils.memory import peak_memory, reset_peak_memory, return_large_blocks
from mrihvae.utils.notices import collect_notices
from mrihvae.utils.stages import record_stages, stage
from mrihvae.utils.text import counted, printable

STAGES = ("read", "checks", "check", "maps", "first guess", "inference", "write")  # in their order
BRIEF = ("check", "maps")  # those of them that stand in the line of a volume


@lru_cache(maxsize=1)
def open_cached(file: Path, key: str | None = None, uncentered: bool = False) -> list[Scan]:
    """Open a file with k-space, and keep it for the next of its scans; `cache_clear` before files may have changed."""
    return open_kspace(file, lazy=True, key=key, uncentered=uncentered)


def reconstruct_file(
    file: Path,
    folder: Path,
    *settings: Any,
    reading: Mapping[str, Any] | None = None,
    pieces: Sequence[Piece] = (),
) -> list[dict[str, Any]]:
    """Reconstruct the scans of a file of any format, with the `settings` of `reconstruct_to_files`; return its rows.

    `reading` has options of `mrihvae.open_kspace`, `pieces` all slices of its one scan, where they are done already.

    Raises
    ------
    InputError
        As `mrihvae.io.kspace.open_kspace` and `reconstruct_to_files` do.
    """
    return_large_blocks()
    reset_peak_memory()
    with collect_notices() as notices, record_stages() as stages, stage("read"):
        scans = open_kspace(file, lazy=True, **(reading or {}))
    reconstruct = partial(reconstruct_to_files, pieces=pieces)
    rows = [reconstruct(scan, file, folder, *settings) for scan in scans]
    for row in rows:
        row["warnings"] = sorted({*row["warnings"], *notices})
        row["stages"] = add_reading(row, stages["read"] / len(rows))
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
    pieces: Sequence[Piece] = (),
) -> dict[str, Any]:
    """Reconstruct a scan: `reconstructions/NAME.h5` and `panels/NAME.png` below `folder`, with the scan's name.

    Parameters
    ----------
    file : where the scan comes from, for errors
    undersampling : for fully sampled scans; None takes the file's own mask
    sampled : draw `method.samples` posterior samples, with `seed`; write `uncertainty` beside the image
    kept : write the samples, too
    options : what stands before the name of a setting where the user gives it, for errors
    form : h5; nii or dcm for images in that form, too, as `mrihvae.cli.reconstruction_images.write_images`
    pieces : the scan's slices, where they are reconstructed already

    Returns
    -------
    the summary of the volume (see `describe`): file, slices, effective_acceleration, seconds_per_slice without reading
    the file first and writing, seconds per slice of the stages (`STAGES`; "maps": sensitivity maps, of several coils;
    "check": see `InferenceSettings.tv_blend`), peak_memory_mb (of the process, since the file was opened), tv_shares
    where there are any (see `Reconstruction`), warnings, and with a calibration psnr_at_least, ssim_at_least, their
    level, the shift_p_value of held-out lines and the number of calibration_persons

    Raises
    ------
    InputError
        As `mrihvae.recon.undersampling.mask_of` does; too little memory, a reconstruction that is not finite, or files
        that cannot be written.
    """
    with collect_notices() as notices, record_stages() as stages:
        with stage("checks"):
            mask = mask_of(scan, undersampling)
            check_signal(scan, mask)
        if pieces:
            piece = join_pieces(pieces)
        else:
            with progress(title=scan.name, unit="slice", total=len(scan.kspace)) as bar:
                piece = reconstruct_piece(scan, file, mask, method, batch_size, sampled, seed, options, bar.update)
        found, effective = piece.found, round(effective_acceleration(mask), 3)
        with stage("write"):
            _write(folder, scan, found, _attributes(scan, method, undersampling, effective), kept, form)
            panel = folder / "panels" / f"{Path(scan.name).stem}.png"
            _panel(panel, scan, mask, method, found.magnitude, effective, found.std)
    return {"file": scan.name, **_summary(piece, effective, stages, notices)}


def _summary(piece: Piece, effective: float, stages: Mapping[str, float], notices: Sequence[str]) -> dict[str, Any]:
    """Summarize a volume, with the stages and notices before and after its images were computed."""
    slices, shares = len(piece.found.magnitude), piece.found.tv_shares
    return {
        "slices": slices,
        "effective_acceleration": effective,
        "seconds_per_slice": piece.seconds / slices,
        "stages": _in_order({name: total / slices for name, total in add_stages(stages, piece.stages).items()}),
        "peak_memory_mb": round(max(piece.peak, peak_memory()) / 2**20),
        **({"tv_shares": shares} if shares else {}),
        **_bounds(piece.found),
        "warnings": sorted({*notices, *piece.notices}),
    }


def _bounds(found: Reconstruction) -> dict[str, Any]:
    """Return what a calibration promises of a volume, and whether the scan is like those that it was made with."""
    if found.bounds is None:
        return {}
    bounds = found.bounds
    return {
        "psnr_at_least": round(bounds.psnr_at_least, 2),
        "ssim_at_least": round(bounds.ssim_at_least, 4),
        "level": bounds.level,
        "shift_p_value": round(bounds.p_value, 4),
        "calibration_persons": bounds.persons,
    }


def add_reading(row: Mapping[str, Any], seconds: float) -> dict[str, float]:
    """Return the stages of a row, with the seconds that it took to open its file."""
    stages = row.get("stages", {})
    return _in_order({**stages, "read": stages.get("read", 0.0) + seconds / row["slices"]})


def _in_order(stages: Mapping[str, float]) -> dict[str, float]:
    """Return stages in their order, rounded; those of other names at the end."""
    names = [*(name for name in STAGES if name in stages), *(name for name in stages if name not in STAGES)]
    return {name: round(stages[name], 4) for name in names}


def _write(folder: Path, scan: Scan, found: Reconstruction, attributes: dict[str, Any], kept: bool, form: str) -> None:
    """Write a reconstruction as HDF5, with its uncertainty map and, if they are kept, its samples; and in `form`."""
    further = {} if found.std is None else {"uncertainty": found.std}
    if found.samples is not None:
        calibrated = "yes" if found.bounds else "no"
        attributes = {**attributes, "uncertainty_factor": found.factor, "uncertainty_calibrated": calibrated}
        further |= {"samples": found.samples} if kept else {}
    write_reconstruction(folder / "reconstructions" / scan.name, found.magnitude, attributes, further)
    write_images(folder, scan, found, attributes, form)


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
    shown = {name: part for name, part in row.get("stages", {}).items() if name in BRIEF or name not in STAGES}
    stages = "".join(f", {name} {part:.2f}" for name, part in shown.items())
    within = f" ({stages.removeprefix(', ')})" if stages else ""
    parts = [
        counted(row["slices"], "slice"),
        f"R = {effective:.2f}",
        f"{seconds:.2f} s per slice{within}",
        *([describe_bounds(row)] if "psnr_at_least" in row else []),
        *row["warnings"],
    ]
    return printable(f"{row['file']}: {', '.join(parts)}")


def lines_about(row: Mapping[str, Any], shown: set[str], verbose: bool = False) -> list[str]:
    """Describe a volume in a line; with `verbose` in several, for seconds of stages and all warnings.

    Warnings that are in `shown`, as volumes before had them, are counted; others are added to it.
    """
    if verbose:
        stages = [f"  {name}: {seconds:.4f} s per slice" for name, seconds in row.get("stages", {}).items()]
        stages += [f"  peak memory: {row['peak_memory_mb']} MB"] if "peak_memory_mb" in row else []
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
    images = {"zero-filled": zero_filled, method.name: volume[middle : middle + 1]}
    uncertainty_map = None if uncertainty is None else uncertainty[middle : middle + 1]
    volume_panel(
        path, f"{scan.name}, slice {middle}, R = {effective:.2f}", images, single.target, uncertainty=uncertainty_map
    )
