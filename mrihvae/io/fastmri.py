"""fastMRI HDF5 files: one volume a file, read with every check a user's file deserves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from mrihvae.data.geometry import geometry_of
from mrihvae.data.scan import TARGETS, KSpace, Scan
from mrihvae.errors import InputError
from mrihvae.io.arrays import KSPACE_KEY, find_kspace
from mrihvae.io.checked_hdf5 import OutsideError, open_checked
from mrihvae.io.checks import read_errors
from mrihvae.io.hdf5 import open_dataset, open_hdf5, read_dataset, write_datasets
from mrihvae.io.mrd.header import Encoding, ScanHeader, parse_header
from mrihvae.io.stored_kspace import StoredKspace

if TYPE_CHECKING:
    from torch import Tensor

MAPS_KEY, NOISE_KEY = "sensitivity_maps", "noise"  # beyond fastMRI's schema, for several coils


def read_scan(path: Path | str, lazy: bool = False, key: str | None = None, brief: bool = False) -> Scan:
    """Read a fastMRI file.

    Parameters
    ----------
    path : the file
    lazy : check k-space once, slice by slice, but leave it in the file (`mrihvae.io.stored_kspace.StoredKspace`)
    key : name of k-space where it is not "kspace", such as "ksp" or "group/ksp"; what belongs to it is searched beside
        it, then at the top of the file
    brief : leave k-space in the file, unchecked, and out what else is large, so that a scan can be described at once

    Raises
    ------
    InputError
        File missing, truncated, not HDF5, without k-space, with NaN, of a wrong type or shape, or with a mask that
        does not fit or is empty.
    """
    path = Path(path)
    head = read_head(path, key)
    height, width = head.shape[-2:]
    stored = StoredKspace(path, head.key)
    if not brief:
        stored.check_finite()
    samples: KSpace = stored if lazy or brief else np.asarray(stored)
    mask = fit_mask(path, read_dataset(path, head.paths["mask"]), (height, width)) if head.masked else None
    target = None if brief else _read_target(path, head)
    header = _read_header(path, head.paths["ismrmrd_header"]) if "ismrmrd_header" in head.keys else None
    encoding = None if header is None else header.encodings[0]
    matrix = None if encoding is None or encoding.recon is None else encoding.recon.matrix[:2]
    if brief and (delivered := _target_shape(path, head)):
        matrix = delivered
    maps, noise_scan = _read_coil_data(path, head) if len(head.shape) == 4 and not brief else (None, None)
    attributes = _read_attributes(path)
    geometry = geometry_of(path, attributes, head.shape[0])
    return Scan(
        path.name, samples, mask, target, _padding(encoding, width), matrix,
        {**({} if header is None else header.attributes()), **attributes}, maps, noise_scan, geometry,
        voxel=_voxel(encoding, (height, width)),
    )  # fmt: skip


def write_reconstruction(
    path: Path | str,
    images: np.ndarray,
    attributes: Mapping[str, Any] | None = None,
    further: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write float32 (slice, h, w) to dataset `reconstruction`, where fastMRI's tooling looks for it; all or nothing.

    `attributes` say how the images were made, `further` are datasets beside them, such as `uncertainty`; fastMRI's
    tooling reads neither.
    """
    path = Path(path)
    arrays = {"reconstruction": images, **(further or {})}
    write_datasets(path, {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}, attributes)


