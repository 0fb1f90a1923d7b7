"""Undersampled slices of one coil as the network takes them: units, sizes, orientation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.inference.views import view
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fourier import centre_pad, fft2c, ifft2c, masked, resize_kspace
from mrihvae.physics.noise import noise_std
from mrihvae.physics.sampling import lines_differ_along_h
from mrihvae.physics.scaling import kspace_scale


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
    number : of the view that this is, see `mrihvae.inference.views.view`
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

    def measured_bins(self, guess: Tensor) -> Tensor:
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
    """Undersampled slices as the network takes them, of one coil (`Problem`) or more (`CoilProblem`)."""

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

    def measured_bins(self, guess: Tensor) -> Tensor:
        """Give the bins that count as measured while the network looks at a guess, 0 elsewhere."""

    def settle(self, kspace: Tensor) -> Tensor:
        """Make k-space agree with the data, to go on from."""

    def finish(self, kspace: Tensor) -> Tensor:
        """Make k-space agree with the data, at the end."""

    def images(self, kspace: Tensor) -> Tensor:
        """Turn complete k-space into images in physical scale."""


def pose(model: HVAE, kspace: Tensor, mask: Tensor, noise: Tensor | None = None) -> Problem:
    """Bring k-space (slices, H, W), mask and noise (slices,) to the network's units, sizes and orientation."""
    shape = check_scans(model, kspace, mask, "(slices, H, W)")
    kspace = kspace.to(device=model.start.device, dtype=torch.complex64)
    mask = mask.to(device=kspace.device, dtype=torch.bool).expand(shape)
    if lines_differ_along_h(mask):
        return replace(pose(model, kspace.mT, mask.mT, noise), turned=True)  # the network has learnt lines along H
    padded = padded_shape(shape, model.settings.multiple)
    # padding k-space, not the image, keeps measured bins on the grid; the bins beyond are known to be 0
    known = centre_pad(mask, padded, value=True).expand(len(kspace), *padded)
    kept = masked(kspace, mask)
    measured = resize_kspace(kept, padded)
    scale = kspace_scale(measured)
    noise = noise_std(kept) if noise is None else noise.to(scale)
    return Problem(measured / scale[:, None, None], known, noise / scale, scale, shape)


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


def padded_shape(shape: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Compute the least shape whose sides are multiples of `multiple` and at least `shape`."""
    return (math.ceil(shape[0] / multiple) * multiple, math.ceil(shape[1] / multiple) * multiple)
