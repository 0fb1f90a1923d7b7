"""Pixels of gray pictures: EXIF orientation, bit depths, colors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrihvae.io.images import read_images
from mrihvae.io.magnitudes import magnitude_slices
from mrihvae.io.pictures import read_picture

PIXELS = (np.arange(24 * 20).reshape(24, 20) % 251).astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(tmp_path: Path, orientation: int) -> None:
    """For training and restoration alike."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(PIXELS).save(path, exif=exif)
    turns = {
        1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1],
        5: PIXELS.T, 6: PIXELS.T[:, ::-1], 7: PIXELS.T[::-1, ::-1], 8: PIXELS.T[::-1],
    }  # fmt: skip
    for found in (read_images(path).values[0, 0], magnitude_slices(path)[0]):
        np.testing.assert_array_equal(found, turns[orientation])


def test_16_bits_stay(tmp_path: Path) -> None:
    pixels = (PIXELS.astype(np.uint16) + 1) * 200
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "deep.png", strict=True), pixels)


def test_colors_become_gray(tmp_path: Path) -> None:
    Image.fromarray(np.stack([PIXELS] * 3, axis=-1)).save(tmp_path / "color.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "color.png"), PIXELS)