def fit_mask(path: Path, mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a file's mask as bool (W,), or (H, W) of single samples.

    Parameters
    ----------
    path : the file, for errors
    mask : W numbers, with axes of 1 around them as fastMRI's batches have them, such as (1, 1, W, 1); H numbers
        (H, 1); or (H, W)
    shape : (H, W) of k-space

    Raises
    ------
    InputError
        Another shape, no numbers or several beside 0, or nothing that was acquired.
    """
    height, width = shape
    if mask.dtype.kind not in "biuf":
        raise InputError(f"{path}: 'mask' is {mask.dtype}, not numbers; store 1 where k-space was acquired, else 0")
    if len(values := np.unique(mask[mask != 0])) > 1:
        raise InputError(
            f"{path}: 'mask' holds {values[0]:g} and {values[-1]:g} besides 0; store 1 where a sample was acquired"
        )
    whole, mask = mask.shape, mask.astype(bool)
    by_line = mask.size == width and (mask.shape[-1] == width or (mask.ndim > 2 and mask.shape[-2:] == (width, 1)))
    if mask.ndim > 2 and not by_line and mask.size in (height, height * width):
        mask = mask.reshape(mask.shape[-2:]) if mask.shape[-2] == height else mask
    if by_line:
        mask = mask.reshape(-1)
    elif mask.shape == (height, 1):
        mask = np.broadcast_to(mask, shape).copy()
    elif mask.shape != shape:
        raise InputError(
            f"{path}: 'mask' has shape {whole} but k-space has {width} lines and slices of {shape}; store one "
            "entry per line, or per sample"
        )
    if not mask.any():
        raise InputError(f"{path}: 'mask' marks no sample as acquired; there is nothing to reconstruct from")
    return mask


def _target_shape(path: Path, head: FastMRIHead) -> tuple[int, int] | None:
    """Return (h, w) of the reference images, without reading them; None where a file has none."""
    if head.target_key not in head.keys:
        return None
    with open_dataset(path, head.paths[head.target_key]) as dataset:
        return (dataset.shape[-2], dataset.shape[-1]) if dataset.ndim == 3 else None


def _read_target(path: Path, head: FastMRIHead) -> np.ndarray | None:
    """Read the reference images of the challenge; None where a file has none."""
    key = head.target_key
    if key not in head.keys:
        return None
    target, (slices, height, width) = read_dataset(path, head.paths[key]), (head.shape[0], *head.shape[-2:])
    if target.dtype.kind != "f" or target.ndim != 3 or len(target) != slices:
        raise InputError(
            f"{path}: '{key}' is {target.dtype} and has shape {target.shape}, not (slices, h, w) with {slices} "
            "slices; store float32 magnitudes"
        )
    if target.shape[-2] > height or target.shape[-1] > width:
        raise InputError(
            f"{path}: '{key}' is {target.shape[-2]} x {target.shape[-1]}, larger than k-space, {height} x {width}; "
            "store the image that this k-space gives"
        )
    return target


def _read_attributes(path: Path) -> dict[str, Any]:
    """Read the attributes of a file; texts of any type become str."""
    with read_errors(path, "attributes are damaged", "copy it again"), open_checked(path) as file:
        found = {name: value for name, value in file.attrs.items() if not isinstance(value, h5py.Empty)}
    return {name: _decode(value) if _is_text(value) else value for name, value in found.items()}


def _is_text(value: Any) -> bool:
    """Return whether a value is a text, or an array of a single one."""
    if isinstance(value, np.ndarray):
        return value.size == 1 and isinstance(value.ravel()[0], bytes | str)
    return isinstance(value, bytes | str)


def _read_coil_data(path: Path, head: FastMRIHead) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Read sensitivity maps and noise scan, where a file has them."""
    maps, shape = read_dataset(path, head.paths[MAPS_KEY]) if MAPS_KEY in head.keys else None, head.shape
    if maps is not None:
        maps = maps[None] if maps.ndim == 3 else maps
        if maps.dtype.kind != "c" or maps.shape[1:] != shape[1:] or maps.shape[0] not in (1, shape[0]):
            raise InputError(
                f"{path}: '{MAPS_KEY}' is {maps.dtype} of shape {maps.shape}, and k-space has shape {shape}; store "
                "complex (slices or 1, coils, H, W)"
            )
    return maps, read_noise_scan(path, shape[1], head.paths[NOISE_KEY]).numpy() if NOISE_KEY in head.keys else None


def _read_header(path: Path, key: str = "ismrmrd_header") -> ScanHeader | None:
    """Read the ISMRMRD header of a fastMRI file; None if that is not one."""
    try:
        with open_dataset(path, key) as dataset:
            header = dataset[()]
        return parse_header(_decode(header), str(path))
    except OutsideError:
        raise
    except InputError:
        return None


def _decode(text: Any) -> str:
    """Decode a text, or an array of one, or of its bytes; letters that are not UTF-8 matter to nothing here."""
    if isinstance(text, np.ndarray):
        text = text.tobytes() if text.dtype == np.uint8 else next(iter(text.ravel()[:1].tolist()), "")
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def _padding(encoding: Encoding | None, width: int) -> tuple[int, int] | None:
    """Return which lines the scanner encoded, as fastMRI's SliceDataset computes it from the ISMRMRD header."""
    limit = None if encoding is None else encoding.limits.get("kspace_encoding_step_1")
    if encoding is None or limit is None or encoding.encoded.matrix[1] != width:
        return None
    first = width // 2 - limit.center
    return (first, first + limit.maximum + 1) if 0 <= first < first + limit.maximum + 1 <= width else None


def _voxel(encoding: Encoding | None, shape: tuple[int, ...]) -> tuple[float, float, float] | None:
    """Compute the size of a voxel from the field of view of k-space; None where the header does not have it."""
    if encoding is None or min(encoding.encoded.fov) <= 0:
        return None
    x, y, z = encoding.encoded.fov
    return x / shape[0], y / shape[1], z


def read_noise_scan(path: Path, coils: int, key: str = NOISE_KEY) -> Tensor:
    """Read a noise scan, dataset `noise` of an HDF5 file, for data of `coils` coils: complex64 (coils, samples).

    Raises
    ------
    InputError
        As `mrihvae.io.hdf5.read_dataset`; not complex, another shape or number of coils, fewer than 10 samples per
        coil, or a coil of zeros.
    """
    import torch

    from mrihvae.coils.checks import _check_noise

    array = read_dataset(path, key)
    if array.dtype.kind != "c":
        raise InputError(f"{path}: '{NOISE_KEY}' is {array.dtype}, not complex; store it as complex64")
    if array.ndim != 2 or len(array) != coils:
        hint = "transpose it" if array.ndim == 2 and array.shape[1] == coils else "give the noise scan of these data"
        raise InputError(
            f"{path}: '{NOISE_KEY}' has shape {array.shape}, not (coils, samples) with {coils} coils; {hint}"
        )
    return _check_noise(torch.from_numpy(array), f"{path}: '{NOISE_KEY}'").to(torch.complex64)


@dataclass(frozen=True)
class FastMRIHead:
    """What a fastMRI file says of itself, without reading k-space.

    Attributes
    ----------
    path : the file
    shape : of k-space, (slices, H, W) or (slices, coils, H, W)
    paths : where its datasets are, by name: beside k-space, or at the top of the file
    acquisition : the attribute of that name, or "unknown"
    key : name of k-space
    """

    path: Path
    shape: tuple[int, ...]
    paths: Mapping[str, str]
    acquisition: str = "unknown"
    key: str = KSPACE_KEY

    @property
    def keys(self) -> frozenset[str]:
        """Names of its datasets."""
        return frozenset(self.paths)

    @property
    def coils(self) -> int:
        """Number of coils."""
        return self.shape[1] if len(self.shape) == 4 else 1

    @property
    def target_key(self) -> str:
        """Name of the reference images, of the challenge that the number of axes tells."""
        return TARGETS["singlecoil" if len(self.shape) == 3 else "multicoil"]

    @property
    def masked(self) -> bool:
        """Whether it has a mask, so that it is undersampled."""
        return "mask" in self.keys


def read_head(path: Path, key: str | None = None) -> FastMRIHead:
    """Read the head of a fastMRI file.

    Parameters
    ----------
    key : name of k-space; None for "kspace", or for the only array that can be it

    Raises
    ------
    InputError
        File missing, truncated, not HDF5, without k-space, or k-space of a wrong type or shape.
    """
    key = find_kspace(path, key)
    kspace = StoredKspace(path, key)
    if not kspace.is_complex:
        raise InputError(f"{path}: '{key}' is {kspace.stored}, not complex; store it as complex64")
    if kspace.ndim not in (3, 4) or min(kspace.shape) < 1 or min(kspace.shape[-2:]) < 2:
        raise InputError(
            f"{path}: '{key}' has shape {kspace.shape}; it must be (slices, H, W) or (slices, coils, H, W)"
        )
    group = key.rpartition("/")[0]
    with open_hdf5(path) as file:
        paths = {name: name for name in file}
        paths |= {name: f"{group}/{name}" for name in file[group]} if group else {}
        acquisition = file.attrs.get("acquisition", "unknown")
    return FastMRIHead(path, kspace.shape, paths, _decode(acquisition), key)
