"""Small real pictures in the binary files of their collections: CIFAR10's, and the IDX files of MNIST and its kin."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from mrihvae.errors import InputError
from mrihvae.io.checks import read_errors
from mrihvae.utils.memory import check_size, limit

CIFAR_SHAPE = (3, 32, 32)
IDX_UINT8 = 8  # type code in an IDX header


def is_collection(path: Path) -> bool:
    """Return whether, by its name, a file is a collection of pictures: NAME.bin, or NAME-idx3-ubyte, also gzipped."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith((".bin", "-idx3-ubyte", ".idx3-ubyte"))


def read_collection(path: Path | str) -> np.ndarray:
    """Read all pictures of a collection.

    Parameters
    ----------
    path : CIFAR10's `data_batch_1.bin` and so on (a byte of label, then 3 x 32 x 32 bytes, per picture), or an IDX
        file of pictures such as `train-images-idx3-ubyte`, gzipped or not

    Returns
    -------
    uint8 (picture, channels, h, w)

    Raises
    ------
    InputError
        Not readable, or of another size than its format says.
    """
    path = Path(path)
    with read_errors(path):
        check_size(f"{path}: its data", path.stat().st_size)
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            data = file.read(limit() + 1)
        check_size(f"{path}: its data", len(data))
    if path.name.lower().removesuffix(".gz").endswith(".bin"):
        return _cifar(path, data)
    return _idx(path, data)


def _cifar(path: Path, data: bytes) -> np.ndarray:
    size = 1 + int(np.prod(CIFAR_SHAPE))
    if not data or len(data) % size:
        raise InputError(
            f"{path}: {len(data)} bytes are not a whole number of CIFAR10 pictures ({size}); copy it again"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, size)[:, 1:].reshape(-1, *CIFAR_SHAPE)


def _idx(path: Path, data: bytes) -> np.ndarray:
    if len(data) < 16 or data[:4] != bytes((0, 0, IDX_UINT8, 3)):
        raise InputError(f"{path}: is not an IDX file of gray pictures; give one such as train-images-idx3-ubyte")
    count, height, width = (int(size) for size in np.frombuffer(data[4:16], dtype=">u4"))
    if len(data) - 16 != count * height * width or count == 0:
        raise InputError(f"{path}: {len(data) - 16} bytes for {count} pictures of {height} x {width}; copy it again")
    return np.frombuffer(data, dtype=np.uint8, offset=16).reshape(count, 1, height, width)
