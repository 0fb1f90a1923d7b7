"""Where lines lie: counters and centers, oversampling, partial readouts, partitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

import ismrmrd

from mrihvae.data.inspection import inspect_kspace
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.mrd.header import Encoding, Limit, Space
from mrihvae.io.mrd.lines import LineGroup, grid_lines, mask_of_lines, padding_of, partitions_of, place_of
from mrihvae.io.mrd.readouts import readout
from mrihvae.io.mrd.slices import Slice
from mrihvae.io.partitions import centered_fft
from tests.support import mrd
from tests.support.assembly import phantom, psnr, scan_3d, slab_xml, sort, stacked
from tests.support.files import complex_normal

EQUAL = 100  # dB from which images are the same


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
    """Limits that contradict the matrix are refused; lines that the limits do not have lie nowhere."""
    with pytest.raises(InputError, match=f"line {step} lies outside of the 12 of the header, with center 2"):
        place_of(encoding(step_1=Limit(0, 9, 2)), 1, step)
    assert place_of(encoding(step_1=Limit(0, 7, 2)), 1, step) is None
    assert place_of(encoding(step_1=Limit(0, 13, 2)), 1, step) is None


# Headers that are wrong about lines


def scan(
    limit: tuple[int, int, int] | None,
    matrix: int = 24,
    steps: Sequence[int] = range(24),
    first: int = 0,
    early: bool = True,
    **fields: Any,
) -> tuple[np.ndarray, Slice, list[str]]:
    """Sort a scan of 24 lines, of which the counters `steps` were acquired; `first` is counter 0.

    Returns
    -------
    complete k-space, the slice, and warnings
    """
    kspace = phantom(1, 2, 16, 24)
    lines = mrd.cartesian_lines(kspace, mask=np.isin(np.arange(24) - first, steps))
    lines = [replace(line, kspace_encode_step_1=line.kspace_encode_step_1 - first, **fields) for line in lines]
    limits = {} if limit is None else {"kspace_encoding_step_1": limit}
    changes = {"encoded": (32, matrix, 1), "recon": (16, matrix, 1), "encoded_fov_mm": (32, 24, 5)}
    changes |= {"recon_fov_mm": (16, 24, 5)}
    sorter, (one,) = sort(mrd.cartesian_xml(kspace.shape, limits=limits, **changes), lines, early)
    return kspace, one, sorter.warnings


@pytest.mark.parametrize(
    ("limit", "numbers"), [((0, 23, 12), "0 to 1, 22 to 23"), ((0, 19, 10), "20 to 23"), (None, "20 to 23")]
)
def test_lines_beyond_the_matrix_are_left_out(limit: tuple[int, int, int] | None, numbers: str) -> None:
    """The turbo factor rounds lines up, whether limits have them or not."""
    kspace, one, warnings = scan(limit, 20, early=False)
    first = 0 if limit is None or limit[1] == 19 else 2
    assert psnr(one.kspace[None], kspace[..., first : first + 20]) > EQUAL and one.mask.all()
    center = 10 if limit is None else limit[2]
    assert warnings == [f"outside of the header's matrix of 20, with center {center}, and left out: line {numbers}"]


def test_too_many_lines_beyond_the_matrix_are_refused() -> None:
    with pytest.raises(InputError, match="line 16 to 23 lies outside of the 16 of the header, with center 8"):
        scan(None, 16)


@pytest.mark.parametrize("limit", [None, (0, 0, 0), (0, 23, 12), (0, 23, 0)])
def test_limits_that_are_not_set(limit: tuple[int, int, int] | None) -> None:
    kspace, one, warnings = scan(limit)
    assert psnr(one.kspace[None], kspace) > EQUAL
    assert len(warnings) == (limit == (0, 23, 0))  # whose center alone is not


@pytest.mark.parametrize("limit", [(0, 23, 11), (0, 29, 15), (-12, 11, 0), (0, 19, 10)])
def test_a_center_that_leaves_no_room_for_the_lines(limit: tuple[int, int, int]) -> None:
    """All lines of the matrix are there, so that its middle is the center."""
    kspace, one, warnings = scan(limit, early=False)
    assert psnr(one.kspace[None], kspace) > EQUAL and one.mask.all()
    (warning,) = warnings
    assert warning.endswith("lines would lie outside of its matrix of 24: line 12 is used")


def test_readouts_of_different_lengths_are_said() -> None:
    kspace = phantom(1, 2, 16, 24)
    lines = mrd.cartesian_lines(kspace)
    lines[3] = replace(lines[3], data=lines[3].data[:, 8:], center_sample=8)
    sorter, _ = sort(mrd.cartesian_xml(kspace.shape), lines)
    assert sorter.warnings == ["lines have readouts of different lengths: missing samples count as not acquired"]


def test_limits_that_start_above_0() -> None:
    kspace, one, warnings = scan((4, 19, 12), steps=range(4, 20))
    kept = (np.arange(24) >= 4) & (np.arange(24) < 20)
    assert psnr(one.kspace[None], kspace * kept) > EQUAL and not warnings and one.padding == (4, 20)


@pytest.mark.parametrize("limit", [(0, 17, 9), None])
def test_center_of_the_lines_is_taken(limit: tuple[int, int, int] | None) -> None:
    """Partial Fourier, 18 of 24 lines: the header has the middle of what was acquired as the center."""
    own = (0, 0, 0, 0, 0, 6, 0, 0)
    kspace, one, warnings = scan(limit, steps=range(18), first=6, user=own)
    assert psnr(one.kspace[None], kspace * (np.arange(24) >= 6)) > EQUAL
    assert one.mask.tolist() == [k >= 6 for k in range(24)] and one.padding is None
    header = 12 if limit is None else 9
    assert warnings == [
        f"the center of k-space is line 6 according to idx.user[5], and line {header} according to the header: "
        "line 6 is used"
    ]
    _, right, warnings = scan((0, 17, 6), steps=range(18), first=6, user=own)
    np.testing.assert_array_equal(one.kspace, right.kspace)
    assert not warnings


def test_center_of_the_lines_that_they_contradict() -> None:
    """Other writers have other numbers in idx.user: the strongest line shows which center is right."""
    kspace, one, warnings = scan((0, 23, 12), user=(0, 0, 0, 0, 0, 3, 0, 0))
    assert psnr(one.kspace[None], kspace) > EQUAL
    assert warnings[0].endswith("the header is used, because line 12 is the strongest")
    assert not scan((0, 23, 12), user=(0, 0, 0, 0, 0, 99, 0, 0))[2]  # beyond the limits


def test_center_of_partitions_is_taken() -> None:
    slices = phantom(12, 2, 16, 12)
    slab = centered_fft(slices, 0)
    limits = {"kspace_encoding_step_1": (0, 11, 6), "kspace_encoding_step_2": (0, 8, 5)}
    lines = [replace(line, user=(0, 0, 0, 0, 0, 6, 3, 0)) for line in scan_3d(slab[3:])]
    sorter, found = sort(slab_xml(slab, limits=limits), lines)
    slab[:3] = 0
    assert psnr(stacked(found), centered_fft(slab, 0, inverse=True)) > EQUAL
    assert sorter.warnings[0] == (
        "the center of k-space is partition 3 according to idx.user[6], and partition 5 according to the header: "
        "partition 3 is used"
    )
    assert "9 of 11 partitions were acquired" in sorter.warnings[1]


def test_center_that_nothing_has_is_doubted_by_what_was_acquired() -> None:
    """Partial Fourier with the wrong center in the header, and no other: the look at k-space finds it."""
    _, one, _ = scan((0, 17, 9), steps=range(18), first=6)
    inspection = inspect_kspace(Scan("scan", one.kspace[None], one.mask), one.mask)
    assert inspection.shift == (0, -3)


# Readouts and grids


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
    with pytest.raises(InputError, match="but 1 lines are there; check the header's matrix"):
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
