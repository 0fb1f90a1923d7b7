"""Augmentation of magnitude images before scans are simulated from them: orientation, size, place and contrast."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

KNOTS = 5  # of a random curve of contrast, beside 0
BACKGROUND = (0.05, 0.12)  # of the bright tissue, below which inverted contrast takes all for background


def reorient(array: np.ndarray, rng: Generator) -> np.ndarray:
    """Flip and transpose an image at random."""
    if rng.random() < 0.5:
        array = array.T
    for axis in (0, 1):
        if rng.random() < 0.5:
            array = np.flip(array, axis)
    return array.copy()


def rotate(image: Tensor, angle: float) -> Tensor:
    """Rotate about the center by bicubic interpolation; its detail is cut off by the resampling that follows."""
    height, width = image.shape
    c, s = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[[c, -s * height / width, 0.0], [s * width / height, c, 0.0]]])
    grid = torch.nn.functional.affine_grid(matrix, [1, 1, height, width], align_corners=False)
    rotated = torch.nn.functional.grid_sample(image[None, None], grid, mode="bicubic", align_corners=False)
    return rotated[0, 0].clamp_min(0)


def resampled_size(
    bright: Tensor,
    shape: tuple[int, int],
    finest: float,
    filled: tuple[float, float],
    anisotropy: float,
    rng: Generator,
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Choose the matrix to resample an image to, and the point in it that becomes the center of (H, W).

    Where the edge of the image cuts the object off, that of (H, W) does so, too, if the image is large enough: there
    is no more of the object to show.

    Parameters
    ----------
    bright : where the object is, bool (h, w)
    shape : (H, W), of the scan
    finest : greatest ratio of the matrix to the image's, so that no detail is made up
    filled : least and greatest share of (H, W) that the object fills
    anisotropy : greatest log-factor of stretching one axis and shrinking the other
    rng : every random choice comes from it
    """
    if not bright.any():  # nothing in it, or rotated out of it
        bright = torch.ones_like(bright)
    rows, columns = (torch.nonzero(bright.any(dim=axis)).flatten() for axis in (1, 0))
    box = [(int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)]
    fill = rng.uniform(*filled)
    zoom = min(fill * size / (high - low) for size, (low, high) in zip(shape, box))
    stretch = math.exp(rng.uniform(-anisotropy, anisotropy))
    cut = [(_cut(bright, axis, 0), _cut(bright, axis, -1)) for axis in (0, 1)]
    zooms = [
        min(max(zoom * factor, want / have if any(ends) else 0.0), finest)
        for factor, want, have, ends in zip((stretch, 1 / stretch), shape, bright.shape, cut)
    ]
    sizes = [max(16, round(size * factor)) for size, factor in zip(bright.shape, zooms)]
    center = []
    for (low, high), new, old, want, ends in zip(box, sizes, bright.shape, shape, cut):
        middle = (low + high) / 2 * new / old + rng.uniform(-0.04, 0.04) * want
        if ends[1]:
            middle = min(middle, new - want / 2)
        if ends[0]:
            middle = max(middle, want / 2)
        center.append(middle)
    return (sizes[0], sizes[1]), (center[0], center[1])


def _cut(bright: Tensor, axis: int, end: int) -> bool:
    """Return whether the image's edge cuts the object off, bool (h, w), at an end (0 or -1) of an axis."""
    edge = bright.select(axis, end)
    return float(edge.sum()) > 0.05 * len(edge)


def cut_out(image: Tensor, shape: tuple[int, int], center: tuple[float, float]) -> Tensor:
    """Cut (H, W) around `center` out of an image, with zeros where the image ends."""
    result = image.new_zeros(shape)
    source, target = [], []
    for have, want, middle in zip(image.shape, shape, center):
        first = round(middle - want / 2)
        low, high = max(first, 0), min(first + want, have)
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    result[tuple(target)] = image[tuple(source)]
    return result


def bright_tissue(image: Tensor, rng: Generator) -> Tensor:
    """Mark tissue brighter than a random level, with a soft edge: (h, w), from 0 to 1; the image goes from 0 to 1."""
    return torch.sigmoid((image - rng.uniform(0.15, 0.8)) / rng.uniform(0.02, 0.1))


def random_tone(image: Tensor, rng: Generator, inverted: bool) -> Tensor:
    """Change contrast by a random curve: (h, w), at least 0, and 0 where the image is.

    Parameters
    ----------
    image : magnitude (h, w) in 0..1
    rng : the curve's knots come from it
    inverted : whether the curve falls, so that dark tissue becomes bright, but for the background, which stays dark
    """
    flat = image.numpy()
    bright = float(np.percentile(flat[::3, ::3], 99)) or 1.0
    knots = np.linspace(0, 1, KNOTS + 1)
    heights = np.concatenate([[0.0], np.cumsum(rng.gamma(1.0, size=KNOTS) + 0.2)])
    heights /= heights[-1]
    tone = np.minimum(flat / bright, 1.5)
    if not inverted:
        beyond = np.maximum(tone - 1, 0)
        return torch.from_numpy((np.interp(tone, knots, heights) + beyond).astype(np.float32))
    background = rng.uniform(*BACKGROUND)
    inside = 1 / (1 + np.exp(np.clip((background - tone) / (0.2 * background), -30, 30)))
    least = rng.uniform(0.05, 0.4)  # of the signal, that the brightest tissue keeps
    falling = least + (1 - least) * np.interp(1 - tone, knots, heights)
    return torch.from_numpy((falling * inside * (tone > 0)).astype(np.float32))


def decay(shape: tuple[int, int], rng: Generator) -> Tensor:
    """Draw how k-space decays away from its center, along one axis or both: real (H, W), up to 1."""
    strengths = [rng.uniform(0.2, 2.0), rng.uniform(0.2, 2.0) if rng.random() < 0.5 else 0.0]
    if rng.random() < 0.5:
        strengths.reverse()
    down, right = (
        torch.exp(-strength * ((torch.arange(n) - n // 2) / (n / 2)).square()) for strength, n in zip(strengths, shape)
    )
    return down[:, None] * right
