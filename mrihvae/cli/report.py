"""`mrihvae report`: what `mrihvae run` or `mrihvae reconstruct` wrote, as one HTML file."""

from __future__ import annotations

import argparse
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from mrihvae import __version__
from mrihvae.cli.reconstruct_files import open_cached
from mrihvae.data.scan import TARGETS, Scan, delivered_shape
from mrihvae.errors import InputError
from mrihvae.evaluation.report import ReportVolume, means_of, page, panels_of, slice_scores
from mrihvae.evaluation.scores import METRICS, Evaluation, VolumeScores, evaluate
from mrihvae.io.formats import KSPACE_SUFFIXES
from mrihvae.io.hdf5 import read_dataset
from mrihvae.io.kspace import kind_of
from mrihvae.physics.fastmri_masks import effective_acceleration
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.methods import Method
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume
from mrihvae.utils.config import from_dict
from mrihvae.utils.files import atomic_write

RECORDS = ("run.json", "reconstruct.json")


@dataclass(frozen=True)
class Record:
    """What an earlier command wrote of its results.

    Attributes
    ----------
    path, text : its JSON
    values : what that holds
    rows : its volumes
    method : by which they were reconstructed
    undersampling : of complete scans, or None
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


def run(arguments: argparse.Namespace) -> None:
    """Write the report; prints progress on standard error and a line on standard output."""
    if arguments.slices is not None and arguments.slices < 1:
        raise InputError(f"--slices {arguments.slices}: must be at least 1")
    open_cached.cache_clear()  # files may have changed since an earlier call in this process
    record = read_record(arguments.folder)
    places = _places(record, arguments.data)
    for row in record.rows:  # before anything is computed
        if not _reconstruction(record, row).is_file():
            raise InputError(
                f"{_reconstruction(record, row)}: not there, but {record.path} lists it; reconstruct it with --resume"
            )
    volumes = [
        _volume(record, row, places, arguments.slices)
        for row in tqdm(record.rows, "report", unit="volume", leave=False)
    ]
    output = arguments.output or arguments.folder / "report.html"
    title = arguments.title or record.values.get("protocol") or f"Reconstructions, {record.method}"
    now = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %z}"
    settings = {"this report": {"date": now, "command": _command(arguments), "mrihvae": __version__}, **record.values}
    text = page(
        str(title), _about(record, volumes), volumes, _means(record, volumes), settings, (record.path.name, record.text)
    )
    with atomic_write(output) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="\n")  # names need not be UTF-8
    pictures = sum(len(panel.pictures) for volume in volumes for panel in volume.panels)
    counted = f"{_count(len(volumes), 'volume')}, {_count(pictures, 'picture')}, {len(text) / 1e6:.1f} MB"
    print(f"{output}: {counted}; open it in a browser")


def read_record(folder: Path) -> Record:
    """Read the JSON that `mrihvae run` or `mrihvae reconstruct` left in its output folder.

    Raises
    ------
    InputError
        No such folder, no JSON in it, or two, or one that is damaged.
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
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
        rows = values["volumes"]
        if not rows or any(Path(name).name != name for row in rows for name in (row["file"], _source(row))):
            raise ValueError("it lists no volumes, or not by file name")
        rows = [{**row, "scores": _numbers(row["scores"]) if row.get("scores") else None} for row in rows]
        numbers = [row.get(key) for row in rows for key in ("effective_acceleration", "seconds_per_slice")]
        if not all(number is None or type(number) in (int, float) for number in numbers):
            raise ValueError("text where a number should be")
        totals = {"": values["overall"], **values["acquisitions"]} if values.get("overall") else {}
        means = {name: _numbers(part["means"]) for name, part in totals.items()}
        if path.name == "run.json":
            settings = values["settings"]
            method, mask = settings["solver"]["method"], {**settings["mask"]}
            mask.pop("seed", None)
            undersampling = {"mask_type": mask.pop("type"), **mask}
            data = Path(values["data"])
            places = [data / settings["data"], data]
        else:
            method, undersampling = values["method"], values["undersampling"]
            places = [Path(values["input"])] if values.get("input") else []
        chosen = None if undersampling is None else from_dict(Undersampling, undersampling, "undersampling")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"no '{error.args[0]}' in it" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise InputError(f"{path}: damaged ({reason}); run the command that wrote it again") from error
    return Record(path, text, values, rows, str(method), chosen, places, means)


