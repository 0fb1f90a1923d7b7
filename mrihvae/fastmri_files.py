"""fastMRI HDF5 files: one volume a file, read with every check a user's file deserves."""

from __future__ import annotations

import errno
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from mrihvae.errors import InputError
from mrihvae.files import replacing
from mrihvae.geometry import Geometry, geometry_of
from mrihvae.stored_kspace import StoredKspace, opened_dataset

if TYPE_CHECKING:
    from mrihvae.calibration import Calibration

TARGETS = {"singlecoil": "reconstruction_esc", "multicoil": "reconstruction_rss"}
MAPS_KEY, NOISE_KEY = "sensitivity_maps", "noise"  # beyond fastMRI's schema, for several coils
KSpace = np.ndarray | StoredKspace
ROOM_BESIDE = 2**16  # bytes that a file takes beside its arrays
ISMRMRD = "{http://www.ismrm.org/ISMRMRD}"


@dataclass(frozen=True)
class Scan:
    """One volume.

    Attributes
    ----------
    name : file name without folder; fastMRI seeds masks with it
    kspace : complex64 (slice, H, W) or (slice, coil, H, W), centred; W is the phase-encoding axis; an array, or what
        reads it slice by slice, of which `numpy.asarray` makes one
    mask : bool (W,) of measured lines, or (H, W) of measured bins, or None where the file has none
    target : float32 (slice, h, w), the reference reconstruction, or None
    padding : first and one past the last line that the scanner encoded; the others are empty
    matrix : (h, w) of the image to deliver, from the header's reconSpace, or None
    attributes : the file's HDF5 attributes
    maps : complex (slice or 1, coil, H, W), sensitivities of the coils, where the file has `sensitivity_maps`
    noise_scan : complex (coil, sample), where the file has `noise`
    geometry : where the slices lie in the patient, or None where the file does not tell
    calibration : of each slice, what its maps are estimated from; None for its own k-space
    voxel : size along H, W and across slices, mm, for scans without geometry, where the file tells it
    """

    name: str
    kspace: KSpace
    mask: np.ndarray | None = None
    target: np.ndarray | None = None
    padding: tuple[int, int] | None = None
    matrix: tuple[int, int] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    maps: np.ndarray | None = None
    noise_scan: np.ndarray | None = None
    geometry: Geometry | None = None
    calibration: Sequence[Calibration] | None = None
    voxel: tuple[float, float, float] | None = None

    @property
    def coils(self) -> int:
        """Number of coils."""
        return self.kspace.shape[1] if self.kspace.ndim == 4 else 1

    def one(self, k: int) -> Scan:
        """Take slice k as a scan of its own."""
        target = None if self.target is None else self.target[k : k + 1]
        attributes = dict(self.attributes)
        if len(np.atleast_1d(attributes.get("noise", 0))) == len(self.kspace) > 1:  # simulated scans: one a slice
            attributes["noise"] = attributes["noise"][k : k + 1]
        maps = self.maps if self.maps is None or len(self.maps) == 1 else self.maps[k : k + 1]
        calibration = None if self.calibration is None else self.calibration[k : k + 1]
        geometry = None if self.geometry is None else self.geometry.one(k)
        return replace(
            self, kspace=self.kspace[k : k + 1], target=target, attributes=attributes, maps=maps, geometry=geometry,
            calibration=calibration,
        )  # fmt: skip


