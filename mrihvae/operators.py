"""Acquisition operators with their adjoints; one coil so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrihvae.fourier import fft2c, ifft2c


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
