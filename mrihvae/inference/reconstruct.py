"""Reconstruction of undersampled single-coil k-space: amortised and hybrid inference, band by band.

The data term of y = M F x + n separates over bands (IA-HVAE, section 2.1, eq. 6), so the latents of a level are
inferred, and refined against the measured bins of their own band, before the next level begins (Algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.inference import latents as iahvae
from mrihvae.inference.coil_problem import pose_coils
from mrihvae.inference.encoders import from_measured
from mrihvae.inference.latents import likelihood_std, mixed_seed, normal
from mrihvae.inference.problem import Undersampled, pose
from mrihvae.inference.settings import InferenceSettings, Sweeps
from mrihvae.inference.views import view
from mrihvae.model.hvae import HVAE
from mrihvae.utils.precision import arithmetic


def reconstruct(
    model: HVAE,
    kspace: Tensor,
    mask: Tensor,
    settings: InferenceSettings | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Reconstruct slices of undersampled single-coil k-space.

    Each slice is treated by itself: its result does not depend on the others in the batch.

    Parameters
    ----------
    model : trained weights
    kspace : complex64 (slices, H, W), any H and W, any physical scale; what is not measured is ignored
    mask : bool, broadcast to (H, W), True where measured: lines along either axis, or any pattern
    settings : see `InferenceSettings`
    noise : standard deviation of the noise per complex sample in the scale of `kspace`, (slices,); left out, it is
        estimated (`mrihvae.physics.noise.noise_std`)

    Returns
    -------
    complex64 images (slices, H, W), in the physical scale of `kspace`, on the model's device

    Raises
    ------
    InputError
        K-space or mask of another shape.
    """
    return solve(model, pose(model, kspace, mask, noise), settings or InferenceSettings())


def solve(model: HVAE, problem: Undersampled, settings: InferenceSettings) -> Tensor:
    """Reconstruct the slices of a problem: complex64 images (slices, H, W) in physical scale."""
    with torch.no_grad(), arithmetic(model.start.device, settings.precision):
        if settings.rounds == 1:
            return problem.images(problem.finish(_mean_over_views(model, problem, settings, settings.sweeps)))
        guess = first_estimate(model, problem, settings)
        return problem.images(problem.finish(_look_again(model, problem, guess, settings, settings.sweeps)))


def sample(
    model: HVAE,
    kspace: Tensor,
    mask: Tensor,
    samples: int,
    settings: InferenceSettings | None = None,
    seed: int = 0,
    first: int = 0,
    noise: Tensor | None = None,
) -> Tensor:
    """Draw posterior samples of slices of undersampled single-coil k-space.

    Latents are drawn from r in one round, number n in view n of the scan. With `sweeps`, each draw is refined against
    measurements with noise of their own (randomise-then-optimise, Bardsley et al. 2014), which keeps the spread.

    Parameters
    ----------
    kspace, mask, noise : as for `reconstruct`
    samples : number of samples
    seed : equal seeds give equal samples, whatever the batch
    first : number of the first slice in its volume: every slice has draws of its own

    Returns
    -------
    complex64 images (samples, slices, H, W), free of the scan's noise where nothing was measured
    """
    return draw(model, pose(model, kspace, mask, noise), samples, settings or InferenceSettings(), seed, first)


def draw(
    model: HVAE, problem: Undersampled, samples: int, settings: InferenceSettings, seed: int = 0, first: int = 0
) -> Tensor:
    """Draw posterior samples of the slices of a problem, as `sample` does: complex64 (samples, slices, H, W)."""
    if samples < 1:
        raise InputError(f"{samples} samples: draw at least 1")
    if settings.refines and settings.anchor != "posterior":
        raise InputError("samples are refined with anchor 'posterior', which holds draws; leave out the other anchor")
    drawn = []
    with torch.no_grad(), arithmetic(model.start.device, settings.precision):
        views = [problem.seen(number) for number in range(min(settings.views, samples))]
        guesses = [seen.guess(model) for seen in views]
        for number in range(samples):
            which = number % len(views)
            seeds = (mixed_seed(seed, number, first + k) for k in range(len(problem.scale)))
            generators = [torch.Generator().manual_seed(one) for one in seeds]
            seen = views[which]
            found = seen.finish(infer(model, seen, guesses[which], settings, settings.sweeps, generators))
            drawn.append(problem.images(view(found, which)))
    return torch.stack(drawn)


