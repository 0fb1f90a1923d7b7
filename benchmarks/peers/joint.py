"""Joint gradient descent on image and latents: the reference that PnP-HVAE is compared with.

It lowers the very objective of `mrihvae.pnp.loop`, J(x, z), by Adam on x and z at once, back-propagating through all of
the decoder in every step. z starts at q's means of the first image, x at the proximal step of what they decode to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.pnp.degraded_images import Problem
from mrihvae.inference.encoders import CompleteEncoder
from mrihvae.inference.latents import top_down
from mrihvae.model.hvae import HVAE
from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.kernels import abs2
from mrihvae.pnp.degraded import BEGINNING, ReflectionPadding
from mrihvae.pnp.loop import log_prior
from mrihvae.pnp.restore import in_model_units
from mrihvae.pnp.settings import RESULTS
from mrihvae.utils.precision import arithmetic


@dataclass(frozen=True)
class JointSettings:
    """How it descends.

    Attributes
    ----------
    gamma, tau : as of `mrihvae.pnp.settings.PnPSettings`, tau one for all levels
    step : Adam's for latents
    image_step : Adam's for x, over that of latents
    steps : at most
    every : how many steps lie between candidates
    result : "decoded", mu(z), or "image", x
    precision : of the network, see `mrihvae.utils.precision`
    """

    gamma: float = 0.1
    tau: float = 1.0
    step: float = 0.01
    image_step: float = 0.1
    steps: int = 100
    every: int = 5
    result: str = "decoded"
    precision: str = "auto"

    def __post_init__(self) -> None:
        if not (self.gamma > 0 and self.step > 0 and self.image_step > 0 and 0 < self.tau <= 1):
            raise ValueError("gamma, step and image_step must be above 0, and tau above 0 and at most 1")
        if min(self.steps, self.every) < 1 or self.result not in RESULTS:
            raise ValueError(f"steps and every must be at least 1, and result one of {', '.join(RESULTS)}")


class Joint:
    """J of one problem, with x and z, which gradients reach.

    Attributes
    ----------
    x : (1, H, W), in model units
    z : latents of the layers of every level
    """

    def __init__(self, model: HVAE, term: LeastSquares, settings: JointSettings) -> None:
        self.model, self.term, self.settings = model, term, settings
        first = term.first_image()
        self.frame = ReflectionPadding(model, (first.shape[-2], first.shape[-1]), term.real)
        with torch.no_grad(), arithmetic(first.device, settings.precision):
            q = CompleteEncoder(model, self.frame.kspace(term.prox(first, BEGINNING)))
            begun = top_down(model, len(first), self.padded, lambda j, k, state, prior: q(j, k, state, prior).mu)
        self.x = term.prox(self.frame.image(begun.kspace), settings.gamma).requires_grad_()
        self.z = [[z.float().clone().requires_grad_() for z in level] for level in begun.latents]

    @property
    def padded(self) -> tuple[int, int]:
        """The size that the network sees."""
        return self.frame.padded[0], self.frame.padded[1]

    def decoded(self) -> tuple[Tensor, Tensor]:
        """Compute mu(z), (slices, H, W), and J, (slices,)."""
        with arithmetic(self.x.device, self.settings.precision):
            found = top_down(self.model, len(self.x), self.padded, lambda j, k, state, prior: self.z[j][k])
        mu = self.frame.image(found.kspace)
        half = 0.5 if self.term.real else 1.0
        bond = half * abs2(self.x - mu).flatten(1).sum(dim=1) / self.settings.gamma**2
        prior = log_prior(found, [self.settings.tau] * self.model.settings.levels)
        return mu, self.term.value(self.x) + bond - prior


def joint(model: HVAE, problem: Problem, settings: JointSettings) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Descend; gives mu(z) and x every so many steps."""
    term, scale = in_model_units(problem.term)
    descent = Joint(model, term, settings)
    latents = [z for level in descent.z for z in level]
    optimizer = torch.optim.Adam([
        {"params": latents, "lr": settings.step},
        {"params": [descent.x], "lr": settings.step * settings.image_step},
    ])  # fmt: skip
    for number in range(settings.steps + 1):
        mu, objective = descent.decoded()
        if number and (number % settings.every == 0 or number == settings.steps):
            yield {"steps": number, "result": "decoded"}, mu.detach() * scale
            yield {"steps": number, "result": "image"}, descent.x.detach() * scale
        if number < settings.steps:
            optimizer.zero_grad()
            objective.sum().backward()
            optimizer.step()
