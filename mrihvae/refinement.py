"""Refinement of latents against the bins that they decode to: objective, rules and orders (IA-HVAE, section 2.3).

The latents of a group of levels that share a head are refined by steps down

    -log anchor(z) + beta Loss(h, hhat(z)),

IA-HVAE, eq. 7, with the sign of the density set right. A group is one level; in the vanilla decoder it is all levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.fixed_weights import FixedWeights
from mrihvae.layers import Gaussian

STARTS = ("encoder", "prior", "sample")
ORDERS = ("together", "layer")
ANCHORS = ("posterior", "prior")
LOSSES = ("l2", "l1")
STEPS = {"adam": 0.1, "gradient": 3e-6}  # usual sizes; thirty times as large, a plain step diverges
RULES = (*STEPS, "gauss-newton")
HALVINGS = 3  # of a Gauss-Newton step that raises the objective, before it is left out
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Refinement:
    """How latents are refined. Numbers per level may be one for all, or a tuple, coarsest level first.

    Attributes
    ----------
    start : where latents start: "encoder", its means (hybrid inference; amortised with no sweeps), or, for iterative
        inference, "prior", the prior's means, or "sample", a draw from the prior
    order : "together" refines all latents of a level at once; "layer", one layer after the other, each completed by
        the later layers of its level where they start (Algorithm 1)
    sweeps : N, refinement steps of each latent, per level; 0 takes what it starts from
    rule : how a step is taken: "gradient", a plain step in z, as eq. 7 has it; "adam", in units of each latent's
        deviation under what it starts from; or "gauss-newton", with L2 alone, which finds its own step and never goes
        up
    step : lambda, the size of a step of the first two, per level; None for the usual one (`STEPS`)
    iterations : conjugate gradient iterations of a Gauss-Newton step; 1 is an exact line search along the gradient
    anchor : what the data term is weighed against: "prior", -log p(z_l | z_<l), as in IA-HVAE, or "posterior", -log of
        what the latents start from, about where they start: r's means, which keep what r has seen in the data (better
        by what benchmarks/results/refinement.md says), or draws
    beta : weight of the data term against the anchor, per level
    loss : "l2", |h - hhat|^2 / s^2, the likelihood's own, or "l1", |h - hhat| / s
    tolerance : a slice stops once its gradient has fallen to this part of its first one, and a batch once all have; 0
        does all sweeps
    """

    start: str = "encoder"
    order: str = "together"
    sweeps: int | tuple[int, ...] = 1
    rule: str = "gauss-newton"
    step: float | tuple[float, ...] | None = None
    iterations: int = 3
    anchor: str = "posterior"
    beta: float | tuple[float, ...] = 1.0
    loss: str = "l2"
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if () in (self.sweeps, self.step, self.beta):
            raise ValueError("sweeps, step and beta must be numbers, one for all levels or one a level")
        if min(_all(self.sweeps)) < 0 or not all(0 <= beta < math.inf for beta in _all(self.beta)):
            raise ValueError(f"sweeps {self.sweeps} and beta {self.beta} must be at least 0")
        if self.step is not None and not all(0 < step < math.inf for step in _all(self.step)):
            raise ValueError(f"step {self.step} must be above 0")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance {self.tolerance} must be at least 0 and below 1")
        for name, known in zip(("start", "order", "anchor", "rule", "loss"), (STARTS, ORDERS, ANCHORS, RULES, LOSSES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} '{getattr(self, name)}' is unknown; choose one of {', '.join(known)}")
        if self.iterations < 1:
            raise ValueError(f"iterations {self.iterations} must be at least 1")
        if self.rule == "gauss-newton" and self.loss != "l2":
            raise ValueError(f"rule 'gauss-newton' takes loss 'l2', not '{self.loss}'")
        if self.rule == "gauss-newton" and self.step is not None:
            raise ValueError("rule 'gauss-newton' finds its own step; leave out step, or choose another rule")

    def check(self, levels: int, separable: bool = True) -> None:
        """Refuse numbers per level that do not fit a model.

        Raises
        ------
        InputError
            More or fewer of them than levels, or any that levels with one head cannot have each for itself.
        """
        for name in ("sweeps", "step", "beta"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != levels:
                raise InputError(f"{name} {value}: {len(value)} numbers for {levels} levels; give one, or one a level")
            if isinstance(value, tuple) and not separable and (self.order == "together" or name == "beta"):
                raise InputError(f"{name} {value}: the vanilla decoder has one head for all levels; give one number")

    @property
    def refines(self) -> bool:
        """Tell whether there is any sweep to do."""
        return any(_all(self.sweeps))

    def sweeps_at(self, j: int) -> int:
        """Give N of level j."""
        return at(self.sweeps, j)

    def beta_at(self, j: int) -> float:
        """Give beta of level j."""
        return at(self.beta, j)

    def step_at(self, j: int) -> float:
        """Give lambda of level j."""
        return STEPS[self.rule] if self.step is None else at(self.step, j)


def at(values: Number | tuple[Number, ...], j: int) -> Number:
    """Take what holds for level j."""
    return values[j] if isinstance(values, tuple) else values


def _all(values: Number | tuple[Number, ...]) -> tuple[Number, ...]:
    return values if isinstance(values, tuple) else (values,)


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
    """What refinement minimises over the first latents of a stretch of layers, as a function of how far they move.

    Attributes
    ----------
    complete : from the latents of all layers of the stretch to their priors along the way, and hhat
    encoded : what the latents that are refined start from, each
    start : where all latents of the stretch start; those that are not refined stay there
    target : see `Target`
    settings, j : and the level whose numbers hold
    width : factor on their deviation
    """

    complete: Decode
    encoded: list[Gaussian]
    start: list[Tensor]
    target: Target
    settings: Refinement
    j: int
    width: float = 1.0

    def latents(self, moves: Sequence[Tensor]) -> list[Tensor]:
        """Turn moves into latents: in z itself for the plain gradient, else in units of deviations."""
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
    objective : what to minimise
    trace : is told how it goes, which costs an evaluation of the objective more

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
        self.optimiser = torch.optim.Adam(self.moves, lr=step, betas=(0.9, 0.99))

    def __call__(self, objective: Objective, moves: list[Tensor]) -> Step:
        with torch.no_grad():
            for own, d in zip(self.moves, moves):
                own.copy_(d)
        values, gradients = objective.gradient(self.moves)
        for own, gradient in zip(self.moves, gradients):
            own.grad = gradient
        self.optimiser.step()
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
    return Step(_shortened(objective, [d.detach() for d in moves], found, before), before, slope)


def _shortened(objective: Objective, moves: list[Tensor], step: list[Tensor], before: Tensor) -> list[Tensor]:
    """Add a step to the moves, halved for the slices whose objective it raises, and left out where that goes on."""
    length = torch.ones_like(before)
    for _ in range(1 + HALVINGS):
        moved = [d + length[:, None, None, None] * p for d, p in zip(moves, step)]
        raised = ~(objective.value_at(moved) <= before)  # also where it is not a number
        if not raised.any():
            return moved
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
