"""Inference of latents group by group: amortized, iterative and hybrid (IA-HVAE, Algorithm 1).

A group is the levels that share a head: one level in the separable decoder, where a step of refinement runs that
level's layers alone; all levels in the vanilla one (`ModelSettings.separable`), where it runs all layers that follow.
Finished groups are never evaluated again, and the encoder's features of the data are computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.inference.encoders import Encoder, PriorEncoder
from mrihvae.inference.refinement import Objective, Target, Trace, refine
from mrihvae.inference.settings import RefinementSettings
from mrihvae.model.bands import merge
from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import Gaussian
from mrihvae.physics.fourier import apply_mask, center_crop, center_pad

Combine = Callable[[Tensor, Tensor, Tensor], Tensor]
Positions = list[tuple[int, int]]  # (level, layer)
Ahead = tuple[Gaussian, Tensor]  # a layer's prior, and the state that its latent enters
Decoded = tuple[list[Gaussian], Tensor]
Choose = Callable[[int, int, Tensor, Gaussian], Tensor]


@dataclass
class Inferred:
    """Latents and their decoded bands.

    Attributes
    ----------
    latents : of the K layers of every level, (slices, channels, h, w) each
    priors : p(z_l | z_<l) of each
    bands : output of each group's head, after `combine`, complex (slices, h_j, w_j)
    traces : convergence of each refinement, if requested, by (level, layer) of its first latent
    """

    latents: list[list[Tensor]] = field(default_factory=list)
    priors: list[list[Gaussian]] = field(default_factory=list)
    bands: list[Tensor] = field(default_factory=list)
    traces: dict[tuple[int, int], Trace] = field(default_factory=dict)

    @property
    def kspace(self) -> Tensor:
        """Complete k-space, the sum of the bands: complex (slices, H, W)."""
        return merge(self.bands)

    def add(self, j: int, z: Tensor, prior: Gaussian) -> None:
        """Add the next layer of level j."""
        for levels in (self.latents, self.priors):
            levels.extend([] for _ in range(j + 1 - len(levels)))
        self.latents[j].append(z)
        self.priors[j].append(prior)


def infer(
    model: HVAE,
    encoder: Encoder,
    kspace: Tensor,
    mask: Tensor,
    s: Tensor,
    refinement: RefinementSettings,
    draw: Callable[[Tensor], Tensor] | None = None,
    width: float = 1.0,
    noisy: Callable[[Tensor], Tensor] | None = None,
    combine: Combine | None = None,
    traced: bool = False,
) -> Inferred:
    """Infer the latents of k-space, group by group, coarsest first (IA-HVAE, Algorithm 1; see `RefinementSettings`).

    Parameters
    ----------
    encoder : `CompleteEncoder`, `MeasurementEncoder` or `PriorEncoder`; the prior is always used if `refinement.start`
        is not "encoder"
    kspace : complex (slices, H, W) in model units, 0 where not acquired; of real images (slices, channels, H, W)
    mask : bool, broadcast to it, True where samples count in the data term
    s : (slices,), the likelihood's standard deviation per complex k-space sample
    refinement : how latents are refined
    draw : returns standard normal numbers like a tensor; None: latents start at means
    width : factor on the standard deviation of draws, and on that of their anchor
    noisy : adds noise to a group's k-space before latents are refined against it; None adds none
    combine : computes the k-space for the next group, from a group's k-space, hhat and the acquired samples; None for
        hhat
    traced : whether to keep the convergence of refinements

    Returns
    -------
    see `Inferred`

    Raises
    ------
    InputError
        Settings per level whose number differs from the number of levels.

    Examples
    --------
    >>> import torch
    >>> from mrihvae.inference import CompleteEncoder, RefinementSettings, infer
    >>> from mrihvae.model import HVAE, ModelSettings
    >>> _ = torch.manual_seed(0)
    >>> model = HVAE(ModelSettings(widths=(16, 16), layers=1, cascades=0, guess_widths=(16,)))
    >>> kspace, mask = torch.randn(1, 16, 16, dtype=torch.complex64), torch.ones(1, 16, 16, dtype=torch.bool)
    >>> encoder, s = CompleteEncoder(model, kspace), torch.tensor([0.1])
    >>> found = [infer(model, encoder, kspace, mask, s, RefinementSettings(sweeps=n)).kspace for n in (0, 2)]
    >>> bool((found[1] - kspace).norm() < (found[0] - kspace).norm())
    True
    """
    refinement.check(model.settings.levels, model.settings.separable)
    if refinement.start == "sample" and draw is None:
        raise InputError("start 'sample' needs draws")
    encoder = encoder if refinement.start == "encoder" else PriorEncoder()
    shape, mask = (kspace.shape[-2], kspace.shape[-1]), mask.expand(kspace.shape)
    inference = _TopDownInference(model, encoder, refinement, _StartingPoint(draw, width), width, traced, kspace)
    state = model.begin(len(kspace), shape)
    for group in model.groups:
        measured, bins = _band_of(model, group, kspace, mask)

        def target(bins: Tensor = bins, measured: Tensor = measured) -> Target:
            return Target(noisy(bins) if noisy else bins, measured, s.view(-1, *[1] * (kspace.ndim - 1)))

        state = inference.infer_group(group, model.upsample_state(group[0], state, shape), target)
        hhat = model.head(group[-1], state, shape)
        inference.known = torch.where(mask, inference.known, inference.known + center_pad(hhat, shape))
        inference.found.bands.append(hhat if combine is None else combine(bins, hhat, measured))
    return inference.found


@dataclass
class _StartingPoint:
    """Where latents start: at means, or at random draws, which are fixed in units of their standard deviation."""

    draw: Callable[[Tensor], Tensor] | None
    width: float
    drawn: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def __call__(self, r: Gaussian, position: tuple[int, int]) -> Tensor:
        if self.draw is None:
            return r.mu
        if position not in self.drawn:
            self.drawn[position] = self.draw(r.mu)
        return r.mu + self.width * r.sigma * self.drawn[position]


@dataclass
class _TopDownInference:
    """An inference from the coarsest level down; `known` is the image as far as it is known, k-space (slices, H, W)."""

    model: HVAE
    encoder: Encoder
    refinement: RefinementSettings
    start: Callable[[Gaussian, tuple[int, int]], Tensor]
    width: float
    traced: bool
    known: Tensor
    found: Inferred = field(default_factory=Inferred)

    def infer_group(self, group: Sequence[int], state: Tensor, make_target: Callable[[], Target]) -> Tensor:
        """Infer the latents of a group, stretch by stretch of its layers, and return the state after it."""
        model, shape = self.model, (self.known.shape[-2], self.known.shape[-1])
        rest = [(j, k) for j in group for k in range(model.settings.layers_at(j))]
        swept = {j: self.width > 0 and self.refinement.sweeps_at(j) > 0 for j in group}
        target, after = None, state
        while rest:
            encoded, latents, priors, ahead, after = _encode(model, self.encoder, rest, state, self.known, self.start)
            stretch = rest
            if self.refinement.order == "layer" and any(swept.values()):
                idle = next((number for number, (j, _) in enumerate(rest) if swept[j]), len(rest))
                stretch = rest[: idle or 1]
            moving = swept[stretch[0][0]]
            if moving:
                target = target or make_target()
                latents = self._refine_stretch(rest, stretch, ahead, encoded, latents, target)
            if moving or len(stretch) < len(rest):
                priors, after = _decode(model, stretch, ahead, latents, shape)
            for (j, _), z, prior in zip(stretch, latents, priors):
                self.found.add(j, z, prior)
            rest = rest[len(stretch) :]
            state = model.upsample_state(rest[0][0], after, shape) if rest and rest[0][1] == 0 else after
        return after

    def _refine_stretch(
        self,
        rest: Positions,
        stretch: Positions,
        ahead: Ahead,
        encoded: list[Gaussian],
        latents: list[Tensor],
        target: Target,
    ) -> list[Tensor]:
        """Refine the latents of a stretch, which begins the `rest` of the group's layers."""
        shape = (self.known.shape[-2], self.known.shape[-1])

        def complete(z: Sequence[Tensor]) -> Decoded:
            priors, last = _decode(self.model, rest, ahead, z, shape)
            return priors, self.model.head(rest[-1][0], last, shape)

        trace = Trace() if self.traced else None
        known = encoded[: len(stretch)]
        found = refine(Objective(complete, known, latents, target, self.refinement, stretch[0][0], self.width), trace)
        if trace is not None:
            self.found.traces[stretch[0]] = trace
        return found


