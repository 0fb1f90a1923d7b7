"""Images of a volume with their geometry, independent of the file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mrihvae.data.geometry import Geometry

DATASETS = ("reconstruction", "uncertainty", "reconstruction_rss", "reconstruction_esc")


@dataclass(frozen=True)
class ImageVolume:
    """Magnitude images of a volume.

    Attributes
    ----------
    pixels : float32 (slice, h, w), readout along h
    geometry : where they lie, or None where it is not known
    attributes : further attributes, for formats that can hold them
    dataset : its name in HDF5 files
    voxel : size along h, w and across slices, mm, where that is known and geometry is not
    """

    pixels: np.ndarray
    geometry: Geometry | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = DATASETS[0]
    voxel: tuple[float, float, float] | None = None

    def single_slice(self, k: int) -> ImageVolume:
        """Return slice k alone."""
        geometry = None if self.geometry is None else self.geometry.single_slice(k)
        return replace(self, pixels=self.pixels[k : k + 1], geometry=geometry)
