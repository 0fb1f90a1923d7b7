"""What the reconstruction of a scan returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrihvae.inference.calibration import Bounds


@dataclass(frozen=True)
class Reconstruction:
    """The reconstruction of a scan, in the scan's own scale, cropped to `mrihvae.data.delivered_shape`.

    Attributes
    ----------
    magnitude : float32 (slice, h, w); for the method "samples" the magnitude of the complex mean, because a mean of
        magnitudes would raise the background
    image : complex64 (slice, h, w), of several coils combined by the maps, or coil images (slice, coil, h, w) where a
        method does not combine; None where it was not requested
    std : float32 (slice, h, w), expected standard deviation between `magnitude` and a fully sampled scan with the same
        noise; None without samples. It is calibrated if there is a calibration (`mrihvae.inference.calibration`);
        otherwise it combines the standard deviation of the samples, times `factor`, with that of the scan's noise where
        nothing was acquired
    samples : float32 (slice, sample, h, w), magnitudes without that noise; None without samples
    noise : standard deviation of that noise in a bright pixel
    ratio : ratio of the error to the samples' standard deviation, estimated from the scan itself
        (`mrihvae.inference.error_ratio`)
    factor : factor on the standard deviation of the samples: `InferenceSettings.spread` times `ratio`; 1 for a single
        sample
    tv_shares : share of total variation in each band, coarsest first (`mrihvae.inference.tv_shares`); empty if nothing
        was blended
    bounds : bounds of the volume's PSNR and SSIM; None without samples, or if the method is not calibrated
    """

    magnitude: np.ndarray
    image: np.ndarray | None = None
    std: np.ndarray | None = None
    samples: np.ndarray | None = None
    noise: float = 0.0
    ratio: float = 1.0
    factor: float = 1.0
    tv_shares: tuple[float, ...] = ()
    bounds: Bounds | None = None
