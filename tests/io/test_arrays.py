"""Which array of a file is k-space, and its numbers, whatever their name, type and byte order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrihvae import open_kspace
from mrihvae.cli.reconstruct_files import reconstruct_file
from mrihvae.errors import InputError
from mrihvae.io.hdf5 import read_dataset
from mrihvae.io.kspace import head_of, kind_of
from mrihvae.recon.catalog import make_method
from mrihvae.utils.notices import collect_notices
from tests.support.files import complex_normal, write_h5, write_scan

SHAPE = (2, 3, 24, 20)
KSPACE = complex_normal(SHAPE)
LINES = np.arange(20) % 3 == 0


def parts(kspace: np.ndarray, names: tuple[str, str], kind: str) -> np.ndarray:
    """Return pairs of numbers of a compound type."""
    found = np.zeros(kspace.shape, [(names[0], kind), (names[1], kind)])
    found[names[0]], found[names[1]] = kspace.real, kspace.imag
    return found


def read(path: Path, **options: Any) -> tuple[np.ndarray, list[str]]:
    """Read a file at once and slice by slice; return the array, which must be the same, and the notices."""
    with collect_notices() as notices:
        (scan,), (lazy,) = open_kspace(path, **options), open_kspace(path, lazy=True, **options)
    assert scan.kspace.dtype == np.complex64
    np.testing.assert_array_equal(scan.kspace, lazy.kspace)
    np.testing.assert_array_equal(scan.kspace[1:2], lazy.kspace[1:2])
    return np.asarray(scan.kspace), notices


@pytest.mark.parametrize(
    ("stored", "tolerance"),
    [
        (KSPACE.astype(">c8"), 0),
        (KSPACE.astype("<c16"), 0),
        (KSPACE.astype(">c16"), 0),
        (parts(KSPACE, ("real", "imag"), "<f4"), 0),
        (parts(KSPACE, ("real", "imag"), ">f8"), 0),
        (parts(KSPACE, ("r", "i"), "<f2"), 1e-3),
        (np.stack((KSPACE.real, KSPACE.imag), axis=-1), 0),
        (np.stack((KSPACE.real, KSPACE.imag), axis=-1).astype(">f8"), 0),
    ],
    ids=range(8),
)
def test_types_of_complex_numbers(stored: np.ndarray, tolerance: float, tmp_path: Path) -> None:
    found, notices = read(write_h5(tmp_path / "scan.h5", kspace=stored))
    np.testing.assert_allclose(found, KSPACE, rtol=tolerance, atol=tolerance)
    assert notices == []


def test_whole_numbers_in_pairs(tmp_path: Path) -> None:
    stored = parts(np.round(100 * KSPACE.real) + 1j * np.round(100 * KSPACE.imag), ("i", "r"), "<i2")
    found, _ = read(write_h5(tmp_path / "scan.h5", kspace=stored))
    np.testing.assert_array_equal(found, stored["r"] + 1j * stored["i"])


@pytest.mark.parametrize("kind", ["<i2", ">f4", "<f8", "?"])
def test_real_numbers_are_refused(kind: str, tmp_path: Path) -> None:
    path = write_h5(tmp_path / "scan.h5", kspace=KSPACE.real.astype(kind))
    with pytest.raises(InputError, match="'kspace' is .*, not complex; store it as complex64"):
        open_kspace(path)


@pytest.mark.parametrize("scale", [1e39, 1e-50])
def test_numbers_beyond_single_precision(scale: float, tmp_path: Path) -> None:
    path = write_h5(tmp_path / "scan.h5", kspace=KSPACE.astype(np.complex128) * scale)
    if scale < 1:
        assert not np.any(open_kspace(path)[0].kspace)  # the look at k-space says that it is zero
        return
    for lazy in (False, True):
        with pytest.raises(InputError, match="holds NaN or infinite values"):
            open_kspace(path, lazy)


@pytest.mark.parametrize("key", ["ksp", "scan/ksp", "scan/data", "a/b/c"])
def test_other_names(key: str, tmp_path: Path) -> None:
    """With --key, or without it where nothing else can be k-space."""
    path = write_h5(tmp_path / "scan.h5", **{key: KSPACE, "sensitivity_maps": KSPACE[:1], "labels": np.ones(3)})
    found, notices = read(path, key=key)
    np.testing.assert_array_equal(found, KSPACE)
    assert notices == [] and head_of(path, key) == (["scan.h5"], 3) and kind_of(path, key) == "fastmri"
    found, notices = read(path)
    np.testing.assert_array_equal(found, KSPACE)
    assert notices == [f"k-space was read from '{key}', the only array that can be k-space; use --key for another"]


def test_what_belongs_to_kspace_lies_beside_it_or_at_the_top(tmp_path: Path) -> None:
    maps = complex_normal((1, *SHAPE[1:]), 1)
    arrays = {"scan/ksp": KSPACE, "scan/mask": LINES, "mask": ~LINES, "sensitivity_maps": maps}
    (scan,) = open_kspace(write_h5(tmp_path / "scan.h5", **arrays), key="scan/ksp")
    assert scan.mask is not None and scan.mask.tolist() == LINES.tolist()
    assert scan.maps is not None and np.array_equal(scan.maps, maps)


@pytest.mark.parametrize(
    ("arrays", "key", "message"),
    [
        ({"ksp": KSPACE}, "data", "has no array 'data'; it has 'ksp' complex64 (2, 3, 24, 20); choose one with --key"),
        (
            {"a": KSPACE, "g/b": KSPACE[:, 0]},
            None,
            "several arrays may be k-space: 'a' complex64 (2, 3, 24, 20), 'g/b'",
        ),
        ({"kspace": KSPACE}, "nothing/here", "has no array 'nothing/here'; it has 'kspace'"),
        ({"ksp": KSPACE.real}, "ksp", "'ksp' is float32, not complex"),
        ({"ksp": KSPACE[0, 0]}, "ksp", "'ksp' has shape (24, 20); it must be (slices, H, W)"),
        (
            {"kspace_real": KSPACE.real, "kspace_imag": KSPACE.imag},
            None,
            "two arrays, 'kspace_real' and 'kspace_imag'; store kspace_real + 1j * kspace_imag as one array, 'kspace'",
        ),
        ({"labels": np.ones((2, 24, 20))}, None, "has no dataset 'kspace' (it has labels)"),
    ],
)
def test_names_that_do_not_lead_to_kspace(
    arrays: dict[str, np.ndarray], key: str | None, message: str, tmp_path: Path
) -> None:
    path = write_h5(tmp_path / "scan.h5", **arrays)
    with pytest.raises(InputError) as caught:
        open_kspace(path, key=key)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


def test_keys_are_of_formats_with_names(tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", KSPACE)
    (tmp_path / "scan.json").write_text('{"axes": ["slice", "coil", "H", "W"]}')
    with pytest.raises(InputError, match=r"scan.npy: --key ksp only applies to HDF5 and .mat files, and this is numpy"):
        open_kspace(tmp_path / "scan.npy", key="ksp")


@pytest.mark.parametrize("order", ["<", ">"])
def test_maps_noise_mask_and_target_of_either_byte_order(order: str, tmp_path: Path) -> None:
    """The same image as of little-endian arrays; torch takes the native order alone."""
    noise = complex_normal((3, 60), 2)
    maps = np.full(SHAPE, 3**-0.5, np.complex64)
    images = {}
    for name, mark in (("native", "="), ("stored", order)):
        path = write_scan(
            tmp_path / name / "scan.h5", SHAPE, kspace=np.where(LINES, KSPACE, 0).astype(f"{mark}c8"),
            mask=LINES.astype(f"{mark}f4"), sensitivity_maps=maps.astype(f"{mark}c8"), noise=noise.astype(f"{mark}c16"),
            reconstruction_rss=np.ones((2, 24, 20), f"{mark}f4"),
        )  # fmt: skip
        (scan,) = open_kspace(path)
        assert scan.maps is not None and scan.maps.dtype.isnative and scan.target is not None
        assert scan.target.dtype.isnative
        reconstruct_file(path, tmp_path / name, make_method("sense", strength=0.01), None, 1)
        images[name] = read_dataset(tmp_path / name / "reconstructions/scan.h5", "reconstruction")
    np.testing.assert_array_equal(images["native"], images["stored"])


def test_notices_reach_the_summary(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "scan.h5", ksp=np.where(LINES, KSPACE, 0), mask=LINES)
    (row,) = reconstruct_file(path, tmp_path / "out", make_method("zero-filled"), None, 1)
    assert any("read from 'ksp'" in text for text in row["warnings"])
