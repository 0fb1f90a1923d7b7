"""K-space of an uncentered Fourier transform, DC at [0, 0]: shifted so that DC is where every other reader puts it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from mrihvae.data.scan import Scan
from mrihvae.io.stored_kspace import StoredKspace
from mrihvae.utils.notices import warn

MAX_SLICES = 4  # that are looked at, evenly spaced
MIN_RATIO = 4.0  # of the energy around the center over that around index 0, above which an axis is centered already
MAX_CENTERED = -0.1  # mean of cos(2 pi (r - size // 2) / size) over an image's energy, below which it is at the edge
HALF = 1  # neighbors of DC on either side that count for it


def center_scan(scan: Scan) -> Scan:
    """Return a scan, stored with DC at [0, 0], with centered k-space and mask.

    K-space that stays in its file is shifted whenever it is read. A Fourier transform that shifts neither side puts the
    center of the image at the corner, too; where the image shows it, it is moved to the center. Axes that are centered
    already stay as they are. Notices say both.
    """
    shape = (scan.kspace.shape[-2], scan.kspace.shape[-1])
    if min(shape) <= 2 * (2 * HALF + 1):
        return _moved(scan, (True, True), (False, False))  # too few samples to look at
    middle = _take(scan)
    apart = (_is_apart(middle, 0), _is_apart(middle, 1))
    if not all(apart):
        names = _axis_names((not apart[0], not apart[1]))
        warn(f"k-space is already centered along {names}: --uncentered was not applied there")
    shifted = _shift(middle, apart)
    at_edge = tuple(there and _is_at_edge(shifted, axis) for axis, there in zip((-2, -1), apart, strict=True))
    if any(at_edge):
        warn(f"the image lay around the edge of the field of view along {_axis_names(at_edge)}; it was moved back")
    return _moved(scan, apart, at_edge)


def _moved(scan: Scan, axes: tuple[bool, ...], at_edge: tuple[bool, ...]) -> Scan:
    """Return the scan with k-space shifted along `axes`, and images moved by half their size along those `at_edge`."""
    shift = partial(_shift, axes=axes, factor=_phase(scan.kspace.shape[-2:], at_edge) if any(at_edge) else None)
    kspace, mask = scan.kspace, scan.mask
    moved = kspace.transformed(shift) if isinstance(kspace, StoredKspace) else shift(np.asarray(kspace))
    if mask is not None:
        mask = _shift(mask, axes) if mask.ndim > 1 else np.fft.fftshift(mask) if axes[1] else mask
    return replace(scan, kspace=moved, mask=mask)


def _shift(kspace: np.ndarray, axes: tuple[bool, ...], factor: np.ndarray | None = None) -> np.ndarray:
    """Move DC from index 0 to size // 2 along chosen axes of (..., H, W); multiply by `factor`, complex64 (H, W)."""
    found: np.ndarray = np.fft.fftshift(
        kspace, axes=[axis for axis, chosen in zip((-2, -1), axes, strict=True) if chosen]
    )
    return found if factor is None else np.asarray(found * factor)


def _phase(shape: tuple[int, ...], axes: tuple[bool, ...]) -> np.ndarray:
    """Compute the linear phase, complex64 (H, W), that moves images by -(size // 2) along chosen axes."""
    factors = [
        np.exp(2j * np.pi * (np.arange(size) - size // 2) * (size // 2) / size) if chosen else np.ones(size)
        for size, chosen in zip(shape, axes, strict=True)
    ]
    phase: np.ndarray = np.multiply.outer(*factors).astype(np.complex64)
    return phase


def _take(scan: Scan) -> np.ndarray:
    """Read some slices and all their coils, in double precision: (n, H, W)."""
    count = len(scan.kspace)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_SLICES)).round().astype(int))
    found = [np.asarray(scan.kspace[int(k) : int(k) + 1]).astype(np.complex128) for k in chosen]
    return np.concatenate(found).reshape(-1, *scan.kspace.shape[-2:])


def _is_apart(kspace: np.ndarray, axis: int) -> bool:
    """Return whether DC may be at index 0 of an axis, 0 for H and 1 for W: unless the center is clearly stronger."""
    profile = (np.abs(kspace) ** 2).sum(axis=(0, 2 - axis))
    near = np.arange(-HALF, HALF + 1)
    corner, center = profile[near].sum(), profile[len(profile) // 2 + near].sum()
    return bool(center <= MIN_RATIO * corner)


def _is_at_edge(kspace: np.ndarray, axis: int) -> bool:
    """Return whether images of centered k-space lie around the edge, along axis -2 (H) or -1 (W).

    The products of neighboring samples add up to the energy of the images, with weights cos(2 pi (r - size // 2) /
    size).
    """
    lines = np.moveaxis(kspace, axis, 0)
    first, second = lines[:-1], lines[1:]
    both = (first != 0) & (second != 0)
    energy = float((np.abs(first[both]) ** 2 + np.abs(second[both]) ** 2).sum()) / 2
    return energy > 0 and float(np.vdot(first, second).real) < MAX_CENTERED * energy


def _axis_names(axes: tuple[bool, ...]) -> str:
    return " and ".join(name for name, chosen in zip("HW", axes, strict=True) if chosen)
