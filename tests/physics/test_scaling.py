"""The scale of k-space and of images."""

from __future__ import annotations

import pytest
import torch

from mrihvae.physics.fourier import fft2c
from mrihvae.physics.scaling import image_scale, kspace_scale
from tests.support.files import complex_normal


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(complex_normal(shape, seed))


@pytest.mark.parametrize("factor", [1e-6, 1.0, 3e4])
def test_scale_is_equivariant(factor: float) -> None:
    kspace = noise(3, 2, 40, 33)
    torch.testing.assert_close(kspace_scale(factor * kspace), factor * kspace_scale(kspace), rtol=1e-5, atol=0)


def test_scale_is_the_99th_percentile_per_slice() -> None:
    image = torch.arange(1, 102.0).reshape(1, 101).to(torch.complex64)
    assert kspace_scale(fft2c(torch.stack((image, 5 * image)))).tolist() == pytest.approx([100, 500], rel=1e-5)


def test_scale_of_nothing_is_above_zero() -> None:
    scale = kspace_scale(torch.zeros(2, 8, 8, dtype=torch.complex64))
    assert bool((scale > 0).all()) and bool(torch.isfinite(scale).all())


def test_scale_of_an_image_is_that_of_its_kspace() -> None:
    image = noise(2, 3, 20, 15)
    torch.testing.assert_close(image_scale(image), kspace_scale(fft2c(image)), rtol=1e-5, atol=0)
    assert image_scale(image.abs()).tolist() == image_scale(image).tolist()
