"""Lines of scanners to slices: k-space that comes back exactly, when slices are complete, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.files import complex_normal
from tests.support.small_coils import calibrated, coil_scans, distance

pytest.importorskip("ismrmrd")


from mrihvae.coils.maps import estimate_maps
from mrihvae.coils.settings import CoilSettings
from mrihvae.errors import InputError
from mrihvae.io.mrd import noise
from mrihvae.io.mrd.header import parse_header
from mrihvae.io.mrd.sorter import LINE_NUMBERS, Key, SliceAssembler
from mrihvae.io.partitions import centered_fft
from mrihvae.recon import sliced_scan
from mrihvae.recon.sliced_scan import calibration_maps
from tests.support import mrd
from tests.support.assembly import acquisition, scan_3d, slab_xml, sort, stacked

SHAPE = (3, 2, 16, 12)  # slices, coils, H, W
EXACT = 1e-12  # squared error over squared truth, of single precision
LINES = np.arange(12) % 3 == 0
GARBAGE = {mrd.NAVIGATION: 2, mrd.PHASE_CORRECTION: 3, mrd.HP_FEEDBACK: 1, mrd.DUMMY: 2, mrd.RT_FEEDBACK: 1, 29: 1}
GARBAGE |= {30: 1, 31: 1}  # phase stabilization, and its reference


def given(xml: str, lines: Sequence[mrd.Line]) -> list[list[int]]:
    """List the slices that each line completes, and those that are left, as a scanner sees it."""
    sorter = SliceAssembler(parse_header(xml))
    found = [[one.key.slice for one in sorter.add(acquisition(line))] for line in lines]
    return [*found, [one.key.slice for one in sorter.end()]]


def nmse(found: np.ndarray, truth: np.ndarray) -> float:
    assert found.shape == truth.shape and found.dtype == np.complex64
    return float((np.abs(found - truth) ** 2).sum() / (np.abs(truth) ** 2).sum())


def joined(first: str, second: str) -> str:
    """Put the encoding of a second header behind that of a first."""
    start, end = second.index("<encoding>"), second.index("</encoding>") + len("</encoding>")
    return first.replace("</encoding>", "</encoding>" + second[start:end])


# K-space comes back


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": True},
        {"slice_order": "odd_even", "shuffle": True},
        {"slice_order": "by_line"},
        {"margin_noise": True},
        {"averages": 3, "average_noise": 0.3},
        {"averages": 2, "average_noise": 0.3, "shuffle": True, "slice_order": "by_line"},
        {"averages": 2, "average_noise": 0.3, "slice_flags": "average"},
        {"reverse": np.arange(12) % 2 == 0},
        {"reverse": np.arange(12) % 2 == 0, "nominal_center": True},
        {"discard": (5, 3)},
        {"discard": (5, 3), "reverse": np.arange(12) % 2 == 0},
        {"discard": (3, 5), "reverse": np.arange(12) % 2 == 0, "nominal_center": True},
        {"garbage": GARBAGE},
        {"noise_scans": 3},
        {"slice_flags": "none"},
        {"slice_flags": "none", "averages": 2, "last_in_measurement": False},
        {"oversampling": 1},
        {"oversampling": 3, "reverse": True},
    ],
    ids=str,
)
def test_kspace_comes_back(options: dict[str, Any], early: bool) -> None:
    kspace = complex_normal(SHAPE)
    lines = mrd.cartesian_lines(kspace, **options)
    xml = mrd.cartesian_xml(SHAPE, options.get("oversampling", 2), averages=options.get("averages", 1))
    sorter, slices = sort(xml, lines, early)
    assert nmse(stacked(slices), kspace) < EXACT
    assert sorter.late == 0 and len(slices) == 3
    for one in slices:
        assert one.mask.shape == (12,) and one.mask.all()
        assert one.padding is None and one.matrix == (16, 12) and one.calibration is None
    assert (sorter.noise is None) == (not options.get("noise_scans"))


@pytest.mark.parametrize("size", [(15, 12), (16, 11), (15, 11)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    kspace = complex_normal((2, 2, *size))
    lines = mrd.cartesian_lines(kspace, reverse=np.arange(size[1]) % 2 == 1)
    _, slices = sort(mrd.cartesian_xml(kspace.shape), lines)
    assert nmse(stacked(slices), kspace) < EXACT


def test_only_lines_of_the_mask_are_there() -> None:
    kspace = complex_normal(SHAPE)
    masks = np.stack([LINES, np.roll(LINES, 1), np.ones(12, bool)])
    _, slices = sort(mrd.cartesian_xml(SHAPE), mrd.cartesian_lines(kspace, mask=masks))
    for one, mask, whole in zip(slices, masks, kspace):
        assert (one.mask == mask).all()
        assert nmse(one.kspace, np.where(mask, whole, 0)) < EXACT
        assert not one.kspace[..., ~mask].any()


def test_center_that_is_not_told() -> None:
    """Some converters leave `center_sample` 0."""
    kspace = complex_normal(SHAPE)
    lines = [replace(line, center_sample=0) for line in mrd.cartesian_lines(kspace)]
    _, slices = sort(mrd.cartesian_xml(SHAPE), lines)
    assert nmse(stacked(slices), kspace) < EXACT


def test_averages_of_some_lines_count_by_their_number() -> None:
    """A line that was measured three times is the mean of the three, the others stay as they are."""
    kspace = complex_normal((1, 2, 16, 12))
    lines = mrd.cartesian_lines(kspace)
    more = [replace(lines[4], data=lines[4].data * factor, average=1) for factor in (4, -2)]
    _, slices = sort(mrd.cartesian_xml(kspace.shape), [*lines, *more])
    assert nmse(slices[0].kspace, kspace[0]) < EXACT


def test_noise_scans_are_kept_apart_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    kspace = complex_normal(SHAPE)
    lines = mrd.cartesian_lines(kspace, noise_scans=3)
    sorter, _ = sort(mrd.cartesian_xml(SHAPE), lines)
    assert sorter.noise is not None
    np.testing.assert_array_equal(sorter.noise, np.concatenate([line.data for line in lines[:3]], axis=1))
    monkeypatch.setattr(noise, "MAX_NOISE_NUMBERS", 65)
    sorter, _ = sort(mrd.cartesian_xml(SHAPE), lines)
    assert sorter.noise is not None and sorter.noise.shape == (2, 64)


# Where lines lie


def test_partial_fourier_along_lines() -> None:
    """The center is line 4 of 0 to 15: the lines belong to the end of 24, and the first 8 would have been encoded."""
    kspace = complex_normal((1, 2, 16, 24))
    lines = mrd.cartesian_lines(kspace, mask=np.arange(24) >= 8)
    lines = [replace(line, kspace_encode_step_1=line.kspace_encode_step_1 - 8) for line in lines]
    xml = mrd.cartesian_xml(kspace.shape, limits={"kspace_encoding_step_1": (0, 15, 4)})
    _, (one,) = sort(xml, lines, early=True)
    assert (one.mask == (np.arange(24) >= 8)).all() and one.padding is None
    assert nmse(one.kspace, np.where(np.arange(24) >= 8, kspace[0], 0)) < EXACT


@pytest.mark.parametrize(("first", "end", "center"), [(6, 18, 6), (5, 17, 7), (6, 15, 6), (10, 18, 2)])
def test_reduced_resolution_is_known_to_be_zero(first: int, end: int, center: int) -> None:
    """Lines beyond the longer side of the center were not encoded, those of the shorter side were left out."""
    taken = (np.arange(24) >= first) & (np.arange(24) < end)
    kspace = complex_normal((1, 2, 16, 24)) * taken
    lines = mrd.cartesian_lines(kspace, mask=taken)
    lines = [replace(line, kspace_encode_step_1=line.kspace_encode_step_1 - first) for line in lines]
    xml = mrd.cartesian_xml(kspace.shape, limits={"kspace_encoding_step_1": (0, end - first - 1, center)})
    _, (one,) = sort(xml, lines, early=True)
    reach = max(12 - first, end - 12)
    assert one.padding == (12 - reach, 12 + reach) and (one.mask == taken).all()
    assert nmse(one.kspace, kspace[0]) < EXACT


def test_header_without_limits() -> None:
    """Counters then run over the matrix; slices end by their flags."""
    kspace = complex_normal(SHAPE)
    xml = mrd.cartesian_xml(SHAPE, limits={})
    _, slices = sort(xml, mrd.cartesian_lines(kspace), early=True)
    assert nmse(stacked(slices), kspace) < EXACT


def test_phase_oversampling_is_left_to_the_image() -> None:
    """K-space keeps all its lines; the image to deliver is that of the wanted field of view."""
    kspace = complex_normal((1, 2, 16, 24))
    xml = mrd.cartesian_xml(kspace.shape, recon=(16, 16, 1), recon_fov_mm=(16, 16, 5))
    _, (one,) = sort(xml, mrd.cartesian_lines(kspace))
    assert nmse(one.kspace, kspace[0]) < EXACT and one.matrix == (16, 16)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("oversampling", [1, 2])
def test_asymmetric_echo(oversampling: int, backwards: bool) -> None:
    """Readouts that begin late measure part of the rows: the mask is of bins."""
    kspace = complex_normal((2, 2, 64, 12))
    lines = mrd.cartesian_lines(
        kspace, mask=LINES, oversampling=oversampling, missing=16 * oversampling, reverse=backwards
    )
    _, slices = sort(mrd.cartesian_xml(kspace.shape, oversampling), lines)
    rows = np.arange(64) >= 16
    for one, whole in zip(slices, kspace):
        assert one.mask.shape == (64, 12)
        np.testing.assert_array_equal(one.mask, rows[:, None] & LINES)
        if oversampling == 1:
            assert nmse(one.kspace, np.where(one.mask, whole, 0)) < EXACT
        assert nmse(one.kspace[:, 24:, LINES], whole[:, 24:, LINES]) < 0.005  # away from what is missing


def test_discarded_samples_inside_of_the_matrix_are_missing() -> None:
    """A whole line of which 16 samples count as garbage is that of an asymmetric echo."""
    kspace = complex_normal((1, 2, 64, 12))
    lines = [replace(line, discard_pre=16) for line in mrd.cartesian_lines(kspace, oversampling=1)]
    _, (one,) = sort(mrd.cartesian_xml(kspace.shape, 1), lines)
    np.testing.assert_array_equal(one.mask, np.broadcast_to((np.arange(64) >= 16)[:, None], (64, 12)))
    assert nmse(one.kspace, np.where(one.mask, kspace[0], 0)) < EXACT


def test_short_symmetric_readouts_are_known_to_be_zero_outside() -> None:
    kspace = complex_normal((1, 2, 64, 12))
    lines = [
        replace(line, data=line.data[:, 16:48], center_sample=16)
        for line in mrd.cartesian_lines(kspace, oversampling=1)
    ]
    _, (one,) = sort(mrd.cartesian_xml(kspace.shape, 1), lines)
    inside = (np.arange(64) >= 16) & (np.arange(64) < 48)
    assert one.mask.shape == (12,) and one.mask.all()
    assert nmse(one.kspace, np.where(inside[:, None], kspace[0], 0)) < EXACT


# What is kept apart


def test_contrasts_repetitions_phases_and_sets_are_kept_apart() -> None:
    xml = mrd.cartesian_xml((1, 2, 16, 12))
    truth, lines = {}, []
    for number, name in enumerate(("contrast", "repetition", "phase", "set")):
        for value in (0, 2):
            kspace = complex_normal((1, 2, 16, 12), seed=10 * number + value)
            key = Key(0, 0, 0, 0, 0, 0)._replace(**{name: value})
            if key in truth:
                continue
            truth[key] = kspace
            lines += mrd.cartesian_lines(kspace, counters={name: value}, last_in_measurement=False)
    np.random.default_rng(0).shuffle(lines)  # type: ignore[arg-type]
    _, slices = sort(xml, lines)
    assert [one.key for one in slices] == sorted(truth) and len(truth) == 5
    for one in slices:
        assert nmse(one.kspace, truth[one.key][0]) < EXACT


def test_encodings_have_grids_of_their_own() -> None:
    small, large = complex_normal((1, 2, 16, 12)), complex_normal((1, 2, 32, 20), seed=1)
    xml = joined(mrd.cartesian_xml(small.shape), mrd.cartesian_xml(large.shape))
    lines = mrd.cartesian_lines(large, counters={"encoding_space_ref": 1})
    _, slices = sort(xml, [*mrd.cartesian_lines(small), *lines])
    assert [one.key.encoding for one in slices] == [0, 1]
    for one, kspace in zip(slices, (small, large)):
        assert nmse(one.kspace, kspace[0]) < EXACT and one.matrix == kspace.shape[-2:]


# 3D


@pytest.mark.parametrize("partitions", [5, 8])
@pytest.mark.parametrize("early", [False, True])
def test_partitions_become_slices(partitions: int, early: bool) -> None:
    """The Fourier transform across partitions gives the slices that a 2D scan has, from bottom to top."""
    slices = complex_normal((partitions, 2, 16, 12))
    kspace = np.stack([slices]).astype(np.complex128)
    shifted = np.fft.fft(np.fft.ifftshift(kspace, axes=1), axis=1, norm="ortho")
    kspace = np.fft.fftshift(shifted, axes=1)[0].astype(np.complex64)
    lines = scan_3d(kspace, slice_flags="none")
    np.random.default_rng(0).shuffle(lines)  # type: ignore[arg-type]
    _, found = sort(slab_xml(kspace), lines, early)
    assert [one.key.slice for one in found] == list(range(partitions))
    assert nmse(stacked(found), slices) < EXACT
    for z, one in enumerate(found):
        assert one.geometry.voxel == (1, 1, 2)
        np.testing.assert_allclose(one.geometry.positions, [[0, 0, 2 * (z - partitions // 2)]], atol=1e-6)


def test_slab_is_complete_once_all_partitions_are_there() -> None:
    """However its flags are: each partition may end with LAST_IN_SLICE; headers may tell no limits of partitions."""
    kspace = complex_normal((4, 2, 16, 12))
    for limits in (None, {"kspace_encoding_step_1": (0, 11, 6)}):
        xml = slab_xml(kspace) if limits is None else slab_xml(kspace, limits=limits)
        for slice_flags in ("repetition", "none"):
            found = given(xml, scan_3d(kspace, slice_flags=slice_flags))
            assert found[-2:] == [[0, 1, 2, 3], []] and not any(found[:-2])


@pytest.mark.parametrize("lines", [np.ones(12, bool), LINES])
def test_elliptical_partitions(lines: np.ndarray) -> None:
    """Corners that were not measured are zero; lines of which a part was measured count as measured."""
    y, z = np.arange(12)[:, None] - 6, np.arange(8) - 4
    taken = ((y / 6) ** 2 + (z / 4) ** 2 <= 1) & lines[:, None]
    kspace = complex_normal((8, 2, 16, 12)) * taken.T[:, None, None, :]
    _, found = sort(slab_xml(kspace), scan_3d(kspace, taken))
    assert nmse(stacked(found), centered_fft(kspace, 0, inverse=True)) < EXACT
    for one in found:
        assert (one.mask == lines).all()


def test_undersampled_partitions_are_refused() -> None:
    kspace = complex_normal((8, 2, 16, 12))
    taken = np.broadcast_to(np.arange(8) % 2 == 0, (12, 8))
    with pytest.raises(InputError, match="partitions are missing"):
        sort(slab_xml(kspace), scan_3d(kspace, taken))


def test_slabs_and_their_oversampling() -> None:
    """Of 6 partitions each, the middle 4 are imaged; slices count on from one slab to the next."""
    slabs = complex_normal((2, 6, 2, 16, 12))
    xml = slab_xml(slabs[0], recon=(16, 12, 4), recon_fov_mm=(16, 12, 8))
    lines = []
    for k, slab in enumerate(slabs):
        position = [[0.0, 0.0, 100.0 * k]]
        lines += [replace(line, slice=k) for line in scan_3d(slab, positions=position)]
    _, found = sort(xml, lines)
    assert [one.key.slice for one in found] == list(range(8))
    for k, one in enumerate(found):
        assert nmse(one.kspace, centered_fft(slabs[k // 4], 0, inverse=True)[1 + k % 4]) < EXACT
        assert one.geometry.positions[0, 2] == pytest.approx(100 * (k // 4) + 2 * (k % 4 - 2))


# Geometry


def test_geometry_of_slices() -> None:
    positions = [[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]
    lines = mrd.cartesian_lines(
        complex_normal(SHAPE), positions=positions, read_dir=(0, 0, -1), phase_dir=(0, 1, 0), slice_dir=(1, 0, 0)
    )
    _, slices = sort(mrd.cartesian_xml(SHAPE, pixel_mm=(1.5, 0.75), thickness_mm=4), lines)
    for one, position in zip(slices, positions):
        np.testing.assert_allclose(one.geometry.positions, [position])
        np.testing.assert_allclose(
            [one.geometry.read, one.geometry.phase, one.geometry.normal], [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
        )
        assert one.geometry.voxel == (1.5, 0.75, 4)


def test_directions_that_are_all_zero_are_axial() -> None:
    nowhere = (0.0, 0.0, 0.0)
    lines = mrd.cartesian_lines(
        complex_normal(SHAPE), positions=np.zeros((3, 3)), read_dir=nowhere, phase_dir=nowhere, slice_dir=nowhere
    )
    _, slices = sort(mrd.cartesian_xml(SHAPE), lines)
    for one in slices:
        np.testing.assert_array_equal([one.geometry.read, one.geometry.phase, one.geometry.normal], np.eye(3))
        assert not one.geometry.positions.any()


@pytest.mark.parametrize("read", [(0.8, 0.6, 0), (0, 0, 0)])
def test_wrong_directions_are_told_and_taken_for_axial(read: tuple[float, float, float]) -> None:
    lines = mrd.cartesian_lines(complex_normal(SHAPE), read_dir=read)
    sorter, slices = sort(mrd.cartesian_xml(SHAPE), lines)
    (told,) = sorter.warnings
    assert "directions of the header" in told and told.endswith("; the image is placed as an axial one")
    for one, line in zip(slices, lines[::12]):
        np.testing.assert_array_equal([one.geometry.read, one.geometry.phase, one.geometry.normal], np.eye(3))
        np.testing.assert_allclose(one.geometry.positions[0], line.position)


# When slices are complete


def test_slices_end_by_their_flags() -> None:
    lines = mrd.cartesian_lines(complex_normal(SHAPE), mask=LINES)  # 4 lines each
    found = given(mrd.cartesian_xml(SHAPE), lines)
    assert found == [[], [], [], [0], [], [], [], [1], [], [], [], [2], []]


def test_slices_that_are_measured_in_turn_end_by_their_flags() -> None:
    lines = mrd.cartesian_lines(complex_normal(SHAPE), mask=LINES, slice_order="by_line")
    assert given(mrd.cartesian_xml(SHAPE), lines) == [*[[]] * 9, [0], [1], [2], []]


def test_flags_of_earlier_averages_do_not_end_a_slice() -> None:
    lines = mrd.cartesian_lines(complex_normal(SHAPE), mask=LINES, averages=2, slice_flags="average")
    found = given(mrd.cartesian_xml(SHAPE, averages=2), lines)
    assert [k for k, one in enumerate(found) if one] == [7, 15, 23]


@pytest.mark.parametrize("averages", [1, 2])
def test_slices_end_by_the_number_of_lines(averages: int) -> None:
    lines = mrd.cartesian_lines(
        complex_normal(SHAPE), averages=averages, slice_flags="none", last_in_measurement=False, shuffle=True
    )
    found = given(mrd.cartesian_xml(SHAPE, averages=averages), lines)
    assert [k for k, one in enumerate(found) if one] == [12 * averages * k - 1 for k in (1, 2, 3)]


def test_slices_end_when_their_next_repetition_begins() -> None:
    lines = mrd.cartesian_lines(
        complex_normal(SHAPE), mask=LINES, repetitions=2, slice_flags="none", last_in_measurement=False
    )
    found = given(mrd.cartesian_xml(SHAPE, repetitions=2), lines)
    assert found == [*[[]] * 12, [0], [], [], [], [1], [], [], [], [2], [], [], [], [0, 1, 2]]


@pytest.mark.parametrize("last", [False, True])
def test_slices_end_with_the_scan(last: bool) -> None:
    """By the flag of its last line, or without any by its end alone."""
    lines = mrd.cartesian_lines(complex_normal(SHAPE), mask=LINES, slice_flags="none", last_in_measurement=last)
    ends = [[0, 1, 2], []] if last else [[], [0, 1, 2]]
    assert given(mrd.cartesian_xml(SHAPE), lines) == [*[[]] * 11, *ends]


def test_files_give_all_slices_at_their_end() -> None:
    """Lines of a slice that come behind its flags count as others do."""
    kspace = complex_normal(SHAPE)
    lines = mrd.cartesian_lines(kspace)
    lines = [*lines[3:], *lines[:3]]
    sorter = SliceAssembler(parse_header(mrd.cartesian_xml(SHAPE)), early=False)
    assert not any(sorter.add(acquisition(line)) for line in lines)
    assert nmse(stacked(sorter.end()), kspace) < EXACT and sorter.late == 0


def test_late_lines_are_counted_and_not_used() -> None:
    kspace = complex_normal(SHAPE)
    lines = mrd.cartesian_lines(kspace, mask=LINES)
    sorter, slices = sort(mrd.cartesian_xml(SHAPE), [*lines[:4], *lines[:2], *lines[4:]], early=True)
    assert sorter.late == 2 and len(slices) == 3
    assert nmse(stacked(slices), np.where(LINES, kspace, 0)) < EXACT


# Maps


@pytest.fixture(scope="module")
def coils() -> tuple[torch.Tensor, torch.Tensor]:
    """Complete k-space of 2 slices and 4 coils without noise, and the maps."""
    kspace, maps, _ = coil_scans(2, 4, 32, 32, noise=0.0)
    return kspace, maps


def maps_of(kspace: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
    return estimate_maps(kspace[None], torch.from_numpy(mask), CoilSettings())[0]


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("mode", ["embedded", "separate", "other", None])
def test_calibration_lines(mode: str | None, apart: bool, coils: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Embedded, or where they fill gaps of the image, they are its lines; else the maps come from them alone."""
    kspace, center = coils[0], np.abs(np.arange(32) - 16) <= 6
    lines = mrd.cartesian_lines(
        kspace.numpy(), mask=np.arange(32) % 3 == 0, calibration=center, calibration_apart=apart
    )
    xml = mrd.cartesian_xml(kspace.shape, acceleration=(3, 1), calibration_mode=mode)
    _, slices = sort(xml, lines)
    for one, whole in zip(slices, kspace):
        image = np.arange(32) % 3 == 0
        if mode != "separate":
            assert one.calibration is None
            image = image | center
        else:
            assert one.calibration is not None
            measured = np.where(center, whole.numpy(), 0)
            np.testing.assert_array_equal(one.calibration.mask, np.broadcast_to(center, (32, 32)))
            assert nmse(one.calibration.kspace, measured.astype(np.complex64)) < EXACT
            maps = calibration_maps(one.calibration, CoilSettings(), None)
            assert distance(maps, maps_of(torch.from_numpy(measured), center)) < 1e-6
        assert (one.mask == image).all()
        assert nmse(one.kspace, np.where(image, whole.numpy(), 0)) < EXACT


