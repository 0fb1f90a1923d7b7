"""MATLAB's files: version 7.3 as MATLAB writes it, with reversed axes, and version 5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from mrihvae import open_kspace
from mrihvae.errors import InputError
from mrihvae.io.kspace import head_of, kind_of, list_kspace
from mrihvae.utils.notices import collect_notices
from tests.support.files import complex_normal, error_of

SHAPE = (2, 3, 24, 20)  # slice, coil, H, W
KSPACE = complex_normal(SHAPE)
LINES = np.arange(20) % 3 == 0
THREE = "'ksp' has three axes: these are (H, W, coil) of one slice; slices of one coil are (H, W, 1, slice)"
VERSIONS = ("7.3", "7.3, without a user block", "5")


def write_mat(path: Path, version: str, **arrays: np.ndarray) -> Path:
    """Write arrays, whose axes are in MATLAB's order, as MATLAB does: of 7.3 reversed, numbers as pairs."""
    if version == "5":
        savemat(path, arrays)
        return path
    block = 512 if version == "7.3" else 0
    with h5py.File(path, "w", userblock_size=block) as file:
        for name, array in arrays.items():
            stored = np.ascontiguousarray(np.atleast_2d(array).T)
            if np.iscomplexobj(array):
                pairs = np.zeros(stored.shape, [("real", "<f8"), ("imag", "<f8")])
                pairs["real"], pairs["imag"] = stored.real, stored.imag
                stored = pairs
            file[name] = stored
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
        file["#refs#/a"] = np.zeros(2)  # where MATLAB keeps cells
    if block:
        with path.open("r+b") as raw:
            raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(block, b" "))
    return path


def in_matlab(kspace: np.ndarray) -> np.ndarray:
    """Return (slice, coil, H, W) as (H, W, coil, slice)."""
    return kspace.transpose(2, 3, 1, 0)


@pytest.mark.parametrize("key", [None, "ksp"])
@pytest.mark.parametrize("version", VERSIONS)
def test_arrays_of_four_axes(version: str, key: str | None, tmp_path: Path) -> None:
    path = write_mat(
        tmp_path / "scan.mat", version, ksp=in_matlab(KSPACE), mask=LINES.astype(float), te=np.ones((1, 1))
    )
    assert kind_of(path) == "matlab" and list_kspace(tmp_path) == [path] and head_of(path, key) == (["scan.h5"], 3)
    for lazy in (False, True):
        with collect_notices() as notices:
            (scan,) = open_kspace(path, lazy, key=key)
        assert scan.name == "scan.h5" and scan.kspace.shape == SHAPE and scan.kspace.dtype == np.complex64
        np.testing.assert_array_equal(scan.kspace, KSPACE)
        np.testing.assert_array_equal(scan.kspace[1:2], KSPACE[1:2])
        assert scan.mask is not None and scan.mask.tolist() == LINES.tolist()
        assert len(notices) == (key is None)


@pytest.mark.parametrize("version", VERSIONS)
def test_fewer_axes_and_masks_of_samples(version: str, tmp_path: Path) -> None:
    """MATLAB drops axes of size 1 at the end."""
    mask = np.random.default_rng(0).random((24, 20)) < 0.4
    for array, expected, notices in (
        (KSPACE[0].transpose(1, 2, 0), KSPACE[:1], [THREE]),
        (KSPACE[0, 0], KSPACE[0, :1], []),
        (in_matlab(KSPACE[:, :1]), KSPACE[:, 0], []),
    ):
        path = write_mat(tmp_path / "scan.mat", version, ksp=array, mask=mask.astype(np.uint8))
        with collect_notices() as found:
            (scan,) = open_kspace(path, key="ksp")
        assert scan.coils == (3 if expected.ndim == 4 else 1)
        np.testing.assert_array_equal(np.asarray(scan.kspace).reshape(expected.shape), expected)
        assert found == notices and scan.mask is not None and np.array_equal(scan.mask, mask)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"a": in_matlab(KSPACE), "b": in_matlab(KSPACE)}, {}, "several arrays may be k-space: 'a'"),
        ({"a": in_matlab(KSPACE)}, {"key": "b"}, "has no array 'b'; it has 'a'"),
        ({"a": in_matlab(KSPACE).real}, {"key": "a"}, "'a' is float"),
        ({"a": np.ones((1, 1))}, {}, "'kspace'"),
        ({"a": KSPACE}, {"key": "a"}, "'a' has shape (2, 3, 24, 20) in MATLAB, which looks like (slice, coil, H, W)"),
        ({"a": KSPACE[..., None]}, {"key": "a"}, "'a' has shape (2, 3, 24, 20, 1) in MATLAB; it must be (H, W, coil"),
        ({"a": in_matlab(KSPACE), "mask": np.ones((7, 1))}, {"key": "a"}, "'mask' has shape"),
        ({"a": in_matlab(KSPACE) * np.nan}, {"key": "a"}, "holds NaN or infinite values"),
    ],
    ids=range(8),
)
def test_what_is_wrong(
    arrays: dict[str, np.ndarray], options: dict[str, Any], message: str, version: str, tmp_path: Path
) -> None:
    path = write_mat(tmp_path / "scan.mat", version, **arrays)
    with pytest.raises(InputError) as caught:
        open_kspace(path, **options)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"abc", b"MATLAB 5.0 MAT-file".ljust(200), b"MATLAB 7.3 MAT-file".ljust(600)])
def test_damaged_files(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scan.mat").write_bytes(content)
    words = ("reconstruct", tmp_path / "scan.mat", "--output", tmp_path / "out", "--method", "zero-filled")
    assert error_of(capsys, *words).startswith(f"{tmp_path / 'scan.mat'}: ")
