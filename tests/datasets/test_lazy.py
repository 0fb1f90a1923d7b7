"""Slices that are read when they are drawn: the same as those in memory, in bounded memory; and raw scans of coils."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import pickle
import signal
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.training import pack_slices
from mrihvae.cli import train as cli_train
from mrihvae.cli.main import parse
from mrihvae.datasets.lazy import LazySlices, SliceCache
from mrihvae.datasets.mixture import Dataset, Reading, WeightedDatasets, load_mixture
from mrihvae.errors import InputError
from mrihvae.io.fastmri import read_head
from mrihvae.model.settings import ModelSettings
from mrihvae.model.weights import load_card
from mrihvae.physics.fourier import center_pad, fft2c, ifft2c
from mrihvae.physics.noise import background_noise
from mrihvae.simulation.coil_fields import birdcage_fields
from mrihvae.training.batches import Scans
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.draw_coils import SHIFT, draw_coils, fit_coils_to_matrix
from mrihvae.training.loop import Batches
from mrihvae.training.run import TrainSettings
from tests.support.files import complex_normal, error_of, run, truncate, write_h5, write_scan
from tests.support.small import phantom

STREAMED = Reading(stream_above=0)
TOGETHER = dataclasses.replace(STREAMED, together=True)
COILS = SimulationSettings(coils=(2, 4), max_acceleration=3)


def coil_scan(slices: int, coils: int, height: int, width: int, noise: float = 0.002, seed: int = 0) -> np.ndarray:
    """Compute complete k-space of phantoms that a birdcage receives: complex64 (slices, coils, H, W)."""
    images = torch.from_numpy(np.stack([phantom(height, width, seed + k) for k in range(slices)]))
    kspace = fft2c(birdcage_fields((height, width), coils) * images[:, None])
    found: np.ndarray = kspace.numpy() + np.float32(noise) * complex_normal((slices, coils, height, width), seed)
    return found


def write_coils(path: Path, slices: int, coils: int, height: int = 40, width: int = 36, seed: int = 0) -> Path:
    kspace = coil_scan(slices, coils, height, width, seed=seed)
    return write_scan(path, kspace.shape, kspace=kspace)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as fastMRI's, one level deeper than asked for, of files of all kinds."""
    write_scan(tmp_path / "all" / "a.h5", (3, 24, 20))
    write_scan(tmp_path / "all" / "b.h5", (2, 4, 24, 20), seed=1)
    write_scan(tmp_path / "all" / "c.h5", (2, 1, 20, 24), seed=2)
    write_scan(tmp_path / "all" / "deeper" / "d.H5", (1, 3, 24, 22), seed=3)
    return tmp_path / "all"


def draws(mixture: WeightedDatasets, count: int = 40) -> list[np.ndarray]:
    drawn = mixture.draw(count, np.random.default_rng(0))
    assert all(raw for _, raw in drawn)
    return [array for array, _ in drawn]


def stream_of(path: Path, reading: Reading = STREAMED) -> LazySlices:
    (dataset,) = load_mixture([str(path)], reading=reading).datasets
    assert dataset.raw and isinstance(dataset.arrays, LazySlices)
    return dataset.arrays


