"""A simulated scanner: magnitude images get a phase, the fields of coils, and noise, in k-space.

A magnitude image has no phase and no noise, and is often interpolated, which flatters every reconstruction ("data
crimes", Shimron et al. 2022). So each slice is brought to the matrix by cropping k-space, never by interpolating, and
gets a smooth phase of a few radians. Coil c, of field s_c, then measures

    y_c = F (s_c x) + n_c

with complex noise of the same standard deviation in every sample and coil.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.random import Generator, RandomState
from torch import Tensor

from mrihvae.physics.fourier import center_pad, fft2c, ifft2c, resize_kspace
from mrihvae.simulation.coil_fields import birdcage_fields, random_fields
from mrihvae.simulation.settings import ScannerSettings

PHASE_ORDER = 3


def fields_of(settings: ScannerSettings, rng: Generator) -> Tensor | None:
    """Return the fields of the coils, complex64 (coils, H, W); None for a single coil."""
    shape = (settings.matrix, settings.matrix)
    if settings.coils == 1:
        return None
    if settings.fields == "birdcage":
        return birdcage_fields(shape, settings.coils)
    return random_fields(shape, settings.coils, rng)


def noise_covariance(fields: Tensor, correlation: float) -> Tensor:
    """Compute the covariance E[n n^H] of the noise of coils, of unit variance in each: complex128 (coils, coils).

    White sources everywhere in the image reach coils i and j with covariance sum_r s_i(r) conj(s_j(r)) (Roemer et al.
    1990 have this integral of the electric fields); `correlation` is their share beside the coils' own noise.

    Parameters
    ----------
    fields : complex (coils, H, W)
    correlation : 0 to below 1, with which the covariance stays positive definite
    """
    flat = fields.flatten(start_dim=1).to(torch.complex128)
    flat = flat / flat.norm(dim=1, keepdim=True)
    covariance: Tensor = correlation * (flat @ flat.mH)
    return covariance + (1 - correlation) * torch.eye(len(flat), dtype=torch.float64)


def simulate_slice(
    magnitude: np.ndarray,
    rng: RandomState,
    settings: ScannerSettings,
    fields: Tensor | None = None,
    mixing: Tensor | None = None,
) -> tuple[Tensor, float]:
    """Compute the noisy k-space of every coil, k_c = F S_c x + n_c, from a magnitude image.

    A larger image is resampled by cropping its k-space, by one factor on both axes, until it fits; a smaller one is
    surrounded with zeros. The whole field of view is kept.

    Parameters
    ----------
    magnitude : real (h, w)
    rng : phase and noise are drawn from it
    settings : see `ScannerSettings`
    fields : S of the coils, complex64 (coils, H, W); None for a single coil
    mixing : complex64 (coils, coils) that takes white noise to that of the coils; None leaves it white

    Returns
    -------
    kspace : complex64 (coils, H, W)
    deviation : standard deviation of the noise per complex k-space sample, in each coil
    """
    matrix = settings.matrix
    image = torch.from_numpy(magnitude.astype(np.complex64))
    factor = min(1.0, matrix / max(image.shape))
    height, width = (max(1, round(size * factor)) for size in image.shape)
    image = ifft2c(resize_kspace(fft2c(image), (height, width)))
    phase = np.exp(1j * _phase(rng, matrix)).astype(np.complex64)
    image = center_pad(image, (matrix, matrix)) * torch.from_numpy(phase)
    shape = (settings.coils, matrix, matrix)
    noise = torch.from_numpy((rng.randn(*shape) + 1j * rng.randn(*shape)).astype(np.complex64))
    if mixing is not None:
        noise = torch.tensordot(mixing, noise, dims=1)
    received = image[None] if fields is None else fields * image
    combined = image.abs() if fields is None else received.abs().square().sum(dim=0).sqrt()
    deviation = settings.noise * float(torch.quantile(combined, 0.99))
    return fft2c(received) + deviation / math.sqrt(2) * noise, deviation


def _phase(rng: RandomState, matrix: int) -> np.ndarray:
    """Draw a smooth phase, (matrix, matrix): a random constant, and a random cubic of 1 to 3 radians in a disc."""
    u = np.linspace(-1, 1, matrix)
    orders = np.arange(PHASE_ORDER + 1)
    degree = orders[:, None] + orders
    coefficients = rng.randn(len(orders), len(orders)) / np.maximum(degree, 1)
    coefficients[(degree == 0) | (degree > PHASE_ORDER)] = 0.0
    phase = np.polynomial.polynomial.polygrid2d(u, u, coefficients)
    disc = np.hypot(u[:, None], u) < 1  # the corners, where a cubic is steepest, hold no object
    return np.asarray(phase * rng.uniform(1.0, 3.0) / np.abs(phase[disc]).max() + rng.uniform(-np.pi, np.pi))
