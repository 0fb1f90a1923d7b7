"""Degraded images for training: noise, blur, fewer pixels and holes, drawn anew at each use of an image.

Half of the images are complex scans as `mrihvae.training.draw` draws them, half are their magnitudes, as scanners store
images: real, with real noise.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.degradations import Blur, Inpainting, SuperResolution
from mrihvae.physics.fourier import ifft2c
from mrihvae.physics.kernels import gaussian_kernel, transfer_of
from mrihvae.physics.operators import Operator
from mrihvae.physics.scaling import image_scale
from mrihvae.training.batches import DegradedImages
from mrihvae.training.draw import SimulationSettings, simulate_scan, white_noise

KINDS = {"blur": 0.27, "coarse": 0.27, "holes": 0.26, "noise": 0.2}
NOISE = {"blur": (0.003, 0.08), "coarse": (0.003, 0.08), "holes": (0.003, 0.08), "noise": (0.005, 0.2)}
REAL_SHARE = 0.5
FACTORS = (2, 4, 4)


def draw_degraded(
    images: list[tuple[np.ndarray, bool]], shape: tuple[int, int], settings: SimulationSettings, rng: Generator
) -> DegradedImages:
    """Draw images and their degradation, of one kind for the batch.

    Parameters
    ----------
    images : magnitude images (h, w); the flag beside them, of raw k-space, must be False
    shape : (H, W) of the batch
    settings : of the scans that are simulated from them; of masks and extra noise nothing is used
    rng : every random choice comes from it
    """
    if any(raw for _, raw in images):
        raise InputError("raw k-space is already noisy: degraded images are made from magnitudes")
    kind, real = str(rng.choice(list(KINDS), p=list(KINDS.values()))), bool(rng.random() < REAL_SHARE)
    truth = torch.stack([ifft2c(simulate_scan(array, shape, settings, rng)[0]) for array, _ in images])
    truth = truth.abs() if real else truth
    operator = _OPERATORS[kind](len(images), shape, rng)
    clean = operator.forward(truth)
    low, high = np.log(NOISE[kind])
    sigma = image_scale(truth) * torch.from_numpy(np.exp(rng.uniform(low, high, len(images)))).float()
    noise = torch.stack([white_noise((clean.shape[-2], clean.shape[-1]), rng) for _ in images])
    added = (noise.real * math.sqrt(2) if real else noise) * sigma[:, None, None]
    data = operator.forward(truth + added) if kind in ("holes", "noise") else clean + added
    term = LeastSquares(operator, data, sigma, real)
    scale = image_scale(term.first_image())
    return DegradedImages((truth / scale[:, None, None]).to(torch.complex64), term.scaled(scale))


def _noise(slices: int, shape: tuple[int, int], rng: Generator) -> Operator:
    return Inpainting(torch.ones(slices, *shape, dtype=torch.bool))


def _blur(slices: int, shape: tuple[int, int], rng: Generator) -> Operator:
    return Blur(torch.cat([transfer_of(_kernel(rng), shape) for _ in range(slices)]))


def _coarse(slices: int, shape: tuple[int, int], rng: Generator) -> Operator:
    """Draw blurs and pixels of 2 x 2 or 4 x 4: Gaussians, as wide as a coarse pixel or less, or its box."""
    factor = int(rng.choice(FACTORS))
    kernels = []
    for _ in range(slices):
        kernel = gaussian_kernel(factor * rng.uniform(0.2, 0.6))
        if rng.random() < 0.25:
            kernel = torch.zeros(2 * factor - 1, 2 * factor - 1)
            kernel[:factor, :factor] = 1 / factor**2  # of the pixel and those after it
        kernels.append(transfer_of(kernel, shape))
    return SuperResolution(torch.cat(kernels), factor)


def _holes(slices: int, shape: tuple[int, int], rng: Generator) -> Operator:
    return Inpainting(torch.stack([torch.from_numpy(_known(shape, rng)) for _ in range(slices)]))


_OPERATORS = {"blur": _blur, "coarse": _coarse, "holes": _holes, "noise": _noise}


def _kernel(rng: Generator) -> Tensor:
    """Draw a kernel: a Gaussian round or long, a box, a line of motion."""
    which = rng.random()
    if which < 0.6:
        width = math.exp(rng.uniform(math.log(0.6), math.log(3.5)))
        other = width * (1 if rng.random() < 0.5 else math.exp(rng.uniform(-1.2, 0)))
        return gaussian_kernel((width, max(other, 0.3)), rng.uniform(0, math.pi))
    if which < 0.8:
        height, width = (2 * int(size) + 1 for size in rng.integers(0, 4, 2))
        return torch.full((height, width), 1 / (height * width))
    reach, angle = int(rng.integers(2, 8)), rng.uniform(0, math.pi)
    line = torch.zeros(2 * reach + 1, 2 * reach + 1)
    for at in np.linspace(-reach, reach, 8 * reach + 1):
        line[round(reach + at * math.sin(angle)), round(reach + at * math.cos(angle))] += 1
    return line / line.sum()


def _known(shape: tuple[int, int], rng: Generator) -> np.ndarray:
    """Draw which pixels are known, bool (H, W): without rectangles, without single pixels, or without stripes."""
    known = np.ones(shape, dtype=bool)
    missing, which = rng.uniform(0.1, 0.7), rng.random()
    if which < 0.2:
        return np.asarray(rng.random(shape) >= min(missing * 1.4, 0.95))
    if which < 0.3:
        axis, thick = int(rng.integers(2)), int(rng.integers(1, 9))
        lost = np.repeat(rng.random(-(-shape[axis] // thick)) < 0.8 * missing, thick)[: shape[axis]]
        return np.broadcast_to(~(lost[:, None] if axis == 0 else lost), shape).copy()
    largest = int(rng.integers(6, 33))
    while known.mean() > 1 - missing:
        height, width = rng.integers(max(4, largest // 2), largest + 1, 2)
        top, left = (int(rng.integers(-size + 1, n)) for size, n in ((height, shape[0]), (width, shape[1])))
        known[max(top, 0) : top + height, max(left, 0) : left + width] = False
    return known
