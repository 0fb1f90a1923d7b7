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

from mrihvae.coils.checks import _checked_noise
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
    lazy : look through k-space once, slice by slice, but leave it in the file (`mrihvae.io.stored_kspace.StoredKspace`)

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
    padding, matrix = _padding(encoding, width), None if encoding is None else encoding.recon.matrix[:2]
    if isinstance(samples, np.ndarray):
        samples = samples.astype(np.complex64, copy=False)
    maps, noise_scan = _read_coil_data(path, keys, kspace.shape) if kspace.ndim == 4 else (None, None)
    geometry = geometry_of(path, attributes, len(kspace))
    return Scan(
        path.name, samples, mask, target, padding, matrix, attributes, maps, noise_scan, geometry,
        voxel=_voxel(encoding, kspace.shape[-2:]),
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
        from mrihvae.io.fastmri import read_noise_scan

        noise = read_noise_scan(path, shape[1]).numpy()
    return maps, noise


def _read_encoding(path: Path) -> Encoding | None:
    """Read the first encoding of the ISMRMRD header; None if the header is not one."""
    try:
        with h5py.File(path, "r") as file:
            header = file["ismrmrd_header"][()]
        return parse_header(_as_text(header), str(path)).encodings[0]
    except (InputError, OSError):
        return None


def _as_text(header: Any) -> str:
    """Decode a header; letters of names that are not UTF-8 matter to nothing here."""
    return header.decode(errors="replace") if isinstance(header, bytes) else str(header)


def _padding(encoding: Encoding | None, width: int) -> tuple[int, int] | None:
    """Find which lines the scanner encoded, as fastMRI's SliceDataset computes it from the ISMRMRD header."""
    limit = None if encoding is None else encoding.limits.get("kspace_encoding_step_1")
    if encoding is None or limit is None or encoding.encoded.matrix[1] != width:
        return None
    first = width // 2 - limit.center
    return (first, first + limit.maximum + 1) if 0 <= first < first + limit.maximum + 1 <= width else None


def _voxel(encoding: Encoding | None, shape: tuple[int, ...]) -> tuple[float, float, float] | None:
    """Compute the size of a voxel from the field of view of k-space; None where the header does not tell it."""
    if encoding is None or min(encoding.encoded.fov) <= 0:
        return None
    x, y, z = encoding.encoded.fov
    return x / shape[0], y / shape[1], z


def read_noise_scan(path: Path, coils: int) -> Tensor:
    """Read a noise scan, dataset `noise` of an HDF5 file, for data of so many coils: complex64 (coils, samples).

    Raises
    ------
    InputError
        As `mrihvae.io.hdf5.read_dataset`; not complex, another shape or number of coils, fewer than 10 samples
        a coil, or a coil of zeros.
    """
    from mrihvae.io.hdf5 import read_dataset

    array = read_dataset(path, "noise")
    if array.dtype.kind != "c":
        raise InputError(f"{path}: 'noise' is {array.dtype}, not complex; store it as complex64")
    if array.ndim != 2 or len(array) != coils:
        hint = "transpose it" if array.ndim == 2 and array.shape[1] == coils else "give the noise scan of these data"
        raise InputError(f"{path}: 'noise' has shape {array.shape}, not (coils, samples) with {coils} coils; {hint}")
    return _checked_noise(torch.from_numpy(array), f"{path}: 'noise'").to(torch.complex64)


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
        """Tell whether it has a mask, so that it is undersampled."""
        return "mask" in self.keys


def read_head(path: Path) -> FastMRIHead:
    """Read the head of a fastMRI file.

    Raises
    ------
    InputError
        As `read_scan`, but for what only the numbers in the file show.
    """
    try:
        with h5py.File(path, "r") as file:
            kspace, keys = file.get("kspace"), frozenset(file)
            named = file.attrs.get("acquisition", "unknown")
            if isinstance(kspace, h5py.Dataset) and kspace.dtype.kind == "c" and kspace.ndim in (3, 4):
                shape = tuple(int(size) for size in kspace.shape)
                if min(shape) >= 1 and min(shape[-2:]) >= 2:
                    return FastMRIHead(path, shape, keys, named.decode() if isinstance(named, bytes) else str(named))
    except (OSError, RuntimeError, AttributeError):
        pass
    read_scan(path)  # says what is wrong with it
    raise InputError(f"{path}: not readable as k-space of (slices, H, W) or (slices, coils, H, W); copy it again")