def list_files(path: Path, what: str = "fastMRI HDF5") -> list[Path]:
    """List the .h5 files of a folder, or the one file.

    Raises
    ------
    InputError
        Not there, or no .h5 file in it.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix == ".h5" and not p.name.startswith("."))
        if not files:
            raise InputError(f"{path}: no .h5 file in this folder; give a {what} file or a folder of them")
        return files
    if not path.is_file():
        raise InputError(f"{path}: not there; give a {what} file or a folder of them")
    return [path]


def read_dataset(path: Path, key: str) -> np.ndarray:
    """Read one dataset of an HDF5 file.

    Raises
    ------
    InputError
        File or key missing, truncated or not HDF5, or NaN in it.
    """
    with opened_dataset(path, key) as dataset:
        array = np.asarray(dataset[()])
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        raise InputError(f"{path}: dataset '{key}' holds NaN or infinite values; export the scan again")
    return array


def read_scan(path: Path, lazy: bool = False) -> Scan:
    """Read a fastMRI file.

    Parameters
    ----------
    path : the file
    lazy : look through k-space once, slice by slice, but leave it in the file (`mrihvae.stored_kspace.StoredKspace`)

    Raises
    ------
    InputError
        File missing, truncated, not HDF5, without k-space, with NaN, of a wrong type or shape, or with a mask that
        does not fit or measures nothing.
    """
    kspace = StoredKspace(path)
    samples: KSpace = kspace if lazy else read_dataset(path, "kspace")
    if lazy:
        kspace.check_finite()
    if kspace.stored.kind != "c":
        raise InputError(f"{path}: 'kspace' is {kspace.stored}, not complex; store it as complex64")
    if kspace.ndim not in (3, 4) or min(kspace.shape) < 1 or min(kspace.shape[-2:]) < 2:
        raise InputError(
            f"{path}: 'kspace' has shape {kspace.shape}; it must be (slices, H, W) or (slices, coils, H, W)"
        )
    with h5py.File(path, "r") as file:
        keys = set(file)
        attributes = dict(file.attrs.items())
    width = kspace.shape[-1]
    mask = _read_mask(path, kspace.shape[-2:]) if "mask" in keys else None
    key = TARGETS["singlecoil" if kspace.ndim == 3 else "multicoil"]
    target = read_dataset(path, key) if key in keys else None
    if target is not None and (target.dtype.kind != "f" or target.ndim != 3 or len(target) != len(kspace)):
        raise InputError(
            f"{path}: '{key}' is {target.dtype} and has shape {target.shape}, not (slices, h, w) with {len(kspace)} "
            "slices; store float32 magnitudes"
        )
    height = kspace.shape[-2]
    if target is not None and (target.shape[-2] > height or target.shape[-1] > width):
        raise InputError(
            f"{path}: '{key}' is {target.shape[-2]} x {target.shape[-1]}, larger than k-space, {height} x {width}; "
            "store the image that this k-space gives"
        )
    encoding = _read_encoding(path) if "ismrmrd_header" in keys else None
    padding, matrix = _padding(encoding, width), _matrix(encoding)
    if isinstance(samples, np.ndarray):
        samples = samples.astype(np.complex64, copy=False)
    maps, noise_scan = _read_coil_data(path, keys, kspace.shape) if kspace.ndim == 4 else (None, None)
    geometry = geometry_of(path, attributes, len(kspace))
    return Scan(
        path.name, samples, mask, target, padding, matrix, attributes, maps, noise_scan, geometry,
        voxel=_voxel(encoding, kspace.shape[-2:]),
    )  # fmt: skip


def count_coils(path: Path) -> int | None:
    """Read the number of coils from the head of a file; None if it has no k-space that could tell."""
    try:
        with h5py.File(path, "r") as file:
            shape = file["kspace"].shape
    except (OSError, KeyError, RuntimeError, AttributeError):
        return None  # `read_scan` says what is wrong
    return int(shape[1]) if len(shape) == 4 else 1


def write_reconstruction(
    path: Path,
    images: np.ndarray,
    attributes: Mapping[str, Any] | None = None,
    further: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write float32 (slice, h, w) to dataset `reconstruction`, where fastMRI's tooling looks for it; all or nothing.

    `attributes` say how the images were made, `further` are datasets beside them, such as `uncertainty`; fastMRI's
    tooling reads neither.
    """
    arrays = {"reconstruction": images, **(further or {})}
    write_datasets(path, {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}, attributes)


def write_datasets(path: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any] | None = None) -> None:
    """Write arrays and attributes to an HDF5 file; all or nothing."""
    with new_file(path, sum(array.nbytes for array in arrays.values())) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        file.attrs.update(attributes or {})


@contextmanager
def new_file(path: Path, size: int) -> Iterator[h5py.File]:
    """Open an HDF5 file for `size` bytes of data; it is in its place once it is whole."""
    with replacing(path) as temporary:
        _try_room(temporary, size + ROOM_BESIDE)
        file = h5py.File(temporary, "w")
        try:
            yield file
        finally:
            try:
                file.close()
            except RuntimeError as error:  # how h5py tells of a full disk when it closes the file
                raise OSError(_first_line(error)) from error


