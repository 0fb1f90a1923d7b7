"""The centered Fourier transform and centered resizing."""

from __future__ import annotations

import pytest
import torch

from mrihvae.physics.fourier import center_crop, center_pad, fft2c, ifft2c, resize_kspace
from tests.support.files import complex_normal

SHAPES = [(8, 8), (7, 7), (8, 7), (7, 8), (1, 5), (16, 1), (33, 20)]
RESIZES = [((8, 8), (4, 4)), ((8, 9), (5, 4)), ((9, 8), (4, 5)), ((9, 7), (3, 7)), ((7, 10), (7, 10)), ((6, 5), (1, 1))]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(complex_normal(shape, seed))


def inner(a: torch.Tensor, b: torch.Tensor) -> complex:
    return complex((a.conj() * b).to(torch.complex128).sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_fastmri(shape: tuple[int, int]) -> None:
    import fastmri

    image = draw(2, 3, *shape)
    as_real = torch.view_as_real(image)
    torch.testing.assert_close(torch.view_as_real(fft2c(image)), fastmri.fft2c(as_real), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(torch.view_as_real(ifft2c(image)), fastmri.ifft2c(as_real), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_inverse_adjoint_and_orthonormal(shape: tuple[int, int]) -> None:
    x, k = draw(2, *shape), draw(2, *shape, seed=1)
    torch.testing.assert_close(ifft2c(fft2c(x)), x, atol=1e-6, rtol=0)
    assert inner(fft2c(x), k) == pytest.approx(inner(x, ifft2c(k)), abs=1e-4)
    assert float(fft2c(x).norm()) == pytest.approx(float(x.norm()), rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_constant_image_is_the_dc_bin(shape: tuple[int, int]) -> None:
    kspace = fft2c(torch.ones(shape, dtype=torch.complex64))
    expected = torch.zeros_like(kspace)
    expected[shape[0] // 2, shape[1] // 2] = (shape[0] * shape[1]) ** 0.5
    torch.testing.assert_close(kspace, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("large", "small"), RESIZES)
def test_crop_and_pad_are_adjoint_and_keep_the_center(large: tuple[int, int], small: tuple[int, int]) -> None:
    x, y = draw(2, *large), draw(2, *small, seed=1)
    assert inner(center_crop(x, small), y) == pytest.approx(inner(x, center_pad(y, large)), abs=1e-5)
    assert torch.equal(center_crop(center_pad(y, large), small), y)
    (top, left), (row, column) = (large[0] // 2, large[1] // 2), (small[0] // 2, small[1] // 2)
    assert torch.equal(center_crop(x, small)[:, row, column], x[:, top, left])
    assert torch.equal(center_pad(y, large)[:, top, left], y[:, row, column])


def test_pad_fills_with_the_value() -> None:
    padded = center_pad(torch.zeros(2, 3), (5, 4), value=7.0)
    assert padded.sum() == 7 * (20 - 6)
    marked = center_pad(torch.ones(2, 3, dtype=torch.bool), (5, 4), value=False)
    assert marked.dtype == torch.bool and marked.sum() == 6


@pytest.mark.parametrize("shape", [(12, 12), (9, 14), (14, 9), (15, 15), (6, 20), (8, 11)])
@pytest.mark.parametrize("source", [(10, 10), (11, 11), (10, 11)])
def test_resize_keeps_the_dc_bin_and_the_common_bins(source: tuple[int, int], shape: tuple[int, int]) -> None:
    kspace = draw(2, *source)
    resized = resize_kspace(kspace, shape)
    assert resized.shape == (2, *shape)
    center = (shape[0] // 2, shape[1] // 2)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            assert torch.equal(
                resized[:, center[0] + dy, center[1] + dx], kspace[:, source[0] // 2 + dy, source[1] // 2 + dx]
            )
    common = min(source[0], shape[0]) * min(source[1], shape[1])
    assert int((resized[0] != 0).sum()) == common


def test_resize_of_a_smooth_image_is_sinc_resampling() -> None:
    def wave(n: int) -> torch.Tensor:
        phase = 2 * torch.pi * (torch.arange(n) - n // 2) / n
        return (1 + torch.cos(phase)[:, None] * torch.cos(2 * phase)).to(torch.complex64)

    resampled = ifft2c(resize_kspace(fft2c(wave(16)), (24, 24))) * (24 * 24 / (16 * 16)) ** 0.5
    torch.testing.assert_close(resampled, wave(24), atol=1e-5, rtol=0)
