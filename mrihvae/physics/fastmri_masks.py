"""fastMRI's sampling masks by name, in numpy alone, draw for draw equal to `fastmri.data.subsample`.

A mask is a boolean array of length W over the phase-encoding axis, True where a line is acquired. fastMRI seeds
its masks with the file name, so that one file has one mask for all slices and every reader draws the same.
"""

from __future__ import annotations

import numpy as np
from numpy.random import RandomState

from mrihvae.errors import InputError

MASK_TYPES = ("random", "equispaced", "equispaced_fraction", "magic", "magic_fraction")


def seed_of(name: str) -> tuple[int, ...]:
    """Compute fastMRI's mask seed of a file name (without its folder)."""
    return tuple(map(ord, name))


def sampling_mask(
    mask_type: str,
    width: int,
    acceleration: int,
    center_fraction: float,
    seed: int | tuple[int, ...],
) -> np.ndarray:
    """Return a fastMRI sampling mask, drawn at random.

    Parameters
    ----------
    mask_type : one of `MASK_TYPES`
    width : number of phase-encoding lines W
    acceleration : nominal acceleration; see `effective_acceleration` for the drawn one
    center_fraction : fraction of W that is fully sampled around DC
    seed : for a file, `seed_of(file name)`

    Returns
    -------
    bool (W,), True where acquired

    Raises
    ------
    InputError
        Unknown type, or an acceleration and center fraction that no mask can have.

    Examples
    --------
    >>> from mrihvae.physics import sampling_mask
    >>> mask = sampling_mask("equispaced_fraction", 64, acceleration=4, center_fraction=0.08, seed=0)
    >>> mask.shape, int(mask.sum())
    ((64,), 15)

    References
    ----------
    * Zbontar et al. 2018 (fastMRI), https://doi.org/10.48550/arXiv.1811.08839
    """
    if mask_type not in MASK_TYPES:
        raise InputError(f"mask type '{mask_type}' is unknown; choose one of {', '.join(MASK_TYPES)}")
    if not acceleration >= 1 or acceleration % 1 != 0:
        raise InputError(f"acceleration {acceleration} is not a whole number of at least 1")
    if not 0 < center_fraction <= 1:
        raise InputError(f"center fraction {center_fraction} is not in (0, 1]")
    acceleration = int(acceleration)
    num_low = round(width * center_fraction)
    if mask_type == "magic_fraction":
        num_low = max(min(num_low, round(width / acceleration)), 1)
    elif mask_type in ("random", "equispaced_fraction") and num_low * acceleration > width:
        raise InputError(
            f"center fraction {center_fraction} alone takes {num_low} of {width} lines, more than acceleration "
            f"{acceleration} allows; lower one of them"
        )
    rng = RandomState(seed)
    rng.randint(1)  # fastMRI draws which of its (here: one) accelerations to use
    lines = _lines(rng, mask_type, width, acceleration, num_low)
    start = (width - num_low + 1) // 2
    lines[start : start + num_low] = True
    if not lines.any():
        raise InputError(f"a {mask_type} mask of width {width} at {acceleration}x acquires no line; lower it")
    return lines


def _lines(rng: RandomState, mask_type: str, width: int, acceleration: int, num_low: int) -> np.ndarray:
    """Draw the lines outside of the center, in fastMRI's order of random draws: bool (W,)."""
    if num_low == width:
        return np.ones(width, dtype=bool)
    if mask_type == "random":
        probability = (width / acceleration - num_low) / (width - num_low)
        return np.asarray(rng.uniform(size=width) < probability)
    lines = np.zeros(width, dtype=bool)
    if mask_type == "equispaced":
        lines[rng.randint(0, high=acceleration) :: acceleration] = True
        return lines
    if mask_type == "equispaced_fraction":
        if num_low * acceleration == width:
            return lines
        spacing = (acceleration * (num_low - width)) / (num_low * acceleration - width)
        first = rng.randint(0, high=round(spacing))
        lines[np.around(np.arange(first, width - 1, spacing)).astype(int)] = True
        return lines
    if mask_type == "magic_fraction":
        outer = round(width / acceleration) - num_low
        if outer <= 0:
            return lines
        acceleration = round(width / outer)
    return _magic_lines(rng, width, acceleration)


def _magic_lines(rng: RandomState, width: int, acceleration: int) -> np.ndarray:
    """Draw equispaced lines whose two halves of k-space are offset against each other (arXiv 1912.01101)."""
    offset = rng.randint(0, high=acceleration)
    positive = np.zeros((width + 1) // 2, dtype=bool)
    negative = np.zeros(width - len(positive), dtype=bool)
    even = offset % 2 == 0
    positive[(offset + 1 if even else offset + 2) :: acceleration] = True
    negative[(offset + 2 if even else offset - 1) :: acceleration] = True
    return np.fft.fftshift(np.concatenate((positive, negative[::-1])))


def effective_acceleration(mask: np.ndarray) -> float:
    """Compute the effective acceleration of a mask: lines over acquired lines."""
    return mask.size / max(int(np.count_nonzero(mask)), 1)
