"""One file of `mrihvae convert`: what is in it, and how it is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import h5py

from mrihvae.cli import options
from mrihvae.cli.common import reading_of
from mrihvae.data.volume import DATASETS, ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.checks import read_errors
from mrihvae.io.dicom import DICOM_SUFFIX, choose_series, has_dicom, read_dicom
from mrihvae.io.dicom_header import DicomHeader, read_header
from mrihvae.io.formats import NIFTI_SUFFIXES, has_suffix
from mrihvae.io.kspace import open_kspace
from mrihvae.io.like import Reference
from mrihvae.io.mrd.image_files import mrd_image_groups, read_mrd_images
from mrihvae.io.nifti import read_nifti_volume
from mrihvae.io.write_dicom import write_dicom
from mrihvae.io.write_images import has_images, read_volume
from mrihvae.recon.convert import KSPACE_WRITERS, images_of, save

UNCERTAINTY = "uncertainty"


def convert_file(
    source: Path, output: Path, suffix: str, arguments: options.Convert, reference: Reference | None
) -> Iterator[Path]:
    """Convert a file, or a folder of DICOM; return the names written.

    Parameters
    ----------
    suffix : the format
    arguments : whose input, output and format are not read
    reference : of which images take the place, and DICOM patient and study

    Raises
    ------
    InputError
        Not readable, without images where the format or `reference` needs them, or files that cannot be written.
    """
    reading = reading_of(arguments)
    if not reading and (images := _images(source, arguments.dataset, suffix)):
        header = _header(source, arguments.dataset, suffix) if reference is None else reference.header
        _write(output, images, suffix, arguments, reference, header)
        yield output
        return
    scans = open_kspace(source, **reading)
    ending = suffix if output.name.lower().endswith(suffix) else ""
    for scan in scans:
        special = Path(scan.name).stem.removeprefix(source.name.split(".")[0]) if len(scans) > 1 else ""
        path = output.with_name(f"{output.name[: len(output.name) - len(ending)]}{special}{ending}")
        if arguments.images or suffix not in KSPACE_WRITERS:
            header = None if reference is None else reference.header
            _write(path, [images_of(scan)], suffix, arguments, reference, header)
        elif reference is not None or arguments.slice is not None:
            name = "--slice" if reference is None else "--like"
            raise InputError(f"{name}: goes with images; add --images, or leave it out")
        elif lost := save(path, scan, suffix):
            print(f"{path}: {suffix} has no place for {', '.join(lost)}", file=sys.stderr)
        yield path


def _images(source: Path, dataset: str | None, suffix: str) -> list[ImageVolume]:
    """Read the images of a file, with the uncertainty map for DICOM; none of k-space."""
    if source.exists() and has_dicom(source):
        return [read_dicom(source, dataset)]
    if has_suffix(source, NIFTI_SUFFIXES):
        return [read_nifti_volume(source)]
    groups = mrd_image_groups(source)
    if has_images(source) or (dataset is not None and not groups):
        found = [read_volume(source, dataset or DATASETS[0])]
        if dataset is None and suffix == DICOM_SUFFIX and _has_uncertainty(source):
            found.append(read_volume(source, UNCERTAINTY))
        return found
    return [read_mrd_images(source, dataset)] if groups else []


def _has_uncertainty(file: Path) -> bool:
    """Tell whether an HDF5 file has an uncertainty map."""
    with read_errors(file), h5py.File(file, "r") as opened:
        return UNCERTAINTY in opened


def _header(source: Path, dataset: str | None, suffix: str) -> DicomHeader | None:
    """Read patient, study and acquisition, where DICOM becomes DICOM."""
    if suffix != DICOM_SUFFIX or not has_dicom(source):
        return None
    return read_header(choose_series(source, dataset))


def _write(
    path: Path,
    images: list[ImageVolume],
    suffix: str,
    arguments: options.Convert,
    reference: Reference | None,
    header: DicomHeader | None,
) -> None:
    """Write images, at the place of the reference; the slice that was chosen, or all."""
    images = images if reference is None else [reference.place(volume) for volume in images]
    if (k := arguments.slice) is not None:
        if not 0 <= k < len(images[0].pixels):
            raise InputError(f"--slice {k}: must be 0 to {len(images[0].pixels) - 1}")
        images = [volume.single_slice(k) for volume in images]
    if suffix == DICOM_SUFFIX:
        write_dicom(path, images[0], images[1:], header)
    else:
        save(path, images[0], suffix)
