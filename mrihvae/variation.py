"""A first guess of undersampled k-space by total variation, for the masked posterior to start from.

An encoder that is fed the zero-filled image spends itself on undoing aliasing that a convex prior undoes as well. So
r sees, beside the zero-filled image, the image x that minimises in model units

    1/2 |M F x - y|^2 + strength * (|D_h x|_1 + |D_w x|_1)

with D circular differences to the neighbours. M and D are diagonal in k-space, so ADMM (Boyd et al. 2011, section
6.4) takes every step in closed form; all slices are solved together.
"""

from __future__ import annotations

import torch
from torch import Tensor

STRENGTH = 0.01
EDGE = 0.1  # edges of this size, in model units, are split off first: it sets the penalty parameter of ADMM
ITERATIONS = 15  # to 60 the PSNR changes by less than 0.1 dB


def first_guess(measured: Tensor, mask: Tensor, strength: float = STRENGTH, iterations: int = ITERATIONS) -> Tensor:
    """Complete k-space by total variation; measured bins stay as they are.

    Parameters
    ----------
    measured : y, complex (slices, H, W), centred, in model units, 0 where not measured
    mask : bool (slices, H, W)

    Returns
    -------
    complex (slices, H, W)
    """
    axes = (-2, -1)
    y, m = torch.fft.ifftshift(measured, dim=axes), torch.fft.ifftshift(mask, dim=axes)
    rho = strength / EDGE
    h, w = (2 - 2 * torch.cos(2 * torch.pi * torch.fft.fftfreq(n, device=y.device)) for n in y.shape[-2:])
    denominator = m + rho * (h[:, None] + w)
    inverse = torch.where(denominator > 1e-6 * rho, 1 / denominator, 0)  # DC that was not measured stays 0
    k, u = y, torch.zeros((2, *y.shape), dtype=y.dtype, device=y.device)
    for _ in range(iterations):
        x = torch.fft.ifft2(k, norm="ortho")
        u = u + torch.stack((x - x.roll(1, -2), x - x.roll(1, -1)))
        split = u * (1 - EDGE / torch.view_as_real(u).square().sum(-1).clamp_min(1e-24).sqrt()).clamp_min(0)
        u = u - split
        d = split - u
        adjoint = d[0] - d[0].roll(-1, -2) + d[1] - d[1].roll(-1, -1)
        k = (y + rho * torch.fft.fft2(adjoint, norm="ortho")) * inverse
    guess: Tensor = torch.fft.fftshift(torch.where(m, y, k), dim=axes)
    return guess
