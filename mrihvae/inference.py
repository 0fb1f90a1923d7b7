"""Reconstruction of undersampled single-coil k-space: amortised and hybrid inference, band by band.

The data term of y = M F x + n separates over bands (IA-HVAE, section 2.1, eq. 6), so the latents of a level are
inferred, and refined against the measured bins of their own band, before the next level begins (Algorithm 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


@dataclass(frozen=True)
class InferenceSettings:
    """How latents are inferred.

    Attributes
    ----------
    sweeps : N, refinement steps over all latents of a level; 0 is the amortised answer
    step : lambda, the size of an Adam step, in units of each latent's deviation under r
    anchor : what the data term is weighed against: "prior", -log p(z_l | z_<l), as in IA-HVAE, or "posterior",
        -log r(z_l | z_<l, y, M), which keeps what r has seen in the data: 0.1 to 0.2 dB better on training scans
    beta : weight of the data term against the anchor
    loss : "l2", |y - hhat|^2 / s^2, the posterior's own, or "l1", |y - hhat| / s, on measured bins
    combine : what measured bins become: "measured" keeps y; "variance" weighs y and hhat by their variances
    """

    sweeps: int = 8
    step: float = 0.3
    anchor: str = "posterior"
    beta: float = 1.0
    loss: str = "l2"
    combine: str = "measured"

    def __post_init__(self) -> None:
        if self.sweeps < 0 or not 0 < self.step < math.inf or not 0 <= self.beta < math.inf:
            raise ValueError(f"sweeps {self.sweeps} and beta {self.beta} must be at least 0, step {self.step} above 0")
        if self.anchor not in ANCHORS:
            raise ValueError(f"anchor '{self.anchor}' is unknown; choose one of {', '.join(ANCHORS)}")
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
    complex64 images (slices, H, W), in the physical scale of `kspace`, on the model's device

    Raises
    ------
    InputError
        K-space or mask of another shape.
    """
    settings = settings or InferenceSettings()
    if kspace.ndim != 3 or not kspace.is_complex():
        raise InputError(f"k-space is {kspace.dtype} of shape {tuple(kspace.shape)}; give complex (slices, H, W)")
    shape = (kspace.shape[-2], kspace.shape[-1])
    if mask.ndim > 2 or any(have not in (1, want) for have, want in zip(mask.shape[::-1], shape[::-1])):
        raise InputError(f"mask of shape {tuple(mask.shape)} does not fit k-space of {shape}; give (W,) or (H, W)")
    kspace = kspace.to(device=model.start.device, dtype=torch.complex64)
    mask = mask.to(device=kspace.device, dtype=torch.bool).expand(shape)
    if bool((mask == mask[:, :1]).all()) and not bool((mask == mask[:1]).all()):
        return reconstruct(model, kspace.mT, mask.mT, settings).mT  # the network has learnt lines along H
    padded = padded_shape(shape, model.settings.multiple)
    # padding k-space, not the image, keeps measured bins on the grid; the bins beyond are known to be 0
    known = centre_pad(mask, padded, value=True).expand(len(kspace), *padded)
    kept = torch.where(mask, kspace, torch.zeros((), dtype=kspace.dtype))
    measured = resize_kspace(kept, padded)
    scale = scale_of(measured)[:, None, None]
    noise = noise_std(kept) / scale.flatten()
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
        guess = _guess(model, j, state, looked)
        latents = [r.mu for r in guess]
        band = band_mask(shape, levels, j).to(mask.device) & m[j]
        if settings.sweeps:
            latents = _refine(model, j, state, guess, y[j], band, s, shape, settings)
        state = _decode(model, j, state, latents)
        hhat = model.head(j, state, shape)
        h = _combine(y[j], hhat, band, noise[:, None, None], settings.combine)
        known = torch.where(mask, known, known + centre_pad(hhat, shape))
        bands.append(h)
    return merge(bands)


def _guess(model: HVAE, j: int, state: Tensor, looked: Tensor) -> list[Gaussian]:
    """Compute r of the K layers of level j along its means."""
    guess = []
    for k, layer in enumerate(model.layers(j)):
        guess.append(model.r(j, k, state, looked))
        _, state = layer.look_ahead(state)
        state = layer(state, guess[-1].mu)
    return guess


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
    guess: list[Gaussian],
    y: Tensor,
    measured: Tensor,
    s: Tensor,
    shape: tuple[int, int],
    settings: InferenceSettings,
) -> list[Tensor]:
    """Refine all latents of level j together: N steps down -log anchor(z_l) + beta Loss(y, hhat_j).

    IA-HVAE, eq. 7, with the sign of the density set right, and with `y` on measured bins only. The steps are Adam's on
    u = (z - mu_r) / sigma_r, so that one step size suits every latent.
    """
    with torch.enable_grad():
        offsets = [torch.zeros_like(r.mu, requires_grad=True) for r in guess]
        optimiser = torch.optim.Adam(offsets, lr=settings.step, betas=(0.9, 0.99))
        for _ in range(settings.sweeps):
            objective, features = state.new_zeros(()), state
            latents = [r.mu + r.sigma * u for r, u in zip(guess, offsets)]
            for layer, z, u in zip(model.layers(j), latents, offsets):
                prior, features = layer.look_ahead(features)
                if settings.anchor == "prior":
                    objective = objective + torch.log(prior.sigma).sum()
                deviation = (z - prior.mu) / prior.sigma if settings.anchor == "prior" else u
                objective = objective + 0.5 * deviation.square().sum()
                features = layer(features, z)
            residual = torch.where(measured, (y - model.head(j, features, shape)) / s, 0)
            loss = _squared(residual) if settings.loss == "l2" else torch.sqrt(_squared(residual) + 1e-12)
            objective = objective + settings.beta * loss.sum()
            for offset, gradient in zip(offsets, torch.autograd.grad(objective, offsets)):
                offset.grad = gradient
            optimiser.step()
    return [(r.mu + r.sigma * u).detach() for r, u in zip(guess, offsets)]


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
