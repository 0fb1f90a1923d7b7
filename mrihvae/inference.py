"""Reconstruction of undersampled single-coil k-space: amortised and hybrid inference, band by band.

The data term of y = M F x + n separates over bands (IA-HVAE, section 2.1, eq. 6), so the latents of a level are
inferred, and refined against the measured bins of their own band, before the next level begins (Algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrihvae.bands import band_mask, grids, merge, split
from mrihvae.errors import InputError
from mrihvae.fourier import centre_crop, centre_pad, ifft2c, resize_kspace
from mrihvae.layers import Gaussian
from mrihvae.model import HVAE
from mrihvae.units import noise_std, scale_of

ANCHORS = ("posterior", "prior")
COMBINATIONS = ("measured", "variance")
LOSSES = ("l2", "l1")
STEPS = {"adam": 0.1, "gradient": 1e-4}  # usual sizes; ten times as large, a plain step diverges
RULES = (*STEPS, "gauss-newton")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class InferenceSettings:
    """How latents are inferred.

    Attributes
    ----------
    views : copies of the scan, mirrored or conjugated, whose reconstructions are averaged in the first round, 1 to 8
    rounds : passes of r down all levels; each after the first is given the last one's reconstruction as its guess
    blend : share of a further round's reconstruction where nothing was measured; the rest stays as it was
    sweeps : N, refinement steps over all latents of a level in the last round; 0 takes what r says
    rule : how a step is taken: "adam"; "gradient", a plain step; or "gauss-newton", with L2 alone
    step : lambda, the size of a step of the first two, in units of each latent's deviation under r; None for the usual
        one (`STEPS`)
    iterations : conjugate gradient iterations of a Gauss-Newton step; 1 is an exact line search along the gradient
    anchor : what the data term is weighed against: "prior", -log p(z_l | z_<l), as in IA-HVAE, or "posterior",
        -log r(z_l | z_<l, y, M), which keeps what r has seen in the data; benchmarks/results/refinement.md compares
    beta : weight of the data term against the anchor
    loss : "l2", |y - hhat|^2 / s^2, the posterior's own, or "l1", |y - hhat| / s, on measured bins
    combine : what measured bins become: "measured" keeps y; "variance" weighs y and hhat by their variances
    temperature : factor on the deviation of r from which posterior samples are drawn
    spread : factor on the deviation of samples in maps of uncertainty, beside what the scan itself says of it
        (`mrihvae.heldout`); the card of weights tells what calibrates them
    precision : of the network's arithmetic, "float32", "bfloat16", or "auto", which takes bfloat16 where the processor
        has instructions for it; k-space and Fourier transforms are in single precision always
    """

    views: int = 2
    rounds: int = 2
    blend: float = 0.7
    sweeps: int = 1
    rule: str = "gauss-newton"
    step: float | None = None
    iterations: int = 3
    anchor: str = "posterior"
    beta: float = 1.0
    loss: str = "l2"
    combine: str = "measured"
    temperature: float = 1.0
    spread: float = 1.0
    precision: str = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.views <= 8 or self.rounds < 1:
            raise ValueError(f"views {self.views} must be 1 to 8, and rounds {self.rounds} at least 1")
        if not 0 <= self.blend <= 1:
            raise ValueError(f"blend {self.blend} must be in [0, 1]")
        if self.sweeps < 0 or not 0 <= self.beta < math.inf:
            raise ValueError(f"sweeps {self.sweeps} and beta {self.beta} must be at least 0")
        if self.step is not None and not 0 < self.step < math.inf:
            raise ValueError(f"step {self.step} must be above 0")
        for name in ("temperature", "spread"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 0")
        if self.anchor not in ANCHORS:
            raise ValueError(f"anchor '{self.anchor}' is unknown; choose one of {', '.join(ANCHORS)}")
        if self.rule not in RULES:
            raise ValueError(f"rule '{self.rule}' is unknown; choose one of {', '.join(RULES)}")
        if self.iterations < 1:
            raise ValueError(f"iterations {self.iterations} must be at least 1")
        if self.loss not in LOSSES:
            raise ValueError(f"loss '{self.loss}' is unknown; choose one of {', '.join(LOSSES)}")
        if self.rule == "gauss-newton" and self.loss != "l2":
            raise ValueError(f"rule 'gauss-newton' takes loss 'l2', not '{self.loss}'")
        if self.rule == "gauss-newton" and self.step is not None:
            raise ValueError("rule 'gauss-newton' finds its own step; leave out step, or choose another rule")
        if self.combine not in COMBINATIONS:
            raise ValueError(f"combine '{self.combine}' is unknown; choose one of {', '.join(COMBINATIONS)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision '{self.precision}' is unknown; choose one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class Problem:
    """Undersampled slices as the network takes them: in model units, on sizes that are its multiples.

    Attributes
    ----------
    measured : y, complex (slices, H, W), 0 where not measured
    mask : M, bool (slices, H, W); bins added by padding count as known to be 0
    noise : (slices,), standard deviation of the noise per complex bin
    scale : (slices,), what to multiply images by
    shape : (H, W) before padding
    turned : whether H and W were exchanged
    """

    measured: Tensor
    mask: Tensor
    noise: Tensor
    scale: Tensor
    shape: tuple[int, int]
    turned: bool = False

    def seen(self, number: int) -> Problem:
        """Take the same problem for a mirrored or conjugated scan: one of 8 views, of which 0 is this one."""
        return replace(self, measured=view(self.measured, number), mask=view(self.mask, number))

    def images(self, kspace: Tensor) -> Tensor:
        """Turn complete k-space (..., slices, H, W) in model units into images in physical scale."""
        images = ifft2c(resize_kspace(kspace * self.scale[:, None, None], self.shape))
        return images.mT if self.turned else images


def reconstruct(model: HVAE, kspace: Tensor, mask: Tensor, settings: InferenceSettings | None = None) -> Tensor:
    """Reconstruct slices of undersampled single-coil k-space.

    Each slice is treated by itself: its result does not depend on the others in the batch.

    Parameters
    ----------
    model : trained weights
    kspace : complex64 (slices, H, W), any H and W, any physical scale; what is not measured is ignored
    mask : bool, broadcast to (H, W), True where measured: lines along either axis, or any pattern
    settings : see `InferenceSettings`

    Returns
    -------
    complex64 images (slices, H, W), in the physical scale of `kspace`, on the model's device

    Raises
    ------
    InputError
        K-space or mask of another shape.
    """
    settings = settings or InferenceSettings()
    problem = pose(model, kspace, mask)
    with torch.no_grad(), arithmetic(model.start.device, settings.precision):
        if settings.rounds == 1:
            return problem.images(_mean_over_views(model, problem, settings, settings.sweeps))
        guess = first_estimate(model, problem, settings)
        return problem.images(_look_again(model, problem, guess, settings, settings.sweeps))


def sample(
    model: HVAE,
    kspace: Tensor,
    mask: Tensor,
    samples: int,
    settings: InferenceSettings | None = None,
    seed: int = 0,
    first: int = 0,
) -> Tensor:
    """Draw posterior samples of slices of undersampled single-coil k-space.

    Latents are drawn from r in one round, number n in view n of the scan. With `sweeps`, each draw is refined against
    measurements with noise of their own (randomise-then-optimise, Bardsley et al. 2014), which keeps the spread.

    Parameters
    ----------
    kspace, mask : as for `reconstruct`
    samples : number of samples
    seed : equal seeds give equal samples, whatever the batch
    first : number of the first slice in its volume: every slice has draws of its own

    Returns
    -------
    complex64 images (samples, slices, H, W), free of the scan's noise where nothing was measured
    """
    settings = settings or InferenceSettings()
    if samples < 1:
        raise InputError(f"{samples} samples: draw at least 1")
    if settings.sweeps and settings.anchor != "posterior":
        raise InputError("samples are refined with anchor 'posterior', which holds draws; leave out the other anchor")
    problem = pose(model, kspace, mask)
    drawn = []
    with torch.no_grad(), arithmetic(model.start.device, settings.precision):
        views = [problem.seen(number) for number in range(min(settings.views, samples))]
        guesses = [model.r.guess(seen.measured, seen.mask)[-1] for seen in views]
        for number in range(samples):
            which = number % len(views)
            seeds = (_seed(seed, number, first + k) for k in range(len(kspace)))
            generators = [torch.Generator().manual_seed(one) for one in seeds]
            found = infer(model, views[which], guesses[which], settings, settings.sweeps, generators)
            drawn.append(problem.images(view(found, which)))
    return torch.stack(drawn)


@contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Run the network in a precision of `PRECISIONS`."""
    with torch.autocast(device.type, torch.bfloat16, enabled=is_lower(device, precision)):
        yield


