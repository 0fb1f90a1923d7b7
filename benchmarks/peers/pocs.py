"""Partial Fourier by projection onto convex sets (POCS): the classical method where one side of k-space is missing.

The image is taken to have a smooth phase, which the symmetric center of k-space tells. Two projections take turns: onto
images of that phase, and onto images that agree with the acquired k-space,

    x <- P x,  P x = exp(i phi) max(Re(exp(-i phi) x), 0),        x <- F^-1 (M y + (1 - M) F x).

phi is the phase of the image of the symmetric center alone, under a Hann window. Haacke et al. keep |x| in place of the
positive part: on `train` scans of one coil that is 0.2 to 0.6 dB worse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.physics.fourier import fft2c, ifft2c

ITERATIONS = 10


def reconstruct(kspace: Tensor, mask: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Reconstruct from k-space that lacks a part of one side.

    Parameters
    ----------
    kspace : complex (..., H, W), centered; coils are reconstructed one by one
    mask : bool, broadcast to (H, W), True where acquired, or known; the rest of `kspace` is ignored
    iterations : of both projections; 0 is zero-filling

    Returns
    -------
    complex (..., H, W), in the scale of the input, with the acquired k-space

    Raises
    ------
    InputError
        DC was not acquired.

    References
    ----------
    * Haacke, Lindskog, Lin 1991: A fast, iterative, partial-Fourier technique capable of local phase recovery,
      https://doi.org/10.1016/0022-2364(91)90253-P
    """
    height, width = kspace.shape[-2:]
    known = mask.expand(height, width)
    measured = torch.where(known, kspace, 0)
    window = _symmetric_window(known.any(dim=1))[:, None] * _symmetric_window(known.any(dim=0))
    phase = torch.exp(1j * ifft2c(measured * window).angle())
    image = ifft2c(measured)
    for _ in range(iterations):
        real = (phase.conj() * image).real.clamp(min=0)
        image = ifft2c(torch.where(known, measured, fft2c(phase * real)))
    return image


def _symmetric_window(acquired: Tensor) -> Tensor:
    """Return a Hann window over the samples around DC that were acquired on both sides: float (size,), 1 at DC.

    An axis that is fully acquired has its window, too, of its whole size.
    """
    size, center = len(acquired), len(acquired) // 2
    if not acquired[center]:
        raise InputError("the center of k-space was not acquired; POCS takes the phase from it")
    reach = 0
    while center - reach > 0 and center + reach < size - 1 and acquired[center - reach - 1 : center + reach + 2].all():
        reach += 1
    distance = (torch.arange(size) - center).abs()
    return torch.where(distance <= reach, torch.cos(torch.pi * distance / (2 * (reach + 1))) ** 2, 0)
