"""Views of a scan: which image they are of, and that they undo themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mrihvae.inference.views import view
from mrihvae.physics.fourier import fft2c
from tests.support.files import complex_normal
from tests.support.small import every_third

SHAPES = [(8, 6), (7, 6), (8, 5), (9, 7), (1, 4)]


def white(shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(complex_normal(shape))


def mirrored(image: Tensor, *axes: int) -> Tensor:
    """Take x[c - n] for x[c + n], index by index, c the center of an axis."""
    for axis in axes:
        size = image.shape[axis]
        image = image.index_select(axis, (2 * (size // 2) - torch.arange(size)).remainder(size))
    return image


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", range(8))
def test_every_view_undoes_itself(shape: tuple[int, int], number: int) -> None:
    kspace = white((2, 3, *shape))
    assert torch.equal(view(view(kspace, number), number), kspace)
    mask = kspace.real > 0
    assert torch.equal(view(view(mask, number), number), mask)
    assert torch.equal(view(mask, number), view(mask, number & 6))  # a mask has nothing to conjugate


@pytest.mark.parametrize("shape", SHAPES)
def test_views_are_those_of_mirrored_and_conjugated_images(shape: tuple[int, int]) -> None:
    image = white((2, *shape))
    for number, other in (
        (0, image),
        (1, mirrored(image.conj(), -2, -1)),
        (2, mirrored(image, -1)),
        (4, mirrored(image, -2)),
        (6, mirrored(image, -2, -1)),
        (7, image.conj()),
    ):
        torch.testing.assert_close(view(fft2c(image), number), fft2c(other), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_views_follow_each_other(shape: tuple[int, int]) -> None:
    kspace = white(shape)
    for one in range(8):
        for other in range(8):
            assert torch.equal(view(view(kspace, one), other), view(kspace, one ^ other))


@pytest.mark.parametrize("shape", SHAPES)
def test_zero_frequency_stays_and_lines_stay_lines(shape: tuple[int, int]) -> None:
    center = torch.zeros(shape, dtype=torch.complex64)
    center[shape[0] // 2, shape[1] // 2] = 2j
    lines = every_third(shape[1]).expand(shape)
    for number in range(8):
        expected = center.conj() if number & 1 else center
        assert torch.equal(view(center, number), expected.resolve_conj())
        seen = view(lines, number)
        assert bool((seen == seen[:1]).all()) and int(seen.sum()) == int(lines.sum())
