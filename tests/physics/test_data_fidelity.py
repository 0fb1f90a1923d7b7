"""Data terms: their values are densities, and their proximal steps are minima."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from mrihvae.physics.data_fidelity import DataTerm, Differentiable, LeastSquares, PhaseFree, Rician
from mrihvae.physics.degradations import Blur, Inpainting, PaddedBlur, SuperResolution, denoising
from mrihvae.physics.kernels import abs2, gaussian_kernel, transfer_of
from mrihvae.physics.mri import MaskedFourier
from mrihvae.physics.operators import Operator
from tests.support.small import every_third, phantom

SHAPE = (16, 12)
NOISE = torch.tensor([0.05, 0.3], dtype=torch.float64)


def normal_numbers(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def operators(dtype: torch.dtype = torch.float64) -> dict[str, Operator]:
    kernel = gaussian_kernel((1.2, 0.7), 0.3, size=11).to(dtype)
    return {
        "denoising": denoising(),
        "holes": Inpainting(torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.6),
        "blur": Blur(transfer_of(kernel, SHAPE)),
        "padded": PaddedBlur(kernel, tolerance=1e-12),
        "coarse": SuperResolution(transfer_of(kernel, SHAPE), 4),
        "fourier": MaskedFourier(every_third(SHAPE[1])),
    }


def problem(name: str, real: bool) -> tuple[LeastSquares, torch.Tensor]:
    """Make noisy data of two images through an operator, and another image, all in double precision."""
    dtype = torch.float64 if real else torch.complex128
    A, x = operators()[name], normal_numbers((2, *SHAPE), dtype)
    clean = A.forward(x)
    noise = NOISE.view(-1, 1, 1) * normal_numbers(tuple(clean.shape), clean.dtype, 1)
    data = A.forward(x + noise) if name in ("holes", "fourier") else clean + noise
    return LeastSquares(A, data, NOISE, real), x + 0.3 * normal_numbers((2, *SHAPE), dtype, 2)


CASES = [(name, real) for name in operators() for real in (True, False) if (name, real) != ("fourier", True)]


def whole(term: DataTerm, x: torch.Tensor, v: torch.Tensor, gamma: torch.Tensor | float) -> torch.Tensor:
    """Compute what a proximal step minimizes, (slices,)."""
    half = 0.5 if term.real else 1.0
    return term.value(x) + half * (abs2(x - v) / gamma**2).flatten(1).sum(dim=1)


def slope(term: DataTerm, x: torch.Tensor, v: torch.Tensor, gamma: torch.Tensor | float) -> torch.Tensor:
    """Compute the length of its gradient at x, (slices,)."""
    x = x.detach().clone().requires_grad_()
    whole(term, x, v, gamma).sum().backward()
    assert x.grad is not None
    return x.grad.flatten(1).norm(dim=1)


@pytest.mark.parametrize("real", [True, False])
def test_least_squares_is_minus_the_logarithm_of_a_normal_density(real: bool) -> None:
    term, v = problem("coarse", real)
    found, theirs = [], []
    for x in (v, 0.7 * v.flip(-1)):
        shown, data = (t if real else torch.view_as_real(t) for t in (term.operator.forward(x), term.data))
        deviation = NOISE.view(-1, *[1] * (shown.ndim - 1)) / (1 if real else 2**0.5)  # E|n|^2 = sigma^2
        theirs.append(-Normal(shown, deviation).log_prob(data).flatten(1).sum(dim=1))
        found.append(term.value(x))
    torch.testing.assert_close(found[0] - found[1], theirs[0] - theirs[1])
    assert float((found[0] - found[1]).abs().min()) > 1


@pytest.mark.parametrize(("name", "real"), CASES)
def test_proximal_step_of_least_squares_is_the_minimum(name: str, real: bool) -> None:
    term, v = problem(name, real)
    for gamma in (0.01, 0.1, 2.0, torch.tensor([0.02, 0.5]).double().view(-1, 1, 1)):
        x = term.prox(v, gamma)
        assert x.dtype == v.dtype
        assert bool((slope(term, x, v, gamma) < 1e-9 * slope(term, v, v, gamma)).all())
        for seed in range(3):
            away = x + 0.01 * normal_numbers(tuple(x.shape), x.dtype, seed)
            assert bool((whole(term, away, v, gamma) > whole(term, x, v, gamma)).all())


@pytest.mark.parametrize(("name", "bound"), [("blur", 1e-3), ("coarse", 1e-4), ("fourier", 4e-3)])
def test_proximal_step_in_single_precision_with_hardly_any_noise(name: str, bound: float) -> None:
    """Where data say nothing v must stay: what rounding makes of the data must not be divided by r = 1e-6."""
    shape, real = (64, 64), name != "fourier"
    truth = torch.from_numpy(phantom(*shape))[None].to(torch.float32 if real else torch.complex64)
    v = truth + 0.02 * normal_numbers((1, *shape), torch.float32)
    found = []
    for wide in (False, True):
        kernel = gaussian_kernel(1.6 if name == "coarse" else 3.0).to(torch.float64 if wide else torch.float32)
        A: Operator = {
            "blur": Blur(transfer_of(kernel, shape)),
            "coarse": SuperResolution(transfer_of(kernel, shape), 4),
            "fourier": MaskedFourier(every_third(shape[1])),
        }[name]
        x, near = (t.to((torch.float64 if real else torch.complex128) if wide else t.dtype) for t in (truth, v))
        noise = torch.tensor([1e-4], dtype=torch.float64 if wide else torch.float32)
        found.append(LeastSquares(A, A.forward(x), noise, real).prox(near, 0.1))
    assert found[0].dtype == truth.dtype
    assert float((found[0] - found[1]).abs().square().mean().sqrt()) < bound


def test_data_without_noise_have_a_proximal_step() -> None:
    term, v = problem("holes", True)
    free = LeastSquares(term.operator, term.data, torch.zeros(2).double(), True)
    x, mask = free.prox(v, 0.1), operators()["holes"].forward(torch.ones(2, *SHAPE)).bool()
    torch.testing.assert_close(x[mask], term.data[mask], rtol=0, atol=1e-5)
    assert torch.equal(x[~mask], v[~mask])
    assert bool(torch.isfinite(free.value(x)).all())


@pytest.mark.parametrize("real", [True, False])
def test_scaled_data_are_the_same_problem(real: bool) -> None:
    term, v = problem("coarse", real)
    scale = torch.tensor([2.0, 0.1], dtype=torch.float64)
    scaled, factor = term.scaled(scale), scale.view(-1, 1, 1)
    torch.testing.assert_close(scaled.value(v / factor), term.value(v))
    torch.testing.assert_close(scaled.prox(v / factor, 0.2 / factor) * factor, term.prox(v, 0.2))
    torch.testing.assert_close(scaled.first_image() * factor, term.first_image())


def magnitudes(noise: float) -> tuple[Rician, torch.Tensor]:
    """Make blurred magnitudes of two noisy images that are not negative, and the images."""
    truth = torch.from_numpy(np.stack([phantom(*SHAPE), phantom(*SHAPE, 1)])).double()
    A = operators()["blur"]
    clean = A.forward(truth)
    data = (clean + noise * normal_numbers((2, *SHAPE), torch.complex128)).abs()
    return Rician(A, data, torch.tensor([noise, noise]).double()), truth


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_rician_is_minus_the_logarithm_of_its_density(noise: float) -> None:
    from scipy.stats import rice

    term, truth = magnitudes(noise)
    found, theirs = [], []
    for x in (truth + 0.1, 0.5 * truth + 0.02):
        part, shown = noise / 2**0.5, term.operator.forward(x).numpy()
        density = rice.logpdf(term.data.numpy(), shown / part, scale=part)
        theirs.append(-density.sum(axis=(1, 2)))
        found.append(term.value(x).numpy())
    np.testing.assert_allclose(found[0] - found[1], theirs[0] - theirs[1], rtol=1e-6)


@pytest.mark.parametrize("noise", [0.05, 0.3])
@pytest.mark.parametrize("gamma", [0.05, 0.5])
def test_proximal_step_of_rician_data_is_the_minimum(noise: float, gamma: float) -> None:
    term, truth = magnitudes(noise)
    v = truth + 0.1
    many = Rician(term.operator, term.data, term.noise, rounds=150)
    assert bool((slope(term, many.prox(v, gamma), v, gamma) < 1e-6 * slope(term, v, v, gamma)).all())
    last = whole(term, v, v, gamma)
    for rounds in range(1, 8):
        x = Rician(term.operator, term.data, term.noise, rounds).prox(v, gamma)
        now = whole(term, x, v, gamma)
        assert bool((now <= last + 1e-9 * last.abs()).all())
        last = now
    assert term.rounds == 5 and term.real


def test_rician_data_take_off_the_bias_of_magnitudes() -> None:
    """Where there is no signal, magnitudes are sqrt(pi) / 2 sigma on average, and the image is near 0."""
    A, noise = denoising(), torch.tensor([0.2]).double()
    data = noise * normal_numbers((1, 64, 64), torch.complex128).abs()
    assert float(data.mean()) == pytest.approx(0.2 * np.sqrt(np.pi) / 2, rel=0.02)
    v = torch.full_like(data, 0.02)
    found = Rician(A, data, noise).prox(v, 0.3)
    gaussian = LeastSquares(A, data, noise / 2**0.5, real=True).prox(v, 0.3)
    assert abs(float(found.mean())) < 0.5 * float(gaussian.mean())
    strong = Rician(A, data + 10, noise).prox(v + 10, 0.3)
    torch.testing.assert_close(
        strong, LeastSquares(A, data + 10, noise / 2**0.5, True).prox(v + 10, 0.3), rtol=1e-3, atol=0
    )
    assert torch.equal(Rician(A, data, noise).first_image(), data)


def test_phase_free_proximal_step_by_search() -> None:
    data = normal_numbers((2, 3, 4)).abs()
    v = normal_numbers((2, 3, 4), torch.complex128, 1)
    term, gamma = PhaseFree(data, NOISE), 0.2
    x = term.prox(v, gamma)
    torch.testing.assert_close(x.angle(), v.angle())
    magnitude, phase = torch.meshgrid(
        torch.linspace(0, 4, 801).double(), torch.linspace(-np.pi, np.pi, 361).double(), indexing="ij"
    )
    tried = torch.polar(magnitude, phase).flatten()
    for k in range(2):
        for row in range(3):
            for column in range(4):
                of_data = (tried.abs() - data[k, row, column]) ** 2 / NOISE[k] ** 2
                costs = of_data + abs2(tried - v[k, row, column]) / gamma**2
                best = tried[costs.argmin()]
                assert abs(complex(best - x[k, row, column])) < 0.005 + 0.01 * abs(complex(best))
    expected = ((x.abs() - data) ** 2).sum(dim=(1, 2)) / NOISE**2
    torch.testing.assert_close(term.value(x), expected)
    assert float((PhaseFree(data, 0 * NOISE).prox(v, gamma).abs() - data).abs().max()) < 1e-5


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("name", ["denoising", "blur", "coarse"])
def test_differentiable_data_terms_come_near_the_exact_step(name: str, real: bool) -> None:
    term, v = problem(name, real)
    rough = Differentiable(term.value, real, steps=100, step=0.02)
    with torch.no_grad():  # as loops do
        found = rough.prox(v, 0.2)
    exact = term.prox(v, 0.2)
    assert not found.requires_grad and found.dtype == v.dtype
    assert bool(((found - exact).flatten(1).norm(dim=1) < 0.05 * (v - exact).flatten(1).norm(dim=1)).all())
    assert torch.equal(rough.value(v), term.value(v))


def test_differentiable_data_terms_may_be_anything() -> None:
    """An L1 term: the proximal step is soft thresholding of the data's distance, by gamma^2 / b."""
    y, v = torch.tensor([[[0.0, 1.0, 0.3]]]), torch.zeros(1, 1, 3)
    function: Callable[[torch.Tensor], torch.Tensor] = lambda x: (x - y).abs().flatten(1).sum(dim=1) / 0.1  # noqa: E731
    found = Differentiable(function, real=True, steps=400, step=0.003).prox(v, 0.2)
    torch.testing.assert_close(found, torch.tensor([[[0.0, 0.4, 0.3]]]), rtol=0, atol=0.01)
