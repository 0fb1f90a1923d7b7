"""Restoration and reconstruction by PnP-HVAE in the user's units: what the loop of `mrihvae.pnp` is given and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mrihvae.data_terms import LeastSquares
from mrihvae.errors import InputError
from mrihvae.iahvae import Encoder
from mrihvae.inference import Undersampled, pose
from mrihvae.model import HVAE
from mrihvae.multicoil import pose_coils
from mrihvae.objective import from_measured, likelihood_std
from mrihvae.operators import Inpainting, MaskedFourier, Operator, moved
from mrihvae.pnp import Complete, Look, PnPSettings, Restored, restore
from mrihvae.precision import arithmetic
from mrihvae.restoration import BEGINNING, VIEWS, Frame, Sight
from mrihvae.units import image_scale

# Of undersampled scans; benchmarks/refinement.py has others on training scans.
FOR_SCANS = PnPSettings(iterations=2, gamma=0.2, views=2, sweeps=1, result="image")
LEAST_NOISE = 1e-4  # sigma in model units, below which images count as free of noise


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
    """Restore images from y = A x + n.

    Parameters
    ----------
    model : weights with r for degraded images, or any for scans with `PnPSettings.encoder` "complete"
    operator : A, see `mrihvae.operators`
    data : y, real or complex (slices, h, w), in any unit; images are real if it is. What masks say is not known may be
        anything
    noise : standard deviation of the noise in a number of `data`, one for all or (slices,); of complex noise
        sqrt(E|n|^2)
    settings : see `mrihvae.pnp.PnPSettings`
    start : x to begin with, (slices, H, W) in the unit of the image; left out, r's first guess, or without r that of
        the data
    progress : told the number of each iteration when it is done
    first : number of the first slice in its volume, of account to draws alone

    Returns
    -------
    see `mrihvae.pnp.Restored`; images in the unit of `data`, on the model's device

    Raises
    ------
    InputError
        Data or a start of another shape, not finite or all zero, noise below 0, or weights without the posterior that
        is asked for.
    """
    settings = settings or PnPSettings()
    if data.ndim != 3:
        raise InputError(f"data are of shape {tuple(data.shape)}; give (slices, h, w)")
    device = model.start.device
    operator = moved(operator, device)
    data = data.to(device, torch.complex64 if data.is_complex() else torch.float32)
    if isinstance(operator, Inpainting | MaskedFourier):
        data = torch.where(_mask_for(operator.mask, data), data, torch.zeros((), dtype=data.dtype, device=device))
    if not torch.isfinite(data).all():
        raise InputError("data hold NaN or infinite values; give finite ones")
    noise = torch.as_tensor(noise, dtype=torch.float32, device=device)
    if noise.ndim > 1 or noise.numel() not in (1, len(data)):
        raise InputError(
            f"noise has shape {tuple(noise.shape)} for {len(data)} images; give one number, or one an image"
        )
    noise = noise.expand(len(data))
    if not bool((noise >= 0).all()) or not bool(torch.isfinite(noise).all()):
        raise InputError(f"noise {noise.tolist()} must be at least 0")
    with torch.no_grad():
        image = _first_image(operator, data)
        real = not data.is_complex()
        term, scale = in_model_units(LeastSquares(operator, data, noise, real), image)
        if bool((scale <= torch.finfo(scale.dtype).tiny).any()):
            raise InputError("data are zero all over in an image; leave it out")
        factor = scale[:, None, None]
        if start is not None and (start.shape != image.shape or not torch.isfinite(start).all()):
            raise InputError(f"start is of shape {tuple(start.shape)}, or not finite; give finite {tuple(image.shape)}")
        looks, begun = look_at(model, term, settings, image / factor)
        begun = begun if start is None else start.to(begun) / factor
        found = restore(model, term, looks, begun, settings, progress, first)
    return replace(found, decoded=found.decoded * factor, image=found.image * factor)


def in_model_units(term: LeastSquares, first: Tensor | None = None) -> tuple[LeastSquares, Tensor]:
    """Scale data such that the 99th percentile of their first image is 1; also gives the scale, (slices,).

    Parameters
    ----------
    first : the first image, if it is there already
    """
    scale = image_scale(term.first_image() if first is None else first)
    term = term.scaled(scale)
    return replace(term, noise=term.noise.clamp_min(LEAST_NOISE)), scale


def look_at(
    model: HVAE, term: LeastSquares, settings: PnPSettings, first: Tensor | None = None
) -> tuple[list[Look], Tensor]:
    """Make the network look at degraded images in model units; also gives the image to begin with.

    Parameters
    ----------
    first : the term's first image, if it is there already

    Raises
    ------
    InputError
        Weights without the posterior that is asked for, or refinement with one that has nothing to refine against.
    """
    first = term.first_image() if first is None else first
    shape = (first.shape[-2], first.shape[-1])
    order = VIEWS[: min(settings.views, 4)] if term.real else VIEWS[: settings.views]  # conjugates of real images
    if settings.encoder == "complete":
        if model.settings.real:
            raise InputError("these weights are of pictures, not of scans; choose others, such as default")
        frames = [Frame(model, shape, term.real, number) for number in order]
        return [Complete(model, frame, term.real) for frame in frames], term.prox(first, BEGINNING)
    if not model.settings.degraded:
        raise InputError("these weights have no posterior of degraded images; choose restoration, or encoder complete")
    if settings.sweeps:
        raise InputError("sweeps: go with encoder complete; leave them out")
    sights = [Sight(model, term, number, first) for number in order]
    with arithmetic(model.start.device, settings.precision):
        guesses = [sight.image(sight.guesses()[-1].to(torch.complex64)) for sight in sights]
    return list(sights), torch.stack(guesses).mean(dim=0)


def _first_image(operator: Operator, data: Tensor) -> Tensor:
    """Make the first image, and see whether data are the operator's."""
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


