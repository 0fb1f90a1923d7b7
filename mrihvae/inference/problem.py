"""Undersampled slices as the network takes them, of one coil or several: units, sizes, orientation, data consistency.

With one coil, acquired samples are k-space samples of the image itself, and data consistency puts them back. Several
coils mix frequencies, so that data determine no single k-space sample of the combined image x. The network is therefore
given, as acquired, the k-space of x on the acquired lines, after a proximal step of the data; its answer is made
consistent by the next such step (methods: together, with coils). With one coil of sensitivity 1 that step would be the
closed form.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.inference.views import view
from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import band_coverage
from mrihvae.physics.conjugate_gradients import conjugate_gradients
from mrihvae.physics.fourier import apply_mask, center_pad, fft2c, ifft2c, resize_kspace
from mrihvae.physics.mri import MaskedFourier, Sense
from mrihvae.physics.noise import background_noise, noise_std
from mrihvae.physics.operators import Operator
from mrihvae.physics.sampling import lines_differ_along_h
from mrihvae.physics.scaling import kspace_scale, peak_phase
from mrihvae.physics.total_variation import ADMM_CG_ITERATIONS, TV_CG_TOLERANCE, TV_STRENGTH, total_variation

WEIGHT = 2.0  # of the network's answer against data, over their noise: its error grows with the noise, too
LEAST_WEIGHT = 0.01  # the same for data without noise: maps have errors, and it bounds the iterations of a step
ITERATIONS = 10  # of conjugate gradients in a proximal step


@dataclass(frozen=True, kw_only=True)
class Problem(ABC):
    """Undersampled slices in the network's units, on sizes that are its multiples.

    Attributes
    ----------
    mask : M, the network's k-space samples that were acquired or are known to be 0: bool (slices, H', W')
    noise : (slices,), standard deviation of the noise per complex k-space sample of a coil
    scale : (slices,), factor from model units to physical ones
    phase : complex (slices,) of magnitude 1, the phase of the scan that was taken from its data; None for 1
    padded : (H', W'), the network's grid
    transposed : whether H and W were exchanged
    number : of the view in which the network sees the slices, see `mrihvae.inference.views.view`
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

    def guess(self, model: HVAE) -> Tensor:
        """Compute the network's last guess of fully sampled k-space."""
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
    """

    sense: Sense
    combined: Tensor
    first: Tensor

    def with_tv_initialization(self, share: float = 1.0) -> MultiCoilProblem:
        """Return the same problem with a reconstruction by total variation, of a share of `STEPS`, to begin with."""
        still, noisy = TV_STRENGTH
        strength = (still + noisy * self.noise)[:, None, None]
        steps = (max(1, round(share * ADMM_CG_ITERATIONS[0])), ADMM_CG_ITERATIONS[1])
        return replace(self, first=total_variation(self.sense, self.combined, strength, steps))

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


def prepare(
    model: HVAE, kspace: Tensor, mask: Tensor, maps: Tensor | None = None, noise: Tensor | None = None
) -> Problem:
    """Return undersampled slices y = M F S x + n in the network's units, sizes and orientation.

    The phase of k-space as a whole is arbitrary, and the network is none the wiser: it is taken away, so that no result
    depends on it.

    Parameters
    ----------
    model : with r for undersampled scans
    kspace : complex (slices, H, W) of one coil, or with maps (slices, coils, H, W)
    mask : bool, broadcast to (H, W), True where acquired; the rest of k-space is ignored
    maps : complex (slices or 1, coils, H, W), of root-sum-of-squares 1 or 0; None for one coil of sensitivity 1
    noise : (slices,), standard deviation of the noise per complex sample of a coil in the scale of `kspace`; None: it
        is estimated (`mrihvae.physics.noise_std`)

    Raises
    ------
    InputError
        Weights of another kind, or k-space, mask or maps that do not fit each other.

    Examples
    --------
    >>> import torch
    >>> from mrihvae.inference import prepare
    >>> from mrihvae.model import HVAE, ModelSettings
    >>> _ = torch.manual_seed(0)
    >>> model = HVAE(ModelSettings(widths=(16, 16), layers=1, cascades=0, guess_widths=(16,)))
    >>> kspace = torch.randn(1, 15, 15, dtype=torch.complex64)
    >>> prepare(model, kspace, torch.arange(15) % 2 == 1).padded
    (16, 16)
    """
    shape = _check_shape(model, kspace, mask, maps)
    device = model.start.device
    kspace, mask = kspace.to(device, torch.complex64), mask.to(device, torch.bool).expand(shape)
    if lines_differ_along_h(mask):  # the network has learned lines along H
        transposed = prepare(model, kspace.mT, mask.mT, None if maps is None else maps.mT, noise)
        return replace(transposed, transposed=True)
    padded = padded_shape(shape, model.settings.multiple)
    # padding k-space, not the image, keeps acquired bins on the grid; the bins beyond are known to be 0
    known = center_pad(mask, padded, value=True).expand(len(kspace), *padded)
    if maps is None:
        kept = apply_mask(kspace, mask)
        measured = resize_kspace(kept, padded)
        scale = kspace_scale(measured)
        noise = (noise_std(kept) if noise is None else noise.to(scale)) / scale
        phase = peak_phase(measured)
        measured = measured / (scale * phase)[:, None, None]
        return SingleCoilProblem(
            mask=known, noise=noise, scale=scale, padded=padded, measured=measured, shape=shape, phase=phase
        )
    sense = Sense(maps.to(device, torch.complex64), mask.expand(len(kspace), *shape))
    kept = sense.masked(kspace)
    combined = sense.adjoint(kept)
    spectrum = fft2c(combined)
    scale, phase = kspace_scale(resize_kspace(spectrum, padded)), peak_phase(spectrum)
    noise = (background_noise(kept) if noise is None else noise.to(scale)) / scale
    combined = combined / (scale * phase)[:, None, None]
    problem = MultiCoilProblem(
        mask=known, noise=noise, scale=scale, padded=padded, sense=sense, combined=combined, first=combined, phase=phase
    )
    return problem.with_tv_initialization(model.settings.start_share)


def _check_shape(model: HVAE, kspace: Tensor, mask: Tensor, maps: Tensor | None) -> tuple[int, int]:
    """Check that weights are for undersampled scans, and k-space, mask and maps for each other; return (H, W)."""
    if not model.settings.masked or model.settings.degraded:
        raise InputError("these weights have no posterior for undersampled scans; choose others, such as default")
    axes = "(slices, H, W)" if maps is None else "(slices, coils, H, W)"
    if kspace.ndim != len(axes.split(",")) or not kspace.is_complex():
        raise InputError(f"k-space is {kspace.dtype} of shape {tuple(kspace.shape)}; give complex {axes}")
    shape = (kspace.shape[-2], kspace.shape[-1])
    if mask.ndim > 2 or any(have not in (1, want) for have, want in zip(mask.shape[::-1], shape[::-1])):
        raise InputError(f"mask of shape {tuple(mask.shape)} does not fit k-space of {shape}; give (W,) or (H, W)")
    if maps is not None and (maps.shape[1:] != kspace.shape[1:] or maps.shape[0] not in (1, len(kspace))):
        raise InputError(
            f"maps of shape {tuple(maps.shape)} do not fit k-space of {tuple(kspace.shape)}; give (slices or 1, coils, "
            "H, W)"
        )
    return shape


def padded_shape(shape: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Compute the least shape whose sides are multiples of `multiple` and at least `shape`."""
    return (math.ceil(shape[0] / multiple) * multiple, math.ceil(shape[1] / multiple) * multiple)
