"""Noise level of measured k-space."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mrihvae.physics.fastmri_masks import MASK_TYPES, sampling_mask
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.noise import background_noise, line_noise, missing_noise, noise_std
from tests.support.files import complex_normal


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(complex_normal(shape, seed))


def smooth_object(height: int, width: int) -> torch.Tensor:
    """Compute the k-space of a smooth blob, which is nowhere near the corners: complex (H, W)."""
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)
    return fft2c(torch.exp(-8 * (x**2 + y**2)).to(torch.complex64))


@pytest.mark.parametrize("std", [1e-5, 1.0, 300.0])
@pytest.mark.parametrize("seed", range(3))
def test_noise_of_fully_sampled_kspace(std: float, seed: int) -> None:
    kspace = std * noise(2, 256, 200, seed=seed) + 100 * std * smooth_object(256, 200)
    assert noise_std(kspace).tolist() == pytest.approx([std, std], rel=0.05)


@pytest.mark.parametrize("mask_type", MASK_TYPES)
@pytest.mark.parametrize("given", [True, False])
def test_noise_of_line_sampled_kspace(mask_type: str, given: bool) -> None:
    mask = torch.from_numpy(sampling_mask(mask_type, 320, 4, 0.08, 5))
    kspace = (2.5 * noise(2, 384, 320) + 250 * smooth_object(384, 320)) * mask
    assert noise_std(kspace, mask if given else None).tolist() == pytest.approx([2.5, 2.5], rel=0.05)


def test_noise_where_only_the_center_is_measured() -> None:
    mask = torch.zeros(320, dtype=torch.bool)
    mask[144:176] = True
    kspace = 0.7 * noise(640, 320) * mask
    assert float(noise_std(kspace, mask)) == pytest.approx(0.7, rel=0.05)


def test_noise_is_equivariant_and_independent_per_slice() -> None:
    kspace = noise(4, 64, 48)
    factors = torch.tensor([1e-4, 1.0, 20.0, 0.0])
    alone = torch.stack([noise_std(one) for one in kspace])
    assert torch.equal(noise_std(kspace), alone)
    torch.testing.assert_close(noise_std(factors[:, None, None] * kspace), factors * alone, rtol=1e-5, atol=0)


def test_noise_per_slice_with_masks_of_their_own() -> None:
    masks = torch.stack([torch.arange(64) % 4 == k for k in range(3)])[:, None, :]
    kspace = noise(3, 256, 64) * masks
    alone = torch.stack([noise_std(one, mask) for one, mask in zip(kspace, masks, strict=True)])
    assert torch.equal(noise_std(kspace, masks), alone)


def test_no_noise_and_no_measurement_give_zero() -> None:
    nothing = torch.zeros(32, 32, dtype=torch.complex64)
    assert float(noise_std(nothing)) == 0.0
    assert float(noise_std(nothing, torch.ones(32, dtype=torch.bool))) == 0.0


@pytest.mark.parametrize("axis", [-1, -2])
def test_noise_of_missing_bins_is_of_their_lines(axis: int) -> None:
    """Scanners filter lines: the noise of a line that was not measured is that of the ones beside it."""
    profile = np.interp(np.arange(96), [0, 48, 95], [4.0, 1.0, 4.0]).astype(np.float32)
    kspace = torch.from_numpy(complex_normal((6, 96, 96)) * profile)
    lines = torch.arange(96) % 4 == 0
    lines[44:52] = True
    known = lines.expand(96, 96)
    if axis == -2:
        kspace, known = kspace.mT, known.T
    expected = math.sqrt(0.5 * float((profile[~lines.numpy()] ** 2).sum()) / 96)
    measured = torch.where(known, kspace, torch.zeros((), dtype=kspace.dtype))
    assert missing_noise(measured, known) == pytest.approx(expected, rel=0.05)
    assert missing_noise(7 * measured, known) == pytest.approx(7 * expected, rel=0.05)
    assert missing_noise(kspace, torch.ones(96, 96, dtype=torch.bool)) == 0
    assert missing_noise(torch.zeros_like(kspace), known) == 0


def test_rows_that_are_empty_have_no_noise_to_miss() -> None:
    kspace, lines = torch.from_numpy(complex_normal((6, 96, 64))), torch.arange(64) % 4 == 0
    kspace[:, :24] = 0  # interpolated
    kspace[:, -24:] = 0
    found = missing_noise(torch.where(lines, kspace, torch.zeros((), dtype=kspace.dtype)), lines.expand(96, 64))
    assert found == pytest.approx(math.sqrt(0.5 * 0.75 * 0.5), rel=0.05)


def test_noise_of_lines() -> None:
    profile = torch.linspace(1, 3, 64)
    profile[50:] = 0
    power = line_noise(torch.from_numpy(complex_normal((8, 96, 64))) * profile)
    assert torch.equal(power == 0, profile == 0)
    torch.testing.assert_close(power[4:46], profile[4:46] ** 2, rtol=0.15, atol=0)


def coil_kspace(coils: int, level: float, object_rows: slice = slice(24, 72), seed: int = 0) -> torch.Tensor:
    """K-space (coils, 96, 80) of an object of sharp edges, which reach the corners, in white noise of a level."""
    rng = np.random.default_rng(seed)
    image = np.zeros((coils, 96, 80), np.complex64)
    image[:, object_rows, 16:64] = 20 * rng.standard_normal((coils, object_rows.stop - object_rows.start, 48))
    white = level * rng.standard_normal((2, coils, 96, 80)) / math.sqrt(2)
    return fft2c(torch.from_numpy(image)) + torch.complex(*torch.from_numpy(white.astype(np.float32)))


@pytest.mark.parametrize("coils", [1, 8])
@pytest.mark.parametrize("lines", [slice(None), slice(None, None, 3)])
def test_background_noise_is_that_of_empty_rows(coils: int, lines: slice) -> None:
    """It is right where signal reaches the corners, which `noise_std` takes for noise."""
    mask = torch.zeros(80, dtype=torch.bool)
    mask[lines] = True
    kspace = torch.where(mask, torch.stack([coil_kspace(coils, level) for level in (0.5, 2.0)]), 0)
    assert background_noise(kspace).tolist() == pytest.approx([0.5, 2.0], rel=0.08)
    assert float(noise_std(kspace).min()) > 4
    torch.testing.assert_close(background_noise(7 * kspace), 7 * background_noise(kspace))
    torch.testing.assert_close(background_noise(kspace[1]), background_noise(kspace)[1])


@pytest.mark.parametrize("cut", [5, 11, 12, 13, 24])
def test_background_noise_of_interpolated_scans(cut: int) -> None:
    """Empty rows at the ends of k-space hold no noise, and are no reason to take it for less."""
    kspace = 500 * smooth_object(96, 80) + noise(4, 96, 80)
    kspace[:, :cut], kspace[:, -cut:] = 0, 0
    assert float(background_noise(kspace)) == pytest.approx(1.0, rel=0.08)


@pytest.mark.parametrize("width", [5, 12])
def test_background_noise_of_masked_images(width: int) -> None:
    """Rows of zeros tell nothing of the noise elsewhere."""
    image = ifft2c(coil_kspace(4, 1.0))
    image[:, :width], image[:, -width:] = 0, 0
    assert 0.9 < float(background_noise(fft2c(image))) < 1.1


def test_background_noise_behind_a_filter_of_the_readout() -> None:
    """It lets less through at the ends of the readout."""
    passed = torch.ones(96)
    passed[:7] = torch.linspace(0.1, 0.9, 7)
    kspace = fft2c(ifft2c(coil_kspace(4, 1.0)) * (passed * passed.flip(0))[:, None])
    assert float(background_noise(kspace)) == pytest.approx(1.0, rel=0.08)


def test_background_noise_of_lines_with_a_bin_of_zero() -> None:
    kspace = coil_kspace(4, 1.0)
    kspace[:, 3, 5] = 0
    assert float(background_noise(kspace)) == pytest.approx(1.0, rel=0.08)


def test_background_noise_without_empty_rows_is_that_of_corners() -> None:
    """An object that fills all rows, and bins that are no whole lines, leave the corners."""
    full = coil_kspace(4, 1.0, slice(0, 96))
    corners = noise_std(full).square().mean().sqrt()
    assert 0.8 * corners < background_noise(full) <= corners
    some = coil_kspace(4, 1.0) * (torch.arange(96 * 80).view(96, 80) % 3 > 0)
    assert torch.equal(background_noise(some), noise_std(some).square().mean().sqrt())
    assert float(background_noise(torch.zeros(2, 8, 8, dtype=torch.complex64))) == 0
