"""Scans of several coils for training, with maps estimated from their own calibration lines, as in use.

Magnitude images, and raw scans of one coil, are received by coils drawn at random. Raw scans of several coils keep
their own coils, phase and noise.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from mrihvae.coils.compression import compression_matrix, mix_coils
from mrihvae.coils.espirit import MIN_ACS_SIZE, calibration_box, calibration_data, fast_maps
from mrihvae.inference.problem import MultiCoilProblem
from mrihvae.physics.fourier import apply_mask, center_pad, fft2c, ifft2c, resize_kspace
from mrihvae.physics.mri import Sense
from mrihvae.physics.noise import background_noise
from mrihvae.physics.scaling import image_scale
from mrihvae.simulation.coil_fields import random_fields
from mrihvae.training.batches import Scans
from mrihvae.training.draw import SimulationSettings, draw_mask, draw_noise, fit_to_matrix, simulate_scan, white_noise

CLEAN = 1e-6  # noise of an image before it is received by coils
SHIFT = 0.125  # greatest offset of a crop, over the size of the image: scanners read twice as far as the object reaches


def draw_coils(
    images: list[tuple[np.ndarray, bool]], shape: tuple[int, int], settings: SimulationSettings, rng: Generator
) -> Scans:
    """Draw fully sampled multi-coil scans, of one number of coils, and their undersampled acquisition.

    Their reconstruction by total variation (`Scans.with_tv_initialization`) is left to the device that trains.

    The number of coils is drawn first. Raw scans of more coils are compressed to so many virtual ones; where one has
    fewer, the whole batch takes the number of that one, for coils cannot be added to a scan.

    Parameters
    ----------
    images : arrays (h, w): real magnitude, or complex raw k-space of one coil where the flag beside it is True; or
        (coils, h, w), raw k-space of several coils
    shape : (H, W) of the batch
    settings : of images, noise, masks and number of coils
    rng : every random choice comes from it
    """
    least = max(settings.coils[0], 2) if settings.one_coil else settings.coils[0]
    coils = int(math.exp(rng.uniform(math.log(least), math.log(settings.coils[1] + 1))))
    coils = min([coils, *(len(array) for array, raw in images if raw and array.ndim == 3)])
    drawn = [_draw(array, raw, shape, coils, settings, rng) for array, raw in images]
    maps, mask = torch.stack([scan[1] for scan in drawn]), torch.stack([scan[2] for scan in drawn])
    sense = Sense(maps, mask)
    combined = sense.adjoint(torch.stack([scan[0] for scan in drawn]))
    scale = image_scale(combined)
    noise = torch.tensor([scan[3] for scan in drawn]) / scale
    combined = combined / scale[:, None, None]
    problem = MultiCoilProblem(
        mask=mask, noise=noise, scale=scale, padded=shape, sense=sense, combined=combined, first=combined
    )
    complete = torch.stack([(m.conj() * ifft2c(scan[0])).sum(dim=0) for scan, m in zip(drawn, maps)])
    return Scans(fft2c(complete) / scale[:, None, None], problem, noise)


def fit_coils_to_matrix(
    kspace: Tensor, coils: int, shape: tuple[int, int], rng: Generator
) -> tuple[Tensor, tuple[int, int], float]:
    """Fit a raw scan of several coils to (H, W), all coils alike, as `mrihvae.training.draw.fit_to_matrix` does one.

    Parameters
    ----------
    kspace : complete, complex64 (own coils, h, w)
    coils : virtual coils to compress it to, if it has more
    shape : (H, W); the image is cropped to it around a place near its center, or padded with the scan's noise
    rng : every random choice comes from it

    Returns
    -------
    k-space, complex64 (coils, H, W), transposed, flipped and of another phase at random
    its extent (h, w), outside of which it is 0: lines that the scanner did not encode
    standard deviation of its noise per complex bin, the root of the coils' mean power
    """
    filled = (kspace != 0).any(dim=0)
    shares = [_share(filled.any(dim=axis)) for axis in (1, 0)]
    if coils < len(kspace):
        kspace = mix_coils(kspace, compression_matrix(kspace, coils))
    noise = float(background_noise(kspace))
    image = ifft2c(kspace)
    if rng.random() < 0.5:
        image, shares = image.mT, shares[::-1]
    image = image.flip([axis for axis in (-2, -1) if rng.random() < 0.5])
    image = image * complex(np.exp(1j * rng.uniform(-math.pi, math.pi)))
    for axis, want in zip((-2, -1), shape):
        spare = image.shape[axis] - want
        if spare > 0:
            offset = round(min(spare / 2, SHIFT * image.shape[axis]) * rng.uniform(-1, 1))
            image = image.narrow(axis, min(max(spare // 2 + offset, 0), spare), want)
    outside = center_pad(torch.zeros(image.shape[1:]), shape, value=1.0)
    white = torch.stack([white_noise(shape, rng) for _ in range(len(image))])
    placed = fft2c(center_pad(image, shape) + noise * outside * white)
    height, width = (min(size, math.ceil(share * size)) for share, size in zip(shares, shape))
    return resize_kspace(resize_kspace(placed, (height, width)), shape), (height, width), noise


def _share(filled: Tensor) -> float:
    """Compute the share of an axis, bool (size,), that reaches from DC as far to both sides as data do."""
    size, where = len(filled), torch.nonzero(filled)[:, 0]
    return max(2 * (size // 2 - int(where[0])), 2 * (int(where[-1]) - size // 2) + 1) / size


def _draw(
    array: np.ndarray, raw: bool, shape: tuple[int, int], coils: int, settings: SimulationSettings, rng: Generator
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Draw one scan: full k-space (coils, H, W), maps, mask (H, W), and the noise per sample of a coil."""
    if raw and array.ndim == 3:
        complete, extent, noise = fit_coils_to_matrix(torch.from_numpy(array), coils, shape, rng)
    else:
        (complete, noise), extent = _receive(array, raw, shape, coils, settings, rng), shape
    while True:
        mask = center_pad(draw_mask(extent, settings, rng), shape, value=True)  # beyond, bins are known to be 0
        if min(calibration_box(mask)) >= MIN_ACS_SIZE:
            break
    measured = apply_mask(complete, mask)
    return complete, fast_maps(calibration_data(measured, mask), shape), mask, noise


def _receive(
    array: np.ndarray, raw: bool, shape: tuple[int, int], coils: int, settings: SimulationSettings, rng: Generator
) -> tuple[Tensor, float]:
    """Let coils drawn at random receive an image: full k-space (coils, H, W), and its noise per sample."""
    clean = replace(settings, noise=(CLEAN, CLEAN), partial_resolution=0.0, empty=0.0)
    tensor = torch.from_numpy(array)
    kspace, _, own = fit_to_matrix(tensor, shape, rng) if raw else simulate_scan(array, shape, clean, rng)
    image = ifft2c(kspace)
    noise = max(draw_noise(image, settings, rng), own)
    white = torch.stack([white_noise(shape, rng) for _ in range(coils)])
    return fft2c(random_fields(shape, coils, rng) * image) + noise * white, noise
