"""Degradations: blur, coarse grids and missing pixels against direct sums, scipy and closed forms; first images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrihvae.errors import InputError
from mrihvae.model.bands import split
from mrihvae.physics.degradations import Blur, Inpainting, PaddedBlur, SuperResolution, denoising
from mrihvae.physics.kernels import gaussian_kernel, transfer_of
from tests.support.kernels import kernels, known, normal_numbers
from tests.support.small import phantom

REAL, COMPLEX = torch.float32, torch.complex64


@pytest.mark.parametrize("shape", [(8, 9), (7, 6), (5, 3)])
@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
def test_blur_is_the_circular_sum(shape: tuple[int, int], dtype: torch.dtype) -> None:
    kernel, x = kernels(False), normal_numbers((2, *shape), dtype)
    theirs = np.zeros((2, *shape), dtype=np.complex128)
    for row in range(5):
        for column in range(3):
            shifted = np.roll(x.numpy(), (row - 2, column - 1), axis=(-2, -1))
            theirs += kernel[row, column].item() * shifted
    np.testing.assert_allclose(Blur(transfer_of(kernel, shape)).forward(x).numpy(), theirs, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 9), (7, 6), (5, 3)])
@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
def test_padded_blur_equals_scipy(shape: tuple[int, int], dtype: torch.dtype) -> None:
    from scipy.signal import convolve2d, correlate2d

    kernel, x = kernels(True), normal_numbers((2, *shape), dtype)
    A = PaddedBlur(kernel)
    for k in range(2):
        theirs = convolve2d(x[k].numpy(), kernel[k].numpy(), mode="same")
        np.testing.assert_allclose(A.forward(x)[k].numpy(), theirs, atol=1e-6)
        theirs = correlate2d(x[k].numpy(), kernel[k].numpy(), mode="same")
        np.testing.assert_allclose(A.adjoint(x)[k].numpy(), theirs, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_coarse_pixels_are_the_blurred_ones_of_every_factor(factor: int) -> None:
    transfer, x = transfer_of(kernels(True), (12, 20)), normal_numbers((2, 12, 20), COMPLEX)
    A = SuperResolution(transfer, factor)
    assert torch.equal(A.forward(x), Blur(transfer).forward(x)[:, ::factor, ::factor])


@pytest.mark.parametrize("factor", [2, 4])
def test_aliased_power_is_the_spectrum_of_a_a_transposed(factor: int) -> None:
    """A A^H is a circular convolution of the data; the mean of its transfer function is its diagonal, sum k^2."""
    A = SuperResolution(transfer_of(kernels(True), (8, 12)), factor)
    y = normal_numbers((2, 8 // factor, 12 // factor), REAL)
    theirs = torch.fft.ifft2(torch.fft.fft2(y) * A.aliased_power()).real
    torch.testing.assert_close(A.forward(A.adjoint(y)), theirs, rtol=0, atol=1e-6)
    if factor == 4:
        torch.testing.assert_close(A.aliased_power().mean(dim=(-2, -1)), kernels(True).square().sum(dim=(-2, -1)))


@pytest.mark.parametrize("factor", [0, 3, 8])
def test_factor_that_does_not_divide_the_image_is_refused(factor: int) -> None:
    with pytest.raises(InputError, match=r"factor \d must be at least 1 and divide \(12, 20\)"):
        SuperResolution(transfer_of(kernels(False), (12, 20)), factor)


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
@pytest.mark.parametrize(("shape", "factor"), [((6, 8), 2), ((7, 5), 2), ((5, 6), 4), ((1, 3), 4)])
def test_band_limited_image_is_recovered_from_its_samples(
    shape: tuple[int, int], factor: int, dtype: torch.dtype
) -> None:
    """Its pixels, too, not the samples alone: without the highest frequency of even sizes the image is unique."""
    fine = (shape[0] * factor, shape[1] * factor)
    rows, columns = (torch.arange(size) / size for size in fine)
    image = torch.full(fine, 0.3, dtype=torch.complex128)
    rng = np.random.default_rng(0)
    for u in range(-((shape[0] - 1) // 2), (shape[0] - 1) // 2 + 1):
        for v in range(-((shape[1] - 1) // 2), (shape[1] - 1) // 2 + 1):
            phase = 2 * np.pi * (u * rows.double()[:, None] + v * columns.double())
            image = image + complex(rng.normal(), rng.normal()) * torch.polar(torch.ones(fine).double(), phase)
    truth = (image if dtype == COMPLEX else image.real).to(dtype)[None]
    A = SuperResolution(torch.ones(1, *fine, dtype=torch.complex64), factor)
    found = A.first_image(truth[:, ::factor, ::factor])
    assert found.dtype == dtype
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
@pytest.mark.parametrize("shape", [(6, 8), (7, 5), (1, 2)])
def test_first_image_keeps_the_samples(shape: tuple[int, int], dtype: torch.dtype) -> None:
    data = normal_numbers((2, *shape), dtype)
    for factor in (1, 2, 4):
        fine = (shape[0] * factor, shape[1] * factor)
        found = SuperResolution(torch.ones(1, *fine, dtype=torch.complex64), factor).first_image(data)
        assert found.shape == (2, *fine)
        torch.testing.assert_close(found[:, ::factor, ::factor], data, rtol=0, atol=1e-5)


def test_holes_are_filled_from_what_is_known_near_them() -> None:
    image = 1 + torch.from_numpy(np.stack([phantom(40, 48), phantom(40, 48, 1)]))
    mask = known((2, 40, 48))
    mask[0, 12:24, 20:34] = False
    found = Inpainting(mask).first_image(torch.where(mask, image, 0))
    assert torch.equal(found[mask], image[mask])
    for k in range(2):
        values = image[k][mask[k]]
        holes = found[k][~mask[k]]
        assert bool((holes > values.min() - 1e-3).all()) and bool((holes < values.max() + 1e-3).all())
    error = (found - image).abs()[~mask].mean()
    assert error < 0.5 * image[mask].std() and found[0, 18, 27] != found[0, 5, 5]
    turned = torch.polar(image, torch.full_like(image, 0.7))  # complex images are filled as their parts are
    filled = Inpainting(mask).first_image(torch.where(mask, turned, 0))
    torch.testing.assert_close(filled.abs(), found, rtol=0, atol=1e-4)


def test_first_image_with_all_or_nothing_known() -> None:
    x = normal_numbers((2, 24, 20), REAL)
    assert torch.equal(Inpainting(torch.ones(24, 20, dtype=torch.bool)).first_image(x), x)
    assert torch.equal(denoising().first_image(x), x)
    nothing = torch.stack([torch.zeros(24, 20), torch.ones(24, 20)]).bool()
    found = Inpainting(nothing).first_image(x * nothing)
    assert torch.equal(found[0], torch.zeros(24, 20)) and torch.equal(found[1], x[1])


@pytest.mark.parametrize("factor", [2, 4])
def test_gains_of_coarse_data_fall_where_frequencies_alias(factor: int) -> None:
    """Without a blur every frequency shares with factor^2 - 1 others; with a good one the lowest are seen alone."""
    bare = SuperResolution(torch.ones(1, 32, 32, dtype=torch.complex64), factor).gains((32, 32))[1]
    torch.testing.assert_close(bare, torch.full((1, 32, 32), factor**-2.0))
    A = SuperResolution(transfer_of(gaussian_kernel(0.5 * factor, size=31), (32, 32)), factor)
    power = torch.fft.fftshift(A.transfer.abs() ** 2, dim=(-2, -1))
    gain = A.gains((32, 32))[1][0]
    assert bool((gain <= power[0] + 1e-6).all())
    assert float(gain[16, 16]) == pytest.approx(1, abs=0.02)
    low, high = (band.abs().square().sum() for band in split(gain.to(COMPLEX)[None], 2))
    assert high < 0.2 * low
