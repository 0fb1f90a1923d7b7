"""Settings of inference: refinement of latents, views, rounds, samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeVar

from mrihvae.errors import InputError
from mrihvae.utils.config import PART
from mrihvae.utils.precision import PRECISIONS

STARTS = ("encoder", "prior", "sample")
ORDERS = ("together", "layer")
ANCHORS = ("posterior", "prior")
LOSSES = ("l2", "l1")
STEPS = {"adam": 0.1, "gradient": 3e-6}  # usual sizes; thirty times as large, a plain step diverges
RULES = (*STEPS, "gauss-newton")
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class RefinementSettings:
    """Settings of the refinement of latents.

    Each step lowers, for the latents z_l of level j (IA-HVAE, eq. 7, with the sign of the density set right),

        -log N(z_l; mu_p(z_<l), sigma_p(z_<l)^2) + beta Loss(h_j, hhat_j(z)).

    Numbers per level may be one for all, or a tuple, coarsest level first.

    Attributes
    ----------
    start : where latents start: "encoder", its means (hybrid inference; amortized with no sweeps), or, for iterative
        inference, "prior", the prior's means, or "sample", a draw from the prior
    order : "together" refines all latents of a level at once; "layer", one layer after the other, each completed by
        the later layers of its level where they start (Algorithm 1)
    sweeps : refinement steps of each latent, N, per level; 0 for no refinement
    rule : how a refinement step is taken: "gradient", a plain step in z (eq. 7); "adam", in units of each latent's
        standard deviation under what it starts from; or "gauss-newton", with L2 alone, which finds its own step size
        and never goes up
    step : step size of "adam" and "gradient", lambda, per level; None for the usual one (`STEPS`)
    iterations : conjugate gradient iterations of a Gauss-Newton step; 1 is an exact line search along the gradient
    anchor : regularize latents towards the "prior", -log p(z_l | z_<l), as IA-HVAE does, or towards the "posterior",
        -log of the distribution that they start from, about where they start (r's means or samples), which scores
        better in benchmarks/results/refinement.md
    beta : weight of the data term against the anchor, per level
    loss : "l2", |h - hhat|^2 / s^2, the likelihood's own, or "l1", |h - hhat| / s
    tolerance : a slice stops once its gradient has fallen to this part of its first one, and a batch once all have; 0
        does all sweeps

    Examples
    --------
    >>> from mrihvae.inference import RefinementSettings
    >>> RefinementSettings(sweeps=(0, 0, 2)).sweeps_at(2)
    2

    References
    ----------
    * "Iterative Amortized Hierarchical VAE" (IA-HVAE), https://doi.org/10.48550/arXiv.2601.15894
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
            raise InputError("sweeps, step and beta must be numbers, one for all levels or one a level")
        if min(_all(self.sweeps)) < 0 or not all(0 <= beta < math.inf for beta in _all(self.beta)):
            raise InputError(f"sweeps {self.sweeps} and beta {self.beta} must be at least 0")
        if self.step is not None and not all(0 < step < math.inf for step in _all(self.step)):
            raise InputError(f"step {self.step} must be above 0")
        if not 0 <= self.tolerance < 1:
            raise InputError(f"tolerance {self.tolerance} must be at least 0 and below 1")
        for name, known in zip(("start", "order", "anchor", "rule", "loss"), (STARTS, ORDERS, ANCHORS, RULES, LOSSES)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} '{getattr(self, name)}' is unknown; choose one of {', '.join(known)}")
        if self.iterations < 1:
            raise InputError(f"iterations {self.iterations} must be at least 1")
        if self.rule == "gauss-newton" and self.loss != "l2":
            raise InputError(f"rule 'gauss-newton' takes loss 'l2', not '{self.loss}'")
        if self.rule == "gauss-newton" and self.step is not None:
            raise InputError("rule 'gauss-newton' finds its own step; leave out step, or choose another rule")

    def check(self, levels: int, separable: bool = True) -> None:
        """Check that settings per level fit a model.

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
        """Return whether there is any sweep to do."""
        return any(_all(self.sweeps))

    def sweeps_at(self, j: int) -> int:
        """Return N of level j."""
        return at(self.sweeps, j)

    def beta_at(self, j: int) -> float:
        """Return beta of level j."""
        return at(self.beta, j)

    def step_at(self, j: int) -> float:
        """Return lambda of level j."""
        return STEPS[self.rule] if self.step is None else at(self.step, j)


def at(values: Number | tuple[Number, ...], j: int) -> Number:
    """Return the setting of level j."""
    return values[j] if isinstance(values, tuple) else values


def _all(values: Number | tuple[Number, ...]) -> tuple[Number, ...]:
    return values if isinstance(values, tuple) else (values,)


COMBINATIONS = ("measured", "variance")
Sweeps = int | tuple[int, ...]


@dataclass(frozen=True)
class InferenceSettings:
    """Settings of the reconstruction of undersampled scans by IA-HVAE.

    Attributes
    ----------
    refinement : of the last round
    views : test-time augmentation: average the first round's reconstructions of 1 to 8 mirrored or conjugated copies
    rounds : encoder passes; each after the first is given the previous reconstruction as its guess
    blend : share of a further round's reconstruction where nothing was measured; the rest stays as it was
    combine : data consistency: replace by acquired k-space samples ("measured"), or a variance-weighted mean of them
        and the model's ("variance")
    temperature : factor on the standard deviation of r, from which posterior samples are drawn: lower for less error,
        up to 1 for as much fine detail as scans have
    spread : factor on the standard deviation of samples in uncertainty maps, beside the one that is estimated from the
        scan itself (`mrihvae.inference.held_out`); the card of the weights has the calibrated value
    tv_blend : of a single-coil scan, blend towards total variation, band by band, where k-space samples that are held
        out say that the network is worse (`mrihvae.inference.tv_blend`); it takes a third of the time of a slice, once
        a scan
    precision : of the network's arithmetic, "float32", "bfloat16", or "auto", which takes bfloat16 where the processor
        has instructions for it; k-space and Fourier transforms are in single precision always

    Examples
    --------
    >>> import mrihvae
    >>> from mrihvae.inference import RefinementSettings
    >>> amortized = mrihvae.InferenceSettings(RefinementSettings(sweeps=0), views=1, rounds=1)
    >>> amortized.refinement.refines
    False

    References
    ----------
    * "Iterative Amortized Hierarchical VAE" (IA-HVAE), https://doi.org/10.48550/arXiv.2601.15894
    """

    refinement: RefinementSettings = field(default_factory=RefinementSettings, metadata=PART)
    views: int = 2
    rounds: int = 2
    blend: float = 0.7
    combine: str = "measured"
    temperature: float = 1.0
    spread: float = 1.0
    tv_blend: bool = True
    precision: str = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.views <= 8 or self.rounds < 1:
            raise InputError(f"views {self.views} must be 1 to 8, and rounds {self.rounds} at least 1")
        start = self.refinement.start
        if start != "encoder" and (self.views, self.rounds) != (1, 1):
            raise InputError(f"start '{start}' does not look at the scan: views and rounds must be 1")
        if not 0 <= self.blend <= 1:
            raise InputError(f"blend {self.blend} must be in [0, 1]")
        for name in ("temperature", "spread"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} {getattr(self, name)} must be at least 0")
        if self.combine not in COMBINATIONS:
            raise InputError(f"combine '{self.combine}' is unknown; choose one of {', '.join(COMBINATIONS)}")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision '{self.precision}' is unknown; choose one of {', '.join(PRECISIONS)}")
