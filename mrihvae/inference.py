"""Reconstruction of undersampled single-coil k-space: amortised and hybrid inference, band by band.

The data term of y = M F x + n separates over bands (IA-HVAE, section 2.1, eq. 6), so the latents of a level are
inferred, and refined against the measured bins of their own band, before the next level begins (Algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mrihvae.bands import band_mask, grids, merge, split
from mrihvae.fourier import centre_crop, centre_pad, ifft2c, resize_kspace
from mrihvae.model import HVAE, Gaussian
from mrihvae.units import noise_std, scale_of

COMBINATIONS = ("measured", "variance")
LOSSES = ("l2", "l1")


@dataclass(frozen=True)
class InferenceSettings:
    """How latents are inferred.

    Attributes
    ----------
    sweeps : N, refinement steps over all latents of a level; 0 is the amortised answer
    step : lambda, the size of an Adam step, in units of each latent's prior deviation
    beta : weight of the data term against the prior's negative log-density
    loss : "l2", |y - hhat|^2 / s^2, the posterior's own, or "l1", |y - hhat| / s, on measured bins
    combine : what measured bins become: "measured" keeps y; "variance" weighs y and hhat by their variances
    """

    sweeps: int = 10
    step: float = 0.05
    beta: float = 1.0
    loss: str = "l2"
    combine: str = "measured"

    def __post_init__(self) -> None:
        if self.sweeps < 0 or self.step <= 0 or self.beta < 0:
            raise ValueError("sweeps and beta must be at least 0, step above 0")
        if self.loss not in LOSSES:
            raise ValueError(f"loss '{self.loss}' is unknown; choose one of {', '.join(LOSSES)}")
        if self.combine not in COMBINATIONS:
            raise ValueError(f"combine '{self.combine}' is unknown; choose one of {', '.join(COMBINATIONS)}")


def reconstruct(model: HVAE, kspace: Tensor, mask: Tensor, settings: InferenceSettings | None = None) -> Tensor:
    """Reconstruct slices of undersampled single-coil k-space.

    Each slice is treated by itself: its result does not depend on the others in the batch.

    Parameters
    ----------
    model : trained weights
    kspace : complex64 (slices, H, W), any H and W, any physical scale; what is not measured is ignored
    mask : bool, broadcast to (H, W), True where measured; lines along either axis
    settings : see `InferenceSettings`

    Returns
    -------
    complex64 images (slices, H, W), in the physical scale of `kspace`
    """
    settings = settings or InferenceSettings()
    shape = (kspace.shape[-2], kspace.shape[-1])
    mask = mask.to(device=kspace.device, dtype=torch.bool).expand(shape)
    if bool((mask == mask[:, :1]).all()) and not bool((mask == mask[:1]).all()):
        return reconstruct(model, kspace.mT, mask.mT, settings).mT  # the network has learnt lines along H
    padded = padded_shape(shape, model.settings.multiple)
    # padding k-space, not the image, keeps measured bins on the grid; the bins beyond are known to be 0
    known = centre_pad(mask, padded, value=True).expand(len(kspace), *padded)
    measured = resize_kspace(torch.where(mask, kspace, torch.zeros((), dtype=kspace.dtype)), padded)
    scale = scale_of(measured)[:, None, None]
    noise = noise_std(measured) / scale.flatten()
    with torch.no_grad():
        estimate = infer(model, measured / scale, known, noise, settings)
    return ifft2c(resize_kspace(estimate * scale, shape))


def infer(model: HVAE, measured: Tensor, mask: Tensor, noise: Tensor, settings: InferenceSettings) -> Tensor:
    """Infer complete k-space from measured k-space in model units (methods: hybrid inference, scale by scale).

    Parameters
    ----------
    measured : y, complex (slices, H, W), sizes multiples of the model's `multiple`, 0 where not measured
    mask : M, bool (slices, H, W)
    noise : (slices,) standard deviation of the noise per complex bin

    Returns
    -------
    complex (slices, H, W): the decoder's bins, and on measured bins what `settings.combine` says
    """
    shape = (measured.shape[-2], measured.shape[-1])
    levels = model.settings.levels
    y, m = split(measured, levels), [centre_crop(mask, grid) for grid in grids(shape, levels)]
    s = torch.sqrt(model.settings.noise_floor**2 + noise**2)[:, None, None]
    features = model.r.features(measured, mask)
    state = model.begin(len(measured), shape)
    known, bands = measured, []
    for j in range(levels):
        state = model.enter(j, state)
        looked = model.r.look(j, state, features[j], model.known_image(j, known))
        latents, _ = _walk(model, j, state, looked=looked)
        band = band_mask(shape, levels, j).to(mask.device) & m[j]
        if settings.sweeps:
            latents = _refine(model, j, state, latents, y[j], band, s, shape, settings)
        _, state = _walk(model, j, state, latents=latents)
        hhat = model.head(j, state, shape)
        h = _combine(y[j], hhat, band, noise[:, None, None], settings.combine)
        known = torch.where(mask, known, known + centre_pad(hhat, shape))
        bands.append(h)
    return merge(bands)


def _walk(
    model: HVAE, j: int, state: Tensor, looked: Tensor | None = None, latents: list[Tensor] | None = None
) -> tuple[list[Tensor], Tensor]:
    """Go through the K layers of level j along r's means, or along given latents: the latents and the new state."""
    taken = []
    for k, layer in enumerate(model.layers(j)):
        z = latents[k] if latents is not None else model.r(j, k, state, looked).mu
        _, state = layer.look_ahead(state)
        state = layer(state, z)
        taken.append(z)
    return taken, state


