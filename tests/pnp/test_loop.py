"""The loop of PnP-HVAE: its z-step in closed form, an iteration by hand, what it reports, and when it stops."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from mrihvae.inference.encoders import CompleteEncoder
from mrihvae.inference.latents import Inferred, infer
from mrihvae.inference.settings import RefinementSettings
from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import Gaussian
from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.degradations import denoising
from mrihvae.pnp import loop as pnp
from mrihvae.pnp.degraded import DegradedPosterior, ReflectionPadding
from mrihvae.pnp.loop import CompletePosterior, Restored, Tempered, log_prior, restore, z_step
from mrihvae.pnp.settings import PnPSettings
from mrihvae.utils.config import with_settings
from mrihvae.utils.notices import collect_notices
from tests.support.small import SMALL, phantom, small_model

DEGRADED = dataclasses.replace(SMALL, degraded=True)
SHAPE = (21, 16)


def exactly(**values: Any) -> PnPSettings:
    """Settings in single precision, in which what should be equal is equal."""
    return PnPSettings(**{"precision": "float32", **values})


class Fixed:
    """An encoder that always gives the same."""

    def __init__(self, q: Gaussian) -> None:
        self.q, self.entered = q, 0

    def begin_level(self, j: int, state: torch.Tensor, known: torch.Tensor) -> None:
        self.entered += 1

    def __call__(self, j: int, k: int, state: torch.Tensor, prior: Gaussian) -> Gaussian:
        return self.q


def pair_of_normals() -> tuple[Gaussian, Gaussian]:
    generator = torch.Generator().manual_seed(0)
    mu, sigma = torch.randn(2, 3, 4, 5, 6, generator=generator).double(), torch.rand(2, 3, 4, 5, 6, generator=generator)
    sigma = sigma.double() + 0.1
    return Gaussian(mu[0], sigma[0]), Gaussian(mu[1], sigma[1])


def tempered(tau: float, beta: float) -> Gaussian:
    q, p = pair_of_normals()
    found: Gaussian = Tempered(Fixed(q), [0.123, tau], beta)(1, 0, torch.zeros(()), p)
    return found


@pytest.mark.parametrize("tau", [1.0, 0.95, 0.6, 0.1])
@pytest.mark.parametrize("beta", [1.0, 0.5, 0.01])
def test_tempered_posterior_is_q_to_the_beta_times_p(tau: float, beta: float) -> None:
    """Its mean is the least of -beta log q - (1 / tau^2 - beta) log p, and its variance the second derivative's."""
    q, p = pair_of_normals()
    found = tempered(tau, beta)
    z = found.mu.clone().requires_grad_()
    logarithm = beta * Normal(q.mu, q.sigma).log_prob(z) + (1 / tau**2 - beta) * Normal(p.mu, p.sigma).log_prob(z)
    (gradient,) = torch.autograd.grad(-logarithm.sum(), z, create_graph=True)
    assert float(gradient.detach().abs().max()) < 1e-5 / tau**2
    (curvature,) = torch.autograd.grad(gradient.sum(), z)
    torch.testing.assert_close(found.sigma, curvature**-0.5)


def test_tempered_posterior_at_its_ends() -> None:
    q, p = pair_of_normals()
    whole = tempered(1.0, 1.0)
    assert torch.equal(whole.mu, q.mu) and torch.equal(whole.sigma, q.sigma)
    cold = tempered(0.0, 1.0)
    torch.testing.assert_close(cold.mu, p.mu, rtol=1e-14, atol=0)
    assert not cold.sigma.any()
    last = math.inf
    for tau in (0.1, 1e-2, 1e-3):  # as tau^2, nearer and nearer
        near = tempered(tau, 1.0)
        away = float(((near.mu - p.mu) / p.sigma).abs().max())
        assert away < 0.02 * last and float(near.sigma.max()) <= tau * float(p.sigma.max()) * 1.0001
        last = away
    fixed = Fixed(q)
    Tempered(fixed, [1.0]).begin_level(0, torch.zeros(()), torch.zeros(()))
    assert fixed.entered == 1


