"""Coil arrays with noise that is correlated between coils, and a phantom in a birdcage."""

from __future__ import annotations

import math

import numpy as np
import torch

from mrihvae.physics.fourier import fft2c, ifft2c, resize_kspace
from mrihvae.simulation.coil_fields import birdcage_fields
from tests.support.files import complex_normal

COILS = 8


def white(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(complex_normal(shape, seed))


def mixing(coils: int = COILS, seed: int = 1) -> torch.Tensor:
    """Draw what colors noise: gains between 0.7 and 1.5, correlations up to about 0.6, mean power 1."""
    gains = torch.from_numpy(np.exp(np.random.default_rng(seed).uniform(-0.4, 0.4, coils)).astype(np.float32))
    matrix = gains[:, None] * (torch.eye(coils) + 0.5 / math.sqrt(coils) * white(coils, coils, seed=seed))
    return matrix / (matrix.abs().square().sum() / coils).sqrt()


def covariance_of(matrix: torch.Tensor) -> torch.Tensor:
    return matrix @ matrix.mH


def error(estimate: torch.Tensor, truth: torch.Tensor) -> float:
    return float((estimate - truth).norm() / truth.norm())


def phantom_kspace(height: int, width: int, coils: int = COILS) -> torch.Tensor:
    """Compute k-space of the Shepp-Logan phantom in a birdcage: complex (coils, H, W), the image about 1.

    Of four times the resolution before it is cut, as k-space of a scanner is cut: else edges alias into the corners.
    """
    from sigpy import shepp_logan

    fine = torch.from_numpy(np.ascontiguousarray(shepp_logan((4 * height, 4 * width)))).to(torch.complex64)
    image = ifft2c(resize_kspace(fft2c(fine), (height, width))) / 4
    return fft2c(birdcage_fields((height, width), coils) * image)
