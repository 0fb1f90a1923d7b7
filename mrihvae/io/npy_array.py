"""Arrays of NumPy's `.npy` files, whose headers are checked before anything of their size is made."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from mrihvae.utils.memory import check_size


def load_array(path: Path) -> np.ndarray:
    """Read an array without objects; NumPy's own errors are left to the caller.

    Raises
    ------
    ValueError
        The file is shorter than its header says, or it holds objects.
    InputError
        The array is larger than the limit of memory.
    """
    with path.open("rb") as file:
        version = npy_format.read_magic(file)
        read_header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        size, left = math.prod(shape) * dtype.itemsize, path.stat().st_size - file.tell()
        if dtype.hasobject or not 0 <= size <= left:
            what = "Python objects" if dtype.hasobject else f"{left} of {size} bytes"
            raise ValueError(f"it holds {what}")
        check_size(f"{path}: its array", size)
        file.seek(0)
        return np.asarray(npy_format.read_array(file, allow_pickle=False))
