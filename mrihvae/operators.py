"""Degradation and acquisition operators A, with their adjoints and exact proximal steps.

An operator maps images (slices, H, W), real or complex, to data. What PnP-HVAE asks of it beside A x and A^H y is
the minimiser of |A x - y|^2 + r |x - v|^2 (PnP-HVAE, algorithm 1, x-step), the solution of

    (A^H A + r I) x = A^H y + r v.

It is in closed form where A^H A is diagonal, in k-space or in the image, by Woodbury's identity for super-resolution,
and by conjugate gradients else. Real images stay real.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mrihvae.conjugate_gradients import conjugate_gradients, converged
from mrihvae.errors import InputError
from mrihvae.fourier import fft2c, ifft2c
from mrihvae.kernels import filtered, gaussian_kernel, interpolated, squared, transfer_of

SMALL = 1e-2  # weight of |x|^2 in the first image of an operator of which nothing more is known
BLANK = 0.25  # width of the widest Gaussian that fills holes, over the longer side of the image


class Operator(Protocol):
    """A linear operator on images (slices, H, W)."""

    def forward(self, image: Tensor) -> Tensor:
        """Compute A x."""

    def adjoint(self, data: Tensor) -> Tensor:
        """Compute A^H y, an image."""

    def solve(self, right: Tensor, r: Tensor | float) -> Tensor:
        """Solve (A^H A + r I) x = `right`, an image; r > 0, a number or (slices, 1, 1)."""

    def first_image(self, data: Tensor) -> Tensor:
        """Make an image of data alone, to begin with."""

    def gains(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Tell how much A keeps, about |A|^2: by pixel and by centred frequency, both (slices or 1, H or 1, W or 1)."""


