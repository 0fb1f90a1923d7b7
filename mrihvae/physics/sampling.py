"""Sampling patterns on the whole grid of k-space: fastMRI's masks along either axis, and those that fastMRI lacks.

A pattern is a boolean array (H, W), True where a k-space sample is acquired. DC sits at `[H // 2, W // 2]`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import RandomState

from mrihvae.errors import InputError
from mrihvae.physics.fastmri_masks import MASK_TYPES, sampling_mask

if TYPE_CHECKING:
    from torch import Tensor

LINE_TYPES = (*MASK_TYPES, "partial_fourier", "center")
GRID_TYPES = ("poisson", "radial", "spiral")
PATTERNS = (*LINE_TYPES, *GRID_TYPES)
Seed = int | tuple[int, ...]
GOLDEN_ANGLE = math.pi * (math.sqrt(5) - 1) / 2  # Winkelmann et al. 2007
ELLIPTIC_TYPES = ("poisson", "spiral")
MIN_ELLIPTIC_ACCELERATION = 1.3
SPIRAL_POWER = 1.5  # radius over angle; above 1 the turns are closer at the center


def sampling_pattern(
    mask_type: str,
    shape: tuple[int, int],
    acceleration: float,
    center_fraction: float,
    seed: Seed,
    axis: int = -1,
) -> np.ndarray:
    """Return a sampling pattern M, drawn at random if its type is random.

    Parameters
    ----------
    mask_type : one of `PATTERNS`: fastMRI's masks; "partial_fourier", all lines on one side of k-space and the center;
        "center", central lines only; "poisson", sigpy's variable-density Poisson disc; "radial", golden-angle spokes,
        and "spiral", both moved to the nearest samples of the grid
    shape : (H, W)
    acceleration : number of samples divided by the number of acquired samples; for fastMRI's masks it must be a whole
        number, and is met on average
    center_fraction : fraction of an axis that is fully sampled around DC (not used by "center", "radial", "spiral")
    seed : for a file, `mrihvae.physics.fastmri_masks.seed_of(file name)`
    axis : -1 if lines differ along W (fastMRI's phase-encoding axis), -2 if along H; ignored by the 2D patterns

    Returns
    -------
    bool (H, W), True where acquired

    Raises
    ------
    InputError
        Unknown type, or values that are impossible for a pattern of this type and shape.

    Examples
    --------
    >>> import mrihvae
    >>> mask = mrihvae.sampling_pattern("equispaced_fraction", (64, 64), acceleration=4, center_fraction=0.08, seed=0)
    >>> mask.shape, float(mask.mean())
    ((64, 64), 0.234375)

    References
    ----------
    * Zbontar et al. 2018 (fastMRI), https://doi.org/10.48550/arXiv.1811.08839
    """
    if mask_type not in PATTERNS:
        raise InputError(f"mask type '{mask_type}' is unknown; choose one of {', '.join(PATTERNS)}")
    if axis not in (-1, -2):
        raise InputError(f"axis {axis} is not one of -1 (W) and -2 (H)")
    if not 1 <= acceleration < math.inf:
        raise InputError(f"acceleration {acceleration} is not a number of at least 1")
    if not 0 < center_fraction <= 1:
        raise InputError(f"center fraction {center_fraction} is not in (0, 1]")
    if mask_type in LINE_TYPES:
        lines = _lines(mask_type, shape[axis], acceleration, center_fraction, seed)
        return np.broadcast_to(lines if axis == -1 else lines[:, None], shape).copy()
    if acceleration == 1:
        return np.ones(shape, dtype=bool)
    if mask_type in ELLIPTIC_TYPES and acceleration < MIN_ELLIPTIC_ACCELERATION:
        raise InputError(
            f"{mask_type} patterns leave out the corners of k-space: their acceleration is 1, or at least "
            f"{MIN_ELLIPTIC_ACCELERATION}"
        )
    if mask_type == "poisson":
        return _poisson(shape, acceleration, center_fraction, seed)
    start = RandomState(seed).uniform(0, 2 * math.pi)
    wanted = max(1, round(shape[0] * shape[1] / acceleration))
    return (_radial if mask_type == "radial" else _spiral)(shape, wanted, start)


def _lines(mask_type: str, width: int, acceleration: float, center_fraction: float, seed: Seed) -> np.ndarray:
    if mask_type in MASK_TYPES:
        return sampling_mask(mask_type, width, acceleration, center_fraction, seed)  # type: ignore[arg-type]
    count = max(1, round(width / acceleration))
    lines = np.zeros(width, dtype=bool)
    if mask_type == "center":
        first = width // 2 - count // 2
        lines[first : first + count] = True
        return lines
    least = width // 2 + math.ceil(center_fraction * width / 2) + 1
    if count < min(least, width):
        raise InputError(
            f"partial Fourier at {acceleration}x acquires {count} of {width} lines, but one side of k-space and a "
            f"center fraction of {center_fraction} take {least}; lower the acceleration to at most {width / least:.2f}"
        )
    if RandomState(seed).randint(2):
        lines[:count] = True
    else:
        lines[width - count :] = True
    return lines


def _poisson(shape: tuple[int, int], acceleration: float, center_fraction: float, seed: Seed) -> np.ndarray:
    from sigpy.mri import poisson

    calibration = [max(1, round(center_fraction * size)) for size in shape]
    number = int(RandomState(seed).randint(2**31 - 1))
    try:
        return np.asarray(poisson(shape, acceleration, calib=calibration, seed=number, dtype=bool))
    except ValueError as error:
        raise InputError(f"no Poisson-disc pattern of {shape} has acceleration {acceleration}: {error}") from error


def _radial(shape: tuple[int, int], wanted: int, angle: float) -> np.ndarray:
    """Add spokes through DC, each at the golden angle to the last, until `wanted` samples are acquired."""
    pattern = np.zeros(shape, dtype=bool)
    along = np.linspace(-1, 1, 4 * max(shape) + 1)
    while np.count_nonzero(pattern) < wanted:
        direction = np.array([math.sin(angle), math.cos(angle)]) / max(abs(math.sin(angle)), abs(math.cos(angle)))
        _mark(pattern, along * direction[0], along * direction[1])
        angle += GOLDEN_ANGLE
    return pattern


def _spiral(shape: tuple[int, int], wanted: int, start: float) -> np.ndarray:
    """Wind one spiral, in the ellipse that fits the grid, with as many turns as `wanted` samples take."""
    fewest, most = 0.0, float(max(shape))
    pattern = np.zeros(shape, dtype=bool)
    for _ in range(20):
        turns = 0.5 * (fewest + most)
        pattern = np.zeros(shape, dtype=bool)
        along = np.linspace(0, 1, int(4 * turns * max(shape)) + 2)
        radius, angle = along**SPIRAL_POWER, start + 2 * math.pi * turns * along
        _mark(pattern, radius * np.sin(angle), radius * np.cos(angle))
        count = np.count_nonzero(pattern)
        if abs(count - wanted) <= 0.002 * wanted:
            break
        fewest, most = (turns, most) if count < wanted else (fewest, turns)
    return pattern


def _mark(pattern: np.ndarray, vertical: np.ndarray, horizontal: np.ndarray) -> None:
    """Mark the samples nearest to points whose coordinates run from -1 to 1 over the grid."""
    height, width = pattern.shape
    rows = np.clip(np.rint(height // 2 + vertical * height / 2).astype(int), 0, height - 1)
    columns = np.clip(np.rint(width // 2 + horizontal * width / 2).astype(int), 0, width - 1)
    pattern[rows, columns] = True


def lines_differ_along_h(mask: Tensor) -> bool:
    """Return whether a mask, bool (H, W), is of lines along W, so that H and W are exchanged for the network."""
    return bool((mask == mask[:, :1]).all()) and not bool((mask == mask[:1]).all())


@dataclass(frozen=True)
class Undersampling:
    """A sampling pattern by name, for fully sampled scans; see `mrihvae.sampling_pattern`."""

    mask_type: str
    acceleration: float
    center_fraction: float
    axis: int = -1
