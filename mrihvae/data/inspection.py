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
CLIPPED_TOLERANCE = 1e-6  # relative, by which magnitudes differ that were clipped at the same value
MIN_CLIPPED_COIL = 1e-3  # largest value of a coil over that of all, below which its values are few for they are small
MIN_SPIKE = 1e3  # power of a sample over that of its strongest neighbor, from which it is a spike
SAME_AXIS = 3.0  # how much more an axis must have a peak than that of W, to be H
MIN_PEAK = 6.0  # largest over mean energy along an axis of k-space; coils have less
MAX_GAPS = 0.1  # rows inside k-space that are zero, over the others, below a mask of lines along H
MAX_EMPTY = 0.01  # share of what a mask has as acquired that may be zero
STRONGEST_LINES = 0.1  # share of the lines along an axis whose energy is compared with all
MAX_FLAT, MIN_STEEP = 0.4, 0.5  # of the energy in these: of an axis of an image at most, of k-space at least


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
    first = _take(scan, int(chosen[0]), mask)
    shown, power = 0, np.zeros(first.shape)
    real, clipped, peak = True, 0, 0.0
    for number, k in enumerate(chosen):
        kspace = first if number == 0 else _take(scan, int(k), mask)
        largest = float(np.abs(kspace).max())
        if not np.isfinite(largest):
            return Inspection()
        if largest == 0:
            continue
        if peak == 0:
            shown, first = int(k), kspace
        peak = max(peak, largest)
        for coil, samples in enumerate(kspace):  # in double precision, where no square leaves its range
            power[coil] += np.abs(samples.astype(np.complex128)) ** 2
        real = real and not kspace.imag.any()
        clipped = max(clipped, _count_clipped(kspace))
    whole = power.sum(axis=0)
    if not whole.any():
        return Inspection()
    shift, spike = _peak(whole)
    stored = first if mask is None else _take(scan, shown, None)  # beyond the mask, too
    has_more = mask is not None and np.count_nonzero(stored) > np.count_nonzero(first)
    refusal = (
        _unusable(peak)
        or _axes_refusal(scan, power)
        or _image_refusal(first, whole)
        or (_image_refusal(stored, (np.abs(stored.astype(np.complex128)) ** 2).sum(axis=0)) if has_more else "")
        or _corner_refusal(whole, shift)
    )
    if refusal:
        return Inspection(shift, refusal, largest=peak)
    found = [*_warnings(power.sum(axis=(1, 2)), real, clipped), *spike, *_half_transformed(first, whole)]
    found += [] if mask is None else _mask_doubt(stored, mask)
    return Inspection(shift, warnings=tuple(found), largest=peak)


def _take(scan: Scan, k: int, mask: np.ndarray | None) -> np.ndarray:
    """Read what was acquired of one slice: complex64 (coil, H, W)."""
    found = np.asarray(scan.kspace[k : k + 1])[0]
    found = found if found.ndim == 3 else found[None]
    return np.ascontiguousarray(found if mask is None else np.where(mask, found, np.complex64(0)))


def _mask_doubt(stored: np.ndarray, mask: np.ndarray) -> list[str]:
    """Say that a mask has samples (coil, H, W) as acquired that are zero, between others that are not."""
    sampled = (stored != 0).any(axis=0)
    if mask.ndim == 1:
        rows = np.flatnonzero(sampled.any(axis=1))
        gaps = int(rows[-1] - rows[0] + 1 - len(rows))
        if gaps > MAX_GAPS * len(rows):
            return [
                f"{gaps} whole rows inside k-space are zero, but the mask leaves out lines along H: if H and W are "
                "swapped, transpose k-space, so that phase encoding is along W; if these rows were not acquired, store "
                "a mask of shape (H, W)"
            ]
    there = sampled if mask.ndim > 1 else sampled.any(axis=0)[None]
    rows, lines = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(lines[0], lines[-1] + 1)
    wanted = np.broadcast_to(mask, there.shape)[box]
    empty = int(np.count_nonzero(wanted & ~there[box]))
    if empty <= MAX_EMPTY * np.count_nonzero(wanted):
        return []
    what = "samples" if mask.ndim > 1 else "lines"
    return [f"{empty} of the {what} that the mask marks as acquired are zero: check that it is the mask of this scan"]


def _unusable(largest: float) -> str:
    """Say that numbers are too small for single precision; empty if they are not."""
    if largest >= np.finfo(np.float32).tiny:
        return ""
    return f"k-space has {largest:.2g} at most, too little for single precision; multiply it by a constant"


