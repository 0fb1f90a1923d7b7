"""Slices to train on, of raw k-space, NIfTI, PNG, JPEG (magnitude) and collections of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.random import Generator

from mrihvae.errors import InputError
from mrihvae.fourier import fft2c, ifft2c, resize_kspace
from mrihvae.kspace_files import SUFFIXES as RAW_SUFFIXES
from mrihvae.kspace_files import kind_of, open_kspace
from mrihvae.pictures import is_collection, read_collection
from mrihvae.streams import Head, SliceCache, Stream, read_head

LARGEST_MATRIX = 448  # NIfTI beyond this is resampled
LARGEST_PICTURE = 256  # JPEG and PNG are often interpolated and coded: only their inner k-space is trusted
SMALLEST_OBJECT = 0.03  # slices with less than this fraction of bright pixels are left out
PACKED = "mrihvae slices 1"  # attribute `format` of a file of packed slices; benchmarks/pack_slices.py writes them
SUFFIXES = (*RAW_SUFFIXES, ".nii", ".nii.gz", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Reading:
    """How training data are read.

    Attributes
    ----------
    stream_above : bytes of HDF5 below a path, beyond which its slices are read when they are drawn, not before; 0 for
        always. Packed slices and all other formats are read before in any case
    cache : bytes of such slices that are kept
    together : whether a raw slice of several coils is one array (coils, h, w), not one (h, w) for each coil
    """

    stream_above: float = math.inf
    cache: int = 2**29
    together: bool = False


@dataclass(frozen=True)
class Dataset:
    """Slices of one training path: arrays (h, w), magnitude or raw k-space, drawn with `weight`.

    Raw ones of several coils are (coils, h, w), if so read. Of a collection of pictures (`mrihvae.pictures`) they are
    (channels, h, w).
    """

    path: Path
    arrays: list[np.ndarray] | Stream
    raw: bool
    weight: float

    @property
    def pictures(self) -> bool:
        """Whether they are of a collection of pictures."""
        return not self.raw and self.arrays[0].ndim == 3


class Mixture:
    """Draws slices from several datasets by their weights; a `mrihvae.training.SliceSource`."""

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
) -> Mixture:
    """Read training data given as PATH or PATH=WEIGHT; without weights, datasets count by their slices' number.

    Raises
    ------
    InputError
        A path that is not there or holds nothing readable, or a weight that is no positive number.
    """
    reading = reading or Reading()
    cache = SliceCache(reading.cache)
    datasets = []
    weighted = ["=" in one and not Path(one).exists() for one in specifications]
    if any(weighted) and not all(weighted):
        raise InputError(f"{specifications[weighted.index(False)]}: has no weight but others do; give all one, or none")
    for specification in specifications:
        whole = "=" not in specification or Path(specification).exists()
        name, _, weight = (specification, "", "") if whole else specification.rpartition("=")
        try:
            share = float(weight) if weight else 0.0
        except ValueError:
            share = -1.0
        if not 0 <= share < math.inf or (weight and share == 0):
            raise InputError(f"{specification}: the weight '{weight}' is not a number above 0; write PATH=1.5")
        datasets += load_datasets(Path(name), share, progress, reading, cache)
    return Mixture(datasets)


def load_datasets(
    path: Path,
    weight: float,
    progress: Callable[[list[Path]], Iterator[Path]],
    reading: Reading,
    cache: SliceCache,
) -> list[Dataset]:
    """Read all slices below `path`, or heads for a stream: raw k-space and magnitude become one dataset each.

    Undersampled files, which have a mask, are an error, but left out of a stream.
    """
    if not path.exists():
        raise InputError(f"{path}: not there; give a file or folder with {', '.join(SUFFIXES)}")
    if path.is_file() and is_packed(path):
        packed = read_packed(path)
        scale = (weight or sum(len(d.arrays) for d in packed)) / sum(d.weight for d in packed)
        return [replace(d, weight=d.weight * scale) for d in packed]
    if path.is_file() and is_collection(path):
        pictures = list(read_collection(path))
        return [Dataset(path, pictures, False, weight or float(len(pictures)))]
    files = sorted(p for p in path.rglob("*") if p.name.lower().endswith(SUFFIXES)) if path.is_dir() else [path]
    streamed = sum(file.stat().st_size for file in files if _is_raw(file) and file.exists()) > reading.stream_above
    heads: list[Head] = []
    read: list[np.ndarray] = []
    magnitude: list[np.ndarray] = []
    for file in progress(files):
        if not _is_raw(file):
            magnitude += magnitude_slices(file)
        elif streamed and _is_fastmri(file):
            heads.append(read_head(file))
        else:
            read += _raw_slices(file, reading.together)
    stream: list[np.ndarray] | Stream = Stream(_complete(path, heads), reading.together, cache) if heads else []
    parts = ((stream, True), (read, True), (magnitude, False))
    found = [Dataset(path, arrays, flag, 0.0) for arrays, flag in parts if len(arrays)]
    total = sum(len(arrays) for arrays, _ in parts)
    if not total:
        raise InputError(f"{path}: no usable slice in it; give a file or folder with {', '.join(SUFFIXES)}")
    scale = weight / total if weight else 1.0
    return [Dataset(d.path, d.arrays, d.raw, scale * len(d.arrays)) for d in found]


def is_packed(path: Path) -> bool:
    """Tell whether a file holds packed slices."""
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("format") == PACKED)
    except (OSError, RuntimeError):
        return False


def read_packed(path: Path) -> list[Dataset]:
    """Read packed slices: the datasets, with their weights. It needs h5py and numpy alone.

    Raises
    ------
    InputError
        Not there, or not such a file.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != PACKED:
                raise InputError(f"{path}: holds no packed slices; make it with benchmarks/pack_slices.py")
            return [_read_group(file[name]) for name in sorted(file, key=int)]
    except InputError:
        raise
    except (OSError, KeyError, ValueError, IndexError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not readable as packed slices ({reason}); copy it again") from error


def _read_group(group: h5py.Group) -> Dataset:
    stacks = [np.asarray(group[name][()]) for name in sorted(name for name in group if name != "order")]
    arrays = [stacks[which][index] for which, index in group["order"][()]]
    return Dataset(Path(group.attrs["path"]), arrays, bool(group.attrs["raw"]), float(group.attrs["weight"]))


def magnitude_slices(file: Path, smallest_object: float = SMALLEST_OBJECT) -> list[np.ndarray]:
    """Read the axial (last-axis) slices of a NIfTI volume, or a picture, as magnitude arrays (h, w).

    Raises
    ------
    InputError
        Not readable, or with NaN.
    """
    name = file.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz")):
            import nibabel

            volume = np.asanyarray(nibabel.load(file).dataobj)  # type: ignore[attr-defined]
            if volume.ndim < 2 or volume.dtype.kind not in "biuf":
                raise ValueError(f"{volume.dtype} of shape {volume.shape}, no images of magnitudes")
            volume = volume.reshape(*volume.shape[:2], -1)
            limit = LARGEST_MATRIX
        else:
            from PIL import Image

            with Image.open(file) as picture:
                volume = np.asarray(picture.convert("I" if picture.mode.startswith("I") else "L"))[..., None]
            limit = LARGEST_PICTURE
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{file}: not readable ({reason}); remove or replace it") from error
    if not np.isfinite(volume).all():
        raise InputError(f"{file}: holds NaN or infinite values; remove or replace it")
    bright = 0.1 * np.percentile(volume, 99.5)
    kept = [k for k in range(volume.shape[-1]) if (volume[..., k] > bright).mean() >= smallest_object]
    return [_shrunk(np.ascontiguousarray(volume[..., k]), limit) for k in kept]


def _shrunk(magnitude: np.ndarray, limit: int) -> np.ndarray:
    """Resample by cropping k-space to at most `limit` on either axis; smaller arrays keep their type."""
    if max(magnitude.shape) <= limit:
        return magnitude
    shape = (min(magnitude.shape[0], limit), min(magnitude.shape[1], limit))
    kspace = fft2c(torch.from_numpy(magnitude.astype(np.complex64)))
    image = ifft2c(resize_kspace(kspace, shape)).abs()
    return (image * (60000 / image.max().clamp_min(1e-12))).numpy().astype(np.uint16)


def _is_raw(file: Path) -> bool:
    return file.suffix.lower() in RAW_SUFFIXES


def _is_fastmri(file: Path) -> bool:
    """Tell whether slices can be read one by one: of the other formats the whole file is."""
    return kind_of(file) == "fastmri"


def _complete(path: Path, heads: list[Head]) -> list[Head]:
    """Leave out undersampled files, unless there is no other."""
    complete = [head for head in heads if not head.masked]
    if not complete:
        what = "is undersampled (it has a mask)" if path.is_file() else "every .h5 file is undersampled (has a mask)"
        raise InputError(f"{path}: {what}; training needs complete scans")
    return complete


def _raw_slices(file: Path, together: bool) -> list[np.ndarray]:
    """Read the slices of a fully sampled file; unless `together`, each coil is a slice of its own."""
    from mrihvae.volumes import is_complete

    found: list[np.ndarray] = []
    masked = kind_of(file) == "fastmri"  # as the challenge has it, a mask is in undersampled files alone
    for scan in open_kspace(file):
        if scan.mask is not None and masked:
            raise InputError(f"{file}: is undersampled (it has a mask); training needs complete scans")
        if not masked and not is_complete(scan):
            raise InputError(f"{file}: is undersampled; training needs complete scans")
        whole = np.asarray(scan.kspace)
        slices = whole if together and scan.coils > 1 else whole.reshape(-1, *whole.shape[-2:])
        found += [kspace for kspace in slices if kspace.any()]
    return found
