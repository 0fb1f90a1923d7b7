"""Pixels of gray pictures: EXIF orientation, bit depths, colors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrihvae.errors import InputError
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


def test_small_files_that_claim_large_pictures_are_refused(tmp_path: Path) -> None:
    """TIFF states its size by itself: memory is taken before its pixels turn out to be missing."""
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(path)
    data = path.read_bytes()
    width = data.index(b"\x00\x01\x04\x00\x01\x00\x00\x00\x20\x00\x00\x00") + 8  # of the tag 256
    path.write_bytes(data[:width] + (2**20).to_bytes(4, "little") + data[width + 4 :])
    with pytest.raises(InputError, match=r"a.tif: its picture claims 0.0312 GiB but stores \d+ bytes"):
        read_picture(path)


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("L", "jpg"), ("1", "tif"), ("RGB", "png")])
def test_large_blank_pictures_are_read(mode: str, suffix: str, tmp_path: Path) -> None:
    Image.new(mode, (2048, 2048)).save(tmp_path / f"a.{suffix}")
    assert not read_picture(tmp_path / f"a.{suffix}").any()