def _places(record: Record, data: Path | None) -> list[Path]:
    """List where scans may be: in --data, or its folder for the protocol, else where they were."""
    if data is None:
        return list(record.places)
    below = record.values["settings"]["data"] if record.path.name == "run.json" else ""
    places = list(dict.fromkeys([data / below, data]))
    if not any(list(_candidates(places, row)) for row in record.rows):
        raise InputError(f"{data}: has none of the files that {record.path} lists; give the folder with the scans")
    return places


def _source(row: Mapping[str, Any]) -> str:
    """Give the name of the file that held a scan; `mrihvae run` tells only the scan's, which is mostly the same."""
    return row.get("source", row["file"])  # type: ignore[no-any-return]


def _candidates(places: Sequence[Path], row: Mapping[str, Any]) -> Iterator[Path]:
    """List files that may hold the scan of a row: one of the name, else ones of other formats that begin like it."""
    name, stem = _source(row), Path(row["file"]).stem
    for place in places:
        path = place / name if place.is_dir() else place
        if path.name == name and (path.is_file() or path.with_name(f"{name}.hdr").is_file()):  # BART's pairs have none
            yield path
        elif place.is_dir():
            others = (
                path
                for path in sorted(place.iterdir())
                if path.suffix in KSPACE_SUFFIXES and stem.startswith(path.stem)
            )
            yield from (path for path in others if kind_of(path) != "fastmri")


def _find(places: Sequence[Path], row: Mapping[str, Any]) -> tuple[Path, Scan] | None:
    """Find the scan of a row, and the file that holds it."""
    found = (
        (path, scan) for path in _candidates(places, row) for scan in open_cached(path) if scan.name == row["file"]
    )
    return next(found, None)


def _reconstruction(record: Record, row: Mapping[str, Any]) -> Path:
    return record.path.parent / "reconstructions" / str(row["file"])


def _volume(record: Record, row: Mapping[str, Any], places: Sequence[Path], limit: int | None) -> ReportVolume:
    """Collect what is known of a volume, with pictures of at most `limit` slices."""
    path = _reconstruction(record, row)
    found = _find(places, row)
    images, uncertain = _read_results(path)
    slices = len(images)
    scores, by_slice, acquisition = row["scores"], {}, str(row.get("acquisition", ""))
    shown, notes = {"reconstruction": images}, [str(warning) for warning in row.get("warnings") or ()]
    if found is None:
        looked = f" (looked in {', '.join(map(str, places))})" if places else ""
        notes.append(f"no zero-filled image, target or error: the scan was not found{looked}; give --data")
    else:
        source, scan = found
        acquisition = acquisition or _text(scan.attributes.get("acquisition", "unknown"))
        expected = (len(scan.kspace), *delivered_shape(scan))
        if images.shape != expected:
            raise InputError(
                f"{path}: 'reconstruction' has shape {images.shape}, but {source} gives {expected}; give --data with "
                "the scans that were reconstructed"
            )
        shown = {
            "zero-filled": reconstruct_volume(scan, _mask(record, row, source, scan), Method("zero-filled")),
            "reconstruction": images,
        }
        challenge = "singlecoil" if scan.kspace.ndim == 3 else "multicoil"
        if scan.target is None:
            notes.append(f"no target, so no error: the scan has no {TARGETS[challenge]}")
        else:
            shown["target"] = scan.target
            try:
                scores = scores or evaluate(source, path, challenge).rows[0].values
                by_slice = slice_scores(scan.target, images)
            except InputError as error:
                notes.append(f"no scores: {error}")
    if uncertain is None:
        notes.append("no uncertainty: the reconstruction has none; 'mrihvae reconstruct --samples' writes it")
    else:
        shown["uncertainty"] = uncertain
    chosen = np.unique(np.linspace(0, slices - 1, min(limit or slices, slices)).round().astype(int)).tolist()
    titles = {"reconstruction": f"reconstruction, {record.method if uncertain is None else 'mean'}"}
    return ReportVolume(
        row["file"], acquisition, slices, row.get("effective_acceleration"), row.get("seconds_per_slice"), scores,
        by_slice, notes=tuple(notes), **panels_of(shown, titles, chosen),
    )  # fmt: skip


