"""MATLAB's .mat files: k-space (H, W, coil, slice) of version 7.3, which is HDF5, and of version 5."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.arrays import ArrayInfo, choose_kspace, find_kspace
from mrihvae.io.checks import make_scan, read_errors
from mrihvae.io.contained import check_in_worker
from mrihvae.io.fastmri import fit_mask
from mrihvae.io.hdf5 import open_hdf5, read_dataset
from mrihvae.io.stored_kspace import StoredKspace
from mrihvae.utils.memory import check_expansion, check_size
from mrihvae.utils.notices import warn
from mrihvae.utils.text import printable

MATLAB_SUFFIX = ".mat"
AXES = "(H, W, coil, slice), where coil is 1 of one coil, (H, W, coil) or (H, W)"
DIMENSIONS = (2, 3, 4)
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
USER_BLOCK = 512  # bytes before HDF5 in files of version 7.3
Found = tuple[Scan, np.ndarray | None, str, int]


def is_matlab(path: Path, start: bytes) -> bool:
    """Return whether a file, which begins with these bytes, is MATLAB's, or HDF5 in its order of axes."""
    return start.startswith(b"MATLAB") or path.suffix.lower() == MATLAB_SUFFIX


def read_matlab(path: Path, lazy: bool = False, key: str | None = None, brief: bool = False) -> Scan:
    """Read k-space of a .mat file, and `mask` where it has one, of W or (H, W) numbers.

    Parameters
    ----------
    path : the file
    lazy : leave k-space of version 7.3 in the file, as `mrihvae.io.fastmri.read_scan`
    key : name of k-space; None for "kspace", or for the only array that can be it
    brief : as of `mrihvae.io.fastmri.read_scan`; version 5 is read at once

    Raises
    ------
    InputError
        Damaged, of version 4, without k-space, or k-space of a wrong type or shape.
    """
    with path.open("rb") as file:
        modern = HDF5_SIGNATURE in file.read(USER_BLOCK + len(HDF5_SIGNATURE))
    scan, mask, name, axes = _read_modern(path, lazy, key, brief) if modern else _read_early(path, key)
    if axes == 3:
        warn(f"'{name}' has three axes: these are (H, W, coil) of one slice; slices of one coil are (H, W, 1, slice)")
    shape = (scan.kspace.shape[-2], scan.kspace.shape[-1])
    return replace(scan, mask=None if mask is None else fit_mask(path, mask, shape))


def _read_modern(path: Path, lazy: bool, key: str | None, brief: bool) -> Found:
    """Read a file of version 7.3: the scan without mask, the mask, name and number of axes of k-space."""
    name = find_kspace(path, key, DIMENSIONS)
    kspace = StoredKspace(path, name, columns=True)
    shape = kspace.info.shape[::-1]
    _check(path, name, kspace.info, shape)
    if not brief:
        kspace.check_finite()
    with open_hdf5(path) as file:
        masked = "mask" in file
    mask = read_dataset(path, "mask").T if masked else None
    samples = kspace if lazy or brief else np.asarray(kspace)
    return Scan(f"{path.stem}.h5", samples, attributes={"acquisition": "unknown"}), mask, name, len(shape)


def _read_early(path: Path, key: str | None) -> Found:
    """Read a file of version 5, as `_read_modern`."""
    from scipy.io import loadmat, whosmat

    with (
        read_errors(path, "not readable as MATLAB's version 5", "save it again, with -v7 or -v7.3"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of variables that are not arrays
        check_in_worker(path)  # scipy crashes on some damaged files
        stored = path.stat().st_size
        for name, shape, _ in whosmat(path):
            size = math.prod(shape) * np.dtype(np.complex64).itemsize
            check_size(f"'{printable(name)}'", size)
            check_expansion(f"'{printable(name)}'", size, stored)
        content = loadmat(path)
    arrays = {
        name: array
        for name, array in content.items()
        if isinstance(array, np.ndarray) and array.dtype.kind in "biufc" and not name.startswith("__")
    }
    known = {name: ArrayInfo(array.shape, array.dtype) for name, array in arrays.items()}
    name = choose_kspace(path, known, key, DIMENSIONS)
    if name not in arrays:
        raise InputError(f"{path}: has no array '{name}' (it has {', '.join(arrays) or 'none'}); check the file")
    array = arrays[name]
    _check(path, name, known[name], array.shape)
    whole = array.reshape(*array.shape, *[1] * (4 - array.ndim))
    return make_scan(path, whole.transpose(3, 2, 0, 1), f"{path.stem}.h5"), arrays.get("mask"), name, array.ndim


def _check(path: Path, name: str, info: ArrayInfo, shape: tuple[int, ...]) -> None:
    """Raise InputError if an array, whose shape is that in MATLAB, is no k-space."""
    if not info.is_complex:
        raise InputError(f"{path}: '{name}' is {info.dtype}, not complex; store complex numbers")
    if len(shape) not in DIMENSIONS or min(shape) < 1 or min(shape[:2]) < 2:
        raise InputError(f"{path}: '{name}' has shape {shape} in MATLAB; it must be {AXES}")
    if len(shape) == 4 and max(shape[:2]) < min(shape[2:]):
        raise InputError(
            f"{path}: '{name}' has shape {shape} in MATLAB, which looks like (slice, coil, H, W); it must be {AXES}: "
            "permute it"
        )
