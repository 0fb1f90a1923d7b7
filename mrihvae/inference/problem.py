"""Undersampled slices as the network takes them, of one coil or several: units, sizes, orientation, data consistency.

With one coil, acquired samples are k-space samples of the image itself, and data consistency puts them back. Several
coils mix frequencies, so that data determine no single k-space sample of the combined image x. The network is therefore
given, as acquired, the k-space of x on the acquired lines, after a proximal step of the data; its answer is made
consistent by the next such step (methods: together, with coils). With one coil of sensitivity 1 that step would be the
closed form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from mrihvae.inference.views import view
from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import band_coverage
from mrihvae.physics.conjugate_gradients import conjugate_gradients
from mrihvae.physics.fourier import apply_mask, fft2c, ifft2c, resize_kspace
from mrihvae.physics.mri import MaskedFourier, Sense
from mrihvae.physics.operators import Operator
from mrihvae.physics.total_variation import (
    ADMM_CG_ITERATIONS,
    TV_CG_TOLERANCE,
    TV_EDGE,
    TV_ITERATIONS,
    TV_STRENGTH,
    first_guess,
    total_variation,
)
from mrihvae.utils.stages import stage

WEIGHT = 2.0  # of the network's answer against data, over their noise: its error grows with the noise, too
LEAST_WEIGHT = 0.01  # the same for data without noise: maps have errors, and it bounds the iterations of a step
ITERATIONS = 10  # of conjugate gradients in a proximal step


@dataclass(frozen=True, kw_only=True)
class Problem(ABC):
    """Undersampled slices in the network's units, padded to sizes that it supports.

    Attributes
    ----------
    mask : M, the network's k-space samples that were acquired or are known to be 0: bool (slices, H', W')
    noise : (slices,), standard deviation of the noise per complex k-space sample of a coil
    scale : (slices,), factor from model units to physical ones
    phase : complex (slices,) of magnitude 1, the phase that was removed from the data; None for 1
    padded : (H', W'), the network's grid
    transposed : whether H and W were exchanged
    number : number of the test-time augmentation that is applied to the slices, see `mrihvae.inference.views.view`
    """

    mask: Tensor
    noise: Tensor
    scale: Tensor
    padded: tuple[int, int]
    transposed: bool = False
    number: int = 0
    phase: Tensor | None = None

    @property
    def unit(self) -> Tensor:
        """The factor from model units to physical ones, with the phase of the scan: (slices,)."""
        return self.scale if self.phase is None else self.scale * self.phase

    @property
    @abstractmethod
    def zero_filled(self) -> Tensor:
        """The network's k-space of the data alone, complex (slices, H', W')."""

    def view(self, number: int) -> Self:
        """Return the same problem for a mirrored or conjugated scan: one of 8 views; 0 is this one."""
        return replace(self, mask=view(self.mask, number), number=number)

    @abstractmethod
    def kspace(self, image: Tensor) -> Tensor:
        """Compute the network's k-space of an image in model units."""

    @abstractmethod
    def image(self, kspace: Tensor) -> Tensor:
        """Compute the image of the network's k-space."""

    @abstractmethod
    def guesses(self, model: HVAE) -> list[Tensor]:
        """Compute guesses of fully sampled k-space (slices, H', W'): by total variation, and by each U-Net."""

    @abstractmethod
    def measured_bins(self, guess: Tensor) -> Tensor:
        """Return the k-space samples that count as acquired beside a guess, 0 elsewhere."""

    @abstractmethod
    def make_consistent(self, kspace: Tensor) -> Tensor:
        """Make k-space consistent with the data, to go on from."""

    @abstractmethod
    def finish(self, kspace: Tensor) -> Tensor:
        """Make k-space consistent with the data, at the end."""

    @abstractmethod
    def images(self, kspace: Tensor) -> Tensor:
        """Compute images in physical scale, in the orientation of the scan, of k-space (..., slices, H', W')."""

    @abstractmethod
    def operator(self) -> Operator:
        """Return the acquisition A of images in model units."""

    @abstractmethod
    def data(self, kspace: Tensor) -> Tensor:
        """Return acquired k-space, as it was given, in the units and the orientation of `operator`."""

    @abstractmethod
    def total_variation(self) -> Tensor:
        """Compute the network's k-space of a reconstruction by total variation, (slices, H', W')."""

    def guess(self, model: HVAE) -> Tensor:
        """Compute the network's last guess of fully sampled k-space."""
        with stage("first guess"):
            return self.guesses(model)[-1]


