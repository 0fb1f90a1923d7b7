"""A small network and small scans for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mrihvae.model.hvae import HVAE
from mrihvae.model.settings import ModelSettings
from mrihvae.physics.fourier import fft2c
from mrihvae.training.batches import Scans

SMALL = ModelSettings(
    widths=(16, 16, 16), layers=2, cascades=1, guess_widths=(16, 16), guess_memory=2
)  # takes multiples of 8


def small_model(seed: int = 0, settings: ModelSettings = SMALL) -> HVAE:
    """Make a network with weights moved at random, so that its priors, heads and posteriors all do something."""
    torch.manual_seed(seed)
    model = HVAE(settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def phantom(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draw a bright ellipse with blobs in it, and background: float32 (h, w) up to about 1."""
    rng = np.random.default_rng(seed)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    image: Any = 0.6 * (y**2 + (x / 0.8) ** 2 < 0.7)
    for _ in range(4):
        row, column = rng.uniform(-0.5, 0.5, 2)
        image = image + 0.3 * rng.random() * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 0.02)
    return np.asarray(image, dtype=np.float32)


def small_kspace(slices: int, height: int, width: int, noise: float = 0.01, seed: int = 0) -> torch.Tensor:
    """Compute the k-space of phantoms with a smooth phase and white noise: complex64 (slices, H, W)."""
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(np.stack([phantom(height, width, seed + k) for k in range(slices)]))
    phase = torch.linspace(0, 1, height)[:, None] + torch.linspace(-0.5, 0.5, width)
    white = torch.from_numpy(rng.standard_normal((slices, height, width, 2)).astype(np.float32)) / 2**0.5
    return fft2c(torch.polar(images, phase.expand_as(images))) + noise * torch.view_as_complex(white)


def every_third(width: int) -> torch.Tensor:
    """Mark every third line and the center: bool (W,)."""
    lines = torch.arange(width) % 3 == 0
    lines[width // 2 - 2 : width // 2 + 2] = True
    return lines


def small_scans(slices: int = 2, height: int = 16, width: int = 24, lines: torch.Tensor | None = None) -> Scans:
    """Make complete scans and their measurement on `lines`, bool (W,)."""
    kspace = small_kspace(slices, height, width)
    mask = (every_third(width) if lines is None else lines).expand(kspace.shape)
    return Scans.of_one_coil(kspace, torch.where(mask, kspace, 0), mask, torch.full((slices,), 0.01))