def _axes_refusal(scan: Scan, power: np.ndarray) -> str:
    """Describe why the axes cannot be in their places, by the power (coil, H, W) of a scan; empty if they can."""
    coils, width, name = len(power), power.shape[-1], "H, W"
    if not 1 < width <= MAX_COILS_LAST:
        return ""
    along_w = power.sum(axis=(0, 1))
    if scan.kspace.ndim == 3:  # (H, W, coil)?
        along_h = (
            np.array(
                [np.linalg.norm(np.asarray(scan.kspace[k]).astype(np.complex128)) for k in range(len(scan.kspace))]
            )
            ** 2
        )
    else:
        along_h, name = power.sum(axis=(1, 2)), "slice, H, W"
    sizes = coils > MAX_COILS_LAST and coils >= 2 * width
    peaks = along_h.max() >= max(MIN_PEAK, SAME_AXIS * along_w.max() / along_w.mean()) * along_h.mean()
    if not sizes and not (len(along_h) > width and peaks):
        return ""
    before = "slices" if name.startswith("slice") else "H and W"
    move = f"move coils behind {before}" if name.startswith("slice") else "store it as (slice, coil, H, W)"
    return f"axes look like ({name}, coil), with {width} coils last; {move}"


def _image_refusal(kspace: np.ndarray, power: np.ndarray) -> str:
    """Say that samples (coil, H, W), whose power over coils is (H, W), are of an image; empty if they are not."""
    if MIN_IMAGE <= _concentration(power) < MIN_CONCENTRATION and _central_share(kspace) > MIN_CENTRAL:
        return "holds images, not k-space: only its Fourier transform looks like k-space; transform it first"
    return ""


def _corner_refusal(power: np.ndarray, shift: tuple[int, int]) -> str:
    """Say that the peak is where a Fourier transform without fftshift has it; empty if it is not."""
    ends = [abs(offset) >= size // 2 - 1 for offset, size in zip(shift, power.shape, strict=True)]
    if all(ends) and min(power.shape) > 8:
        return (
            "is not centered: the strongest sample is at a corner, as after a Fourier transform without fftshift; add "
            "--uncentered, or shift it by half its size along H and W (numpy.fft.fftshift)"
        )
    return ""


def _peak(power: np.ndarray) -> tuple[tuple[int, int], list[str]]:
    """Find the peak of power (H, W), from the center, (0, 0) where none stands out; and say what is only a spike."""
    if _concentration(power[power > 0]) < MIN_CONCENTRATION:  # of the acquired samples
        return (0, 0), []
    place = np.unravel_index(int(power.argmax()), power.shape)
    around = np.roll(power, (1 - int(place[0]), 1 - int(place[1])), (0, 1))[:3, :3].ravel()
    others, spike = np.delete(around, 4) if around.size == 9 else around, []
    offsets = [int(index) - size // 2 for index, size in zip(place, power.shape, strict=True)]
    if max(map(abs, offsets)) > 1 and others.min() > 0 and power[place] > MIN_SPIKE * others.max():
        power = power.copy()
        power[place] = others.max()
        spike = [
            f"the sample at H = {place[0]}, W = {place[1]} is far stronger than its neighbors: a spike, which leaves "
            "stripes in the image"
        ]
    h, w = np.unravel_index(int(_smoothed(power).argmax()), power.shape)
    return (int(h) - power.shape[0] // 2, int(w) - power.shape[1] // 2), spike


def _half_transformed(kspace: np.ndarray, power: np.ndarray) -> list[str]:
    """Say along which axis samples (coil, H, W) look like an image, if along the other one they look like k-space."""
    steep = []
    for axis in (0, 1):
        profile = np.sort(power.sum(axis=1 - axis))[::-1]
        steep.append(float(profile[: max(1, round(STRONGEST_LINES * len(profile)))].sum() / profile.sum()))
    for axis, name in enumerate("HW"):
        if steep[axis] > MAX_FLAT or steep[1 - axis] < MIN_STEEP:
            continue
        spectrum = sum((np.abs(np.fft.fft(each, axis=axis)) ** 2).sum(axis=1 - axis) for each in kspace)
        if float(np.roll(spectrum, 2)[:5].sum() / np.sum(spectrum)) > MIN_CENTRAL:
            return [f"samples look like an image along {name}: if they were transformed along it, undo that first"]
    return []


def _count_clipped(kspace: np.ndarray) -> int:
    """Count the samples (coil, H, W) of a coil that have its largest value: a part, or the magnitude."""
    found, whole = 0, float(np.abs(kspace).max())
    for samples in kspace:
        for values in (np.abs(samples.view(samples.real.dtype)), np.abs(samples)):
            largest = float(values.max())
            if largest > MIN_CLIPPED_COIL * whole:
                found = max(found, int(np.count_nonzero(values >= (1 - CLIPPED_TOLERANCE) * largest)))
    return found


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
