"""A look at k-space before work: what about a scan can be known to be wrong, or doubtful.

It takes k-space alone, some slices of it, and judges what every reader delivers: samples (slice, coil, H, W), DC at
[H // 2, W // 2]. What cannot be right is a refusal; what may be right is a warning.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mrihvae.data.scan import Scan

MAX_SLICES = 4  # of a scan that are looked at, evenly spaced
STRONGEST = 0.01  # share of the samples whose energy is compared with all
MIN_CONCENTRATION = 0.3  # of the energy in these, above which an array is k-space beyond doubt; noise has 0.056
MIN_IMAGE = 0.02  # of the same, below which an array is flatter than any image
MIN_CENTRAL = 0.3  # of the energy of an image's Fourier transform at its lowest frequencies
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
    largest : magnitude of the strongest sample; 0 where all are, or where any is not finite
    """

    shift: tuple[int, int] = (0, 0)
    refusal: str = ""
    warnings: tuple[str, ...] = ()
    largest: float = field(default=0.0, compare=False)


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
    count = len(scan.kspace)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_SLICES)).round().astype(int))
    slices = [_take(scan, int(k), mask) for k in chosen[:1]]
    power = np.zeros(slices[0].shape)
    real, clipped, peak = True, 0, 0.0
    for number, k in enumerate(chosen):
        kspace = slices[0] if number == 0 else _take(scan, int(k), mask)
        largest = float(np.abs(kspace).max())
        if not np.isfinite(largest):
            return Inspection()
        if largest == 0:
            continue
        peak = max(peak, largest)
        for coil, samples in enumerate(kspace):  # in double precision, where no square leaves its range
            power[coil] += np.abs(samples.astype(np.complex128)) ** 2
        real = real and not kspace.imag.any()
        parts = np.abs(kspace.view(kspace.real.dtype))
        clipped = max(clipped, int(np.count_nonzero(parts == parts.max())))
    whole = power.sum(axis=0)
    if not whole.any():
        return Inspection()
    shift = (0, 0)
    if _concentration(whole[whole > 0]) >= MIN_CONCENTRATION:  # of the acquired samples
        h, w = np.unravel_index(int(_smoothed(whole).argmax()), whole.shape)
        shift = (int(h) - whole.shape[0] // 2, int(w) - whole.shape[1] // 2)
    if refusal := _refusal(slices[0], whole, shift):
        return Inspection(shift, refusal, largest=peak)
    return Inspection(shift, warnings=tuple(_warnings(power.sum(axis=(1, 2)), real, clipped)), largest=peak)


def _take(scan: Scan, k: int, mask: np.ndarray | None) -> np.ndarray:
    """Read what was acquired of one slice: complex64 (coil, H, W)."""
    found = np.asarray(scan.kspace[k : k + 1])[0]
    found = found if found.ndim == 3 else found[None]
    return np.ascontiguousarray(found if mask is None else np.where(mask, found, np.complex64(0)))


def _refusal(kspace: np.ndarray, power: np.ndarray, shift: tuple[int, int]) -> str:
    """Describe why an array cannot be k-space with its axes and its center in their places; empty if it can."""
    coils, height, width = kspace.shape
    if 1 < width <= MAX_COILS_LAST and coils > MAX_COILS_LAST and coils >= 2 * width:
        return f"axes look like (slice, H, W, coil), with {width} coils last; move coils behind slices"
    if MIN_IMAGE <= _concentration(power) < MIN_CONCENTRATION and _central_share(kspace) > MIN_CENTRAL:
        return "holds images, not k-space: its Fourier transform is what k-space looks like; transform it first"
    ends = [abs(offset) >= size // 2 - 1 for offset, size in zip(shift, (height, width), strict=True)]
    if all(ends) and min(height, width) > 8:
        return (
            "is not centered: the strongest sample is at a corner, as of a Fourier transform without fftshift; add "
            "--uncentered, or shift it by half its size along H and W (numpy.fft.fftshift)"
        )
    return ""


def _central_share(images: np.ndarray) -> float:
    """Compute the share of the energy at the lowest frequencies of images (coil, H, W), within 2 samples of DC."""
    spectrum = sum(np.abs(np.fft.fft2(image)) ** 2 for image in images)
    low = np.roll(np.asarray(spectrum), (2, 2), (0, 1))[:5, :5]
    return float(low.sum() / np.sum(spectrum))


def _warnings(power: np.ndarray, real: bool, clipped: int) -> list[str]:
    """Describe what is doubtful about samples, and about coils of power (coil,)."""
    found = []
    if real:
        found.append("k-space has no imaginary part: the real part alone may have been stored")
    dead = np.flatnonzero(power <= DEAD * np.median(power)).tolist()
    if dead and len(power) > 1:
        found.append(f"coils without signal: {', '.join(map(str, dead))}")
    if clipped >= MIN_CLIPPED:
        found.append(f"{clipped} samples have the same largest value: the receiver was saturated")
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