# --- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True])
def test_stream_draws_what_a_list_in_memory_does(folder: Path, together: bool) -> None:
    before = load_mixture([str(folder)], reading=Reading(together=together))
    streamed = load_mixture([str(folder)], reading=dataclasses.replace(STREAMED, together=together))
    assert isinstance(before.datasets[0].arrays, list)
    stream = stream_of(folder, dataclasses.replace(STREAMED, together=together))
    assert len(stream) == len(before.datasets[0].arrays) == (3 + 2 + 2 + 1 if together else 3 + 8 + 2 + 3)
    for ours, theirs in ((list(stream), before.datasets[0].arrays), (draws(streamed), draws(before))):  # type: ignore[call-overload]
        assert all(a.dtype == np.complex64 and np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    shapes = {array.shape for array in before.datasets[0].arrays}
    one = {(24, 20), (20, 24), (24, 22)}
    assert shapes == ({(24, 20), (4, 24, 20), (20, 24), (3, 24, 22)} if together else one)
    with pytest.raises(IndexError):
        stream[len(stream)]


def test_other_numbers_become_complex64(tmp_path: Path) -> None:
    kspace = complex_normal((2, 24, 20)).astype(">c16")
    write_h5(tmp_path / "a.h5", kspace=kspace)
    stream = stream_of(tmp_path / "a.h5")
    assert stream[1].dtype == np.complex64 and np.array_equal(stream[1], kspace[1].astype(np.complex64))


def test_other_formats_are_datasets_of_their_own(folder: Path) -> None:
    write_picture(folder / "picture.png", phantom(30, 20))
    raw, magnitude = load_mixture([f"{folder}=2"], reading=STREAMED).datasets
    assert isinstance(raw.arrays, LazySlices) and isinstance(magnitude.arrays, LazySlices)
    assert (raw.weight, magnitude.weight) == (pytest.approx(2 * 16 / 17), pytest.approx(2 / 17))


def write_picture(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray((200 * image / max(image.max(), 1e-9)).astype(np.uint8)).save(path)
    return path


def write_volume(
    path: Path, slices: int, empty: Sequence[int] = (), size: tuple[int, int] = (30, 20), seed: int = 0
) -> Path:
    """Write a NIfTI volume of different phantoms, some slices of which are empty: int16 (h, w, slices)."""
    path.parent.mkdir(exist_ok=True)
    images = np.stack([phantom(*size, seed + k) * (k not in empty) for k in range(slices)], axis=-1)
    nibabel.save(nibabel.Nifti1Image((1000 * images).astype(np.int16), np.diag([1, 1, 5, 1])), path)
    return path


def write_pictures(path: Path, count: int) -> Path:
    pictures = np.stack([255 * phantom(28, 28, k) / 2 for k in range(count)]).astype(np.uint8)
    header = bytes((0, 0, 8, 3)) + b"".join(int(n).to_bytes(4, "big") for n in pictures.shape)
    path.write_bytes(gzip.compress(header + pictures.tobytes()))
    return path


def write_packed(path: Path) -> Path:
    """Write packed slices: raw ones of two sizes, and magnitudes."""
    raw = [complex_normal((24, 20 + 2 * (k % 2)), k) for k in range(5)]
    images = [(1000 * phantom(40, 30, k)).astype(np.uint16) for k in range(7)]
    datasets = [Dataset(Path("a/raw"), raw, True, 0.25), Dataset(Path("b/images"), images, False, 0.75)]
    pack_slices.pack(datasets, path, 1e6)
    return path


def write_bart(path: Path) -> Path:
    """Write k-space of another format than HDF5, two slices of which are 0: (slices, coils, h, w)."""
    kspace = coil_scan(4, 2, 24, 20)
    kspace[1:3] = 0
    np.save(path, kspace)
    path.with_suffix(".json").write_text(json.dumps({"axes": ["slice", "coil", "H", "W"]}))
    return path


def mixed(path: Path) -> list[str]:
    """Make data of every kind."""
    for name in ("volumes", "pictures", "raw", "numpy"):
        (path / name).mkdir(parents=True)
    for k in range(3):
        write_volume(path / "volumes" / f"{k}.nii{'.gz' * (k % 2)}", 6 + k)
        write_picture(path / "pictures" / f"{k}.png", phantom(30, 20, k))
        write_scan(path / "raw" / f"{k}.h5", (3, 24, 20), seed=k)
    write_bart(path / "numpy" / "scan.npy")
    packed = write_packed(path / "packed.h5")
    return [*(str(path / name) for name in ("volumes", "pictures", "raw")), str(packed)]


def same_slices(ours: Iterable[tuple[np.ndarray, bool]], theirs: Iterable[tuple[np.ndarray, bool]]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) and x == y for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("cache", [0, 20_000, 10**9])
def test_every_kind_of_data_draws_as_from_memory(tmp_path: Path, cache: int) -> None:
    paths = mixed(tmp_path)
    before = load_mixture(paths)
    streamed = load_mixture(paths, reading=dataclasses.replace(STREAMED, cache=cache))
    assert all(isinstance(dataset.arrays, LazySlices) for dataset in streamed.datasets)
    assert [(d.path, d.raw, len(d.arrays)) for d in streamed.datasets] == [
        (d.path, d.raw, len(d.arrays)) for d in before.datasets
    ]
    np.testing.assert_allclose(streamed.shares, before.shares)
    for seed in range(3):
        drawn = streamed.draw(60, rng_of(seed))
        assert same_slices(drawn, before.draw(60, rng_of(seed)))
        assert same_slices(drawn, pickle.loads(pickle.dumps(streamed)).draw(60, rng_of(seed)))
    assert {raw for _, raw in drawn} == {True, False}


def test_collections_of_pictures_are_streamed(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "train-images-idx3-ubyte.gz", 9)
    (before,), (after,) = (load_mixture([str(path)], reading=r).datasets for r in (Reading(), STREAMED))
    assert isinstance(after.arrays, LazySlices) and after.pictures and len(after.arrays) == 9
    assert all(np.array_equal(after.arrays[k], before.arrays[k]) for k in range(9))


@pytest.mark.parametrize("together", [False, True])
def test_other_raw_formats_are_streamed(tmp_path: Path, together: bool) -> None:
    path = write_bart(tmp_path / "scan.npy")
    stream = stream_of(path, dataclasses.replace(STREAMED, together=together))
    (before,) = load_mixture([str(path)], reading=Reading(together=together)).datasets
    parts = 1 if together else 2
    assert len(stream) == 4 * parts and len(before.arrays) == 2 * parts
    given = [0, 1, 1, 1] if together else [0, 1, 2, 2, 2, 2, 2, 3]  # in place of an empty one the next
    assert all(np.array_equal(stream[k], before.arrays[which]) for k, which in enumerate(given))


def test_slices_without_an_object_give_the_next(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", 5, empty=(0, 2, 4))
    write_volume(tmp_path / "b.nii.gz", 2, seed=9)
    (dataset,) = load_mixture([str(tmp_path)], reading=STREAMED).datasets
    (usable,) = load_mixture([str(tmp_path)]).datasets
    assert len(dataset.arrays) == 7 and len(usable.arrays) == 4
    for _ in range(2):
        assert [which_of(dataset.arrays[k], usable.arrays) for k in range(7)] == [0, 0, 1, 1, 2, 2, 3]
    for path in tmp_path.iterdir():
        write_volume(path, 3, empty=range(3))
    with pytest.raises(InputError, match="no slice with an object in it; give other files"):
        load_mixture([str(tmp_path)], reading=STREAMED).draw(1, rng_of())


def which_of(array: np.ndarray, arrays: Any) -> int:
    return [np.array_equal(array, one) for one in arrays].index(True)


def test_heads_alone_are_read_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_volume(tmp_path / "a.nii.gz", 5)
    write_picture(tmp_path / "b.png", phantom(30, 20))
    monkeypatch.setattr("mrihvae.io.magnitudes.read_nifti", lambda file: pytest.fail("voxels were read"))
    monkeypatch.setattr("mrihvae.io.magnitudes.read_picture", lambda file: pytest.fail("pixels were read"))
    (dataset,) = load_mixture([str(tmp_path)], reading=STREAMED).datasets
    assert len(dataset.arrays) == 6


def test_streams_begin_beyond_a_size(folder: Path) -> None:
    size = sum(file.stat().st_size for file in folder.rglob("*.[hH]5"))
    for above, streamed in ((size - 1, True), (size, False)):
        (dataset,) = load_mixture([str(folder)], reading=Reading(stream_above=above)).datasets
        assert isinstance(dataset.arrays, LazySlices) == streamed
    assert cli_train.STREAMED == 10**9
    for words, above in (((), 1e9), (("--stream",), 0), (("--no-stream",), float("inf"))):
        arguments = parse(["train", str(folder), "--output", "run", *words])
        assert cli_train.reading_of(arguments, True) == Reading(above, 512_000_000, True)


def test_undersampled_files_are_left_out(folder: Path) -> None:
    write_scan(folder / "a.h5", (3, 24, 20), mask=np.arange(20) % 2 == 0)
    stream = stream_of(folder)
    assert len(stream) == 8 + 2 + 3 and np.array_equal(stream[0], complex_normal((2, 4, 24, 20), 1)[0, 0])


def test_a_slice_of_zeros_gives_the_next(tmp_path: Path) -> None:
    kspace = complex_normal((4, 24, 20))
    kspace[1:3] = 0
    kspace[0, 12, 10] = 0  # DC alone is no sign
    stream = stream_of(write_scan(tmp_path / "a.h5", kspace.shape, kspace=kspace))
    assert all(np.array_equal(stream[k], kspace[given]) for k, given in enumerate((0, 3, 3, 3)))
    kspace[3] = 0
    stream = stream_of(write_scan(tmp_path / "b.h5", kspace.shape, kspace=kspace))
    assert np.array_equal(stream[2], kspace[0])  # those after the last are the first
    stream = stream_of(write_scan(tmp_path / "c.h5", (2, 24, 20), kspace=0 * kspace))
    with pytest.raises(InputError, match="k-space of all slices is zero"):
        stream[0]


# --- what is wrong ---------------------------------------------------------------------------------------------------

BAD: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.write_text("text"), "truncated or not an HDF5 file"),
    (lambda path: truncate(write_scan(path)), "truncated or not an HDF5 file"),
    (lambda path: write_h5(path, images=np.ones(3)), "has no dataset 'kspace'"),
    (lambda path: write_scan(path, kspace=np.ones((2, 24, 20))), "'kspace' is float64, not complex"),
    (lambda path: write_scan(path, kspace=complex_normal((24, 20))), "'kspace' has shape (24, 20)"),
    (lambda path: write_scan(path, kspace=complex_normal((0, 24, 20))), "'kspace' has shape (0, 24, 20)"),
    (lambda path: write_scan(path, mask=np.arange(20) % 2 == 0), "is undersampled (it has a mask)"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_heads_are_named(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(tmp_path / "bad.h5")
    with pytest.raises(InputError) as caught:
        load_mixture([str(tmp_path / "bad.h5")], reading=STREAMED)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'bad.h5'}: ") and message in text and "\n" not in text


def test_folder_of_undersampled_files(tmp_path: Path) -> None:
    for name in "ab":
        write_scan(tmp_path / f"{name}.h5", mask=np.arange(20) % 2 == 0)
    with pytest.raises(InputError, match="every .h5 file is undersampled .*training needs fully sampled scans"):
        load_mixture([str(tmp_path)], reading=STREAMED)


def test_what_goes_wrong_in_a_draw_is_named(tmp_path: Path) -> None:
    kspace = complex_normal((3, 24, 20))
    kspace[1, 3, 4] = np.nan
    stream = stream_of(write_scan(tmp_path / "a.h5", kspace.shape, kspace=kspace))
    assert np.array_equal(stream[0], kspace[0])
    with pytest.raises(InputError, match=r"a.h5: dataset 'kspace' holds NaN or infinite values in slice 1; export"):
        stream[1]
    write_scan(tmp_path / "a.h5", (2, 24, 20))
    with pytest.raises(InputError, match=r"a.h5: slice 2 cannot be read any more \(.*\); put back"):
        stream[2]
    truncate(tmp_path / "a.h5")
    with pytest.raises(InputError, match="a.h5: slice 2 cannot be read any more"):
        stream[2]
    (tmp_path / "a.h5").unlink()
    with pytest.raises(InputError, match=r"a.h5: slice 2 cannot be read any more \(.*No such file"):
        stream[2]


def test_what_goes_wrong_in_a_draw_of_other_kinds_is_named(tmp_path: Path) -> None:
    """Heads are right, but what follows is not."""
    write_volume(tmp_path / "a" / "a.nii.gz", 3)
    write_picture(tmp_path / "b" / "b.png", phantom(30, 20))
    write_packed(tmp_path / "c.h5")
    mixture = load_mixture([str(tmp_path / name) for name in ("a", "b", "c.h5")], reading=STREAMED)
    for path in ("a/a.nii.gz", "b/b.png", "c.h5"):
        truncate(tmp_path / path)
    for dataset, message in zip(
        mixture.datasets,
        ("a.nii.gz: not readable", "b.png: not readable", *["c.h5: not readable as packed slices"] * 2),
        strict=True,
    ):
        with pytest.raises(InputError, match=message) as caught:
            dataset.arrays[0]
        assert "\n" not in str(caught.value)
    write_volume(tmp_path / "a" / "a.nii.gz", 2)  # a slice less than its head told
    assert np.array_equal(mixture.datasets[0].arrays[2], mixture.datasets[0].arrays[0])


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (np.zeros((4, 5, 3), np.complex64), r"is complex \(complex64\); give real numbers"),
        (np.arange(20, dtype=np.int16), r"has shape \(20,\); give \(H, W\)"),
    ],
)
def test_bad_heads_of_volumes(tmp_path: Path, volume: np.ndarray, message: str) -> None:
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=rf"a.nii.gz: {message}"):
        load_mixture([str(tmp_path)], reading=STREAMED)


