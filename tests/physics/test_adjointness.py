"""Every operator of `mrihvae.physics`: <A x, y> = <x, A^H y>, and the proximal step is exact."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mrihvae import physics
from mrihvae.physics.degradations import Blur, Inpainting, PaddedBlur, SuperResolution, denoising
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.kernels import gaussian_kernel, transfer_of
from mrihvae.physics.mri import MaskedFourier, Sense
from mrihvae.physics.operators import Linear, Operator

SHAPE = (12, 10)
Make = Callable[[], Operator]


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def pattern(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4


def maps() -> Tensor:
    found = some(3, *SHAPE, seed=2)
    return (found / found.abs().square().sum(dim=0).sqrt())[None]


TRANSFER = transfer_of(gaussian_kernel(0.8), SHAPE).to(torch.complex128)
OPERATORS: dict[str, Make] = {
    "masked Fourier, lines": lambda: MaskedFourier(pattern(SHAPE[1])),
    "masked Fourier, bins": lambda: MaskedFourier(pattern(*SHAPE)),
    "SENSE, lines": lambda: Sense(maps(), pattern(SHAPE[1])),
    "SENSE, bins": lambda: Sense(maps(), pattern(*SHAPE)),
    "inpainting": lambda: Inpainting(pattern(*SHAPE)),
    "denoising": denoising,
    "blur": lambda: Blur(TRANSFER),
    "blur beyond the border": lambda: PaddedBlur(gaussian_kernel(0.8).double()),
    "super-resolution": lambda: SuperResolution(TRANSFER, 2),
    "linear": lambda: Linear(fft2c, ifft2c),
}


def inner(a: Tensor, b: Tensor) -> complex:
    return complex((a.conj() * b).sum())


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint(name: str) -> None:
    operator, image = OPERATORS[name](), some(2, *SHAPE, seed=3)
    data = operator.forward(image)
    other = some(*data.shape, seed=4).to(data.dtype)
    assert operator.adjoint(other).shape == image.shape
    assert inner(operator.forward(image), other) == pytest.approx(inner(image, operator.adjoint(other)), rel=1e-6)


@pytest.mark.parametrize("name", OPERATORS)
def test_solution_of_the_proximal_step(name: str) -> None:
    operator, right = OPERATORS[name](), some(2, *SHAPE, seed=5)
    found = operator.solve(right, 0.3)
    again = operator.adjoint(operator.forward(found)) + 0.3 * found
    torch.testing.assert_close(again, right, rtol=0, atol=1e-4)


def test_no_operator_is_left_out() -> None:
    known = {type(make()) for make in OPERATORS.values()}
    for module in pkgutil.iter_modules(physics.__path__, "mrihvae.physics."):
        for _, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if {"forward", "adjoint", "solve"} <= set(vars(found)) and found is not Operator:
                assert found in known, found
