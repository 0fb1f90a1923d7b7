"""Sampling patterns: their acceleration and center, equality with fastMRI's and sigpy's, and every refusal."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.random import RandomState

from mrihvae.errors import InputError
from mrihvae.physics.fastmri_masks import MASK_TYPES, effective_acceleration, sampling_mask, seed_of
from mrihvae.physics.sampling import GRID_TYPES, LINE_TYPES, MIN_ELLIPTIC_ACCELERATION, PATTERNS, sampling_pattern

DRAWN = ("center", "partial_fourier", "radial", "spiral")  # by ourselves, not by fastMRI or sigpy
SHAPE = (96, 128)


def test_every_pattern_is_of_one_kind() -> None:
    assert PATTERNS == LINE_TYPES + GRID_TYPES and len(set(PATTERNS)) == len(PATTERNS)
    assert set(LINE_TYPES) == {*MASK_TYPES, "center", "partial_fourier"}
    assert set(GRID_TYPES) == {"poisson", "radial", "spiral"}


@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_fastmri_masks_stand_along_either_axis(mask_type: str) -> None:
    for acceleration, fraction in ((4, 0.08), (8, 0.04)):
        for name in ("file1.h5", "file2.h5"):
            lines = sampling_mask(mask_type, 128, acceleration, fraction, seed_of(name))
            pattern = sampling_pattern(mask_type, SHAPE, acceleration, fraction, seed_of(name))
            assert pattern.shape == SHAPE and pattern.dtype == bool and (pattern == lines).all()
            lines = sampling_mask(mask_type, 96, acceleration, fraction, seed_of(name))
            along_height = sampling_pattern(mask_type, SHAPE, acceleration, fraction, seed_of(name), axis=-2)
            assert along_height.shape == SHAPE and (along_height == lines[:, None]).all()
            turned = sampling_pattern(mask_type, (128, 96), acceleration, fraction, seed_of(name))
            assert np.array_equal(along_height, turned.T)


def test_whole_accelerations_may_be_floats() -> None:
    whole, same = (sampling_pattern("random", SHAPE, a, 0.08, 3) for a in (4, 4.0))
    assert np.array_equal(whole, same)


def test_poisson_is_that_of_sigpy() -> None:
    """With the calibration region from the center fraction, and a seed drawn from that of the file."""
    from sigpy.mri import poisson

    seed = seed_of("file1.h5")
    number = RandomState(seed).randint(2**31 - 1)
    ours = sampling_pattern("poisson", (40, 32), 4, 0.1, seed)
    theirs = poisson((40, 32), 4, calib=(4, 3), seed=number, dtype=bool)
    assert ours.dtype == bool and np.array_equal(ours, theirs)
    assert effective_acceleration(ours) == pytest.approx(4, abs=0.1)
    assert ours[18:22, 15:17].all() and not ours[0, 0]
    assert not np.array_equal(ours, sampling_pattern("poisson", (40, 32), 4, 0.1, seed_of("file2.h5")))
    with pytest.raises(InputError, match=r"no Poisson-disc pattern of \(12, 12\) has acceleration 40: Cannot"):
        sampling_pattern("poisson", (12, 12), 40, 0.5, 0)


@pytest.mark.parametrize("shape", [(96, 128), (97, 61), (320, 320)])
@pytest.mark.parametrize("acceleration", [1.5, 2, 3.7, 8])
@pytest.mark.parametrize("mask_type", ["center", "spiral"])
def test_acceleration_is_met(mask_type: str, acceleration: float, shape: tuple[int, int]) -> None:
    rate = effective_acceleration(sampling_pattern(mask_type, shape, acceleration, 0.08, 5))
    half_a_line = acceleration * 0.5 / shape[1] if mask_type == "center" else 0
    assert rate == pytest.approx(acceleration, rel=0.01 + half_a_line)


@pytest.mark.parametrize("shape", [(96, 128), (97, 61), (320, 320)])
@pytest.mark.parametrize("acceleration", [1.3, 2, 3.7, 12])
def test_radial_measures_as_much_as_asked_for_and_at_most_a_spoke_more(
    acceleration: float, shape: tuple[int, int]
) -> None:
    wanted = round(shape[0] * shape[1] / acceleration)
    for seed in range(3):
        count = np.count_nonzero(sampling_pattern("radial", shape, acceleration, 0.08, seed))
        assert wanted <= count < wanted + sum(shape)
        if shape == (320, 320):
            assert count == pytest.approx(wanted, rel=0.04)


@pytest.mark.parametrize("acceleration", [1.1, 1.4, 1.7])
def test_partial_fourier_measures_one_side_and_the_center(acceleration: float) -> None:
    for width in (128, 61):
        sides = set()
        for seed in range(8):
            lines = sampling_pattern("partial_fourier", (8, width), acceleration, 0.1, seed)[0]
            there = np.flatnonzero(lines)
            assert len(there) == round(width / acceleration) == there[-1] - there[0] + 1  # without gaps
            assert there[0] == 0 or there[-1] == width - 1
            around = math.ceil(0.05 * width)
            assert lines[width // 2 - around : width // 2 + around].all()
            sides.add(int(there[0]))
        assert len(sides) == 2  # either side is drawn


def test_center_measures_the_central_lines_alone() -> None:
    for width, acceleration in ((128, 4), (61, 3), (20, 20)):
        lines = sampling_pattern("center", (8, width), acceleration, 0.08, 0)[0]
        there = np.flatnonzero(lines)
        assert len(there) == round(width / acceleration) and there[-1] - there[0] == len(there) - 1
        assert there[0] == width // 2 - len(there) // 2
    assert np.flatnonzero(sampling_pattern("center", (1, 8), 4, 0.08, 0)[0]).tolist() == [3, 4]


@pytest.mark.parametrize("shape", [(96, 128), (33, 20), (5, 7), (2, 2)])
@pytest.mark.parametrize("mask_type", DRAWN)
def test_dc_is_measured(mask_type: str, shape: tuple[int, int]) -> None:
    acceleration = 1.4 if mask_type == "partial_fourier" else 6
    fraction = 0.01 if mask_type == "partial_fourier" else 0.08
    for seed in range(3):
        for axis in (-1, -2):
            if mask_type == "partial_fourier" and min(shape) < 10:
                continue
            pattern = sampling_pattern(mask_type, shape, acceleration, fraction, seed, axis)
            assert pattern.shape == shape and pattern.dtype == bool and pattern[shape[0] // 2, shape[1] // 2]


@pytest.mark.parametrize("mask_type", ["radial", "spiral"])
def test_spokes_and_turns_are_dense_at_the_center(mask_type: str) -> None:
    pattern = sampling_pattern(mask_type, (128, 128), 8, 0.08, 1)
    radius = np.hypot(*np.mgrid[-64:64, -64:64])
    shares = [pattern[(radius >= low) & (radius < low + 8)].mean() for low in (0, 16, 32, 48)]
    assert shares[0] > 0.3 and all(inner > outer for inner, outer in itertools.pairwise(shares))


@pytest.mark.parametrize("shape", [(97, 61), (64, 64)])
def test_radial_is_symmetric_about_dc(shape: tuple[int, int]) -> None:
    """A spoke runs through DC to both ends: for a bin the opposite one is measured, too, but for rounding."""
    pattern = sampling_pattern("radial", shape, 6, 0.08, 2)
    whole = pattern[1 - shape[0] % 2 :, 1 - shape[1] % 2 :]  # even sizes have a bin more on one side
    assert (whole == whole[::-1, ::-1]).mean() > 0.97
    ends = np.concatenate((pattern[0], pattern[-1], pattern[:, 0], pattern[:, -1]))
    assert ends.any()  # corners are reached by spokes, as by lines


@pytest.mark.parametrize("mask_type", ["center", "partial_fourier"])
def test_lines_do_not_depend_on_the_height_and_turn_with_the_axis(mask_type: str) -> None:
    wide = sampling_pattern(mask_type, (10, 64), 1.5, 0.1, 3)
    assert (wide == wide[0]).all() and np.array_equal(wide, sampling_pattern(mask_type, (64, 10), 1.5, 0.1, 3, -2).T)


@pytest.mark.parametrize("mask_type", ["radial", "spiral"])
def test_two_dimensional_patterns_have_no_axis(mask_type: str) -> None:
    along, across = (sampling_pattern(mask_type, SHAPE, 4, 0.08, 3, axis) for axis in (-1, -2))
    assert np.array_equal(along, across)


@pytest.mark.parametrize("mask_type", [*MASK_TYPES, "partial_fourier", "radial", "spiral"])
def test_a_seed_gives_one_pattern(mask_type: str) -> None:
    acceleration = 1.5 if mask_type == "partial_fourier" else 4
    found = [sampling_pattern(mask_type, SHAPE, acceleration, 0.08, seed_of(f"file{k}.h5")) for k in range(8)]
    np.random.seed(99)  # noqa: NPY002
    state: Any = np.random.get_state()  # noqa: NPY002
    again = [sampling_pattern(mask_type, SHAPE, acceleration, 0.08, seed_of(f"file{k}.h5")) for k in range(8)]
    after: Any = np.random.get_state()  # noqa: NPY002
    assert np.array_equal(state[1], after[1]) and state[2:] == after[2:]
    assert all(np.array_equal(one, same) for one, same in zip(found, again, strict=True))
    assert len({one.tobytes() for one in found}) > 1
    found[0][:] = False  # and it is the caller's own
    assert sampling_pattern(mask_type, SHAPE, acceleration, 0.08, seed_of("file0.h5")).any()


@pytest.mark.parametrize("mask_type", ["center", "partial_fourier", *GRID_TYPES])
def test_everything_is_measured_at_acceleration_one(mask_type: str) -> None:
    assert sampling_pattern(mask_type, (12, 10), 1, 0.1, 0).all()
    assert sampling_pattern(mask_type, (12, 10), 1.0, 1.0, 0).all()


def test_least_acceleration_of_a_spiral() -> None:
    assert effective_acceleration(
        sampling_pattern("spiral", SHAPE, MIN_ELLIPTIC_ACCELERATION, 0.1, 0)
    ) == pytest.approx(MIN_ELLIPTIC_ACCELERATION, rel=0.01)


@pytest.mark.parametrize(
    ("mask_type", "acceleration", "fraction", "axis", "message"),
    [
        ("circus", 4, 0.08, -1, "mask type 'circus' is unknown; choose one of random, equispaced,"),
        ("radial", 4, 0.08, 0, "axis 0 is not one of -1 (W) and -2 (H)"),
        ("random", 4, 0.08, 1, "axis 1 is not one of"),
        ("radial", 0.5, 0.08, -1, "acceleration 0.5 is not a number of at least 1"),
        ("radial", float("nan"), 0.08, -1, "acceleration nan is not"),
        ("center", float("inf"), 0.08, -1, "acceleration inf is not"),
        ("poisson", -4, 0.08, -1, "acceleration -4 is not"),
        ("random", 2.5, 0.08, -1, "acceleration 2.5 is not a whole number of at least 1"),
        ("center", 4, 0.0, -1, "center fraction 0.0 is not in (0, 1]"),
        ("spiral", 4, 1.1, -1, "center fraction 1.1 is not in"),
        ("radial", 4, float("nan"), -1, "center fraction nan is not in"),
        ("spiral", 1.2, 0.08, -1, "the corners of k-space: "),
        ("poisson", 1.2, 0.08, -1, "acceleration is 1, or at least 1.3"),  # sigpy would search for minutes
        (
            "partial_fourier",
            2,
            0.1,
            -1,
            "partial Fourier at 2x acquires 50 of 100 lines, but one side of k-space and a center fraction of 0.1 take "
            "56; lower the acceleration to at most 1.79",
        ),
        ("random", 8, 0.2, -1, "center fraction 0.2 alone takes 20 of 100 lines, more than acceleration 8 allows"),
    ],
)
def test_impossible_pattern(mask_type: str, acceleration: float, fraction: float, axis: int, message: str) -> None:
    with pytest.raises(InputError) as caught:
        sampling_pattern(mask_type, (64, 100), acceleration, fraction, 0, axis)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_partial_fourier_at_the_acceleration_that_its_error_names() -> None:
    assert effective_acceleration(sampling_pattern("partial_fourier", (4, 100), 1.78, 0.1, 0)) == pytest.approx(
        1.78, rel=0.01
    )
    with pytest.raises(InputError, match=r"at most 1\.14"):  # of H = 64 lines, with the axis
        sampling_pattern("partial_fourier", (64, 100), 1.5, 0.7, 0, axis=-2)