def first_estimate(model: HVAE, problem: Undersampled, settings: InferenceSettings) -> Tensor:
    """Compute the guess for the last round, complex (slices, H, W): the first one, taken through all rounds before."""
    if settings.rounds == 1:
        return problem.guess(model)
    guess = problem.settle(_mean_over_views(model, problem, settings, 0))
    for _ in range(settings.rounds - 2):
        guess = problem.settle(_look_again(model, problem, guess, settings, 0))
    return guess


def _mean_over_views(model: HVAE, problem: Undersampled, settings: InferenceSettings, sweeps: Sweeps) -> Tensor:
    """Do the first round in every view, each from its own first guess, and average in k-space."""
    total: Tensor | float = 0.0
    for number in range(settings.views):
        seen = problem.seen(number)
        total = total + view(infer(model, seen, seen.guess(model), settings, sweeps), number)
    return cast(Tensor, total) / settings.views


def _look_again(
    model: HVAE, problem: Undersampled, guess: Tensor, settings: InferenceSettings, sweeps: Sweeps
) -> Tensor:
    """Do a further round, and blend it with its guess where nothing was measured."""
    found = infer(model, problem, guess, settings, sweeps)
    return torch.where(problem.mask, found, guess + settings.blend * (found - guess))


def infer(
    model: HVAE,
    problem: Undersampled,
    guess: Tensor,
    settings: InferenceSettings,
    sweeps: Sweeps,
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
    s = likelihood_std(model, problem.noise)
    draw, width, noisy = None, 1.0, None
    if generators is not None:
        draw, width = partial(normal, generators=generators), settings.temperature
        noisy = partial(_with_noise, s=s[:, None, None], draw=draw)
    elif settings.start == "sample":
        draw = partial(normal, generators=[torch.Generator().manual_seed(0) for _ in guess])

    def combine(bins: Tensor, hhat: Tensor, measured: Tensor) -> Tensor:
        return _combine(bins, hhat, measured, problem.noise[:, None, None], settings.combine)

    measured, mask = problem.measured_bins(guess), problem.mask
    encoder = from_measured(model, guess, measured, mask)
    chosen = replace(settings, sweeps=sweeps)
    return iahvae.infer(model, encoder, measured, mask, s, chosen, draw, width, noisy, combine).kspace


def _with_noise(bins: Tensor, s: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Add white complex noise of deviation s."""
    return bins + s * torch.complex(draw(bins.real), draw(bins.real)) / 2**0.5


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


def reconstruct_coils(
    model: HVAE,
    kspace: Tensor,
    mask: Tensor,
    maps: Tensor,
    settings: InferenceSettings | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Reconstruct slices of undersampled multi-coil k-space (methods: together, with coils).

    Parameters
    ----------
    model : trained weights, such as "multicoil"
    kspace : complex64 (slices, coils, H, W), any H and W, any physical scale; what is not measured is ignored
    mask : bool, broadcast to (H, W), True where measured
    maps : complex (slices or 1, coils, H, W), of root-sum-of-squares 1 or 0
    settings : see `InferenceSettings`
    noise : standard deviation of the noise per complex sample of a coil in the scale of `kspace`, (slices,); left out,
        it is estimated (`mrihvae.physics.noise.background_noise`)

    Returns
    -------
    complex64 coil-combined images (slices, H, W), in the physical scale of `kspace`, on the model's device

    Raises
    ------
    InputError
        K-space, mask or maps of another shape.
    """
    return solve(model, pose_coils(model, kspace, mask, maps, noise), settings or InferenceSettings())
