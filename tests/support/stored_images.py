"""MRD images as clients store them: one after another, in the order in which they were reconstructed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np

TYPES = {"magnitude": 1, "phase": 2, "real": 3, "imaginary": 4, "complex": 5}
FIELD_OF_VIEW = (16.0, 9.0, 5.0)  # of images of 8 x 6: voxels of 2 x 1.5 x 5 mm


@dataclass(frozen=True)
class Stored:
    """An image to store.

    Attributes
    ----------
    pixels : (h, w), readout along h
    place : mm along z
    series : of the group image_SERIES
    kind : one of `TYPES`
    header : further fields
    meta : attributes
    """

    pixels: np.ndarray
    place: float = 0.0
    series: int = 0
    kind: str = "magnitude"
    header: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


def marked(number: float, kind: Any = np.float32) -> np.ndarray:
    """Make pixels (8, 6) of a value, with 1 more at the end of the readout and of the phase."""
    pixels = np.full((8, 6), number, kind)
    pixels[7, 0], pixels[0, 5] = number + 1, number + 2
    return pixels


def store(path: Path, images: Iterable[Stored], group: str = "dataset") -> Path:
    """Append images to a file, in groups GROUP/image_SERIES."""
    with ismrmrd.Dataset(str(path), group) as file:
        for index, one in enumerate(images, start=1):
            head = ismrmrd.ImageHeader()
            head.version, head.image_type = 1, TYPES[one.kind]
            head.image_index, head.image_series_index = index, one.series
            head.field_of_view[:], head.position[:] = FIELD_OF_VIEW, (1.0, 2.0, one.place)
            head.read_dir[:], head.phase_dir[:], head.slice_dir[:] = np.eye(3)
            for name, value in one.header.items():
                setattr(head, name, value)
            image = ismrmrd.Image(head, data=np.ascontiguousarray(one.pixels.T[None, None]))
            image.attribute_string = ismrmrd.Meta(dict(one.meta)).serialize()
            file.append_image(f"image_{one.series}", image)
    return path
