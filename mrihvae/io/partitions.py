"""3D scans: partitions become slices by a Fourier transform across them, if enough of them were measured."""

from __future__ import annotations

import numpy as np

from mrihvae.errors import InputError

MIN_FILLED_FRACTION = 0.6  # of the partitions of all lines, at least, must be there; an ellipse has 0.79
MIN_CENTRAL_FRACTION = 0.95  # of all partitions, at least, must be there of the line that has the most


def check_partitions(lines: np.ndarray, encoded: int | None = None) -> list[str]:
    """Check that partitions were acquired whole, as an ellipse whose corners hold little, or from one end past DC.

    Parameters
    ----------
    lines : bool (W, partitions), what was acquired, DC in partition number partitions // 2
    encoded : number of partitions of a fully sampled scan; None for all

    Returns
    -------
    what is doubtful: partitions that are missing at one end (partial Fourier), and are zero-filled

    Raises
    ------
    InputError
        Gaps between partitions of a line, or some that are missing at both ends of all lines, or with DC.
    """
    counts = lines.sum(axis=1)
    first, end = lines.argmax(axis=1), lines.shape[1] - lines[:, ::-1].argmax(axis=1)
    gaps = (counts > 0) & (end - first != counts)
    encoded = lines.shape[1] if encoded is None else encoded
    acquired = np.flatnonzero(lines.any(axis=0))
    center = lines.shape[1] // 2
    before, behind = (center - acquired[0], acquired[-1] - center) if len(acquired) else (0, 0)  # of DC
    reach = max(2 * before + 1, 2 * behind + 2)
    is_partial = min(before, behind) > 0 and reach >= MIN_CENTRAL_FRACTION * encoded
    wanted = len(acquired) if is_partial else encoded
    few = (
        counts.max() < MIN_CENTRAL_FRACTION * wanted
        or counts.sum() < MIN_FILLED_FRACTION * np.count_nonzero(counts) * wanted
    )
    if gaps.any() or few:
        raise InputError(
            f"partitions are missing: no line has more than {counts.max()} of {encoded}, or some have gaps; in 3D "
            "scans, only lines can be undersampled; partitions must be complete, elliptical, or partial Fourier "
            "from one end to beyond the center"
        )
    if len(acquired) >= MIN_CENTRAL_FRACTION * encoded:
        return []
    return [
        f"{len(acquired)} of {encoded} partitions were acquired, {before} before the center and {behind} behind it: "
        "taken as partial Fourier, with zeros for the others; if the scan ended early, repeat it"
    ]


def centered_fft(array: np.ndarray, axis: int, inverse: bool = False) -> np.ndarray:
    """Compute the centered orthonormal Fourier transform along an axis, or its inverse: complex64 of the same shape.

    NumPy's, which leaves torch's threads alone while a scanner waits.
    """
    transform = np.fft.ifft if inverse else np.fft.fft
    spectrum = transform(np.fft.ifftshift(array, axes=axis), axis=axis, norm="ortho")
    return np.fft.fftshift(spectrum, axes=axis).astype(np.complex64, copy=False)
