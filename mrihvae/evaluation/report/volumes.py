"""Volumes of a report: their scans found again, compared with the reconstructions, scored and drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from mrihvae.data.geometry import voxel_of
from mrihvae.data.scan import TARGETS, Scan, delivered_shape
from mrihvae.errors import InputError
from mrihvae.evaluation.bounds import explain_bounds
from mrihvae.evaluation.report.data import ReportVolume, ScoreRow
from mrihvae.evaluation.report.pictures import draw_pictures
from mrihvae.evaluation.report.record import Record, source_name
from mrihvae.evaluation.scores import Evaluation, VolumeScores, evaluate
from mrihvae.inference.calibration import UNUSUAL
from mrihvae.io.formats import KSPACE_SUFFIXES, list_names, names_in
from mrihvae.io.hdf5 import open_hdf5, read_dataset
from mrihvae.io.kspace import kind_of, open_kspace
from mrihvae.physics.fastmri_masks import effective_acceleration
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import zero_filled_volume
from mrihvae.utils.text import printable


class ScanFinder:
    """The scans of a record's volumes.

    Parameters
    ----------
    record : lists the volumes, and where their scans were
    data : folder with the scans, or with the folder of the record's protocol; None for where they were

    Raises
    ------
    InputError
        `data` has none of the files.
    """

    def __init__(self, record: Record, data: Path | None) -> None:
        self.places = list(record.places)
        reading = record.values.get("reading") or {}  # how it was read then
        self._open = lru_cache(maxsize=1)(partial(open_kspace, lazy=True, **reading))  # a file may hold the next scan
        if data is None:
            return
        subfolder = record.values["settings"]["data"] if record.path.name == "run.json" else ""
        self.places = list(dict.fromkeys([data / subfolder, data]))
        if not any(list(self._candidates(row)) for row in record.rows):
            wanted, there = list_names({source_name(row) for row in record.rows}), list_names(names_in(data))
            raise InputError(
                f"{data}: has none of the files that {record.path} lists ({wanted}), but {there}; give the folder with "
                "the scans"
            )

    def find(self, row: Mapping[str, Any]) -> tuple[Path, Scan] | None:
        """Return the scan of a volume and the file that holds it, or None."""
        found = ((path, scan) for path in self._candidates(row) for scan in self._open(path))
        return next(((path, scan) for path, scan in found if scan.name == row["file"]), None)

    def _candidates(self, row: Mapping[str, Any]) -> Iterator[Path]:
        """List files that may hold a scan: those of its name, then those of other formats that begin like it."""
        name, stem = source_name(row), Path(row["file"]).stem
        for place in self.places:
            path = place / name if place.is_dir() else place
            if path.name == name and (path.is_file() or path.with_name(f"{name}.hdr").is_file()):  # a pair of BART's
                yield path
            elif place.is_dir():
                files = [path for path in sorted(place.iterdir()) if path.suffix in KSPACE_SUFFIXES]
                yield from (path for path in files if stem.startswith(path.stem) and kind_of(path) != "fastmri")


def collect_volume(record: Record, row: Mapping[str, Any], scans: ScanFinder, limit: int | None) -> ReportVolume:
    """Return what is known of a volume, with pictures of at most `limit` slices.

    Raises
    ------
    InputError
        The reconstruction is damaged, or the scan is not the one that it was made from.
    """
    path = record.reconstruction(row)
    images, uncertainty, voxel = _read_results(path)
    acquisition, values, by_slice = _known(row.get("acquisition", "")), row["scores"], {}
    arrays, notes = {"reconstruction": images}, list[str]()
    found = scans.find(row)
    if found is None:
        places = f" (looked in {', '.join(map(str, scans.places))})" if scans.places else ""
        notes.append(f"no zero-filled image, target or error: the scan was not found{places}; give --data")
    else:
        source, scan = found
        voxel = voxel or (scan.geometry.voxel if scan.geometry else scan.voxel)
        acquisition = acquisition or _known(scan.attributes.get("acquisition", ""))
        expected = (len(scan.kspace), *delivered_shape(scan))
        if images.shape != expected:
            raise InputError(
                f"{path}: 'reconstruction' has shape {images.shape}, but {source} gives {expected}; give --data with "
                "the scans that were reconstructed"
            )
        mask = _mask(record, row, source, scan)
        arrays = {"zero-filled": zero_filled_volume(scan, mask), **arrays}
        challenge = "singlecoil" if scan.kspace.ndim == 3 else "multicoil"
        if scan.target is None:
            notes.append(f"no target, so no error: the scan has no {TARGETS[challenge]}")
        else:
            arrays["target"] = scan.target
            try:
                values = values or evaluate(source, path, challenge).rows[0].values
                by_slice = slice_scores(scan.target, images)
            except InputError as error:
                notes.append(f"no scores: {error}")
    if uncertainty is None:
        notes.append("no uncertainty: the reconstruction has none; 'mrihvae reconstruct --samples' writes it")
    else:
        arrays["uncertainty"] = uncertainty
    slices = len(images)
    shown = np.unique(np.linspace(0, slices - 1, min(limit or slices, slices)).round().astype(int)).tolist()
    titles = {"reconstruction": f"reconstruction, {record.method}"}
    size = None if voxel is None else (float(voxel[0]), float(voxel[1]))
    evaluated = None if values is None else VolumeScores(row["file"], acquisition, slices, values)
    return ReportVolume(
        printable(row["file"]), acquisition, slices, row.get("effective_acceleration"), row.get("seconds_per_slice"),
        evaluated.scores() if evaluated else None, evaluated, by_slice,
        draw_pictures(arrays, titles, shown, size), tuple(notes),
        tuple(printable(str(warning)) for warning in row.get("warnings") or ()), _promises(row),
        row.get("stages") or {}, row.get("peak_memory_mb"),
    )  # fmt: skip


def _promises(row: Mapping[str, Any]) -> dict[str, str]:
    """Say what a calibration promises of a volume, and whether the scan is like those that it was made with."""
    if row.get("psnr_at_least") is None:
        return {}
    found = {"bounds": explain_bounds(row)}
    if (p := row.get("shift_p_value")) is not None:
        like = "do not resemble" if p <= UNUSUAL else "resemble"
        found["held-out p-value"] = f"{p:.2g}: held-out acquired samples {like} those of the calibration"
    return found


def slice_scores(target: np.ndarray, prediction: np.ndarray) -> dict[str, list[float | None]]:
    """Compute PSNR and SSIM of each slice, with the volume's maximum as data range as `fastmri.evaluate` has it.

    Parameters
    ----------
    target, prediction : float (slice, h, w) with h >= w; the center (w, w) counts

    Returns
    -------
    the mean of "SSIM" is the volume's; None stands for the infinite "PSNR" of a perfect slice
    """
    from fastmri.data.transforms import center_crop
    from fastmri.evaluate import psnr, ssim

    width = target.shape[-1]
    target, prediction = center_crop(target, (width, width)), center_crop(prediction, (width, width))
    pairs = [(target[k : k + 1], prediction[k : k + 1]) for k in range(len(target))]
    with np.errstate(divide="ignore"):
        scores = {
            name: np.ravel([metric(*pair, target.max()) for pair in pairs]).tolist()
            for name, metric in (("PSNR", psnr), ("SSIM", ssim))
        }
    return {name: [value if math.isfinite(value) else None for value in values] for name, values in scores.items()}


def mean_rows(record: Record, volumes: Sequence[ReportVolume]) -> list[ScoreRow]:
    """Return the means over each acquisition, if there are several, and over all volumes."""
    means = _means(record, volumes)
    names = sorted({volume.acquisition for volume in volumes} - {""})
    rows = []
    for name in [*names, ""] if 1 < len(names) < len(volumes) else [""]:
        part = [volume for volume in volumes if name in ("", volume.acquisition)]
        scored = sum(volume.scores is not None for volume in part)
        title = f"mean of {len(part)}" + (f", {scored} scored" if scored not in (0, len(part)) else "")
        acceleration, seconds = _mean(v.acceleration for v in part), _mean(v.seconds for v in part)
        rows.append(ScoreRow(title, name, sum(v.slices for v in part), acceleration, seconds, means.get(name)))
    return rows


def _means(record: Record, volumes: Sequence[ReportVolume]) -> Mapping[str, Mapping[str, float]]:
    """Return the mean scores of all volumes ("") and of each acquisition: the record's, unless more have scores."""
    if record.means and all(row.get("scores") for row, volume in zip(record.rows, volumes) if volume.scores):
        return record.means
    scored = Evaluation(tuple(volume.evaluated for volume in volumes if volume.evaluated))
    if not scored.rows:
        return {}
    return {"": scored.means(), **{name: scored.of(name).means() for name in scored.acquisitions()}}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _read_results(path: Path) -> tuple[np.ndarray, np.ndarray | None, tuple[float, float, float] | None]:
    """Read a reconstruction, float (slice, h, w), its uncertainty if it has one, and the size of its voxels."""
    images = read_dataset(path, "reconstruction")
    if images.dtype.kind != "f" or images.ndim != 3 or 0 in images.shape:
        raise InputError(
            f"{path}: 'reconstruction' is {images.dtype} of shape {images.shape}, not magnitudes (slices, h, w); "
            "reconstruct it again"
        )
    with open_hdf5(path) as file:
        voxel = voxel_of(dict(file.attrs.items()))
        if "uncertainty" not in file:
            return images, None, voxel
    uncertainty = read_dataset(path, "uncertainty")
    if uncertainty.shape != images.shape:
        shapes = f"{uncertainty.shape}, 'reconstruction' {images.shape}"
        raise InputError(f"{path}: 'uncertainty' has shape {shapes}; reconstruct it again")
    return images, uncertainty, voxel


def _mask(record: Record, row: Mapping[str, Any], source: Path, scan: Scan) -> np.ndarray:
    """Return the mask of the reconstruction: drawn by `record.undersampling`, or else the scan's own."""
    reasons, recorded = [], row.get("effective_acceleration")
    for undersampling in dict.fromkeys((record.undersampling, None)):
        try:
            mask = mask_of(scan, undersampling)
        except (ValueError, TypeError) as error:
            reasons.append(str(error))
            continue
        effective = round(effective_acceleration(mask), 3)
        if recorded is None or abs(effective - recorded) <= 0.002:
            return mask
        reasons.append(f"its mask gives R = {effective}, not {recorded}")
    raise InputError(f"{source}: does not match {record.path} ({reasons[0]}); give --data with the matching scans")


def _known(value: Any) -> str:
    """Return the acquisition that a file or a record names; empty if it is "unknown"."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return "" if text == "unknown" else text
