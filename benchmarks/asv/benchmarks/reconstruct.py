"""Seconds per slice, and memory, of methods on k-space of one coil and of several, on one thread."""

from __future__ import annotations

import numpy as np
import torch

import mrihvae
from mrihvae.physics import fft2c
from mrihvae.simulation import birdcage_fields

SIZE = 128


def kspace_of(coils: int) -> tuple[np.ndarray, np.ndarray]:
    """Make k-space of ellipses with noise, complex64 (coil, H, W), and lines, bool (W,)."""
    rng = np.random.default_rng(0)
    y, x = np.linspace(-1, 1, SIZE)[:, None], np.linspace(-1, 1, SIZE)
    image = 1.0 * (y**2 + (x / 0.8) ** 2 < 0.7) + 0.5 * ((y - 0.2) ** 2 + x**2 < 0.1)
    fields = birdcage_fields((SIZE, SIZE), coils=coils) if coils > 1 else torch.ones(1, SIZE, SIZE)
    kspace = fft2c(fields * torch.from_numpy(image * np.exp(1j * (0.5 * y + 0.3 * x))))
    real, imaginary = 0.01 * rng.standard_normal((2, *kspace.shape))
    lines = mrihvae.sampling_pattern("random", (SIZE, SIZE), acceleration=4, center_fraction=0.08, seed=0)[0]
    return np.where(lines, kspace.numpy() + real + 1j * imaginary, 0).astype(np.complex64), lines


class Reconstruct:
    """One slice of 128 x 128 at 4x, with maps from its own calibration region where there are several coils."""

    params = (("amortized", "hybrid"), (1, 4))
    param_names = ("method", "coils")
    timeout = 300.0
    number, repeat, warmup_time = 1, 5, 0.0

    def setup(self, method: str, coils: int) -> None:
        """Make the slice and load the method."""
        torch.set_num_threads(1)
        self.kspace, self.lines = kspace_of(coils)
        self.method = mrihvae.load_method(method, "multicoil" if coils > 1 else "default")

    def time_slice(self, method: str, coils: int) -> None:
        """Reconstruct the slice."""
        mrihvae.reconstruct(self.kspace, self.lines, axes="coil H W", method=self.method)

    def peakmem_slice(self, method: str, coils: int) -> None:
        """Reconstruct the slice."""
        mrihvae.reconstruct(self.kspace, self.lines, axes="coil H W", method=self.method)