def test_huge_numbers_are_not_taken_for_infinite(tmp_path: Path) -> None:
    kspace = complex_normal((1, 24, 20)) * np.float32(1e30)
    assert np.array_equal(stream_of(write_scan(tmp_path / "a.h5", kspace.shape, kspace=kspace))[0], kspace[0])


def test_heads_tell_shapes(folder: Path) -> None:
    heads = [read_head(folder / name) for name in ("a.h5", "b.h5", "c.h5")]
    assert [(head.shape, head.coils, head.masked) for head in heads] == [
        ((3, 24, 20), 1, False),
        ((2, 4, 24, 20), 4, False),
        ((2, 1, 20, 24), 1, False),
    ]


# --- memory and files ------------------------------------------------------------------------------------------------


def test_cache_keeps_what_was_used_last() -> None:
    cache, arrays = SliceCache(3 * 80), [np.zeros(10) + k for k in range(5)]
    for k in range(3):
        cache.keep(Path("a"), (k,), arrays[k])
    assert cache.get(Path("a"), (0,)) is arrays[0] and cache.get(Path("a"), (0, 1)) is None
    cache.keep(Path("a"), (3,), arrays[3])  # in place of 1, which was used before 2 and 0
    assert [cache.get(Path("a"), (k,)) is not None for k in range(4)] == [True, False, True, True]
    cache.keep(Path("b"), (0,), np.zeros(31))  # larger than all of it
    assert cache.held == 240 and len(cache) == 3 and cache.get(Path("b"), (0,)) is None
    cache.keep(Path("b"), (0,), np.zeros(20))
    assert cache.held == 240 and len(cache) == 2
    copy = pickle.loads(pickle.dumps(cache))
    assert (copy.limit, copy.held, len(copy)) == (240, 0, 0)


