"""Images to files: NIfTI and DICOM with the scan's geometry, MRD images, fastMRI HDF5, BART and NumPy arrays, PNG."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from mrihvae.data.geometry import GEOMETRY_KEYS, VOXEL_KEY, geometry_of, make_geometry, voxel_of
from mrihvae.data.volume import DATASETS, SAMPLES, UNCERTAINTY, ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.bart import SLICE, write_cfl
from mrihvae.io.checked_hdf5 import open_checked
from mrihvae.io.checks import read_errors
from mrihvae.io.dicom import DICOM_SUFFIX
from mrihvae.io.dicom_header import DicomHeader
from mrihvae.io.formats import list_names
from mrihvae.io.hdf5 import open_hdf5, read_dataset, write_datasets
from mrihvae.io.nifti import write_nifti
from mrihvae.io.npy import write_numpy
from mrihvae.io.pictures import WHITE_PERCENTILE, write_png
from mrihvae.io.write_dicom import write_dicom
from mrihvae.utils.files import atomic_write
from mrihvae.utils.notices import warn

GAP_PIXELS = 2  # pixels between slices of a picture


def has_images(path: Path) -> bool:
    """Return whether a file is HDF5 with images and no k-space, as reconstructions are."""
    try:
        with open_checked(path) as file:
            return "kspace" not in file and any(name in file for name in DATASETS)
    except Exception:  # whatever damage causes
        return False  # of which the reader of k-space says more


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
    with open_hdf5(path) as file:
        attributes = dict(file.attrs.items())
    geometry = geometry_of(path, attributes, len(pixels))
    return ImageVolume(pixels.astype(np.float32, copy=False), geometry, attributes, dataset, voxel_of(attributes))


def read_reconstruction(path: Path) -> ImageVolume:
    """Read the images of an HDF5 file, with uncertainty and posterior samples.

    Other datasets are left out, with a warning.

    Raises
    ------
    InputError
        As `read_volume`, or an uncertainty or samples of another size than the images.
    """
    with read_errors(path), open_checked(path) as file:
        names = list(file)
    main = next((name for name in (*(one for one in DATASETS if one != UNCERTAINTY), *DATASETS) if name in names), None)
    volume = read_volume(path, main or DATASETS[0])
    beside = [name for name in (UNCERTAINTY, SAMPLES) if name in names and name != main]
    with read_errors(path):
        arrays = {name: read_dataset(path, name).astype(np.float32, copy=False) for name in beside}
    for name, array in arrays.items():
        if array.ndim not in (3, 4) or (array.shape[0], *array.shape[-2:]) != volume.pixels.shape:
            raise InputError(
                f"{path}: '{name}' has shape {array.shape}, and '{main}' {volume.pixels.shape}; store it again"
            )
    others = [name for name in names if name not in (main, *beside)]
    if others:
        warn(f"{path.name}: its datasets {list_names(others)} are left out; --dataset chooses one")
    return replace(volume, uncertainty=arrays.get(UNCERTAINTY), samples=arrays.get(SAMPLES))


def write_mrd_images(path: Path, volume: ImageVolume) -> None:
    """Write an HDF5 file of ISMRMRD images, one of float32 for each slice, in group `dataset`, series `image_1`.

    The uncertainty is series `image_2`. Images at an unknown position are put at the origin, with a warning.

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

    voxel = volume.voxel or (1.0, 1.0, 1.0)
    geometry = volume.geometry
    if geometry is None:
        warn("the position of the images is unknown: MRD puts them at the origin, as axial slices")
        places = np.arange(len(volume.pixels))[:, None] * [0.0, 0.0, voxel[2]]
        geometry = make_geometry(places, np.zeros(3), np.zeros(3), np.zeros(3), voxel)
    nothing = np.empty((0, 0, 0), np.complex64)
    with atomic_write(path) as temporary, ismrmrd.Dataset(str(temporary), "dataset") as file:
        for number, one in enumerate(filter(None, (volume, volume.uncertainty_map())), start=1):
            kind = str(one.attributes.get("method", one.dataset)) if number == 1 else one.dataset
            role = ["Image"] if number == 1 else ["Image", "Uncertainty"]
            series = ImageSeries(number, f"mrihvae {kind}", role, ["MRIHVAE", kind])
            for k, image in enumerate(one.pixels):
                slice_ = Slice(
                    Key(0, 0, 0, 0, 0, k), nothing, np.empty(0, bool), None, (image.shape[0], image.shape[1]),
                    geometry.single_slice(k), ismrmrd.AcquisitionHeader(), None,
                )  # fmt: skip
                file.append_image(f"image_{number}", series.image(image, slice_, one.dataset))


