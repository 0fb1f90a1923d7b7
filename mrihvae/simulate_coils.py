"""Scans of several coils for training, with maps estimated from their own calibration lines, as in use."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from mrihvae.coil_fields import random_fields
from mrihvae.coil_problem import CoilProblem, total_variation
from mrihvae.fourier import fft2c, ifft2c
from mrihvae.objective import CoilScans
from mrihvae.sense import Sense
from mrihvae.sensitivities import LEAST, calibration_box, calibration_data, fast_maps
from mrihvae.simulate import SimulationSettings, draw_mask, percentile99, place_raw, simulate_scan, white_noise
from mrihvae.units import image_scale

CLEAN = 1e-6  # noise of an image before it is received by coils


def draw_coils(
    images: list[tuple[np.ndarray, bool]], shape: tuple[int, int], settings: SimulationSettings, rng: Generator
) -> CoilScans:
    """Draw complete scans of several coils, as many in all slices, and their undersampled measurement.

    Parameters
    ----------
    images : arrays (h, w): real magnitude, or complex raw k-space of one coil where the flag beside it is True
    shape : (H, W) of the batch
    settings : of images, noise, masks and number of coils
    rng : every random choice comes from it
    """
    coils = int(rng.integers(settings.coils[0], settings.coils[1] + 1))
    drawn = [_draw(array, raw, shape, coils, settings, rng) for array, raw in images]
    maps, mask = torch.stack([one[1] for one in drawn]), torch.stack([one[2] for one in drawn])
    sense = Sense(maps, mask)
    combined = sense.adjoint(torch.stack([one[0] for one in drawn]))
    scale = image_scale(combined)
    noise = torch.tensor([one[3] for one in drawn]) / scale
    combined = combined / scale[:, None, None]
    problem = CoilProblem(sense, combined, total_variation(sense, combined), noise, scale, shape)
    complete = torch.stack([(m.conj() * ifft2c(one[0])).sum(dim=0) for one, m in zip(drawn, maps)])
    return CoilScans(fft2c(complete) / scale[:, None, None], problem, noise)


def _draw(
    array: np.ndarray, raw: bool, shape: tuple[int, int], coils: int, settings: SimulationSettings, rng: Generator
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Make one scan: complete k-space (coils, H, W), maps, mask (H, W), and the noise per bin of a coil."""
    clean = SimulationSettings(noise=(CLEAN, CLEAN), rotation=settings.rotation, partial_resolution=0.0)
    tensor = torch.from_numpy(array)
    kspace, _, own = place_raw(tensor, shape, rng) if raw else simulate_scan(array, shape, clean, rng)
    image = ifft2c(kspace)
    noise = max(percentile99(image) * math.exp(rng.uniform(*np.log(settings.noise))), own)
    white = torch.stack([white_noise(shape, rng) for _ in range(coils)])
    complete = fft2c(random_fields(shape, coils, rng) * image) + noise * white
    while True:
        mask = draw_mask(shape, settings, rng)
        if min(calibration_box(mask)) >= LEAST:
            break
    measured = torch.where(mask, complete, torch.zeros((), dtype=complete.dtype))
    return complete, fast_maps(calibration_data(measured, mask), shape), mask, noise