def test_log_prior_is_the_sum_of_normal_densities_over_tau_squared() -> None:
    q, p = pair_of_normals()
    narrow = Gaussian(p.mu.float(), 0.3 * p.sigma.float())
    z = q.mu.float()
    inferred = Inferred([[z, 2 * z], [z + 1]], [[narrow, narrow], [narrow]])
    densities = [Normal(narrow.mu, narrow.sigma).log_prob(value).flatten(1).sum(dim=1) for value in (z, 2 * z, z + 1)]
    theirs = (densities[0] + densities[1]) / 0.8**2 + densities[2] / 0.5**2
    torch.testing.assert_close(log_prior(inferred, [0.8, 0.5]), theirs, rtol=1e-5, atol=0)
    assert bool(torch.isinf(log_prior(inferred, [0.0, 0.5])).all())


@pytest.fixture(scope="module")
def model() -> HVAE:
    return small_model()


@pytest.fixture(scope="module")
def degraded() -> HVAE:
    return small_model(settings=DEGRADED)


def noisy(real: bool = True, slices: int = 2, noise: float = 0.05) -> LeastSquares:
    truth = torch.from_numpy(np.stack([phantom(*SHAPE, k) for k in range(slices)]))
    truth = truth if real else torch.polar(truth, torch.linspace(0, 1, SHAPE[0])[:, None].expand_as(truth))
    white = torch.randn(truth.shape, dtype=truth.dtype, generator=torch.Generator().manual_seed(1))
    return LeastSquares(denoising(), truth + noise * white, torch.full((slices,), noise), real)


def complete(model: HVAE, real: bool = True, views: tuple[int, ...] = (0,)) -> list[pnp.PosteriorView]:
    return [CompletePosterior(model, ReflectionPadding(model, SHAPE, real, view), real) for view in views]


@pytest.mark.parametrize("real", [True, False])
def test_an_iteration_by_hand(model: HVAE, real: bool) -> None:
    """tau 1: encode with q, decode, x = (sigma^-2 y + gamma^-2 mu) / (sigma^-2 + gamma^-2); and its objective."""
    term, frame, gamma, sigma = noisy(real), ReflectionPadding(model, SHAPE, real), 0.1, 0.05
    x = term.data
    with torch.no_grad():
        kspace = frame.kspace(x)
        everywhere = torch.ones_like(kspace, dtype=torch.bool)
        inferred = infer(
            model, CompleteEncoder(model, kspace), kspace, everywhere, torch.ones(2), RefinementSettings(sweeps=0)
        )
        mu = frame.image(inferred.kspace)
    by_hand = (x / sigma**2 + mu / gamma**2) / (sigma**-2 + gamma**-2)
    found = restore(model, term, complete(model, real), x, exactly(iterations=1, gamma=gamma))
    assert found.image.dtype == found.decoded.dtype == x.dtype
    torch.testing.assert_close(found.decoded, mu)
    torch.testing.assert_close(found.image, by_hand, rtol=0, atol=1e-6)

    half = 0.5 if real else 1.0
    misfit = half * (by_hand - x).abs().square().sum(dim=(1, 2)) / sigma**2
    bond = half * (by_hand - mu).abs().square().sum(dim=(1, 2)) / gamma**2
    prior = torch.zeros(2)
    for latents, priors in zip(inferred.latents, inferred.priors, strict=True):
        for z, p in zip(latents, priors, strict=True):
            prior += Normal(p.mu, p.sigma).log_prob(z).flatten(1).sum(dim=1)
    torch.testing.assert_close(found.misfit[0], misfit, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.objective[0], misfit + bond - prior, rtol=1e-4, atol=0)
    assert found.iterations.tolist() == [1, 1] and not found.diverged.any() and not found.ratio


def test_what_is_reported_of_each_iteration(model: HVAE) -> None:
    """Loops of 1, 2, 3, ... iterations give x_1, x_2, x_3, ..., from which residuals and ratios follow."""
    term, posteriors, settings = noisy(), complete(model), exactly(tau=0.9, gamma=0.05, iterations=5)
    told: list[int] = []
    found = restore(model, term, posteriors, term.data, settings, told.append)
    path = [term.data]
    for number in range(1, 6):
        one = restore(model, term, posteriors, term.data, with_settings(settings, iterations=number))
        path.append(one.image)
        torch.testing.assert_close(one.objective[-1], found.objective[number - 1])
    assert told == [0, 1, 2, 3, 4] and torch.equal(path[-1], found.image)
    steps = [(new - old).flatten(1).norm(dim=1) for old, new in pairwise(path)]
    for number in range(5):
        size = path[number + 1].flatten(1).norm(dim=1)
        torch.testing.assert_close(found.residual[number], steps[number] / size, rtol=1e-4, atol=0)
        torch.testing.assert_close(found.misfit[number], term.value(path[number + 1]), rtol=1e-4, atol=0)
        if number:
            torch.testing.assert_close(found.ratio[number - 1], steps[number] / steps[number - 1], rtol=1e-3, atol=0)
    assert len(found.ratio) == 4 and len(found.objective) == 5
    mu, log = z_step(model, posteriors, path[4], settings)
    bond = 0.5 * (found.image - mu).flatten(1).norm(dim=1) ** 2 / 0.05**2
    torch.testing.assert_close(found.objective[-1], found.misfit[-1] + bond - log, rtol=1e-4, atol=0)


