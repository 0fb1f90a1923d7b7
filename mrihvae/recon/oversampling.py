"""Readout oversampling: rows of the image beyond the header's matrix, removed before maps and inference.

Scanners sample the readout (H) more densely than the field of view asks, so that nothing aliases along it: usually
twice. The image then has rows beside the object that are not needed, which cost as much as the others. Where every
acquired line is a whole one, an inverse Fourier transform along H gives the rows without aliasing, so that rows beyond
the matrix can be cropped, exactly, and a Fourier transform along H of the rest is k-space of the smaller image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mrihvae.physics.fourier import center_crop

AXIS = -2  # of the readout


def kept_rows(height: int, delivered: int, matrix: tuple[int, int] | None, mask: np.ndarray) -> int:
    """Choose how many rows of the image are kept, counted around its center.

    Parameters
    ----------
    height : H of k-space
    delivered : rows that are delivered, which are always kept
    matrix : (h, w) of the header's reconstruction matrix, or None
    mask : bool (W,) or (H, W), which samples were acquired

    Returns
    -------
    rows to keep; `height`, which means all, without a matrix, or where the acquired samples are no whole lines along H:
    rows alias into each other then
    """
    if matrix is None or (mask.ndim > 1 and not bool((mask == mask[:1]).all())):
        return height
    return min(height, max(matrix[0], delivered))


def remove_oversampling(kspace: Tensor, rows: int) -> Tensor:
    """Crop the image along the readout, in k-space: F_h crop(F_H^H k), both along H and orthonormal.

    Parameters
    ----------
    kspace : complex (..., H, W), centered, of lines along H that were acquired whole, 0 elsewhere
    rows : h, at most H

    Returns
    -------
    complex (..., h, W); its image is that of `kspace`, without the outer rows. Lines of zeros stay zeros, and white
    noise keeps its standard deviation per sample.
    """
    height, width = kspace.shape[-2:]
    if rows == height:
        return kspace
    smaller = kspace.new_zeros(*kspace.shape[:-2], rows, width)
    lines = torch.nonzero((kspace != 0).flatten(0, -2).any(dim=0))[:, 0]
    if len(lines):
        image = _along(torch.fft.ifft, kspace[..., lines])
        smaller[..., lines] = _along(torch.fft.fft, center_crop(image, (rows, len(lines))))
    return smaller


def restore_rows(inside: Tensor, image: Tensor) -> Tensor:
    """Insert the rows of an image (..., h, W) into the center of another one, (..., H, W), whose outer rows stay."""
    rows, height = inside.shape[AXIS], image.shape[AXIS]
    top = height // 2 - rows // 2
    filled = image.clone()
    filled[..., top : top + rows, :] = inside
    return filled


def _along(transform: Callable[..., Tensor], array: Tensor) -> Tensor:
    """Apply an orthonormal Fourier transform along H, centered."""
    shifted = torch.fft.ifftshift(array, dim=AXIS)
    transformed: Tensor = torch.fft.fftshift(transform(shifted, dim=AXIS, norm="ortho"), dim=AXIS)
    return transformed
