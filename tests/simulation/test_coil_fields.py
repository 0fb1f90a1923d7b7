"""Receive fields of simulated arrays: where they are bright, how smooth they are, and that coils differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mrihvae.physics.fourier import fft2c
from mrihvae.simulation.coil_fields import BIRDCAGE_RUNG, birdcage_fields, random_fields


def drawn(shape: tuple[int, int], coils: int, seed: int = 0) -> Tensor:
    return random_fields(shape, coils, np.random.default_rng(seed))


def combined(fields: Tensor) -> Tensor:
    """Compute the root-sum-of-squares, (H, W)."""
    return fields.abs().square().sum(dim=0).sqrt()


@pytest.mark.parametrize("make", [birdcage_fields, drawn])
@pytest.mark.parametrize(("shape", "coils"), [((32, 48), 1), ((48, 33), 4), ((40, 40), 20)])
def test_scale(make: Callable[[tuple[int, int], int], Tensor], shape: tuple[int, int], coils: int) -> None:
    fields = make(shape, coils)
    assert fields.shape == (coils, *shape) and fields.dtype == torch.complex64
    assert float(combined(fields).mean()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("make", [birdcage_fields, drawn])
@pytest.mark.parametrize("coils", [4, 8, 32])
def test_no_part_of_the_image_is_lost(make: Callable[[tuple[int, int], int], Tensor], coils: int) -> None:
    together = combined(make((64, 64), coils))
    assert float(together.min()) > 0.4 and float(together.max()) < 2.5


def test_birdcage_turns_from_rung_to_rung() -> None:
    fields = birdcage_fields((64, 64), 4)
    for k in range(4):
        turned = torch.rot90(fields[k], -1)  # from right to down, as the angle runs
        ratio = fields[(k + 1) % 4] / turned
        torch.testing.assert_close(ratio, ratio[0, 0].expand(64, 64), rtol=1e-4, atol=1e-4)
        assert abs(complex(ratio[0, 0])) == pytest.approx(1, abs=1e-4)


def test_field_on_the_axis_of_a_loop() -> None:
    """It falls as (1 + d^2 / a^2)^(-3/2), and has one phase there."""
    distance, radius = BIRDCAGE_RUNG
    field = birdcage_fields((65, 65), 8)[0]
    axis = field[32]
    away = distance - np.linspace(-1, 1, 65)
    expected = (1 + (away / radius) ** 2) ** -1.5
    np.testing.assert_allclose((axis.abs() / axis.abs()[-1]).numpy(), expected / expected[-1], rtol=1e-5)
    assert float((axis / axis.abs()).std()) < 1e-6
    assert int(field.abs().argmax()) == 32 * 65 + 64  # brightest where the loop is


@pytest.mark.parametrize("make", [birdcage_fields, drawn])
def test_fields_are_smooth_and_complex(make: Callable[[tuple[int, int], int], Tensor]) -> None:
    fields = make((64, 64), 8)
    for axis in (-1, -2):
        left, right = fields.narrow(axis, 0, 63), fields.narrow(axis, 1, 63)
        assert float((right * left.conj()).angle().abs().max()) < 0.1  # no jump of phase from pixel to pixel
        assert float(((right - left).abs() / combined(fields).max()).max()) < 0.1
    window = torch.hann_window(64, periodic=False)
    spectrum = fft2c(fields * window[:, None] * window).abs().square()
    assert float(spectrum[:, 28:37, 28:37].sum() / spectrum.sum()) > 0.999
    spread = (fields / fields.abs()).mean(dim=(-2, -1)).abs()  # 1 for a constant phase
    assert float(spread.min()) > 0.3 and float(spread.max()) < 0.97


@pytest.mark.parametrize("make", [birdcage_fields, drawn])
def test_coils_see_different_things(make: Callable[[tuple[int, int], int], Tensor]) -> None:
    values = torch.linalg.svdvals(make((48, 48), 8).flatten(start_dim=1))
    assert float(values[-1] / values[0]) > 0.02


def test_random_fields_come_from_the_generator() -> None:
    assert torch.equal(drawn((32, 32), 6, seed=1), drawn((32, 32), 6, seed=1))
    first, second = drawn((32, 32), 6, seed=1), drawn((32, 32), 6, seed=2)
    assert float((first.abs() - second.abs()).abs().mean()) > 0.02
    gains = first.abs().amax(dim=(-2, -1))
    assert float(gains.max() / gains.min()) > 1.2
