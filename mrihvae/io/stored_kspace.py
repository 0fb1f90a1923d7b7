"""K-space that stays in its HDF5 file: slices are read when they are indexed, and the next ones ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mrihvae.errors import InputError
from mrihvae.io.arrays import ArrayInfo, as_complex64
from mrihvae.io.hdf5 import open_dataset
from mrihvae.utils.memory import check_slice

_READER = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")


def is_finite(array: np.ndarray) -> bool:
    """Return whether all samples are finite, by their energy where that is finite."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.vdot(array, array)) or np.isfinite(array).all())  # the energy may be too large


class StoredKspace:
    """K-space (slices, ..., H, W) of a file, indexed along slices like an array; `numpy.asarray` reads all of it.

    The file is opened for each read, so that nothing stays open. After slices were read, a thread reads as
    many of the following ones ahead.

    Parameters
    ----------
    path : the HDF5 file
    key : name of the dataset: complex, pairs of a real and an imaginary part, or these along a last axis of 2
    columns : whether the axes are in MATLAB's order, the reverse of (H, W, coils, slices); one slice may be
        (H, W, coils), or (H, W) of a single coil
    transform : what is done to slices (slices, ..., H, W) after reading; it keeps their shape

    Raises
    ------
    InputError
        As `mrihvae.io.hdf5.open_dataset`; when slices are read, also for a dataset that is not what it was.
    """

    def __init__(
        self,
        path: Path,
        key: str = "kspace",
        columns: bool = False,
        transform: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.path, self.key, self.columns, self.transform = path, key, columns, transform
        with open_dataset(path, key) as dataset:
            self.info = ArrayInfo(tuple(int(size) for size in dataset.shape or ()), dataset.dtype)
        self.stored, shape = self.info.dtype, self.info.shape
        if self.info.has_pairs:
            shape = shape[:-1]
        if columns and len(shape) > 1:
            shape = (*([1] if len(shape) < 4 else []), *shape[:-2], shape[-1], shape[-2])
        self.shape: tuple[int, ...] = shape
        if len(shape) > 1:
            check_slice(f"{path}: '{key}'", *shape[-2:])
        self.dtype = np.dtype(np.complex64)
        self._ahead: tuple[tuple[int, int], Future[np.ndarray]] | None = None

    @property
    def is_complex(self) -> bool:
        """Whether its numbers are complex, however they are stored."""
        return self.info.is_complex or self.info.has_pairs

    def transformed(self, transform: Callable[[np.ndarray], np.ndarray]) -> StoredKspace:
        """Return the same k-space, to be transformed whenever it is read."""
        return StoredKspace(self.path, self.key, self.columns, transform)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read slices, complex64; `index` is as of an array."""
        first, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(first, int | np.integer):
            if not -len(self) <= first < len(self):
                raise IndexError(f"slice {first} of {len(self)}")
            begin = int(first) % len(self)
            return np.asarray(self._slices(begin, begin + 1)[(0, *rest)])
        if isinstance(first, slice) and (first.step or 1) > 0:
            begin, end, step = first.indices(len(self))
            return np.asarray(self._slices(begin, max(begin, end))[(slice(None, None, step), *rest)])
        return np.asarray(self._read(0, len(self))[index])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[k] for k in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all slices."""
        array = self._read(0, len(self))
        return array if dtype is None else array.astype(dtype, copy=False)

    def check_finite(self) -> None:
        """Read it once, slice by slice.

        Raises
        ------
        InputError
            NaN or infinite values.
        """
        for k in range(len(self) if self.ndim and self.is_complex else 0):
            if not is_finite(self[k]):
                raise InputError(
                    f"{self.path}: dataset '{self.key}' holds NaN or infinite values; export the scan again"
                )

    def _slices(self, begin: int, end: int) -> np.ndarray:
        """Return slices that were read ahead, or read them; then start to read those after them."""
        ahead, self._ahead = self._ahead, None
        found = ahead[1].result() if ahead is not None and ahead[0] == (begin, end) else self._read(begin, end)
        following = end, min(2 * end - begin, len(self))
        if begin < end < len(self):
            self._ahead = following, _READER.submit(self._read, *following)
        return found

    def _read(self, begin: int, end: int) -> np.ndarray:
        with open_dataset(self.path, self.key) as dataset:
            if dataset.shape != self.info.shape or dataset.dtype != self.stored:
                raise InputError(f"{self.path}: '{self.key}' has changed; put back the file that was there")
            single = self.columns and dataset.ndim < 4
            found = as_complex64(np.asarray(dataset[()][None][begin:end] if single else dataset[begin:end]))
        found = found.swapaxes(-1, -2) if self.columns else found
        return found if self.transform is None else self.transform(found)
