"""The multi-coil acquisition: adjointness, what is left out of its normal operator, and solutions."""

from __future__ import annotations

from collections.abc import Callable

import fastmri
import pytest
import torch
from torch import Tensor

from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.mri import Sense
from tests.support.files import complex_normal
from tests.support.small_coils import calibrated, coil_scans, distance, some_bins, true_maps

SHAPES = [(12, 10), (9, 7), (8, 15), (61, 45)]
Masks = Callable[[int, int], Tensor]


def slice_by_slice(height: int, width: int) -> Tensor:
    return torch.stack([some_bins(height, width, 4, seed) for seed in range(3)])


def lines_by_slice(height: int, width: int) -> Tensor:
    shifted = torch.stack([calibrated(width, 4).roll(k) for k in range(3)])
    return shifted[:, None].expand(3, height, width)


MASKS: dict[str, Masks] = {
    "W": lambda height, width: calibrated(width, 4),
    "1, W": lambda height, width: calibrated(width, 4)[None],
    "H, W of lines": lambda height, width: calibrated(width, 4).expand(height, width),
    "H, 1": lambda height, width: calibrated(height, 4)[:, None],
    "H, W": lambda height, width: some_bins(height, width, 4),
    "slices, H, W": slice_by_slice,
    "slices, H, W of lines": lines_by_slice,
    "slices, 1, W": lambda height, width: lines_by_slice(height, width)[:, :1],
    "all": lambda height, width: torch.ones(width, dtype=torch.bool),
    "none": lambda height, width: torch.zeros(height, width, dtype=torch.bool),
}


def white(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(complex_normal(shape, seed))


def sense_of(kind: str, shape: tuple[int, int], maps_of_slices: int = 1, coils: int = 3) -> Sense:
    maps = torch.stack([true_maps(shape, coils, seed) for seed in range(maps_of_slices)])
    return Sense(maps, MASKS[kind](*shape))


def inner(a: Tensor, b: Tensor) -> complex:
    return complex((a.to(torch.complex128).conj() * b).sum())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("maps_of_slices", [1, 3])
@pytest.mark.parametrize("kind", MASKS)
def test_adjoint(kind: str, maps_of_slices: int, shape: tuple[int, int]) -> None:
    sense = sense_of(kind, shape, maps_of_slices)
    x, y = white(3, *shape), white(3, 3, *shape, seed=1)
    assert sense.forward(x).shape == y.shape and sense.adjoint(y).shape == x.shape
    left, right = inner(sense.forward(x), y), inner(x, sense.adjoint(y))
    assert abs(left - right) <= 1e-5 * float(x.norm() * y.norm())
    assert torch.equal(sense.first_image(y), sense.adjoint(y))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("maps_of_slices", [1, 3])
@pytest.mark.parametrize("kind", MASKS)
def test_normal_is_adjoint_of_forward(kind: str, maps_of_slices: int, shape: tuple[int, int]) -> None:
    sense = sense_of(kind, shape, maps_of_slices)
    x = white(3, *shape)
    expected = sense.adjoint(sense.forward(x))
    torch.testing.assert_close(sense.normal(x), expected, rtol=0, atol=1e-6 * float(x.abs().max()))
    double = Sense(sense.maps.to(torch.complex128), sense.mask)
    x = x.to(torch.complex128)
    torch.testing.assert_close(double.normal(x), double.adjoint(double.forward(x)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 5), (5, 8)])
@pytest.mark.parametrize("maps_of_slices", [1, 3])
@pytest.mark.parametrize("kind", MASKS)
def test_density_is_the_diagonal_in_kspace(kind: str, maps_of_slices: int, shape: tuple[int, int]) -> None:
    """By unit vectors: the part of a frequency that A^H A leaves where it was."""
    sense = sense_of(kind, shape, maps_of_slices)
    height, width = shape
    expected = torch.zeros(3, height, width)
    for row in range(height):
        for column in range(width):
            unit = torch.zeros(3, height, width, dtype=torch.complex64)
            unit[:, row, column] = 1
            expected[:, row, column] = fft2c(sense.normal(ifft2c(unit)))[:, row, column].real
    centered = torch.fft.fftshift(sense.density(), dim=(-2, -1)).expand(3, *shape)
    torch.testing.assert_close(centered, expected, rtol=0, atol=1e-5)


