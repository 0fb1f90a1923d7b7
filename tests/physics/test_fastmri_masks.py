"""Sampling masks against fastMRI's, draw for draw."""

from __future__ import annotations

import numpy as np
import pytest

from mrihvae.errors import InputError
from mrihvae.physics.fastmri_masks import MASK_TYPES, effective_acceleration, sampling_mask, seed_of

NAMES = [f"file{number}.h5" for number in np.random.RandomState(0).randint(1000000, 1003000, size=200)]
SETTINGS = [
    *((width, 4, 0.08) for width in (320, 368, 372, 453)),
    *((width, 8, 0.04) for width in (126, 368, 401)),
    (256, 2, 0.16),
    (117, 6, 0.06),
    (368, 3, 0.3),
    (64, 5, 0.05),
]


def test_golden_vector() -> None:
    mask = sampling_mask("random", 368, 4, 0.08, seed_of("file1000001.h5"))
    assert mask.shape == (368,) and mask.dtype == bool and mask.sum() == 81
    assert np.flatnonzero(mask)[:20].tolist() == [
        *(3, 6, 7, 11, 15, 16, 31, 35, 38, 48),
        *(50, 52, 57, 72, 73, 82, 89, 91, 95, 99),
    ]


@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_equals_fastmri(mask_type: str) -> None:
    from fastmri.data.subsample import create_mask_for_mask_type

    for width, acceleration, fraction in SETTINGS:
        draw = create_mask_for_mask_type(mask_type, [fraction], [acceleration])
        for name in NAMES:
            theirs, _ = draw((1, width, 1), seed=tuple(map(ord, name)))
            ours = sampling_mask(mask_type, width, acceleration, fraction, seed_of(name))
            assert np.array_equal(ours, theirs.numpy().reshape(-1) > 0), (width, acceleration, fraction, name)


def test_equals_fastmri_with_an_integer_seed() -> None:
    from fastmri.data.subsample import create_mask_for_mask_type

    theirs, _ = create_mask_for_mask_type("random", [0.08], [4])((1, 320, 1), seed=42)
    assert np.array_equal(sampling_mask("random", 320, 4, 0.08, 42), theirs.numpy().reshape(-1) > 0)


@pytest.mark.parametrize(
    ("mask_type", "four", "eight"),
    [
        ("random", 91.0, 44.6),
        ("equispaced", 113.8, 59.1),
        ("equispaced_fraction", 91.9, 45.9),
        ("magic", 114.0, None),
        ("magic_fraction", 85.6, 44.3),
    ],
)
def test_mean_number_of_lines(mask_type: str, four: float, eight: float | None) -> None:
    for acceleration, fraction, lines in ((4, 0.08, four), (8, 0.04, eight)):
        if lines is None:
            continue
        masks = [sampling_mask(mask_type, 368, acceleration, fraction, seed_of(name)) for name in NAMES]
        assert np.mean([mask.sum() for mask in masks]) == pytest.approx(lines, abs=1.5)
        rates = [effective_acceleration(mask) for mask in masks]
        assert 368 / np.mean([mask.sum() for mask in masks]) == pytest.approx(368 / lines, rel=0.03)
        assert np.mean(rates) == pytest.approx(368 / lines, rel=0.04)


def test_center_is_sampled_and_one_file_has_one_mask() -> None:
    for mask_type in MASK_TYPES:
        mask = sampling_mask(mask_type, 368, 4, 0.08, seed_of("a.h5"))
        assert mask[(368 - 29 + 1) // 2 :][:29].all()
        assert np.array_equal(mask, sampling_mask(mask_type, 368, 4, 0.08, seed_of("a.h5")))
    one, other = (sampling_mask("random", 368, 4, 0.08, seed_of(name)) for name in ("a.h5", "b.h5"))
    assert not np.array_equal(one, other)


def test_effective_acceleration() -> None:
    assert effective_acceleration(np.array([True, False, False, True])) == 2.0
    assert effective_acceleration(np.zeros(5, dtype=bool)) == 5.0


def test_everything_is_measured_at_acceleration_one() -> None:
    for mask_type in ("random", "equispaced"):
        assert sampling_mask(mask_type, 64, 1, 0.1, 0).all()
    for mask_type in MASK_TYPES:
        assert sampling_mask(mask_type, 64, 1, 1.0, 0).all()


@pytest.mark.parametrize(
    ("mask_type", "acceleration", "fraction", "message"),
    [
        ("radial", 4, 0.08, "mask type 'radial' is unknown; choose one of random, equispaced,"),
        ("random", 0, 0.08, "acceleration 0 is not a whole number of at least 1"),
        ("random", -4, 0.08, "acceleration -4 is not"),
        ("random", 2.5, 0.08, "acceleration 2.5 is not"),
        ("random", float("nan"), 0.08, "acceleration nan is not"),
        ("random", float("inf"), 0.08, "acceleration inf is not"),
        ("random", 4, 0.0, "center fraction 0.0 is not in"),
        ("random", 4, 1.1, "center fraction 1.1 is not in"),
        ("random", 4, float("nan"), "center fraction nan is not in"),
        ("random", 8, 0.2, "center fraction 0.2 alone takes 20 of 100 lines, more than acceleration 8 allows"),
        ("equispaced_fraction", 8, 0.2, "center fraction 0.2 alone takes 20 of 100 lines"),
        ("equispaced", 2000, 0.001, "mask of width 100 at 2000x acquires no line"),
    ],
)
def test_impossible_mask(mask_type: str, acceleration: float, fraction: float, message: str) -> None:
    with pytest.raises(InputError) as caught:
        sampling_mask(mask_type, 100, acceleration, fraction, 0)  # type: ignore[arg-type]
    assert message in str(caught.value) and "\n" not in str(caught.value)
