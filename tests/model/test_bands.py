"""The frequency bands: a partition of k-space on any grid."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from mrihvae.model.bands import band_grid, band_mask, fill_hermitian, grids, merge, mirror, split
from mrihvae.physics.fourier import center_crop, center_pad, fft2c, ifft2c
from tests.support.files import complex_normal


def widths(height: int) -> list[int]:
    """Give W equal to H, odd and even ones, above and below it."""
    return sorted({height, height + 1, 2 * height + 3, 1, 2, 7, 20, 33})


def draw(*shape: int) -> torch.Tensor:
    return torch.from_numpy(complex_normal(shape))


@pytest.mark.parametrize("height", range(1, 65))
def test_bands_partition_kspace_and_merge_inverts_split(height: int) -> None:
    for width in widths(height):
        for shape in {(height, width), (width, height)}:
            kspace = draw(*shape)
            deepest = max(shape).bit_length()
            for levels in sorted({1, 2, 3, 5, 7, min(deepest, 7)}):
                count = torch.zeros(shape, dtype=torch.int64)
                for j in range(levels):
                    count += center_pad(band_mask(shape, levels, j).to(torch.int64), shape)
                assert bool((count == 1).all()), (shape, levels)
                bands = split(kspace, levels)
                assert [tuple(band.shape) for band in bands] == grids(shape, levels)
                assert float((merge(bands) - kspace).abs().max()) <= 1e-6, (shape, levels)


@pytest.mark.parametrize("levels", range(1, 8))
@pytest.mark.parametrize("shape", [(64, 64), (63, 64), (64, 37), (37, 101), (1, 64), (130, 96)])
def test_image_round_trip(shape: tuple[int, int], levels: int) -> None:
    image = draw(2, 3, *shape)
    bands = split(fft2c(image), levels)
    images = [ifft2c(band) for band in bands]
    back = ifft2c(merge([fft2c(band) for band in images]))
    torch.testing.assert_close(back, image, atol=2e-6, rtol=0)
    powers = [float((band.abs() ** 2).sum()) for band in images]  # the bands are orthogonal
    assert sum(powers) == pytest.approx(float((image.abs() ** 2).sum()), rel=1e-5)


def test_grids_halve_rounding_up() -> None:
    assert grids((126, 128), 4) == [(16, 16), (32, 32), (63, 64), (126, 128)]
    assert grids((5, 1), 4) == [(1, 1), (2, 1), (3, 1), (5, 1)]
    for height in range(1, 65):
        sizes = grids((height, 2 * height), 6)
        assert all(small == tuple(-(-n // 2) for n in large) for small, large in pairwise(sizes))


def test_dc_is_in_the_coarsest_band() -> None:
    for shape in ((16, 16), (15, 16), (9, 5), (1, 1), (3, 64)):
        dc = torch.zeros(shape, dtype=torch.complex64)
        dc[shape[0] // 2, shape[1] // 2] = 1
        powers = [float(band.abs().sum()) for band in split(dc, 5)]
        assert powers == [1.0, 0, 0, 0, 0]


def test_band_content_lies_on_its_own_bins() -> None:
    bands = split(draw(45, 64), 4)
    for j, band in enumerate(bands):
        assert torch.equal(band != 0, band_mask((45, 64), 4, j))


# --- spectra of real images ------------------------------------------------------------------------------------------


def real_spectrum(*shape: int) -> torch.Tensor:
    return fft2c(draw(*shape).real.to(torch.complex64))


@pytest.mark.parametrize("levels", range(1, 7))
@pytest.mark.parametrize("shape", [(32, 32), (64, 32), (32, 33), (7, 20), (1, 1), (2, 16)])
def test_hermitian_bands_partition_kspace_and_are_real_images(shape: tuple[int, int], levels: int) -> None:
    kspace = real_spectrum(2, 3, *shape)
    count = torch.zeros(shape, dtype=torch.int64)
    for j in range(levels):
        mask = band_mask(shape, levels, j, hermitian=True)
        assert tuple(mask.shape) == band_grid(shape, levels, j, hermitian=True)
        count += center_pad(mask.to(torch.int64), shape)
    assert bool((count == 1).all())
    bands = split(kspace, levels, hermitian=True)
    torch.testing.assert_close(merge(bands), kspace, rtol=0, atol=1e-6)
    for band in bands:
        image = ifft2c(center_pad(band, shape))
        assert float(image.imag.abs().max()) < 1e-6 * max(float(image.abs().max()), 1.0)


@pytest.mark.parametrize("levels", [1, 3, 6])
@pytest.mark.parametrize("shape", [(32, 32), (64, 32), (96, 33)])
def test_half_of_a_hermitian_band_tells_the_rest(shape: tuple[int, int], levels: int) -> None:
    """Of what a level's grid holds of its band, conjugates make all of it: no bin of the grid is free twice."""
    kspace = real_spectrum(2, *shape)
    for j, (grid, band) in enumerate(zip(grids(shape, levels), split(kspace, levels, hermitian=True), strict=True)):
        keep = band_mask(shape, levels, j, hermitian=True)
        filled = fill_hermitian(center_crop(band, grid), (keep.shape[-2], keep.shape[-1]), keep)
        torch.testing.assert_close(filled, band, rtol=0, atol=1e-6)


def test_predicted_bins_become_the_spectrum_of_a_real_image() -> None:
    shape, levels = (32, 48), 4
    bands = []
    for j, grid in enumerate(grids(shape, levels)):
        keep = band_mask(shape, levels, j, hermitian=True)
        bands.append(fill_hermitian(draw(3, *grid), (keep.shape[-2], keep.shape[-1]), keep))
        assert not bands[-1][:, ~keep].any()
    image = ifft2c(merge(bands))
    assert float(image.imag.abs().max() / image.abs().max()) < 1e-6
    assert all(float(band[:, band_mask(shape, levels, j, True)].abs().min()) > 0 for j, band in enumerate(bands))


@pytest.mark.parametrize("shape", [(4, 4), (5, 7), (6, 3), (1, 2)])
def test_mirrored_is_minus_the_frequency(shape: tuple[int, int]) -> None:
    kspace = draw(*shape)
    found = mirror(kspace)
    for row in range(shape[0]):
        for column in range(shape[1]):
            up, left = -(row - shape[0] // 2), -(column - shape[1] // 2)
            assert found[row, column] == kspace[(up + shape[0] // 2) % shape[0], (left + shape[1] // 2) % shape[1]]
    assert torch.equal(mirror(found), kspace)
