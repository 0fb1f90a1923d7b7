"""Undersampled slices of several coils as the network takes them (methods: together, with coils).

Coils mix frequencies, so data say nothing of single bins of the combined image x. What the network is told as measured
are therefore the bins of x on the measured lines, after a proximal step of the data has settled them; what it answers
is settled by the next such step. One coil of sensitivity 1 is `mrihvae.inference.problem.Problem`, where that step is
in closed form: bins that were measured are put back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.inference.problem import check_scans, padded_shape
from mrihvae.inference.views import view
from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import band_coverage
from mrihvae.physics.conjugate_gradients import conjugate_gradients
from mrihvae.physics.fourier import centre_pad, fft2c, ifft2c, masked, resize_kspace
from mrihvae.physics.mri import Sense
from mrihvae.physics.noise import background_noise
from mrihvae.physics.sampling import lines_differ_along_h
from mrihvae.physics.scaling import kspace_scale
from mrihvae.physics.total_variation import ADMM_CG_ITERATIONS, TV_CG_TOLERANCE, TV_STRENGTH, total_variation

WEIGHT = 2.0  # of what the network answers against data, over their noise: its error grows with the noise, too
LEAST_WEIGHT = 0.01  # the same for data without noise: maps have errors, and it bounds the iterations of a step
ITERATIONS = 10  # of conjugate gradients in a proximal step


@dataclass(frozen=True)
class CoilProblem:
    """Slices of several coils, in model units.

    Attributes
    ----------
    sense : A, of maps (slices, coils, H, W) and mask (slices, H, W)
    combined : A^H y, complex (slices, H, W)
    first : the image to begin with, complex (slices, H, W)
    noise : (slices,), standard deviation of the noise per complex bin of a coil
    scale : (slices,), what to multiply images by
    padded : (H', W'), the network's grid
    turned : whether H and W were exchanged
    number : of the view in which the network sees the slices, see `mrihvae.inference.views.view`
    """

    sense: Sense
    combined: Tensor
    first: Tensor
    noise: Tensor
    scale: Tensor
    padded: tuple[int, int]
    turned: bool = False
    number: int = 0

    def begun(self, share: float = 1.0) -> CoilProblem:
        """Take the same problem with a reconstruction by total variation, of a share of `STEPS`, as the first image."""
        still, noisy = TV_STRENGTH
        strength = (still + noisy * self.noise)[:, None, None]
        steps = (max(1, round(share * ADMM_CG_ITERATIONS[0])), ADMM_CG_ITERATIONS[1])
        return replace(self, first=total_variation(self.sense, self.combined, strength, steps))

    def seen(self, number: int) -> CoilProblem:
        """Take the same problem with the network's side mirrored or conjugated."""
        return replace(self, number=number)

    @cached_property
    def mask(self) -> Tensor:
        """Mark the bins of the network's k-space that were measured or lie beyond the scan: bool (slices, H', W')."""
        mask = self.sense.mask.expand(self.combined.shape)
        return view(centre_pad(mask, self.padded, value=True), self.number)

    def kspace(self, image: Tensor) -> Tensor:
        """Give the network's k-space (slices, H', W') of an image (slices, H, W)."""
        return view(resize_kspace(fft2c(image), self.padded), self.number)

    def image(self, kspace: Tensor) -> Tensor:
        """Give the image (slices, H, W) of the network's k-space (slices, H', W')."""
        shape = (self.combined.shape[-2], self.combined.shape[-1])
        return ifft2c(resize_kspace(view(kspace, self.number), shape))

    def measured_bins(self, guess: Tensor) -> Tensor:
        """Take the bins of a guess, network's k-space, that count as measured."""
        return masked(guess, self.mask)

    def settle(self, kspace: Tensor) -> Tensor:
        """Make the network's k-space agree with the data: the proximal step argmin_x |Ax - y|^2 + r |x - v|^2.

        r = (sigma / gamma)^2 with gamma^2 in proportion to sigma, which fitted training scans of different noise; a
        gamma that is the same for all did not.
        """
        r = (WEIGHT * self.noise).clamp_min(LEAST_WEIGHT)[:, None, None]
        settled: Tensor = _Proximal.apply(self.image(kspace), self.combined, r, self.sense)
        return self.kspace(settled)

    def guesses(self, model: HVAE) -> list[Tensor]:
        """Compute guesses, network's k-space: by total variation and by each U-Net."""
        begun = self.kspace(self.first)
        shares = band_coverage(self.mask, model.settings.levels)
        found: list[Tensor] = model.r.guess(begun, self.measured_bins(begun), shares, lambda k, _: self.settle(k))
        return found

    def guess(self, model: HVAE) -> Tensor:
        """Compute the last of the guesses."""
        return self.guesses(model)[-1]

    def finish(self, kspace: Tensor) -> Tensor:
        """Do as `settle` does."""
        return self.settle(kspace)

    def images(self, kspace: Tensor) -> Tensor:
        """Turn the network's k-space (..., slices, H', W') into coil-combined images in physical scale."""
        images = self.image(kspace) * self.scale[:, None, None]
        return images.mT if self.turned else images


class _Proximal(torch.autograd.Function):
    """x = (A^H A + r I)^-1 (A^H y + r v) by conjugate gradients; its gradient with respect to v is one more solve."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, combined: Tensor, r: Tensor, sense: Sense) -> Tensor:
        ctx.r, ctx.sense = r, sense
        return v + _solved(sense, combined - sense.normal(v), r)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.r * _solved(ctx.sense, gradients[0], ctx.r), None, None, None


def _solved(sense: Sense, right: Tensor, r: Tensor) -> Tensor:
    return conjugate_gradients(sense.normal, right, r, tolerance=TV_CG_TOLERANCE, cap=ITERATIONS, double=False).image


def pose_coils(model: HVAE, kspace: Tensor, mask: Tensor, maps: Tensor, noise: Tensor | None = None) -> CoilProblem:
    """Bring k-space (slices, coils, H, W), mask, maps and noise (slices,) to the network's units and orientation."""
    shape = check_scans(model, kspace, mask, "(slices, coils, H, W)")
    if maps.shape[1:] != kspace.shape[1:] or maps.shape[0] not in (1, len(kspace)):
        raise InputError(
            f"maps of shape {tuple(maps.shape)} do not fit k-space of {tuple(kspace.shape)}; give (slices or 1, coils, "
            "H, W)"
        )
    device = model.start.device
    kspace, maps = kspace.to(device, torch.complex64), maps.to(device, torch.complex64)
    mask = mask.to(device, torch.bool).expand(shape)
    if lines_differ_along_h(mask):
        return replace(pose_coils(model, kspace.mT, mask.mT, maps.mT, noise), turned=True)
    padded = padded_shape(shape, model.settings.multiple)
    sense = Sense(maps, mask.expand(len(kspace), *shape))
    kept = sense.masked(kspace)
    combined = sense.adjoint(kept)
    scale = kspace_scale(resize_kspace(fft2c(combined), padded))
    noise = (background_noise(kept) if noise is None else noise.to(scale)) / scale
    combined = combined / scale[:, None, None]
    return CoilProblem(sense, combined, combined, noise, scale, padded).begun(model.settings.start_share)
