"""One file of `mrihvae convert`: what is in it, under which names, and how it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrihvae.cli import options
from mrihvae.cli.common import reading_of
from mrihvae.data.scan import Scan
from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.bart import BART_SUFFIXES, is_header, name_pair
from mrihvae.io.dicom import DICOM_SUFFIX, choose_series, has_dicom
from mrihvae.io.dicom_header import DicomHeader, read_header
from mrihvae.io.kspace import open_kspace
from mrihvae.io.like import Reference
from mrihvae.io.mrd.image_files import NamedVolume, describe_volumes
from mrihvae.io.npy import is_index
from mrihvae.io.volumes import read_volumes
from mrihvae.io.write_images import uncertainty_path, write_volume
from mrihvae.recon.convert import KSPACE_WRITERS, images_of, save
from mrihvae.utils.notices import warn
from mrihvae.utils.text import counted


@dataclass(frozen=True)
class Job:
    """A file to convert.

    Attributes
    ----------
    source : the file, or a folder of DICOM
    output : file to write, or folder of DICOM; of several scans, what differs is added to its name
    suffix : the format
    folder : where several volumes of images are written; None where OUT is a file, which holds one
    """

    source: Path
    output: Path
    suffix: str
    folder: Path | None = None


def convert_file(job: Job, arguments: options.Convert, reference: Reference | None) -> Iterator[Path]:
    """Convert a file, or a folder of DICOM; return the names written.

    Parameters
    ----------
    arguments : whose input, output and format are not read; with `resume` volumes and scans that are there are left out
    reference : of which images take the place, and DICOM patient and study

    Raises
    ------
    InputError
        Not readable, several volumes for one file, without images where the format or `reference` needs them, outputs
        that are there already, or cannot be written.
    """
    named = bool(reading_of(arguments))  # k-space of a name, or of another form: no images
    chosen = (arguments.dataset, arguments.contrast, arguments.repetition)
    volumes = [] if named else read_volumes(job.source, *chosen)
    if volumes:
        header = _header(job, arguments.dataset) if reference is None else reference.header
        paths = _paths_of_volumes(job, volumes)
        images = [_chosen(one.images, arguments, reference) for one in volumes]
        beside = [None if one.uncertainty is None else uncertainty_path(path, job.suffix)
                  for path, one in zip(paths, images, strict=True)]  # fmt: skip
        left = find_left([(path, *filter(None, [further])) for path, further in zip(paths, beside)], job, arguments)
        for path, one in zip(paths, images, strict=True):
            if path in left:
                write_volume(path, one, job.suffix, header)
                yield path
        return
    scans = _chosen_scans(job.source, arguments)
    paths = [_path_of_scan(job, scan, len(scans)) for scan in scans]
    left = find_left([(path,) for path in paths], job, arguments)
    for scan, path in zip(scans, paths, strict=True):
        if path not in left:
            continue
        if arguments.images or job.suffix not in KSPACE_WRITERS:
            header = None if reference is None else reference.header
            write_volume(path, _chosen(images_of(scan), arguments, reference), job.suffix, header)
        elif reference is not None or arguments.slice is not None:
            name = "--slice" if reference is None else "--like"
            raise InputError(f"{name}: only applies to images; add --images, or leave it out")
        elif lost := save(path, scan, job.suffix):
            warn(f"{job.suffix} cannot store {', '.join(lost)}")
        yield path


def find_left(outputs: Sequence[tuple[Path, ...]], job: Job, arguments: options.Convert) -> set[Path]:
    """Return which outputs are to be written, so that nothing is lost by that.

    Parameters
    ----------
    outputs : a file, and the one of its uncertainty where that is beside it
    arguments : `overwrite`: all are; `resume`: those that are not whole yet; else all, and none may be there

    Raises
    ------
    InputError
        The input itself, or, without these options, files that are there.
    """
    left = set()
    for paths in outputs:
        files = [file for path in paths for file in _files_of(path, job.suffix)]
        if any(file.exists() and job.source.exists() and file.samefile(job.source) for file in files):
            raise InputError(f"{paths[0]}: is also the input; choose another name")
        there = [file for file in files if file.is_file() or (file.is_dir() and any(file.iterdir()))]
        if there and not arguments.overwrite and not arguments.resume:
            raise InputError(f"{there[0]}: is already there; choose another name, or add --overwrite or --resume")
        if arguments.overwrite or len(there) < len(files):
            left.add(paths[0])
    return left


def _files_of(path: Path, suffix: str) -> list[Path]:
    """List the files of an output; of a pair whose data are not there, not the index that a killed process left."""
    if suffix not in (".npy", *BART_SUFFIXES):
        return [path]
    data, index = (path, path.with_suffix(".json")) if suffix == ".npy" else name_pair(path)
    cut_short = not data.exists() and (is_index if suffix == ".npy" else is_header)(index)
    return [data] if cut_short else [data, index]


def _paths_of_volumes(job: Job, volumes: Sequence[NamedVolume]) -> list[Path]:
    """Name the files of volumes by what differs between them."""
    if len(volumes) == 1:
        return [job.output]
    if job.folder is None:
        raise InputError(
            f"{job.source}: {describe_volumes(volumes)}; choose one with --series, --contrast or --repetition, or give "
            "a folder as OUT, and --format, for all"
        )
    stem = job.source.name.removesuffix(".gz").rpartition(".")[0] or job.source.name
    ending = "" if job.suffix == DICOM_SUFFIX else job.suffix
    return [job.folder / f"{stem}_{one.name}{ending}" for one in volumes]


def _path_of_scan(job: Job, scan: Scan, count: int) -> Path:
    """Name the file of a scan, with what differs where there are several."""
    special = Path(scan.name).stem.removeprefix(job.source.name.split(".")[0]) if count > 1 else ""
    ending = job.suffix if job.output.name.lower().endswith(job.suffix) else ""
    return job.output.with_name(f"{job.output.name[: len(job.output.name) - len(ending)]}{special}{ending}")


def _chosen_scans(source: Path, arguments: options.Convert) -> list[Scan]:
    """Read the scans of a file, of one contrast or repetition where that is chosen."""
    scans = open_kspace(source, **reading_of(arguments))
    asked = {"contrast": arguments.contrast, "repetition": arguments.repetition}
    wanted = {name: number for name, number in asked.items() if number is not None}
    kept = [scan for scan in scans if all(scan.attributes.get(name, 0) == number for name, number in wanted.items())]
    if not kept:
        known = ", ".join(f"{Path(scan.name).stem} ({counted(len(scan.kspace), 'slice')})" for scan in scans)
        chosen = ", ".join(f"{name} {number}" for name, number in wanted.items())
        raise InputError(f"{source}: has no scan of {chosen}; it has {known}")
    return kept


def _header(job: Job, series: str | None) -> DicomHeader | None:
    """Read patient, study and acquisition, where DICOM becomes DICOM."""
    if job.suffix != DICOM_SUFFIX or not has_dicom(job.source):
        return None
    return read_header(choose_series(job.source, series))


def _chosen(volume: ImageVolume, arguments: options.Convert, reference: Reference | None) -> ImageVolume:
    """Return images at the place of the reference; the slice that was chosen, or all."""
    volume = volume if reference is None else reference.place(volume)
    k = arguments.slice
    if k is None:
        return volume
    if not 0 <= k < len(volume.pixels):
        raise InputError(f"--slice {k}: must be 0 to {len(volume.pixels) - 1}")
    return volume.single_slice(k)