def top_down(model: HVAE, slices: int, shape: tuple[int, int], choose: Choose) -> Inferred:
    """Decode from the coarsest level down, with any latents (IA-HVAE, eqs. 2 and 3).

    Parameters
    ----------
    slices : how many at once
    shape : (H, W), multiples of `ModelSettings.multiple`
    choose : returns the latents of a layer, given its level, its number there, the state before it and its prior
    """
    state, found = model.begin(slices, shape), Inferred()
    for group in model.groups:
        for j in group:
            state = model.upsample_state(j, state, shape)
            for k, layer in enumerate(model.layers(j)):
                prior, ahead = layer.prior_step(state)
                z = choose(j, k, state, prior)
                state = layer(ahead, z)
                found.add(j, z, prior)
        found.bands.append(model.head(group[-1], state, shape))
    return found


def generate(model: HVAE, images: int, shape: tuple[int, int], temperature: float = 1.0, seed: int = 0) -> Inferred:
    """Return draws from the prior, band by band: z_l ~ N(mu_p, (temperature sigma_p)^2) (IA-HVAE, eq. 2 and Fig. 3).

    Parameters
    ----------
    images : number of images
    shape : (H, W), multiples of `ModelSettings.multiple`
    temperature : 0 gives the mean of every layer
    seed : random seed; equal seeds give equal images, regardless of their number

    Returns
    -------
    see `Inferred`, without noise; its k-space is that of images in model units

    Raises
    ------
    InputError
        A shape that the model cannot generate, or a temperature that is not a number of at least 0.
    """
    multiple = model.settings.multiple
    if images < 1 or any(size < 1 or size % multiple for size in shape):
        raise InputError(f"{images} images of {shape[0]} x {shape[1]}: draw at least 1, of multiples of {multiple}")
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature {temperature} must be at least 0")
    generators = [torch.Generator().manual_seed(mixed_seed(seed, number)) for number in range(images)]
    channels = (model.settings.channels,) if model.settings.real else ()
    device = model.start.device
    kspace = torch.zeros(images, *channels, *shape, dtype=torch.complex64, device=device)
    mask, s = torch.zeros_like(kspace, dtype=torch.bool), torch.ones(images, device=device)
    refinement = RefinementSettings(sweeps=0)
    with torch.no_grad():
        return infer(
            model, PriorEncoder(), kspace, mask, s, refinement, lambda like: normal(like, generators), temperature
        )


