"""Masks are recognized by what was acquired: those that the package draws, along either axis."""

from __future__ import annotations

import numpy as np
import pytest

from mrihvae.physics.mask_type import EMPTY, FULL, GRID, describe_sampling, guess_mask_type
from mrihvae.physics.sampling import GRID_TYPES, sampling_pattern

SHAPE = (96, 80)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("mask_type", ["random", "equispaced", "partial_fourier", "center"])
def test_masks_of_lines(mask_type: str, axis: int) -> None:
    for seed in range(5):
        acceleration, fraction = (1.5, 0.1) if mask_type == "partial_fourier" else (4, 0.08)
        mask = sampling_pattern(mask_type, SHAPE, acceleration, fraction, seed, axis)
        found = describe_sampling(mask, SHAPE)
        assert (found.mask_type, found.axis) == (mask_type, "W" if axis == -1 else "H")
        assert found.acceleration == pytest.approx(mask.size / mask.sum())
        share = found.partial_fourier[axis]
        assert share < 0.9 if mask_type == "partial_fourier" else share == 1
        assert found.partial_fourier[-3 - axis] == 1


@pytest.mark.parametrize(("mask_type", "others"), [("magic", {"equispaced"}), ("equispaced_fraction", {"equispaced"})])
def test_masks_that_may_be_equispaced(mask_type: str, others: set[str]) -> None:
    """Where both halves are in phase, as of magic at 4x, or the spacing is whole, they are."""
    acceleration = 8 if mask_type == "magic" else 4
    found = [
        describe_sampling(sampling_pattern(mask_type, (64, 133), acceleration, 0.08, seed)[0], (64, 133)).mask_type
        for seed in range(12)
    ]
    assert mask_type in found and set(found) <= {mask_type, *others}


@pytest.mark.parametrize("mask_type", GRID_TYPES)
def test_masks_of_samples(mask_type: str) -> None:
    found = describe_sampling(sampling_pattern(mask_type, SHAPE, 4, 0.1, 0), SHAPE)
    assert (found.mask_type, found.axis) == (GRID, "") and min(found.calibration) > 0
    assert found.calibration_lines == found.calibration[0]


def test_calibration_lines_and_vendors_partial_fourier() -> None:
    """Every second line from a quarter on, and 24 lines around the center."""
    mask = (np.arange(128) % 2 == 0) & (np.arange(128) >= 32)
    mask[52:76] = True
    found = describe_sampling(mask, (64, 128))
    assert (found.mask_type, found.calibration_lines, found.calibration) == ("equispaced", 25, (64, 25))
    assert found.partial_fourier == (1, pytest.approx(0.75, abs=0.011))
    mask[:] = np.arange(128) % 2 == 1
    without = describe_sampling(mask, (64, 128))
    assert without.calibration == (0, 0) and without.calibration_lines == 0 and without.mask_type == "equispaced"


def test_fully_sampled_masks() -> None:
    ones = np.ones(80, bool)
    found = describe_sampling(ones, SHAPE)
    assert (found.mask_type, found.axis, found.acceleration, found.calibration) == (FULL, "", 1, SHAPE)
    encoded = (np.arange(80) >= 6) & (np.arange(80) < 72)
    assert describe_sampling(encoded, SHAPE, encoded).mask_type == FULL
    assert describe_sampling(encoded, SHAPE).mask_type == "center"
    assert guess_mask_type(np.array([True, False, True])) == "random"
    assert guess_mask_type(ones) == FULL
    assert describe_sampling(~ones, SHAPE).mask_type == EMPTY


def test_partial_echo() -> None:
    rows = np.arange(96) >= 24
    found = describe_sampling(np.ones(80, bool), SHAPE, rows=rows)
    assert found.mask_type == FULL and found.partial_fourier == (pytest.approx(0.76, abs=0.01), 1)
