"""Which array of a file is k-space, and its numbers as complex64, however they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mrihvae.errors import InputError
from mrihvae.io.hdf5 import open_hdf5
from mrihvae.utils.notices import warn

KSPACE_KEY = "kspace"
OTHER_KEYS = frozenset({"sensitivity_maps", "noise"})  # complex, too, and not k-space
PARTS = ({"r", "i"}, {"real", "imag"}, {"re", "im"})  # names of real and imaginary part in a compound type
MAX_LISTED = 12  # arrays that an error lists


@dataclass(frozen=True)
class ArrayInfo:
    """Shape and type of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def is_complex(self) -> bool:
        """Whether its numbers are complex, or pairs of a real and an imaginary part."""
        return self.dtype.kind == "c" or has_parts(self.dtype)

    @property
    def has_pairs(self) -> bool:
        """Whether its last axis is that of real and imaginary part."""
        return self.dtype.kind == "f" and len(self.shape) in (4, 5) and self.shape[-1] == 2


def has_parts(dtype: np.dtype[Any]) -> bool:
    """Return whether a type is a pair of numbers with the names of real and imaginary part."""
    names = dtype.names or ()
    numbers = all(dtype[name].kind in "iuf" and not dtype[name].shape for name in names)
    return {name.lower() for name in names} in PARTS and numbers


def as_complex64(array: np.ndarray) -> np.ndarray:
    """Return complex numbers, pairs of them, or a last axis of real and imaginary part, as complex64.

    Of any byte order and precision. Numbers beyond single precision become infinite, which readers refuse.
    """
    with np.errstate(over="ignore"):
        if array.dtype.names:
            first, second = sorted(array.dtype.names, key=lambda name: name.lower() not in ("r", "real", "re"))
            parts = (array[first], array[second])
        elif array.dtype.kind == "c":
            return array.astype(np.complex64, copy=False)
        else:
            parts = (array[..., 0], array[..., 1])
        found = np.empty(parts[0].shape, np.complex64)
        found.real, found.imag = parts
    return found


def find_kspace(path: Path, key: str | None, dimensions: tuple[int, ...] = (3, 4)) -> str:
    """Find the array of an HDF5 file that is k-space, as `choose_kspace` does; in groups it is named by its path.

    Raises
    ------
    InputError
        As `mrihvae.io.hdf5.open_hdf5` and `choose_kspace`.
    """
    found: dict[str, ArrayInfo] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape and not name.startswith("#"):  # "#": MATLAB's own
            found[name] = ArrayInfo(tuple(item.shape), item.dtype)

    with open_hdf5(path) as file:
        if key is None and isinstance(file.get(KSPACE_KEY), h5py.Dataset):
            return KSPACE_KEY
        file.visititems(add)
    return choose_kspace(path, found, key, dimensions)


def choose_kspace(
    path: Path, arrays: Mapping[str, ArrayInfo], key: str | None, dimensions: tuple[int, ...] = (3, 4)
) -> str:
    """Choose the array that is k-space: `key`, else "kspace", else the only one that can be it, with a notice.

    Where none can be it, the answer is "kspace".

    Parameters
    ----------
    path : the file, for errors
    arrays : of the file, by name
    key : name that the user gave, or None
    dimensions : numbers of axes that k-space may have

    Raises
    ------
    InputError
        No array of that name; or without a name, several that can be k-space, or its parts in two arrays.
    """
    if key is not None:
        found = key.strip("/")
        if found not in arrays:
            raise InputError(f"{path}: has no array '{key}'; it has {_listing(arrays)}; choose one with --key")
        return found
    if KSPACE_KEY in arrays:
        return KSPACE_KEY
    able = {
        name: info
        for name, info in arrays.items()
        if info.is_complex and len(info.shape) in dimensions and min(info.shape) > 0 and name not in OTHER_KEYS
    } or {name: info for name, info in arrays.items() if info.has_pairs}
    if len(able) > 1:
        raise InputError(f"{path}: several arrays may be k-space: {_listing(able)}; choose one with --key")
    if not able:
        _check_parts(path, arrays)
        return KSPACE_KEY  # whose reader says what the file has
    (name,) = able
    warn(f"k-space was read from '{name}', the only array that can be k-space; use --key for another")
    return name


def _check_parts(path: Path, arrays: Mapping[str, ArrayInfo]) -> None:
    """Raise InputError if real and imaginary part are arrays of their own."""
    for real, imaginary in (("_real", "_imag"), ("_re", "_im"), ("_r", "_i")):
        for name in arrays:
            other = f"{name.removesuffix(real)}{imaginary}"
            if name.endswith(real) and other in arrays:
                raise InputError(
                    f"{path}: real and imaginary part are two arrays, '{name}' and '{other}'; store {name} + 1j * "
                    f"{other} as one array, '{KSPACE_KEY}'"
                )


def _type_of(info: ArrayInfo) -> str:
    """Name the type of an array; one of records is a table, or complex."""
    return ("complex" if info.is_complex else "table") if info.dtype.names else str(info.dtype)


def _listing(arrays: Mapping[str, ArrayInfo]) -> str:
    """List arrays with their shapes."""
    shown = [f"'{name}' {_type_of(info)} {info.shape}" for name, info in list(arrays.items())[:MAX_LISTED]]
    more = len(arrays) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "") or "none"
