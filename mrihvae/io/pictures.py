"""Pixels of gray pictures: PNG, JPEG, TIFF."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


def gray_pixels(picture: Image) -> np.ndarray:
    """Give the pixels of an open picture, (h, w), upright as its EXIF data say; colors become gray, of 8 bits."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(picture)
    return np.asarray(upright if upright.mode.startswith("I") else upright.convert("L"))
