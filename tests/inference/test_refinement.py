"""Steps of refinement on problems whose solution is known; see test_iahvae.py for those of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from mrihvae.inference.refinement import Objective, Target, Trace, refine
from mrihvae.inference.settings import RULES, RefinementSettings
from mrihvae.model.layers import Gaussian

NEWTON = {"rule": "gauss-newton"}


class Linear:
    """A decoder hhat = A z of latents in two layers, 3 and 1, for slices that differ in A; priors are N(m, t^2)."""

    def __init__(self, scales: Sequence[float] = (1.0, 1e-2, 1.0), large: float = 1e3) -> None:
        generator = torch.Generator().manual_seed(0)
        self.matrices = torch.randn(3, 6, 4, generator=generator) * torch.tensor(scales)[:, None, None]
        self.bins = torch.randn(3, 6, generator=generator)
        self.bins[2] *= large
        self.start = [torch.randn(3, 3, 1, 1, generator=generator), torch.randn(3, 1, 1, 1, generator=generator)]
        self.prior = Gaussian(torch.tensor(0.3), torch.tensor(2.0))

    def __call__(self, latents: Sequence[Tensor]) -> tuple[list[Gaussian], Tensor]:
        x = torch.cat(list(latents), dim=1)[:, :, 0, 0]
        hhat = torch.einsum("nij,nj->ni", self.matrices, x)
        priors = [Gaussian(self.prior.mu.expand_as(z), self.prior.sigma.expand_as(z)) for z in latents]
        return priors, torch.complex(hhat, torch.zeros_like(hhat))[:, None]

    def objective(self, sigma: float = 1.0, count: int = 2, width: float = 1.0, **settings: Any) -> Objective:
        """Pose it; the anchors are N(start, sigma^2), and s = sqrt(2), so that a residual's square counts half."""
        anchors = [Gaussian(z, torch.full_like(z, sigma)) for z in self.start[:count]]
        bins = torch.complex(self.bins, torch.zeros(3, 6))[:, None]
        target = Target(bins, torch.ones(1, 6, dtype=torch.bool), torch.full((3, 1, 1), math.sqrt(2)))
        return Objective(self, anchors, self.start, target, RefinementSettings(**settings), 0, width)

    def solution(self, k: int, center: Tensor, sigma: float, beta: float = 1.0) -> Tensor:
        """Minimize |x - center|^2 / 2 sigma^2 + beta |A x - y|^2 / 2 of slice k."""
        a = torch.cat((torch.eye(4) / sigma, math.sqrt(beta) * self.matrices[k])).double()
        b = torch.cat((center / sigma, math.sqrt(beta) * self.bins[k])).double()
        return torch.linalg.lstsq(a, b[:, None]).solution[:, 0]


def flat(latents: Sequence[Tensor]) -> Tensor:
    """Put latents beside each other: (slices, latents)."""
    return torch.cat(list(latents), dim=1)[:, :, 0, 0]


@pytest.mark.parametrize("anchor", ["posterior", "prior"])
@pytest.mark.parametrize(("sigma", "width"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.4)])
def test_gauss_newton_solves_a_linear_problem_of_each_slice(anchor: str, sigma: float, width: float) -> None:
    """One step with as many conjugate gradient iterations as unknowns is the least squares solution."""
    problem = Linear()
    found = flat(refine(problem.objective(sigma, width=width, **NEWTON, anchor=anchor, iterations=4, beta=2.0)))
    for k in range(3):
        center, deviation = flat(problem.start)[k], sigma * width
        if anchor == "prior":
            center, deviation = problem.prior.mu.expand(4), float(problem.prior.sigma)
        expected = problem.solution(k, center, deviation, beta=2.0)
        assert float((found[k] - expected).norm() / expected.norm()) < 1e-3