def test_cache_drops_what_came_along_first() -> None:
    """A volume of 4 slices of 80 bytes comes with every draw; what was drawn stays as long as there is room."""
    cache = SliceCache(6 * 80)
    for name in "abc":
        arrays = {(k,): np.zeros(10) + k for k in range(4)}
        drawn = arrays.pop((1,))
        cache.add(Path(name), arrays)
        cache.keep(Path(name), (1,), drawn)
        assert cache.held <= cache.limit
    assert all(cache.get(Path(name), (1,)) is not None for name in "abc")
    assert cache.get(Path("a"), (0,)) is None and cache.get(Path("c"), (3,)) is not None
    cache.add(Path("d"), {(k,): np.zeros(10) for k in range(7)})  # larger than all of it
    assert cache.get(Path("d"), (0,)) is None and cache.held <= cache.limit
    cache.add(Path("c"), {(3,): np.zeros(10)})  # is there
    assert cache.held == 80 * len(cache)


def test_memory_of_every_kind_is_bounded(tmp_path: Path) -> None:
    """Twenty times the cache are drawn from; beside it there is a volume, and what is drawn."""
    for k in range(12):
        write_volume(tmp_path / f"{k}.nii.gz", 8, size=(64, 64))  # of 64 kB
        write_picture(tmp_path / f"{k}.png", phantom(64, 64, k))
        write_scan(tmp_path / f"{k}.h5", (2, 64, 64), seed=k)
    limit = 80_000
    mixture = load_mixture([str(tmp_path)], reading=dataclasses.replace(STREAMED, cache=limit))
    mixture.draw(20, rng_of(1))  # imports, and buffers of readers
    tracemalloc.start()
    rng = rng_of()
    for _ in range(60):
        mixture.draw(2, rng)
        assert all(d.arrays.cache.held <= limit for d in mixture.datasets)  # type: ignore[union-attr]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < limit + 100_000  # of 12 x (64 + 4 + 64) kB
    cache = mixture.datasets[0].arrays.cache  # type: ignore[union-attr]
    arrays = [*cache._used.values(), *cache._unused.values()]
    assert cache.held == sum(array.nbytes for array in arrays) > 0
    assert all(array.base is None for array in arrays)  # nothing larger is held by a part of it


