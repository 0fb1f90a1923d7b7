"""Refinement of latents against the k-space that they decode to: objective, rules and orders (IA-HVAE, section 2.3).

The latents of a group of levels that share a head are refined by steps down

    -log anchor(z) + beta Loss(h, hhat(z)),

IA-HVAE, eq. 7, with the sign of the density set right. A group is one level; in the vanilla decoder it is all levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mrihvae.inference.settings import RefinementSettings
from mrihvae.model.fixed_weights import FixedWeights
from mrihvae.model.layers import Gaussian

HALVINGS = 3  # of a Gauss-Newton step that raises the objective, before it is left out


@dataclass
class Trace:
    """How a refinement went, per slice.

    Attributes
    ----------
    objective : before the first sweep and after each, list of (slices,)
    gradient : norm of its gradient before each sweep, list of (slices,)
    """

    objective: list[Tensor] = field(default_factory=list)
    gradient: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """What a group's latents are to decode to.

    Attributes
    ----------
    bins : h, complex (slices, h_j, w_j), or (slices, channels, h_j, w_j) of real images
    measured : bool, broadcast to it; other bins count nothing
    s : (slices, 1, 1) or (slices, 1, 1, 1), the likelihood's standard deviation per complex bin
    """

    bins: Tensor
    measured: Tensor
    s: Tensor


Decode = Callable[[Sequence[Tensor]], tuple[list[Gaussian], Tensor]]


@dataclass(frozen=True)
class Objective:
    """What refinement minimizes over the first latents of a stretch of layers, as a function of how far they move.

    Attributes
    ----------
    complete : from the latents of all layers of the stretch to their priors along the way, and hhat
    encoded : what the latents that are refined start from, each
    start : where all latents of the stretch start; those that are not refined stay there
    target : see `Target`
    settings, j : and the level whose numbers hold
    width : factor on their standard deviation
    """

    complete: Decode
    encoded: list[Gaussian]
    start: list[Tensor]
    target: Target
    settings: RefinementSettings
    j: int
    width: float = 1.0

    def latents(self, moves: Sequence[Tensor]) -> list[Tensor]:
        """Turn moves into latents: in z itself for the plain gradient, else in units of the standard deviation."""
        plain = self.settings.rule == "gradient"
        return [z + (d if plain else r.sigma * d) for z, d, r in zip(self.start, moves, self.encoded)]

    def residuals(self, *moves: Tensor) -> tuple[list[Tensor], Tensor]:
        """Compute the residuals whose half squares add up to the objective with L2, and what else it has, (slices,)."""
        free = self.latents(moves)
        priors, hhat = self.complete([*free, *self.start[len(free) :]])
        if self.settings.anchor == "prior":
            anchored = [(z - prior.mu) / prior.sigma for z, prior in zip(free, priors)]
            rest = torch.log(_flat([prior.sigma for prior in priors[: len(free)]])).sum(dim=1)
        else:
            anchored = [(z - at) / (self.width * r.sigma) for z, at, r in zip(free, self.start, self.encoded)]
            rest = hhat.real.new_zeros(len(hhat))
        weight = math.sqrt(2 * self.settings.beta_at(self.j))
        misfit = torch.where(self.target.measured, (self.target.bins - hhat) / self.target.s, 0)
        return [*anchored, weight * torch.view_as_real(misfit)], rest

    def value(self, residuals: Sequence[Tensor], rest: Tensor) -> Tensor:
        """Add up the objective of each slice, (slices,)."""
        *anchored, misfit = residuals
        if self.settings.loss == "l1":  # beta |h - hhat| / s, smooth at 0
            distance = torch.sqrt(misfit.square().sum(dim=-1) + 1e-12)
            loss = math.sqrt(self.settings.beta_at(self.j) / 2) * distance.flatten(1).sum(dim=1)
        else:
            loss = 0.5 * misfit.square().flatten(1).sum(dim=1)
        return rest + loss + 0.5 * _flat(anchored).square().sum(dim=1)

    def gradient(self, moves: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Compute the objective of each slice, (slices,), and its gradient, of moves that want one."""
        values = self.value(*self.residuals(*moves))
        return values.detach(), torch.autograd.grad(values.sum(), list(moves))

    def value_at(self, moves: Sequence[Tensor]) -> Tensor:
        """Compute the objective of each slice without gradients, (slices,)."""
        with torch.no_grad():
            return self.value(*self.residuals(*moves))


@dataclass(frozen=True)
class Step:
    """A step of refinement: where it leads, and the objective, (slices,), and its gradient before it."""

    moves: list[Tensor]
    objective: Tensor
    gradient: Sequence[Tensor]