def is_lower(device: torch.device, precision: str) -> bool:
    """Tell whether a precision of `PRECISIONS` means bfloat16 on a device."""
    return precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 numbers faster than single precision."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def pose(model: HVAE, kspace: Tensor, mask: Tensor) -> Problem:
    """Bring k-space (slices, H, W) and mask to the network's units, sizes and orientation."""
    if kspace.ndim != 3 or not kspace.is_complex():
        raise InputError(f"k-space is {kspace.dtype} of shape {tuple(kspace.shape)}; give complex (slices, H, W)")
    shape = (kspace.shape[-2], kspace.shape[-1])
    if mask.ndim > 2 or any(have not in (1, want) for have, want in zip(mask.shape[::-1], shape[::-1])):
        raise InputError(f"mask of shape {tuple(mask.shape)} does not fit k-space of {shape}; give (W,) or (H, W)")
    kspace = kspace.to(device=model.start.device, dtype=torch.complex64)
    mask = mask.to(device=kspace.device, dtype=torch.bool).expand(shape)
    if bool((mask == mask[:, :1]).all()) and not bool((mask == mask[:1]).all()):
        return replace(pose(model, kspace.mT, mask.mT), turned=True)  # the network has learnt lines along H
    padded = padded_shape(shape, model.settings.multiple)
    # padding k-space, not the image, keeps measured bins on the grid; the bins beyond are known to be 0
    known = centre_pad(mask, padded, value=True).expand(len(kspace), *padded)
    kept = torch.where(mask, kspace, torch.zeros((), dtype=kspace.dtype))
    measured = resize_kspace(kept, padded)
    scale = scale_of(measured)
    return Problem(measured / scale[:, None, None], known, noise_std(kept) / scale, scale, shape)


