"""Operators of image restoration: missing pixels, blur, and a coarser grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mrihvae.errors import InputError
from mrihvae.physics.conjugate_gradients import conjugate_gradients, image_or_warning
from mrihvae.physics.kernels import abs2, apply_transfer, gaussian_kernel, sinc_upsample, transfer_of

MAX_FILL_WIDTH = 0.25  # width of the widest Gaussian that fills holes, over the longer side of the image


@dataclass(frozen=True)
class Inpainting:
    """The acquisition of known pixels alone, y = M x + n; with a mask that is True everywhere, plain noise.

    Attributes
    ----------
    mask : M, bool, broadcast to (slices, H, W), True where the image is known

    Examples
    --------
    >>> import torch
    >>> from mrihvae.physics import Inpainting
    >>> Inpainting(torch.tensor([True, False, True])).forward(torch.ones(1, 1, 3))
    tensor([[[1., 0., 1.]]])
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
        while width < MAX_FILL_WIDTH * max(data.shape[-2:]):
            transfer = transfer_of(gaussian_kernel(width, size=min(data.shape[-2:])), data.shape[-2:]).to(data.device)
            total = apply_transfer(transfer, known).clamp_min(0)
            near = apply_transfer(transfer, data * known) / total.clamp_min(1e-6)
            share = (total / 0.1).clamp_max(1) * (1 - weight)
            filled, weight = filled + share * near, weight + share
            width *= 2
        return filled / weight.clamp_min(1e-6)

    def gains(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the mask: known pixels are kept."""
        mask = self.mask.float()
        return mask.reshape((1,) * (3 - mask.ndim) + mask.shape), torch.ones(1, 1, 1)


def denoising() -> Inpainting:
    """Return the operator of an image that is only noisy, A = I."""
    return Inpainting(torch.ones(1, 1, 1, dtype=torch.bool))


@dataclass(frozen=True)
class Blur:
    """The circular convolution with a known kernel, y = k * x + n; it is diagonal in k-space.

    Attributes
    ----------
    transfer : complex (slices or 1, H, W), the kernel's Fourier transform, zero frequency first
        (`mrihvae.physics.transfer_of`)

    Examples
    --------
    >>> import torch
    >>> from mrihvae.physics import Blur, gaussian_kernel, transfer_of
    >>> blur = Blur(transfer_of(gaussian_kernel(1.0), (16, 16)))
    >>> image = torch.zeros(1, 16, 16)
    >>> image[0, 8, 8] = 1
    >>> data = blur.forward(image)
    >>> round(float(data.sum()), 4), round(float(data.max()), 2)
    (1.0, 0.16)
    """

    transfer: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """Compute y = k * x."""
        return apply_transfer(self.transfer, image)

    def adjoint(self, data: Tensor) -> Tensor:
        """Correlate with the kernel."""
        return apply_transfer(self.transfer.conj(), data)

    def solve(self, right: Tensor, r: Tensor | float) -> Tensor:
        """Divide every frequency by |K|^2 + r."""
        return apply_transfer(1 / (abs2(self.transfer) + r), right)

    def first_image(self, data: Tensor) -> Tensor:
        """Return the blurred image."""
        return data

    def gains(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return |K|^2 of each frequency."""
        return torch.ones(1, 1, 1), torch.fft.fftshift(abs2(self.transfer), dim=(-2, -1))


@dataclass(frozen=True)
class PaddedBlur:
    """The convolution of an image that is zero outside of its frame, y = crop(k * pad(x)) + n; it is diagonal nowhere.

    Attributes
    ----------
    kernel : (slices or 1, h, w), h and w odd, its middle at `[h // 2, w // 2]`; real, or complex for complex images
    tolerance, cap : relative residual of `solve`, and its largest number of iterations

    Examples
    --------
    >>> import torch
    >>> from mrihvae.physics import PaddedBlur
    >>> PaddedBlur(torch.tensor([[[0.25, 0.5, 0.25]]])).forward(torch.ones(1, 1, 4))
    tensor([[[0.7500, 1.0000, 1.0000, 0.7500]]])
    """

    kernel: Tensor
    tolerance: float = 3e-7
    cap: int = 500

    def forward(self, image: Tensor) -> Tensor:
        """Compute y = crop(k * pad(x))."""
        return self._convolve(image, conjugate=False)

    def adjoint(self, data: Tensor) -> Tensor:
        """Correlate with the kernel, zero outside."""
        return self._convolve(data, conjugate=True)

    def solve(self, right: Tensor, r: Tensor | float) -> Tensor:
        """Solve by conjugate gradients, preconditioned by the circular convolution."""
        near = Blur(transfer_of(self.kernel, (right.shape[-2], right.shape[-1])))
        found = conjugate_gradients(
            lambda x: self.adjoint(self.forward(x)), right, r, lambda x: near.solve(x, r), self.tolerance, self.cap
        )
        return image_or_warning(found)

    def first_image(self, data: Tensor) -> Tensor:
        """Return the blurred image."""
        return data

    def gains(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the gains of the circular convolution, which are about the same."""
        return Blur(transfer_of(self.kernel, shape)).gains(shape)

    def _convolve(self, image: Tensor, conjugate: bool) -> Tensor:
        height, width = image.shape[-2:]
        margin = (self.kernel.shape[-1] // 2, self.kernel.shape[-2] // 2)
        padded = functional.pad(image, (0, margin[0], 0, margin[1]))
        transfer = transfer_of(self.kernel, (padded.shape[-2], padded.shape[-1]))
        return apply_transfer(transfer.conj() if conjugate else transfer, padded)[..., :height, :width]


@dataclass(frozen=True)
class SuperResolution:
    """Circular blur K, then every `factor`-th pixel of every `factor`-th row, y = S K x + n.

    Pixel (i, j) of the data lies where pixel (factor i, factor j) of the image is.

    Attributes
    ----------
    transfer : complex (slices or 1, H, W), the Fourier transform of the kernel of K; H and W are multiples of `factor`
    factor : size of the data's pixels over that of the image's

    Raises
    ------
    InputError
        A factor below 1, or one that does not divide H and W.

    Examples
    --------
    >>> import torch
    >>> from mrihvae.physics import SuperResolution, gaussian_kernel, transfer_of
    >>> operator = SuperResolution(transfer_of(gaussian_kernel(1.0), (16, 16)), factor=2)
    >>> operator.forward(torch.ones(1, 16, 16)).shape
    torch.Size([1, 8, 8])
    """

    transfer: Tensor
    factor: int

    def __post_init__(self) -> None:
        if self.factor < 1 or any(size % self.factor for size in self.transfer.shape[-2:]):
            raise InputError(f"factor {self.factor} must be at least 1 and divide {tuple(self.transfer.shape[-2:])}")

    def forward(self, image: Tensor) -> Tensor:
        """Compute y = S K x, (slices, H / factor, W / factor)."""
        return apply_transfer(self.transfer, image)[..., :: self.factor, :: self.factor]

    def adjoint(self, data: Tensor) -> Tensor:
        """Insert zeros between pixels, and correlate with the kernel."""
        apart = data.new_zeros(*data.shape[:-2], *self.transfer.shape[-2:])
        apart[..., :: self.factor, :: self.factor] = data
        return apply_transfer(self.transfer.conj(), apart)

    def solve(self, right: Tensor, r: Tensor | float) -> Tensor:
        """Solve by Woodbury's identity: A A^H is a convolution of the data (Zhao et al. 2016); in double precision."""
        b = right.to(torch.complex128)  # real ones, too: half of a spectrum is not exactly the conjugate of the other
        wide = SuperResolution(self.transfer.to(torch.complex128), self.factor)
        r = r.double() if isinstance(r, Tensor) else r
        inner = apply_transfer(1 / (r + wide.aliased_power()), wide.forward(b))
        found: Tensor = (b - wide.adjoint(inner)) / r
        return (found if right.is_complex() else found.real).to(right.dtype)

    def aliased_power(self) -> Tensor:
        """Compute the transfer function of A A^H: the mean of |K|^2 over frequencies that alias into one."""
        height, width = (size // self.factor for size in self.transfer.shape[-2:])
        folded = abs2(self.transfer).unflatten(-1, (self.factor, width)).unflatten(-3, (self.factor, height))
        aliased: Tensor = folded.mean(dim=(-4, -2))
        return aliased

    def first_image(self, data: Tensor) -> Tensor:
        """Interpolate by zero-padding the data's spectrum."""
        return sinc_upsample(data, self.factor)

    def gains(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the share of a frequency among those that alias into one, times the power that the data keep of it."""
        power = abs2(self.transfer)
        aliased = self.aliased_power().repeat(1, self.factor, self.factor)
        share = power / self.factor**2 / aliased.clamp_min(torch.finfo(power.dtype).tiny)
        return torch.ones(1, 1, 1), torch.fft.fftshift(share * power, dim=(-2, -1))
