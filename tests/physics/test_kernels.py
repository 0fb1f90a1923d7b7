"""Kernels, their transfer functions, filters, and resampling by spectra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mrihvae.errors import InputError
from mrihvae.physics.kernels import abs2, apply_transfer, gaussian_kernel, sinc_upsample, transfer_of
from tests.support.files import complex_normal


def moments(kernel: torch.Tensor) -> tuple[float, float, float]:
    """Compute variances along columns (x) and rows (y), and the covariance, about the middle."""
    reach = kernel.shape[-1] // 2
    at = torch.arange(-reach, reach + 1).double()
    k = kernel.double()
    return tuple(float((k * weight).sum()) for weight in (at**2, (at**2)[:, None], at * at[:, None]))  # type: ignore[return-value]


@pytest.mark.parametrize("width", [0.8, 1.5, 4.0])
def test_gaussian_kernel_has_its_width(width: float) -> None:
    kernel = gaussian_kernel(width)
    assert kernel.dtype == torch.float32 and kernel.shape == (2 * math.ceil(4 * width) + 1,) * 2
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-6)
    along, across, mixed = moments(kernel)
    assert along == pytest.approx(width**2, rel=0.01) == across and mixed == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(kernel, kernel.flip(0, 1))


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 2, 2.0])
def test_long_gaussian_is_turned(angle: float) -> None:
    """Its covariance is R diag(first^2, second^2) R^T, the first axis that of columns at angle 0."""
    first, second = 3.0, 1.2
    c, s = math.cos(angle), math.sin(angle)
    along, across, mixed = moments(gaussian_kernel((first, second), angle))
    assert along == pytest.approx((c * first) ** 2 + (s * second) ** 2, rel=0.01)
    assert across == pytest.approx((s * first) ** 2 + (c * second) ** 2, rel=0.01)
    assert mixed == pytest.approx(c * s * (first**2 - second**2), abs=0.03)


def test_size_of_a_gaussian_is_bounded_and_odd() -> None:
    assert [len(gaussian_kernel(3.0, size=size)) for size in (1, 2, 3, 8, 9, 100)] == [1, 1, 3, 7, 9, 25]
    assert float(gaussian_kernel(3.0, size=5).sum()) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(gaussian_kernel(0.0), torch.tensor([[0, 0, 0], [0, 1.0, 0], [0, 0, 0]]))


@pytest.mark.parametrize("shape", [(5, 4), (8, 9), (7, 7)])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (5, 3), (2, 4)])
def test_transfer_function_is_the_direct_sum(shape: tuple[int, int], size: tuple[int, int]) -> None:
    kernel = torch.from_numpy(np.random.default_rng(0).random((2, *size)).astype(np.float32))
    rows, columns = (np.arange(n) for n in shape)
    theirs = np.zeros((2, *shape), dtype=np.complex128)
    for row in range(size[0]):
        for column in range(size[1]):
            phase = rows[:, None] * (row - size[0] // 2) / shape[0] + columns * (column - size[1] // 2) / shape[1]
            theirs += kernel[:, row, column].numpy()[:, None, None] * np.exp(-2j * np.pi * phase)
    found = transfer_of(kernel, shape)
    np.testing.assert_allclose(found.numpy(), theirs, atol=1e-5)
    torch.testing.assert_close(transfer_of(kernel[0], shape), found[:1])
    np.testing.assert_allclose(found[:, 0, 0].numpy(), kernel.sum(dim=(-2, -1)).numpy(), rtol=1e-5)


def test_kernel_larger_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="kernel of 9 x 9 is larger than the image, 8 x 12; crop it"):
        transfer_of(gaussian_kernel(1.0), (8, 12))


@pytest.mark.parametrize("shape", [(6, 8), (7, 5), (1, 4), (5, 1)])
def test_real_images_are_filtered_as_complex_ones(shape: tuple[int, int]) -> None:
    kernel = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    transfer = transfer_of(kernel, shape)
    image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    real, as_complex = apply_transfer(transfer, image), apply_transfer(transfer, image.to(torch.complex64))
    assert real.dtype == torch.float32 and as_complex.dtype == torch.complex64
    torch.testing.assert_close(real, as_complex.real, rtol=0, atol=1e-5)
    assert float(as_complex.imag.abs().max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_expanded_images_are_filtered(dtype: torch.dtype) -> None:
    """A batch that is one image in memory: MKL of torch 2.6 refuses its transform."""
    image = torch.arange(24).to(dtype).reshape(1, 6, 4)
    transfer = transfer_of(gaussian_kernel(1.0, size=3), (6, 4))
    one = apply_transfer(transfer, image)
    torch.testing.assert_close(apply_transfer(transfer, image.expand(3, 6, 4)), one.repeat(3, 1, 1))


def test_squared() -> None:
    values = torch.from_numpy(complex_normal((3, 4)))
    torch.testing.assert_close(abs2(values), values.abs() ** 2)
    assert torch.equal(abs2(values.real), values.real**2)


@pytest.mark.parametrize("shape", [(6, 8), (7, 5), (1, 2), (2, 1)])
def test_interpolation_keeps_pixels_and_mean(shape: tuple[int, int]) -> None:
    values = torch.from_numpy(complex_normal((2, *shape)))
    for data in (values, values.real):
        assert sinc_upsample(data, 1).dtype == data.dtype
        torch.testing.assert_close(sinc_upsample(data, 1), data, rtol=0, atol=1e-6)
        for factor in (2, 3, 4):
            found = sinc_upsample(data, factor)
            assert found.shape == (2, shape[0] * factor, shape[1] * factor) and found.dtype == data.dtype
            torch.testing.assert_close(found[:, ::factor, ::factor], data, rtol=0, atol=2e-6)
            torch.testing.assert_close(found.mean(dim=(-2, -1)), data.mean(dim=(-2, -1)), rtol=0, atol=1e-6)
    real_of_complex = sinc_upsample(values.real.to(torch.complex64), 4)
    assert float(real_of_complex.imag.abs().max()) < 1e-6  # the highest frequency is shared by both signs


def test_interpolation_of_a_wave() -> None:
    at = torch.arange(8).double() / 8
    fine = torch.arange(32).double() / 32
    wave = [torch.cos(2 * math.pi * 3 * x + 0.3)[None, :] * torch.sin(2 * math.pi * 2 * x)[:, None] for x in (at, fine)]
    torch.testing.assert_close(sinc_upsample(wave[0][None], 4), wave[1][None], rtol=0, atol=1e-12)
