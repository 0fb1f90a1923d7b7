"""The scale and phase of k-space and of images: what divides them so that images are of size 1."""

from __future__ import annotations

import torch
from torch import Tensor

from mrihvae.physics.fourier import ifft2c


def kspace_scale(kspace: Tensor) -> Tensor:
    """Compute the scale of acquired k-space: the 99th percentile of the zero-filled magnitude.

    Parameters
    ----------
    kspace : complex (..., H, W), zeros where nothing was acquired

    Returns
    -------
    real (...), always above 0; divide k-space by it to get model units, multiply images by it to get back
    """
    return image_scale(ifft2c(kspace))


def image_scale(image: Tensor) -> Tensor:
    """Compute the 99th percentile of the magnitude of images (..., H, W), always above 0: real (...)."""
    magnitude = image.abs().flatten(-2)
    return torch.quantile(magnitude, 0.99, dim=-1).clamp_min(torch.finfo(magnitude.dtype).tiny)


def peak_phase(kspace: Tensor) -> Tensor:
    """Compute the phase factor of the strongest sample of k-space (..., H, W): complex (...), 1 where all is 0."""
    samples = kspace.flatten(-2)
    strongest = samples.gather(-1, samples.abs().argmax(dim=-1, keepdim=True)).squeeze(-1)
    return torch.where(strongest == 0, torch.ones_like(strongest), torch.sgn(strongest))
