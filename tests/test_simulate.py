"""Simulated scans: their numbers, their randomness, and images that nobody would send on purpose."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import complex_normal
from numpy.random import Generator
from small import phantom, small_kspace

from mrihvae.fourier import fft2c, ifft2c
from mrihvae.objective import Scans
from mrihvae.simulate import SimulationSettings, draw_batch
from mrihvae.units import noise_std, scale_of

DEFAULT = SimulationSettings()
PLAIN = SimulationSettings(extra_noise=0.0, partial_resolution=0.0)
Image = tuple[np.ndarray, bool]


def rng(seed: int = 0) -> Generator:
    return np.random.default_rng(seed)


def raw(slices: int, height: int, width: int, noise: float = 0.01) -> list[Image]:
    return [(kspace.numpy(), True) for kspace in small_kspace(slices, height, width, noise)]


def magnitudes(slices: int, height: int, width: int) -> list[Image]:
    return [(phantom(height, width, k), False) for k in range(slices)]


def equal(a: Scans, b: Scans) -> bool:
    return all(torch.equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(Scans))


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
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = draw_batch(magnitudes(2, 40, 50), (32, 32), DEFAULT, rng())
    assert np.array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())
    torch.manual_seed(7)
    assert equal(first, draw_batch(magnitudes(2, 40, 50), (32, 32), DEFAULT, rng()))


@pytest.mark.parametrize("target", [(32, 32), (96, 64), (40, 128), (33, 47)])
@pytest.mark.parametrize("source", [(64, 64), (37, 81), (20, 20), (130, 64)])
def test_any_size_on_any_other(source: tuple[int, int], target: tuple[int, int]) -> None:
    images = [*magnitudes(2, *source), *raw(2, *source)]
    for seed in range(4):
        scans = draw_batch(images, target, DEFAULT, rng(seed))
        check(scans, 4, target)
        assert scale_of(scans.measured).tolist() == pytest.approx([1.0] * 4, rel=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64, ">i2", "bool"])
def test_any_type_of_number(dtype: str) -> None:
    image = (200 * phantom(50, 41)).astype(dtype)
    scans = draw_batch([(image, False)], (32, 48), DEFAULT, rng())
    check(scans, 1, (32, 48))
    assert float(scale_of(scans.measured)) == pytest.approx(1.0, rel=1e-4)


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
        inner = scans.mask[:, 16:-16]  # further out, rows of padded scans are empty and so known
        assert bool((inner == inner[:, :1]).all())  # whole lines


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
    rates = 1 / scans.mask[:, 0].float().mean(dim=1)
    assert float(rates.min()) == 1.0 and 7 < float(rates.max()) < 20
    assert len({tuple(one.tolist()) for one in scans.mask[:, 0]}) > 50
    assert bool(scans.mask[:, :, 48].all())  # the centre is always measured


def test_acceleration_stays_below_the_greatest() -> None:
    scans = draw_batch(magnitudes(20, 32, 32), (32, 96), SimulationSettings(max_acceleration=1.4), rng())
    assert bool(scans.mask.all())


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
