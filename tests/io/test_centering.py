"""K-space with DC at [0, 0] is centered as it is read: the same samples, mask and image as of centered k-space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrihvae import open_kspace
from mrihvae.data.scan import Scan
from mrihvae.io.centering import center_scan
from mrihvae.utils.notices import collect_notices
from tests.support.files import complex_normal, write_h5
from tests.support.small_coils import calibrated, coil_scans

AXES = (-2, -1)
SIZES = [(48, 40), (47, 39), (48, 39)]


def centered(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Make images (slice, coil, H, W) and their centered k-space."""
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(coil_scans(3, 2, 48, 40)[0].numpy(), AXES)), AXES)
    images = images[..., : size[0], : size[1]]
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, AXES)), AXES).astype(np.complex64)
    return images, kspace


def read(path: Path, **arrays: Any) -> tuple[Scan, list[str]]:
    """Read a file with --uncentered, which must give the same at once and slice by slice."""
    write_h5(path, **arrays)
    with collect_notices() as notices:
        (scan,), (lazy,) = open_kspace(path, uncentered=True), open_kspace(path, lazy=True, uncentered=True)
    np.testing.assert_array_equal(scan.kspace, lazy.kspace)
    np.testing.assert_array_equal(scan.kspace[1:2], lazy.kspace[1:2])
    assert lazy.kspace.dtype == np.complex64
    return scan, notices


@pytest.mark.parametrize("size", SIZES)
def test_shifted_samples_and_mask(size: tuple[int, int], tmp_path: Path) -> None:
    _, truth = centered(size)
    lines = calibrated(size[1]).numpy()
    grid = lines & (np.arange(size[0]) % 5 > 0)[:, None]
    for mask, axes in ((lines, -1), (grid, AXES)):
        stored = np.fft.ifftshift(np.where(mask, truth, 0), AXES)
        path = tmp_path / f"{mask.ndim}.h5"  # another file: the one before may be open a moment longer
        scan, notices = read(path, kspace=stored, mask=np.fft.ifftshift(mask, axes))
        np.testing.assert_array_equal(scan.kspace, np.where(mask, truth, 0))
        assert scan.mask is not None and np.array_equal(scan.mask, mask) and notices == []


@pytest.mark.parametrize("size", SIZES)
def test_transforms_that_shift_neither_side(size: tuple[int, int], tmp_path: Path) -> None:
    """numpy.fft.fft2 alone: the image lies around the corner, too."""
    images, truth = centered(size)
    scan, notices = read(tmp_path / "scan.h5", kspace=np.fft.fft2(images).astype(np.complex64))
    np.testing.assert_allclose(scan.kspace, truth, atol=1e-5 * np.abs(truth).max())
    assert notices == ["the image lay around the edge of the field of view along H and W; it was moved back"]


@pytest.mark.parametrize(("stored", "there"), [((), "H and W"), ((-2,), "W"), ((-1,), "H")])
def test_axes_that_are_centered_already(stored: tuple[int, ...], there: str, tmp_path: Path) -> None:
    _, truth = centered((48, 40))
    scan, notices = read(tmp_path / "scan.h5", kspace=np.fft.ifftshift(truth, stored) if stored else truth)
    np.testing.assert_array_equal(scan.kspace, truth)
    assert notices == [f"k-space is already centered along {there}: --uncentered was not applied there"]


def test_noise_and_tiny_arrays_are_shifted(tmp_path: Path) -> None:
    for shape in ((2, 30, 21), (1, 4, 4)):
        kspace = complex_normal(shape)
        with collect_notices() as notices:
            found = center_scan(Scan("a", kspace))
        np.testing.assert_array_equal(found.kspace, np.fft.fftshift(kspace, AXES))
        assert found.mask is None and notices == []
