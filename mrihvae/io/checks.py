"""What all readers of k-space check of its samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrihvae.data.scan import Scan
from mrihvae.errors import InputError


def _checked(path: Path, kspace: np.ndarray, name: str) -> Scan:
    """Check (slice, coil, H, W), and make a scan of it."""
    if min(kspace.shape) < 1 or min(kspace.shape[-2:]) < 2:
        raise InputError(f"{path}: k-space is {' x '.join(map(str, kspace.shape))}; H and W must be at least 2")
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(kspace, np.complex64)
    if not np.isfinite(found).all():
        raise InputError(f"{path}: holds NaN or infinite values; export the scan again")
    return Scan(name, found[:, 0] if found.shape[1] == 1 else found, attributes={"acquisition": "unknown"})