@pytest.mark.parametrize("early", [False, True])
def test_calibration_lines_come_from_the_first_repetition_and_contrast(early: bool) -> None:
    scans = complex_normal((2, 1, 4, 32, 32))
    center = np.abs(np.arange(32) - 16) <= 6
    lines = []
    for contrast in range(2):
        options: dict[str, Any] = {"mask": np.arange(32) % 3 == 0, "calibration": center, "calibration_apart": True}
        counters = {"contrast": contrast}
        lines += mrd.cartesian_lines(scans + contrast, counters=counters, last_in_measurement=False, **options)
    xml = mrd.cartesian_xml(scans.shape, acceleration=(3, 1), calibration_mode="separate")
    _, slices = sort(xml, lines, early)
    assert len(slices) == 4 and len({id(one.calibration) for one in slices}) == 1
    assert slices[0].calibration is not None
    truth = np.where(center, scans[0, 0], 0).astype(np.complex64)
    assert nmse(slices[0].calibration.kspace, truth) < EXACT


def test_calibration_of_an_encoding_of_its_own(coils: tuple[torch.Tensor, torch.Tensor]) -> None:
    """A quick scan of low resolution and the same field of view gives the maps of the image."""
    kspace, truth = coils
    low = kspace[:, :, 8:24, 8:24].numpy()
    image = mrd.cartesian_xml(kspace.shape, calibration_mode="separate")
    fov = {"encoded_fov_mm": (64, 32, 5), "recon_fov_mm": (32, 32, 5)}
    xml = joined(image, mrd.cartesian_xml(low.shape, calibration_mode="separate", **fov))
    first = mrd.cartesian_lines(low, counters={"encoding_space_ref": 1}, last_in_measurement=False)
    first = [replace(line, flags=mrd.flags(mrd.CALIBRATION)) for line in first]
    lines = [*first, *mrd.cartesian_lines(kspace.numpy(), mask=np.arange(32) % 3 == 0, calibration=np.arange(32) == 0)]
    _, slices = sort(xml, lines)
    assert len(slices) == 2
    inside = (np.abs(np.arange(32) - 16) <= 8) & (np.arange(32) < 24)
    for one, whole in zip(slices, kspace):
        assert one.calibration is not None and one.kspace.shape == (4, 32, 32)
        np.testing.assert_array_equal(one.calibration.mask, inside[:, None] & inside)
        np.testing.assert_allclose(one.calibration.kspace, whole.numpy() * (inside[:, None] & inside), atol=1e-5)
        maps = calibration_maps(one.calibration, CoilSettings(), None)
        overlap = (maps * truth.conj()).sum(dim=0).abs()
        assert float(overlap[8:24, 8:24].mean()) > 0.98  # the same up to their phase, where the object is


