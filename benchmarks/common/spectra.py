"""Power of images over spatial frequency."""

from __future__ import annotations

import numpy as np

EDGES = np.concatenate(([0.01], np.arange(0.04, 0.521, 0.04)))  # cycles a pixel; the mean of an image is left out
BANDS = (EDGES[:-1] + EDGES[1:]) / 2


def band_power(image: np.ndarray) -> np.ndarray:
    """Compute the mean power of an image (h, w) in rings of spatial frequency, whose centers are `BANDS`.

    Examples
    --------
    >>> import numpy as np
    >>> from benchmarks.common.spectra import BANDS, band_power
    >>> wave = np.cos(2 * np.pi * 0.25 * np.arange(64))[None].repeat(64, axis=0)
    >>> float(BANDS[band_power(wave).argmax()].round(2))
    0.26
    """
    height, width = image.shape
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    power = np.abs(np.fft.fft2(image, norm="ortho")) ** 2
    ring = np.digitize(radius, EDGES) - 1
    return np.array([power[ring == k].mean() for k in range(len(BANDS))])


def decibels(ratios: np.ndarray) -> list[float]:
    """Compute the mean over images of power ratios (images, bands) in dB, from -60 dB on."""
    levels = 10 * np.log10(np.maximum(ratios, 1e-6)).mean(axis=0)
    return [round(float(level), 3) for level in levels]