@dataclass(frozen=True, kw_only=True)
class SingleCoilProblem(Problem):
    """Slices of one coil.

    Attributes
    ----------
    measured : y, complex (slices, H', W'), 0 where not acquired
    shape : (H, W) before padding
    """

    measured: Tensor
    shape: tuple[int, int]

    @property
    def zero_filled(self) -> Tensor:
        """The data."""
        return self.measured

    def view(self, number: int) -> Self:
        """Return the same problem in another view; its data are mirrored, too."""
        return replace(super().view(number), measured=view(self.measured, number))

    def kspace(self, image: Tensor) -> Tensor:
        """Compute the k-space of this view of an image, both (slices, H', W')."""
        return view(fft2c(image), self.number)

    def image(self, kspace: Tensor) -> Tensor:
        """Compute the image whose k-space in this view is given."""
        return ifft2c(view(kspace, self.number))

    def guesses(self, model: HVAE) -> list[Tensor]:
        """Compute guesses; total variation is the network's own, in closed form."""
        found: list[Tensor] = model.r.guesses(self.measured, self.mask)
        return found

    def total_variation(self) -> Tensor:
        """Complete k-space by total variation."""
        return first_guess(self.measured, self.mask, iterations=TV_ITERATIONS, edge=TV_EDGE)

    def measured_bins(self, guess: Tensor) -> Tensor:
        """Return the acquired samples, whatever the guess."""
        return self.measured

    def make_consistent(self, kspace: Tensor) -> Tensor:
        """Replace k-space by the acquired samples."""
        return torch.where(self.mask, self.measured, kspace)

    def finish(self, kspace: Tensor) -> Tensor:
        """Leave acquired samples as `InferenceSettings.combine` made them."""
        return kspace

    def images(self, kspace: Tensor) -> Tensor:
        """Compute images (..., slices, H, W) in physical scale."""
        images = ifft2c(resize_kspace(kspace * self.unit[:, None, None], self.shape))
        return images.mT if self.transposed else images

    def operator(self) -> MaskedFourier:
        """Return M F on the network's grid."""
        return MaskedFourier(self.mask)

    def data(self, kspace: Tensor) -> Tensor:
        """Return the data, which the problem holds."""
        return self.measured


@dataclass(frozen=True, kw_only=True)
class MultiCoilProblem(Problem):
    """Slices of several coils.

    Attributes
    ----------
    sense : A, of maps (slices, coils, H, W) and mask (slices, H, W)
    combined : A^H y, complex (slices, H, W)
    first : the image to begin with, complex (slices, H, W)
    share : of the iterations of total variation that made it; 0 for another image
    """

    sense: Sense
    combined: Tensor
    first: Tensor
    share: float = 0.0

    def with_tv_initialization(self, share: float = 1.0) -> MultiCoilProblem:
        """Return the same problem with a reconstruction by total variation, of a share of `STEPS`, to begin with."""
        still, noisy = TV_STRENGTH
        strength = (still + noisy * self.noise)[:, None, None]
        steps = (max(1, round(share * ADMM_CG_ITERATIONS[0])), ADMM_CG_ITERATIONS[1])
        return replace(self, first=total_variation(self.sense, self.combined, strength, steps), share=share)

    @property
    def zero_filled(self) -> Tensor:
        """The data combined by the maps."""
        return self.kspace(self.combined)

    def kspace(self, image: Tensor) -> Tensor:
        """Compute the network's k-space (slices, H', W') of an image (slices, H, W)."""
        return view(resize_kspace(fft2c(image), self.padded), self.number)

    def image(self, kspace: Tensor) -> Tensor:
        """Compute the image (slices, H, W) of the network's k-space (slices, H', W')."""
        shape = (self.combined.shape[-2], self.combined.shape[-1])
        return ifft2c(resize_kspace(view(kspace, self.number), shape))

    def guesses(self, model: HVAE) -> list[Tensor]:
        """Compute guesses, each made consistent with the data of all coils."""
        first = self.kspace(self.first)
        coverage = band_coverage(self.mask, model.settings.levels)
        found: list[Tensor] = model.r.guess(
            first, self.measured_bins(first), coverage, lambda k, _: self.make_consistent(k)
        )
        return found

    def total_variation(self) -> Tensor:
        """Compute k-space of a reconstruction by total variation, of all its iterations."""
        whole = self if self.share == 1 else self.with_tv_initialization()
        return self.kspace(whole.first)

    def measured_bins(self, guess: Tensor) -> Tensor:
        """Return the guess on the acquired lines."""
        return apply_mask(guess, self.mask)

    def make_consistent(self, kspace: Tensor) -> Tensor:
        """Take a proximal step of the data: argmin_x |Ax - y|^2 + r |x - v|^2.

        r = (sigma / gamma)^2 with gamma^2 in proportion to sigma, which fitted training scans of different noise; a
        gamma that is the same for all did not.
        """
        r = (WEIGHT * self.noise).clamp_min(LEAST_WEIGHT)[:, None, None]
        consistent: Tensor = _Proximal.apply(self.image(kspace), self.combined, r, self.sense)
        return self.kspace(consistent)

    def finish(self, kspace: Tensor) -> Tensor:
        """Take a proximal step of the data."""
        return self.make_consistent(kspace)

    def images(self, kspace: Tensor) -> Tensor:
        """Compute coil-combined images (..., slices, H, W) in physical scale."""
        images = self.image(kspace) * self.unit[:, None, None]
        return images.mT if self.transposed else images

    def operator(self) -> Sense:
        """Return M F S on the scan's grid."""
        return self.sense

    def data(self, kspace: Tensor) -> Tensor:
        """Return the acquired k-space of all coils, (slices, coils, H, W), in model units."""
        own = self.sense.masked((kspace.mT if self.transposed else kspace).to(self.combined))
        return own / self.unit[:, None, None, None]


class _Proximal(torch.autograd.Function):
    """x = (A^H A + r I)^-1 (A^H y + r v) by conjugate gradients; its gradient with respect to v is one more solve."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, combined: Tensor, r: Tensor, sense: Sense) -> Tensor:
        ctx.r, ctx.sense = r, sense
        return v + _solve(sense, combined - sense.normal(v), r)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.r * _solve(ctx.sense, gradients[0], ctx.r), None, None, None


def _solve(sense: Sense, right: Tensor, r: Tensor) -> Tensor:
    return conjugate_gradients(sense.normal, right, r, tolerance=TV_CG_TOLERANCE, cap=ITERATIONS, double=False).image
