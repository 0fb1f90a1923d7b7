"""Combination of coil images: root-sum-of-squares with acquired samples put back."""

from __future__ import annotations

import torch
from torch import Tensor

from mrihvae.physics.fourier import fft2c, ifft2c


def root_sum_of_squares(image: Tensor, maps: Tensor, kspace: Tensor, mask: Tensor) -> Tensor:
    """Compute the root-sum-of-squares sqrt(sum_c |F^H k_c|^2) of fastMRI's multi-coil targets.

    k_c is the acquired k-space of coil c where `mask` is True, and F S_c x elsewhere.

    Parameters
    ----------
    image : x, complex (slices, H, W), coil-combined
    maps : S, complex (slices or 1, coils, H, W)
    kspace : complex (slices, coils, H, W)
    mask : bool, broadcast to (H, W), True where acquired

    Returns
    -------
    real (slices, H, W)

    Examples
    --------
    >>> import torch
    >>> from mrihvae.coils import root_sum_of_squares
    >>> maps = torch.full((1, 4, 8, 8), 0.5, dtype=torch.complex64)
    >>> image = torch.ones(1, 8, 8, dtype=torch.complex64)
    >>> nothing = torch.zeros(8, 8, dtype=torch.bool)
    >>> bool(root_sum_of_squares(image, maps, torch.zeros_like(maps), nothing).allclose(torch.ones(1, 8, 8)))
    True

    References
    ----------
    * Roemer et al. 1990 (phased arrays), https://doi.org/10.1002/mrm.1910160203
    """
    complete = torch.where(mask, kspace, fft2c(maps * image[:, None]))
    return ifft2c(complete).abs().square().sum(dim=1).sqrt()
