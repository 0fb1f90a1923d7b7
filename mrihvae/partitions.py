"""3D scans: partitions become slices by a Fourier transform across them, if all of them were measured."""

from __future__ import annotations

import numpy as np

from mrihvae.errors import InputError

FILLED = 0.6  # of the partitions of all lines, at least, must be there; an ellipse has 0.79


def check_partitions(lines: np.ndarray) -> None:
    """See that partitions were measured whole, or as an ellipse whose corners are known to hold little.

    Parameters
    ----------
    lines : bool (W, partitions), what was measured

    Raises
    ------
    InputError
        Gaps between partitions of a line, or too many of them missing at the ends.
    """
    counts = lines.sum(axis=1)
    first, end = lines.argmax(axis=1), lines.shape[1] - lines[:, ::-1].argmax(axis=1)
    gaps = (counts > 0) & (end - first != counts)
    encoded = int(np.count_nonzero(lines.any(axis=0)))
    if gaps.any() or counts.sum() < FILLED * np.count_nonzero(counts) * encoded:
        raise InputError(
            "partitions were undersampled; of 3D scans only lines can be, with all partitions or an ellipse of them"
        )


def transformed(kspace: np.ndarray, axis: int) -> np.ndarray:
    """Transform k-space to slices along an axis: complex64 of the same shape, centred and orthonormal."""
    shifted = np.fft.ifft(np.fft.ifftshift(kspace, axes=axis), axis=axis, norm="ortho")
    return np.fft.fftshift(shifted, axes=axis).astype(np.complex64, copy=False)
