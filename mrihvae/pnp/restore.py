"""Image restoration by PnP-HVAE in the units of the data: checks, scaling, posteriors and the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.model.hvae import HVAE
from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.degradations import Inpainting
from mrihvae.physics.fourier import apply_mask
from mrihvae.physics.mri import MaskedFourier
from mrihvae.physics.noise import MIN_NOISE
from mrihvae.physics.operators import Operator, to_device
from mrihvae.physics.scaling import image_scale
from mrihvae.pnp.degraded import BEGINNING, VIEWS, DegradedPosterior, ReflectionPadding
from mrihvae.pnp.loop import CompletePosterior, PosteriorView, Restored, restore
from mrihvae.pnp.settings import PnPSettings
from mrihvae.utils.precision import arithmetic


def restore_images(
    model: HVAE,
    operator: Operator,
    data: Tensor,
    noise: Tensor | float,
    settings: PnPSettings | None = None,
    start: Tensor | None = None,
    progress: Callable[[int], None] = lambda iteration: None,
    first: int = 0,
) -> Restored:
    """Restore images from y = A x + n by PnP-HVAE.

    Each iteration infers the latents z of x, decodes them to mu(z), and takes the proximal step
    x = argmin_x |A x - y|^2 / sigma^2 + beta |x - mu(z)|^2 / gamma^2.

    Parameters
    ----------
    model : weights with r for degraded images, or any for scans with `PnPSettings.encoder` "complete"
    operator : A, see `mrihvae.physics`
    data : y, real or complex (slices, h, w), in any unit; images are real if y is real. Values that a mask marks as
        unknown may be anything
    noise : standard deviation of the noise in each value of `data`, one for all or (slices,); sqrt(E|n|^2) for complex
        noise
    settings : see `PnPSettings`
    start : initial x, (slices, H, W) in the unit of the image; None: r's first guess, or without r that of the data
    progress : called with the number of each iteration when it is finished
    first : number of the first slice in its volume; only random draws depend on it

    Returns
    -------
    see `mrihvae.pnp.Restored`; images in the unit of `data`, on the model's device

    Raises
    ------
    InputError
        Data or a start of another shape, not finite or all zero, noise below 0, or weights without the posterior that
        the settings choose.

    Examples
    --------
    >>> import torch
    >>> import mrihvae
    >>> from mrihvae.physics import denoising
    >>> _ = torch.manual_seed(0)
    >>> image = torch.zeros(1, 64, 64)
    >>> image[:, 16:48, 20:44] = 1
    >>> noisy = image + 0.1 * torch.randn(1, 64, 64)
    >>> restored = mrihvae.restore_images(mrihvae.load_model("restoration"), denoising(), noisy, noise=0.1)
    >>> bool((restored.decoded - image).norm() < 0.5 * (noisy - image).norm())
    True

    References
    ----------
    * Prost et al. 2023 (PnP-HVAE), https://doi.org/10.48550/arXiv.2303.11217
    """
    settings = settings or PnPSettings()
    if data.ndim != 3:
        raise InputError(f"data are of shape {tuple(data.shape)}; give (slices, h, w)")
    device = model.start.device
    operator = to_device(operator, device)
    data, noise = _check_data(operator, data.to(device, torch.complex64 if data.is_complex() else torch.float32), noise)
    with torch.no_grad():
        image = _first_image(operator, data)
        real = not data.is_complex()
        term, scale = in_model_units(LeastSquares(operator, data, noise, real), image)
        if bool((scale <= torch.finfo(scale.dtype).tiny).any()):
            raise InputError("an image of the data is zero everywhere; leave it out")
        factor = scale[:, None, None]
        if start is not None and (start.shape != image.shape or not torch.isfinite(start).all()):
            raise InputError(f"start is of shape {tuple(start.shape)}, or not finite; give finite {tuple(image.shape)}")
        posteriors, initial = make_posteriors(model, term, settings, image / factor)
        initial = initial if start is None else start.to(initial) / factor
        found = restore(model, term, posteriors, initial, settings, progress, first)
    return replace(found, decoded=found.decoded * factor, image=found.image * factor)


def _check_data(operator: Operator, data: Tensor, noise: Tensor | float) -> tuple[Tensor, Tensor]:
    """Check data (slices, h, w), 0 where masks say that they are not known, and the noise, (slices,)."""
    if isinstance(operator, Inpainting | MaskedFourier):
        data = apply_mask(data, _mask_for(operator.mask, data))
    if not torch.isfinite(data).all():
        raise InputError("data hold NaN or infinite values; give finite ones")
    noise = torch.as_tensor(noise, dtype=torch.float32, device=data.device)
    if noise.ndim > 1 or noise.numel() not in (1, len(data)):
        raise InputError(
            f"noise has shape {tuple(noise.shape)} for {len(data)} images; give one number, or one per image"
        )
    noise = noise.expand(len(data))
    if not bool((noise >= 0).all()) or not bool(torch.isfinite(noise).all()):
        raise InputError(f"noise {noise.tolist()} must be at least 0")
    return data, noise


def in_model_units(term: LeastSquares, first: Tensor | None = None) -> tuple[LeastSquares, Tensor]:
    """Scale data such that the 99th percentile of their first image is 1; return them and the scale, (slices,).

    Parameters
    ----------
    first : the first image, if it is there already
    """
    scale = image_scale(term.first_image() if first is None else first)
    term = term.scaled(scale)
    return replace(term, noise=term.noise.clamp_min(MIN_NOISE)), scale


def make_posteriors(
    model: HVAE, term: LeastSquares, settings: PnPSettings, first: Tensor | None = None
) -> tuple[list[PosteriorView], Tensor]:
    """Return the posteriors of degraded images in model units, one a view, and the image to begin with.

    Parameters
    ----------
    first : the term's first image, if it is there already

    Raises
    ------
    InputError
        Weights without the requested posterior, or refinement with one that has nothing to refine against.
    """
    first = term.first_image() if first is None else first
    shape = (first.shape[-2], first.shape[-1])
    order = VIEWS[: min(settings.views, 4)] if term.real else VIEWS[: settings.views]  # conjugates of real images
    if settings.encoder == "complete":
        if model.settings.real:
            raise InputError("these weights are for pictures, not for scans; choose others, such as default")
        frames = [ReflectionPadding(model, shape, term.real, number) for number in order]
        return [CompletePosterior(model, frame, term.real) for frame in frames], term.prox(first, BEGINNING)
    if not model.settings.degraded:
        raise InputError("these weights have no posterior for degraded images; choose restoration, or encoder complete")
    if settings.sweeps:
        raise InputError("sweeps: need encoder complete; leave them out")
    posteriors = [DegradedPosterior(model, term, number, first) for number in order]
    with arithmetic(model.start.device, settings.precision):
        guesses = [posterior.image(posterior.guesses()[-1].to(torch.complex64)) for posterior in posteriors]
    return list(posteriors), torch.stack(guesses).mean(dim=0)


def _first_image(operator: Operator, data: Tensor) -> Tensor:
    """Compute the first image, and check that the data are of the operator's shape."""
    try:
        image = operator.first_image(data)
        fits = operator.forward(image).shape == data.shape
    except (RuntimeError, IndexError):
        fits = False
    if not fits:
        raise InputError(f"data of shape {tuple(data.shape)} are not what the operator gives; check both")
    return image


def _mask_for(mask: Tensor, data: Tensor) -> Tensor:
    try:
        return mask.expand(data.shape)
    except RuntimeError as error:
        raise InputError(f"mask of shape {tuple(mask.shape)} does not fit data of {tuple(data.shape)}") from error
