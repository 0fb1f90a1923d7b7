"""Images to files: NIfTI and DICOM with the scan's geometry, MRD images, fastMRI HDF5, BART and NumPy arrays, PNG."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np

from mrihvae.data.geometry import VOXEL_KEY, geometry_of, make_geometry, voxel_of
from mrihvae.data.volume import DATASETS, ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.bart import SLICE, write_cfl
from mrihvae.io.hdf5 import read_dataset, write_datasets
from mrihvae.io.nifti import write_nifti
from mrihvae.io.npy import write_numpy
from mrihvae.io.pictures import WHITE_PERCENTILE, write_png
from mrihvae.io.write_dicom import write_dicom
from mrihvae.utils.files import atomic_write

GAP_PIXELS = 2  # pixels between slices of a picture


def has_images(path: Path) -> bool:
    """Return whether a file is HDF5 with images and no k-space, as reconstructions are."""
    try:
        with h5py.File(path, "r") as file:
            return "kspace" not in file and any(name in file for name in DATASETS)
    except (OSError, RuntimeError):
        return False


def read_volume(path: Path, dataset: str) -> ImageVolume:
    """Read images of an HDF5 file.

    Raises
    ------
    InputError
        As `mrihvae.io.hdf5.read_dataset`, another shape, or a geometry that does not fit.
    """
    pixels = read_dataset(path, dataset)
    if pixels.ndim != 3 or pixels.dtype.kind != "f" or not pixels.size:
        raise InputError(f"{path}: '{dataset}' is {pixels.dtype} of shape {pixels.shape}, not images (slices, h, w)")
    with h5py.File(path, "r") as file:
        attributes = dict(file.attrs.items())
    geometry = geometry_of(path, attributes, len(pixels))
    return ImageVolume(pixels.astype(np.float32, copy=False), geometry, attributes, dataset, voxel_of(attributes))


def write_mrd_images(path: Path, volume: ImageVolume) -> None:
    """Write an HDF5 file of ISMRMRD images, one of float32 for each slice, in group `dataset`, series `image_1`.

    Raises
    ------
    InputError
        The package `ismrmrd` is missing, or the file cannot be written.
    """
    from mrihvae.io.mrd.extra import require_ismrmrd

    require_ismrmrd(f"{path.name}: MRD")
    import ismrmrd

    from mrihvae.io.mrd.images import ImageSeries
    from mrihvae.io.mrd.sorter import Key, Slice

    pixels, voxel = volume.pixels, volume.voxel or (1.0, 1.0, 1.0)
    geometry = volume.geometry or make_geometry(
        np.arange(len(pixels))[:, None] * [0.0, 0.0, voxel[2]], np.zeros(3), np.zeros(3), np.zeros(3), voxel
    )
    method = str(volume.attributes.get("method", volume.dataset))
    series = ImageSeries(1, f"mrihvae {method}", ["Image"], ["MRIHVAE", method])
    nothing = np.empty((0, 0, 0), np.complex64)
    with atomic_write(path) as temporary, ismrmrd.Dataset(str(temporary), "dataset") as file:
        for k, image in enumerate(pixels):
            place = Slice(
                Key(0, 0, 0, 0, 0, k), nothing, np.empty(0, bool), None, (image.shape[0], image.shape[1]),
                geometry.single_slice(k), ismrmrd.AcquisitionHeader(), None,
            )  # fmt: skip
            file.append_image("image_1", series.image(image, place, volume.dataset))


def write_hdf5(path: Path, volume: ImageVolume) -> None:
    """Write an HDF5 file as `mrihvae reconstruct` does."""
    attributes = {**volume.attributes, **({} if volume.voxel is None else {VOXEL_KEY: volume.voxel})}
    attributes |= {} if volume.geometry is None else volume.geometry.attributes()
    write_datasets(path, {volume.dataset: volume.pixels}, attributes)


def write_bart(path: Path, volume: ImageVolume) -> None:
    """Write BART's array: READ along h, PHS1 along w, and SLICE."""
    pixels = volume.pixels.transpose(1, 2, 0)
    write_cfl(path, pixels.reshape(*pixels.shape[:2], *[1] * (SLICE - 2), pixels.shape[2]))


def write_picture(path: Path, volume: ImageVolume) -> None:
    """Write a PNG of 8 bits: all slices side by side, in rows, white at the 99.5th percentile of the volume."""
    pixels = volume.pixels
    count, height, width = pixels.shape
    white = float(np.percentile(pixels, WHITE_PERCENTILE)) or 1.0
    gray = np.rint(255 * np.clip(pixels / white, 0, 1)).astype(np.uint8)
    columns = min(count, math.ceil(math.sqrt(count * height / width)))
    rows = math.ceil(count / columns)
    page = np.zeros((rows * (height + GAP_PIXELS) - GAP_PIXELS, columns * (width + GAP_PIXELS) - GAP_PIXELS), np.uint8)
    for k, image in enumerate(gray):
        top, left = k // columns * (height + GAP_PIXELS), k % columns * (width + GAP_PIXELS)
        page[top : top + height, left : left + width] = image
    write_png(path, page)


WRITERS = {
    ".h5": write_hdf5,
    ".nii": write_nifti,
    ".nii.gz": write_nifti,
    ".mrd": write_mrd_images,
    ".cfl": write_bart,
    ".hdr": write_bart,
    ".npy": write_numpy,
    ".png": write_picture,
    ".dcm": write_dicom,
}