def test_calibration_of_another_field_of_view_is_refused() -> None:
    kspace = complex_normal((1, 2, 32, 32))
    image = mrd.cartesian_xml(kspace.shape, calibration_mode="separate")
    fov = {"encoded_fov_mm": (64, 40, 5), "recon_fov_mm": (32, 40, 5)}
    xml = joined(image, mrd.cartesian_xml(kspace.shape, calibration_mode="separate", **fov))
    first = [
        replace(line, flags=mrd.flags(mrd.CALIBRATION), encoding_space_ref=1) for line in mrd.cartesian_lines(kspace)
    ]
    with pytest.raises(InputError, match=r"another field of view along y than the image, 1\.25 times"):
        sort(xml, [*first, *mrd.cartesian_lines(kspace)])


def test_interleaved_repetitions_calibrate_together() -> None:
    """Each repetition takes every third line; the maps come from all of them together (TGRAPPA)."""
    kspace = complex_normal((1, 2, 16, 24))
    masks = np.stack([np.arange(24) % 3 == k for k in range(3)])[:, None]
    lines = mrd.cartesian_lines(kspace, mask=masks, repetitions=3)
    xml = mrd.cartesian_xml(kspace.shape, repetitions=3, acceleration=(3, 1), calibration_mode="interleaved")
    _, slices = sort(xml, lines)
    assert len(slices) == 3 and len({id(one.calibration) for one in slices}) == 1
    for one, mask in zip(slices, masks[:, 0]):
        assert (one.mask == mask).all()
        assert one.calibration is not None and one.calibration.mask.all()
        assert nmse(one.calibration.kspace, kspace[0]) < EXACT


