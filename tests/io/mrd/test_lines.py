"""Where lines lie: counters and centers, oversampling, partial readouts, partitions."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

import ismrmrd

from mrihvae.errors import InputError
from mrihvae.io.mrd.header import Encoding, Limit, Space
from mrihvae.io.mrd.lines import LineGroup, grid_lines, mask_of_lines, padding_of, partitions_of, place_of
from mrihvae.io.mrd.readouts import readout
from tests.support import mrd
from tests.support.files import complex_normal


def encoding(matrix: tuple[int, int, int] = (32, 12, 1), kept: int = 16, **limits: Limit) -> Encoding:
    """Describe a readout of which `kept` samples are imaged, in voxels of 1 mm."""
    fov = (float(matrix[0]), float(matrix[1]), float(matrix[2]))
    recon = Space((kept, *matrix[1:]), (float(kept), *fov[1:]))
    return Encoding(
        Space(matrix, fov), recon, limits={f"kspace_encoding_{name}": limit for name, limit in limits.items()}
    )


def line(data: np.ndarray, center: int | None = None, **changes: int) -> ismrmrd.Acquisition:
    """Make a line of samples (coils, samples)."""
    acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data, np.complex64))
    acquisition.center_sample = data.shape[1] // 2 if center is None else center
    for name, value in changes.items():
        setattr(acquisition, name, value)
    return acquisition


@pytest.mark.parametrize(("step", "place"), [(4, 8), (0, 4), (7, 11)])
def test_the_center_counts(step: int, place: int) -> None:
    assert place_of(encoding(step_1=Limit(0, 7, 2)), 1, step) == place


@pytest.mark.parametrize("step", [8, 9])
def test_lines_outside_of_the_matrix(step: int) -> None:
    with pytest.raises(InputError, match=f"line {step} lies outside of the 12 of the header, with center 2"):
        place_of(encoding(step_1=Limit(0, 9, 2)), 1, step)


@pytest.mark.parametrize("kept", [16, 15])
def test_oversampling_is_taken_away(kept: int) -> None:
    kspace = complex_normal((3, kept))
    found, rows, _ = readout(line(mrd.oversample(kspace)), encoding((2 * kept, 12, 1), kept))
    assert found.dtype == np.complex64 and rows == (
        pytest.approx(kept // 2 - kept / 2),
        pytest.approx(kept / 2 - 0.5 + kept // 2),
    )
    np.testing.assert_allclose(found, kspace, atol=1e-5)


def test_readouts_without_oversampling_are_kept_to_the_bit() -> None:
    kspace = complex_normal((3, 16))
    for plain in (encoding((16, 12, 1), 16), encoding((32, 12, 1), 16)):  # the second: taken away before
        found, rows, _ = readout(line(kspace), plain)
        np.testing.assert_array_equal(found, kspace)
        assert rows == (0.0, 15.0)


def test_partial_and_reversed_readouts() -> None:
    """The first 5 of 16 samples are missing; reversed lines are stored from their end, and their center there."""
    kspace, plain = complex_normal((2, 16)), encoding((16, 12, 1), 16)
    expected = kspace * (np.arange(16) >= 5)
    found, rows, _ = readout(line(kspace[:, 5:], center=3), plain)
    np.testing.assert_array_equal(found, expected)
    assert rows == (5.0, 15.0)
    backwards = line(kspace[:, :4:-1], center=7)
    backwards.set_flag(ismrmrd.ACQ_IS_REVERSE)
    found, rows, _ = readout(backwards, plain)
    np.testing.assert_array_equal(found, expected)
    assert rows == (5.0, 15.0)


def test_samples_that_are_to_be_discarded() -> None:
    kspace = complex_normal((2, 16))
    padded = np.concatenate((np.full((2, 3), 9), kspace, np.full((2, 2), 9)), axis=1)
    found, *_ = readout(line(padded, center=11, discard_pre=3, discard_post=2), encoding((16, 12, 1), 16))
    np.testing.assert_array_equal(found, kspace)


def test_readouts_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="line 7: has 20 samples to use with the center at 10, which do not fit"):
        readout(line(complex_normal((2, 20)), scan_counter=7), encoding((16, 12, 1), 16))
    with pytest.raises(InputError, match=r"line 0: has 2 coils, and the header's readout is 4194304 long"):
        readout(line(complex_normal((2, 20))), encoding((2**22, 12, 1), 16))


def test_lines_are_averaged_and_laid_out() -> None:
    kspace, plain = complex_normal((3, 2, 16)), encoding((16, 12, 1), 16)
    group = LineGroup(plain, ismrmrd.AcquisitionHeader(), (0.0, 15.0), {(4, 0): kspace[0]}, {(4, 0): 1})
    group.include(
        LineGroup(plain, group.head, (2.0, 14.0), {(4, 0): kspace[1], (9, 0): kspace[2]}, {(4, 0): 1, (9, 0): 1})
    )
    assert group.rows == (2.0, 14.0)  # that all of them have
    grid, lines = grid_lines(group, 1)
    assert grid.shape == (1, 2, 16, 12) and np.flatnonzero(lines[:, 0]).tolist() == [4, 9]
    np.testing.assert_allclose(grid[0, :, :, 4], (kspace[0] + kspace[1]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(grid[0, :, :, 9], kspace[2])
    assert not np.delete(grid, [4, 9], axis=-1).any()


def test_grids_that_no_lines_fill() -> None:
    large = encoding((16, 4000, 4000), 16)
    group = LineGroup(large, ismrmrd.AcquisitionHeader(), (0.0, 15.0), {(4, 0): complex_normal((2, 16))}, {(4, 0): 1})
    with pytest.raises(InputError, match="of which 1 lines are there; check the header's matrix"):
        grid_lines(group, 4000)


def test_mask_of_whole_and_of_partial_readouts() -> None:
    lines, plain = np.arange(12) % 2 == 0, encoding((64, 12, 1), 64)
    assert mask_of_lines(plain, lines, (0.0, 63.0)) is lines
    assert mask_of_lines(plain, lines, (2.0, 63.0)) is lines  # too few rows are missing to count
    mask = mask_of_lines(plain, lines, (20.0, 63.0))
    np.testing.assert_array_equal(mask, (np.arange(64) >= 20)[:, None] & lines)
    both = mask_of_lines(plain, lines, (20.0, 43.0))  # beyond what either side reaches nothing was to be measured
    assert both is lines


@pytest.mark.parametrize(
    ("limit", "padding", "partitions"),
    [
        (Limit(0, 11, 6), None, 12),
        (Limit(0, 9, 6), None, 12),  # partial Fourier: the longer side counts
        (Limit(0, 7, 4), (2, 10), 8),
        (Limit(0, 5, 2), (2, 10), 7),
        (Limit(3, 3, 3), (5, 7), 1),
    ],
)
def test_what_would_be_encoded(limit: Limit, padding: tuple[int, int] | None, partitions: int) -> None:
    assert padding_of(encoding(step_1=limit)) == padding
    assert partitions_of(encoding((32, 12, 12), step_2=limit)) == partitions
