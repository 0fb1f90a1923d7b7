"""Reconstruction of undersampled k-space, of one coil or several: amortized and hybrid inference, band by band.

The data term of y = M F x + n separates over bands (IA-HVAE, section 2.1, eq. 6), so the latents of a level are
inferred, and refined against the acquired k-space samples of their own band, before the next level begins (Algorithm
1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.inference import latents as iahvae
from mrihvae.inference.encoders import measurement_encoder
from mrihvae.inference.latents import likelihood_std, mixed_seed, normal
from mrihvae.inference.preparation import prepare
from mrihvae.inference.problem import Problem
from mrihvae.inference.settings import InferenceSettings, RefinementSettings, Sweeps
from mrihvae.inference.views import view
from mrihvae.model.bands import band_on_grid
from mrihvae.model.hvae import HVAE
from mrihvae.utils.precision import arithmetic

SAMPLING = InferenceSettings(refinement=RefinementSettings(sweeps=0))  # as r draws samples, for which it is calibrated


def reconstruct(
    model: HVAE,
    kspace: Tensor,
    mask: Tensor,
    maps: Tensor | None = None,
    settings: InferenceSettings | None = None,
    noise: Tensor | None = None,
    tv_shares: Sequence[float] = (),
) -> Tensor:
    """Reconstruct slices of undersampled k-space y = M F S x + n, of one coil or several.

    Each slice is treated by itself: its result does not depend on the others in the batch.

    Parameters
    ----------
    model : trained weights, such as "default" for one coil and "multicoil" for several
    kspace : complex64 (slices, H, W), or with maps (slices, coils, H, W); any H and W, any physical scale; what is not
        acquired is ignored
    mask : bool, broadcast to (H, W), True where acquired: lines along either axis, or any pattern
    maps : complex (slices or 1, coils, H, W), of root-sum-of-squares 1 or 0; None for k-space of one coil
    settings : see `InferenceSettings`
    noise : standard deviation of the noise per complex sample of a coil in the scale of `kspace`, (slices,); None to
        estimate it (`mrihvae.physics.noise_std`)
    tv_shares : of total variation in each band, as `mrihvae.inference.tv_shares` finds them for a scan; none for none

    Returns
    -------
    complex64 images (slices, H, W), coil-combined, in the physical scale of `kspace`, on the model's device

    Raises
    ------
    InputError
        K-space, mask or maps of another shape.

    Examples
    --------
    >>> import torch
    >>> import mrihvae
    >>> from mrihvae.inference.reconstruct import reconstruct
    >>> _ = torch.manual_seed(0)
    >>> kspace = torch.randn(2, 32, 32, dtype=torch.complex64)
    >>> reconstruct(mrihvae.load_model("default"), kspace, torch.arange(32) % 2 == 0).shape
    torch.Size([2, 32, 32])

    References
    ----------
    * "Iterative Amortized Hierarchical VAE" (IA-HVAE), https://doi.org/10.48550/arXiv.2601.15894
    """
    return solve(model, prepare(model, kspace, mask, maps, noise), settings or InferenceSettings(), tv_shares)


def solve(model: HVAE, problem: Problem, settings: InferenceSettings, tv_shares: Sequence[float] = ()) -> Tensor:
    """Reconstruct the slices of a problem from `prepare`; `tv_shares` are those of `reconstruct`.

    Returns
    -------
    complex64 images (slices, H, W) in physical scale

    Examples
    --------
    >>> import torch
    >>> import mrihvae
    >>> from mrihvae.inference import InferenceSettings, prepare, solve
    >>> _ = torch.manual_seed(0)
    >>> model = mrihvae.load_model("default")
    >>> problem = prepare(model, torch.randn(2, 32, 32, dtype=torch.complex64), torch.arange(32) % 2 == 0)
    >>> solve(model, problem, InferenceSettings(views=1, rounds=1)).shape
    torch.Size([2, 32, 32])
    """
    with torch.no_grad(), arithmetic(model.start.device, settings.precision):
        found = infer_kspace(model, problem, settings)
        return problem.images(problem.finish(_blend_with_tv(found, problem, tv_shares)))


def _blend_with_tv(kspace: Tensor, problem: Problem, shares: Sequence[float]) -> Tensor:
    """Blend full k-space with that of total variation, by a share for each band, where nothing was acquired."""
    if not any(shares):
        return kspace
    weight = torch.zeros(problem.padded, device=kspace.device)
    for j, share in enumerate(shares):
        weight += share * band_on_grid(problem.padded, len(shares), j).to(weight)
    return torch.where(problem.mask, kspace, kspace + weight * (problem.total_variation() - kspace))


def infer_kspace(model: HVAE, problem: Problem, settings: InferenceSettings) -> Tensor:
    """Infer full k-space of a problem in all rounds, before it is made consistent with the data: (slices, H', W')."""
    sweeps = settings.refinement.sweeps
    if settings.rounds == 1:
        return _mean_over_views(model, problem, settings, sweeps)
    return _further_round(model, problem, first_estimate(model, problem, settings), settings, sweeps)


def sample(
    model: HVAE,
    kspace: Tensor,
    mask: Tensor,
    samples: int,
    maps: Tensor | None = None,
    settings: InferenceSettings | None = None,
    seed: int = 0,
    first: int = 0,
    noise: Tensor | None = None,
) -> Tensor:
    """Return posterior samples of slices of undersampled k-space.

    Latents are drawn from r in one encoder pass, for sample n with test-time augmentation n. With `sweeps`, each sample
    is refined against data with added noise (randomize-then-optimize, Bardsley et al. 2014), which keeps the spread.

    Parameters
    ----------
    kspace, mask, maps, noise : as for `mrihvae.inference.reconstruct.reconstruct`
    samples : number of samples
    settings : see `InferenceSettings`; None for samples without refinement
    seed : equal seeds give equal samples, regardless of the batch
    first : number of the first slice in its volume: every slice has its own random numbers

    Returns
    -------
    complex64 images (samples, slices, H, W), free of the scan's noise where nothing was acquired

    Examples
    --------
    >>> import torch
    >>> import mrihvae
    >>> from mrihvae.inference import sample
    >>> _ = torch.manual_seed(0)
    >>> kspace = torch.randn(1, 32, 32, dtype=torch.complex64)
    >>> sample(mrihvae.load_model("default"), kspace, torch.arange(32) % 2 == 0, samples=3).shape
    torch.Size([3, 1, 32, 32])
    """
    problem = prepare(model, kspace, mask, maps, noise)
    return draw(model, problem, samples, settings or SAMPLING, seed, first)


def draw(
    model: HVAE, problem: Problem, samples: int, settings: InferenceSettings, seed: int = 0, first: int = 0
) -> Tensor:
    """Draw posterior samples of the slices of a problem, as `sample` does: complex64 (samples, slices, H, W)."""
    if samples < 1:
        raise InputError(f"{samples} samples: draw at least 1")
    if settings.refinement.refines and settings.refinement.anchor != "posterior":
        raise InputError("samples can only be refined with anchor 'posterior'; leave out anchor")
    drawn, sweeps = [], settings.refinement.sweeps
    with torch.no_grad(), arithmetic(model.start.device, settings.precision):
        views = [problem.view(number) for number in range(min(settings.views, samples))]
        guesses = [viewed.guess(model) for viewed in views]
        for number in range(samples):
            which = number % len(views)
            seeds = (mixed_seed(seed, number, first + k) for k in range(len(problem.scale)))
            generators = [torch.Generator().manual_seed(slice_seed) for slice_seed in seeds]
            viewed = views[which]
            found = viewed.finish(infer(model, viewed, guesses[which], settings, sweeps, generators))
            drawn.append(problem.images(view(found, which)))
    return torch.stack(drawn)


def first_estimate(model: HVAE, problem: Problem, settings: InferenceSettings) -> Tensor:
    """Compute the guess for the last round, complex (slices, H, W): the first one, taken through all rounds before."""
    if settings.rounds == 1:
        return problem.guess(model)
    guess = problem.make_consistent(_mean_over_views(model, problem, settings, 0))
    for _ in range(settings.rounds - 2):
        guess = problem.make_consistent(_further_round(model, problem, guess, settings, 0))
    return guess


def _mean_over_views(model: HVAE, problem: Problem, settings: InferenceSettings, sweeps: Sweeps) -> Tensor:
    """Run the first round in every view, each from its own first guess, and average in k-space."""
    total: Tensor | float = 0.0
    for number in range(settings.views):
        viewed = problem.view(number)
        total = total + view(infer(model, viewed, viewed.guess(model), settings, sweeps), number)
    return cast(Tensor, total) / settings.views


def _further_round(model: HVAE, problem: Problem, guess: Tensor, settings: InferenceSettings, sweeps: Sweeps) -> Tensor:
    """Run a further round, and blend it with its guess where nothing was acquired."""
    found = infer(model, problem, guess, settings, sweeps)
    return torch.where(problem.mask, found, guess + settings.blend * (found - guess))


def infer(
    model: HVAE,
    problem: Problem,
    guess: Tensor,
    settings: InferenceSettings,
    sweeps: Sweeps,
    generators: list[torch.Generator] | None = None,
) -> Tensor:
    """Infer full k-space in one round (methods: hybrid inference, scale by scale).

    Parameters
    ----------
    guess : full k-space that r is given, complex (slices, H, W)
    sweeps : refinement steps per level
    generators : one per slice, to draw latents from r; None to start at r's means

    Returns
    -------
    complex (slices, H, W): decoded k-space, with data consistency by `settings.combine` where samples were acquired
    """
    s = likelihood_std(model, problem.noise)
    draw, width, noisy = None, 1.0, None
    if generators is not None:
        draw, width = partial(normal, generators=generators), settings.temperature
        noisy = partial(_with_noise, s=s[:, None, None], draw=draw)
    elif settings.refinement.start == "sample":
        draw = partial(normal, generators=[torch.Generator().manual_seed(0) for _ in guess])

    def combine(bins: Tensor, hhat: Tensor, measured: Tensor) -> Tensor:
        return _combine(bins, hhat, measured, problem.noise[:, None, None], settings.combine)

    measured, mask = problem.measured_bins(guess), problem.mask
    encoder = measurement_encoder(model, guess, measured, mask)
    chosen = replace(settings.refinement, sweeps=sweeps)
    return iahvae.infer(model, encoder, measured, mask, s, chosen, draw, width, noisy, combine).kspace


def _with_noise(bins: Tensor, s: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Add white complex noise of standard deviation s."""
    return bins + s * torch.complex(draw(bins.real), draw(bins.real)) / 2**0.5


def _combine(y: Tensor, hhat: Tensor, measured: Tensor, noise: Tensor, how: str) -> Tensor:
    """Combine acquired and decoded k-space of a band; the decoder's variance is its misfit beyond the noise."""
    if how == "measured":
        return torch.where(measured, y, hhat)
    count = measured.sum(dim=(-2, -1), keepdim=True).clamp_min(1)
    misfit = torch.where(measured, _abs2(y - hhat), 0).sum(dim=(-2, -1), keepdim=True) / count
    variance = (misfit - noise**2).clamp_min(0.01 * misfit)
    weight = variance / (variance + noise**2 + torch.finfo(noise.dtype).tiny)
    return torch.where(measured, weight * y + (1 - weight) * hhat, hhat)


def _abs2(values: Tensor) -> Tensor:
    return values.real**2 + values.imag**2
