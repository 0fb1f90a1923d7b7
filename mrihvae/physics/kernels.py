"""Convolution kernels, their transfer functions, and what is done with spectra of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mrihvae.errors import InputError


def gaussian_kernel(width: float | tuple[float, float], angle: float = 0.0, size: int | None = None) -> Tensor:
    """Return a Gaussian kernel of sum 1.

    Parameters
    ----------
    width : standard deviation (SD) in pixels, or two, along the kernel's axes
    angle : rotation of the kernel's axes, in radians
    size : largest n; None for four SDs to either side

    Returns
    -------
    float32 (n, n), n odd

    Examples
    --------
    >>> from mrihvae.physics import gaussian_kernel
    >>> gaussian_kernel(1.0).shape
    torch.Size([9, 9])
    """
    first, second = (width, width) if isinstance(width, int | float) else width
    reach = max(1, math.ceil(4 * max(first, second)))
    reach = reach if size is None else min(reach, (size - 1) // 2)
    y, x = torch.meshgrid(*[torch.arange(-reach, reach + 1, dtype=torch.float64)] * 2, indexing="ij")
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kernel = torch.exp(-0.5 * ((along / max(first, 1e-3)) ** 2 + (across / max(second, 1e-3)) ** 2))
    return (kernel / kernel.sum()).float()


def transfer_of(kernel: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Compute a kernel's Fourier transform on the grid of an image, zero frequency first.

    Parameters
    ----------
    kernel : (h, w) or (slices, h, w), its middle at `[h // 2, w // 2]`
    shape : (H, W), at least (h, w)

    Returns
    -------
    complex (1 or slices, H, W)

    Examples
    --------
    >>> from mrihvae.physics import gaussian_kernel, transfer_of
    >>> transfer_of(gaussian_kernel(1.0), (16, 16)).shape
    torch.Size([1, 16, 16])
    """
    height, width = kernel.shape[-2:]
    if height > shape[0] or width > shape[1]:
        raise InputError(f"kernel of {height} x {width} is larger than the image, {shape[0]} x {shape[1]}; crop it")
    placed = functional.pad(kernel, (0, shape[1] - width, 0, shape[0] - height))
    placed = placed.roll((-(height // 2), -(width // 2)), dims=(-2, -1))
    transfer: Tensor = torch.fft.fft2(placed).reshape(-1, shape[0], shape[1])
    return transfer


def apply_transfer(transfer: Tensor, image: Tensor) -> Tensor:
    """Multiply an image's spectrum; real images, whose kernel must be real, stay real."""
    image = image.contiguous()  # MKL of torch 2.6 transforms no batch that is one image expanded
    if image.is_complex():
        mapped: Tensor = torch.fft.ifft2(torch.fft.fft2(image) * transfer)
        return mapped
    half = transfer[..., : image.shape[-1] // 2 + 1]
    real: Tensor = torch.fft.irfft2(torch.fft.rfft2(image) * half, s=image.shape[-2:])
    return real


def abs2(values: Tensor) -> Tensor:
    """Compute |values|^2 of real or complex numbers."""
    return values.real**2 + values.imag**2 if values.is_complex() else values**2


def sinc_upsample(data: Tensor, factor: int) -> Tensor:
    """Resample to `factor` times as many pixels, the first one staying where it is: zero-padded spectrum."""
    shape = (data.shape[-2] * factor, data.shape[-1] * factor)
    spectrum = torch.fft.fft2(data)
    for axis, want in zip((-2, -1), shape):
        have = data.shape[axis]
        padded = spectrum.new_zeros([want if axis % spectrum.ndim == k else n for k, n in enumerate(spectrum.shape)])
        low = (have + 1) // 2
        padded.narrow(axis, 0, low).copy_(spectrum.narrow(axis, 0, low))
        if have > low:
            padded.narrow(axis, want - (have - low), have - low).copy_(spectrum.narrow(axis, low, have - low))
        if have % 2 == 0 and factor > 1:  # the highest frequency is that of both signs: half of it to either
            middle = 0.5 * spectrum.narrow(axis, low, 1)
            padded.narrow(axis, want - low, 1).copy_(middle)
            padded.narrow(axis, low, 1).copy_(middle)
        spectrum = padded
    image: Tensor = torch.fft.ifft2(spectrum) * factor**2
    return image if data.is_complex() else image.real