class ScanLook:
    """r looks at undersampled k-space in one view (`mrihvae.views.view`), with x for the guess.

    Parameters
    ----------
    model : with r for undersampled scans
    problem : as `mrihvae.inference.pose` or `mrihvae.multicoil.pose_coils` make it
    number : of the view
    """

    def __init__(self, model: HVAE, problem: Undersampled, number: int = 0) -> None:
        self.model, self.seen = model, problem.seen(number)

    def kspace(self, image: Tensor) -> Tensor:
        """Give the network's k-space of an image."""
        return self.seen.kspace(image)

    def image(self, kspace: Tensor) -> Tensor:
        """Give the image of the network's k-space."""
        return self.seen.image(kspace)

    def encoder(self, kspace: Tensor) -> Encoder:
        """Make r look at a guess, k-space."""
        return from_measured(self.model, kspace, self.seen.measured_in(kspace), self.seen.mask)

    def settled(self, kspace: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
        """Bins that were measured are known, to within their noise and what the model cannot say."""
        return self.seen.measured_in(kspace), self.seen.mask, likelihood_std(self.model, self.seen.noise)


def reconstruct_scans(
    model: HVAE,
    kspace: Tensor,
    mask: Tensor,
    settings: PnPSettings | None = None,
    maps: Tensor | None = None,
    noise: Tensor | None = None,
) -> tuple[Tensor, Restored]:
    """Reconstruct undersampled k-space by PnP-HVAE; parameters as for `mrihvae.inference.reconstruct`.

    Parameters
    ----------
    maps : of several coils, complex (slices or 1, coils, H, W); then parameters are those of
        `mrihvae.multicoil.reconstruct_coils`

    Returns
    -------
    complex64 images (slices, H, W) in the physical scale of `kspace`, those that `settings.result` says, and what the
    loop found, in model units
    """
    settings = settings or FOR_SCANS
    problem, operator, data = _posed(model, kspace, mask, maps, noise)
    term = LeastSquares(operator, data, problem.noise.clamp_min(LEAST_NOISE))
    with torch.no_grad():
        views = [ScanLook(model, problem, number) for number in range(settings.views)]
        with arithmetic(model.start.device, settings.precision):
            guesses = [look.image(look.seen.guess(model)) for look in views]
        looks: list[Look] = list(views)
        if settings.encoder == "complete":
            looks = [Complete(model, look, real=False) for look in views]
        found = restore(model, term, looks, torch.stack(guesses).mean(dim=0), settings)
    image = found.decoded if settings.result == "decoded" else found.image
    return problem.images(problem.kspace(image)), found


def _posed(
    model: HVAE, kspace: Tensor, mask: Tensor, maps: Tensor | None, noise: Tensor | None
) -> tuple[Undersampled, Operator, Tensor]:
    """Bring a scan to the network's units; gives its operator and its data in them, too."""
    if maps is None:
        problem = pose(model, kspace, mask, noise)
        return problem, MaskedFourier(problem.mask), problem.measured
    several = pose_coils(model, kspace, mask, maps, noise)
    own = several.sense.masked((kspace.mT if several.turned else kspace).to(several.combined))
    return several, several.sense, own / several.scale[:, None, None, None]
