"""PnP-HVAE: plug-and-play restoration with the hierarchical VAE as prior (Prost et al. 2023, arXiv 2303.11217).

It minimizes, over the image x and the latents z in turns,

    J(x, z) = f(x) + beta |x - mu(z)|^2 / gamma^2 - sum_l tau_l^-2 log p(z_l | z_<l),

where f(x) = -log p(y | x); for real images all but the last term are halved. z follows from a single pass of the
encoder and the decoder, without back-propagation; x from an exact proximal step. With beta = 1 and q for the encoder
this is the paper's algorithm 1, with its proximal step solved. The x-step cannot raise J; a z-step can, as the encoder
only approximates the latents' posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from mrihvae.inference.encoders import CompleteEncoder, Encoder
from mrihvae.inference.latents import Inferred, infer, mixed_seed, normal
from mrihvae.inference.settings import RefinementSettings
from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import Gaussian
from mrihvae.physics.data_fidelity import DataTerm
from mrihvae.pnp.settings import PnPSettings
from mrihvae.utils.notices import warn
from mrihvae.utils.precision import arithmetic

DIVERGED = 10.0  # over the least residual so far: the loop runs away
SETTLING = 4  # iterations over which steps must have shrunk at the end, if there were twice as many
STILL = 1e-3  # of an image: steps below it need not shrink, they may be rounding


class NotConverged(str):
    """The warning (`mrihvae.utils.notices`) that the loop diverged, or that its steps did not shrink."""

    __slots__ = ()


class KspaceView(Protocol):
    """Conversion of images to the network's k-space and back, such as `mrihvae.pnp.degraded.ReflectionPadding`."""

    def kspace(self, image: Tensor) -> Tensor:
        """Return the network's k-space of an image."""

    def image(self, kspace: Tensor) -> Tensor:
        """Return the image of the network's k-space."""


