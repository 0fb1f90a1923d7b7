"""Noise scans: which of them belong to the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

from mrihvae.io.mrd.noise import MAX_COIL_SETS, MAX_NOISE_NUMBERS, NoiseScans
from tests.support import mrd
from tests.support.assembly import phantom, psnr, sort, stacked
from tests.support.files import complex_normal

SHAPE = (2, 3, 16, 12)
SURFACE_COILS = 29  # flag of a surface coil correction scan


def noise(coils: int, seed: int = 0, *flags: int) -> mrd.Line:
    return mrd.Line(complex_normal((coils, 64), seed=seed), flags=mrd.flags(mrd.NOISE, *flags))


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("others", [[4, 2], [2, 4]])
def test_noise_of_the_coils_of_the_image_is_chosen(early: bool, others: list[int]) -> None:
    """In whatever order; several scans of them count together."""
    fitting = [noise(3, seed) for seed in (1, 2)]
    lines = [noise(others[0]), fitting[0], noise(others[1]), fitting[1], *mrd.cartesian_lines(phantom(*SHAPE))]
    sorter, _ = sort(mrd.cartesian_xml(SHAPE), lines, early)
    assert sorter.noise is not None
    np.testing.assert_array_equal(sorter.noise, np.concatenate([line.data for line in fitting], axis=1))
    assert sorter.warnings == [f"the noise scan of {count} coils is left out, because lines have 3" for count in others]


def test_noise_that_is_of_the_surface_coil_scan_counts() -> None:
    """Lines of the body coil with the same flag do not, though they have other coils."""
    kspace = phantom(*SHAPE)
    body = replace(mrd.cartesian_lines(phantom(1, 2, 16, 12))[0], flags=mrd.flags(SURFACE_COILS))
    lines = [noise(3, 1, SURFACE_COILS), body, *mrd.cartesian_lines(kspace)]
    sorter, slices = sort(mrd.cartesian_xml(SHAPE), lines)
    assert psnr(stacked(slices), kspace) > 100 and not sorter.warnings
    assert sorter.noise is not None and sorter.noise.shape == (3, 64)


def test_noise_of_a_dummy_scan_does_not_count() -> None:
    sorter, _ = sort(mrd.cartesian_xml(SHAPE), [noise(3, 1, mrd.DUMMY), *mrd.cartesian_lines(phantom(*SHAPE))])
    assert sorter.noise is None


def test_noise_of_earlier_measurements_counts_without_ones_own() -> None:
    earlier = NoiseScans()
    earlier.add(complex_normal((2, 8)))
    earlier.add(complex_normal((3, 8)))
    own = NoiseScans(earlier)
    own.add(complex_normal((3, 9)))
    for coils, samples in ((2, 8), (3, 9)):
        found = own.find(coils)
        assert found is not None and found.shape == (coils, samples)
    assert own.find(4) is None and own.doubts(3) == []


def test_noise_that_is_kept_is_limited() -> None:
    scans, block = NoiseScans(), np.zeros((2, MAX_NOISE_NUMBERS // 8), np.complex64)
    for _ in range(9):
        scans.add(block)
    assert scans.size == MAX_NOISE_NUMBERS
    for coils in range(3, 40):
        scans.add(np.zeros((coils, 1), np.complex64))
    assert scans.size == MAX_NOISE_NUMBERS + sum(range(3, MAX_COIL_SETS + 2)) and scans.find(39) is None