@pytest.mark.parametrize("kept", [0, 3])
def test_memory_is_flat_and_no_file_stays_open(tmp_path: Path, kept: int) -> None:
    """64 slices of 64 kB in 16 files, of which at most `kept` stay in memory."""
    size = 8 * 2 * 64 * 64
    for k in range(16):
        write_scan(tmp_path / f"{k}.h5", (4, 2, 64, 64), seed=k)
    limit = kept * size + 100
    mixture = load_mixture([str(tmp_path)], reading=dataclasses.replace(TOGETHER, cache=limit))
    stream = mixture.datasets[0].arrays
    assert isinstance(stream, LazySlices)
    open_files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    mixture.draw(2, np.random.default_rng(1))
    tracemalloc.start()
    rng = np.random.default_rng(0)
    for _ in range(50):
        mixture.draw(2, rng)
        assert stream.cache.held <= limit and len(stream.cache) <= kept
        assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == 0
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < kept * size + 100_000 and peak < (kept + 4) * size + 100_000  # of 64 slices
    assert open_files == 0 or len(list(Path("/proc/self/fd").iterdir())) <= open_files


def test_kept_slices_are_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stream_of(folder)
    first = list(stream)  # type: ignore[call-overload]
    monkeypatch.setattr("mrihvae.datasets.lazy._read", None)
    assert all(stream[k] is array for k, array in enumerate(first))


def test_pickles_hold_names_and_numbers(folder: Path) -> None:
    mixture = load_mixture([str(folder)], reading=TOGETHER)
    expected = draws(mixture)
    pickled = pickle.dumps(mixture)
    assert len(pickled) < 4000 and mixture.datasets[0].arrays.cache.held > 4000  # type: ignore[union-attr]
    assert all(np.array_equal(a, b) for a, b in zip(draws(pickle.loads(pickled)), expected))


# --- raw scans of several coils --------------------------------------------------------------------------------------


