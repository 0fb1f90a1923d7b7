"""BART's arrays: a pair of files, NAME.cfl with complex64 numbers, first dimension fastest, and NAME.hdr with sizes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from mrihvae.errors import InputError
from mrihvae.files import replacing

SUFFIXES = (".cfl", ".hdr")
MOST = 16  # dimensions that BART has
SIZES = "# Dimensions"  # the line of a header that the sizes follow


def read_cfl(path: Path) -> np.ndarray:
    """Read an array.

    Parameters
    ----------
    path : NAME, NAME.cfl or NAME.hdr

    Returns
    -------
    complex64, in BART's dimensions without those of size 1 at the end, of which one stays

    Raises
    ------
    InputError
        One of the two files is missing or not readable, the header tells no sizes, there are other numbers of bytes
        than it tells, or NaN is among them.
    """
    data, header = _pair(path)
    sizes = _read_sizes(header)
    try:
        found = data.stat().st_size
        told = math.prod(sizes) * np.dtype(np.complex64).itemsize
        if found != told:
            shape = " x ".join(map(str, sizes))
            raise InputError(
                f"{data}: has {found} bytes, and {header.name} tells of {shape} numbers, {told} bytes; copy both again"
            )
        values = np.fromfile(data, np.complex64)
    except OSError as error:
        raise InputError(f"{data}: cannot be read ({error.strerror}); BART's arrays are a .cfl and a .hdr") from error
    if not np.isfinite(values).all():
        raise InputError(f"{data}: holds NaN or infinite values; export the array again")
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    return values.reshape(sizes, order="F")


def write_cfl(path: Path, array: np.ndarray) -> None:
    """Write an array of at least one dimension as NAME.cfl and NAME.hdr, for any of the names that `read_cfl` takes.

    Raises
    ------
    InputError
        More dimensions than BART has, or the files cannot be written.
    """
    if not 1 <= array.ndim <= MOST:
        raise InputError(f"{path}: an array of {array.ndim} dimensions; BART's have 1 to {MOST}")
    data, header = _pair(path)
    sizes = (*array.shape, *[1] * (MOST - array.ndim))
    with replacing(data) as temporary:
        array.astype(np.complex64).ravel(order="F").tofile(temporary)
    with replacing(header) as temporary:
        temporary.write_text(f"{SIZES}\n{' '.join(map(str, sizes))}\n")


def _pair(path: Path) -> tuple[Path, Path]:
    """Name the files of an array; NAME may have dots in it."""
    name = path.with_suffix("") if path.suffix in SUFFIXES else path
    return name.with_name(f"{name.name}.cfl"), name.with_name(f"{name.name}.hdr")


def _read_sizes(header: Path) -> list[int]:
    """Read the sizes of all dimensions."""
    try:
        lines = [line.strip() for line in header.read_text(errors="replace").splitlines()]
    except OSError as error:
        raise InputError(f"{header}: cannot be read ({error.strerror}); BART's arrays are a .cfl and a .hdr") from error
    try:
        sizes = [int(size) for size in lines[lines.index(SIZES) + 1].split()]
    except (ValueError, IndexError):
        sizes = []
    if not sizes or min(sizes) < 1:
        raise InputError(f"{header}: tells no sizes below '{SIZES}'; write it again, as BART does")
    return sizes