def _refine(
    model: HVAE,
    j: int,
    state: Tensor,
    latents: list[Tensor],
    y: Tensor,
    measured: Tensor,
    s: Tensor,
    shape: tuple[int, int],
    settings: InferenceSettings,
) -> list[Tensor]:
    """Refine all latents of level j together: N steps down -log p(z_l | z_<l) + beta Loss(y, hhat_j).

    IA-HVAE, eq. 7, with the prior's sign set right, and with `y` on measured bins only. The steps are Adam's on
    u = (z - mu) / sigma of the prior at the first guess, so that one step size suits every latent.
    """
    with torch.enable_grad():
        spread = [prior.sigma for prior in _priors(model, j, state, latents)]
        offsets = [torch.zeros_like(z, requires_grad=True) for z in latents]
        optimiser = torch.optim.Adam(offsets, lr=settings.step, betas=(0.9, 0.99))
        for _ in range(settings.sweeps):
            z = [start + width * u for start, width, u in zip(latents, spread, offsets)]
            objective, features = state.new_zeros(()), state
            for layer, z_l in zip(model.layers(j), z):
                prior, features = layer.look_ahead(features)
                objective = objective + (0.5 * ((z_l - prior.mu) / prior.sigma) ** 2 + torch.log(prior.sigma)).sum()
                features = layer(features, z_l)
            residual = torch.where(measured, (y - model.head(j, features, shape)) / s, 0)
            loss = _squared(residual) if settings.loss == "l2" else torch.sqrt(_squared(residual) + 1e-12)
            objective = objective + settings.beta * loss.sum()
            for u, gradient in zip(offsets, torch.autograd.grad(objective, offsets)):
                u.grad = gradient
            optimiser.step()
    return [(start + width * u).detach() for start, width, u in zip(latents, spread, offsets)]


def _priors(model: HVAE, j: int, state: Tensor, latents: list[Tensor]) -> Iterator[Gaussian]:
    """Compute p(z_l | z_<l) of level j's layers along given latents."""
    with torch.no_grad():
        for layer, z in zip(model.layers(j), latents):
            prior, state = layer.look_ahead(state)
            yield prior
            state = layer(state, z)


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
