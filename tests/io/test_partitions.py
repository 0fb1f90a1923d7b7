"""Partitions of 3D scans: which may be missing, and their Fourier transform."""

from __future__ import annotations

import numpy as np
import pytest

from mrihvae.errors import InputError
from mrihvae.io.partitions import centered_fft, check_partitions
from tests.support.files import complex_normal


def ellipse(width: int, partitions: int) -> np.ndarray:
    """Mark an ellipse: bool (W, partitions)."""
    y, z = np.arange(width)[:, None] - width // 2, np.arange(partitions) - partitions // 2
    return np.asarray((y / (width / 2)) ** 2 + (z / (partitions / 2)) ** 2 <= 1)


def with_lines(lines: np.ndarray, partitions: int) -> np.ndarray:
    return np.repeat(lines[:, None], partitions, axis=1)


@pytest.mark.parametrize("partitions", [8, 9, 32])
def test_partitions_that_were_measured_whole(partitions: int) -> None:
    for lines in (np.ones(20, bool), np.arange(20) % 3 == 0):
        check_partitions(with_lines(lines, partitions))
    whole = ellipse(20, partitions)
    check_partitions(whole)
    check_partitions(whole & (np.arange(20) % 2 == 0)[:, None])
    part = with_lines(np.ones(20, bool), partitions)
    part[:, : partitions // 4] = False
    assert not check_partitions(part, partitions - partitions // 4)  # of which the header tells no more


@pytest.mark.parametrize("partitions", [16, 17, 32])
def test_partial_fourier_is_doubtful(partitions: int) -> None:
    """From either end beyond the center, also of an ellipse; up to the center, or far from both ends, it is refused."""
    for whole in (with_lines(np.ones(20, bool), partitions), ellipse(20, partitions)):
        for part in (whole.copy(), whole[:, ::-1].copy()):
            part[:, : partitions // 4] = False
            (text,) = check_partitions(part)
            assert text.startswith(f"{partitions - partitions // 4} of {partitions} partitions were acquired")
            part[:, : partitions // 2 + 1] = False
            with pytest.raises(InputError, match="partitions are missing"):
                check_partitions(part)
    middle = with_lines(np.ones(20, bool), partitions)
    middle[:, : partitions // 4] = middle[:, -(partitions // 4) :] = False
    with pytest.raises(InputError, match="partitions are missing"):
        check_partitions(middle)


@pytest.mark.parametrize("kind", ["every other", "checkerboard", "one gap", "few in most lines"])
def test_partitions_that_were_undersampled(kind: str) -> None:
    width, partitions = 20, 12
    lines = np.ones((width, partitions), bool)
    if kind == "every other":
        lines[:, ::2] = False
    elif kind == "checkerboard":
        lines = (np.arange(width)[:, None] + np.arange(partitions)) % 2 == 0
    elif kind == "one gap":
        lines[7, 5] = False
    else:
        lines[2:, 4:] = False
    with pytest.raises(InputError, match="partitions are missing"):
        check_partitions(lines)


@pytest.mark.parametrize("size", [1, 6, 7])
def test_transform_is_centered_and_keeps_the_energy(size: int) -> None:
    kspace = complex_normal((3, size, 5))
    found = centered_fft(kspace, 1, inverse=True)
    assert found.dtype == np.complex64 and found.shape == kspace.shape
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(kspace), rel=1e-6)
    k = z = np.arange(size) - size // 2
    matrix = np.exp(2j * np.pi * np.outer(z, k) / size) / size**0.5
    np.testing.assert_allclose(found, np.einsum("zk,akb->azb", matrix, kspace), atol=1e-6)