def test_views_are_averaged(model: HVAE, degraded: HVAE) -> None:
    term = noisy()
    settings = exactly(tau=0.8, iterations=2, gamma=0.1)
    x = term.data
    for posteriors in (
        complete(model, views=(0, 6, 2)),
        [DegradedPosterior(degraded, term, view) for view in (0, 6, 2)],
    ):
        net = model if isinstance(posteriors[0], CompletePosterior) else degraded
        alone = [z_step(net, [posterior], x, settings) for posterior in posteriors]
        mu, log = z_step(net, posteriors, x, settings)
        torch.testing.assert_close(mu, sum(one[0] for one in alone) / 3, rtol=0, atol=1e-6)
        torch.testing.assert_close(log, sum(one[1] for one in alone) / 3, rtol=1e-5, atol=0)
        assert not torch.allclose(alone[0][0], alone[1][0], atol=1e-4)


def test_slices_do_not_depend_on_the_batch(model: HVAE, degraded: HVAE) -> None:
    term = noisy(slices=3)
    for net in (model, degraded):
        for settings in (exactly(iterations=3, tau=0.9, gamma=0.1), exactly(iterations=20, gamma=0.1, tolerance=0.01)):

            def of(some: LeastSquares, net: HVAE = net, settings: PnPSettings = settings) -> Restored:
                posteriors = complete(net) if net is model else [DegradedPosterior(net, some)]
                return restore(net, some, posteriors, some.data, settings)

            together = of(term)
            for k in range(3):
                one = dataclasses.replace(term, data=term.data[k : k + 1], noise=term.noise[k : k + 1])
                alone = of(one)
                torch.testing.assert_close(alone.image[0], together.image[k], rtol=0, atol=1e-5)
                torch.testing.assert_close(alone.decoded[0], together.decoded[k], rtol=0, atol=1e-5)
                assert alone.iterations[0] == together.iterations[k]


def test_draws(model: HVAE) -> None:
    term, posteriors = noisy(), complete(model)

    def drawn(**values: Any) -> torch.Tensor:
        return restore(model, term, posteriors, term.data, exactly(draw=True, iterations=2, **values)).decoded

    assert torch.equal(drawn(seed=3), drawn(seed=3))
    assert float((drawn(seed=3) - drawn(seed=4)).abs().max()) > 1e-3
    colder = (drawn(seed=3, tau=0.1) - drawn(seed=4, tau=0.1)).std()
    assert float(colder) < 0.5 * float((drawn(seed=3) - drawn(seed=4)).std())
    assert torch.equal(drawn(tau=0.0, seed=3), drawn(tau=0.0, seed=4))
    first, second = (z_step(model, posteriors, term.data, exactly(draw=True), number=number)[0] for number in (0, 1))
    assert not torch.allclose(first, second, atol=1e-3)  # each iteration draws anew


def test_sweeps_bring_the_decoder_nearer_to_x(model: HVAE) -> None:
    """Hybrid z-steps, with q: latents are refined against x."""
    term, posteriors = noisy(), complete(model)
    x, distances = term.data, []
    for sweeps in (0, 1, 3):
        mu, _ = z_step(model, posteriors, x, exactly(sweeps=sweeps, gamma=0.02))
        distances.append(float((mu - x).norm()))
    assert distances[2] < distances[1] < distances[0]


