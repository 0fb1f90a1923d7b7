"""The frequency bands: a partition of k-space on any grid."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from conftest import complex_normal

from mrihvae.bands import band_mask, grids, merge, split
from mrihvae.fourier import centre_pad, fft2c, ifft2c


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
                    count += centre_pad(band_mask(shape, levels, j).to(torch.int64), shape)
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