@dataclass(frozen=True)
class MaskedFourier:
    """The single-coil acquisition A = M F: the bins of centred k-space that were measured.

    Attributes
    ----------
    mask : bool, broadcast to (..., H, W)
    """

    mask: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """Compute y = M F x, complex (..., H, W) to (..., H, W), +0 where nothing is measured."""
        kspace = fft2c(image)
        return torch.where(self.mask, kspace, torch.zeros((), dtype=kspace.dtype, device=kspace.device))

    def adjoint(self, kspace: Tensor) -> Tensor:
        """Compute A^H y = F^H M y, the zero-filled image, complex (..., H, W) to (..., H, W)."""
        return ifft2c(torch.where(self.mask, kspace, torch.zeros((), dtype=kspace.dtype, device=kspace.device)))

    def normal(self, image: Tensor) -> Tensor:
        """Compute A^H A x = F^H M F x."""
        return self.adjoint(fft2c(image))

    def solve(self, right: Tensor, r: Tensor | float) -> Tensor:
        """Divide every bin by M + r."""
        return ifft2c(fft2c(right) / (self.mask + r))

    def first_image(self, data: Tensor) -> Tensor:
        """Take the zero-filled image."""
        return self.adjoint(data)

    def gains(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Bins that were measured are kept."""
        return torch.ones(1, 1, 1), self.mask.float().expand(1, *shape) if self.mask.ndim < 3 else self.mask.float()


@dataclass(frozen=True)
class Inpainting:
    """Pixels that are known, A = M; with all of them, plain noise (denoising).

    Attributes
    ----------
    mask : bool, broadcast to (slices, H, W), True where the image is known
    """

    mask: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """Compute y = M x, 0 where nothing is known."""
        return image * self.mask

    def adjoint(self, data: Tensor) -> Tensor:
        """Compute M y."""
        return data * self.mask

    def solve(self, right: Tensor, r: Tensor | float) -> Tensor:
        """Divide every pixel by M + r."""
        return right / (self.mask + r)

    def first_image(self, data: Tensor) -> Tensor:
        """Fill holes with means of what is known near them, by Gaussians that grow until they find something."""
        known = self.mask.expand(data.shape).to(data.real.dtype)
        filled, weight = data * known, known
        width = 1.0
        while width < BLANK * max(data.shape[-2:]):
            transfer = transfer_of(gaussian_kernel(width, size=min(data.shape[-2:])), data.shape[-2:]).to(data.device)
            total = filtered(transfer, known).clamp_min(0)
            near = filtered(transfer, data * known) / total.clamp_min(1e-6)
            share = (total / 0.1).clamp_max(1) * (1 - weight)
            filled, weight = filled + share * near, weight + share
            width *= 2
        return filled / weight.clamp_min(1e-6)

    def gains(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Pixels that are known are kept."""
        mask = self.mask.float()
        return mask.reshape((1,) * (3 - mask.ndim) + mask.shape), torch.ones(1, 1, 1)


def denoising() -> Inpainting:
    """Make the operator of an image that is only noisy, A = I."""
    return Inpainting(torch.ones(1, 1, 1, dtype=torch.bool))


@dataclass(frozen=True)
class Blur:
    """Circular convolution with a known kernel: diagonal in k-space.

    Attributes
    ----------
    transfer : complex (slices or 1, H, W), the kernel's Fourier transform, zero frequency first (`transfer_of`)
    """

    transfer: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """Compute y = k * x."""
        return filtered(self.transfer, image)

    def adjoint(self, data: Tensor) -> Tensor:
        """Correlate with the kernel."""
        return filtered(self.transfer.conj(), data)

    def solve(self, right: Tensor, r: Tensor | float) -> Tensor:
        """Divide every frequency by |K|^2 + r."""
        return filtered(1 / (squared(self.transfer) + r), right)

    def first_image(self, data: Tensor) -> Tensor:
        """Take the blurred image as it is."""
        return data

    def gains(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Frequencies are kept as the kernel has them."""
        return torch.ones(1, 1, 1), torch.fft.fftshift(squared(self.transfer), dim=(-2, -1))


@dataclass(frozen=True)
class PaddedBlur:
    """Convolution of an image that is zero outside of its frame, seen inside of it: not diagonal anywhere.

    Attributes
    ----------
    kernel : (slices or 1, h, w), h and w odd, its middle at `[h // 2, w // 2]`; real, or complex for complex images
    tolerance, cap : relative residual of `solve`, and its most iterations
    """

    kernel: Tensor
    tolerance: float = 3e-7
    cap: int = 500

    def forward(self, image: Tensor) -> Tensor:
        """Compute y = crop(k * pad(x))."""
        return self._convolved(image, conjugate=False)

    def adjoint(self, data: Tensor) -> Tensor:
        """Correlate with the kernel, zero outside."""
        return self._convolved(data, conjugate=True)

    def solve(self, right: Tensor, r: Tensor | float) -> Tensor:
        """Solve by conjugate gradients, preconditioned by the circular convolution."""
        near = Blur(transfer_of(self.kernel, (right.shape[-2], right.shape[-1])))
        found = conjugate_gradients(
            lambda x: self.adjoint(self.forward(x)), right, r, lambda x: near.solve(x, r), self.tolerance, self.cap
        )
        return converged(found)

    def first_image(self, data: Tensor) -> Tensor:
        """Take the blurred image as it is."""
        return data

    def gains(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Frequencies are kept about as the circular convolution does."""
        return Blur(transfer_of(self.kernel, shape)).gains(shape)

    def _convolved(self, image: Tensor, conjugate: bool) -> Tensor:
        height, width = image.shape[-2:]
        margin = (self.kernel.shape[-1] // 2, self.kernel.shape[-2] // 2)
        padded = functional.pad(image, (0, margin[0], 0, margin[1]))
        transfer = transfer_of(self.kernel, (padded.shape[-2], padded.shape[-1]))
        return filtered(transfer.conj() if conjugate else transfer, padded)[..., :height, :width]


@dataclass(frozen=True)
class SuperResolution:
    """Circular blur, then every `factor`-th pixel of every `factor`-th row, A = S K.

    Pixel (i, j) of the data lies where pixel (factor i, factor j) of the image is.

    Attributes
    ----------
    transfer : complex (slices or 1, H, W) of the blur; H and W are multiples of `factor`
    factor : how much finer the image is than the data
    """

    transfer: Tensor
    factor: int

    def __post_init__(self) -> None:
        if self.factor < 1 or any(size % self.factor for size in self.transfer.shape[-2:]):
            raise InputError(f"factor {self.factor} must be at least 1 and divide {tuple(self.transfer.shape[-2:])}")

    def forward(self, image: Tensor) -> Tensor:
        """Compute y = S K x, (slices, H / factor, W / factor)."""
        return filtered(self.transfer, image)[..., :: self.factor, :: self.factor]

    def adjoint(self, data: Tensor) -> Tensor:
        """Put pixels apart, zeros between them, and correlate with the kernel."""
        apart = data.new_zeros(*data.shape[:-2], *self.transfer.shape[-2:])
        apart[..., :: self.factor, :: self.factor] = data
        return filtered(self.transfer.conj(), apart)

    def solve(self, right: Tensor, r: Tensor | float) -> Tensor:
        """Solve by Woodbury's identity: A A^H is a convolution of the data (Zhao et al. 2016); in double precision."""
        b = right.to(torch.complex128)  # real ones, too: half of a spectrum is not exactly the conjugate of the other
        wide = SuperResolution(self.transfer.to(torch.complex128), self.factor)
        r = r.double() if isinstance(r, Tensor) else r
        inner = filtered(1 / (r + wide.aliased_power()), wide.forward(b))
        found: Tensor = (b - wide.adjoint(inner)) / r
        return (found if right.is_complex() else found.real).to(right.dtype)

    def aliased_power(self) -> Tensor:
        """Compute the transfer function of A A^H: the mean of |K|^2 over frequencies that alias into one."""
        height, width = (size // self.factor for size in self.transfer.shape[-2:])
        folded = squared(self.transfer).unflatten(-1, (self.factor, width)).unflatten(-3, (self.factor, height))
        aliased: Tensor = folded.mean(dim=(-4, -2))
        return aliased

    def first_image(self, data: Tensor) -> Tensor:
        """Interpolate by zero-padding the data's spectrum."""
        return interpolated(data, self.factor)

    def gains(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Tell how much of a frequency is seen beside those that alias onto it, times the mean that data keep."""
        power = squared(self.transfer)
        aliased = self.aliased_power().repeat(1, self.factor, self.factor)
        share = power / self.factor**2 / aliased.clamp_min(torch.finfo(power.dtype).tiny)
        return torch.ones(1, 1, 1), torch.fft.fftshift(share * power, dim=(-2, -1))


@dataclass(frozen=True)
class Linear:
    """Any linear operator of which A x and A^H y are given; of norm about 1, or gamma and noise mean something else.

    Attributes
    ----------
    apply, apply_adjoint : from images (slices, H, W) to data (slices, ...), and back
    tolerance, cap : relative residual of `solve`, and its most iterations
    """

    apply: Callable[[Tensor], Tensor]
    apply_adjoint: Callable[[Tensor], Tensor]
    tolerance: float = 3e-7
    cap: int = 500

    def forward(self, image: Tensor) -> Tensor:
        """Compute A x."""
        return self.apply(image)

    def adjoint(self, data: Tensor) -> Tensor:
        """Compute A^H y."""
        return self.apply_adjoint(data)

    def solve(self, right: Tensor, r: Tensor | float) -> Tensor:
        """Solve by conjugate gradients."""
        found = conjugate_gradients(
            lambda x: self.adjoint(self.forward(x)), right, r, tolerance=self.tolerance, cap=self.cap
        )
        return converged(found)

    def first_image(self, data: Tensor) -> Tensor:
        """Solve with little weight on images that are small."""
        return self.solve(self.adjoint(data), SMALL)

    def gains(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Nothing is known of what A keeps."""
        return torch.ones(1, 1, 1), torch.ones(1, 1, 1)


def moved(value: Any, device: torch.device) -> Any:
    """Bring a dataclass of tensors, and of such dataclasses, to a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    return dataclasses.replace(
        value, **{f.name: moved(getattr(value, f.name), device) for f in dataclasses.fields(value)}
    )