Step = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def with_map(monkeypatch: pytest.MonkeyPatch, function: Callable[[torch.Tensor, int], torch.Tensor]) -> list[float]:
    """Put another map in the network's place; lists the beta it is asked for."""
    asked: list[float] = []

    def z_step(
        model: object, posteriors: object, x: torch.Tensor, settings: PnPSettings, beta: float, number: int, first: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(beta)
        return function(x, number), torch.full((len(x),), 7.0 + number)

    monkeypatch.setattr(pnp, "z_step", z_step)
    return asked


def plain(slices: int = 2) -> LeastSquares:
    """Make data that count for nothing beside the map: x is mu, but for a thousandth."""
    generator = torch.Generator().manual_seed(0)
    return LeastSquares(
        denoising(), torch.randn(slices, 4, 5, generator=generator), torch.full((slices,), 30.0), real=True
    )


def run(term: LeastSquares, start: torch.Tensor | None = None, **values: Any) -> Restored:
    begin = term.data if start is None else start
    return restore(small_model(), term, [], begin, exactly(gamma=1.0, **values))


def test_ratio_is_the_contraction_of_a_linear_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """x -> prox(L x): the data's share r / (1 + r) of L, r = 900."""
    with_map(monkeypatch, lambda x, _: 0.7 * x)
    found = run(plain(), iterations=6)
    for ratio in found.ratio:
        torch.testing.assert_close(ratio, torch.full((2,), 0.7 * 900 / 901), rtol=1e-3, atol=0)


def test_relaxation_goes_a_part_of_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that goes from side to side comes to rest at half of the way, in one iteration."""
    with_map(monkeypatch, lambda x, _: -x)
    term = dataclasses.replace(plain(), noise=torch.full((2,), 1e4))
    found = run(term, iterations=3, relaxation=0.25)
    torch.testing.assert_close(found.image, term.data / 8, rtol=1e-4, atol=1e-6)  # 1 -> (3 - 1) / 4 -> ...
    torch.testing.assert_close(found.decoded, -term.data / 4, rtol=1e-4, atol=1e-6)
    assert float(run(term, iterations=1, relaxation=0.5).image.abs().max()) < 1e-6


def test_tolerance_stops_and_freezes_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = torch.tensor([0.3, 0.8])[:, None, None]
    with_map(monkeypatch, lambda x, _: rates * x + (1 - rates))
    found = run(plain(), iterations=60, tolerance=1e-3)
    first, second = found.iterations.tolist()
    assert 3 < first < second < 60 and len(found.residual) == second
    residual = torch.stack(found.residual)
    assert bool((residual[: first - 1, 0] > 1e-3).all()) and float(residual[first - 1, 0]) <= 1e-3
    assert bool((residual[: second - 1, 1] > 1e-3).all()) and float(residual[second - 1, 1]) <= 1e-3
    for k, count in ((0, first), (1, second)):
        short = run(plain(), iterations=count)
        assert torch.equal(short.image[k], found.image[k]) and torch.equal(short.decoded[k], found.decoded[k])
    for numbers in (found.residual, found.ratio, found.misfit, found.objective):
        after = torch.stack(numbers)[first - 1 - (numbers is found.ratio) :, 0]
        assert bool((after == after[0]).all())  # of the slice that stopped, nothing changes
    assert len(run(plain(), iterations=60).residual) == 60


def test_patience_stops_where_steps_do_not_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of equal size in turns, after three that fall."""
    sizes = [1.0, 0.5, 0.25, *[0.3] * 50]
    with_map(monkeypatch, lambda x, number: x * (901 / 900) + (-1) ** number * sizes[number])
    term = dataclasses.replace(plain(), data=torch.zeros(2, 4, 5))
    for patience in (1, 4):
        found = run(term, iterations=40, patience=patience)
        assert found.iterations.tolist() == [3 + patience] * 2 and not found.diverged.any()
    with collect_notices() as notices:
        assert run(term, iterations=40).iterations.tolist() == [40, 40]
    assert len(notices) == 1 and re.search("did not converge", notices[0])


def test_beta_grows_in_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = with_map(monkeypatch, lambda x, _: 0.5 * x)
    found = run(plain(), iterations=5, beta_start=0.01, beta_steps=3)
    assert asked == pytest.approx([0.01, 0.01 ** (2 / 3), 0.01 ** (1 / 3), 1.0, 1.0])
    one = run(plain(), iterations=1, beta_start=0.01, beta_steps=3)
    term = plain()
    torch.testing.assert_close(one.image, term.prox(0.5 * term.data, 10.0))  # gamma / sqrt(beta)
    bond = 0.5 * 0.01 * (one.image - one.decoded).square().sum(dim=(1, 2))
    torch.testing.assert_close(one.objective[0], term.value(one.image) + bond - 7)
    assert not found.diverged.any()


def test_steps_may_grow_as_long_as_beta_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weakly bound at first, x hardly moves; neither is that running away later on, nor a reason to stop."""
    with_map(monkeypatch, lambda x, _: 0 * x)
    term = dataclasses.replace(plain(), noise=torch.full((2,), 0.1))
    with collect_notices() as notices:
        found = run(term, iterations=8, beta_start=1e-6, beta_steps=5, tolerance=1e-2, patience=2)
    assert not notices
    assert float(found.residual[0][0]) < 1e-2 and float(found.residual[4][0]) > 10 * float(found.residual[0][0])
    assert bool((found.iterations >= 6).all()) and not found.diverged.any()


def test_slice_that_runs_away_is_told_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = torch.tensor([0.5, 3.0])[:, None, None]
    with_map(monkeypatch, lambda x, _: rates * x)
    with collect_notices() as notices:
        found = run(plain(), iterations=30)
    assert len(notices) == 1 and re.search("1 of 2 images diverged: .*; lower gamma or tau", notices[0])
    assert found.diverged.tolist() == [False, True] and found.iterations.tolist() == [30, 3]
    monkeypatch.undo()
    with_map(monkeypatch, lambda x, _: rates * x)
    before = run(plain(), iterations=3)  # 1, 3, 9 times the first step; the next is 27 times it
    assert torch.equal(before.image[1], found.image[1]) and torch.equal(before.decoded[1], found.decoded[1])
    assert bool(torch.isfinite(found.image).all())


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"iterations": 30}, True),
        ({"iterations": 8}, True),
        ({"iterations": 7}, False),  # too few to tell
        ({"iterations": 30, "draw": True}, False),  # draws do not settle
        ({"iterations": 30, "patience": 5}, False),  # stopped
        ({"iterations": 13, "beta_steps": 6, "beta_start": 0.999}, False),
    ],
)
def test_slice_whose_steps_do_not_shrink_is_told(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], told: bool
) -> None:
    """One goes on and on by steps of the same size, one settles, one has settled but for less than a thousandth."""
    steps, rates = torch.tensor([1.0, 0.0, 1e-6])[:, None, None], torch.tensor([1.0, 0.5, 1.0])[:, None, None]
    with_map(monkeypatch, lambda x, _: rates * x + steps * (-1) ** torch.arange(5))
    term = dataclasses.replace(plain(3), noise=torch.full((3,), 1e4))
    with collect_notices() as notices:
        found = run(term, **values)
    assert found.unsettled.tolist() == [told, False, False] and not found.diverged.any()
    assert [text[:33] for text in notices] == ["1 of 3 images did not converge: s"] * told
    assert all(isinstance(text, pnp.NotConverged) for text in notices)


@pytest.mark.parametrize("when", [0, 2])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_not_taken(monkeypatch: pytest.MonkeyPatch, when: int, bad: float) -> None:
    spoil = torch.tensor([0.0, bad])[:, None, None]
    with_map(monkeypatch, lambda x, number: 0.5 * x + (spoil if number == when else 0.0))
    term = plain()
    with collect_notices() as notices:
        found = run(term, iterations=5)
    assert len(notices) == 1 and re.search("diverged", notices[0])
    assert found.diverged.tolist() == [False, True] and found.iterations.tolist() == [5, when]
    assert bool(torch.isfinite(found.image).all()) and bool(torch.isfinite(found.decoded).all())
    if when == 0:
        assert torch.equal(found.image[1], term.data[1]) and torch.equal(found.decoded[1], term.data[1])
    with_map(monkeypatch, lambda x, number: 0.5 * x)
    assert torch.equal(found.image[0], run(term, iterations=5).image[0])


def test_network_that_runs_away() -> None:
    """A decoder that gives ten times what it is given is no contraction; where data say all, it cannot run away."""
    model = small_model()
    with torch.no_grad():
        for j in range(model.settings.levels):
            for parameter in model.level(j).head.parameters():
                parameter *= 10
    term = noisy()
    with collect_notices() as notices:
        found = restore(model, term, complete(model), term.data, exactly(iterations=40, gamma=0.01))
    assert len(notices) == 1 and re.search("2 of 2 images diverged", notices[0])
    assert found.diverged.all() and bool((found.iterations < 10).all())
    assert bool(torch.isfinite(found.image).all()) and bool(torch.isfinite(found.decoded).all())
    with collect_notices() as notices:
        held = restore(model, term, complete(model), term.data, exactly(iterations=10, gamma=1e3))
    assert not notices
    torch.testing.assert_close(held.image, term.data, rtol=0, atol=1e-4)