def write_hdf5(path: Path, volume: ImageVolume) -> None:
    """Write an HDF5 file as `mrihvae reconstruct` does, with uncertainty and posterior samples."""
    attributes = {**volume.attributes, **({} if volume.voxel is None else {VOXEL_KEY: volume.voxel})}
    attributes |= {} if volume.geometry is None else volume.geometry.attributes()
    beside = {UNCERTAINTY: volume.uncertainty, SAMPLES: volume.samples}
    arrays = {name: array for name, array in beside.items() if array is not None}
    write_datasets(path, {volume.dataset: volume.pixels, **arrays}, attributes)


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

# of attributes, those that a format has a place for; the geometry's are known apart from these
HELD_ATTRIBUTES = {".mrd": {"method"}, ".dcm": {"method", "acquisition", "patient_id"}}
COMPLEX_SUFFIXES = (".npy", ".cfl", ".hdr")


def write_volume(path: Path, volume: ImageVolume, suffix: str, header: DicomHeader | None = None) -> None:
    """Write a volume with its uncertainty; what the format has no place for is left out, with a warning.

    HDF5, MRD images and a DICOM folder have the uncertainty within, other formats in a file of their own,
    `uncertainty_path`. Complex images become magnitudes but for NumPy and BART.

    Parameters
    ----------
    suffix : one of `WRITERS`
    header : of DICOM, patient and study

    Raises
    ------
    InputError
        The file cannot be written, or as the writer of the format has it.
    """
    if np.iscomplexobj(volume.pixels) and suffix not in COMPLEX_SUFFIXES:
        warn(f"the images are complex: {suffix} stores their magnitude")
        volume = replace(volume, pixels=np.abs(volume.pixels))
    if lost := _unsupported(volume, suffix):
        warn(f"{suffix} cannot store {', '.join(lost)}")
    deviation = volume.uncertainty_map()
    if suffix == DICOM_SUFFIX:
        write_dicom(path, volume, [] if deviation is None else [deviation], header)
        return
    WRITERS[suffix](path, volume)
    if deviation is not None and (beside := uncertainty_path(path, suffix)) is not None:
        WRITERS[suffix](beside, deviation)


def uncertainty_path(path: Path, suffix: str) -> Path | None:
    """Return the file beside NAME.SUFFIX that has its uncertainty, NAME_uncertainty.SUFFIX; None where it is within."""
    if suffix in (".h5", ".mrd", DICOM_SUFFIX):
        return None
    ending = path.name[len(path.name) - len(suffix) :] if path.name.lower().endswith(suffix) else ""
    return path.with_name(f"{path.name[: len(path.name) - len(ending)]}_{UNCERTAINTY}{ending}")


def _unsupported(volume: ImageVolume, suffix: str) -> list[str]:
    """List what a format cannot hold of a volume."""
    if suffix == ".h5":
        return []
    lost = ["posterior samples"] if volume.samples is not None else []
    if suffix in (".cfl", ".hdr", ".png"):
        lost += ["geometry"] if volume.geometry is not None else []
        lost += ["the voxel size"] if volume.geometry is None and volume.voxel is not None else []
    if suffix != ".npy":
        known = {*GEOMETRY_KEYS, *HELD_ATTRIBUTES.get(suffix, set())}
        names = [name for name, value in volume.attributes.items() if name not in known and str(value) != "unknown"]
        lost += [f"attributes ({', '.join(sorted(names))})"] if names else []
    return lost
