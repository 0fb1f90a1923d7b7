"""POCS: far better than zero-filling where the phase is smooth, and for partial Fourier alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.common.protocol import METHODS
from benchmarks.peers import pocs
from benchmarks.singlecoil.contestants import Contest
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.sampling import PATTERNS, Undersampling, sampling_pattern
from tests.support.small import phantom

SHAPES = [(64, 64), (63, 50), (48, 65)]


def smooth_phase(height: int, width: int) -> torch.Tensor:
    """Make a phantom with a phase of few low frequencies: complex (H, W)."""
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    phase = 1.5 * x + 0.8 * y**2 + 0.5 * torch.sin(2 * x * y)
    return torch.from_numpy(phantom(height, width)) * torch.exp(1j * phase)


def psnr(found: torch.Tensor, image: torch.Tensor) -> float:
    error = (found.abs() - image.abs()).square().mean()
    return float(20 * math.log10(image.abs().max()) - 10 * math.log10(error))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("seed", [0, 1])
def test_smooth_phase(shape: tuple[int, int], axis: int, seed: int) -> None:
    """On both sides and axes, and on odd sizes."""
    image = smooth_phase(*shape)
    mask = torch.from_numpy(sampling_pattern("partial_fourier", shape, 1.5, 0.2, seed, axis))
    kspace = fft2c(image)
    found = pocs.reconstruct(kspace, mask, 5)
    assert psnr(found, image) > psnr(ifft2c(kspace * mask), image) + 6
    assert torch.allclose(fft2c(found)[mask], kspace[mask], atol=1e-4 * float(kspace.abs().max()))


def test_scale_coils_and_ignored_samples() -> None:
    image = smooth_phase(48, 40)
    mask = torch.from_numpy(sampling_pattern("partial_fourier", (48, 40), 1.5, 0.2, 0))
    kspace = fft2c(torch.stack([image, 1j * image]).to(torch.complex128))
    one = pocs.reconstruct(kspace[0], mask, 3)
    both = pocs.reconstruct(1e-6 * torch.where(mask, kspace, 7.0), mask, 3)
    assert torch.allclose(both, 1e-6 * torch.stack([one, 1j * one]), atol=1e-15)
    assert torch.allclose(pocs.reconstruct(kspace, mask, 0), ifft2c(kspace * mask))


@pytest.mark.parametrize("shape", SHAPES)
def test_window_is_of_the_symmetric_center(shape: tuple[int, int]) -> None:
    mask = sampling_pattern("partial_fourier", shape, 1.5, 0.2, 0)
    window = pocs.phase_window(torch.from_numpy(mask)).numpy()
    rows, columns = shape[0] // 2, shape[1] // 2
    assert window[rows, columns] == 1 and not window[~mask].any()
    central = window[rows - 5 : rows + 6, columns - 5 : columns + 6]
    np.testing.assert_array_equal(central, central[::-1, ::-1])
    missing = np.flatnonzero(~mask[0])
    reach = min(abs(missing - columns)) - 1
    assert np.count_nonzero(window[rows]) == 2 * reach + 1


def test_center_that_was_not_acquired() -> None:
    mask = torch.ones(16, 16, dtype=torch.bool)
    mask[:, 8] = False
    with pytest.raises(InputError, match="the center of k-space was not acquired"):
        pocs.reconstruct(torch.ones(16, 16, dtype=torch.complex64), mask, 1)


def test_it_takes_partial_fourier_alone() -> None:
    for pattern in PATTERNS:
        taken = [name for name in METHODS if Contest.takes(name, Undersampling(pattern, 2, 0.1))]
        assert ("pocs" in taken) == (pattern == "partial_fourier") and len(taken) >= len(METHODS) - 1


@pytest.mark.parametrize("kind", ["raw", "simulated"])
def test_as_a_contestant(kind: str) -> None:
    """It beats zero-filling, and its row says how many iterations it had."""
    pattern = Undersampling("partial_fourier", 1.5, 0.2)
    image = smooth_phase(64, 64)
    scan = Scan("x.h5", fft2c(image)[None].numpy())
    mask = sampling_pattern("partial_fourier", (64, 64), 1.5, 0.2, 0)
    contest = Contest(None, [], {})  # type: ignore[arg-type]
    peer, zero_filled = (contest.contestant(name, pattern, kind) for name in ("pocs", "zero-filled"))
    error, before = (np.linalg.norm(one.run(scan, mask)[0] - image.abs().numpy()) for one in (peer, zero_filled))
    assert error < 0.7 * before
    assert peer.made_by == f"iterations {pocs.ITERATIONS[kind]}"
