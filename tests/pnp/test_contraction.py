"""Ratios and spectral norms against maps of which they are known, and against a dense Jacobian."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.degradations import Blur, SuperResolution, denoising
from mrihvae.physics.kernels import gaussian_kernel, transfer_of
from mrihvae.pnp.contraction import contraction_ratios, encode_and_decode, noisy_pairs, ratio, spectral_norm, whole_loop
from mrihvae.pnp.degraded import ReflectionPadding
from mrihvae.pnp.loop import CompletePosterior, restore, z_step
from mrihvae.pnp.settings import PnPSettings
from tests.support.small import SMALL, phantom, small_model


def diagonal(image: Tensor) -> Tensor:
    """Multiply pixels by 0.1 to 0.7 in the first slice, and twice that in the second."""
    gains = torch.linspace(0.1, 0.7, image[0].numel()).view(image.shape[1:])
    return image * gains * torch.tensor([1.0, 2.0])[: len(image), None, None] + 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_linear_maps(dtype: torch.dtype) -> None:
    image = torch.ones(2, 4, 5, dtype=dtype)
    found = spectral_norm(diagonal, image, 200)
    torch.testing.assert_close(found.bound, torch.tensor([0.7, 1.4]), rtol=1e-4, atol=0)
    assert bool((found.history.diff(dim=0) >= -1e-6).all()) and found.history.shape == (200, 2)
    assert found.direction.dtype == dtype and float(found.direction[0].abs()[-1, -1]) == pytest.approx(1, abs=1e-2)
    going_on = spectral_norm(diagonal, image, 1, start=found.direction)
    torch.testing.assert_close(going_on.bound, torch.tensor([0.7, 1.4]), rtol=1e-4, atol=0)
    ratios = contraction_ratios(diagonal, image, 0.1, pairs=50)
    assert ratios.shape == (50, 2) and bool((ratios < torch.tensor([0.7, 1.4])).all())
    expected = torch.linspace(0.1, 0.7, 20).square().mean().sqrt()
    torch.testing.assert_close(ratios.mean(dim=0), expected * torch.tensor([1.0, 2.0]), rtol=0.06, atol=0)
    torch.testing.assert_close(contraction_ratios(lambda x: 0.3 * x, image, 0.1, 2), torch.full((2, 2), 0.3))


def test_a_linear_map_that_takes_complex_numbers_apart() -> None:
    """Real part times 2, imaginary part times 3: no linear map of complex numbers, but one of their parts."""
    image = torch.zeros(1, 3, 3, dtype=torch.complex64)
    found = spectral_norm(lambda x: torch.complex(2 * x.real, 3 * x.imag), image, 60)
    assert float(found.bound) == pytest.approx(3, rel=1e-4)


def test_pairs_are_noise_on_the_same_image() -> None:
    image = torch.full((1, 64, 64), 1 + 0j)
    pairs = list(noisy_pairs(image, 0.2, 3, seed=1))
    assert len(pairs) == 3 and not torch.equal(pairs[0][0], pairs[1][0])
    first, second = pairs[0]
    assert float((first - image).abs().square().mean().sqrt()) == pytest.approx(0.2, rel=0.05)
    assert float(ratio((2 * first, 2 * second), (first, second))) == pytest.approx(2)
    assert torch.equal(next(noisy_pairs(image, 0.2, 1, seed=1))[0], first)


@pytest.mark.parametrize(("real", "tau"), [(True, 0.6), (False, 1.0)])
def test_network_against_its_dense_jacobian(real: bool, tau: float) -> None:
    model = small_model(settings=replace(SMALL, widths=(16, 16), layers=1)).requires_grad_(False)
    image = torch.from_numpy(phantom(8, 8))[None]
    image = image if real else torch.polar(image, torch.full_like(image, 0.4))
    settings = PnPSettings(encoder="complete", tau=tau, precision="float32")
    posterior = CompletePosterior(model, ReflectionPadding(model, (8, 8), real), real)
    function = encode_and_decode(model, posterior, settings)
    torch.testing.assert_close(function(image), z_step(model, [posterior], image, settings)[0], rtol=0, atol=0)
    term = LeastSquares(denoising(), image, torch.tensor([0.05]), real)
    parts = image if real else torch.view_as_real(image).contiguous()

    def of_parts(x: Tensor) -> Tensor:
        return function(x) if real else torch.view_as_real(function(torch.view_as_complex(x)))

    jacobian = torch.autograd.functional.jacobian(of_parts, parts)
    singular = float(torch.linalg.matrix_norm(jacobian.reshape(parts.numel(), parts.numel()), 2))
    loop = whole_loop(model, posterior, term, settings)
    for one, expected in ((function, singular), (loop, 0.5 * singular)):  # sigma is gamma: x is the mean of y and mu
        bound = float(spectral_norm(one, image, 40).bound)
        assert bound == pytest.approx(expected, rel=1e-2) and bound < 1.001 * expected
        assert float(contraction_ratios(one, image, 1e-3, pairs=4).max()) < 1.05 * expected


def test_proximal_steps_let_gradients_pass() -> None:
    """x -> (A^H A + r I)^-1 (A^H y + r x) contracts by r / (r + |A|^2), by 1 where A sees nothing."""
    transfer = transfer_of(gaussian_kernel(1.0), (16, 16))
    data = {Blur(transfer): torch.zeros(1, 16, 16), SuperResolution(transfer, 2): torch.zeros(1, 8, 8)}
    for operator, zeros in data.items():
        term = LeastSquares(operator, zeros, torch.tensor([0.1]), real=True)
        found = spectral_norm(lambda v, term=term: term.prox(v, 0.1), torch.ones(1, 16, 16), 60)
        assert 0.97 < float(found.bound) <= 1.0001


@pytest.mark.parametrize("relaxation", [1.0, 0.3])
def test_loop_is_an_iteration_at_any_beta(relaxation: float) -> None:
    model, real = small_model(), True
    posterior = CompletePosterior(model, ReflectionPadding(model, (8, 8), real), real)
    x = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    term = LeastSquares(denoising(), x + 0.1, torch.full((2,), 0.1), real)
    settings = PnPSettings(
        iterations=1, gamma=0.1, beta=0.3, tau=0.9, relaxation=relaxation, encoder="complete", precision="float32"
    )
    with torch.no_grad():
        expected = restore(model, term, [posterior], x, settings).image
        torch.testing.assert_close(whole_loop(model, posterior, term, settings)(x), expected)
