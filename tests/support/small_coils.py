"""Small scans of several coils for tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.simulation.coil_fields import random_fields
from tests.support.small import small_kspace


def true_maps(shape: tuple[int, int], coils: int = 4, seed: int = 0) -> Tensor:
    """Draw the fields of coils, of root-sum-of-squares 1 everywhere: complex64 (coils, H, W)."""
    fields = random_fields(shape, coils, np.random.default_rng(seed))
    return fields / fields.abs().square().sum(dim=0).sqrt()


def coil_scans(
    slices: int, coils: int, height: int, width: int, noise: float = 0.005, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Make phantoms received by coils, with white noise.

    Returns
    -------
    complete k-space, complex64 (slices, coils, H, W); maps (coils, H, W); images without noise (slices, H, W)
    """
    images = ifft2c(small_kspace(slices, height, width, noise=0.0, seed=seed))
    maps = true_maps((height, width), coils, seed)
    clean = fft2c(maps * images[:, None])
    generator = torch.Generator().manual_seed(seed)
    return clean + noise * torch.randn(clean.shape, dtype=clean.dtype, generator=generator), maps, images


def calibrated(width: int, low: int = 8) -> Tensor:
    """Mark every third line, and `low` around the center, whose neighbors are not: bool (W,)."""
    lines = torch.arange(width) % 3 == 0
    first = width // 2 - low // 2
    lines[first - 1 : first + low + 1] = False
    lines[first : first + low] = True
    return lines


def some_bins(height: int, width: int, low: int = 8, seed: int = 0) -> Tensor:
    """Mark a third of all bins, and `low` x `low` around the center: bool (H, W)."""
    bins = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.35
    top, left = height // 2 - low // 2, width // 2 - low // 2
    bins[top : top + low, left : left + low] = True
    return bins


def distance(found: Tensor, truth: Tensor) -> float:
    """Compute the squared error over the squared truth (NMSE)."""
    return float((found - truth).abs().square().sum() / truth.abs().square().sum())
