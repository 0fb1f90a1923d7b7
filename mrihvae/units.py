"""Model units and noise: what turns k-space of any physical scale into the numbers that the network sees."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mrihvae.fourier import ifft2c

EDGE = 0.125  # the outermost eighth of the readout on either side, off the axes, holds little but noise


def scale_of(kspace: Tensor) -> Tensor:
    """Compute the scale of measured k-space: the 99th percentile of the zero-filled magnitude.

    Parameters
    ----------
    kspace : complex (..., H, W), zeros where nothing was measured

    Returns
    -------
    real (...), always above 0; divide k-space by it to get model units, multiply images by it to get back
    """
    magnitude = ifft2c(kspace).abs().flatten(-2)
    return torch.quantile(magnitude, 0.99, dim=-1).clamp_min(torch.finfo(magnitude.dtype).tiny)


def noise_std(kspace: Tensor, mask: Tensor | None = None) -> Tensor:
    """Estimate the standard deviation per complex bin of the noise, in the units of `kspace`.

    The median power of the measured bins at the corners of k-space, over ln 2 (for white complex noise the power is
    exponentially distributed). Signal at the corners makes it too high.

    Parameters
    ----------
    kspace : complex (..., H, W)
    mask : bool, broadcast to `kspace`; left out, all bins that are not exactly 0 count

    Returns
    -------
    real (...)
    """
    height, width = kspace.shape[-2:]
    power = kspace.abs() ** 2
    counted = (power > 0) if mask is None else mask.expand(power.shape)
    rows = torch.arange(height, device=kspace.device)
    columns = torch.arange(width, device=kspace.device)
    top_and_bottom = ((rows - height // 2).abs() >= (0.5 - EDGE) * height)[:, None]
    corners = counted & top_and_bottom & ((columns - width // 2).abs() >= width / 4)
    counted = torch.where(corners.any(dim=-1).any(dim=-1)[..., None, None], corners, counted & top_and_bottom)
    median = torch.nanmedian(torch.where(counted, power, torch.nan).flatten(-2), dim=-1).values
    return torch.sqrt(torch.nan_to_num(median) / math.log(2))
