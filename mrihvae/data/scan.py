"""A scan: k-space with its mask, target and header data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from mrihvae.data.calibration import Calibration
from mrihvae.data.geometry import Geometry


class StoredArray(Protocol):
    """An array that stays in its file, such as `mrihvae.io.stored_kspace.StoredKspace`: indexing reads its slices."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of axes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> np.ndarray: ...

    def __iter__(self) -> Iterator[np.ndarray]: ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray: ...


def is_complete(scan: Scan) -> bool:
    """Return whether all lines that the scanner encodes were acquired, by the mask or by what is not zero."""
    measured = acquired_samples(scan) if scan.mask is None else scan.mask
    return bool(measured[..., encoded_lines(scan)].all())


def delivered_shape(scan: Scan) -> tuple[int, int]:
    """Compute the (h, w) to deliver: the target's, else the header's matrix as fastMRI's transforms crop to it."""
    height, width = scan.kspace.shape[-2:]
    if scan.target is not None:
        return min(height, scan.target.shape[-2]), min(width, scan.target.shape[-1])
    wanted = scan.matrix or (height, width)
    if width < wanted[1]:
        wanted = (width, width)
    return min(height, wanted[0]), wanted[1]


def acquired_samples(scan: Scan) -> np.ndarray:
    """Find the k-space samples that are not exactly zero: (W,) if they are whole lines along H, (H, W) otherwise.

    If the rest is whole lines, empty rows at either end count as acquired, because interpolated scans have such rows. A
    scan that did not acquire them needs a mask.
    """
    present = np.zeros(scan.kspace.shape[-2:], dtype=bool)
    for image in scan.kspace:
        present |= (image != 0).reshape(-1, *present.shape).any(axis=0)
    rows, lines = np.asarray(present.any(axis=1)), np.asarray(present.any(axis=0))
    if _has_gaps(rows) or np.count_nonzero(present) < 0.999 * np.count_nonzero(rows) * np.count_nonzero(lines):
        return np.asarray(present)
    return np.asarray(lines)


def _has_gaps(present: np.ndarray) -> bool:
    """Return whether something is missing between the first and the last acquired line, or anywhere in a pattern."""
    if present.ndim > 1:
        return not bool(present.all())
    there = np.flatnonzero(present)
    return len(there) > 0 and not bool(present[there[0] : there[-1] + 1].all())


def encoded_lines(scan: Scan) -> np.ndarray:
    """Mark the lines that the scanner encoded, bool (W,)."""
    encoded = np.ones(scan.kspace.shape[-1], dtype=bool)
    if scan.padding is not None:
        encoded[: scan.padding[0]] = encoded[scan.padding[1] :] = False
    return encoded


KSpace = np.ndarray | StoredArray


@dataclass(frozen=True)
class Scan:
    """One volume of k-space, with the metadata of its file.

    Attributes
    ----------
    name : file name without folder; fastMRI seeds masks with it
    kspace : complex64 (slice, H, W) or (slice, coil, H, W), centered; W is the phase-encoding axis; an array, or an
        object that reads it slice by slice, such as `mrihvae.io.StoredKspace`
    mask : bool (W,) of acquired lines, or (H, W) of acquired k-space samples, or None if the file has none
    target : float32 (slice, h, w), the reference reconstruction, or None
    padding : first and one past the last line that the scanner encoded; the others are empty
    matrix : (h, w) of the image to deliver, from the header's reconSpace, or None
    attributes : the file's HDF5 attributes
    maps : complex (slice or 1, coil, H, W), sensitivities of the coils, if the file has `sensitivity_maps`
    noise_scan : complex (coil, sample), if the file has `noise`
    geometry : position of the slices in the patient, or None if the file does not have it
    calibration : separate k-space for estimating the maps of each slice; None to use the slice's own
    voxel : size along H, W and across slices, mm, for scans without geometry, if the file has it

    Examples
    --------
    >>> import numpy as np
    >>> import mrihvae
    >>> scan = mrihvae.Scan("phantom", np.ones((2, 4, 8, 8), dtype=np.complex64))
    >>> scan.coils, scan.single_slice(0).kspace.shape
    (4, (1, 4, 8, 8))
    """

    name: str
    kspace: KSpace
    mask: np.ndarray | None = None
    target: np.ndarray | None = None
    padding: tuple[int, int] | None = None
    matrix: tuple[int, int] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    maps: np.ndarray | None = None
    noise_scan: np.ndarray | None = None
    geometry: Geometry | None = None
    calibration: Sequence[Calibration] | None = None
    voxel: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        """Bring arrays of the other byte order, which torch does not take, into that of this machine."""
        for name in ("kspace", "mask", "target", "maps", "noise_scan"):
            array = getattr(self, name)
            if isinstance(array, np.ndarray) and not array.dtype.isnative:
                object.__setattr__(self, name, array.astype(array.dtype.newbyteorder("=")))

    @property
    def coils(self) -> int:
        """Number of coils."""
        return self.kspace.shape[1] if self.kspace.ndim == 4 else 1

    def single_slice(self, k: int) -> Scan:
        """Return slice k as a scan of its own."""
        target = None if self.target is None else self.target[k : k + 1]
        attributes = dict(self.attributes)
        if len(np.atleast_1d(attributes.get("noise", 0))) == len(self.kspace) > 1:  # simulated scans: one a slice
            attributes["noise"] = attributes["noise"][k : k + 1]
        maps = self.maps if self.maps is None or len(self.maps) == 1 else self.maps[k : k + 1]
        calibration = None if self.calibration is None else self.calibration[k : k + 1]
        geometry = None if self.geometry is None else self.geometry.single_slice(k)
        return replace(
            self, kspace=self.kspace[k : k + 1], target=target, attributes=attributes, maps=maps, geometry=geometry,
            calibration=calibration,
        )  # fmt: skip


TARGETS = {"singlecoil": "reconstruction_esc", "multicoil": "reconstruction_rss"}
