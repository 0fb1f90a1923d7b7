"""Slices that are read when they are drawn: memory does not grow with the data.

Only the heads of files are read before. A draw opens a file, reads one slice (of a fastMRI file, perhaps one coil of
it), or all of a file that can be read only whole, and closes the file. So nothing stays open, and a copy for another
process carries names and numbers alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrihvae.errors import InputError
from mrihvae.io.arrays import as_complex64
from mrihvae.io.checked_hdf5 import open_checked
from mrihvae.io.checks import read_errors
from mrihvae.io.fastmri import FastMRIHead
from mrihvae.io.stored_kspace import is_finite

NOT_PACKED = ("not readable as packed slices", "copy it again")
Place = tuple[int, ...]  # of an array within a file, such as (slice,) or (slice, coil)


class SliceCache:
    """The arrays that were used last, up to a number of bytes; a copy in another process starts empty.

    What was read along with a used array goes first, the oldest of it before the others.

    Parameters
    ----------
    limit : bytes of arrays that are held at most; what is larger alone is not kept
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._used: OrderedDict[tuple[Path, Place], np.ndarray] = OrderedDict()
        self._unused: OrderedDict[tuple[Path, Place], np.ndarray] = OrderedDict()

    def get(self, path: Path, place: Place) -> np.ndarray | None:
        """Return an array, if it is held."""
        key = path, place
        array = self._used.get(key)
        if array is not None:
            self._used.move_to_end(key)
        elif key in self._unused:
            array = self._used[key] = self._unused.pop(key)
        return array

    def keep(self, path: Path, place: Place, array: np.ndarray) -> None:
        """Hold an array, in place of those that were not used for longest."""
        if self._make_room(array.nbytes):
            self._used[path, place] = array

    def add(self, path: Path, arrays: dict[Place, np.ndarray]) -> None:
        """Hold what was read along with an array, if the cache can hold all of it."""
        new = {(path, place): array for place, array in arrays.items()}
        new = {key: array for key, array in new.items() if key not in self._used and key not in self._unused}
        if self._make_room(sum(array.nbytes for array in new.values())):
            self._unused.update(new)

    def _make_room(self, size: int) -> bool:
        """Let go of arrays until there is room for `size` bytes, which then count as held; return whether there is."""
        if size > self.limit:
            return False
        while self.held + size > self.limit:
            self.held -= (self._unused or self._used).popitem(last=False)[1].nbytes
        self.held += size
        return True

    def __len__(self) -> int:
        return len(self._used) + len(self._unused)

    def __reduce__(self) -> tuple[type[SliceCache], tuple[int]]:
        return SliceCache, (self.limit,)


@dataclass(frozen=True)
class FastmriFile:
    """K-space of a fastMRI file: complex64 (h, w), or (coils, h, w); slices that are 0 all over are of no use.

    Attributes
    ----------
    head : of the file
    together : whether a slice of several coils is one array (coils, h, w), not one (h, w) for each coil
    """

    head: FastMRIHead
    together: bool

    @property
    def path(self) -> Path:
        """The file."""
        return self.head.path

    @property
    def count(self) -> int:
        """Number of arrays."""
        return self.head.shape[0] * self._parts

    @property
    def _parts(self) -> int:
        return 1 if self.together else self.head.coils

    def place(self, index: int) -> Place:
        """Return (slice,), or (slice, coil) of one coil of a fourth axis."""
        place = divmod(index, self._parts)
        return place if len(self.head.shape) == 4 and (self.head.coils == 1 or not self.together) else place[:1]

    def read(self, index: int) -> dict[int, np.ndarray]:
        """Read one slice, or one coil of it."""
        array = _read(self.path, self.place(index), self.head.key)
        height, width = array.shape[-2:]
        # DC is seldom 0, so that this is decided at once
        return {index: array} if array[..., height // 2, width // 2].any() or array.any() else {}


@dataclass(frozen=True)
class WholeFile:
    """Arrays of a file that is read as a whole.

    Attributes
    ----------
    path : the file
    count : how many arrays it has, with those that are of no use
    load : reads the others, by their place; it can be pickled
    """

    path: Path
    count: int
    load: Callable[[Path], dict[int, np.ndarray]]

    def place(self, index: int) -> Place:
        """Return (index,)."""
        return (index,)

    def read(self, index: int) -> dict[int, np.ndarray]:
        """Read all arrays."""
        return self.load(self.path)


@dataclass(frozen=True)
class PackedGroup:
    """One dataset of packed slices, each of which can be read alone.

    Attributes
    ----------
    path : the file
    group : name of the dataset in it
    names : of its arrays
    order : int (slices, 2), of every slice its array and its place there
    """

    path: Path
    group: str
    names: list[str]
    order: np.ndarray

    @property
    def count(self) -> int:
        """Number of slices."""
        return len(self.order)

    def place(self, index: int) -> Place:
        """Return (dataset, slice)."""
        return int(self.group.strip("/")), index

    def read(self, index: int) -> dict[int, np.ndarray]:
        """Read one slice."""
        which, place = self.order[index]
        with read_errors(self.path, *NOT_PACKED), open_checked(self.path) as file:
            return {index: np.asarray(file[self.group][self.names[which]][place])}


Source = FastmriFile | WholeFile | PackedGroup  # of `count` arrays, some may be unusable


class LazySlices:
    """Arrays of files, in the files' order; indexed as a list of arrays is, and read at that moment.

    Parameters
    ----------
    sources : the files
    cache : of what was read; several may share one
    nothing : what is wrong if no array of them is of use
    """

    def __init__(self, sources: Iterable[Source], cache: SliceCache, nothing: str) -> None:
        self.sources = list(sources)
        self.cache = cache
        self.nothing = nothing
        self._ends = np.cumsum([source.count for source in self.sources])
        self._useless: set[int] = set()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> np.ndarray:
        """Read an array, or the next usable one in place of an unusable one.

        Raises
        ------
        IndexError
            Beyond the last.
        InputError
            A file that is missing, has changed, or holds NaN; or no usable array in all files.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        for k in range(index, index + len(self)):
            array = self._array(k % len(self))
            if array is not None:
                return array
        raise InputError(f"{self.sources[0].path.parent}: {self.nothing}; give other files")

    def _array(self, index: int) -> np.ndarray | None:
        if index in self._useless:
            return None
        number = int(np.searchsorted(self._ends, index, side="right"))
        source = self.sources[number]
        within = index - (int(self._ends[number - 1]) if number else 0)
        array = self.cache.get(source.path, source.place(within))
        if array is None:
            # copies, for a part of an array holds all of it
            found = {k: array if array.base is None else array.copy() for k, array in source.read(within).items()}
            array = found.pop(within, None)
            self.cache.add(source.path, {source.place(k): array for k, array in found.items()})
            if array is None:
                self._useless.add(index)
            else:
                self.cache.keep(source.path, source.place(within), array)
        return array


def _read(path: Path, place: Place, key: str) -> np.ndarray:
    """Read one slice, or one coil of it: complex64 (h, w) or (coils, h, w)."""
    problem, remedy = f"slice {place[0]} cannot be read any more", "put back the file that was there"
    with read_errors(path, problem, remedy), open_checked(path) as file:
        array = as_complex64(np.asarray(file[key][place]))
    if not is_finite(array):
        raise InputError(f"{path}: dataset '{key}' holds NaN or infinite values in slice {place[0]}; export it again")
    return array