class PosteriorView(KspaceView, Protocol):
    """The posterior of latents given images of a data term, in one view, such as `CompletePosterior`."""

    def encoder(self, kspace: Tensor) -> Encoder:
        """Return the encoder of k-space (slices, H, W)."""

    def known_bins(self, kspace: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return k-space, where it is known, and its standard deviation s (slices,), to refine latents against."""


class Tempered:
    """The posterior of latents at a temperature: q^beta p^(1 / tau^2 - beta), a normal distribution again.

    Its mean (w_q mu_q + w_p mu_p) / (w_q + w_p), w_q = beta / sigma_q^2, w_p = (1 / tau^2 - beta) / sigma_p^2, is the
    z-step (PnP-HVAE, algorithm 1); its variance is 1 / (w_q + w_p). With tau = beta = 1 it is q, with tau = 0 the
    prior's mean.
    """

    def __init__(self, encoder: Encoder, tau: Sequence[float], beta: float = 1.0) -> None:
        self.encoder, self.tau, self.beta = encoder, tau, beta

    def begin_level(self, j: int, state: Tensor, known: Tensor) -> None:
        """Let the encoder process the level."""
        self.encoder.begin_level(j, state, known)

    def __call__(self, j: int, k: int, state: Tensor, prior: Gaussian) -> Gaussian:
        q, heat = self.encoder(j, k, state, prior), self.beta * self.tau[j] ** 2
        if heat == 1:
            return q
        w_q, w_p = heat / q.sigma**2, (1 - heat) / prior.sigma**2  # both times tau^2
        return Gaussian((w_q * q.mu + w_p * prior.mu) / (w_q + w_p), self.tau[j] / torch.sqrt(w_q + w_p))


@dataclass
class Restored:
    """The result of the loop, in the units of its data term.

    Attributes
    ----------
    decoded, image : mu(z) and x, (slices, H, W)
    objective : J after each iteration, list of (slices,); infinite where tau is 0
    misfit : f(x) after each iteration, list of (slices,)
    residual : |x_k - x_k-1| over |x_k|, list of (slices,); slices that stopped keep their last numbers
    ratio : |x_k - x_k-1| over |x_k-1 - x_k-2|, about the loop's Lipschitz constant, from the second iteration on
    iterations : number of iterations of each slice, (slices,)
    diverged : slices that diverged, bool (slices,)
    unsettled : others whose steps did not shrink over the last half of at least eight iterations, bool (slices,)
    """

    decoded: Tensor
    image: Tensor
    objective: list[Tensor] = field(default_factory=list)
    misfit: list[Tensor] = field(default_factory=list)
    residual: list[Tensor] = field(default_factory=list)
    ratio: list[Tensor] = field(default_factory=list)
    iterations: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    diverged: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    unsettled: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))


def restore(
    model: HVAE,
    term: DataTerm,
    posteriors: Sequence[PosteriorView],
    start: Tensor,
    settings: PnPSettings,
    progress: Callable[[int], None] = lambda iteration: None,
    first: int = 0,
) -> Restored:
    """Run the loop; slices are problems of their own.

    Parameters
    ----------
    term : f, with its proximal step
    posteriors : how the network sees images, a view each; what it decodes from them is averaged
    start : x to begin with, (slices, H, W) in model units
    progress : called with the number of each iteration when it is finished
    first : number of the first slice: every slice has its own random numbers, whatever the batch

    Returns
    -------
    see `Restored`; a slice that stopped early stays as it was then

    Warns
    -----
    NotConverged
        A slice diverges, and keeps the image of the iteration before, or its steps do not shrink.
    """
    x, mu = start, start
    monitor, found = _StepMonitor(settings, start), Restored(start, start)
    for number in range(settings.iterations):
        beta = settings.beta_at(number)
        gamma = settings.gamma / math.sqrt(beta)
        new_mu, density = z_step(model, posteriors, x, settings, beta, number, first)
        new_x = relax(x, term.prox(new_mu, gamma), settings.relaxation)
        tried, taken = monitor.judge(number, _norm(new_x - x), _norm(new_x))
        mu, x = (_where(taken, new, old) for new, old in ((new_mu, mu), (new_x, x)))
        found.misfit.append(term.value(x))
        bond = (0.5 if term.real else 1.0) * (_norm(x - mu) / gamma) ** 2
        _record(found.objective, taken, found.misfit[-1] + bond - density)
        _record(found.residual, tried, monitor.residual)
        if number > 0:
            _record(found.ratio, tried, monitor.ratio)
        progress(number)
        if not monitor.active.any():
            break
    found.decoded, found.image, found.iterations, found.diverged = mu, x, monitor.done, monitor.diverged
    found.unsettled = monitor.unsettled(found.ratio)
    for which, what in (
        (found.diverged, "diverged: the decoder's map is not a contraction there; lower gamma or tau"),
        (found.unsettled, "did not converge: steps no longer shrink; use fewer iterations, or lower tau or relaxation"),
    ):
        if which.any():
            warn(NotConverged(f"{int(which.sum())} of {len(which)} images {what}"))
    return found


def relax(old: Tensor, new: Tensor, relaxation: float) -> Tensor:
    """Return the image a fraction of the way from one image to another."""
    return new if relaxation == 1 else torch.lerp(old, new, relaxation)


class _StepMonitor:
    """The steps of every slice: which slices go on, have stopped, diverge, or do not converge.

    Attributes
    ----------
    active : slices that go on, bool (slices,)
    done, diverged : see `Restored`
    residual, ratio : of the last iteration, see `Restored`
    """

    def __init__(self, settings: PnPSettings, images: Tensor) -> None:
        self.settings = settings
        self.active = torch.ones(len(images), dtype=torch.bool, device=images.device)
        self.diverged = torch.zeros_like(self.active)
        self.done = torch.zeros_like(self.active, dtype=torch.int64)
        self.residual = self.ratio = torch.zeros_like(self.active, dtype=torch.float32)
        self._step = self._least = self.residual
        self._since = self.done

    def judge(self, number: int, step: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Judge an iteration by |x_k - x_k-1| and |x_k|; return which slices took it, and whose image counts."""
        size, finite, tried = size.clamp_min(1e-12), torch.isfinite(step), self.active
        self.residual, self.ratio, self._step = step / size, step / self._step.clamp_min(1e-12), step
        if number <= self.settings.beta_steps:  # steps may grow as long as beta does
            self._least = step
        self._least = torch.minimum(self._least, torch.where(finite, step, self._least))
        runs_away = tried & (~finite | (step > DIVERGED * self._least.clamp_min(1e-6 * size)))
        taken = tried & ~runs_away
        self.diverged, self.done = self.diverged | runs_away, self.done + taken
        self._since = torch.where(step <= self._least, 0, self._since + 1)
        self.active = taken
        if number >= self.settings.beta_steps:
            self.active = self.active & (step > self.settings.tolerance * size)
        if self.settings.patience:
            self.active = self.active & (self._since < self.settings.patience)
        return tried, taken

    def unsettled(self, ratios: Sequence[Tensor]) -> Tensor:
        """Return the slices whose steps did not shrink over the last half of the iterations with full beta."""
        half = (self.settings.iterations - self.settings.beta_steps) // 2
        if self.settings.draw or half < SETTLING or len(ratios) < self.settings.iterations - 1:
            return torch.zeros_like(self.active)
        return self.active & (torch.stack(list(ratios[-half:])).prod(dim=0) >= 1) & (self.residual > STILL)


def z_step(
    model: HVAE,
    posteriors: Sequence[PosteriorView],
    x: Tensor,
    settings: PnPSettings,
    beta: float = 1.0,
    number: int = 0,
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """Encode x and decode, x -> HVAE_tau(x), without gradients; see `hvae_tau`."""
    with torch.no_grad():
        return hvae_tau(model, posteriors, x, settings, beta, number, first)


def hvae_tau(
    model: HVAE,
    posteriors: Sequence[PosteriorView],
    x: Tensor,
    settings: PnPSettings,
    beta: float = 1.0,
    number: int = 0,
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """Encode x and decode, x -> HVAE_tau(x); gradients pass.

    Returns
    -------
    mu(z), (slices, H, W), and sum_l tau_l^-2 log p(z_l | z_<l), (slices,), both means over the views
    """
    levels = model.settings.levels
    tau = [settings.tau_at(j, levels) for j in range(levels)]
    images, densities = [], []
    for which, posterior in enumerate(posteriors):
        draw = None
        if settings.draw:
            seeds = (mixed_seed(settings.seed, number, which, first + k) for k in range(len(x)))
            draw = partial(normal, generators=[torch.Generator().manual_seed(seed) for seed in seeds])
        with arithmetic(x.device, settings.precision):
            kspace = posterior.kspace(x)
            encoder = Tempered(posterior.encoder(kspace), tau, beta)
            known = posterior.known_bins(kspace, settings.gamma / math.sqrt(beta))
            inferred = infer(model, encoder, *known, RefinementSettings(sweeps=settings.sweeps), draw)
        images.append(posterior.image(inferred.kspace))
        densities.append(log_prior(inferred, tau))
    return torch.stack(images).mean(dim=0), torch.stack(densities).mean(dim=0)


def log_prior(inferred: Inferred, tau: Sequence[float]) -> Tensor:
    """Compute sum_l tau_l^-2 log p(z_l | z_<l) of inferred latents, (slices,)."""
    total = torch.zeros(len(inferred.latents[0][0]), device=inferred.latents[0][0].device)
    for temperature, latents, priors in zip(tau, inferred.latents, inferred.priors):
        for z, prior in zip(latents, priors):
            density = -0.5 * ((z - prior.mu) / prior.sigma) ** 2 - torch.log(prior.sigma) - 0.5 * math.log(2 * math.pi)
            total = total + density.flatten(1).sum(dim=1) / max(temperature, 1e-30) ** 2
    return total


class CompletePosterior:
    """The full-data posterior q of x, as in PnP-HVAE.

    Parameters
    ----------
    model : the network
    view : of images
    real : whether they are real
    """

    def __init__(self, model: HVAE, view: KspaceView, real: bool) -> None:
        self.model, self.kspace, self.image, self.real = model, view.kspace, view.image, real

    def encoder(self, kspace: Tensor) -> Encoder:
        """Return q of k-space."""
        return CompleteEncoder(self.model, kspace)

    def known_bins(self, kspace: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return all k-space of x, known to within gamma; of a real image, whose J is half, to within sqrt(2) gamma."""
        s = kspace.abs().new_full((len(kspace),), gamma * (2**0.5 if self.real else 1.0))
        return kspace, torch.ones_like(kspace, dtype=torch.bool), s


def _norm(values: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norm


def _record(numbers: list[Tensor], which: Tensor, new: Tensor) -> None:
    """Add the new numbers of some slices, and the last ones of the others."""
    numbers.append(torch.where(which, new, numbers[-1]) if numbers else new)


def _where(which: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(which[:, None, None], new, old)
