"""Slices of magnitude images to train on, from NIfTI volumes and pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrihvae.errors import InputError, reason
from mrihvae.io.pictures import gray_pixels
from mrihvae.physics.fourier import fft2c, ifft2c, resize_kspace

LARGEST_MATRIX = 448  # NIfTI beyond this is resampled
LARGEST_PICTURE = 256  # JPEG and PNG are often interpolated and coded: only their inner k-space is trusted
THICK = 1.2  # spacing of slices over that of pixels, beyond which a volume is a stack of slices
SMALLEST_OBJECT = 0.03  # slices with less than this fraction of bright pixels are left out
VOLUMES = (".nii", ".nii.gz")
PICTURES = (".png", ".jpg", ".jpeg")


def magnitude_slices(file: Path, smallest_object: float = SMALLEST_OBJECT) -> list[np.ndarray]:
    """Read the slices of a NIfTI volume as acquired (`slice_axis`), or a picture, as magnitude arrays (h, w).

    Raises
    ------
    InputError
        Not readable, or with NaN.
    """
    return list(usable_slices(file, smallest_object).values())


def usable_slices(file: Path, smallest_object: float = SMALLEST_OBJECT) -> dict[int, np.ndarray]:
    """Read slices as `magnitude_slices` does, by their place in the file; those without an object are left out."""
    volume = _read_volume(file) if is_volume(file) else _read_picture(file)
    if not np.isfinite(volume).all():
        raise InputError(f"{file}: holds NaN or infinite values; remove or replace it")
    limit = LARGEST_MATRIX if is_volume(file) else LARGEST_PICTURE
    bright = 0.1 * np.percentile(volume, 99.5)
    kept = [k for k in range(volume.shape[-1]) if (volume[..., k] > bright).mean() >= smallest_object]
    return {k: _shrunk(np.array(volume[..., k], order="C"), limit) for k in kept}


def count_slices(file: Path) -> int:
    """Count the slices of a NIfTI volume, by its header alone; a picture has one.

    Raises
    ------
    InputError
        Not readable, or no volume of magnitudes.
    """
    if not is_volume(file):
        return 1
    source = _header(file)
    if len(source.shape) == 2:
        return 1
    axis = slice_axis(source.header)
    return math.prod(size for k, size in enumerate(source.shape) if k == axis or k > 2)


def is_volume(file: Path) -> bool:
    """Tell from its name whether a file is NIfTI."""
    return file.name.lower().endswith(VOLUMES)


def slice_axis(header: Any) -> int:
    """Find the axis of a NIfTI volume along which its slices lie: 0, 1 or 2.

    It is the axis that the header calls that of slices (`dim_info`), else the one of clearly the greatest spacing,
    else, where voxels are as thick as wide, that of the fewest voxels, for 3D scans are thinnest along partitions.
    """
    named = header.get_dim_info()[2]
    if named is not None:
        return int(named)
    spacing = [float(size) for size in header.get_zooms()[:3]]
    shape = header.get_data_shape()[:3]
    thickest = int(np.argmax(spacing))
    if spacing[thickest] > THICK * sorted(spacing)[1] > 0 and min(shape) > 1:
        return thickest
    return min((2, 0, 1), key=lambda axis: shape[axis])


def _header(file: Path) -> Any:
    """Open a NIfTI file without reading its voxels."""
    import nibabel

    try:
        source: Any = nibabel.load(file)
        kind, shape = source.get_data_dtype(), source.shape
        if len(shape) < 2 or min(shape) < 1 or kind.kind not in "biuf":
            raise ValueError(f"{kind} of shape {shape}, no images of magnitudes")
    except Exception as error:  # the reader raises whatever damage happens to cause
        raise _unreadable(file, error) from error
    return source


def _read_volume(file: Path) -> np.ndarray:
    """Read a NIfTI volume, (h, w, slices)."""
    source = _header(file)
    try:
        volume = np.asanyarray(source.dataobj)
        if volume.ndim > 2:
            volume = np.moveaxis(volume, slice_axis(source.header), 2)
        stack: np.ndarray = volume.reshape(*volume.shape[:2], -1)
        return stack
    except Exception as error:
        raise _unreadable(file, error) from error


def _read_picture(file: Path) -> np.ndarray:
    """Read a picture, (h, w, 1)."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return gray_pixels(picture)[..., None]
    except Exception as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> InputError:
    why = reason(error)
    return InputError(f"{file}: not readable ({why}); remove or replace it")


def _shrunk(magnitude: np.ndarray, limit: int) -> np.ndarray:
    """Resample by cropping k-space to at most `limit` on either axis; smaller arrays keep their type."""
    if max(magnitude.shape) <= limit:
        return magnitude
    shape = (min(magnitude.shape[0], limit), min(magnitude.shape[1], limit))
    kspace = fft2c(torch.from_numpy(magnitude.astype(np.complex64)))
    image = ifft2c(resize_kspace(kspace, shape)).abs()
    return (image * (60000 / image.max().clamp_min(1e-12))).numpy().astype(np.uint16)
