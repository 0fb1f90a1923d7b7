"""BART's arrays: a pair of files, NAME.cfl with complex64 numbers, first dimension fastest, and NAME.hdr with sizes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.checks import _checked
from mrihvae.io.partitions import check_partitions, transformed
from mrihvae.utils.files import atomic_write

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
    with atomic_write(data) as temporary:
        array.astype(np.complex64).ravel(order="F").tofile(temporary)
    with atomic_write(header) as temporary:
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


READ, PHASE_1, PHASE_2, COIL, SLICE = 0, 1, 2, 3, 13  # dimensions of BART
NAMES = (
    "READ", "PHS1", "PHS2", "COIL", "MAPS", "TE", "COEFF", "COEFF2", "ITER", "CSHIFT", "TIME", "TIME2", "LEVEL",
    "SLICE", "AVG", "BATCH",
)  # fmt: skip
APART = (5, 10, 11, 14)  # of these, each number is a scan of its own: echoes, times, averages


def _read_bart(path: Path) -> list[Scan]:
    """Read BART's k-space; 3D scans are transformed across PHS2."""
    array = read_cfl(path)
    if array.ndim > len(NAMES):
        raise InputError(f"{path}: has {array.ndim} dimensions; BART's arrays have {len(NAMES)}")
    sizes = [*array.shape, *[1] * (len(NAMES) - array.ndim)]
    whole = array.reshape(sizes)
    for dimension, size in enumerate(sizes):
        if size > 1 and dimension not in (READ, PHASE_1, PHASE_2, COIL, SLICE, *APART):
            raise InputError(
                f"{path}: has {size} numbers along dimension {dimension} ({NAMES[dimension]}), of which k-space has "
                "one; take one of them"
            )
    if sizes[PHASE_2] > 1:
        if sizes[SLICE] > 1:
            raise InputError(f"{path}: has both partitions (PHS2) and slices; take one of the slices")
        lines = whole.any(axis=tuple(k for k in range(whole.ndim) if k not in (PHASE_1, PHASE_2)))
        lines = lines.reshape(sizes[PHASE_1], sizes[PHASE_2])
        try:
            check_partitions(lines)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        whole = transformed(whole, PHASE_2).swapaxes(PHASE_2, SLICE)
    name = (path.with_suffix("") if path.suffix in (".cfl", ".hdr") else path).name
    scans = []
    several = [dimension for dimension in APART if sizes[dimension] > 1]
    for place in np.ndindex(*(sizes[dimension] for dimension in several)):
        one = whole
        for dimension, number in zip(several, place):
            one = one.take([number], axis=dimension)
        kspace = one.transpose(SLICE, COIL, READ, PHASE_1, *(k for k in range(1, 16) if k not in (13, 3, 1)))
        kspace = kspace.reshape(kspace.shape[:4])
        told = "".join(f"_{NAMES[dimension].lower()}{number}" for dimension, number in zip(several, place))
        scans.append(_checked(path, kspace, f"{name}{told}.h5"))
    return scans
