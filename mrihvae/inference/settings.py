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
    rule : how a refinement step is taken: "gradient", a plain step in z (eq. 7); "adam", in units of the standard
        deviation of each latent's starting distribution; or "gauss-newton", for L2 only, which finds its own step size
        and never increases the objective
    step : step size of "adam" and "gradient", lambda, per level; None for the usual one (`STEPS`)
    iterations : conjugate gradient iterations of a Gauss-Newton step; 1 is an exact line search along the gradient
    anchor : regularize latents towards the "prior", -log p(z_l | z_<l), as IA-HVAE does, or towards the "posterior",
        -log of their starting distribution, centered where they start (r's means or samples), which scores better in
        benchmarks/results/refinement.md
    beta : weight of the data term against the anchor, per level
    loss : "l2", |h - hhat|^2 / s^2, the likelihood's own, or "l1", |h - hhat| / s
    tolerance : a slice stops once its gradient has fallen to this fraction of its first one, and a batch once all have;
        0 runs all sweeps

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
            raise InputError("sweeps, step and beta must be numbers, one for all levels or one per level")
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
                raise InputError(
                    f"{name} {value}: {len(value)} numbers for {levels} levels; give one, or one per level"
                )
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
    refinement : settings of the refinement in the last round
    views : test-time augmentation: average the reconstructions of 1 to 8 mirrored or conjugated copies in the first
        encoder pass
    rounds : number of encoder passes; each pass after the first gets the previous reconstruction as its guess
    blend : share of the new reconstruction after each further round, where nothing was acquired
    combine : data consistency: replace samples by the acquired ones ("measured"), or use a variance-weighted mean of
        both ("variance")
    temperature : factor on the standard deviation of r, from which posterior samples are drawn: lower for less error,
        up to 1 for as much fine detail as scans have
    spread : factor on the standard deviation of samples in uncertainty maps, in addition to the factor estimated from
        the scan itself (`mrihvae.inference.held_out`); the card of the weights has the calibrated value
    tv_blend : for single-coil scans, blend towards total variation, band by band, where it predicts held-out k-space
        samples better than the network does (`mrihvae.inference.tv_blend`); once per scan, this takes a third of the
        time of a slice
    precision : precision of the network, "float32", "bfloat16", or "auto", which uses bfloat16 if the processor has
        instructions for it; k-space and Fourier transforms are always in single precision

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
            raise InputError(f"start '{start}' does not use the scan: views and rounds must be 1")
        if not 0 <= self.blend <= 1:
            raise InputError(f"blend {self.blend} must be in [0, 1]")
        for name in ("temperature", "spread"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} {getattr(self, name)} must be at least 0")
        if self.combine not in COMBINATIONS:
            raise InputError(f"combine '{self.combine}' is unknown; choose one of {', '.join(COMBINATIONS)}")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision '{self.precision}' is unknown; choose one of {', '.join(PRECISIONS)}")
