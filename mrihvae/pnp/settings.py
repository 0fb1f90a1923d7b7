"""Settings of the loop of PnP-HVAE."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mrihvae.errors import InputError
from mrihvae.inference.settings import at
from mrihvae.utils.precision import PRECISIONS

ENCODERS = ("data", "complete")
RESULTS = ("decoded", "image")


@dataclass(frozen=True)
class PnPSettings:
    """Settings of the PnP-HVAE loop.

    It minimizes, over the image x and the latents z in turns (all but the last term halved for real images),

        J(x, z) = f(x) + beta |x - mu(z)|^2 / gamma^2 - sum_l tau_l^-2 log p(z_l | z_<l).

    Attributes
    ----------
    iterations : maximum number of encoder passes, K
    gamma : data-consistency weight: standard deviation of x about the decoder's image, in model units, in which the
        99th percentile of an image is about 1; larger values give the data more weight
    tau : temperature of the prior for the latents of each level, from 0 (the mean of the prior) to 1 (plain
        reconstruction); one for all levels, or one per level, coarsest first
    tau_finest : tau of the finest level; tau changes linearly from the coarsest to the finest level; None for one tau
    relaxation : fraction of the step to the new x, in (0, 1]; below 1, the loop is an averaged (Krasnoselskii-Mann)
        iteration, and x keeps part of its previous value
    beta : weight of the coupling between x and the decoder's image, at most 1
    beta_start, beta_steps : beta grows geometrically from `beta_start` to its full weight in `beta_steps` steps; 0
        steps for a constant beta
    encoder : "data", the measurement-conditioned posterior r, or "complete", the full-data posterior q of x (the
        paper's)
    draw : whether latents are drawn at random, instead of their most likely values
    views : test-time augmentation: average the decoded images of 1 to 8 mirrored copies of x
    sweeps : refinement steps per level in each pass (hybrid z-steps); with "complete" against x, with r of undersampled
        scans against the acquired samples
    tolerance : a slice stops once |x_k - x_k-1| is at most this fraction of |x_k|; 0 runs all iterations
    patience : a slice stops once |x_k - x_k-1| has not reached a new minimum for this many iterations; 0 for never
    result : which of the two images is the result: "decoded", the decoder's mu(z), or "image", x, which is closer to
        the data
    seed : random seed of draws
    precision : precision of the network, see `mrihvae.utils.precision`

    Raises
    ------
    InputError
        A number outside of its range, or an unknown name.

    Examples
    --------
    >>> import mrihvae
    >>> mrihvae.PnPSettings(iterations=50, tau=0.95, tau_finest=0.6, encoder="complete").iterations
    50

    References
    ----------
    * Prost et al. 2023 (PnP-HVAE), https://doi.org/10.48550/arXiv.2303.11217
    """

    iterations: int = 2
    gamma: float = 0.05
    tau: float | tuple[float, ...] = 1.0
    tau_finest: float | None = None
    relaxation: float = 1.0
    beta: float = 1.0
    beta_start: float = 1.0
    beta_steps: int = 0
    encoder: str = "data"
    draw: bool = False
    views: int = 1
    sweeps: int = 0
    tolerance: float = 0.0
    patience: int = 0
    result: str = "decoded"
    seed: int = 0
    precision: str = "auto"

    def __post_init__(self) -> None:
        for tau in (*(self.tau if isinstance(self.tau, tuple) else (self.tau,)), self.tau_finest or 0.0):
            if not 0 <= tau <= 1:
                raise InputError(f"tau {tau} must be in [0, 1]: above 1, the prior would have a negative weight")
        if self.tau_finest is not None and isinstance(self.tau, tuple):
            raise InputError("tau_finest needs a single tau; leave it out, or give tau as one number")
        if not (0 < self.beta <= 1 and 0 < self.beta_start <= 1):
            raise InputError(f"beta {self.beta} and beta_start {self.beta_start} must be in (0, 1]")
        if self.beta_steps and self.beta_start > self.beta:
            raise InputError(f"beta_start {self.beta_start} must not be above beta {self.beta}, to which it grows")
        if not 0 < self.gamma < math.inf or not 0 < self.relaxation <= 1:
            raise InputError(f"gamma {self.gamma} must be above 0, and relaxation {self.relaxation} in (0, 1]")
        if self.iterations < 1 or not 1 <= self.views <= 8:
            raise InputError(f"iterations {self.iterations} must be at least 1, and views {self.views} 1 to 8")
        if min(self.sweeps, self.beta_steps, self.patience, self.seed) < 0 or not 0 <= self.tolerance < 1:
            raise InputError("sweeps, beta_steps, patience and seed must be at least 0, and tolerance in [0, 1)")
        for name, known in (("encoder", ENCODERS), ("result", RESULTS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} '{getattr(self, name)}' is unknown; choose one of {', '.join(known)}")

    def tau_at(self, j: int, levels: int) -> float:
        """Return tau of level j.

        Raises
        ------
        InputError
            More or fewer of them than levels.
        """
        if isinstance(self.tau, tuple):
            if len(self.tau) != levels:
                raise InputError(
                    f"tau {self.tau}: {len(self.tau)} numbers for {levels} levels; give one, or one per level"
                )
            return at(self.tau, j)
        if self.tau_finest is None:
            return self.tau
        return self.tau + (self.tau_finest - self.tau) * j / max(levels - 1, 1)

    def beta_at(self, iteration: int) -> float:
        """Return beta of an iteration, counted from 0."""
        if iteration >= self.beta_steps:
            return self.beta
        return self.beta_start * float((self.beta / self.beta_start) ** (iteration / self.beta_steps))


# Of undersampled scans; benchmarks/singlecoil/refinement.py has others on training scans.
FOR_SCANS = PnPSettings(iterations=2, gamma=0.2, views=2, sweeps=1, result="image")