def view(kspace: Tensor, number: int) -> Tensor:
    """Conjugate (bit 0 of `number`) and mirror (bits 1 and 2) k-space or a mask (..., H, W): its own inverse.

    A view of k-space is that of an image mirrored along W or H, or conjugated and turned by 180 degrees: the network
    has learnt images in all of these orientations, and lines along H stay what they are.
    """
    if number & 1 and kspace.is_complex():
        kspace = kspace.conj().resolve_conj()
    for bit, axis in ((2, -1), (4, -2)):
        if number & bit:
            kspace = kspace.flip(axis).roll(1 - kspace.shape[axis] % 2, axis)  # zero frequency stays where it is
    return kspace


def first_estimate(model: HVAE, problem: Problem, settings: InferenceSettings) -> Tensor:
    """Compute the guess for the last round, complex (slices, H, W): the first one, taken through all rounds before."""
    if settings.rounds == 1:
        first: Tensor = model.r.guess(problem.measured, problem.mask)[-1]
        return first
    estimate = _mean_over_views(model, problem, settings, 0)
    guess = torch.where(problem.mask, problem.measured, estimate)
    for _ in range(settings.rounds - 2):
        estimate = _look_again(model, problem, guess, settings, 0)
        guess = torch.where(problem.mask, problem.measured, estimate)
    return guess


def _mean_over_views(model: HVAE, problem: Problem, settings: InferenceSettings, sweeps: int) -> Tensor:
    """Do the first round in every view, each from its own first guess, and average in k-space."""
    total = torch.zeros_like(problem.measured)
    for number in range(settings.views):
        seen = problem.seen(number)
        guess = model.r.guess(seen.measured, seen.mask)[-1]
        total = total + view(infer(model, seen, guess, settings, sweeps), number)
    return total / settings.views


def _look_again(model: HVAE, problem: Problem, guess: Tensor, settings: InferenceSettings, sweeps: int) -> Tensor:
    """Do a further round, and blend it with its guess where nothing was measured."""
    found = infer(model, problem, guess, settings, sweeps)
    return torch.where(problem.mask, found, guess + settings.blend * (found - guess))


