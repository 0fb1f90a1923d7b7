"""Images to restore, their masks and kernels, from NIfTI files and grey pictures (PNG, JPEG, TIFF), and back."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrihvae.errors import InputError, reason
from mrihvae.io.pictures import gray_pixels
from mrihvae.utils.files import atomic_write

NIFTI = (".nii.gz", ".nii")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


@dataclass(frozen=True)
class Images:
    """The images of one file.

    Attributes
    ----------
    file : where they are from
    values : float32 (volumes, slices, H, W), in the file's own unit; of a picture (1, 1, H, W)
    bits : 8 or 16 of a picture, 0 of NIfTI
    shape : of the array in a NIfTI file, (H, W), (H, W, slices) or (H, W, slices, volumes)
    header : of the NIfTI file, or None
    """

    file: Path
    values: np.ndarray
    bits: int = 0
    shape: tuple[int, ...] = ()
    header: Any = None


def stem_of(file: Path) -> str:
    """Give a file's name without its ending."""
    ending = next((e for e in NIFTI + PICTURES if file.name.lower().endswith(e)), "")
    return file.name[: len(file.name) - len(ending)]


def restored_name(file: Path) -> str:
    """Give the name of what `write_images` makes of a file: NIfTI keeps its own, pictures become PNG."""
    return file.name if file.name.lower().endswith(NIFTI) else f"{stem_of(file)}.png"


def list_images(path: Path) -> list[Path]:
    """List a file, or the images in a folder, sorted; hidden ones are left out.

    Raises
    ------
    InputError
        Not there, no image among it, or two whose results would have one name.
    """
    endings = ", ".join(sorted(NIFTI + PICTURES))
    if path.is_file():
        if not path.name.lower().endswith(NIFTI + PICTURES):
            raise InputError(f"{path}: is no image that can be read; give one of {endings}")
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: not there; give an image ({endings}) or a folder of them")
    files = sorted(
        p
        for p in path.iterdir()
        if p.is_file() and p.name.lower().endswith(NIFTI + PICTURES) and not p.name.startswith(".")
    )
    if not files:
        raise InputError(f"{path}: no image in it; give a folder with {endings}")
    stems: dict[str, Path] = {}
    for file in files:
        other = stems.setdefault(stem_of(file), file)
        if other != file:
            raise InputError(f"{path}: {other.name} and {file.name} would have results of one name; rename one")
    return files


def read_images(file: Path) -> Images:
    """Read a NIfTI file or a grey picture; NaN and infinity are let through.

    Raises
    ------
    InputError
        Not readable, in colour, complex, of several pages, or of more than four dimensions.
    """
    try:
        return _read_nifti(file) if file.name.lower().endswith(NIFTI) else _read_picture(file)
    except InputError:
        raise
    except Exception as error:  # the readers raise whatever damage happens to cause
        why = reason(error)
        raise InputError(f"{file}: not readable ({why}); copy it again or leave it out") from error


def _read_nifti(file: Path) -> Images:
    import nibabel

    source: Any = nibabel.load(file)
    array = np.asanyarray(source.dataobj)
    if array.dtype.kind not in "biuf":
        kind = "complex" if array.dtype.kind == "c" else "in colour"
        raise InputError(f"{file}: is {kind} ({array.dtype}); give real numbers, such as magnitudes")
    shape = array.shape
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if not 2 <= len(shape) <= 4 or 0 in shape:
        raise InputError(f"{file}: has shape {array.shape}; give (H, W), (H, W, slices) or (H, W, slices, volumes)")
    with np.errstate(over="ignore"):  # becomes infinite, which is told of later
        values = array.reshape(*shape, *(1,) * (4 - len(shape))).astype(np.float32).transpose(3, 2, 0, 1)
    return Images(file, np.ascontiguousarray(values), shape=shape, header=source.header.copy())


def _read_picture(file: Path) -> Images:
    from PIL import Image

    with Image.open(file) as picture:
        if getattr(picture, "n_frames", 1) > 1:
            raise InputError(f"{file}: has several pages; give one picture a file, or NIfTI")
        if picture.mode not in ("1", "L", "I") and not picture.mode.startswith("I;16"):
            kind = "has floating-point pixels" if picture.mode == "F" else f"is in colour ({picture.mode})"
            raise InputError(f"{file}: {kind}; convert it to 8 or 16 bits of grey")
        array = gray_pixels(picture)
    bits = 8 if array.dtype == np.uint8 else 16
    if array.min() < 0 or array.max() >= 2**bits:
        raise InputError(f"{file}: has pixels beyond 16 bits; convert it to 8 or 16 bits of grey")
    return Images(file, array.astype(np.float32)[None, None], bits)


