"""Images of any format as volumes: what a file or folder holds, with the uncertainty beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.bart import BART_SUFFIXES, COIL, SLICE, read_cfl
from mrihvae.io.dicom import has_dicom, read_dicom
from mrihvae.io.formats import NIFTI_SUFFIXES, has_suffix
from mrihvae.io.mrd.image_files import NamedVolume, mrd_image_groups, read_mrd_volumes
from mrihvae.io.nifti import read_nifti_volume
from mrihvae.io.npy import holds_images, read_numpy_images
from mrihvae.io.write_images import has_images, read_reconstruction, read_volume, uncertainty_path
from mrihvae.utils.notices import warn


def read_volumes(
    path: Path, series: str | None = None, contrast: int | None = None, repetition: int | None = None
) -> list[NamedVolume]:
    """Read the images of a file: HDF5, MRD images, NIfTI, DICOM, NumPy or BART.

    NAME_uncertainty.nii.gz beside NAME.nii.gz is its uncertainty; so are those of NumPy and BART. BART's arrays are
    images if they have real numbers and no coils.

    Parameters
    ----------
    series : a dataset of HDF5, of MRD images and DICOM a series
    contrast, repetition : of MRD images

    Returns
    -------
    volumes; several of MRD images alone; none of a file with k-space, or of a path without a file

    Raises
    ------
    InputError
        As the readers of the formats; a contrast or repetition of images that have none.
    """
    if mrd_image_groups(path):
        return read_mrd_volumes(path, series, contrast, repetition)
    volume = _read(path, series)
    if volume is None:
        return []
    for name, number in (("contrast", contrast), ("repetition", repetition)):
        if number is not None:
            raise InputError(
                f"--{name} {number}: only applies to ISMRMRD files; {path} has images without such numbers"
            )
    return [NamedVolume("", volume)]


def _read(path: Path, series: str | None) -> ImageVolume | None:
    """Read the volume of a file, or of a DICOM series; None of k-space."""
    if path.exists() and has_dicom(path):
        return read_dicom(path, series)
    for suffix in (*sorted(NIFTI_SUFFIXES, key=len, reverse=True), ".npy", *BART_SUFFIXES):
        if has_suffix(path, (suffix,)) and path.is_file():
            volume = _read_plain(path, suffix)
            if volume is not None and series is not None:
                raise InputError(f"--series {series}: only applies to HDF5 and DICOM; {path} has one volume")
            beside = uncertainty_path(path, suffix)
            if volume is None or beside is None or not beside.is_file():
                return volume
            deviation = _read_plain(beside, suffix)
            if deviation is None or deviation.pixels.shape != volume.pixels.shape:
                warn(f"{beside.name}: does not have the size of {path.name}, and is left out")
                return volume
            return replace(volume, uncertainty=deviation.pixels)
    if series is not None and path.is_file():
        return read_volume(path, series)
    return read_reconstruction(path) if has_images(path) else None


def _read_plain(path: Path, suffix: str) -> ImageVolume | None:
    """Read a file of one array; None of k-space."""
    if suffix in NIFTI_SUFFIXES:
        return read_nifti_volume(path)
    if suffix == ".npy":
        return read_numpy_images(path) if holds_images(path) else None
    return _read_bart(path)


def _read_bart(path: Path) -> ImageVolume | None:
    """Read BART's array of images, READ along h, PHS1 along w, and SLICE; None of k-space."""
    array = read_cfl(path)
    whole = array.reshape(*array.shape, *[1] * (SLICE + 1 - array.ndim))
    further = [size for axis, size in enumerate(whole.shape) if axis not in (0, 1, SLICE)]
    if whole.shape[COIL] > 1 or max(further) > 1 or whole.imag.any():
        return None
    pixels = whole.real.reshape(*whole.shape[:2], whole.shape[SLICE]).transpose(2, 0, 1)
    return ImageVolume(np.ascontiguousarray(pixels, np.float32))
