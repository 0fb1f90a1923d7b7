"""Slices of fastMRI's own training folders, read when they are drawn: memory does not grow with the data.

Only the heads of files are read before. A draw opens a file, reads one slice (or one coil of it) and closes the file,
so nothing stays open, and a copy for another process carries names and numbers alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from mrihvae.errors import InputError
from mrihvae.fastmri_files import read_scan

Place = tuple[int, ...]  # of an array within a file's k-space: (slice,) or (slice, coil)


@dataclass(frozen=True)
class Head:
    """What a fastMRI file says of its k-space, without reading it.

    Attributes
    ----------
    path : the file
    shape : (slices, H, W) or (slices, coils, H, W)
    masked : whether it has a mask, so that it is undersampled
    """

    path: Path
    shape: tuple[int, ...]
    masked: bool

    @property
    def coils(self) -> int:
        """Number of coils."""
        return self.shape[1] if len(self.shape) == 4 else 1


def read_head(path: Path) -> Head:
    """Read the head of a fastMRI file.

    Raises
    ------
    InputError
        As `mrihvae.fastmri_files.read_scan`, but for what only the numbers in the file show.
    """
    try:
        with h5py.File(path, "r") as file:
            kspace = file.get("kspace")
            if isinstance(kspace, h5py.Dataset) and kspace.dtype.kind == "c" and kspace.ndim in (3, 4):
                shape = tuple(int(size) for size in kspace.shape)
                if min(shape) >= 1 and min(shape[-2:]) >= 2:
                    return Head(path, shape, "mask" in file)
    except (OSError, RuntimeError, AttributeError):
        pass
    read_scan(path)  # says what is wrong with it
    raise InputError(f"{path}: not readable as k-space of (slices, H, W) or (slices, coils, H, W); copy it again")


class SliceCache:
    """The arrays that were used last, up to a number of bytes; a copy in another process starts empty.

    Parameters
    ----------
    limit : bytes of arrays that are held at most; what is larger alone is not kept
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._arrays: OrderedDict[tuple[Path, Place], np.ndarray] = OrderedDict()

    def get(self, path: Path, place: Place) -> np.ndarray | None:
        """Take an array, if it is held."""
        array = self._arrays.get((path, place))
        if array is not None:
            self._arrays.move_to_end((path, place))
        return array

    def keep(self, path: Path, place: Place, array: np.ndarray) -> None:
        """Hold an array that was not, in place of those that were not used for longest."""
        if array.nbytes > self.limit:
            return
        while self.held + array.nbytes > self.limit:
            self.held -= self._arrays.popitem(last=False)[1].nbytes
        self._arrays[path, place] = array
        self.held += array.nbytes

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[type[SliceCache], tuple[int]]:
        return SliceCache, (self.limit,)


class Stream:
    """Slices of complete fastMRI files, in the files' order; indexed as a list of arrays is, and read at that moment.

    Parameters
    ----------
    heads : of the files, without masks
    together : whether a slice of several coils comes as one array (coils, h, w), not as one (h, w) for each coil
    cache : of what was read; several streams may share one
    """

    def __init__(self, heads: Sequence[Head], together: bool, cache: SliceCache) -> None:
        self.files = [head.path for head in heads]
        self.cache = cache
        # in a slice: arrays that it gives, and whether these are coils of a fourth axis
        self._parts = np.array([1 if together else head.coils for head in heads], dtype=np.int64)
        self._apart = np.array([len(head.shape) == 4 and (head.coils == 1 or not together) for head in heads])
        self._ends = np.cumsum(self._parts * [head.shape[0] for head in heads])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> np.ndarray:
        """Read an array: complex64 (h, w), or (coils, h, w); in place of one that is 0 all over the next that is not.

        Raises
        ------
        IndexError
            Beyond the last.
        InputError
            A file that is not there any more, is not what its head was, or holds NaN; or zeros alone in all files.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        for k in range(index, index + len(self)):
            array = self._array(k % len(self))
            height, width = array.shape[-2:]
            if array[..., height // 2, width // 2].any() or array.any():  # DC seldom is 0, and tells at once
                return array
        raise InputError(f"{self.files[0].parent}: k-space of all slices is zero; give other files")

    def _array(self, index: int) -> np.ndarray:
        number = int(np.searchsorted(self._ends, index, side="right"))
        within = index - (int(self._ends[number - 1]) if number else 0)
        part = divmod(within, int(self._parts[number]))
        path, place = self.files[number], part if self._apart[number] else part[:1]
        array = self.cache.get(path, place)
        if array is None:
            array = _read(path, place)
            self.cache.keep(path, place, array)
        return array


def _read(path: Path, place: Place) -> np.ndarray:
    """Read one slice, or one coil of it: complex64 (h, w) or (coils, h, w)."""
    try:
        with h5py.File(path, "r") as file:
            array = np.asarray(file["kspace"][place]).astype(np.complex64, copy=False)
    except (OSError, KeyError, IndexError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: slice {place[0]} cannot be read any more ({reason}); put back the file that was there"
        ) from error
    if not np.isfinite(np.vdot(array, array)) and not np.isfinite(array).all():  # the sum alone may be too large
        raise InputError(f"{path}: dataset 'kspace' holds NaN or infinite values in slice {place[0]}; export it again")
    return array