def write_images(path: Path, values: np.ndarray, source: Images, factor: int = 1) -> None:
    """Write images in the form of the file that they were made of: NIfTI as float32, or PNG of the same bit depth.

    Parameters
    ----------
    path : file to write
    values : real (volumes, slices, H, W), finite; for a picture they are rounded and clipped to its range
    source : what they were made of
    factor : how many times finer they are along H and W; the first voxel's centre stays where it was

    Raises
    ------
    InputError
        If `path` cannot be written.
    """
    with atomic_write(path) as temporary:
        if source.header is None:
            from PIL import Image

            depth = np.uint8 if source.bits == 8 else np.uint16
            pixels = np.rint(np.clip(values[0, 0], 0, 2**source.bits - 1)).astype(depth)
            Image.fromarray(pixels).save(temporary, format="PNG")
        else:
            data = _nifti(values, source, factor)
            temporary.write_bytes(gzip.compress(data, 6, mtime=0) if path.name.lower().endswith(".gz") else data)


def _nifti(values: np.ndarray, source: Images, factor: int) -> bytes:
    """Make a NIfTI file; both of the header's transforms are scaled, and keep their codes."""
    import nibabel

    shape = (*values.shape[-2:], *source.shape[2:])
    array = values.astype(np.float32).transpose(2, 3, 1, 0).reshape(shape)
    header = source.header.copy()
    header.set_data_dtype(np.float32)
    sform, qform = header.get_sform(coded=True), header.get_qform(coded=True)
    finer = np.diag([1 / factor, 1 / factor, 1, 1])
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    image = kind(array, header.get_best_affine() @ finer, header)
    if factor > 1 and (sform[1] or qform[1]):
        image.set_qform(qform[0] @ finer if qform[1] else None, int(qform[1]))
        image.set_sform(sform[0] @ finer if sform[1] else None, int(sform[1]))
    return bytes(image.to_bytes())


def read_mask(file: Path) -> np.ndarray:
    """Read which pixels are known, those that are not zero: bool (volumes, slices, H, W), the first two often 1.

    Raises
    ------
    InputError
        Not readable, with NaN, or without a known pixel.
    """
    list_images(file)
    values = read_images(file).values
    if np.isnan(values).any():
        raise InputError(f"{file}: a mask with NaN; write 0 where the image is not known, else 1")
    if not values.any():
        raise InputError(f"{file}: a mask without a known pixel; write 1 where the image is known")
    return np.asarray(values != 0)


def mask_for(images: Images, mask: np.ndarray, file: Path) -> np.ndarray:
    """Repeat a mask for all slices and volumes of `images`.

    Raises
    ------
    InputError
        A mask of another shape.
    """
    shape = images.values.shape
    fits = mask.shape[-2:] == shape[-2:] and all(m in (1, n) for m, n in zip(mask.shape[:2], shape[:2]))
    if not fits:
        have, want = (" x ".join(map(str, s[-2:])) + f" x {s[1]} slices x {s[0]} volumes" for s in (mask.shape, shape))
        raise InputError(f"{file}: a mask of {have} for {images.file}, {want}; give one of its height and width")
    return np.broadcast_to(mask, shape)


def read_kernel(file: Path) -> Tensor:
    """Read a convolution kernel from a .npy file or a grey picture, and divide it by its sum: float32 (h, w).

    Raises
    ------
    InputError
        Not readable, not of two odd sizes, not finite, or of sum 0.
    """
    if file.name.lower().endswith(".npy"):
        try:
            kernel = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            why = reason(error)
            raise InputError(f"{file}: not readable as a .npy array ({why}); write it with numpy.save") from error
    elif file.name.lower().endswith(PICTURES):
        kernel = read_images(file).values[0, 0]
    else:
        raise InputError(f"{file}: is no kernel that can be read; give a .npy file or a picture")
    if not isinstance(kernel, np.ndarray) or kernel.dtype.kind not in "biuf" or kernel.ndim != 2:
        raise InputError(f"{file}: a kernel is an array (h, w) of real numbers; write one with numpy.save")
    kernel = kernel.astype(np.float64)
    if any(size % 2 == 0 for size in kernel.shape):
        raise InputError(f"{file}: kernel of {kernel.shape[0]} x {kernel.shape[1]}; both sizes must be odd, pad it")
    total = kernel.sum()
    if not np.isfinite(kernel).all() or abs(total) <= 1e-6 * np.abs(kernel).sum():
        raise InputError(f"{file}: kernel with sum {total:g}; it must be finite and not 0 to be made 1")
    return torch.from_numpy((kernel / total).astype(np.float32))
