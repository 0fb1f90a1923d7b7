"""The noise-limited ceiling: the PSNR that the best reconstruction can have against a target that is itself noisy.

The target x + n holds the noise of all bins. A reconstruction that keeps what was measured shares the noise of those
bins, and one that is perfect elsewhere gives the noise-free x there. Of white noise with E|n|^2 = s^2 per complex bin,
the missing fraction f of the bins carries f s^2 per pixel, of which the magnitude of a pixel sees half where signal
dominates. Without signal it sees more: with a = 1 - f and correlation sqrt(a) between the two images,

    E (|x + n| - |x + n_measured|)^2 = s^2 (1 + a - (pi / 2) sqrt(a) 2F1(-1/2, -1/2; 1; a))    for x = 0,

10 % more than f s^2 / 2 at f = 3/4, 36 % more at f = 0.92. So the error is drawn at the brightness of each pixel.
A method that lifts the background to the mean of the target's noise there may pass the ceiling by a little.

The noise of raw scans is estimated line by line, in the outermost rows, where there is least signal: scanners filter
lines, and the noise of one scan here differs eightfold between them, so that an estimate at the corners of k-space is
half of what the background of the image shows.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from mrihvae.data.scan import Scan
from mrihvae.physics.noise import line_noise

WINDOW = 7  # pixels on a side over which the brightness of the target is averaged
DRAWS = 4  # of the noise of a volume


def noise_power(scan: Scan) -> np.ndarray:
    """Give E|n|^2 per bin for the lines of each slice of a complete single-coil scan, (slice, W), in its own scale.

    Simulated scans tell it (attribute `noise`), for raw ones it is estimated (`mrihvae.physics.noise.line_noise`).
    Lines that the scanner left empty have none.
    """
    slices, _, width = scan.kspace.shape
    if "noise" in scan.attributes:
        noise = np.asarray(scan.attributes["noise"], dtype=float)
        return np.repeat(noise[:, None] ** 2, width, axis=1)
    return np.repeat(line_noise(torch.from_numpy(scan.kspace)).numpy()[None], slices, axis=0)


def pixel_noise(scan: Scan) -> np.ndarray:
    """Give the standard deviation of the complex noise of a pixel of each slice, (slice,)."""
    filled = np.any(scan.kspace != 0, axis=0)
    return np.asarray(np.sqrt((noise_power(scan)[:, None] * filled).mean(axis=(1, 2))))


def ceiling(scan: Scan, mask: np.ndarray) -> float | None:
    """Compute the PSNR of a reconstruction that keeps measured bins and is free of error and noise elsewhere.

    Parameters
    ----------
    scan : complete, single-coil, with a target
    mask : bool (W,) or (H, W), what a reconstruction gets to see

    Returns
    -------
    dB, by fastMRI's definition, over the center (W, W) of the target; None where nothing is missing
    """
    if scan.target is None or scan.kspace.ndim != 3:
        return None
    filled = np.any(scan.kspace != 0, axis=0)
    power = noise_power(scan)[:, None]
    seen, missing = ((power * part).mean(axis=(1, 2)) for part in (filled & mask, filled & ~mask))
    target = _center(scan.target)
    errors = [magnitude_error(amplitude_of(t, a + b), a, b) for t, a, b in zip(target, seen, missing)]
    error = float(np.mean(errors))
    return 10 * math.log10(float(target.max()) ** 2 / error) if error > 0 else None


def magnitude_error(amplitude: np.ndarray, seen: float, missing: float) -> float:
    """Draw the mean of (|x + n| - |x + n_seen|)^2 over pixels.

    Parameters
    ----------
    amplitude : |x|, (h, w)
    data_kspace, missing : power per pixel of the noise of bins that are seen, and of those that are not
    """
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(DRAWS):
        white = rng.standard_normal((4, *amplitude.shape)) / math.sqrt(2)
        part = amplitude + math.sqrt(seen) * (white[0] + 1j * white[1])
        whole = part + math.sqrt(missing) * (white[2] + 1j * white[3])
        errors.append(np.mean((np.abs(whole) - np.abs(part)) ** 2))
    return float(np.mean(errors))


def amplitude_of(target: np.ndarray, power: float) -> np.ndarray:
    """Estimate |x| from a noisy magnitude (h, w) and the power of its noise per pixel, by local averages of squares."""
    squared = torch.from_numpy(target.astype(float) ** 2)[None]
    mean = functional.avg_pool2d(squared, WINDOW, 1, WINDOW // 2, count_include_pad=False)[0].numpy()
    return np.asarray(np.sqrt(np.maximum(mean - power, 0)))


def _center(volume: np.ndarray) -> np.ndarray:
    """Cut the center (W, W) out of (slice, h, W) as fastMRI's scores do."""
    height, width = volume.shape[-2:]
    top = max(0, (height - width) // 2)
    return volume[:, top : top + width]