def infer(
    model: HVAE,
    problem: Problem,
    guess: Tensor,
    settings: InferenceSettings,
    sweeps: int,
    generators: list[torch.Generator] | None = None,
) -> Tensor:
    """Infer complete k-space in one round (methods: hybrid inference, scale by scale).

    Parameters
    ----------
    guess : complete k-space for r to look at, complex (slices, H, W)
    sweeps : refinement steps per level
    generators : left out, latents start at r's means; else one a slice, and they are drawn from r

    Returns
    -------
    complex (slices, H, W): the decoder's bins, and on measured bins what `settings.combine` says
    """
    measured, mask, noise = problem.measured, problem.mask, problem.noise
    shape = (measured.shape[-2], measured.shape[-1])
    levels = model.settings.levels
    y, m = split(measured, levels), [centre_crop(mask, grid) for grid in grids(shape, levels)]
    s = torch.sqrt(model.settings.noise_floor**2 + noise**2)[:, None, None]
    features = model.r.features(guess, measured, mask)
    state = model.begin(len(measured), shape)
    known, bands = measured, []
    for j in range(levels):
        state = model.enter(j, state)
        looked = model.r.look(j, state, features[j], model.known_image(j, known))
        posteriors, offsets = _posteriors(model, j, state, looked, settings.temperature, generators)
        latents = [r.mu + r.sigma * u for r, u in zip(posteriors, offsets)]
        band = band_mask(shape, levels, j).to(mask.device) & m[j]
        width = 1.0 if generators is None else settings.temperature
        if sweeps and width > 0:
            noisy = (
                y[j]
                if generators is None
                else y[j] + s * torch.complex(*(_draw(y[j].real, generators) for _ in "ri")) / 2**0.5
            )
            latents = _refine(model, j, state, posteriors, offsets, noisy, band, s, shape, sweeps, settings, width)
        state = _decode(model, j, state, latents)
        hhat = model.head(j, state, shape)
        h = _combine(y[j], hhat, band, noise[:, None, None], settings.combine)
        known = torch.where(mask, known, known + centre_pad(hhat, shape))
        bands.append(h)
    return merge(bands)


def _posteriors(
    model: HVAE,
    j: int,
    state: Tensor,
    looked: Tensor,
    temperature: float = 1.0,
    generators: list[torch.Generator] | None = None,
) -> tuple[list[Gaussian], list[Tensor]]:
    """Compute r of the K layers of level j along its means, or along draws; the draws are in units of its deviation."""
    posteriors, offsets = [], []
    for k, layer in enumerate(model.layers(j)):
        r = model.r(j, k, state, looked)
        u = torch.zeros_like(r.mu) if generators is None else temperature * _draw(r.mu, generators)
        _, state = layer.look_ahead(state)
        state = layer(state, r.mu + r.sigma * u)
        posteriors.append(r)
        offsets.append(u)
    return posteriors, offsets


