"""Combination of coil images: root-sum-of-squares with measured samples put back."""

from __future__ import annotations

import torch
from torch import Tensor

from mrihvae.physics.fourier import fft2c, ifft2c


def root_sum_of_squares(image: Tensor, maps: Tensor, kspace: Tensor, mask: Tensor) -> Tensor:
    """Compute what fastMRI's multi-coil targets hold: the coils' images, with measured k-space put in, combined.

    Parameters
    ----------
    image : complex (slices, H, W), coil-combined
    maps : complex (slices or 1, coils, H, W)
    kspace : complex (slices, coils, H, W)
    mask : bool, broadcast to (H, W)

    Returns
    -------
    real (slices, H, W)
    """
    completed = torch.where(mask, kspace, fft2c(maps * image[:, None]))
    return ifft2c(completed).abs().square().sum(dim=1).sqrt()