def normal(like: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Draw standard normal numbers, each slice from its own generator."""
    return torch.stack([torch.randn(like.shape[1:], generator=generator) for generator in generators]).to(like)


def mixed_seed(*numbers: int) -> int:
    """Mix numbers to one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def compile_layers(model: HVAE, backend: str = "inductor") -> HVAE:
    """Compile every stochastic layer in place with `torch.compile`, for inference of many images of one size.

    It takes minutes at the first use of a size; `benchmarks/ia_hvae/inference_time.py --compile` measures the gain. Not
    for Gauss-Newton steps: they differentiate twice, which compiled code cannot.
    """
    for j in range(model.settings.levels):
        for layer in model.layers(j):
            for name in ("prior_step", "forward"):
                setattr(layer, name, torch.compile(getattr(layer, name), dynamic=False, backend=backend))
    return model


def _band_of(model: HVAE, group: Sequence[int], kspace: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mask and the k-space of a group's band, on its grid."""
    band = model.band(group[-1], (kspace.shape[-2], kspace.shape[-1])).to(mask.device)
    grid = (band.shape[-2], band.shape[-1])
    measured = band & center_crop(mask, grid)
    return measured, apply_mask(center_crop(kspace, grid), band)


def _encode(
    model: HVAE,
    encoder: Encoder,
    positions: Positions,
    state: Tensor,
    known: Tensor,
    start: Callable[[Gaussian, tuple[int, int]], Tensor],
) -> tuple[list[Gaussian], list[Tensor], list[Gaussian], Ahead, Tensor]:
    """Encode layers in turn: distributions of their latents, where these start, priors, and the state after them.

    The last but one result is the prior and the state of the first layer, which none of these latents changes.
    """
    encoded, latents, steps, shape = [], [], [], (known.shape[-2], known.shape[-1])
    for number, (j, k) in enumerate(positions):
        if k == 0:
            state = model.upsample_state(j, state, shape) if number else state
            encoder.begin_level(j, state, known)
        layer = model.layers(j)[k]
        prior, ahead = layer.prior_step(state)
        r = encoder(j, k, state, prior)
        z = start(r, (j, k))
        state = layer(ahead, z)
        encoded.append(r)
        latents.append(z)
        steps.append((prior, ahead))
    return encoded, latents, [prior for prior, _ in steps], steps[0], state


def _decode(
    model: HVAE, positions: Positions, ahead: Ahead, latents: Sequence[Tensor], shape: tuple[int, int]
) -> Decoded:
    """Decode layers with their latents: the priors on the way, and the state after them."""
    priors, state = [], ahead[1]
    for number, ((j, k), z) in enumerate(zip(positions, latents)):
        layer = model.layers(j)[k]
        if number:
            ahead = layer.prior_step(model.upsample_state(j, state, shape) if k == 0 else state)
        state = layer(ahead[1], z)
        priors.append(ahead[0])
    return priors, state


def likelihood_std(model: HVAE, noise: Tensor) -> Tensor:
    """Compute s per slice, (slices,): white noise of the scan on top of the model's own floor s_0.

    A k-space sample has E|k - khat|^2 = s^2; of a real image, whose samples are half as free, E(x - xhat)^2 = s^2 / 2
    in every pixel.
    """
    return torch.sqrt(model.settings.noise_floor**2 + (2 if model.settings.real else 1) * noise**2)