def _draw(like: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Draw standard normal numbers, each slice from its own generator."""
    return torch.stack([torch.randn(like.shape[1:], generator=generator) for generator in generators]).to(like)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _decode(model: HVAE, j: int, state: Tensor, latents: list[Tensor]) -> Tensor:
    """Carry the state through the K layers of level j along given latents."""
    for layer, z in zip(model.layers(j), latents):
        _, state = layer.look_ahead(state)
        state = layer(state, z)
    return state


def _refine(
    model: HVAE,
    j: int,
    state: Tensor,
    posteriors: list[Gaussian],
    start: list[Tensor],
    y: Tensor,
    measured: Tensor,
    s: Tensor,
    shape: tuple[int, int],
    sweeps: int,
    settings: InferenceSettings,
    width: float,
) -> list[Tensor]:
    """Refine all latents of level j together: N steps down -log anchor(z_l) + beta Loss(y, hhat_j).

    IA-HVAE, eq. 7, with the sign of the density set right, and with `y` on measured bins only. The steps are taken in
    u = (z - mu_r) / sigma_r, so that one step size suits every latent; u begins at `start`, which is also where the
    anchor "posterior" holds it: 0 for r's means, or a draw from `width` times r's deviation.
    """

    def terms(*offsets: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Compute the residuals whose half squares add up to the objective with L2, and what else it has."""
        features, residuals, rest = state, [], state.new_zeros(())
        for layer, r, u, u0 in zip(model.layers(j), posteriors, offsets, start):
            z = r.mu + r.sigma * u
            prior, features = layer.look_ahead(features)
            if settings.anchor == "prior":
                rest = rest + torch.log(prior.sigma).sum()
            residuals.append((z - prior.mu) / prior.sigma if settings.anchor == "prior" else (u - u0) / width)
            features = layer(features, z)
        misfit = torch.where(measured, (y - model.head(j, features, shape)) / s, 0)
        return (*residuals, math.sqrt(2 * settings.beta) * torch.view_as_real(misfit)), rest

    with torch.enable_grad():
        offsets = [u.clone() for u in start]
        if settings.rule == "gauss-newton":
            for _ in range(sweeps):
                offsets = _gauss_newton_step(lambda *u: terms(*u)[0], offsets, settings.iterations)
        else:
            offsets = _descend(terms, offsets, sweeps, settings)
    return [(r.mu + r.sigma * u).detach() for r, u in zip(posteriors, offsets)]


def _descend(
    terms: Callable[..., tuple[tuple[Tensor, ...], Tensor]],
    start: list[Tensor],
    sweeps: int,
    settings: InferenceSettings,
) -> list[Tensor]:
    """Take steps of Adam, or plain ones along the gradient."""
    offsets = [u.requires_grad_() for u in start]
    step = STEPS[settings.rule] if settings.step is None else settings.step
    if settings.rule == "adam":
        optimiser: torch.optim.Optimizer = torch.optim.Adam(offsets, lr=step, betas=(0.9, 0.99))
    else:
        optimiser = torch.optim.SGD(offsets, lr=step)
    for _ in range(sweeps):
        (*anchors, misfit), rest = terms(*offsets)
        loss = 0.5 * misfit.square()
        if settings.loss == "l1":  # |y - hhat| / s, smooth at 0
            loss = math.sqrt(settings.beta / 2) * torch.sqrt(misfit.square().sum(dim=-1) + 1e-12)
        objective = rest + loss.sum() + sum(0.5 * residual.square().sum() for residual in anchors)
        for offset, gradient in zip(offsets, torch.autograd.grad(objective, offsets)):
            offset.grad = gradient
        optimiser.step()
    return offsets


def _gauss_newton_step(
    residuals: Callable[..., tuple[Tensor, ...]], offsets: list[Tensor], iterations: int
) -> list[Tensor]:
    """Take one Gauss-Newton step: J^T J d = -J^T R by conjugate gradients, one problem per slice.

    The data term is quadratic in hhat, so that only the network between latents and hhat is made linear. One iteration
    is steepest descent with the line search solved exactly. J^T v is linear in v, and J p the derivative of <J^T v, p>
    along v: both go through graphs that are recorded once, at half the cost of forward-mode derivatives.
    """
    offsets = [u.detach().requires_grad_() for u in offsets]
    values = residuals(*offsets)
    weights = [value.detach().requires_grad_() for value in values]
    gradients = torch.autograd.grad(values, offsets, weights, create_graph=True)
    direction = remainder = [-gradient.detach() for gradient in gradients]
    step = [torch.zeros_like(u) for u in direction]
    power = _per_slice(remainder, remainder)
    for _ in range(iterations):
        pushed = torch.autograd.grad(gradients, weights, direction, retain_graph=True)
        curved = torch.autograd.grad(values, offsets, pushed, retain_graph=True)
        length = power / _per_slice(direction, curved).clamp_min(torch.finfo(power.dtype).tiny)
        step = [d + length[:, None, None, None] * p for d, p in zip(step, direction)]
        remainder = [r - length[:, None, None, None] * c for r, c in zip(remainder, curved)]
        before, power = power, _per_slice(remainder, remainder)
        ratio = power / before.clamp_min(torch.finfo(power.dtype).tiny)
        direction = [r + ratio[:, None, None, None] * p for r, p in zip(remainder, direction)]
    return [(u + d).detach() for u, d in zip(offsets, step)]


def _per_slice(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Compute the inner product of each slice, (slices,), over lists of (slices, channels, h, w)."""
    return torch.stack([(a * b).sum(dim=(1, 2, 3)) for a, b in zip(first, second)]).sum(dim=0)


def _combine(y: Tensor, hhat: Tensor, measured: Tensor, noise: Tensor, how: str) -> Tensor:
    """Combine measured and decoded bins of a band; the decoder's variance is what its misfit shows beyond noise."""
    if how == "measured":
        return torch.where(measured, y, hhat)
    count = measured.sum(dim=(-2, -1), keepdim=True).clamp_min(1)
    misfit = torch.where(measured, _squared(y - hhat), 0).sum(dim=(-2, -1), keepdim=True) / count
    variance = (misfit - noise**2).clamp_min(0.01 * misfit)
    weight = variance / (variance + noise**2 + torch.finfo(noise.dtype).tiny)
    return torch.where(measured, weight * y + (1 - weight) * hhat, hhat)


def _squared(values: Tensor) -> Tensor:
    return values.real**2 + values.imag**2


def padded_shape(shape: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Compute the least shape whose sides are multiples of `multiple` and at least `shape`."""
    return (math.ceil(shape[0] / multiple) * multiple, math.ceil(shape[1] / multiple) * multiple)
