"""What readers share: one line about a damaged file, and checks of k-space."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mrihvae.data.scan import Scan
from mrihvae.errors import InputError, reason


@contextmanager
def read_errors(
    path: Path, problem: str = "not readable", remedy: str = "copy it again or leave it out"
) -> Iterator[None]:
    """Turn whatever a reader raises within, for a damaged file, into one line that names the file.

    Parameters
    ----------
    path : the file
    problem, remedy : what is wrong with it, and what to do; the error's own message stands between them

    Raises
    ------
    InputError
        In place of any other error. An `InputError` from within stays, and names the file. Also a pipe or device,
        which may never end.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError("is a pipe or device; give a file")
        yield
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        raise InputError(f"{path}: {error}") from error
    except MemoryError as error:
        raise InputError(f"{path}: too little memory to read it; take a larger computer, or split the file") from error
    except Exception as error:  # readers raise whatever damage happens to cause
        why = getattr(error, "strerror", None) or reason(error)
        raise InputError(f"{path}: {problem} ({why}); {remedy}") from error


def make_scan(path: Path, kspace: np.ndarray, name: str) -> Scan:
    """Check k-space (slice, coil, H, W) of a file, and make a scan of it.

    Raises
    ------
    InputError
        Too small, or NaN or infinite values, also of numbers beyond single precision.
    """
    if min(kspace.shape) < 1 or min(kspace.shape[-2:]) < 2:
        raise InputError(f"{path}: k-space is {' x '.join(map(str, kspace.shape))}; H and W must be at least 2")
    with np.errstate(over="ignore"):
        samples = np.ascontiguousarray(kspace, np.complex64)
    if not np.isfinite(samples).all():
        raise InputError(f"{path}: holds NaN or infinite values; export the scan again")
    return Scan(name, samples[:, 0] if samples.shape[1] == 1 else samples, attributes={"acquisition": "unknown"})
