"""Images to restore, their masks and kernels, from NIfTI files and gray pictures (PNG, JPEG, TIFF), and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.checks import read_errors
from mrihvae.io.dicom import DICOM_SUFFIX, choose_series, dicom_folders, has_dicom, is_dicom, read_dicom
from mrihvae.io.dicom_header import DicomHeader, read_header
from mrihvae.io.formats import NIFTI_SUFFIXES, PICTURE_SUFFIXES, check_names, has_suffix, list_files
from mrihvae.io.nifti import read_nifti, write_nifti_like
from mrihvae.io.npy_array import load_array
from mrihvae.io.pictures import read_picture, write_png
from mrihvae.io.write_dicom import finer, write_dicom

GRAY_SUFFIXES = (*PICTURE_SUFFIXES, ".tif", ".tiff")
IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, *GRAY_SUFFIXES)


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
    volume : of DICOM, the images with their geometry, or None
    study : of DICOM, patient, study and acquisition, or None
    """

    file: Path
    values: np.ndarray
    bits: int = 0
    shape: tuple[int, ...] = ()
    header: Any = None
    volume: ImageVolume | None = None
    study: DicomHeader | None = None


def stem_of(file: Path) -> str:
    """Return a file's name without its suffix."""
    suffix = next((suffix for suffix in (*IMAGE_SUFFIXES, DICOM_SUFFIX) if has_suffix(file, (suffix,))), "")
    return file.name[: len(file.name) - len(suffix)]


def restored_name(file: Path) -> str:
    """Return the name of what `write_images` makes of a file: its own of NIfTI, of pictures PNG, of DICOM a folder."""
    if is_dicom(file) or file.is_dir():
        return stem_of(file)
    return file.name if has_suffix(file, NIFTI_SUFFIXES) else f"{stem_of(file)}.png"


def list_images(path: Path) -> list[Path]:
    """List a file, or the images in a folder, as `mrihvae.io.formats.list_files`; of DICOM the folders with a series.

    Raises
    ------
    InputError
        Not there, no image among it, or two whose results would have one name.
    """
    hint = f"give an image ({', '.join(sorted(IMAGE_SUFFIXES))}, DICOM) or a folder of them"
    if is_dicom(path):
        return [path]
    folders = [one.resolve() for one in dicom_folders(path, depth=1)] if path.is_dir() else []
    files = folders or list_files(path, IMAGE_SUFFIXES, "no image in it", hint, strict=True)
    check_names((file, f"{stem_of(file)}.png") for file in files)
    return files


def read_images(file: Path | str, series: str | None = None) -> Images:
    """Read a NIfTI file, a gray picture, or a DICOM series; NaN and infinity are let through.

    Parameters
    ----------
    series : of DICOM, its number or UID, where there are several

    Raises
    ------
    InputError
        Not readable, in color, complex, of several pages, or of more than four dimensions.
    """
    file = Path(file)
    if file.exists() and has_dicom(file):
        volume = read_dicom(file, series)
        return Images(file, volume.pixels[None], volume=volume, study=read_header(choose_series(file, series)))
    if not has_suffix(file, NIFTI_SUFFIXES):
        pixels = read_picture(file, strict=True)
        return Images(file, pixels.astype(np.float32)[None, None], 8 if pixels.dtype == np.uint8 else 16)
    array, header = read_nifti(file)
    shape = array.shape
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 4:
        raise InputError(f"{file}: has shape {array.shape}; give (H, W), (H, W, slices) or (H, W, slices, volumes)")
    with read_errors(file), np.errstate(over="ignore"):  # becomes infinite, which `cli.restore` refuses
        values = array.reshape(*shape, *(1,) * (4 - len(shape))).astype(np.float32).transpose(3, 2, 0, 1)
    return Images(file, np.ascontiguousarray(values), shape=shape, header=header.copy())


def write_images(path: Path, values: np.ndarray, source: Images, factor: int = 1) -> None:
    """Write images in the form of the file that they were made of: NIfTI as float32, PNG of its bit depth, or DICOM.

    Parameters
    ----------
    path : file to write
    values : real (volumes, slices, H, W), finite; for a picture they are rounded and clipped to its range
    source : what they were made of
    factor : how many times finer they are along H and W; the first voxel's center stays where it was

    Raises
    ------
    InputError
        If `path` cannot be written.
    """
    if source.volume is not None:
        write_dicom(path, finer(source.volume, values[0].astype(np.float32), factor), header=source.study)
    elif source.header is None:
        depth = np.uint8 if source.bits == 8 else np.uint16
        write_png(path, np.rint(np.clip(values[0, 0], 0, 2**source.bits - 1)).astype(depth))
    else:
        array = values.transpose(2, 3, 1, 0).reshape(*values.shape[-2:], *source.shape[2:])
        write_nifti_like(path, array, source.header, factor)


def read_mask(file: Path) -> np.ndarray:
    """Read which pixels are known, those that are not zero: bool (volumes, slices, H, W), the first two often 1.

    Raises
    ------
    InputError
        Not readable, with NaN, or without a known pixel.
    """
    if file.is_dir():
        raise InputError(f"{file}: a mask must be a file; give a NIfTI file or a picture")
    list_images(file)
    values = read_images(file).values
    if np.isnan(values).any():
        raise InputError(f"{file}: the mask holds NaN; write 0 where the image is not known, else 1")
    if not values.any():
        raise InputError(f"{file}: the mask has no known pixel; write 1 where the image is known")
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
        raise InputError(f"{file}: a mask of {have} for {images.file}, {want}; give one with the same height and width")
    return np.broadcast_to(mask, shape)


def read_kernel(file: Path) -> Tensor:
    """Read a convolution kernel from a .npy file or a gray picture, and divide it by its sum: float32 (h, w).

    Raises
    ------
    InputError
        Not readable, not of two odd sizes, not finite, or of sum 0.
    """
    if has_suffix(file, (".npy",)):
        with read_errors(file, "not readable as a .npy array", "write it with numpy.save"):
            kernel = load_array(file)
    elif has_suffix(file, GRAY_SUFFIXES):
        kernel = read_images(file).values[0, 0]
    else:
        raise InputError(f"{file}: is not a readable kernel; give a .npy file or a picture")
    if not isinstance(kernel, np.ndarray) or kernel.dtype.kind not in "biuf" or kernel.ndim != 2:
        raise InputError(f"{file}: a kernel is an array (h, w) of real numbers; write one with numpy.save")
    kernel = kernel.astype(np.float64)
    if any(size % 2 == 0 for size in kernel.shape):
        raise InputError(f"{file}: kernel of {kernel.shape[0]} x {kernel.shape[1]}; both sizes must be odd, pad it")
    total = kernel.sum()
    if not np.isfinite(kernel).all() or abs(total) <= 1e-6 * np.abs(kernel).sum():
        raise InputError(
            f"{file}: kernel with sum {total:g}; it must be finite and not 0, because kernels are normalized to 1"
        )
    return torch.from_numpy((kernel / total).astype(np.float32))
