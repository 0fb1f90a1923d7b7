"""Slices to train on, of raw k-space, NIfTI, PNG, JPEG (magnitude) and collections of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from numpy.random import Generator

from mrihvae.datasets.collections import is_collection, read_collection
from mrihvae.datasets.lazy import FastmriFile, LazySlices, Place, SliceCache, WholeFile
from mrihvae.errors import InputError, reason
from mrihvae.io.fastmri import FastMRIHead, read_head
from mrihvae.io.formats import SUFFIXES as RAW_SUFFIXES
from mrihvae.io.kspace import kind_of, open_kspace
from mrihvae.io.magnitudes import PICTURES, VOLUMES, count_slices, magnitude_slices, usable_slices

# attribute `format` of a file of packed slices, which benchmarks/training/pack_slices.py writes
PACKED = "mrihvae slices 1"
SUFFIXES = (*RAW_SUFFIXES, *VOLUMES, *PICTURES)
COMPRESSION = 6  # in memory, slices of compressed files take up to so many times what they take on disk
COMPRESSED = (".gz", *PICTURES)
ZERO = "k-space of all slices is zero"
NOTHING = "no slice with an object in it"


@dataclass(frozen=True)
class Reading:
    """How training data are read.

    Attributes
    ----------
    stream_above : bytes of all data, beyond which slices are read when they are drawn, not before; 0 for always. Those
        of compressed files count by the most that they take in memory
    cache : bytes of such slices that are kept
    together : whether a raw slice of several coils is one array (coils, h, w), not one (h, w) for each coil
    """

    stream_above: float = math.inf
    cache: int = 2**29
    together: bool = False


@dataclass(frozen=True)
class Dataset:
    """Slices of one training path: arrays (h, w), magnitude or raw k-space, drawn with `weight`.

    Raw ones of several coils are (coils, h, w), if so read. Of a collection of pictures
    (`mrihvae.datasets.collections`) they are (channels, h, w).
    """

    path: Path
    arrays: list[np.ndarray] | LazySlices
    raw: bool
    weight: float

    @property
    def pictures(self) -> bool:
        """Whether they are of a collection of pictures."""
        return not self.raw and self.arrays[0].ndim == 3


class WeightedDatasets:
    """Draws slices from several datasets by their weights; a `mrihvae.training.loop.SliceSource`."""

    def __init__(self, datasets: list[Dataset]) -> None:
        self.datasets = datasets
        weights = np.array([dataset.weight for dataset in datasets])
        self.shares = weights / weights.sum()

    def draw(self, count: int, rng: Generator) -> list[tuple[np.ndarray, bool]]:
        """Draw `count` slices: arrays (h, w), or as the dataset has them, and whether they are raw k-space."""
        picked = [self.datasets[i] for i in rng.choice(len(self.datasets), size=count, p=self.shares)]
        return [(dataset.arrays[rng.integers(len(dataset.arrays))], dataset.raw) for dataset in picked]


def load_mixture(
    specifications: list[str],
    progress: Callable[[list[Path]], Iterator[Path]] = iter,
    reading: Reading | None = None,
) -> WeightedDatasets:
    """Read training data given as PATH or PATH=WEIGHT; without weights, datasets count by their slices' number.

    Raises
    ------
    InputError
        A path that is not there or holds nothing readable, or a weight that is no positive number.
    """
    reading = reading or Reading()
    datasets = []
    weighted = ["=" in one and not Path(one).exists() for one in specifications]
    if any(weighted) and not all(weighted):
        raise InputError(f"{specifications[weighted.index(False)]}: has no weight but others do; give all one, or none")
    paths, shares = [], []
    for specification in specifications:
        whole = "=" not in specification or Path(specification).exists()
        name, _, weight = (specification, "", "") if whole else specification.rpartition("=")
        try:
            share = float(weight) if weight else 0.0
        except ValueError:
            share = -1.0
        if not 0 <= share < math.inf or (weight and share == 0):
            raise InputError(f"{specification}: the weight '{weight}' is not a number above 0; write PATH=1.5")
        paths.append(Path(name))
        shares.append(share)
    cache = SliceCache(reading.cache) if sum(_size(path) for path in paths) > reading.stream_above else None
    for path, share in zip(paths, shares):
        datasets += load_datasets(path, share, progress, reading.together, cache)
    return WeightedDatasets(datasets)


def load_datasets(
    path: Path,
    weight: float,
    progress: Callable[[list[Path]], Iterator[Path]],
    together: bool,
    cache: SliceCache | None,
) -> list[Dataset]:
    """Read all slices below `path`, or heads for a stream if there is a cache: raw k-space and magnitude apart.

    Undersampled files, which have a mask, are an error, but left out of a stream.
    """
    if not path.exists():
        raise InputError(f"{path}: not there; give a file or folder with {', '.join(SUFFIXES)}")
    if path.is_file() and is_packed(path):
        packed = read_packed(path, cache)
        total = sum(d.weight for d in packed)
        if not packed or not 0 < total < math.inf or min(d.weight for d in packed) < 0:
            raise InputError(
                f"{path}: no packed dataset with a weight above 0; make it with benchmarks/training/pack_slices.py"
            )
        if not all(len(d.arrays) for d in packed):
            raise InputError(
                f"{path}: a packed dataset without a slice; make it with benchmarks/training/pack_slices.py"
            )
        scale = (weight or sum(len(d.arrays) for d in packed)) / total
        return [replace(d, weight=d.weight * scale) for d in packed]
    if path.is_file() and is_collection(path):
        pictures = list(read_collection(path))
        kept = pictures if cache is None else LazySlices([WholeFile(path, len(pictures), _pictures)], cache, NOTHING)
        return [Dataset(path, kept, False, weight or float(len(pictures)))]
    read: Iterable[list[np.ndarray] | LazySlices] = (
        _stream(path, progress, together, cache) if cache is not None else _read_now(path, progress, together)
    )
    found = [Dataset(path, arrays, raw, 0.0) for arrays, raw in zip(read, (True, True, False)) if len(arrays)]
    total = sum(len(d.arrays) for d in found)
    if not total:
        raise InputError(f"{path}: no usable slice in it; give a file or folder with {', '.join(SUFFIXES)}")
    scale = weight / total if weight else 1.0
    return [Dataset(d.path, d.arrays, d.raw, scale * len(d.arrays)) for d in found]


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.name.lower().endswith(SUFFIXES)) if path.is_dir() else [path]


def _size(path: Path) -> float:
    """Compute at most how many bytes the slices below a path take in memory."""
    sizes = ((file.name.lower(), file.stat().st_size) for file in _files(path) if file.exists())
    return sum(size * (COMPRESSION if name.endswith(COMPRESSED) else 1) for name, size in sizes)


def _read_now(
    path: Path, progress: Callable[[list[Path]], Iterator[Path]], together: bool
) -> tuple[list[np.ndarray], ...]:
    """Read all slices below a path: raw k-space, nothing, and magnitudes."""
    raw: list[np.ndarray] = []
    magnitude: list[np.ndarray] = []
    for file in progress(_files(path)):
        if _is_raw(file):
            raw += list(_raw_slices(file, together).values())
        else:
            magnitude += magnitude_slices(file)
    return raw, [], magnitude


def _stream(
    path: Path, progress: Callable[[list[Path]], Iterator[Path]], together: bool, cache: SliceCache
) -> tuple[LazySlices, LazySlices, LazySlices]:
    """Read heads of all files below a path: fastMRI's, of other raw k-space, and of magnitudes.

    Of other raw k-space the whole file is read, for its head does not tell whether it is complete.
    """
    heads: list[FastMRIHead] = []
    raw: list[WholeFile] = []
    magnitude: list[WholeFile] = []
    for file in progress(_files(path)):
        if not _is_raw(file):
            magnitude.append(WholeFile(file, count_slices(file), usable_slices))
        elif _is_fastmri(file):
            heads.append(read_head(file))
        else:
            load = partial(_raw_slices, together=together)
            raw.append(WholeFile(file, max(load(file), default=-1) + 1, load))
    complete = [FastmriFile(head, together) for head in _complete(path, heads)] if heads else []
    return LazySlices(complete, cache, ZERO), LazySlices(raw, cache, ZERO), LazySlices(magnitude, cache, NOTHING)


def _pictures(path: Path) -> dict[int, np.ndarray]:
    return dict(enumerate(read_collection(path)))


def is_packed(path: Path) -> bool:
    """Tell whether a file holds packed slices."""
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("format") == PACKED)
    except (OSError, RuntimeError):
        return False


def read_packed(path: Path, cache: SliceCache | None = None) -> list[Dataset]:
    """Read packed slices: the datasets, with their weights; with a cache, slices are read when they are drawn.

    It needs h5py and numpy alone.

    Raises
    ------
    InputError
        Not there, or not such a file.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != PACKED:
                raise InputError(f"{path}: holds no packed slices; make it with benchmarks/training/pack_slices.py")
            return [_read_group(file[name], path, cache) for name in sorted(file, key=int)]
    except InputError:
        raise
    except (OSError, KeyError, ValueError, IndexError, RuntimeError) as error:
        raise _not_packed(path, error) from error


