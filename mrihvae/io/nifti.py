"""NIfTI files: real numbers, where their voxels lie, and along which axis they are slices."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from mrihvae.data.geometry import geometry_of_affine
from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.checks import read_errors
from mrihvae.utils.files import atomic_write
from mrihvae.utils.memory import check_expansion, check_size, check_slice

NIFTI2_BYTES = 540  # of the header of version 2; that of version 1 has 348
LARGEST_EXTENSION = 2**26  # bytes before the voxels
THICK_SLICE_RATIO = 1.2  # spacing of slices over that of pixels, beyond which a volume is a stack of slices


def open_nifti(file: Path) -> Any:
    """Open a file without reading its voxels, as an image of nibabel.

    Raises
    ------
    InputError
        Not readable, complex, in color, empty, or of a single axis.
    """
    import nibabel

    with read_errors(file):
        _check_extensions(file)
        image: Any = nibabel.load(file)
        dtype, shape = image.get_data_dtype(), image.shape
    if dtype.kind not in "biuf":
        kind = "complex" if dtype.kind == "c" else "in color"
        raise InputError(f"{file}: is {kind} ({dtype}); give real numbers, such as magnitudes")
    if len(shape) < 2 or 0 in shape:
        raise InputError(f"{file}: has shape {shape}; give (H, W), (H, W, slices) or (H, W, slices, volumes)")
    numbers, stored = math.prod(shape), file.stat().st_size
    check_expansion(f"{file}: its array", numbers * dtype.itemsize, stored)
    check_size(f"{file}: its array", numbers * max(dtype.itemsize, np.dtype(np.float32).itemsize))
    axis = slice_axis(image.header) if len(shape) > 2 else 2
    check_slice(f"{file}:", *[size for k, size in enumerate(shape[:3]) if k != axis])
    return image


def _check_extensions(file: Path) -> None:
    """Check what a compressed file has between header and voxels, which nibabel reads at once.

    Raises
    ------
    InputError
        More than `LARGEST_EXTENSION` bytes.
    """
    if not file.name.lower().endswith(".gz"):
        return  # of which no more is read than the file holds
    with gzip.open(file) as opened:
        start = opened.read(NIFTI2_BYTES)
        if len(start) < NIFTI2_BYTES:
            return  # few voxels, or none
        order = "<" if start[2:4] == bytes(2) else ">"  # of the header's length, its first number
        length = struct.unpack_from(f"{order}i", start)[0]
        kind, offset = ("q", 168) if length == NIFTI2_BYTES else ("f", 108)
        end, place = struct.unpack_from(f"{order}{kind}", start, offset)[0], length + 4
        size = 0
        while place + 16 <= end <= LARGEST_EXTENSION:
            opened.seek(place)
            size = struct.unpack(f"{order}i", opened.read(4).rjust(4, b"\0"))[0]
            if not 8 <= size <= LARGEST_EXTENSION:
                break
            place += size
    if end > LARGEST_EXTENSION or size > LARGEST_EXTENSION:
        raise InputError(f"{file}: claims more than {LARGEST_EXTENSION} bytes before its voxels; copy it again")


def read_nifti(file: Path) -> tuple[np.ndarray, Any]:
    """Read a file: its array, in its own unit and at least (H, W), and its header; errors as of `open_nifti`."""
    image = open_nifti(file)
    with read_errors(file):
        return np.asanyarray(image.dataobj), image.header


def slice_axis(header: Any) -> int:
    """Find the axis along which the slices of a volume lie: 0, 1 or 2.

    It is the axis that the header calls that of slices (`dim_info`), else the one of clearly the greatest spacing,
    else, where voxels are as thick as wide, that of the fewest voxels, for 3D scans are thinnest along partitions.
    """
    named = header.get_dim_info()[2]
    if named is not None:
        return int(named)
    spacing = [float(size) for size in header.get_zooms()[:3]]
    shape = header.get_data_shape()[:3]
    thickest = int(np.argmax(spacing))
    if spacing[thickest] > THICK_SLICE_RATIO * sorted(spacing)[1] > 0 and min(shape) > 1:
        return thickest
    return min((2, 0, 1), key=lambda axis: shape[axis])


def write_nifti(path: Path, volume: ImageVolume) -> None:
    """Write a volume; the affine is the scan's, in scanner coordinates, or unknown without geometry.

    Raises
    ------
    InputError
        Slices that do not lie in an even row, or the file cannot be written.
    """
    import nibabel

    pixels, geometry = volume.pixels.transpose(1, 2, 0), volume.geometry
    try:
        affine = None if geometry is None else geometry.affine((pixels.shape[0], pixels.shape[1]))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    image = nibabel.Nifti1Image(pixels, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_dim_info(freq=0, phase=1, slice=2)  # so that `slice_axis` finds the same slices again
    if affine is None and volume.voxel is not None:
        image.header.set_zooms(volume.voxel)
    if affine is not None:
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
    _write(path, image)


def write_nifti_like(path: Path, array: np.ndarray, header: Any, factor: int = 1) -> None:
    """Write float32 with the header of another file; both of its transforms are scaled, and keep their codes.

    Parameters
    ----------
    path : file to write
    array : real (H, W, ...)
    header : of the file that it was made of
    factor : how many times finer voxels are along H and W; the first voxel's center stays where it was

    Raises
    ------
    InputError
        The file cannot be written.
    """
    import nibabel

    header = header.copy()
    header.set_data_dtype(np.float32)
    sform, qform = header.get_sform(coded=True), header.get_qform(coded=True)
    finer = np.diag([1 / factor, 1 / factor, 1, 1])
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    image = kind(array.astype(np.float32), header.get_best_affine() @ finer, header)
    if factor > 1 and (sform[1] or qform[1]):
        image.set_qform(qform[0] @ finer if qform[1] else None, int(qform[1]))
        image.set_sform(sform[0] @ finer if sform[1] else None, int(sform[1]))
    _write(path, image)


def _write(path: Path, image: Any) -> None:
    """Write an image of nibabel, compressed if the name says so; all or nothing, and the same bytes every time."""
    content = image.to_bytes()
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress(content, 6, mtime=0) if path.name.lower().endswith(".gz") else content)


def read_nifti_volume(file: Path) -> ImageVolume:
    """Read a file of one volume, slices along `slice_axis`, with its geometry where its transform has a code.

    Raises
    ------
    InputError
        As `open_nifti`, several volumes, or axes that are no right angles.
    """
    array, header = read_nifti(file)
    spatial = array.shape[:3]
    if array.size != np.prod(spatial):
        raise InputError(f"{file}: has {array.shape[3:]} volumes; extract one of them")
    with read_errors(file):
        axis = slice_axis(header) if len(spatial) > 2 else 2
        axes = [axis, *(one for one in range(3) if one != axis)]
        whole = array.reshape(*spatial, *(1,) * (3 - len(spatial)))
        pixels = np.ascontiguousarray(whole.transpose(axes), np.float32)
        zooms = [abs(float(size)) or 1.0 for size in (*header.get_zooms()[:3], 1.0)[:3]]
        if header["sform_code"] or header["qform_code"]:
            height, width = pixels.shape[1:]
            order = [axes[1], axes[2], axes[0], 3]
            geometry = geometry_of_affine(header.get_best_affine()[:, order], (height, width), len(pixels))
            return ImageVolume(pixels, geometry)
    return ImageVolume(pixels, voxel=(zooms[axes[1]], zooms[axes[2]], zooms[axes[0]]))
