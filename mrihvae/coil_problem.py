"""Undersampled slices of several coils as the network takes them (methods: together, with coils).

Coils mix frequencies, so data say nothing of single bins of the combined image x. What the network is told as measured
are therefore the bins of x on the measured lines, after a proximal step of the data has settled them; what it answers
is settled by the next such step. One coil of sensitivity 1 is `mrihvae.inference.Problem`, where that step is in closed
form: bins that were measured are put back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mrihvae.conjugate_gradients import conjugate_gradients
from mrihvae.fourier import centre_pad, fft2c, ifft2c, resize_kspace
from mrihvae.layers import sampled_fractions
from mrihvae.model import HVAE
from mrihvae.sense import Sense
from mrihvae.variation import EDGE
from mrihvae.views import view

WEIGHT = 2.0  # of what the network answers against data, over their noise: its error grows with the noise, too
LEAST_WEIGHT = 0.01  # the same for data without noise: maps have errors, and it bounds the iterations of a step
ITERATIONS = 10  # of conjugate gradients in a proximal step
NEAR = 1e-3  # relative residual that is enough for it
# Strength of total variation in the first guess: the first number, and the second times the noise. These, and WEIGHT,
# were the best on simulated scans of training images, of noises from 0.004 to 0.04, at 4x and 8x.
VARIATION = (0.0015, 0.1)
STEPS = (20, 3)  # of ADMM, and of conjugate gradients in each
LEAST_DENSITY = 1e-3  # of k-space that no coil sees, in the preconditioner


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
    number : of the view in which the network sees the slices, see `mrihvae.views.view`
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
        still, noisy = VARIATION
        strength = (still + noisy * self.noise)[:, None, None]
        steps = (max(1, round(share * STEPS[0])), STEPS[1])
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

    def measured_in(self, guess: Tensor) -> Tensor:
        """Take the bins of a guess, network's k-space, that count as measured."""
        return torch.where(self.mask, guess, torch.zeros((), dtype=guess.dtype))

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
        shares = sampled_fractions(self.mask, model.settings.levels)
        found: list[Tensor] = model.r.guess(begun, self.measured_in(begun), shares, lambda k, _: self.settle(k))
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
    return conjugate_gradients(sense.normal, right, r, tolerance=NEAR, cap=ITERATIONS, double=False).image


def total_variation(
    sense: Sense, combined: Tensor, strength: Tensor | float, iterations: tuple[int, int] = STEPS
) -> Tensor:
    """Compute argmin_x 1/2 |A x - y|^2 + strength |D x|_1, D of circular differences, for slices of several coils.

    As `mrihvae.variation.first_guess` by ADMM (Boyd et al. 2011), whose x-step has no closed form with coils: a few
    iterations of conjugate gradients from the last x, preconditioned by what is diagonal in k-space.

    Parameters
    ----------
    sense, combined : A, and A^H y, complex (slices, H, W), in model units
    strength : weight of the penalty, a number or (slices, 1, 1)
    iterations : of ADMM, and of conjugate gradients in each

    Returns
    -------
    complex (slices, H, W)
    """
    rho = strength / EDGE
    x, u = combined, torch.zeros((2, *combined.shape), dtype=combined.dtype, device=combined.device)
    h, w = (2 - 2 * torch.cos(2 * torch.pi * torch.fft.fftfreq(n, device=x.device)) for n in x.shape[-2:])
    inverse = 1 / (sense.density() + rho * (h[:, None] + w) + LEAST_DENSITY)

    def normal(image: Tensor) -> Tensor:
        return sense.normal(image) + rho * _laplacian(image)

    def precondition(image: Tensor) -> Tensor:
        filtered: Tensor = torch.fft.ifft2(torch.fft.fft2(image).mul_(inverse))
        return filtered

    outer, inner = iterations
    applied = normal(x)  # what conjugate gradients leave tells it of each further x
    for number in range(outer):
        u = u + _differences(x)
        size = torch.view_as_real(u).square().sum(dim=-1).sqrt_()  # faster than the absolute of complex numbers
        split = u * (1 - EDGE / size.clamp_min_(1e-12)).clamp_min_(0)
        u = u - split
        right = combined + rho * _adjoint_differences(split - u) - applied
        cap = inner if number else 2 * inner  # the zero-filled image is far from the first solution
        found = conjugate_gradients(normal, right, 0.0, precondition, NEAR, cap, double=False)
        x, applied = x + found.image, applied + right - found.remainder
    return x


def _differences(image: Tensor) -> Tensor:
    """Compute circular differences along H and W, (2, slices, H, W)."""
    d = image.expand(2, *image.shape).clone()
    d[0, ..., 1:, :] -= image[..., :-1, :]
    d[0, ..., 0, :] -= image[..., -1, :]
    d[1, ..., 1:] -= image[..., :-1]
    d[1, ..., 0] -= image[..., -1]
    return d


def _adjoint_differences(d: Tensor) -> Tensor:
    image = d[0] + d[1]
    image[..., :-1, :] -= d[0, ..., 1:, :]
    image[..., -1, :] -= d[0, ..., 0, :]
    image[..., :-1] -= d[1, ..., 1:]
    image[..., -1] -= d[1, ..., 0]
    return image


def _laplacian(image: Tensor) -> Tensor:
    """Compute D^T D x, of circular differences, (slices, H, W)."""
    d = 4 * image
    d[..., 1:, :] -= image[..., :-1, :]
    d[..., 0, :] -= image[..., -1, :]
    d[..., :-1, :] -= image[..., 1:, :]
    d[..., -1, :] -= image[..., 0, :]
    d[..., 1:] -= image[..., :-1]
    d[..., 0] -= image[..., -1]
    d[..., :-1] -= image[..., 1:]
    d[..., -1] -= image[..., 0]
    return d
