"""Root-sum-of-squares with measured k-space put back, against fastMRI."""

from __future__ import annotations

import fastmri
import pytest
import torch
from torch import Tensor

from mrihvae.coils.combine import root_sum_of_squares
from mrihvae.physics.fourier import ifft2c
from tests.support.small_coils import calibrated, coil_scans, some_bins


def test_rss_of_complete_kspace_is_fastmris_target() -> None:
    """Whatever the image says."""
    kspace, maps, images = coil_scans(2, 4, 24, 20)
    coils = fastmri.complex_abs(fastmri.ifft2c(torch.view_as_real(kspace)))
    found = root_sum_of_squares(100 * images, maps[None], kspace, torch.ones(20, dtype=torch.bool))
    torch.testing.assert_close(found, fastmri.rss(coils, dim=1), rtol=0, atol=1e-5)


def test_rss_without_kspace_is_the_image() -> None:
    """Maps have root-sum-of-squares 1."""
    kspace, maps, images = coil_scans(2, 4, 24, 20)
    found = root_sum_of_squares(images, maps[None], kspace, torch.zeros(20, dtype=torch.bool))
    torch.testing.assert_close(found, images.abs(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mask", [calibrated(20), some_bins(24, 20)])
def test_rss_of_undersampled_kspace(mask: Tensor) -> None:
    """With the true image it is the target's but for noise; it is that of VarNet's coils with the data put in."""
    kspace, maps, images = coil_scans(2, 4, 24, 20, noise=0.0)
    found = root_sum_of_squares(images, maps[None], torch.where(mask, kspace, 7.0), mask)
    torch.testing.assert_close(found, ifft2c(kspace).abs().square().sum(dim=1).sqrt(), rtol=0, atol=1e-5)
    wrong = root_sum_of_squares(images.flip(0), maps[None], kspace, mask)
    expanded = fastmri.fft2c(
        fastmri.complex_mul(torch.view_as_real(images.flip(0))[:, None], torch.view_as_real(maps[None]))
    )
    completed = torch.where(mask[..., None], torch.view_as_real(kspace), expanded)
    expected = fastmri.rss(fastmri.complex_abs(fastmri.ifft2c(completed)), dim=1)
    torch.testing.assert_close(wrong, expected, rtol=0, atol=1e-5)