def test_one_conjugate_gradient_iteration_is_the_exact_line_search() -> None:
    problem = Linear()
    found = flat(refine(problem.objective(**NEWTON, iterations=1)))
    for k in range(3):
        x = flat(problem.start)[k]
        a = torch.cat((torch.eye(4), problem.matrices[k]))
        gradient = a.T @ (a @ x - torch.cat((x, problem.bins[k])))
        expected = x - gradient * gradient.square().sum() / (a @ gradient).square().sum()
        torch.testing.assert_close(found[k], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rule", ["adam", "gradient"])
def test_descent_ends_at_the_solution(rule: str) -> None:
    problem = Linear(scales=(1.0, 0.3, 1.0), large=1.0)
    found = flat(refine(problem.objective(rule=rule, step=0.03, sweeps=800)))
    for k in range(3):
        expected = problem.solution(k, flat(problem.start)[k], 1.0)
        torch.testing.assert_close(found[k].double(), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("loss", ["l2", "l1"])
@pytest.mark.parametrize("anchor", ["posterior", "prior"])
def test_plain_gradient_is_equation_7(loss: str, anchor: str) -> None:
    """z <- z - lambda grad [ -log N(z; mu, sigma) + beta Loss ], in z itself."""
    problem = Linear(large=1.0)
    settings = {"rule": "gradient", "step": 0.01, "loss": loss, "anchor": anchor, "beta": 0.7}
    found = refine(problem.objective(sigma=0.5, **settings))
    start = [z.clone().requires_grad_() for z in problem.start]
    center = [problem.prior.mu.expand_as(z) if anchor == "prior" else z.detach().clone() for z in start]
    deviation = problem.prior.sigma if anchor == "prior" else torch.tensor(0.5)
    density = sum(torch.distributions.Normal(m, deviation).log_prob(z).sum() for z, m in zip(start, center))
    target = problem.objective().target
    misfit = (problem(start)[1] - target.bins).abs() / target.s
    total = -density + 0.7 * (misfit.square() if loss == "l2" else misfit).sum()
    for z, before, gradient in zip(found, start, torch.autograd.grad(total, start), strict=True):
        torch.testing.assert_close(z, before - 0.01 * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_latents_beyond_those_that_are_refined_stay(rule: str) -> None:
    problem = Linear(large=1.0)
    step = None if rule == "gauss-newton" else 0.01
    (found,) = refine(problem.objective(count=1, rule=rule, step=step, sweeps=3, iterations=5))
    assert not torch.equal(found, problem.start[0])
    for k in range(3):
        a, fixed = problem.matrices[k], problem.start[1][k, :, 0, 0]
        rest = problem.bins[k] - a[:, 3:] @ fixed
        x = problem.start[0][k, :, 0, 0]
        expected = torch.linalg.solve(torch.eye(3) + a[:, :3].T @ a[:, :3], x + a[:, :3].T @ rest)
        if rule == "gauss-newton":
            torch.testing.assert_close(found[k, :, 0, 0], expected, rtol=1e-3, atol=1e-3)
        else:
            assert float((found[k, :, 0, 0] - expected).norm()) < float((x - expected).norm())


@pytest.mark.parametrize("rule", RULES)
def test_without_data_latents_stay_where_they_start(rule: str) -> None:
    problem = Linear()
    found = refine(problem.objective(rule=rule, beta=0.0, sweeps=5, anchor="posterior"))
    for z, start in zip(found, problem.start, strict=True):
        torch.testing.assert_close(z, start, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_trace_tells_objective_and_gradient(rule: str) -> None:
    problem, trace = Linear(large=1.0), Trace()
    step = None if rule == "gauss-newton" else 0.02
    objective = problem.objective(rule=rule, step=step, sweeps=4, beta=0.5)
    found = refine(objective, trace)
    assert len(trace.objective) == 5 and len(trace.gradient) == 4
    for which, latents in ((0, problem.start), (-1, found)):
        x = flat(latents)
        misfit = (torch.einsum("nij,nj->ni", problem.matrices, x) - problem.bins).square().sum(dim=1)
        expected = 0.5 * (x - flat(problem.start)).square().sum(dim=1) + 0.25 * misfit
        torch.testing.assert_close(trace.objective[which], expected, rtol=1e-4, atol=1e-4)
    a, x = problem.matrices, flat(problem.start)
    first = 0.5 * torch.einsum("nij,ni->nj", a, torch.einsum("nij,nj->ni", a, x) - problem.bins)
    torch.testing.assert_close(trace.gradient[0], first.norm(dim=1), rtol=1e-4, atol=1e-5)
    slack = 1e-5 * trace.objective[0] if rule == "gauss-newton" else 0  # which is at the solution after one step
    assert all(bool((b < a + slack).all()) for a, b in zip(trace.objective, trace.objective[1:]))


@pytest.mark.parametrize("rule", RULES)
def test_each_slice_stops_by_itself(rule: str) -> None:
    """Those whose gradient has fallen far enough stay where they are, whatever the others do."""
    problem = Linear(scales=(1.0, 0.1, 3.0), large=1.0)
    step, iterations = (None, 1) if rule == "gauss-newton" else (0.01, 1)
    common = {"rule": rule, "step": step, "iterations": iterations}
    trace = Trace()
    refine(problem.objective(**common, sweeps=40), trace)
    norms = torch.stack(trace.gradient)
    fallen = [torch.nonzero(norms[:, k] <= 0.3 * norms[0, k]).flatten().tolist() for k in range(3)]
    stops = [indices[0] if indices else 40 for indices in fallen]
    assert len(set(stops)) > 1 and min(stops) > 0
    stopped = Trace()
    found = flat(refine(problem.objective(**common, sweeps=40, tolerance=0.3), stopped))
    for k, sweeps in enumerate(stops):
        expected = flat(refine(problem.objective(**common, sweeps=sweeps)))[k]
        torch.testing.assert_close(found[k], expected, rtol=1e-5, atol=1e-6)
    assert len(stopped.gradient) == min(max(stops) + 1, 40)  # and when all have stopped, so does everything


def test_step_that_goes_up_is_shortened_or_left_out() -> None:
    """Gauss-Newton on a function that bends: the objective of no slice ever rises."""
    start = [torch.tensor([2.0, 0.6, 1e-3, 30.0])[:, None, None, None]]

    def decode(latents: Sequence[Tensor]) -> tuple[list[Gaussian], Tensor]:
        z = latents[0][:, 0]
        return [Gaussian(z, torch.ones_like(z))], torch.complex(10 * torch.atan(5 * z), 0 * z)

    target = Target(
        torch.zeros(4, 1, 1, dtype=torch.complex64), torch.ones(1, 1, dtype=torch.bool), torch.ones(4, 1, 1)
    )
    anchors = [Gaussian(start[0], torch.full_like(start[0], 1e3))]
    trace = Trace()
    refine(Objective(decode, anchors, start, target, RefinementSettings(sweeps=6), 0), trace)
    values = torch.stack(trace.objective)
    assert bool((values[1:] <= values[:-1]).all())
    assert float(values[-1, 2]) < 1e-3 * float(values[0, 2])  # where it is about linear, one step is the solution
    assert float(values[-1, 1]) < float(values[0, 1])  # where a whole step goes up, a shorter one does not


@pytest.mark.parametrize("anchor", ["posterior", "prior"])
def test_gauss_newton_ends_where_the_whole_gradient_is_0(anchor: str) -> None:
    """Also where a prior's deviation depends on an earlier latent, which no residual says."""
    start = [torch.full((2, 1, 1, 1), 0.4), torch.full((2, 1, 1, 1), -0.3)]

    def decode(latents: Sequence[Tensor]) -> tuple[list[Gaussian], Tensor]:
        first, second = latents
        one = torch.ones_like(first)
        hhat = first[:, 0] + 0.5 * second[:, 0]
        return [Gaussian(0 * one, one), Gaussian(0 * one, torch.exp(0.7 * first))], torch.complex(hhat, 0 * hhat)

    target = Target(torch.full((2, 1, 1), 1.0 + 0j), torch.ones(1, 1, dtype=torch.bool), torch.ones(2, 1, 1))
    encoded = [Gaussian(z, torch.ones_like(z)) for z in start]
    settings, trace = RefinementSettings(sweeps=60, anchor=anchor, iterations=2), Trace()
    found = refine(Objective(decode, encoded, start, target, settings, 0), trace)
    free = [z.clone().requires_grad_() for z in found]
    priors, hhat = decode(free)
    anchors = priors if anchor == "prior" else encoded
    total = sum(-torch.distributions.Normal(a.mu, a.sigma).log_prob(z).sum() for a, z in zip(anchors, free))
    total = total + (hhat - target.bins).abs().square().sum()
    assert all(float(g.abs().max()) < 2e-3 for g in torch.autograd.grad(total, free))
    assert float(trace.gradient[-1].max()) < 2e-3


@pytest.mark.parametrize(
    "values",
    [
        {"start": "zero"},
        {"sweeps": ()},
        {"beta": ()},
        {"order": "random"},
        {"sweeps": -1},
        {"sweeps": (1, -1)},
        {"anchor": "likelihood"},
        {"rule": "newton"},
        {"iterations": 0},
        {"step": 0.0, "rule": "adam"},
        {"step": -0.1, "rule": "adam"},
        {"step": (0.1, -0.1), "rule": "adam"},
        {"step": math.nan, "rule": "adam"},
        {"step": math.inf, "rule": "adam"},
        {"beta": -1.0},
        {"beta": (1.0, -1.0)},
        {"beta": math.nan},
        {"loss": "l3"},
        {"tolerance": 1.0},
        {"tolerance": -0.1},
        {"tolerance": math.nan},
    ],
)
def test_refused_settings(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be|unknown; choose one of"):
        RefinementSettings(**values)


def test_gauss_newton_takes_l2_and_its_own_step() -> None:
    with pytest.raises(ValueError, match="rule 'gauss-newton' takes loss 'l2', not 'l1'"):
        RefinementSettings(rule="gauss-newton", loss="l1")
    with pytest.raises(ValueError, match="finds its own step"):
        RefinementSettings(rule="gauss-newton", step=0.1)


def test_numbers_per_level() -> None:
    settings = RefinementSettings(sweeps=(0, 3), beta=(1.0, 0.5), step=(0.1, 0.2), rule="adam")
    assert [(settings.sweeps_at(j), settings.beta_at(j), settings.step_at(j)) for j in (0, 1)] == [
        (0, 1.0, 0.1),
        (3, 0.5, 0.2),
    ]
    settings = RefinementSettings(sweeps=2, rule="adam")
    assert [(settings.sweeps_at(j), settings.beta_at(j), settings.step_at(j)) for j in (0, 7)] == [(2, 1.0, 0.1)] * 2