def test_forward_is_fastmris() -> None:
    """The expansion by sensitivities in fastMRI's VarNet, and its mask."""
    shape = (12, 15)
    sense, x = sense_of("W", shape, 3), white(3, *shape)
    pairs = torch.view_as_real(x)[:, None]
    expanded = fastmri.fft2c(fastmri.complex_mul(pairs, torch.view_as_real(sense.maps)))
    masked = expanded * calibrated(15, 4)[:, None] + 0.0
    torch.testing.assert_close(torch.view_as_real(sense.forward(x)), masked, rtol=0, atol=1e-6)
    back = fastmri.complex_mul(fastmri.ifft2c(masked), fastmri.complex_conj(torch.view_as_real(sense.maps)))
    torch.testing.assert_close(torch.view_as_real(sense.normal(x)), back.sum(dim=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", MASKS)
def test_what_is_not_measured_is_0_without_a_sign(kind: str) -> None:
    sense = sense_of(kind, (12, 10))
    y = torch.view_as_real(sense.forward(white(3, 12, 10)))
    mask = sense.mask.expand(3, 12, 10)[:, None].expand(3, 3, 12, 10)
    assert not y[~mask].any() and not torch.signbit(y[~mask]).any()
    assert torch.equal(sense.masked(white(3, 3, 12, 10))[mask], white(3, 3, 12, 10)[mask])


@pytest.mark.parametrize("kind", ["W", "H, W", "slices, H, W", "slices, H, W of lines"])
def test_solution_equals_a_dense_solve(kind: str) -> None:
    shape = (6, 5)
    sense = sense_of(kind, shape, 3)
    double = Sense(sense.maps.to(torch.complex128), sense.mask)
    r = torch.tensor([0.01, 0.1, 1.0])[:, None, None]
    right = white(3, *shape)
    units = torch.eye(30, dtype=torch.complex128).view(30, 1, *shape)
    columns = torch.stack([double.normal(unit.expand(3, *shape)).flatten(1) for unit in units], dim=-1)
    matrices = columns + r * torch.eye(30)
    expected = torch.linalg.solve(matrices, right.to(torch.complex128).flatten(1)).view(3, *shape)
    torch.testing.assert_close(sense.solve(right, r), expected.to(torch.complex64), rtol=0, atol=1e-4)


def test_slices_are_problems_of_their_own() -> None:
    """With masks and weights that differ, alone and in a batch; maps of one slice stand for all."""
    kspace, maps, _ = coil_scans(3, 4, 24, 20)
    masks, r = slice_by_slice(24, 20), torch.tensor([0.01, 0.1, 1.0])[:, None, None]
    together = Sense(maps[None], masks)
    whole = together.solve(together.adjoint(kspace), r)
    for k in range(3):
        one = Sense(maps[None], masks[k : k + 1])
        alone = one.solve(one.adjoint(kspace[k : k + 1]), r[k : k + 1])
        torch.testing.assert_close(alone[0], whole[k], rtol=0, atol=1e-5)
    each = Sense(maps.expand(3, -1, -1, -1), masks)
    torch.testing.assert_close(each.solve(each.adjoint(kspace), r), whole, rtol=0, atol=1e-6)


def test_complete_scans_come_back() -> None:
    """With maps of root-sum-of-squares 1 and all of k-space, A^H A is 1."""
    kspace, maps, images = coil_scans(2, 4, 19, 22, noise=0.0)
    sense = Sense(maps[None], torch.ones(22, dtype=torch.bool))
    torch.testing.assert_close(sense.adjoint(kspace), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(sense.normal(images), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(sense.density(), torch.ones(1, 19, 22), rtol=0, atol=1e-5)
    for noisy in (kspace, kspace + torch.where(calibrated(22, 4), 0, 5.0)):  # what is not measured counts nothing
        lines = Sense(maps[None], calibrated(22, 4))
        assert distance(lines.solve(lines.adjoint(noisy), 1e-3), images) < 0.01


def test_norm_is_at_most_1() -> None:
    sense, x = sense_of("H, W", (12, 10)), white(3, 12, 10)
    for _ in range(20):
        x = sense.normal(x)
        x = x / x.norm()
    assert 0.5 < float(sense.normal(x).norm()) <= 1 + 1e-5


def test_gains() -> None:
    shape, maps = (12, 10), true_maps((12, 10), 3)
    maps[:, :4] = 0
    for kind in ("W", "H, W", "slices, H, W"):
        mask = MASKS[kind](*shape)
        received, kept = Sense(maps[None], mask).gains(shape)
        assert received.shape == (1, *shape) and not received[:, :4].any()
        torch.testing.assert_close(received[:, 4:], torch.ones(1, 8, 10))
        assert torch.equal(kept.expand(3, *shape), mask.expand(3, *shape).float())


@pytest.mark.parametrize("kind", sorted(MASKS))
def test_coils_one_after_another_or_together(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """How coils are grouped, by the size of their images, changes rounding alone."""
    maps, mask = white(3, 3, 16, 12), MASKS[kind](16, 12)
    image = white(3, 16, 12, seed=1)
    together = Sense(maps, mask)
    assert len(together._groups) == 1
    monkeypatch.setattr("mrihvae.physics.mri.CACHE_BYTES", 16 * 12 * 8)
    apart = Sense(maps, mask)
    assert len(apart._groups) == 3
    torch.testing.assert_close(apart.normal(image), together.normal(image), rtol=0, atol=1e-5)