def _read_results(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a reconstruction, float (slice, h, w), and its uncertainty if it has one."""
    images = read_dataset(path, "reconstruction")
    if images.dtype.kind != "f" or images.ndim != 3 or 0 in images.shape:
        raise InputError(
            f"{path}: 'reconstruction' is {images.dtype} of shape {images.shape}, not magnitudes (slices, h, w); "
            "reconstruct it again"
        )
    with h5py.File(path, "r") as file:
        uncertain = "uncertainty" in file
    uncertainty = read_dataset(path, "uncertainty") if uncertain else None
    if uncertainty is not None and uncertainty.shape != images.shape:
        shapes = f"{uncertainty.shape}, 'reconstruction' {images.shape}"
        raise InputError(f"{path}: 'uncertainty' has shape {shapes}; reconstruct it again")
    return images, uncertainty


def _mask(record: Record, row: Mapping[str, Any], source: Path, scan: Scan) -> np.ndarray:
    """Find again which bins the reconstruction was made from: those of `record.undersampling`, or the scan's own."""
    reasons, told = [], row.get("effective_acceleration")
    for undersampling in dict.fromkeys((record.undersampling, None)):
        try:
            mask = mask_of(scan, undersampling)
        except (ValueError, TypeError) as error:
            reasons.append(str(error))
            continue
        effective = round(effective_acceleration(mask), 3)
        if told is None or abs(effective - told) <= 0.002:
            return mask
        reasons.append(f"its mask gives R = {effective}, not {told}")
    raise InputError(f"{source}: is not what {record.path} tells of ({reasons[0]}); give --data with what is")


def _means(record: Record, volumes: Sequence[ReportVolume]) -> Mapping[str, Mapping[str, float]]:
    """Give the means of all volumes and of each acquisition: the JSON's own, unless more was scored than it has."""
    if record.means and all(row.get("scores") for row, volume in zip(record.rows, volumes) if volume.scores):
        return record.means
    scored = [
        VolumeScores(volume.file, volume.acquisition, volume.slices, volume.scores)
        for volume in volumes
        if volume.scores is not None
    ]
    return means_of(Evaluation(tuple(scored)))


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    """Take scores from JSON, where null stands for what is not finite: the PSNR of a perfect reconstruction."""
    return {metric: math.inf if scores[metric] is None else float(scores[metric]) for metric in METRICS}


def _about(record: Record, volumes: Sequence[ReportVolume]) -> list[str]:
    """Say in a few words what was reconstructed, and how."""
    settings = record.values.get("settings") or {}
    undersampling = record.undersampling
    weights = record.values.get("weights")
    samples = record.values.get("samples")
    drawn = f", mean of {samples} samples" if samples else ""
    slices = sum(volume.slices for volume in volumes)
    parts = [f"{_count(len(volumes), 'volume')}, {_count(slices, 'slice')}", f"method {record.method}{drawn}"]
    if weights:
        parts.append(f"weights {settings.get('weights') or record.values.get('checkpoint')} ({weights})")
    if undersampling:
        u = undersampling
        parts.append(f"{u.mask_type} mask, {u.acceleration}x, centre fraction {u.center_fraction:.3g}")
    description = settings.get("description")
    return [*([str(description)] if description else []), "; ".join(parts)]


def _command(arguments: argparse.Namespace) -> str:
    """Write the command that makes the report again."""
    words = ["mrihvae", "report", str(arguments.folder)]
    for name in ("data", "output", "title", "slices"):
        if getattr(arguments, name) is not None:
            words += [f"--{name}", str(getattr(arguments, name))]
    return shlex.join(words)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
