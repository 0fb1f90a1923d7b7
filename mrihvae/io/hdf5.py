"""HDF5 files: datasets, read with the checks of `mrihvae.io.checked_hdf5`, and writing that leaves no part behind."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mrihvae.errors import InputError, reason
from mrihvae.io.checked_hdf5 import CheckedFile, list_objects, open_checked, refuse_links
from mrihvae.utils.files import atomic_write
from mrihvae.utils.text import printable

ROOM_BESIDE = 2**16  # bytes that a file takes beside its arrays


@contextmanager
def open_hdf5(path: Path) -> Iterator[CheckedFile]:
    """Open an HDF5 file to read.

    Raises
    ------
    InputError
        Missing, truncated or not HDF5, also where that shows only while it is read; or as
        `mrihvae.io.checked_hdf5` has it: data outside of the file, or more than the limit of memory.
    """
    try:
        with open_checked(path) as file:
            yield file
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        raise type(error)(f"{path}: {error}") from error
    except FileNotFoundError:
        raise InputError(f"{path}: file not found; check the path") from None
    except PermissionError:
        raise InputError(f"{path}: no permission to read it; check its permissions") from None
    except MemoryError as error:
        raise InputError(f"{path}: too little memory to read it; take a larger computer, or split the file") from error
    except (OSError, RuntimeError, AttributeError, ValueError, TypeError, KeyError) as error:
        why = printable(reason(error))
        raise InputError(f"{path}: truncated or not an HDF5 file ({why}); copy it again") from error


@contextmanager
def open_dataset(path: Path, key: str) -> Iterator[h5py.Dataset]:
    """Open one dataset of an HDF5 file.

    Raises
    ------
    InputError
        As `open_hdf5`, or the key is missing.
    """
    with open_hdf5(path) as file:
        dataset = file.get(key)
        if not isinstance(dataset, h5py.Dataset):
            refuse_links(file)
            if key == "kspace" and "reconstruction" in file:
                raise InputError(f"{path}: is a reconstruction, without k-space; give the scan that it was made from")
            raise InputError(f"{path}: has no dataset '{key}' (it has {list_objects(file)}); check the file")
        yield dataset


def read_dataset(path: Path, key: str) -> np.ndarray:
    """Read one dataset of an HDF5 file, in the byte order of this machine.

    Raises
    ------
    InputError
        File or key missing, truncated or not HDF5, or NaN in it.
    """
    with open_dataset(path, key) as dataset:
        array = np.asarray(dataset[()])
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        raise InputError(f"{path}: dataset '{key}' holds NaN or infinite values; export the scan again")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def write_datasets(path: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any] | None = None) -> None:
    """Write arrays and attributes to an HDF5 file; all or nothing."""
    with new_file(path, sum(array.nbytes for array in arrays.values())) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        file.attrs.update(attributes or {})


@contextmanager
def new_file(path: Path, size: int) -> Iterator[h5py.File]:
    """Open an HDF5 file for `size` bytes of data; it is in its place once it is whole."""
    with atomic_write(path) as temporary:
        _reserve(temporary, size + ROOM_BESIDE)
        file = h5py.File(temporary, "w")
        try:
            yield file
        finally:
            try:
                file.close()
            except RuntimeError as error:  # how h5py reports a full disk when it closes the file
                raise OSError(reason(error)) from error


def _reserve(path: Path, size: int) -> None:
    """Raise OSError if a file of so many bytes cannot be: HDF5 may crash where it finds that out while it closes."""
    if hasattr(os, "posix_fallocate"):
        with path.open("wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # by which a file system says that it cannot
                    raise