def _read_group(group: h5py.Group, path: Path, cache: SliceCache | None) -> Dataset:
    names = sorted(name for name in group if name != "order")
    order = group["order"][()]
    arrays: list[np.ndarray] | LazySlices
    if cache is None:
        stacks = [np.asarray(group[name][()]) for name in names]
        arrays = [stacks[which][index] for which, index in order]
    else:
        arrays = LazySlices([PackedGroup(path, group.name, names, order)], cache, NOTHING)
    return Dataset(Path(group.attrs["path"]), arrays, bool(group.attrs["raw"]), float(group.attrs["weight"]))


@dataclass(frozen=True)
class PackedGroup:
    """One dataset of packed slices, of which each can be read alone.

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
        """Give (dataset, slice)."""
        return int(self.group.strip("/")), index

    def read(self, index: int) -> dict[int, np.ndarray]:
        """Read one slice."""
        which, place = self.order[index]
        try:
            with h5py.File(self.path, "r") as file:
                return {index: np.asarray(file[self.group][self.names[which]][place])}
        except (OSError, KeyError, ValueError, IndexError, RuntimeError) as error:
            raise _not_packed(self.path, error) from error


def _not_packed(path: Path, error: Exception) -> InputError:
    why = reason(error)
    return InputError(f"{path}: not readable as packed slices ({why}); copy it again")


def _is_raw(file: Path) -> bool:
    return file.suffix.lower() in RAW_SUFFIXES


def _is_fastmri(file: Path) -> bool:
    """Tell whether slices can be read one by one: of the other formats the whole file is."""
    return kind_of(file) == "fastmri"


def _complete(path: Path, heads: list[FastMRIHead]) -> list[FastMRIHead]:
    """Leave out undersampled files, unless there is no other."""
    complete = [head for head in heads if not head.masked]
    if not complete:
        what = "is undersampled (it has a mask)" if path.is_file() else "every .h5 file is undersampled (has a mask)"
        raise InputError(f"{path}: {what}; training needs complete scans")
    return complete


def _raw_slices(file: Path, together: bool) -> dict[int, np.ndarray]:
    """Read the slices of a fully sampled file that are not 0; unless `together`, each coil is a slice of its own."""
    from mrihvae.data.scan import is_complete

    found: list[np.ndarray] = []
    masked = kind_of(file) == "fastmri"  # as the challenge has it, a mask is in undersampled files alone
    for scan in open_kspace(file):
        if scan.mask is not None and masked:
            raise InputError(f"{file}: is undersampled (it has a mask); training needs complete scans")
        if not masked and not is_complete(scan):
            raise InputError(f"{file}: is undersampled; training needs complete scans")
        whole = np.asarray(scan.kspace)
        slices = whole if together and scan.coils > 1 else whole.reshape(-1, *whole.shape[-2:])
        found += list(slices)
    return {k: kspace for k, kspace in enumerate(found) if kspace.any()}
