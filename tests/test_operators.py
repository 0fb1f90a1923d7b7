"""The acquisition operator: adjointness, the normal operator, and equality with sigpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import complex_normal

from mrihvae.operators import MaskedFourier

SHAPES = [(8, 8), (7, 7), (8, 7), (7, 8), (1, 5), (20, 33)]


def operator(shape: tuple[int, int], lines: bool) -> MaskedFourier:
    """Make an operator that measures about half of the lines (W,), or of the bins (H, W)."""
    rng = np.random.default_rng(0)
    return MaskedFourier(torch.from_numpy(rng.random(shape[1:] if lines else shape) < 0.5))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(complex_normal(shape, seed))


def inner(a: torch.Tensor, b: torch.Tensor) -> complex:
    return complex((a.conj() * b).to(torch.complex128).sum())


@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_adjoint(shape: tuple[int, int], lines: bool) -> None:
    A = operator(shape, lines)
    x, y = draw(2, *shape), draw(2, *shape, seed=1)
    assert inner(A.forward(x), y) == pytest.approx(inner(x, A.adjoint(y)), abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_normal_is_adjoint_of_forward(shape: tuple[int, int]) -> None:
    A = operator(shape, lines=True)
    x = draw(2, *shape)
    assert torch.equal(A.normal(x), A.adjoint(A.forward(x)))
    torch.testing.assert_close(A.normal(A.normal(x)), A.normal(x), atol=1e-6, rtol=0)  # a projection


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_sigpy(shape: tuple[int, int]) -> None:
    import sigpy

    A = operator(shape, lines=False)
    theirs = sigpy.linop.Multiply(shape, A.mask.numpy()) * sigpy.linop.FFT(shape, center=True)
    x, y = complex_normal(shape), complex_normal(shape, 1)
    np.testing.assert_allclose(A.forward(torch.from_numpy(x)).numpy(), theirs(x), atol=1e-6)
    np.testing.assert_allclose(A.adjoint(torch.from_numpy(y)).numpy(), theirs.H(y), atol=1e-6)
    np.testing.assert_allclose(A.normal(torch.from_numpy(x)).numpy(), theirs.N(x), atol=1e-6)


def test_equals_sigpys_sense_with_one_flat_coil() -> None:
    from sigpy.mri.linop import Sense

    shape = (12, 9)
    A = operator(shape, lines=False)
    theirs = Sense(np.ones((1, *shape), np.complex64), weights=A.mask.numpy().astype(np.float32))
    x, y = complex_normal(shape), complex_normal(shape, 1)
    np.testing.assert_allclose(A.forward(torch.from_numpy(x)).numpy(), theirs(x)[0], atol=1e-6)
    np.testing.assert_allclose(A.adjoint(torch.from_numpy(y)).numpy(), theirs.H(y[None]), atol=1e-6)


def test_everything_measured_is_unitary() -> None:
    A = MaskedFourier(torch.ones(6, 9, dtype=torch.bool))
    x = draw(3, 6, 9)
    torch.testing.assert_close(A.normal(x), x, atol=1e-6, rtol=0)


def test_unmeasured_bins_are_plus_zero_even_where_the_input_is_not_finite() -> None:
    A = operator((6, 9), lines=True)
    y = A.forward(-draw(2, 6, 9))
    unmeasured = y[..., ~A.mask]
    assert unmeasured.numel() and not unmeasured.any()
    assert not torch.signbit(torch.view_as_real(unmeasured)).any()
    y[..., ~A.mask] = torch.nan
    assert bool(torch.isfinite(A.adjoint(y).abs()).all())