def refine(objective: Objective, trace: Trace | None = None) -> list[Tensor]:
    """Refine the first latents of a stretch of layers; slices are problems of their own.

    Parameters
    ----------
    objective : what to minimize
    trace : records the objective and its gradient, at the cost of one more evaluation of the objective

    Returns
    -------
    the refined latents
    """
    settings, moves = objective.settings, [torch.zeros_like(r.mu) for r in objective.encoded]
    rules = {"gauss-newton": _gauss_newton, "gradient": _gradient}
    rule = rules.get(settings.rule) or _Adam(settings.step_at(objective.j), moves)
    first: Tensor | None = None
    active = torch.ones(len(moves[0]), dtype=torch.bool, device=moves[0].device)
    for _ in range(settings.sweeps_at(objective.j)):
        with torch.enable_grad():
            step = rule(objective, moves)
        if trace is not None:
            trace.objective.append(step.objective)
            trace.gradient.append(_norm(step.gradient))
        if settings.tolerance == 0:
            moves = step.moves
            continue
        norm = _norm(step.gradient)
        first = norm if first is None else first
        active = active & (norm > settings.tolerance * first)
        if not active.any():
            break
        moves = [torch.where(active[:, None, None, None], new, old) for new, old in zip(step.moves, moves)]
    if trace is not None:
        trace.objective.append(objective.value_at(moves))
    return objective.latents(moves)


def _gradient(objective: Objective, moves: list[Tensor]) -> Step:
    """Take a plain step along the gradient."""
    values, gradients = objective.gradient([d.detach().requires_grad_() for d in moves])
    step = objective.settings.step_at(objective.j)
    return Step([d.detach() - step * g for d, g in zip(moves, gradients)], values, gradients)


class _Adam:
    """Steps of Adam."""

    def __init__(self, step: float, moves: list[Tensor]) -> None:
        self.moves = [d.clone().requires_grad_() for d in moves]
        self.optimizer = torch.optim.Adam(self.moves, lr=step, betas=(0.9, 0.99))

    def __call__(self, objective: Objective, moves: list[Tensor]) -> Step:
        with torch.no_grad():
            for own, d in zip(self.moves, moves):
                own.copy_(d)
        values, gradients = objective.gradient(self.moves)
        for own, gradient in zip(self.moves, gradients):
            own.grad = gradient
        self.optimizer.step()
        return Step([own.detach().clone() for own in self.moves], values, gradients)


def _gauss_newton(objective: Objective, moves: list[Tensor]) -> Step:
    """Take one Gauss-Newton step: J^T J d = -gradient by conjugate gradients, shortened where it would go up.

    The data term is quadratic in hhat, so that only the network between latents and hhat is made linear. One iteration
    is steepest descent with the line search solved exactly. J^T v is linear in v, and J p the derivative of <J^T v, p>
    along v: both go through graphs that are recorded once, at half the cost of forward-mode derivatives.
    """
    moves = [d.detach().requires_grad_() for d in moves]
    with FixedWeights():
        values, rest = objective.residuals(*moves)
    before = objective.value([v.detach() for v in values], rest.detach())
    weights = [value.detach().requires_grad_() for value in values]
    gradients = torch.autograd.grad(values, moves, weights, create_graph=True)
    direction = remainder = [-gradient.detach() for gradient in gradients]
    if rest.requires_grad:  # the priors' deviations change with the latents before them
        more = torch.autograd.grad(rest.sum(), moves, retain_graph=True, allow_unused=True)
        direction = remainder = [g if m is None else g - m for g, m in zip(remainder, more)]
    found = [torch.zeros_like(d) for d in direction]
    power, slope = _per_slice(remainder, remainder), remainder
    for _ in range(objective.settings.iterations):
        pushed = torch.autograd.grad(gradients, weights, direction, retain_graph=True)
        curved = torch.autograd.grad(values, moves, pushed, retain_graph=True)
        length = power / _per_slice(direction, curved).clamp_min(torch.finfo(power.dtype).tiny)
        found = [d + length[:, None, None, None] * p for d, p in zip(found, direction)]
        remainder = [r - length[:, None, None, None] * c for r, c in zip(remainder, curved)]
        last, power = power, _per_slice(remainder, remainder)
        ratio = power / last.clamp_min(torch.finfo(power.dtype).tiny)
        direction = [r + ratio[:, None, None, None] * p for r, p in zip(remainder, direction)]
    return Step(_shorten(objective, [d.detach() for d in moves], found, before), before, slope)


def _shorten(objective: Objective, moves: list[Tensor], step: list[Tensor], before: Tensor) -> list[Tensor]:
    """Add a step to the moves, halved for the slices whose objective it raises, and left out where that goes on."""
    length = torch.ones_like(before)
    for _ in range(1 + HALVINGS):
        candidate = [d + length[:, None, None, None] * p for d, p in zip(moves, step)]
        raised = ~(objective.value_at(candidate) <= before)  # also where it is not a number
        if not raised.any():
            return candidate
        length = torch.where(raised, length / 2, length)
    length = torch.where(raised, 0, length)
    return [d + length[:, None, None, None] * torch.nan_to_num(p) for d, p in zip(moves, step)]


def _flat(values: Sequence[Tensor]) -> Tensor:
    """Line up all numbers of a slice, (slices, numbers)."""
    return torch.cat([value.flatten(1) for value in values], dim=1)


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    return _per_slice(gradients, gradients).sqrt()


def _per_slice(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Compute the inner product of each slice, (slices,), over lists of (slices, channels, h, w)."""
    return torch.stack([(a * b).sum(dim=(1, 2, 3)) for a, b in zip(first, second)]).sum(dim=0)