def test_interleaved_repetitions_wait_for_their_maps() -> None:
    """In a stream the first slices come when the repetitions so far can be calibrated from, and all as in a file."""
    kspace = complex_normal((2, 2, 16, 24))
    masks = np.stack([np.arange(24) % 3 == k for k in (0, 1, 2, 0)])[:, None]
    lines = mrd.cartesian_lines(kspace, mask=masks, repetitions=4)
    xml = mrd.cartesian_xml(kspace.shape, repetitions=4, acceleration=(3, 1), calibration_mode="interleaved")
    assert [one for one in given(xml, lines) if one] == [[0, 0, 0], [1, 1, 1], [0], [1]]
    _, early = sort(xml, lines, early=True)
    _, late = sort(xml, lines)
    for one, other in zip(*(sorted(some, key=lambda one: one.key) for some in (early, late)), strict=True):
        assert one.calibration is not None and other.calibration is not None
        np.testing.assert_array_equal(one.calibration.kspace, other.calibration.kspace)
        np.testing.assert_array_equal(one.calibration.mask, other.calibration.mask)


def test_first_interleaved_repetition_calibrates_if_it_can() -> None:
    kspace = complex_normal((1, 2, 16, 24))
    masks = np.stack([np.arange(24) % 3 == k for k in range(3)])[:, None]
    masks[:, :, 9:15] = True
    lines = mrd.cartesian_lines(kspace, mask=masks, repetitions=3)
    xml = mrd.cartesian_xml(kspace.shape, repetitions=3, acceleration=(3, 1), calibration_mode="interleaved")
    assert [one for one in given(xml, lines) if one] == [[0], [0], [0]]
    for early in (True, False):
        _, slices = sort(xml, lines, early=early)
        assert all(one.calibration is slices[0].calibration for one in slices)
        assert slices[0].calibration is not None and (slices[0].calibration.mask == masks[0, 0]).all()


