"""Checks of noise scans and coils: finite values, enough samples, no coil that is dead."""

from __future__ import annotations

import torch
from torch import Tensor

from mrihvae.errors import InputError

MIN_NOISE_SAMPLES = 10  # samples a coil, below which a covariance says too little


def _check_noise(noise: Tensor, name: str) -> Tensor:
    """Check a noise scan, complex128 (coils, samples)."""
    if noise.ndim < 2:
        raise InputError(f"{name} has shape {tuple(noise.shape)}; it must be (coils, samples)")
    _check_finite(noise, name)
    noise = noise.flatten(1).to(torch.complex128)
    coils, samples = noise.shape
    if samples < MIN_NOISE_SAMPLES * coils:
        raise InputError(
            f"{name} has {samples} samples for {coils} coils, shape (coils, samples); at least "
            f"{MIN_NOISE_SAMPLES} per coil are needed"
        )
    _check_coils_are_live(noise.abs().square().mean(dim=1), name)
    return noise


def _check_finite(array: Tensor, name: str) -> None:
    if not bool(array.isfinite().all()):
        raise InputError(f"{name} holds NaN or infinite values; export the scan again")


def _check_coils_are_live(power: Tensor, name: str) -> None:
    if bool((power <= 0).any()):
        coil = int((power <= 0).nonzero()[0])
        raise InputError(f"{name}: coil {coil}, counted from 0, has no noise at all; leave this coil out")
