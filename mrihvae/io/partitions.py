"""3D scans: partitions become slices by a Fourier transform across them, if all of them were measured."""

from __future__ import annotations

import numpy as np

from mrihvae.errors import InputError

MIN_FILLED_FRACTION = 0.6  # of the partitions of all lines, at least, must be there; an ellipse has 0.79
MIN_CENTRAL_FRACTION = 0.95  # of all partitions, at least, must be there of the line that has the most


def check_partitions(lines: np.ndarray, encoded: int | None = None) -> None:
    """Check that partitions were acquired whole, or as an ellipse whose corners are known to hold little.

    Parameters
    ----------
    lines : bool (W, partitions), what was acquired
    encoded : number of partitions of a fully sampled scan; None for all

    Raises
    ------
    InputError
        Gaps between partitions of a line, or some that are missing at the ends of all lines.
    """
    counts = lines.sum(axis=1)
    first, end = lines.argmax(axis=1), lines.shape[1] - lines[:, ::-1].argmax(axis=1)
    gaps = (counts > 0) & (end - first != counts)
    encoded = lines.shape[1] if encoded is None else encoded
    few = (
        counts.max() < MIN_CENTRAL_FRACTION * encoded
        or counts.sum() < MIN_FILLED_FRACTION * np.count_nonzero(counts) * encoded
    )
    if gaps.any() or few:
        raise InputError(
            f"partitions are missing: no line has more than {counts.max()} of {encoded}, or some have gaps; of 3D "
            "scans only lines can be undersampled, with all partitions or an ellipse of them"
        )


def centered_fft(array: np.ndarray, axis: int, inverse: bool = False) -> np.ndarray:
    """Compute the centered orthonormal Fourier transform along an axis, or its inverse: complex64 of the same shape.

    NumPy's, which leaves torch's threads alone while a scanner waits.
    """
    transform = np.fft.ifft if inverse else np.fft.fft
    spectrum = transform(np.fft.ifftshift(array, axes=axis), axis=axis, norm="ortho")
    return np.fft.fftshift(spectrum, axes=axis).astype(np.complex64, copy=False)
