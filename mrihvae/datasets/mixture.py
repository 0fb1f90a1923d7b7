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

from mrihvae.data.scan import is_complete
from mrihvae.datasets.collections import is_collection, read_collection
from mrihvae.datasets.lazy import NOT_PACKED, FastmriFile, LazySlices, PackedGroup, SliceCache, WholeFile
from mrihvae.errors import InputError
from mrihvae.io.checked_hdf5 import open_checked
from mrihvae.io.checks import read_errors
from mrihvae.io.dicom import dicom_files, dicom_folders, is_dicom
from mrihvae.io.fastmri import FastMRIHead, read_head
from mrihvae.io.formats import KSPACE_SUFFIXES, NIFTI_SUFFIXES, PICTURE_SUFFIXES, has_suffix, list_files
from mrihvae.io.kspace import kind_of, open_kspace
from mrihvae.io.magnitudes import count_slices, magnitude_slices, usable_slices

# attribute `format` of a file of packed slices, which benchmarks/training/pack_slices.py writes
PACKED_FORMAT = "mrihvae slices 1"
TRAINING_SUFFIXES = (*KSPACE_SUFFIXES, *NIFTI_SUFFIXES, *PICTURE_SUFFIXES)
COMPRESSED_SUFFIXES = (".gz", *PICTURE_SUFFIXES)
COMPRESSION_RATIO = 6  # largest ratio of the size of slices in memory to that of compressed files
ZERO_KSPACE = "k-space of all slices is zero"
NO_OBJECT = "no slice with an object in it"
NOTHING_USABLE = "no usable slice in it"
TRAINING_HINT = f"give a file or folder with {', '.join(TRAINING_SUFFIXES)} or DICOM"
PACK_HINT = "make it with benchmarks/training/pack_slices.py"


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
        A file that is not found, a path that holds nothing readable, or a weight that is no positive number.
    """
    reading = reading or Reading()
    datasets = []
    weighted = ["=" in text and not Path(text).exists() for text in specifications]
    if any(weighted) and not all(weighted):
        raise InputError(
            f"{specifications[weighted.index(False)]}: has no weight, but others do; give a weight to all of "
            "them, or to none"
        )
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
    path: Path | str,
    weight: float,
    progress: Callable[[list[Path]], Iterator[Path]],
    together: bool,
    cache: SliceCache | None,
) -> list[Dataset]:
    """Read all slices below `path`, or heads for a stream if there is a cache: raw k-space and magnitude apart.

    Undersampled files, which have a mask, are an error, but left out of a stream.
    """
    path = Path(path)
    if path.is_file() and is_packed(path):
        packed = read_packed(path, cache)
        total = sum(d.weight for d in packed)
        if not packed or not 0 < total < math.inf or min(d.weight for d in packed) < 0:
            raise InputError(f"{path}: no packed dataset with a weight above 0; {PACK_HINT}")
        if not all(len(d.arrays) for d in packed):
            raise InputError(f"{path}: a packed dataset without a slice; {PACK_HINT}")
        scale = (weight or sum(len(d.arrays) for d in packed)) / total
        return [replace(d, weight=d.weight * scale) for d in packed]
    if path.is_file() and is_collection(path):
        pictures = list(read_collection(path))
        kept = pictures if cache is None else LazySlices([WholeFile(path, len(pictures), _pictures)], cache, NO_OBJECT)
        return [Dataset(path, kept, False, weight or float(len(pictures)))]
    read: Iterable[list[np.ndarray] | LazySlices] = (
        _stream(path, progress, together, cache) if cache is not None else _read_now(path, progress, together)
    )
    found = [Dataset(path, arrays, raw, 0.0) for arrays, raw in zip(read, (True, True, False)) if len(arrays)]
    total = sum(len(d.arrays) for d in found)
    if not total:
        raise InputError(f"{path}: {NOTHING_USABLE}; {TRAINING_HINT}")
    scale = weight / total if weight else 1.0
    return [Dataset(d.path, d.arrays, d.raw, scale * len(d.arrays)) for d in found]


def _files(path: Path) -> list[Path]:
    """List files to train on, and folders with DICOM images."""
    found = [path] if is_dicom(path) else dicom_folders(path) if path.is_dir() else []
    if path.is_file() and found:
        return found
    try:
        return sorted([*found, *list_files(path, TRAINING_SUFFIXES, NOTHING_USABLE, TRAINING_HINT, recursive=True)])
    except InputError:
        if not found:
            raise
        return found


def _size(path: Path) -> float:
    """Compute at most how many bytes the slices below a path take in memory."""
    sizes = ((file, _bytes(file)) for file in _files(path) if file.exists())
    return sum(size * (COMPRESSION_RATIO if has_suffix(file, COMPRESSED_SUFFIXES) else 1) for file, size in sizes)


def _bytes(file: Path) -> int:
    """Compute the size of a file, or of the DICOM files in a folder."""
    return sum(one.stat().st_size for one in ([file] if file.is_file() else dicom_files(file, recursive=False)))


def _read_now(
    path: Path, progress: Callable[[list[Path]], Iterator[Path]], together: bool
) -> tuple[list[np.ndarray], ...]:
    """Read all slices below a path: raw k-space, nothing, and magnitudes."""
    raw: list[np.ndarray] = []
    magnitude: list[np.ndarray] = []
    for file in progress(_files(path)):
        if has_suffix(file, KSPACE_SUFFIXES):
            raw += list(_raw_slices(file, together).values())
        else:
            magnitude += magnitude_slices(file)
    return raw, [], magnitude


def _stream(
    path: Path, progress: Callable[[list[Path]], Iterator[Path]], together: bool, cache: SliceCache
) -> tuple[LazySlices, LazySlices, LazySlices]:
    """Read heads of all files below a path: fastMRI's, of other raw k-space, and of magnitudes.

    Other raw k-space is read whole, since its head does not show whether it is fully sampled.
    """
    heads: list[FastMRIHead] = []
    raw: list[WholeFile] = []
    magnitude: list[WholeFile] = []
    for file in progress(_files(path)):
        if not has_suffix(file, KSPACE_SUFFIXES):
            magnitude.append(WholeFile(file, count_slices(file), usable_slices))
        elif kind_of(file) == "fastmri":  # of the other formats, the whole file is read
            heads.append(read_head(file))
        else:
            load = partial(_raw_slices, together=together)
            raw.append(WholeFile(file, max(load(file), default=-1) + 1, load))
    complete = [FastmriFile(head, together) for head in _complete(path, heads)] if heads else []
    return (
        LazySlices(complete, cache, ZERO_KSPACE),
        LazySlices(raw, cache, ZERO_KSPACE),
        LazySlices(magnitude, cache, NO_OBJECT),
    )


def _pictures(path: Path) -> dict[int, np.ndarray]:
    return dict(enumerate(read_collection(path)))


def is_packed(path: Path) -> bool:
    """Return whether a file holds packed slices."""
    try:
        with open_checked(path) as file:
            return bool(file.attrs.get("format") == PACKED_FORMAT)
    except Exception:  # whatever damage causes
        return False


def read_packed(path: Path, cache: SliceCache | None = None) -> list[Dataset]:
    """Read packed slices: the datasets, with their weights; with a cache, slices are read when they are drawn.

    It needs h5py and numpy alone.

    Raises
    ------
    InputError
        File not found, or not such a file.
    """
    with read_errors(path, *NOT_PACKED), open_checked(path) as file:
        if file.attrs.get("format") != PACKED_FORMAT:
            raise InputError(f"{path}: holds no packed slices; {PACK_HINT}")
        return [_read_group(file[name], path, cache) for name in sorted(file, key=int)]


def _read_group(group: h5py.Group, path: Path, cache: SliceCache | None) -> Dataset:
    names = sorted(name for name in group if name != "order")
    order = group["order"][()]
    arrays: list[np.ndarray] | LazySlices
    if cache is None:
        stacks = [np.asarray(group[name][()]) for name in names]
        arrays = [stacks[which][index] for which, index in order]
    else:
        arrays = LazySlices([PackedGroup(path, group.name, names, order)], cache, NO_OBJECT)
    return Dataset(Path(group.attrs["path"]), arrays, bool(group.attrs["raw"]), float(group.attrs["weight"]))


def _complete(path: Path, heads: list[FastMRIHead]) -> list[FastMRIHead]:
    """Return the heads of fully sampled files; an error if there are none."""
    complete = [head for head in heads if not head.masked]
    if not complete:
        what = "is undersampled (it has a mask)" if path.is_file() else "every .h5 file is undersampled (has a mask)"
        raise InputError(f"{path}: {what}; training needs fully sampled scans")
    return complete


def _raw_slices(file: Path, together: bool) -> dict[int, np.ndarray]:
    """Read the slices of a fully sampled file that are not 0; unless `together`, each coil is a slice of its own."""
    found: list[np.ndarray] = []
    masked = kind_of(file) == "fastmri"  # as the challenge has it, a mask is in undersampled files alone
    for scan in open_kspace(file):
        if scan.mask is not None and masked:
            raise InputError(f"{file}: is undersampled (it has a mask); training needs fully sampled scans")
        if not masked and not is_complete(scan):
            raise InputError(f"{file}: is undersampled; training needs fully sampled scans")
        whole = np.asarray(scan.kspace)
        slices = whole if together and scan.coils > 1 else whole.reshape(-1, *whole.shape[-2:])
        found += list(slices)
    return {k: kspace for k, kspace in enumerate(found) if kspace.any()}
