"""Simulated scans: their numbers, their randomness, and images that nobody would send on purpose."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator

from mrihvae.physics.fastmri_masks import MASK_TYPES
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.noise import noise_std
from mrihvae.physics.sampling import PATTERNS
from mrihvae.physics.scaling import kspace_scale
from mrihvae.training import draw as simulate
from mrihvae.training.batches import Scans
from mrihvae.training.draw import MASK_SHARES, SimulationSettings, draw_batch
from tests.support.files import complex_normal
from tests.support.small import phantom, small_kspace

DEFAULT = SimulationSettings()
PLAIN = SimulationSettings(extra_noise=0.0, partial_resolution=0.0)
Image = tuple[np.ndarray, bool]


def rng(seed: int = 0) -> Generator:
    return np.random.default_rng(seed)


def raw(slices: int, height: int, width: int, noise: float = 0.01) -> list[Image]:
    return [(kspace.numpy(), True) for kspace in small_kspace(slices, height, width, noise)]


def magnitudes(slices: int, height: int, width: int) -> list[Image]:
    return [(phantom(height, width, k), False) for k in range(slices)]


def only(mask_type: str, monkeypatch: pytest.MonkeyPatch, partial: float = 0.0) -> None:
    """Let all masks be of one type, and this share of them cut off on a side."""
    monkeypatch.setattr(simulate, "MASK_SHARES", {mask_type: 1.0})
    monkeypatch.setattr(simulate, "PARTIAL_SHARE", partial)


def equal(a: Scans, b: Scans) -> bool:
    names = ("kspace", "measured", "mask", "noise")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def check(scans: Scans, slices: int, shape: tuple[int, int]) -> None:
    """Check what holds for any batch: shapes, types, finite numbers, measured where and only where the mask says."""
    assert scans.kspace.shape == scans.measured.shape == scans.mask.shape == (slices, *shape)
    assert scans.kspace.dtype == scans.measured.dtype == torch.complex64
    assert scans.mask.dtype == torch.bool and scans.noise.dtype == torch.float32 and scans.noise.shape == (slices,)
    for values in (torch.view_as_real(scans.kspace), torch.view_as_real(scans.measured), scans.noise):
        assert bool(torch.isfinite(values).all())
    assert bool((scans.noise >= 0).all())
    assert not scans.measured[~scans.mask].any()


@pytest.mark.parametrize("images", [magnitudes(3, 40, 50), raw(3, 40, 50), [*raw(2, 40, 50), *magnitudes(1, 64, 64)]])
def test_equal_generators_give_equal_batches(images: list[Image]) -> None:
    first = draw_batch(images, (48, 32), DEFAULT, rng(1))
    assert equal(first, draw_batch(images, (48, 32), DEFAULT, rng(1)))
    other = draw_batch(images, (48, 32), DEFAULT, rng(2))
    assert not torch.equal(first.kspace, other.kspace) and not torch.equal(first.measured, other.measured)
    continued = rng(1)
    draw_batch(images, (48, 32), DEFAULT, continued)
    assert not equal(first, draw_batch(images, (48, 32), DEFAULT, continued))


def test_global_generators_are_left_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    before: Any = np.random.get_state()  # noqa: NPY002
    of_torch = torch.get_rng_state()
    first = draw_batch(magnitudes(2, 40, 50), (32, 32), DEFAULT, rng())
    after: Any = np.random.get_state()  # noqa: NPY002
    assert np.array_equal(before[1], after[1]) and before[2:] == after[2:]
    assert torch.equal(of_torch, torch.get_rng_state())
    torch.manual_seed(7)
    assert equal(first, draw_batch(magnitudes(2, 40, 50), (32, 32), DEFAULT, rng()))


@pytest.mark.parametrize("target", [(32, 32), (96, 64), (40, 128), (33, 47)])
@pytest.mark.parametrize("source", [(64, 64), (37, 81), (20, 20), (130, 64)])
def test_any_size_on_any_other(source: tuple[int, int], target: tuple[int, int]) -> None:
    images = [*magnitudes(2, *source), *raw(2, *source)]
    for seed in range(4):
        scans = draw_batch(images, target, DEFAULT, rng(seed))
        check(scans, 4, target)
        assert kspace_scale(scans.measured).tolist() == pytest.approx([1.0] * 4, rel=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64, ">i2", "bool"])
def test_any_type_of_number(dtype: str) -> None:
    image = (200 * phantom(50, 41)).astype(dtype)
    scans = draw_batch([(image, False)], (32, 48), DEFAULT, rng())
    check(scans, 1, (32, 48))
    assert float(kspace_scale(scans.measured)) == pytest.approx(1.0, rel=1e-4)


def test_scale_of_the_input_does_not_matter() -> None:
    image = phantom(50, 41)
    first = draw_batch([(image, False)], (32, 48), DEFAULT, rng())
    second = draw_batch([(4096 * image, False)], (32, 48), DEFAULT, rng())
    torch.testing.assert_close(first.kspace, second.kspace, rtol=1e-4, atol=1e-4)
    kspace = raw(1, 40, 50)[0][0]
    first = draw_batch([(kspace, True)], (32, 48), DEFAULT, rng())
    second = draw_batch([(kspace * np.float32(2**-20), True)], (32, 48), DEFAULT, rng())
    torch.testing.assert_close(first.measured, second.measured, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first.noise, second.noise, rtol=1e-4, atol=0)


def test_inputs_are_left_as_they_are() -> None:
    images = [*magnitudes(1, 40, 50), *raw(1, 40, 50)]
    copies = [array.copy() for array, _ in images]
    draw_batch(images, (32, 32), DEFAULT, rng())
    assert all(np.array_equal(array, copy) for (array, _), copy in zip(images, copies, strict=True))


def test_measured_is_the_scan_on_the_mask() -> None:
    for seed in range(6):
        scans = draw_batch([*magnitudes(2, 50, 40), *raw(2, 50, 40)], (48, 64), PLAIN, rng(seed))
        assert torch.equal(scans.measured, torch.where(scans.mask, scans.kspace, 0))


@pytest.mark.parametrize("mask_type", MASK_SHARES)
def test_lines_are_whole_and_other_patterns_are_not(mask_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only(mask_type, monkeypatch)
    lines = mask_type in (*MASK_TYPES, "partial_fourier", "center")
    for seed in range(4):
        scans = draw_batch([*magnitudes(2, 50, 40), *raw(2, 50, 40)], (48, 64), PLAIN, rng(seed))
        inner = scans.mask[:, 16:-16]  # further out, rows of padded scans are empty and so known
        whole = (inner == inner[:, :1]).all(dim=2).all(dim=1)
        assert bool((whole == (torch.tensor(lines) | inner.all(dim=2).all(dim=1))).all())
        if lines:
            assert bool(scans.mask[:, :, 32].all())  # the center is always measured
        assert bool(scans.mask[:, 24, 32].all())


def test_extra_noise_is_on_measured_bins_in_half_of_the_scans() -> None:
    settings = SimulationSettings(extra_noise=0.2, partial_resolution=0.0)
    scans = draw_batch(magnitudes(60, 40, 40), (32, 32), settings, rng())
    added = scans.measured - scans.kspace
    stds = torch.stack([one[mask].abs().square().mean().sqrt() for one, mask in zip(added, scans.mask, strict=True)])
    assert 20 <= int((stds > 0).sum()) <= 40
    assert 0.1 < float(stds.max()) < 0.3
    assert not scans.measured[~scans.mask].any()


def test_acceleration_and_mask_types_cover_their_range() -> None:
    scans = draw_batch(magnitudes(80, 32, 32), (32, 96), PLAIN, rng())
    rates = 1 / scans.mask.float().mean(dim=(1, 2))
    assert float(rates.min()) == 1.0 and 7 < float(rates.max()) < 20
    assert len({one.numpy().tobytes() for one in scans.mask}) > 60
    assert bool(scans.mask[:, 16, 48].all())  # DC is always measured


def test_every_mask_type_is_drawn_as_often_as_its_share_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(MASK_SHARES.values()) == pytest.approx(1.0) and min(MASK_SHARES.values()) > 0
    assert set(MASK_SHARES) == set(PATTERNS) - {"poisson"} | {"density"}
    drawn: Counter[str] = Counter()
    empty = np.ones((8, 24), dtype=bool)

    def pattern(mask_type: str, *_: Any) -> np.ndarray:
        drawn[mask_type] += 1
        return empty.copy()

    def density(*_: Any) -> torch.Tensor:
        drawn["density"] += 1
        return torch.from_numpy(empty)

    monkeypatch.setattr(simulate, "sampling_pattern", pattern)
    monkeypatch.setattr(simulate, "_variable_density", density)
    generator = rng()
    for _ in range(4000):
        simulate.draw_mask((8, 24), DEFAULT, generator)
    # at acceleration 1 all is measured without any pattern, but for partial Fourier
    whole = math.log(1.5 / 1.3) / math.log(12 / 1.3)
    assert set(drawn) == set(MASK_SHARES)
    for mask_type, share in MASK_SHARES.items():
        expected = share if mask_type == "partial_fourier" else (1 - whole) * share
        assert drawn[mask_type] / 4000 == pytest.approx(expected, abs=4 * math.sqrt(share / 4000))


def test_acceleration_stays_below_the_greatest() -> None:
    scans = draw_batch(magnitudes(80, 32, 32), (32, 96), SimulationSettings(max_acceleration=1.4), rng())
    rates = 1 / scans.mask.float().mean(dim=(1, 2))
    assert float(rates.max()) < 1.4 + 0.5 / 96 * 1.4**2  # half a line
    assert (rates == 1).float().mean() > 0.8  # of whole accelerations there is but 1


@pytest.mark.parametrize("extent", [(96, 128), (64, 64), (97, 61)])
@pytest.mark.parametrize("acceleration", [2, 4, 12])
def test_acceleration_of_variable_density(acceleration: int, extent: tuple[int, int]) -> None:
    rates = []
    for seed in range(10):
        mask = simulate._variable_density(extent, acceleration, rng(seed))
        assert mask.shape == extent and mask.dtype == torch.bool
        height, width = extent
        assert bool(mask[height // 2 - 1 : height // 2 + 2, width // 2].all()) or min(extent) < 64
        rates.append(float(1 / mask.float().mean()))
    # the fully sampled center comes on top
    assert all(0.85 * acceleration < rate < 1.03 * acceleration for rate in rates)
    assert np.mean(rates) == pytest.approx(acceleration, rel=0.06)


def test_variable_density_is_dense_at_the_center_and_evenly_spread() -> None:
    radius = torch.from_numpy(np.hypot(*np.mgrid[-1:1:128j, -1:1:128j]))
    empty_corners = []
    for seed in range(12):
        mask = simulate._variable_density((128, 128), 6, rng(seed)).float()
        shares = [float(mask[(radius >= low) & (radius < low + 0.2)].mean()) for low in (0.0, 0.3, 0.6)]
        assert shares[0] > shares[1] >= shares[2]
        empty_corners.append(not mask[radius > 1.02].any())
    assert any(empty_corners) and not all(empty_corners)
    # as with Poisson discs, a measured bin has others right beside it less often than some bins further away
    mask = torch.stack([simulate._variable_density((128, 128), 6, rng(seed)) for seed in range(12)]).float()
    ring = (radius > 0.4) & (radius < 0.7)
    for axis in (1, 2):
        beside, further = (float((mask * mask.roll(lag, axis))[:, ring].mean()) for lag in (1, 4))
        assert beside < 0.8 * further


def test_sides_are_cut_off() -> None:
    sides = set()
    for seed in range(60):
        mask = np.ones((48, 65), dtype=bool)
        simulate._cut_side(mask, rng(seed))
        rows, columns = (np.asarray(mask.all(axis=other)) for other in (1, 0))
        axis = 0 if not columns.any() else 1
        lines, size = (rows, 48) if axis == 0 else (columns, 65)
        there = np.flatnonzero(lines)
        assert (mask == (lines[:, None] if axis == 0 else lines)).all() and not lines.all()
        assert len(there) == there[-1] - there[0] + 1 and (there[0] == 0 or there[-1] == size - 1)
        assert lines[size // 2] and 0.5 < len(there) / size < 0.94  # DC is kept
        sides.add((axis, int(there[0]) > 0))
    assert sides == {(0, False), (0, True), (1, False), (1, True)}


def test_a_share_of_masks_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SimulationSettings(max_acceleration=2.4)  # of which all but some are 2
    for share in (0.0, 0.5, 1.0):
        only("equispaced", monkeypatch, share)
        masks = [simulate.draw_mask((32, 64), settings, rng(seed)).numpy() for seed in range(100)]
        undersampled = [mask for mask in masks if not mask.all()]
        half_empty = [
            any(not mask[part].any() for part in (np.s_[:2], np.s_[-2:], np.s_[:, :4], np.s_[:, -4:]))
            for mask in undersampled
        ]
        assert np.mean(half_empty) == pytest.approx(share, abs=0.15)
        assert all(mask[16, 32] for mask in masks)


def test_partial_fourier_covers_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    only("partial_fourier", monkeypatch)
    masks = [simulate.draw_mask((8, 128), DEFAULT, rng(seed)) for seed in range(200)]
    assert all(bool((mask == mask[0]).all()) for mask in masks)
    counts = [int(mask[0].sum()) for mask in masks]
    assert 64 + 2 <= min(counts) < 72 and 82 < max(counts) <= 90
    assert 60 < sum(bool(mask[0, 0]) for mask in masks) < 140  # either side


@pytest.mark.parametrize("mask_type", MASK_SHARES)
def test_masks_of_any_size(mask_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raw scans may be of any size, and their own extent is what is undersampled."""
    only(mask_type, monkeypatch, 0.3)
    settings = SimulationSettings(max_acceleration=30)
    for extent in ((2, 2), (3, 2), (2, 3), (5, 4), (7, 7), (6, 11), (16, 13), (40, 10)):
        for seed in range(12):
            mask = simulate.draw_mask(extent, settings, rng(seed))
            assert mask.shape == extent and mask.dtype == torch.bool and bool(mask[extent[0] // 2, extent[1] // 2])


@pytest.mark.parametrize("std", [0.003, 0.02])
def test_noise_level_of_raw_scans_is_the_measured_one(std: float) -> None:
    """`noise` is the deviation per bin of the complete scan, whatever became of size and scale."""
    images = [(std * complex_normal((128, 96), k), True) for k in range(4)]  # without any object: all of it is noise
    for target in ((64, 64), (128, 96), (160, 128)):
        scans = draw_batch(images, target, PLAIN, rng())
        held = (scans.kspace.abs() > 0).float().mean(dim=(1, 2))
        rms = scans.kspace.abs().square().mean(dim=(1, 2)).sqrt() / held.sqrt()
        torch.testing.assert_close(scans.noise, rms, rtol=0.06, atol=0)


def test_noise_level_of_raw_scans_equals_the_estimate() -> None:
    scans = draw_batch(raw(4, 128, 128, noise=0.05), (128, 128), PLAIN, rng())
    assert (scans.noise / noise_std(scans.kspace)).tolist() == pytest.approx([1.0] * 4, rel=0.05)


def test_noise_level_of_simulated_scans() -> None:
    """White noise of the level that `noise` tells, from the range in the settings."""
    settings = SimulationSettings(noise=(0.05, 0.2), extra_noise=0.0, partial_resolution=0.0)
    scans = draw_batch(magnitudes(8, 300, 300), (96, 96), settings, rng())
    assert (scans.noise / noise_std(scans.kspace)).tolist() == pytest.approx([1.0] * 8, rel=0.15)
    quiet = SimulationSettings(noise=(1e-3, 1e-3), extra_noise=0.0, partial_resolution=0.0, max_acceleration=1.3)
    scans = draw_batch(magnitudes(4, 300, 300), (96, 96), quiet, rng())
    assert scans.noise.tolist() == pytest.approx([1e-3] * 4, rel=0.2)  # model units: the 99th percentile is 1


def test_raw_scan_of_the_right_size_is_kept() -> None:
    """Up to orientation, phase and scale a raw scan is what it was."""
    kspace = raw(1, 48, 48)[0][0]
    magnitude = np.sort(np.abs(ifft2c(torch.from_numpy(kspace)).numpy()).ravel())
    for seed in range(4):
        scans = draw_batch([(kspace, True)], (48, 48), PLAIN, rng(seed))
        ours = np.sort(ifft2c(scans.kspace[0]).abs().numpy().ravel())
        np.testing.assert_allclose(ours / ours[-1], magnitude / magnitude[-1], atol=1e-4)


def test_partial_resolution_leaves_the_outermost_k_space_empty_and_known() -> None:
    settings = SimulationSettings(extra_noise=0.0, partial_resolution=1.0)
    scans = draw_batch(magnitudes(8, 200, 200), (64, 64), settings, rng())
    empty = (scans.kspace == 0).any(dim=(1, 2))
    assert int(empty.sum()) >= 6
    for kspace, mask in zip(scans.kspace, scans.mask, strict=True):
        columns = (kspace == 0).all(dim=0)
        assert int(columns.sum()) < 16 and bool(mask[:, columns].all())


def single_pixel(height: int, width: int, row: int, column: int) -> np.ndarray:
    image = np.zeros((height, width), np.uint8)
    image[row, column] = 255
    return image


ODD: dict[str, Image] = {
    "nothing": (np.zeros((40, 50), np.uint8), False),
    "raw nothing": (np.zeros((40, 50), np.complex64), True),
    "one pixel": (single_pixel(40, 50, 11, 30), False),
    "one pixel in the corner": (single_pixel(40, 50, 0, 49), False),
    "far end of a long strip": (np.pad(np.ones((20, 40), np.float32), ((0, 20), (0, 900))), False),
    "all white": (np.full((40, 50), 255, np.uint8), False),
    "one row": (np.ones((1, 50), np.uint8), False),
    "smallest raw": (complex_normal((2, 2)), True),
    "narrow raw": (complex_normal((40, 10)), True),
    "negative": (phantom(40, 50) - np.float32(0.05), False),
    "tiny numbers": (1e-30 * phantom(40, 50), False),
    "large numbers": (1e30 * phantom(40, 50), False),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_images_give_finite_scans(name: str) -> None:
    for seed in range(12):
        for shape in ((32, 32), (64, 48)):
            check(draw_batch([ODD[name]], shape, DEFAULT, rng(seed)), 1, shape)


@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (16, 40)])
def test_small_targets_at_high_acceleration(shape: tuple[int, int]) -> None:
    settings = SimulationSettings(max_acceleration=30)
    for seed in range(20):
        check(draw_batch([*magnitudes(1, 40, 50), *raw(1, 40, 50)], shape, settings, rng(seed)), 2, shape)


def test_phase_varies_and_magnitude_resembles_the_image() -> None:
    quiet = SimulationSettings(noise=(1e-4, 1e-4), extra_noise=0.0, rotation=0.0, partial_resolution=0.0)
    scans = draw_batch(magnitudes(6, 200, 200), (64, 64), quiet, rng())
    images = ifft2c(scans.kspace)
    phases = torch.angle(images.flatten(1).mean(dim=1))
    assert float(phases.std()) > 0.3
    flat = fft2c(torch.ones(64, 64, dtype=torch.complex64))
    assert float(flat.abs().max()) == pytest.approx(64)
    filled = (images.abs() > 0.2).float().mean(dim=(1, 2))
    assert bool(((filled > 0.15) & (filled < 0.95)).all())
