"""A look at k-space before work: what about a scan can be known to be wrong, or doubtful.

It takes k-space alone, some slices of it, and judges what every reader delivers: samples (slice, coil, H, W), DC at
[H // 2, W // 2]. What cannot be right is a refusal; what may be right is a warning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrihvae.data.scan import Scan

MAX_SLICES = 4  # of a scan that are looked at, evenly spaced
STRONGEST = 0.01  # share of the samples whose energy is compared with all
MIN_CONCENTRATION = 0.3  # of the energy in these, above which an array is k-space beyond doubt; noise has 0.056
MAX_COILS_LAST = 64  # size of a last axis that may be coils
DEAD = 1e-8  # power of a coil over the median one's, below which it received nothing
MIN_CLIPPED = 8  # samples at the very same largest value, from which a receiver was saturated


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes
    ----------
    shift : (h, w) of the strongest sample, of all slices and coils together, from [H // 2, W // 2]; 0 where no sample
        stands out
    refusal : why this cannot be k-space as it should be; empty if it can
    warnings : what is doubtful
    """

    shift: tuple[int, int] = (0, 0)
    refusal: str = ""
    warnings: tuple[str, ...] = ()


def inspect_kspace(scan: Scan, mask: np.ndarray | None = None) -> Inspection:
    """Look at the k-space of a scan.

    Parameters
    ----------
    scan : as its reader made it
    mask : bool (W,) or (H, W), what was acquired; the rest does not count; None for all

    Returns
    -------
    see `Inspection`; of zeros, and of numbers that are not finite, nothing is said: readers refuse them
    """
    kspace = _some_slices(scan)
    if mask is not None:
        kspace = np.where(mask, kspace, np.complex64(0))
    largest = float(np.abs(kspace).max())
    if not 0 < largest < np.inf:
        return Inspection()
    kspace = kspace / np.float32(largest)  # squares of very large or small numbers leave single precision
    power: np.ndarray = np.einsum("schw,schw->chw", kspace, kspace.conj()).real
    whole = power.sum(axis=0)
    shift = (0, 0)
    if _concentration(whole) >= MIN_CONCENTRATION:
        h, w = np.unravel_index(int(_smoothed(whole).argmax()), whole.shape)
        shift = (int(h) - whole.shape[0] // 2, int(w) - whole.shape[1] // 2)
    if refusal := _refusal(kspace, whole, shift):
        return Inspection(shift, refusal)
    return Inspection(shift, warnings=tuple(_warnings(kspace, power)))


def _some_slices(scan: Scan) -> np.ndarray:
    """Read a few slices: (slice, coil, H, W)."""
    count = len(scan.kspace)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_SLICES)).round().astype(int))
    found: np.ndarray = np.concatenate([np.asarray(scan.kspace[k : k + 1]) for k in chosen])
    return found if found.ndim == 4 else found[:, None]


def _refusal(kspace: np.ndarray, power: np.ndarray, shift: tuple[int, int]) -> str:
    """Say why an array cannot be k-space with its axes and its center where they should be; empty if it can."""
    coils, height, width = kspace.shape[1:]
    if 1 < width <= MAX_COILS_LAST and coils > MAX_COILS_LAST and coils >= 2 * width:
        return f"axes look like (slice, H, W, coil), with {width} coils last; move coils behind slices"
    if _concentration(power) < MIN_CONCENTRATION:
        image = np.fft.fft2(kspace, axes=(-2, -1))
        of_image = _concentration((np.abs(image) ** 2).sum(axis=(0, 1)))
        if of_image > max(MIN_CONCENTRATION, 2 * _concentration(power)):
            return "holds images, not k-space: its Fourier transform is concentrated as k-space is; transform it first"
    ends = [abs(offset) >= size // 2 - 1 for offset, size in zip(shift, (height, width), strict=True)]
    if all(ends) and min(height, width) > 8:
        return (
            "is not centered: the strongest sample is at a corner, as of a Fourier transform without fftshift; shift "
            "it by half its size along H and W (numpy.fft.fftshift)"
        )
    return ""


def _warnings(kspace: np.ndarray, power: np.ndarray) -> list[str]:
    """Say what is doubtful about samples and coils."""
    found = []
    if not kspace.imag.any():
        found.append("k-space has no imaginary part: the real part alone may have been stored")
    of_coils = power.sum(axis=(1, 2))
    dead = np.flatnonzero(of_coils <= DEAD * np.median(of_coils)).tolist()
    if dead and len(of_coils) > 1:
        found.append(f"coils without signal: {', '.join(map(str, dead))}")
    parts = np.abs(kspace.view(kspace.real.dtype))
    most = parts.max()
    if np.count_nonzero(parts == most) >= MIN_CLIPPED:
        found.append(
            f"{np.count_nonzero(parts == most)} samples have the same largest value: the receiver was saturated"
        )
    return found


def _concentration(power: np.ndarray) -> float:
    """Compute the share of the energy in the strongest samples."""
    flat = np.sort(power.ravel())[::-1]
    return float(flat[: max(1, round(STRONGEST * flat.size))].sum() / flat.sum())


def _smoothed(power: np.ndarray) -> np.ndarray:
    """Add up each sample and its neighbors, so that a single spike is no peak."""
    rows = np.roll(power, -1, 0) + power + np.roll(power, 1, 0)
    total: np.ndarray = rows + np.roll(rows, -1, 1) + np.roll(rows, 1, 1)
    return total
