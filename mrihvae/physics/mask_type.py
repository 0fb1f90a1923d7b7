"""What a sampling mask is: fully sampled, or which of the usual patterns, guessed from the acquired samples alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mrihvae.physics.fastmri_masks import effective_acceleration

FULL, GRID, EMPTY = "fully sampled", "2D", "empty"
MAX_ACCELERATION = 16  # of fastMRI's equispaced_fraction, up to which it is recognized
MIN_MISSING = 0.06  # of the lines, that one end lacks more than the other, of partial Fourier


@dataclass(frozen=True)
class SamplingDescription:
    """What a mask is.

    Attributes
    ----------
    mask_type : "fully sampled"; of lines "equispaced", "equispaced_fraction", "magic", "random", "center" or
        "partial_fourier", with the names of `mrihvae.physics.sampling`; "2D" of single samples; "empty" without any
    axis : along which lines differ, "W" or "H"; empty for others
    acceleration : effective acceleration R, 1 of fully sampled scans
    calibration : size (h, w) of the calibration region (ACS), all samples around DC that were acquired; (0, 0) without
        DC
    partial_fourier : share of k-space that was acquired along (H, W), where one end lacks more of it than the other; 1
        where it does not
    """

    mask_type: str
    axis: str
    acceleration: float
    calibration: tuple[int, int]
    partial_fourier: tuple[float, float] = (1.0, 1.0)

    @property
    def calibration_lines(self) -> int:
        """Number of contiguous lines around DC; of single samples the smaller size of their box."""
        return self.calibration["HW".index(self.axis)] if self.axis else min(self.calibration)


def describe_sampling(
    mask: np.ndarray, shape: tuple[int, int], encoded: np.ndarray | None = None, rows: np.ndarray | None = None
) -> SamplingDescription:
    """Describe a mask.

    Parameters
    ----------
    mask : bool (W,) or (H, W), what was acquired
    shape : (H, W) of k-space
    encoded : bool (W,), lines that the scanner encodes; None for all
    rows : bool (H,), rows that are not empty, of masks of lines; None for all

    Examples
    --------
    >>> import numpy as np
    >>> from mrihvae.physics.mask_type import describe_sampling
    >>> mask = np.arange(64) % 4 == 0
    >>> mask[28:36] = True
    >>> found = describe_sampling(mask, (48, 64))
    >>> found.mask_type, found.axis, found.calibration_lines
    ('equispaced', 'W', 9)
    """
    encoded = np.ones(shape[1], bool) if encoded is None else encoded
    grid = np.broadcast_to(mask, shape)
    along_h, along_w = np.asarray(grid.any(axis=1)), np.asarray(grid.any(axis=0))
    acceleration = effective_acceleration(mask)
    if not grid.any():
        return SamplingDescription(EMPTY, "", acceleration, (0, 0))
    if not np.array_equal(grid, np.outer(along_h, along_w)):
        return SamplingDescription(GRID, "", acceleration, _central_box(grid))
    filled = along_h if rows is None or mask.ndim > 1 else along_h & rows
    runs = _run(along_h), _run(along_w | ~encoded if (along_w | ~encoded).all() else along_w)
    sizes = tuple(end - first for first, end in runs)
    calibration = (sizes[0], sizes[1]) if all(sizes) else (0, 0)
    partial = _partial_fourier(filled), _partial_fourier(along_w if not along_w[encoded].all() else np.ones(1, bool))
    if along_h.all() and along_w[encoded].all():
        return SamplingDescription(FULL, "", 1.0, calibration, partial)
    by_row = bool(along_w[encoded].all()) or (_has_gaps(along_h) and not _has_gaps(along_w))
    lines, whole = (along_h, np.ones(shape[0], bool)) if by_row else (along_w, encoded)
    kind = guess_mask_type(lines, whole)
    return SamplingDescription(kind, "H" if by_row else "W", acceleration, calibration, partial)


def guess_mask_type(lines: np.ndarray, encoded: np.ndarray | None = None) -> str:
    """Guess the type of a mask of lines, bool (W,); names as of `SamplingDescription.mask_type`."""
    encoded = np.ones(len(lines), bool) if encoded is None else encoded
    if lines[encoded].all():
        return FULL
    if not _has_gaps(lines):
        return "center" if _partial_fourier(lines) == 1 else "partial_fourier"
    there = np.flatnonzero(lines)
    first, end = _run(lines)
    within = np.zeros(len(lines), bool)
    within[there[0] : there[-1] + 1] = True  # the rest is of partial Fourier
    within[first:end] = False
    below, above = there[there < first], there[there >= max(end, 1)]
    steps = {*np.diff(below).tolist(), *np.diff(above).tolist()}
    if len(steps) == 1:
        (step,) = steps
        if len({int(line) % step for line in (*below, *above)}) == 1:
            return "equispaced"
        if first < end and len(below) and len(above) and first - below[-1] <= step and above[0] - end < step:
            return "magic"
    if any(np.array_equal(drawn[within], lines[within]) for drawn in _equispaced_fractions(len(lines), end - first)):
        return "equispaced_fraction"
    return "random"


def _equispaced_fractions(width: int, calibration: int) -> Iterator[np.ndarray]:
    """Yield the outer lines of all masks "equispaced_fraction" that fastMRI can draw with this calibration region."""
    for acceleration in range(2, MAX_ACCELERATION + 1):
        for count in range(max(1, calibration - 2), calibration + 1):  # lines beside the region may belong to it
            if count * acceleration >= width:
                continue
            spacing = acceleration * (count - width) / (count * acceleration - width)
            for first in range(round(spacing)):
                drawn = np.zeros(width, bool)
                drawn[np.around(np.arange(first, width - 1, spacing)).astype(int)] = True
                yield drawn


def _run(lines: np.ndarray) -> tuple[int, int]:
    """Find the contiguous lines around DC: the first, and one past the last; the same number twice without DC."""
    center = len(lines) // 2
    if not lines[center]:
        return center, center
    missing = np.flatnonzero(~lines)
    before, after = missing[missing < center], missing[missing > center]
    return (int(before[-1]) + 1 if len(before) else 0), (int(after[0]) if len(after) else len(lines))


def _has_gaps(lines: np.ndarray) -> bool:
    there = np.flatnonzero(lines)
    return len(there) > 0 and int(there[-1] - there[0]) + 1 != len(there)


def _partial_fourier(lines: np.ndarray) -> float:
    """Compute the share of k-space between the first and the last line, where one end lacks more; 1 where not."""
    there, center = np.flatnonzero(lines), len(lines) // 2
    if len(there) == 0 or not there[0] <= center <= there[-1]:
        return 1.0
    before, after = center - int(there[0]), int(there[-1]) - center
    widest = int(np.diff(there).max(initial=1))  # gap, by which ends of undersampled k-space differ by chance
    if abs(before - after) <= max(MIN_MISSING * len(lines), 2 * widest):
        return 1.0
    return (before + after + 1) / (2 * max(before, after) + 1)


def _central_box(grid: np.ndarray) -> tuple[int, int]:
    """Find the largest square around DC that was acquired; (0, 0) without DC."""
    row, column = (size // 2 for size in grid.shape)
    size = 0
    while size < min(grid.shape):
        top, left = row - (size + 1) // 2, column - (size + 1) // 2
        if not grid[top : top + size + 1, left : left + size + 1].all():
            break
        size += 1
    return size, size
