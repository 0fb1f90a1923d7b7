"""Slices of magnitude images to train on, from NIfTI volumes and pictures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from mrihvae.errors import InputError
from mrihvae.io.dicom import has_dicom, list_series, read_frames
from mrihvae.io.formats import NIFTI_SUFFIXES, has_suffix
from mrihvae.io.nifti import open_nifti, read_nifti, slice_axis
from mrihvae.io.pictures import read_picture
from mrihvae.physics.fourier import fft2c, ifft2c, resize_kspace

MAX_NIFTI_MATRIX = 448  # larger slices of NIfTI are resampled
MAX_PICTURE_MATRIX = 256  # JPEG and PNG are often interpolated and coded: only their inner k-space is trusted
MIN_OBJECT_FRACTION = 0.03  # slices with less than this fraction of bright pixels are left out


def magnitude_slices(file: Path, smallest_object: float = MIN_OBJECT_FRACTION) -> list[np.ndarray]:
    """Read the slices of a NIfTI volume as acquired (`slice_axis`), a picture, or a DICOM folder, as magnitudes (h, w).

    Raises
    ------
    InputError
        Not readable, or with NaN.
    """
    return list(usable_slices(file, smallest_object).values())


def usable_slices(file: Path, smallest_object: float = MIN_OBJECT_FRACTION) -> dict[int, np.ndarray]:
    """Read slices as `magnitude_slices` does, by their place in the file; those without an object are left out."""
    if has_dicom(file, recursive=False):
        return _dicom_slices(file, smallest_object)
    if has_suffix(file, NIFTI_SUFFIXES):
        array, header = read_nifti(file)
        stack = np.moveaxis(array, slice_axis(header), 2) if array.ndim > 2 else array
        volume, limit = stack.reshape(*stack.shape[:2], -1), MAX_NIFTI_MATRIX
    else:
        volume, limit = read_picture(file)[..., None], MAX_PICTURE_MATRIX
    if not np.isfinite(volume).all():
        raise InputError(f"{file}: holds NaN or infinite values; remove or replace it")
    return _with_object(list(np.moveaxis(volume, -1, 0)), limit, smallest_object)


def _with_object(slices: list[np.ndarray], limit: int, smallest_object: float, first: int = 0) -> dict[int, np.ndarray]:
    """Keep the slices (h, w) of a volume that have an object in them, by their place from `first` on."""
    bright = 0.1 * np.percentile(np.concatenate([one.ravel() for one in slices]), 99.5)
    kept = [k for k, one in enumerate(slices) if (one > bright).mean() >= smallest_object]
    return {first + k: _shrink(np.array(slices[k], order="C"), limit) for k in kept}


def _dicom_slices(folder: Path, smallest_object: float) -> dict[int, np.ndarray]:
    """Read the slices of all series of a folder, each series as a volume."""
    kept: dict[int, np.ndarray] = {}
    first = 0
    for series in list_series(folder, recursive=False):
        slices = [frame.pixels for file in series.files for frame in read_frames(file)]
        if not all(np.isfinite(one).all() for one in slices):
            raise InputError(f"{folder}: holds NaN or infinite values; remove or replace it")
        kept |= _with_object(slices, MAX_NIFTI_MATRIX, smallest_object, first)
        first += series.count
    return kept


def count_slices(file: Path) -> int:
    """Count the slices of a NIfTI volume or DICOM folder, by headers alone; a picture has one.

    Raises
    ------
    InputError
        Not readable, or no volume of magnitudes.
    """
    if has_dicom(file, recursive=False):
        return sum(series.count for series in list_series(file, recursive=False))
    if not has_suffix(file, NIFTI_SUFFIXES):
        return 1
    image = open_nifti(file)
    axis = slice_axis(image.header) if len(image.shape) > 2 else -1
    return math.prod(size for k, size in enumerate(image.shape) if k == axis or k > 2)


def _shrink(magnitude: np.ndarray, limit: int) -> np.ndarray:
    """Resample by cropping k-space to at most `limit` on either axis; smaller arrays keep their type."""
    if max(magnitude.shape) <= limit:
        return magnitude
    shape = (min(magnitude.shape[0], limit), min(magnitude.shape[1], limit))
    kspace = fft2c(torch.from_numpy(magnitude.astype(np.complex64)))
    image = ifft2c(resize_kspace(kspace, shape)).abs()
    return (image * (60000 / image.max().clamp_min(1e-12))).numpy().astype(np.uint16)