def rng_of(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rss(images: Tensor) -> Tensor:
    return images.abs().square().sum(dim=0).sqrt()


def turned(images: Tensor, way: tuple[int, ...]) -> Tensor:
    """Transpose images (..., h, w), and flip them along either axis."""
    turn, down, right = way
    return (images.mT if turn else images).flip([*[-2] * down, *[-1] * right])


def test_scan_that_fits_is_flipped_and_turned_alone() -> None:
    kspace = torch.from_numpy(coil_scan(1, 3, 32, 32)[0])
    images, seen = ifft2c(kspace), set()
    for seed in range(60):
        placed, extent, noise = fit_coils_to_matrix(kspace, 3, (32, 32), rng_of(seed))
        after = ifft2c(placed)
        ways = itertools.product((0, 1), repeat=3)
        (way,) = [way for way in ways if torch.allclose(rss(turned(images, way)), rss(after), atol=1e-5)]
        seen.add(way)
        phase = torch.vdot(turned(images, way).flatten(), after.flatten())
        torch.testing.assert_close(after, turned(images, way) * phase / phase.abs(), atol=1e-5, rtol=1e-4)
        assert extent == (32, 32) and noise == pytest.approx(float(background_noise(kspace)))
    assert len(seen) == 8


def test_crop_lies_near_the_center_and_is_the_same_for_all_coils() -> None:
    image = torch.polar(torch.arange(1.0, 64 * 160 + 1).view(64, 160), torch.zeros(64, 160))
    coils = torch.tensor([1.0, 2.0, -0.5])
    kspace = fft2c(coils[:, None, None] * image)
    offsets = set()
    for seed in range(80):
        placed, *_ = fit_coils_to_matrix(kspace, 3, (32, 48), rng_of(seed))
        cropped = ifft2c(placed)
        for coil, factor in enumerate(coils):
            torch.testing.assert_close(cropped[coil], cropped[0] * factor, atol=0.2, rtol=1e-3)
        numbers = cropped[0].abs().round().long() - 1
        rows, columns = numbers // 160, numbers % 160
        center = [float(rows.float().mean()) - 31.5, float(columns.float().mean()) - 79.5]
        assert abs(center[0]) <= SHIFT * 64 + 1 and abs(center[1]) <= SHIFT * 160 + 1
        assert sorted((len(rows.unique()), len(columns.unique()))) == [32, 48]
        offsets.add(round(center[1]))
    assert len(offsets) > 15 and max(offsets) - min(offsets) > SHIFT * 160


def test_padding_is_noise_as_the_scan_has_it() -> None:
    kspace = torch.from_numpy(complex_normal((4, 64, 64)))  # of deviation 1
    placed, _, noise = fit_coils_to_matrix(kspace, 4, (128, 96), rng_of())
    assert noise == pytest.approx(1, rel=0.05)
    edge = ifft2c(placed)[:, :32]
    assert float(edge.abs().square().mean()) == pytest.approx(1, rel=0.1)
    together = edge.flatten(1) @ edge.flatten(1).mH / edge[0].numel()
    torch.testing.assert_close(together.abs(), torch.eye(4), atol=0.1, rtol=0)


def test_lines_that_were_not_encoded_stay_empty_and_count_as_known() -> None:
    kspace = coil_scan(1, 3, 64, 64)[0]
    kspace[..., :8] = kspace[..., -6:] = 0
    extents = set()
    for seed in range(8):
        rng = rng_of(seed)
        coils = int(rng.integers(COILS.coils[0], COILS.coils[1] + 1))
        placed, extent, _ = fit_coils_to_matrix(torch.from_numpy(kspace), coils, (32, 32), rng)
        assert sorted(extent) == [26, 32]  # data reach from 24 before DC to 25 after it: 51 of 64, 25.5 of 32
        empty = (placed == 0).all(dim=0)
        assert torch.equal(empty, center_pad(torch.zeros(extent, dtype=torch.bool), (32, 32), value=True))
        scans = draw_coils([(kspace, True)], (32, 32), COILS, rng_of(seed))
        assert bool(scans.problem.mask[0][empty].all())
        extents.add(extent)
    assert len(extents) == 2


def test_compression_keeps_energy_and_noise() -> None:
    kspace = torch.from_numpy(coil_scan(1, 8, 48, 48)[0])
    placed, *_ = fit_coils_to_matrix(kspace, 5, (48, 48), rng_of())
    assert placed.shape == (5, 48, 48)
    assert 0.98 < float(placed.abs().square().sum() / kspace.abs().square().sum()) < 1
    white, _, noise = fit_coils_to_matrix(torch.from_numpy(complex_normal((8, 64, 64))), 5, (64, 64), rng_of())
    assert noise == pytest.approx(1, rel=0.05)
    together = white.flatten(1) @ white.flatten(1).mH / white[0].numel()
    torch.testing.assert_close(together.abs(), torch.eye(5), atol=0.08, rtol=0)


def check_coils(scans: Scans, slices: int, coils: int, shape: tuple[int, int]) -> None:
    sense = scans.problem.sense
    assert sense.maps.shape == (slices, coils, *shape) and scans.kspace.shape == (slices, *shape)
    for tensor in (scans.kspace, sense.maps, scans.problem.combined, scans.problem.first):
        assert bool(torch.isfinite(tensor.abs()).all())
    assert bool((scans.noise > 0).all())


def test_batch_takes_the_number_of_coils_that_all_have() -> None:
    many = [(array, True) for array in coil_scan(2, 6, 40, 36)]
    magnitude, one = (phantom(40, 36), False), (coil_scan(1, 1, 40, 36)[0, 0], True)
    three = SimulationSettings(coils=(3, 3), max_acceleration=3)
    check_coils(draw_coils([*many, magnitude, one], (32, 48), three, rng_of()), 4, 3, (32, 48))
    few = (coil_scan(1, 2, 36, 40)[0], True)  # fewer than asked for
    check_coils(draw_coils([*many, few, magnitude], (32, 32), three, rng_of()), 4, 2, (32, 32))
    counts = {draw_coils(many[:1], (32, 32), COILS, rng_of(k)).problem.sense.maps.shape[1] for k in range(12)}
    assert counts == {2, 3, 4}


def test_batch_of_raw_coils_depends_on_the_generator_alone() -> None:
    images = [(array, True) for array in coil_scan(2, 6, 40, 36)]
    first, again, other = (draw_coils(images, (32, 32), COILS, rng_of(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.kspace, again.kspace) and torch.equal(first.problem.combined, again.problem.combined)
    assert torch.equal(first.problem.sense.maps, again.problem.sense.maps)
    assert not torch.equal(first.kspace, other.kspace)


def test_raw_coils_keep_image_and_noise() -> None:
    """Combined by maps of their own calibration lines, coils give the object; and the noise is the scan's."""
    kspace = coil_scan(1, 6, 96, 96, noise=0.1)
    settings = SimulationSettings(coils=(6, 6), max_acceleration=1.3)
    scans = draw_coils([(kspace[0], True)], (96, 96), settings, rng_of(3))
    image = ifft2c(scans.kspace)[0].abs()
    truth = rss(ifft2c(torch.from_numpy(kspace[0])))
    found = float(torch.corrcoef(torch.stack([image.flatten().sort().values, truth.flatten().sort().values]))[0, 1])
    assert found > 0.99  # the same pixels in some order, with less noise
    assert float(scans.noise[0] * scans.problem.scale[0]) == pytest.approx(0.1, rel=0.1)


# --- the command -----------------------------------------------------------------------------------------------------

MODEL = ModelSettings(widths=(16, 16), layers=1, cascades=1, guess_widths=(16, 16), guess_memory=2)  # multiples of 4
SETTINGS = TrainSettings(
    steps=3, warmup=1, shapes=((32, 24), (24, 32)), pixels=1600, guess_only=0, masked_start=0, prior_every=2, bf16=False
)


@pytest.fixture(autouse=True)
def keep_signal_handlers() -> Iterator[None]:
    """The command installs handlers of its own."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def as_toml(values: dict[str, Any]) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


@pytest.fixture
def fastmri(tmp_path: Path) -> Path:
    """Folders as fastMRI's, small."""
    for k in range(2):
        write_coils(tmp_path / "fastmri" / "multicoil_train" / f"file{k}.h5", 2, 3 + k, seed=k)
        kspace = coil_scan(2, 1, 40, 36, seed=k)[:, 0]
        write_scan(tmp_path / "fastmri" / "singlecoil_train" / f"file{k}.h5", kspace.shape, kspace=kspace)
    return tmp_path / "fastmri"


@pytest.fixture
def protocols(tmp_path: Path) -> Callable[[str], Path]:
    """Training protocols of a small network on these folders."""

    def write(challenge: str) -> Path:
        coils = [[1, 1], [2, 4]][challenge == "multicoil"]
        sections = {
            "data": {f"{challenge}_train": 0.5},
            "model": dataclasses.asdict(MODEL),
            "training": dataclasses.asdict(SETTINGS),
            "simulation": {"coils": coils, "max_acceleration": 3.0},
        }
        text = "".join(f"[{name}]\n{as_toml(values)}" for name, values in sections.items())
        path = tmp_path / f"{challenge}.toml"
        path.write_text(f'description = "small"\n{text}')
        return path

    return write


def same_weights(*runs: Path) -> None:
    first, second = (load_file(run / "checkpoint.safetensors") for run in runs)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("challenge", ["singlecoil", "multicoil"])
def test_fastmri_folder_trains_by_a_protocol_and_resumes_exactly(
    challenge: str, tmp_path: Path, fastmri: Path, protocols: Callable[[str], Path]
) -> None:
    protocol = protocols(challenge)
    words = ("train", "--protocol", protocol, "--data", fastmri, "--stream", "--cache-megabytes", "0.05")
    assert run(*words, "--output", tmp_path / "whole") == 0
    # stopped after 2 steps of 3, whose learning rates are those of 3
    monkey = pytest.MonkeyPatch()
    asked = iter([False, True])
    monkey.setattr(cli_train, "Stop", lambda minutes: lambda: next(asked))
    assert run(*words, "--output", tmp_path / "parts") == 0
    monkey.undo()
    card = load_card(tmp_path / "parts" / "weights.safetensors")
    assert card["counters"]["step"] == 2 and card["protocol"]["name"] == challenge
    slices = 4  # of two files
    assert card["data"] == [
        {
            "path": f"fastmri/{challenge}_train",
            "slices": slices,
            "kind": "raw k-space",
            "share": 1.0,
            "streamed": True,
        }
    ]
    assert run(*words, "--output", tmp_path / "parts", "--resume", "--workers", "2") == 0
    same_weights(tmp_path / "whole", tmp_path / "parts")
    plain = ("train", fastmri / f"{challenge}_train", "--protocol", protocol, "--no-stream")
    assert run(*plain, "--output", tmp_path / "memory") == 0
    same_weights(tmp_path / "whole", tmp_path / "memory")
    assert "streamed" not in load_card(tmp_path / "memory" / "weights.safetensors")["data"][0]


def test_all_kinds_of_data_train_and_resume_exactly_from_a_stream(tmp_path: Path) -> None:
    paths = mixed(tmp_path / "data")
    simulation = {"physical_phase": 0.8, "fill": [0.5, 1.2], "tone": 0.5, "inversion": 0.3, "blur": 0.2, "empty": 0.1}
    sections = {"model": dataclasses.asdict(MODEL), "training": dataclasses.asdict(SETTINGS), "simulation": simulation}
    (tmp_path / "settings.json").write_text(json.dumps(sections))
    words = ("train", *paths, "--settings", tmp_path / "settings.json")
    assert run(*words, "--output", tmp_path / "memory", "--no-stream") == 0
    stream = ("--stream", "--cache-megabytes", "0.02")
    monkey = pytest.MonkeyPatch()
    asked = iter([False, True])
    monkey.setattr(cli_train, "Stop", lambda minutes: lambda: next(asked))
    assert run(*words, "--output", tmp_path / "parts", *stream) == 0
    monkey.undo()
    assert run("train", *paths, "--output", tmp_path / "parts", "--resume", *stream) == 0
    same_weights(tmp_path / "memory", tmp_path / "parts")
    card = load_card(tmp_path / "parts" / "weights.safetensors")
    assert [one["streamed"] for one in card["data"]] == [True] * 5
    assert card["simulation"]["fill"] == [0.5, 1.2]


def test_coils_are_slices_of_their_own_for_one_coil(
    tmp_path: Path, fastmri: Path, protocols: Callable[[str], Path]
) -> None:
    words = ("train", fastmri / "multicoil_train", "--protocol", protocols("singlecoil"), "--stream", "--steps", "1")
    assert run(*words, "--output", tmp_path / "run") == 0
    assert load_card(tmp_path / "run" / "weights.safetensors")["data"][0]["slices"] == 2 * 3 + 2 * 4


def test_batches_of_a_stream(fastmri: Path) -> None:
    """Of one coil and of several: step n depends on settings, data and n alone."""
    for simulation in (SimulationSettings(), COILS):
        reading = dataclasses.replace(STREAMED, together=simulation.several, cache=0)
        first, again = (
            Batches(SETTINGS, simulation, load_mixture([str(fastmri / "multicoil_train")], reading=reading))
            for _ in range(2)
        )
        first[0], first[2]
        assert torch.equal(first[1].kspace, again[1].kspace)  # type: ignore[union-attr]
        assert isinstance(first[1], Scans) and (first[1].coils > 1) == simulation.several


@pytest.mark.parametrize("workers", ["0", "1"])
def test_bad_slice_ends_a_run_with_one_line(
    workers: str,
    tmp_path: Path,
    fastmri: Path,
    protocols: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in (fastmri / "singlecoil_train").iterdir():
        with h5py.File(path, "r+") as file:
            file["kspace"][1, 3, 3] = np.nan
    words = ("train", "--protocol", protocols("singlecoil"), "--data", fastmri, "--stream", "--workers", workers)
    text = error_of(capsys, *words, "--output", tmp_path / "run")
    assert "holds NaN or infinite values in slice 1; export it again" in text and text.startswith(str(fastmri))


def test_mistakes_of_the_command(
    tmp_path: Path, fastmri: Path, protocols: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    protocol, output = protocols("multicoil"), ("--output", tmp_path / "run")
    settings = tmp_path / "settings.json"
    settings.write_text("{}")
    by = ("train", "--protocol", protocol)

    def told(*words: str | Path) -> str:
        return error_of(capsys, *words, *output)

    assert told("train") == "PATH: nothing to train on; give data, or --protocol NAME and --data DIR"
    assert told("train", "--data", fastmri).startswith(
        "--data: is the folder with the data of --protocol; without a protocol"
    )
    assert told(*by) == "--data: is missing; give the directory with multicoil_train, or PATHs"
    assert told("train", fastmri, *by[1:], "--data", fastmri).startswith("--data: PATHs replace")
    text = told(*by, "--data", fastmri, "--settings", settings)
    assert text == "--settings: the protocol has its own settings; edit a copy of it ('mrihvae protocols NAME')"
    assert told(*by, "--data", tmp_path / "none") == (
        f"{tmp_path / 'none'}: has no folder 'multicoil_train', and no .h5 files itself; give --data with it"
    )
    text = told("train", "--protocol", "knee_multicol", "--data", fastmri)
    assert text.startswith("knee_multicol: neither a training protocol of the package (near ones are knee_multicoil")
    assert told(*by, "--data", fastmri, "--cache-megabytes", "-1") == "--cache-megabytes -1.0: must be at least 0"
    for old, new, message in (
        ("steps =", "stepps =", "multicoil.toml, training: unknown setting 'stepps'; the nearest known one is 'steps'"),
        ("coils = [2, 4]", "coils = [0, 4]", "multicoil.toml, simulation: coils (0, 4) must be two numbers"),
        ("widths =", "width =", "multicoil.toml, model: unknown setting 'width'"),
        ("[model]", "[modell]", "multicoil.toml: unknown setting 'modell'; the nearest known one is 'model'"),
        ("masked_start = 0", "masked_start = 3", "starts from weights: set masked_start 0"),
        ('"small"', '"small"\nweights = "none"', "none: neither shipped weights"),
    ):
        text = protocols("multicoil").read_text()
        assert old in text
        protocol.write_text(text.replace(old, new, 1))
        assert message in told(*by, "--data", fastmri)
    assert not (tmp_path / "run").exists()


def test_raw_coils_are_no_pictures(
    tmp_path: Path, fastmri: Path, protocols: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = protocols("multicoil")
    real = protocol.read_text().replace("real = false", "real = true").replace("masked = true", "masked = false")
    protocol.write_text(real)
    words = ("train", "--protocol", protocol, "--data", fastmri, "--output", tmp_path / "run")
    assert "does not fit the model, which is for collections of pictures" in error_of(capsys, *words)
