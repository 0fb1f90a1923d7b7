"""Which samples count as measured: the file's mask, zeros, or a drawn pattern."""

from __future__ import annotations

import numpy as np
import pytest

from mrihvae.data.inspection import inspect_kspace
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.physics.fastmri_masks import sampling_mask, seed_of
from mrihvae.physics.sampling import Undersampling, sampling_pattern
from mrihvae.recon.normalization import shift_of
from mrihvae.recon.undersampling import check_signal, mask_of
from tests.support.files import complex_normal
from tests.support.small import small_kspace

KSPACE = complex_normal((2, 16, 20))
LINES = np.arange(20) % 3 == 0
BINS = np.arange(320).reshape(16, 20) % 3 == 0
RANDOM = Undersampling("random", 2, 0.2)


def test_the_mask_of_the_file_counts() -> None:
    for mask in (LINES, BINS):
        assert mask_of(Scan("a.h5", KSPACE, mask), None) is mask


@pytest.mark.parametrize("mask", [LINES, BINS])
def test_without_a_mask_zeros_tell(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(mask_of(Scan("a.h5", KSPACE * mask), None), mask)


def test_empty_rows_at_the_ends_are_interpolation() -> None:
    rows = (np.arange(16) >= 3) & (np.arange(16) < 14)
    np.testing.assert_array_equal(mask_of(Scan("a.h5", KSPACE * LINES * rows[:, None]), None), LINES)


def test_drawn_lines_are_fastmris_by_the_name_of_the_file() -> None:
    expected = sampling_mask("random", 20, 2, 0.2, seed_of("a.h5"))
    for mask in (None, np.ones(20, bool), np.ones((16, 20), bool)):  # a mask of all is none
        np.testing.assert_array_equal(mask_of(Scan("a.h5", KSPACE, mask), RANDOM), expected)
    assert mask_of(Scan("b.h5", KSPACE), RANDOM).tolist() != expected.tolist()


def test_drawn_lines_leave_out_what_is_not_encoded() -> None:
    padded = np.zeros_like(KSPACE)
    padded[..., 2:17] = KSPACE[..., 2:17]
    found = mask_of(Scan("a.h5", padded, padding=(2, 17)), RANDOM)
    expected = sampling_mask("random", 20, 2, 0.2, seed_of("a.h5")) & (np.arange(20) >= 2) & (np.arange(20) < 17)
    np.testing.assert_array_equal(found, expected)


def test_patterns_that_are_no_lines_are_of_bins() -> None:
    radial = Undersampling("radial", 3, 0.1)
    expected = sampling_pattern("radial", (16, 20), 3, 0.1, seed_of("a.h5"), -1)
    assert expected.shape == (16, 20)
    np.testing.assert_array_equal(mask_of(Scan("a.h5", KSPACE), radial), expected)
    assert mask_of(Scan("a.h5", KSPACE), Undersampling("random", 2, 0.2, axis=-2)).shape == (16, 20)


@pytest.mark.parametrize(
    ("scan", "undersampling", "message"),
    [
        (
            Scan("a.h5", KSPACE, LINES),
            RANDOM,
            r"a.h5: is already undersampled \(it has a mask\); leave out --mask-type",
        ),
        (Scan("a.h5", KSPACE * LINES), RANDOM, r"a.h5: is already undersampled \(samples are missing\)"),
        (Scan("a.h5", KSPACE * BINS), RANDOM, r"a.h5: is already undersampled \(samples are missing\)"),
        (Scan("a.h5", 0 * KSPACE), None, "a.h5: k-space is zero everywhere; there is nothing to reconstruct from"),
        (
            Scan("a.h5", KSPACE),
            None,
            "a.h5: k-space is fully sampled and has no mask; add --mask-type to undersample it",
        ),
    ],
)
def test_both_or_neither(scan: Scan, undersampling: Undersampling | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mask_of(scan, undersampling)


def test_scans_without_signal_are_refused() -> None:
    check_signal(Scan("a.h5", np.stack([0 * KSPACE[0], KSPACE[0]]), LINES), LINES)
    for kspace in (0 * KSPACE, KSPACE * ~LINES):
        with pytest.raises(
            InputError, match=r"a\.h5: k-space is zero everywhere; there is nothing to reconstruct from"
        ):
            check_signal(Scan("a.h5", kspace, LINES), LINES)


@pytest.mark.parametrize("shift", [(0, 7), (9, -5), (0, 16)])
def test_patterns_are_drawn_around_the_peak(shift: tuple[int, int]) -> None:
    kspace = small_kspace(1, 48, 32).numpy()
    still = mask_of(Scan("a.h5", kspace), RANDOM)
    moved = Scan("a.h5", np.roll(kspace, shift, (-2, -1)))
    lines = mask_of(moved, RANDOM)
    np.testing.assert_array_equal(np.roll(lines, -shift_of(inspect_kspace(moved))[1]), still)
    assert lines[(16 + shift[1]) % 32]
