"""Restoration and reconstruction by PnP-HVAE in the user's units: what the loop of `mrihvae.pnp` is given and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mrihvae.data_terms import LeastSquares
from mrihvae.errors import InputError
from mrihvae.fourier import fft2c, ifft2c
from mrihvae.iahvae import Encoder
from mrihvae.inference import Problem, pose, view
from mrihvae.model import HVAE
from mrihvae.objective import from_measured, likelihood_std
from mrihvae.operators import MaskedFourier, Operator
from mrihvae.pnp import Complete, Look, PnPSettings, Restored, restore
from mrihvae.precision import arithmetic
from mrihvae.restoration import BEGINNING, VIEWS, Frame, Sight
from mrihvae.units import image_scale

# of undersampled scans, by benchmarks/refinement.py on training scans
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
) -> Restored:
    """Restore images from y = A x + n.

    Parameters
    ----------
    model : weights with r for degraded images, or any for scans with `PnPSettings.encoder` "complete"
    operator : A, see `mrihvae.operators`
    data : y, real or complex (slices, ...), in any unit; images are real if it is
    noise : standard deviation of the noise in a number of `data`, one for all or (slices,); of complex noise
        sqrt(E|n|^2)
    settings : see `mrihvae.pnp.PnPSettings`
    start : x to begin with, (slices, H, W) in the unit of the image; left out, r's first guess, or without r that of
        the data
    progress : told the number of each iteration when it is done

    Returns
    -------
    see `mrihvae.pnp.Restored`; images in the unit of `data`

    Raises
    ------
    InputError
        Data that are not finite or all zero, noise below 0 or not one number an image, or weights without the
        posterior that is asked for.
    """
    settings = settings or PnPSettings()
    if not torch.isfinite(data).all():
        raise InputError("data hold NaN or infinite values; give finite ones")
    device = model.start.device
    data = data.to(device, torch.complex64 if data.is_complex() else torch.float32)
    noise = torch.as_tensor(noise, dtype=torch.float32, device=device)
    if noise.ndim > 1 or noise.numel() not in (1, len(data)):
        raise InputError(f"noise has shape {tuple(noise.shape)} for {len(data)} images; give one number, or one each")
    noise = noise.expand(len(data))
    if not bool((noise >= 0).all()) or not bool(torch.isfinite(noise).all()):
        raise InputError(f"noise {noise.tolist()} must be at least 0")
    term = LeastSquares(operator, data, noise, real=not data.is_complex())
    with torch.no_grad():
        scale = image_scale(term.first_image())
        if bool((scale <= torch.finfo(scale.dtype).tiny).any()):
            raise InputError("data are zero all over in an image; leave it out")
        term = term.scaled(scale)
        term = replace(term, noise=term.noise.clamp_min(LEAST_NOISE))
        looks, begun = look_at(model, term, settings)
        begun = begun if start is None else start.to(begun) / scale[:, None, None]
        found = restore(model, term, looks, begun, settings, progress)
    return _scaled(found, scale)


def look_at(model: HVAE, term: LeastSquares, settings: PnPSettings) -> tuple[list[Look], Tensor]:
    """Make the network look at degraded images in model units; also gives the image to begin with."""
    order = VIEWS[: settings.views]
    if settings.encoder == "complete":
        if model.settings.real:
            raise InputError("these weights are of pictures, not of scans; choose others, such as default")
        first = term.first_image()
        frames = [Frame(model, (first.shape[-2], first.shape[-1]), term.real, number) for number in order]
        return [Complete(model, frame) for frame in frames], term.prox(first, BEGINNING)
    if not model.settings.degraded:
        raise InputError("these weights have no posterior of degraded images; choose restoration, or encoder complete")
    sights = [Sight(model, term, number) for number in order]
    with arithmetic(model.start.device, settings.precision):
        guesses = [sight.image(sight.guesses()[-1].to(torch.complex64)) for sight in sights]
    return list(sights), torch.stack(guesses).mean(dim=0)


class ScanLook:
    """r looks at undersampled k-space in one view (`mrihvae.inference.view`), with x for the guess.

    Parameters
    ----------
    model : with r for undersampled scans
    problem : as `mrihvae.inference.pose` makes it
    number : of the view
    """

    real = False

    def __init__(self, model: HVAE, problem: Problem, number: int = 0) -> None:
        self.model, self.number, self.seen = model, number, problem.seen(number)

    def kspace(self, image: Tensor) -> Tensor:
        """Give the network's k-space of an image."""
        return view(fft2c(image), self.number)

    def image(self, kspace: Tensor) -> Tensor:
        """Give the image of the network's k-space."""
        return ifft2c(view(kspace, self.number))

    def encoder(self, kspace: Tensor) -> Encoder:
        """Make r look at a guess, k-space."""
        return from_measured(self.model, kspace, self.seen.measured, self.seen.mask)

    def settled(self, kspace: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
        """Bins that were measured are known, to within their noise and what the model cannot say."""
        return self.seen.measured, self.seen.mask, likelihood_std(self.model, self.seen.noise)


def reconstruct_scans(
    model: HVAE, kspace: Tensor, mask: Tensor, settings: PnPSettings | None = None
) -> tuple[Tensor, Restored]:
    """Reconstruct undersampled single-coil k-space by PnP-HVAE; parameters as for `mrihvae.inference.reconstruct`.

    Returns
    -------
    complex64 images (slices, H, W) in the physical scale of `kspace`, and what the loop found, in model units
    """
    settings = settings or FOR_SCANS
    problem = pose(model, kspace, mask)
    noise = problem.noise.clamp_min(LEAST_NOISE)
    term = LeastSquares(MaskedFourier(problem.mask), problem.measured, noise)
    with torch.no_grad():
        views = [ScanLook(model, problem, number) for number in range(settings.views)]
        with arithmetic(model.start.device, settings.precision):
            guesses = [look.image(model.r.guesses(look.seen.measured, look.seen.mask)[-1]) for look in views]
        looks: list[Look] = [look if settings.encoder == "data" else Complete(model, look) for look in views]
        found = restore(model, term, looks, torch.stack(guesses).mean(dim=0), settings)
    image = found.decoded if settings.result == "decoded" else found.image
    return problem.images(fft2c(image)), found


def _scaled(found: Restored, scale: Tensor) -> Restored:
    """Put images back to the user's unit."""
    factor = scale[:, None, None]
    return replace(found, decoded=found.decoded * factor, image=found.image * factor)
