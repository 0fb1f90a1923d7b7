"""Partial Fourier by projection onto convex sets (POCS): the classical method where one side of k-space is missing.

The image is taken to have a smooth phase phi, which the symmetric center of k-space tells. Two projections take turns:
onto images of that phase, and onto images that agree with the acquired k-space,

    x <- exp(i phi) |x|,        x <- F^-1 (M y + (1 - M) F x).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.physics.fourier import fft2c, ifft2c

# On `train` scans, by kind: the sides of k-space share noise from the second iteration on, which costs raw scans more.
ITERATIONS = {"raw": 1, "simulated": 5}


def reconstruct(kspace: Tensor, mask: Tensor, iterations: int) -> Tensor:
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
      J. Magn. Reson. 92, 126
    """
    known = mask.expand(kspace.shape[-2:])
    measured = torch.where(known, kspace, 0)
    phase = torch.exp(1j * ifft2c(measured * phase_window(known)).angle())
    image = ifft2c(measured)
    for _ in range(iterations):
        image = ifft2c(torch.where(known, measured, fft2c(phase * image.abs())))
    return image


def phase_window(known: Tensor) -> Tensor:
    """Return a Hann window over the largest centered square of k-space that was acquired: float (H, W), 1 at DC.

    It reaches as many samples from DC along both axes, as the phase is as smooth along both.

    Raises
    ------
    InputError
        DC was not acquired.
    """
    centers = [size // 2 for size in known.shape]
    most = min(min(center, size - 1 - center) for center, size in zip(centers, known.shape))
    reach = -1
    while reach < most:
        rows, columns = (slice(center - reach - 1, center + reach + 2) for center in centers)
        if not known[rows, columns].all():
            break
        reach += 1
    if reach < 0:
        raise InputError("the center of k-space was not acquired; POCS takes the phase from it")
    across, along = ((torch.arange(size) - center).abs() for center, size in zip(centers, known.shape))
    hann = [torch.where(d <= reach, torch.cos(torch.pi * d / (2 * (reach + 1))) ** 2, 0) for d in (across, along)]
    return hann[0][:, None] * hann[1]
