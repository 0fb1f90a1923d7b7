"""Gray pictures: PNG, JPEG and TIFF."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrihvae.errors import InputError
from mrihvae.io.checks import read_errors
from mrihvae.utils.files import atomic_write
from mrihvae.utils.memory import check_expansion, check_size, check_slice

FEW_BYTES = 2**22  # of pixels, which a picture of any file size may have
WHITE_PERCENTILE = 99.5  # of the pixels of a volume or series, shown as white


def read_picture(file: Path, strict: bool = False) -> np.ndarray:
    """Read the pixels of a picture, (h, w), upright as its EXIF data say; colors become gray, of 8 bits.

    Parameters
    ----------
    strict : refuse what is not one page of 8 or 16 bits of gray

    Raises
    ------
    InputError
        Not readable, or refused.
    """
    from PIL import Image, ImageOps

    with read_errors(file), Image.open(file) as picture:
        check_slice(f"{file}:", picture.height, picture.width)
        count = picture.height * picture.width
        check_size(f"{file}: its pixels", count * len(picture.getbands()) * 4)
        check_expansion(f"{file}: its picture", int(count * _bytes_of(picture.mode)), file.stat().st_size, FEW_BYTES)
        if strict and getattr(picture, "n_frames", 1) > 1:
            raise InputError(f"{file}: has several pages; give one picture per file, or NIfTI")
        if strict and picture.mode not in ("1", "L", "I") and not picture.mode.startswith("I;16"):
            kind = "has floating-point pixels" if picture.mode == "F" else f"is in color ({picture.mode})"
            raise InputError(f"{file}: {kind}; convert it to 8 or 16 bits of gray")
        upright = ImageOps.exif_transpose(picture)
        pixels = np.asarray(upright if upright.mode.startswith("I") else upright.convert("L"))
        if strict and pixels.dtype != np.uint8 and not (pixels.min() >= 0 and pixels.max() < 2**16):
            raise InputError(f"{file}: has pixels beyond 16 bits; convert it to 8 or 16 bits of gray")
    return pixels


def _bytes_of(mode: str) -> float:
    """Return the bytes of a pixel in one of Pillow's modes; a bit where it is black or white."""
    from PIL import ImageMode

    described = ImageMode.getmode(mode)
    return 1 / 8 if mode == "1" else np.dtype(described.typestr).itemsize * len(described.bands)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 or uint16 (h, w); all or nothing."""
    from PIL import Image

    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
