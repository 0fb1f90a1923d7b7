"""Images of a volume with their geometry, independent of the file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mrihvae.data.geometry import Geometry

UNCERTAINTY, SAMPLES = "uncertainty", "samples"  # names of datasets beside that of the images
DATASETS = ("reconstruction", UNCERTAINTY, "reconstruction_rss", "reconstruction_esc")


@dataclass(frozen=True)
class ImageVolume:
    """Images of a volume: magnitudes, or complex ones where a file has them.

    Attributes
    ----------
    pixels : float32 (slice, h, w), readout along h; or complex64
    geometry : where they lie, or None where it is not known
    attributes : further attributes, for formats that can hold them
    dataset : its name in HDF5 files
    voxel : size along h, w and across slices, mm, where that is known and geometry is not
    uncertainty : float32 (slice, h, w), standard deviation of the pixels, or None
    samples : float32 (slice, sample, h, w), posterior samples, or None
    """

    pixels: np.ndarray
    geometry: Geometry | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = DATASETS[0]
    voxel: tuple[float, float, float] | None = None
    uncertainty: np.ndarray | None = None
    samples: np.ndarray | None = None

    def single_slice(self, k: int) -> ImageVolume:
        """Return slice k alone."""
        geometry = None if self.geometry is None else self.geometry.single_slice(k)
        uncertainty = None if self.uncertainty is None else self.uncertainty[k : k + 1]
        samples = None if self.samples is None else self.samples[k : k + 1]
        return replace(self, pixels=self.pixels[k : k + 1], geometry=geometry, uncertainty=uncertainty, samples=samples)

    def uncertainty_map(self) -> ImageVolume | None:
        """Return the uncertainty as a volume of its own, at the same place; None without one."""
        if self.uncertainty is None:
            return None
        return replace(self, pixels=self.uncertainty, dataset=UNCERTAINTY, uncertainty=None, samples=None)
