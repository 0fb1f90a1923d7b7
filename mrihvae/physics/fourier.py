"""Centered orthonormal Fourier transform and centered resizing; DC sits at `[H // 2, W // 2]`."""

from __future__ import annotations

import torch
from torch import Tensor

_AXES = (-2, -1)


def fft2c(image: Tensor) -> Tensor:
    """Compute k = F x, the centered orthonormal 2D Fourier transform.

    Parameters
    ----------
    image : complex tensor (..., H, W)

    Returns
    -------
    complex tensor (..., H, W), DC at `[H // 2, W // 2]`; equals `fastmri.fft2c`

    Examples
    --------
    >>> import torch
    >>> from mrihvae.physics import fft2c
    >>> fft2c(torch.ones(4, 4, dtype=torch.complex64))[2, 2]
    tensor(4.+0.j)
    """
    shifted = torch.fft.ifftshift(image, dim=_AXES)
    kspace: Tensor = torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=_AXES)
    return kspace


def ifft2c(kspace: Tensor) -> Tensor:
    """Compute x = F^H k, the inverse and adjoint of `fft2c`, complex (..., H, W) to (..., H, W)."""
    shifted = torch.fft.ifftshift(kspace, dim=_AXES)
    image: Tensor = torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=_AXES)
    return image


def center_crop(array: Tensor, shape: tuple[int, int]) -> Tensor:
    """Cut (..., h, w) out of (..., H, W) such that index `[H // 2, W // 2]` lands on `[h // 2, w // 2]`."""
    (height, width), (h, w) = array.shape[-2:], shape
    top, left = height // 2 - h // 2, width // 2 - w // 2
    return array[..., top : top + h, left : left + w]


def center_pad(array: Tensor, shape: tuple[int, int], value: float = 0.0) -> Tensor:
    """Surround (..., h, w) with `value` up to (..., H, W); the adjoint of `center_crop` for value 0."""
    (h, w), (height, width) = array.shape[-2:], shape
    top, left = height // 2 - h // 2, width // 2 - w // 2
    padding = (left, width - w - left, top, height - h - top)
    return torch.nn.functional.pad(array, padding, value=value)


def resize_kspace(kspace: Tensor, shape: tuple[int, int]) -> Tensor:
    """Crop or zero-pad centered k-space (..., H, W) per axis to (..., *shape): sinc resampling of the image."""
    smaller = (min(kspace.shape[-2], shape[0]), min(kspace.shape[-1], shape[1]))
    return center_pad(center_crop(kspace, smaller), shape)


def apply_mask(kspace: Tensor, mask: Tensor) -> Tensor:
    """Set k-space to 0 where `mask`, bool and broadcast to it, is False."""
    return torch.where(mask, kspace, torch.zeros((), dtype=kspace.dtype, device=kspace.device))
