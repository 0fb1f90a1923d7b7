"""Reconstruction of undersampled single-coil k-space: amortised and hybrid inference, band by band.

The data term of y = M F x + n separates over bands (IA-HVAE, section 2.1, eq. 6), so the latents of a level are
inferred, and refined against the measured bins of their own band, before the next level begins (Algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor

from mrihvae import iahvae
from mrihvae.errors import InputError
from mrihvae.fourier import centre_pad, fft2c, ifft2c, resize_kspace
from mrihvae.iahvae import mixed_seed, normal
from mrihvae.model import HVAE
from mrihvae.objective import from_measured, likelihood_std
from mrihvae.precision import PRECISIONS, arithmetic
from mrihvae.refinement import Refinement
from mrihvae.units import noise_std, scale_of
from mrihvae.views import view

COMBINATIONS = ("measured", "variance")
Sweeps = int | tuple[int, ...]


@dataclass(frozen=True)
class InferenceSettings(Refinement):
    """How undersampled scans are reconstructed; `sweeps` and the other settings of `Refinement` are the last round's.

    Attributes
    ----------
    views : copies of the scan, mirrored or conjugated, whose reconstructions are averaged in the first round, 1 to 8
    rounds : passes of r down all levels; each after the first is given the last one's reconstruction as its guess
    blend : share of a further round's reconstruction where nothing was measured; the rest stays as it was
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
    combine: str = "measured"
    temperature: float = 1.0
    spread: float = 1.0
    precision: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.views <= 8 or self.rounds < 1:
            raise ValueError(f"views {self.views} must be 1 to 8, and rounds {self.rounds} at least 1")
        if self.start != "encoder" and (self.views, self.rounds) != (1, 1):
            raise ValueError(f"start '{self.start}' does not look at the scan: views and rounds must be 1")
        if not 0 <= self.blend <= 1:
            raise ValueError(f"blend {self.blend} must be in [0, 1]")
        for name in ("temperature", "spread"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 0")
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
    number : of the view that this is, see `mrihvae.views.view`
    """

    measured: Tensor
    mask: Tensor
    noise: Tensor
    scale: Tensor
    shape: tuple[int, int]
    turned: bool = False
    number: int = 0

    def seen(self, number: int) -> Problem:
        """Take the same problem for a mirrored or conjugated scan: one of 8 views, of which 0 is this one."""
        return replace(self, measured=view(self.measured, number), mask=view(self.mask, number), number=number)

    def kspace(self, image: Tensor) -> Tensor:
        """Give the k-space of this view of an image, (slices, H, W) in model units."""
        return view(fft2c(image), self.number)

    def image(self, kspace: Tensor) -> Tensor:
        """Give the image of which k-space is this view."""
        return ifft2c(view(kspace, self.number))

    def guess(self, model: HVAE) -> Tensor:
        """Compute the network's first guess of complete k-space."""
        guess: Tensor = model.r.guesses(self.measured, self.mask)[-1]
        return guess

    def measured_in(self, guess: Tensor) -> Tensor:
        """Give the measured bins, whatever the guess."""
        return self.measured

    def settle(self, kspace: Tensor) -> Tensor:
        """Put measured bins back."""
        return torch.where(self.mask, self.measured, kspace)

    def finish(self, kspace: Tensor) -> Tensor:
        """Leave measured bins as `InferenceSettings.combine` made them."""
        return kspace

    def images(self, kspace: Tensor) -> Tensor:
        """Turn complete k-space (..., slices, H, W) in model units into images in physical scale."""
        images = ifft2c(resize_kspace(kspace * self.scale[:, None, None], self.shape))
        return images.mT if self.turned else images


class Undersampled(Protocol):
    """Undersampled slices as the network takes them, of one coil (`Problem`) or more (`mrihvae.coil_problem`)."""

    @property
    def mask(self) -> Tensor:
        """Mark the bins that count as measured, bool (slices, H, W)."""

    @property
    def noise(self) -> Tensor:
        """Give the standard deviation of the noise per complex bin, in model units, (slices,)."""

    @property
    def scale(self) -> Tensor:
        """Give what to multiply images by, (slices,)."""

    def seen(self, number: int) -> Undersampled:
        """Take the same problem in another view."""

    def kspace(self, image: Tensor) -> Tensor:
        """Give the network's k-space of an image in model units, both (slices, H, W)."""

    def image(self, kspace: Tensor) -> Tensor:
        """Give the image of the network's k-space."""

    def guess(self, model: HVAE) -> Tensor:
        """Compute the network's first guess of complete k-space, (slices, H, W)."""

    def measured_in(self, guess: Tensor) -> Tensor:
        """Give the bins that count as measured while the network looks at a guess, 0 elsewhere."""

    def settle(self, kspace: Tensor) -> Tensor:
        """Make k-space agree with the data, to go on from."""

    def finish(self, kspace: Tensor) -> Tensor:
        """Make k-space agree with the data, at the end."""

    def images(self, kspace: Tensor) -> Tensor:
        """Turn complete k-space into images in physical scale."""


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
        estimated (`mrihvae.units.noise_std`)

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


def pose(model: HVAE, kspace: Tensor, mask: Tensor, noise: Tensor | None = None) -> Problem:
    """Bring k-space (slices, H, W), mask and noise (slices,) to the network's units, sizes and orientation."""
    shape = check_scans(model, kspace, mask, "(slices, H, W)")
    kspace = kspace.to(device=model.start.device, dtype=torch.complex64)
    mask = mask.to(device=kspace.device, dtype=torch.bool).expand(shape)
    if is_turned(mask):
        return replace(pose(model, kspace.mT, mask.mT, noise), turned=True)  # the network has learnt lines along H
    padded = padded_shape(shape, model.settings.multiple)
    # padding k-space, not the image, keeps measured bins on the grid; the bins beyond are known to be 0
    known = centre_pad(mask, padded, value=True).expand(len(kspace), *padded)
    kept = torch.where(mask, kspace, torch.zeros((), dtype=kspace.dtype))
    measured = resize_kspace(kept, padded)
    scale = scale_of(measured)
    noise = noise_std(kept) if noise is None else noise.to(scale)
    return Problem(measured / scale[:, None, None], known, noise / scale, scale, shape)


def is_turned(mask: Tensor) -> bool:
    """Tell whether a mask, bool (H, W), is of lines along W, so that H and W are exchanged for the network."""
    return bool((mask == mask[:, :1]).all()) and not bool((mask == mask[:1]).all())


def check_scans(model: HVAE, kspace: Tensor, mask: Tensor, axes: str) -> tuple[int, int]:
    """Check that weights are for undersampled scans, and k-space of such `axes` and mask for each other; gives (H, W).

    Raises
    ------
    InputError
        They are not.
    """
    if not model.settings.masked or model.settings.degraded:
        raise InputError("these weights have no posterior for undersampled scans; choose others, such as default")
    if kspace.ndim != len(axes.split(",")) or not kspace.is_complex():
        raise InputError(f"k-space is {kspace.dtype} of shape {tuple(kspace.shape)}; give complex {axes}")
    shape = (kspace.shape[-2], kspace.shape[-1])
    if mask.ndim > 2 or any(have not in (1, want) for have, want in zip(mask.shape[::-1], shape[::-1])):
        raise InputError(f"mask of shape {tuple(mask.shape)} does not fit k-space of {shape}; give (W,) or (H, W)")
    return shape


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

    measured, mask = problem.measured_in(guess), problem.mask
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


def padded_shape(shape: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Compute the least shape whose sides are multiples of `multiple` and at least `shape`."""
    return (math.ceil(shape[0] / multiple) * multiple, math.ceil(shape[1] / multiple) * multiple)
