"""BART's arrays: a pair of files, NAME.cfl with complex64 numbers, first dimension fastest, and NAME.hdr with sizes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.checks import make_scan, read_errors
from mrihvae.io.partitions import centered_fft, check_partitions
from mrihvae.utils.files import atomic_pair
from mrihvae.utils.memory import check_size
from mrihvae.utils.notices import warn

BART_SUFFIXES = (".cfl", ".hdr")
SIZES_LINE = "# Dimensions"  # of a header, which the sizes follow
DIMENSIONS = (
    "READ", "PHS1", "PHS2", "COIL", "MAPS", "TE", "COEFF", "COEFF2", "ITER", "CSHIFT", "TIME", "TIME2", "LEVEL",
    "SLICE", "AVG", "BATCH",
)  # fmt: skip
READ, PHASE_1, PHASE_2, COIL, SLICE = 0, 1, 2, 3, 13
SCAN_DIMENSIONS = (5, 10, 11, 14)  # each number along them is a scan of its own: echoes, times, averages
LARGEST_HEADER = 2**20  # letters that are read
PAIR_HINT = "BART's arrays are a .cfl and a .hdr"


def read_cfl(path: Path | str) -> np.ndarray:
    """Read an array.

    Parameters
    ----------
    path : NAME, NAME.cfl or NAME.hdr

    Returns
    -------
    complex64, in BART's dimensions without those of size 1 at the end, but at least one

    Raises
    ------
    InputError
        One of the two files is missing or not readable, the header has no sizes, the number of bytes is not that
        of the header, or NaN is among the values.
    """
    path = Path(path)
    data, header = name_pair(path)
    if data.is_file() and not header.exists():
        raise InputError(f"{data}: incomplete, as {header.name} is missing; {PAIR_HINT}: write or copy both again")
    sizes = _read_sizes(header)
    expected = math.prod(sizes) * np.dtype(np.complex64).itemsize
    with read_errors(data, "cannot be read", PAIR_HINT):
        size = data.stat().st_size
        if size != expected:
            raise InputError(
                f"{data}: has {size} bytes, and {header.name} says {' x '.join(map(str, sizes))} numbers, "
                f"{expected} bytes; copy both again"
            )
        check_size(f"{data}: its array", size)
        values = np.fromfile(data, np.complex64)
    if not np.isfinite(values).all():
        raise InputError(f"{data}: holds NaN or infinite values; export the array again")
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    return values.reshape(sizes, order="F")


def write_cfl(path: Path | str, array: np.ndarray) -> None:
    """Write an array of at least one dimension as NAME.cfl and NAME.hdr, for any of the names that `read_cfl` takes.

    Raises
    ------
    InputError
        More dimensions than BART has, or the files cannot be written.
    """
    path = Path(path)
    if not 1 <= array.ndim <= len(DIMENSIONS):
        raise InputError(f"{path}: an array of {array.ndim} dimensions; BART's have 1 to {len(DIMENSIONS)}")
    data, header = name_pair(path)
    sizes = (*array.shape, *[1] * (len(DIMENSIONS) - array.ndim))
    with atomic_pair(data, header) as (of_data, of_header):
        array.astype(np.complex64).ravel(order="F").tofile(of_data)
        of_header.write_text(f"{SIZES_LINE}\n{' '.join(map(str, sizes))}\n")


def name_pair(path: Path) -> tuple[Path, Path]:
    """Name the data and the header of an array, as NAME.cfl or NAME.hdr or NAME says, which may have dots in it."""
    name = path.with_suffix("") if path.suffix in BART_SUFFIXES else path
    return name.with_name(f"{name.name}.cfl"), name.with_name(f"{name.name}.hdr")


def is_header(path: Path) -> bool:
    """Return whether a file is the header of an array."""
    try:
        return bool(_read_sizes(path))
    except InputError:
        return False


def _read_sizes(header: Path) -> list[int]:
    """Read the sizes of all dimensions."""
    with read_errors(header, "cannot be read", PAIR_HINT), header.open(errors="replace") as file:
        lines = [line.strip() for line in file.read(LARGEST_HEADER).splitlines()]
    try:
        sizes = [int(size) for size in lines[lines.index(SIZES_LINE) + 1].split()]
    except (ValueError, IndexError):
        sizes = []
    if not sizes or min(sizes) < 1:
        raise InputError(f"{header}: has no sizes below '{SIZES_LINE}'; write it again, as BART does")
    return sizes


def read_bart(path: Path) -> list[Scan]:
    """Read BART's k-space; of 3D scans, partitions become slices.

    Raises
    ------
    InputError
        As `read_cfl`; dimensions that k-space does not have, partitions beside slices, or missing ones.
    """
    array = read_cfl(path)
    if array.ndim > len(DIMENSIONS):
        raise InputError(f"{path}: has {array.ndim} dimensions; BART's arrays have {len(DIMENSIONS)}")
    whole = array.reshape(*array.shape, *[1] * (len(DIMENSIONS) - array.ndim))
    for dimension, size in enumerate(whole.shape):
        if size > 1 and dimension not in (READ, PHASE_1, PHASE_2, COIL, SLICE, *SCAN_DIMENSIONS):
            raise InputError(
                f"{path}: has {size} numbers along dimension {dimension} ({DIMENSIONS[dimension]}), where k-space "
                "has one; take one of them"
            )
    if whole.shape[PHASE_2] > 1:
        if whole.shape[SLICE] > 1:
            raise InputError(f"{path}: has both partitions (PHS2) and slices; take one of the slices")
        lines = np.asarray(whole.any(axis=tuple(k for k in range(whole.ndim) if k not in (PHASE_1, PHASE_2))))
        with read_errors(path):
            for text in check_partitions(lines):
                warn(f"{path}: {text}")
        whole = centered_fft(whole, PHASE_2, inverse=True).swapaxes(PHASE_2, SLICE)
    scans = []
    several = [dimension for dimension in SCAN_DIMENSIONS if whole.shape[dimension] > 1]
    for place in np.ndindex(*(whole.shape[dimension] for dimension in several)):
        kspace = whole
        for dimension, number in zip(several, place):
            kspace = kspace.take([number], axis=dimension)
        kspace = np.moveaxis(kspace, (SLICE, COIL, READ, PHASE_1), (0, 1, 2, 3))
        label = "".join(f"_{DIMENSIONS[dimension].lower()}{number}" for dimension, number in zip(several, place))
        scans.append(make_scan(path, kspace.reshape(kspace.shape[:4]), f"{name_pair(path)[0].stem}{label}.h5"))
    return scans