def test_interleaved_repetitions_that_never_suffice_come_at_the_end() -> None:
    kspace, mask = complex_normal((1, 2, 16, 24)), np.arange(24) % 3 == 0
    lines = mrd.cartesian_lines(kspace, mask=mask, repetitions=2)
    xml = mrd.cartesian_xml(kspace.shape, repetitions=2, acceleration=(3, 1), calibration_mode="interleaved")
    assert [one for one in given(xml, lines) if one] == [[0, 0]]


def test_oversampling_that_was_taken_away_before() -> None:
    """Lines of just the image's matrix, as some senders make them without a change of the header."""
    kspace = complex_normal(SHAPE)
    lines = mrd.cartesian_lines(kspace, oversampling=1)
    _, slices = sort(mrd.cartesian_xml(SHAPE), lines)
    np.testing.assert_array_equal(stacked(slices), kspace)
    assert all(one.mask.shape == (12,) for one in slices)


def test_calibration_of_slabs() -> None:
    """Slices of each slab have the maps of their own place, and partitions that are not imaged have none."""
    slabs = complex_normal((2, 6, 2, 16, 12))
    changes = {"recon": (16, 12, 4), "recon_fov_mm": (16, 12, 8), "calibration_mode": "separate"}
    xml = slab_xml(slabs[0], acceleration=(3, 1), **changes)
    low = np.abs(np.arange(12) - 6) <= 4
    lines = []
    for k, slab in enumerate(slabs):
        first = [replace(line, flags=mrd.flags(mrd.CALIBRATION)) for line in scan_3d(slab * low)]
        lines += [replace(line, slice=k) for line in (*first, *scan_3d(slab, np.repeat(LINES[:, None], 6, axis=1)))]
    _, found = sort(xml, lines)
    assert len(found) == 8
    for k, one in enumerate(found):
        truth = centered_fft((slabs[k // 4] * low).astype(np.complex64), 0, inverse=True)[1 + k % 4]
        assert one.calibration is not None and nmse(one.calibration.kspace, truth) < EXACT
        assert one.mask.tolist() == LINES.tolist()


def test_calibration_of_fewer_partitions() -> None:
    """Those of an encoding of their own lie in the middle of the slab."""
    slab = complex_normal((8, 2, 16, 12))
    image = slab_xml(slab, calibration_mode="separate")
    xml = joined(image, slab_xml(slab[2:6], encoded_fov_mm=(32, 12, 16), recon_fov_mm=(16, 12, 16)))
    first = [
        replace(line, flags=mrd.flags(mrd.CALIBRATION), encoding_space_ref=1, kspace_encode_step_2=z)
        for z in range(4)
        for line in mrd.cartesian_lines(slab[2 + z][None], last_in_measurement=False)
    ]
    _, found = sort(xml, [*first, *scan_3d(slab)])
    middle = (np.arange(8) >= 2) & (np.arange(8) < 6)
    truth = centered_fft((slab * middle[:, None, None, None]).astype(np.complex64), 0, inverse=True)
    assert len(found) == 8
    for one, whole in zip(found, truth):
        assert one.calibration is not None and nmse(one.calibration.kspace, whole) < EXACT


def test_later_repetitions_have_the_maps_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are computed once, from the lines of the first."""
    scans = complex_normal((3, 2, 4, 32, 30))
    mask = calibrated(30).numpy()
    xml = mrd.cartesian_xml(scans.shape)
    for early in (False, True):
        _, slices = sort(xml, mrd.cartesian_lines(scans, mask=mask), early)
        assert [one.key[2:] for one in slices] == [(r, 0, 0, k) for r in range(3) for k in range(2)]
        for one in slices:
            assert one.calibration is slices[one.key.slice].calibration
            assert one.calibration is not None
            assert nmse(one.calibration.kspace, np.where(mask, scans[0, one.key.slice], 0)) < EXACT
        counted: list[int] = []

        def estimate(*words: Any, counted: list[int] = counted) -> torch.Tensor:
            counted.append(1)
            return estimate_maps(*words)

        monkeypatch.setattr(sliced_scan, "estimate_maps", estimate)
        maps = [calibration_maps(one.calibration, CoilSettings(), None) for one in slices if one.calibration]
        assert len(counted) == 2 and torch.equal(maps[0], maps[4])
        monkeypatch.undo()


# What is refused


@pytest.mark.parametrize("name", ["radial", "epi", "spiral", "goldenangle", "other"])
def test_other_trajectories_are_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"trajectory '{name}'"):
        SliceAssembler(parse_header(mrd.cartesian_xml(SHAPE, trajectory=name)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding_space_ref": 1}, "line 5: is of encoding 1, and the header has 1"),
        ({"encoding_space_ref": 1}, "the option -F of siemens_to_ismrmrd"),
        ({"data": complex_normal((3, 32))}, "line 5: has 3 coils, and others have 2"),
        ({"data": complex_normal((2, 33))}, "line 5: has 33 samples"),
        ({"data": complex_normal((2, 14))}, "line 5: has 14 samples to use with the center at 16"),
        (
            {"center_sample": 18},
            "line 5: has 32 samples to use with the center at 18, which do not fit the header's 32",
        ),
        ({"center_sample": 14, "flags": 0}, "center at 14"),
        ({"discard_pre": 20, "discard_post": 12}, "line 5: has 0 samples"),
        ({"discard_pre": 65535}, "line 5: has 0 samples"),
        ({"discard_post": 40}, "line 5: has 0 samples"),
        ({"data": np.zeros((0, 32), np.complex64)}, "line 5: has no coil"),
        ({"data": np.full((2, 32), np.nan, np.complex64)}, "line 5: holds NaN"),
        ({"data": np.full((2, 32), np.inf, np.complex64), "flags": mrd.flags(mrd.NOISE)}, "line 5: holds NaN"),
    ],
    ids=range(13),
)
def test_lines_that_are_refused(changes: dict[str, Any], message: str) -> None:
    lines = mrd.cartesian_lines(complex_normal(SHAPE))
    lines[5] = replace(lines[5], **changes)
    with pytest.raises(InputError) as caught:
        sort(mrd.cartesian_xml(SHAPE), lines)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("counters", "name"), [({"kspace_encode_step_1": 12}, "12, with center 6, and left out: line 12"),
                           ({"kspace_encode_step_2": 1}, "1, with center 0, and left out: partition 1")]
)  # fmt: skip
def test_line_outside_of_the_matrix_is_left_out(counters: dict[str, int], name: str) -> None:
    kspace = complex_normal(SHAPE)
    lines = mrd.cartesian_lines(kspace)
    lines[5] = replace(lines[5], **counters)
    sorter, slices = sort(mrd.cartesian_xml(SHAPE), lines)
    assert sorter.warnings == [f"outside of the header's matrix of {name}"]
    kspace[0, ..., 5] = 0
    assert nmse(stacked(slices), kspace) < EXACT and np.flatnonzero(~slices[0].mask).tolist() == [5]


@pytest.mark.parametrize("early", [False, True])
def test_calibration_lines_of_an_encoding_that_the_header_has_not(early: bool) -> None:
    """As converters write them whose style sheet does not add it: of another grid, in the same counters."""
    kspace, low = complex_normal(SHAPE), complex_normal((3, 2, 6, 8))
    first = [replace(line, flags=mrd.flags(mrd.CALIBRATION), encoding_space_ref=1) for line in mrd.cartesian_lines(low)]
    lines = mrd.cartesian_lines(kspace, mask=LINES)
    sorter, slices = sort(mrd.cartesian_xml(SHAPE, calibration_mode="separate"), [*first, *lines], early)
    assert nmse(stacked(slices), np.where(LINES, kspace, 0)) < EXACT
    assert all(one.calibration is None for one in slices)
    assert sorter.warnings == ["an ACS line is of encoding 1, and the header has 1: such lines are left out"]


@pytest.mark.parametrize("center", [15, 17])
def test_center_of_a_whole_readout_may_be_told_one_beside_it(center: int) -> None:
    kspace = complex_normal(SHAPE)
    lines = [replace(line, center_sample=center) for line in mrd.cartesian_lines(kspace)]
    assert nmse(stacked(sort(mrd.cartesian_xml(SHAPE), lines)[1]), kspace) < EXACT


def test_other_trajectories_matter_where_lines_are_of_them() -> None:
    """A second encoding, of a navigator say, may be EPI."""
    kspace = complex_normal(SHAPE)
    header, lines = parse_header(mrd.cartesian_xml(SHAPE)), mrd.cartesian_lines(kspace)
    second = replace(header.encodings[0], trajectory="epi")
    sorter = SliceAssembler(replace(header, encodings=(header.encodings[0], second)))
    found = [one for line in lines for one in sorter.add(acquisition(line))]
    assert nmse(stacked(found), kspace) < EXACT
    with pytest.raises(InputError, match="trajectory 'epi'"):
        sorter.add(acquisition(replace(lines[0], encoding_space_ref=1)))


def test_repetitions_that_are_kept_for_their_maps_count() -> None:
    kspace = complex_normal((4, 2, 16, 12))
    lines = mrd.cartesian_lines(kspace, repetitions=2)
    xml, size = mrd.cartesian_xml(kspace.shape, repetitions=2), 2 * 16 * 12
    assert len(sort(xml, lines, True, max_held=5 * size)[1]) == 8
    with pytest.raises(InputError, match="raise --max-memory"):
        sort(xml, lines, True, max_held=3 * size)


@pytest.mark.parametrize("missing", ["first half", "last three quarters", "outer ones"])
def test_scans_that_end_early_are_refused(missing: str) -> None:
    """Partitions that the header tells of and that no line has."""
    kspace = complex_normal((8, 2, 16, 12))
    z = np.arange(8)
    kept = {"first half": z >= 4, "last three quarters": z < 2, "outer ones": abs(z - 4) < 2}
    with pytest.raises(InputError, match="partitions are missing"):
        sort(slab_xml(kspace), scan_3d(kspace, np.broadcast_to(kept[missing], (12, 8))))


def test_lines_that_are_not_used_may_hold_anything() -> None:
    kspace = complex_normal(SHAPE)
    lines = mrd.cartesian_lines(kspace)
    odd = replace(
        lines[0], data=np.full((7, 3), np.nan, np.complex64), flags=mrd.flags(mrd.DUMMY), kspace_encode_step_1=999
    )
    _, slices = sort(mrd.cartesian_xml(SHAPE), [odd, *lines])
    assert nmse(stacked(slices), kspace) < EXACT


@pytest.mark.parametrize("early", [False, True])
def test_noise_scans_of_other_coils_are_left_out(early: bool) -> None:
    lines = mrd.cartesian_lines(complex_normal(SHAPE))
    others = [mrd.Line(complex_normal((coils, 64)), flags=mrd.flags(mrd.NOISE)) for coils in (4, 3)]
    sorter, slices = sort(mrd.cartesian_xml(SHAPE), [*others, *lines], early)
    assert sorter.noise is None and len(slices) == 3
    assert sorter.warnings == [f"the noise scan of {coils} coils is left out, because lines have 2" for coils in (4, 3)]


def test_lines_that_are_held_are_limited() -> None:
    """Slices that are given make room again."""
    lines = mrd.cartesian_lines(complex_normal(SHAPE))
    size = 2 * 16 * 12
    assert len(sort(mrd.cartesian_xml(SHAPE), lines, True, max_held=size)[1]) == 3
    with pytest.raises(InputError, match="the limit for one scan; raise --max-memory"):
        sort(mrd.cartesian_xml(SHAPE), lines, False, max_held=size)


def test_what_is_held_is_counted() -> None:
    """Samples, and what lines take beside them; nothing once slices are given."""
    lines = mrd.cartesian_lines(complex_normal(SHAPE), noise_scans=1)
    sorter = SliceAssembler(parse_header(mrd.cartesian_xml(SHAPE)))
    held = []
    for line in lines:
        sorter.add(acquisition(line))
        held.append(sorter.held)
    noise = lines[0].data.size
    assert held[:3] == [noise, noise + 2 * 16 + LINE_NUMBERS, noise + 2 * (2 * 16 + LINE_NUMBERS)]
    assert held[-1] == noise


def test_matrix_that_no_lines_can_fill() -> None:
    """A few lines and a header of gigabytes: refused before the memory is taken."""
    kspace = complex_normal((1, 8, 16, 12))
    xml = mrd.cartesian_xml(
        kspace.shape, encoded=(32, 2**14, 2**14), recon=(16, 2**14, 2**14),
        limits={"kspace_encoding_step_1": (0, 11, 6)},
    )  # fmt: skip
    with pytest.raises(InputError, match="check the header's matrix"):
        sort(xml, mrd.cartesian_lines(kspace))


@pytest.mark.parametrize("early", [False, True])
def test_of_warnings_that_are_alike_few_are_kept(early: bool) -> None:
    """A client could have every line raise another one: what they take grows with the lines, not with their square."""
    kspace = complex_normal((1, 1, 64, 48))
    lines = [
        replace(line, data=np.ones((1, 200 + k), np.complex64), center_sample=100 + k // 2)
        for k, line in enumerate(mrd.cartesian_lines(kspace))
    ]
    sorter, _ = sort(mrd.cartesian_xml(kspace.shape), lines, early)
    assert [text[:22] for text in sorter.warnings[:3]] == [f"lines have {200 + k} samples" for k in range(3)]
    assert sorter.warnings[3:] == [f"45 more like: {sorter.warnings[0]}"]
