"""fastMRI HDF5 files: one volume a file, read with every check a user's file deserves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from mrihvae.coils.checks import _check_noise
from mrihvae.data.geometry import geometry_of
from mrihvae.data.scan import TARGETS, KSpace, Scan
from mrihvae.errors import InputError
from mrihvae.io.hdf5 import read_dataset, write_datasets
from mrihvae.io.mrd.header import Encoding, parse_header
from mrihvae.io.stored_kspace import StoredKspace

MAPS_KEY, NOISE_KEY = "sensitivity_maps", "noise"  # beyond fastMRI's schema, for several coils


def read_scan(path: Path, lazy: bool = False) -> Scan:
    """Read a fastMRI file.

    Parameters
    ----------
    path : the file
    lazy : check k-space once, slice by slice, but leave it in the file (`mrihvae.io.stored_kspace.StoredKspace`)

    Raises
    ------
    InputError
        File missing, truncated, not HDF5, without k-space, with NaN, of a wrong type or shape, or with a mask that
        does not fit or is empty.
    """
    head = read_head(path)
    height, width = head.shape[-2:]
    samples: KSpace
    if lazy:
        samples = StoredKspace(path)
        samples.check_finite()
    else:
        samples = read_dataset(path, "kspace").astype(np.complex64, copy=False)
    mask = _read_mask(path, (height, width)) if head.masked else None
    key = TARGETS["singlecoil" if len(head.shape) == 3 else "multicoil"]
    target = read_dataset(path, key) if key in head.keys else None
    if target is not None and (target.dtype.kind != "f" or target.ndim != 3 or len(target) != head.shape[0]):
        raise InputError(
            f"{path}: '{key}' is {target.dtype} and has shape {target.shape}, not (slices, h, w) with {head.shape[0]} "
            "slices; store float32 magnitudes"
        )
    if target is not None and (target.shape[-2] > height or target.shape[-1] > width):
        raise InputError(
            f"{path}: '{key}' is {target.shape[-2]} x {target.shape[-1]}, larger than k-space, {height} x {width}; "
            "store the image that this k-space gives"
        )
    encoding = _read_encoding(path) if "ismrmrd_header" in head.keys else None
    matrix = None if encoding is None or encoding.recon is None else encoding.recon.matrix[:2]
    maps, noise_scan = _read_coil_data(path, head) if len(head.shape) == 4 else (None, None)
    with h5py.File(path, "r") as file:
        attributes = dict(file.attrs.items())
    geometry = geometry_of(path, attributes, head.shape[0])
    return Scan(
        path.name, samples, mask, target, _padding(encoding, width), matrix, attributes, maps, noise_scan, geometry,
        voxel=_voxel(encoding, (height, width)),
    )  # fmt: skip


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


def _read_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a mask of W lines, or of (H, W) bins."""
    stored = read_dataset(path, "mask")
    if len(values := np.unique(stored[stored != 0])) > 1:
        raise InputError(
            f"{path}: 'mask' holds {values[0]:g} and {values[-1]:g} beside 0; store 1 where a sample was acquired"
        )
    mask = stored.astype(bool)
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


def _read_coil_data(path: Path, head: FastMRIHead) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Read sensitivity maps and noise scan, where a file has them."""
    maps, shape = read_dataset(path, MAPS_KEY) if MAPS_KEY in head.keys else None, head.shape
    if maps is not None:
        maps = maps[None] if maps.ndim == 3 else maps
        if maps.dtype.kind != "c" or maps.shape[1:] != shape[1:] or maps.shape[0] not in (1, shape[0]):
            raise InputError(
                f"{path}: '{MAPS_KEY}' is {maps.dtype} of shape {maps.shape}, and k-space has shape {shape}; store "
                "complex (slices or 1, coils, H, W)"
            )
    return maps, read_noise_scan(path, shape[1]).numpy() if NOISE_KEY in head.keys else None


def _read_encoding(path: Path) -> Encoding | None:
    """Read the first encoding of the ISMRMRD header; None if the header is not one."""
    try:
        with h5py.File(path, "r") as file:
            header = file["ismrmrd_header"][()]
        return parse_header(_decode(header), str(path)).encodings[0]
    except (InputError, OSError):
        return None


def _decode(text: Any) -> str:
    """Decode a text; letters that are not UTF-8 matter to nothing here."""
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


def read_noise_scan(path: Path, coils: int) -> Tensor:
    """Read a noise scan, dataset `noise` of an HDF5 file, for data of `coils` coils: complex64 (coils, samples).

    Raises
    ------
    InputError
        As `mrihvae.io.hdf5.read_dataset`; not complex, another shape or number of coils, fewer than 10 samples
        a coil, or a coil of zeros.
    """
    array = read_dataset(path, NOISE_KEY)
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
    keys : names of its datasets
    acquisition : the attribute of that name, or "unknown"
    """

    path: Path
    shape: tuple[int, ...]
    keys: frozenset[str]
    acquisition: str = "unknown"

    @property
    def coils(self) -> int:
        """Number of coils."""
        return self.shape[1] if len(self.shape) == 4 else 1

    @property
    def masked(self) -> bool:
        """Whether it has a mask, so that it is undersampled."""
        return "mask" in self.keys


def read_head(path: Path) -> FastMRIHead:
    """Read the head of a fastMRI file.

    Raises
    ------
    InputError
        File missing, truncated, not HDF5, without k-space, or k-space of a wrong type or shape.
    """
    kspace = StoredKspace(path)
    if kspace.stored.kind != "c":
        raise InputError(f"{path}: 'kspace' is {kspace.stored}, not complex; store it as complex64")
    if kspace.ndim not in (3, 4) or min(kspace.shape) < 1 or min(kspace.shape[-2:]) < 2:
        raise InputError(
            f"{path}: 'kspace' has shape {kspace.shape}; it must be (slices, H, W) or (slices, coils, H, W)"
        )
    with h5py.File(path, "r") as file:
        return FastMRIHead(path, kspace.shape, frozenset(file), _decode(file.attrs.get("acquisition", "unknown")))