def _try_room(path: Path, size: int) -> None:
    """Raise OSError if a file of so many bytes cannot be: HDF5 may crash where it finds that out while it closes."""
    if hasattr(os, "posix_fallocate"):
        with path.open("wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # by which a file system says that it cannot
                    raise


def _read_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a mask of W lines, or of (H, W) bins."""
    mask = read_dataset(path, "mask").astype(bool)
    if mask.size == shape[-1] == mask.shape[-1]:
        mask = mask.reshape(-1)
    elif mask.shape == (shape[-2], 1):
        mask = np.broadcast_to(mask, shape).copy()
    elif mask.shape != shape:
        raise InputError(
            f"{path}: 'mask' has shape {mask.shape} but k-space has {shape[-1]} lines and slices of {shape}; store one "
            "entry per line, or per bin"
        )
    if not mask.any():
        raise InputError(f"{path}: 'mask' measures nothing at all; there is nothing to reconstruct from")
    return mask


def _read_coil_data(path: Path, keys: set[str], shape: tuple[int, ...]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Read sensitivity maps and noise scan, where a file has them."""
    maps = read_dataset(path, MAPS_KEY) if MAPS_KEY in keys else None
    if maps is not None:
        maps = maps[None] if maps.ndim == 3 else maps
        if maps.dtype.kind != "c" or maps.shape[1:] != shape[1:] or maps.shape[0] not in (1, shape[0]):
            raise InputError(
                f"{path}: '{MAPS_KEY}' is {maps.dtype} of shape {maps.shape}, and k-space has shape {shape}; store "
                "complex (slices or 1, coils, H, W)"
            )
    noise = None
    if NOISE_KEY in keys:
        from mrihvae.coils import read_noise_scan

        noise = read_noise_scan(path, shape[1]).numpy()
    return maps, noise


def _read_encoding(path: Path) -> ElementTree.Element | None:
    """Read the first encoding of the ISMRMRD header; None if the header is not one."""
    try:
        with h5py.File(path, "r") as file:
            header = file["ismrmrd_header"][()]
        return ElementTree.fromstring(header).find(f"{ISMRMRD}encoding")
    except (ElementTree.ParseError, TypeError, ValueError, OSError):
        return None


def _number(encoding: ElementTree.Element, *path: str) -> int:
    return int(encoding.findtext("/".join(f"{ISMRMRD}{tag}" for tag in path), ""))


def _padding(encoding: ElementTree.Element | None, width: int) -> tuple[int, int] | None:
    """Find which lines the scanner encoded, as fastMRI's SliceDataset computes it from the ISMRMRD header."""
    if encoding is None:
        return None
    try:
        columns = _number(encoding, "encodedSpace", "matrixSize", "y")
        centre = _number(encoding, "encodingLimits", "kspace_encoding_step_1", "center")
        last = _number(encoding, "encodingLimits", "kspace_encoding_step_1", "maximum")
    except ValueError:
        return None
    first = columns // 2 - centre
    if columns != width or not 0 <= first < first + last + 1 <= width:
        return None
    return first, first + last + 1


def _matrix(encoding: ElementTree.Element | None) -> tuple[int, int] | None:
    """Read the size of the image to deliver."""
    if encoding is None:
        return None
    try:
        size = _number(encoding, "reconSpace", "matrixSize", "x"), _number(encoding, "reconSpace", "matrixSize", "y")
    except ValueError:
        return None
    return size if min(size) > 0 else None


def _voxel(encoding: ElementTree.Element | None, shape: tuple[int, ...]) -> tuple[float, float, float] | None:
    """Compute the size of a voxel from the field of view of k-space; None where the header does not tell it."""
    if encoding is None:
        return None
    path = f"{ISMRMRD}encodedSpace/{ISMRMRD}fieldOfView_mm/{ISMRMRD}"
    try:
        x, y, z = (float(encoding.findtext(path + axis, "")) for axis in "xyz")
    except ValueError:
        return None
    return (x / shape[0], y / shape[1], z) if min(x, y, z) > 0 and max(x, y, z) < np.inf else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
