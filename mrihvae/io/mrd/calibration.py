"""Calibration lines of a scan: which of them are lines of the image, and what maps of a slice are estimated from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from mrihvae.coils.espirit import MIN_ACS_SIZE, calibration_box
from mrihvae.data.calibration import Calibration
from mrihvae.errors import InputError
from mrihvae.io.mrd.header import Encoding, ScanHeader
from mrihvae.io.mrd.lines import LineGroup, grid_lines, mask_of_lines, place_lines
from mrihvae.io.mrd.slices import Key, Slice

EMBEDDED = "embedded"  # mode in which lines for calibration are of the image, too
INTERLEAVED = "interleaved"  # the same, and repetitions take other lines each
SEPARATE = ("separate", "external")  # modes in which they are not; of all others lines themselves show it
FOV_TOLERANCE = 0.02  # by which fields of view may differ that are to be the same
SAME_LINES = 0.1  # squared difference, over the square, below which lines that were measured twice are the same
POSITION_TOLERANCE = 1e-3  # mm by which positions may differ that are to be the same


class CalibrationLines:
    """What the maps of slices are estimated from, if not from themselves: lines of their own, or repetition 0.

    Parameters
    ----------
    header : of the scan
    hold : counts numbers that are held in memory, or no longer, below 0
    """

    def __init__(self, header: ScanHeader, hold: Callable[[int], None]) -> None:
        self.header, self._hold = header, hold
        self.lines: dict[int, LineGroup] = {}  # by slice
        self.alone: dict[int, set[tuple[int, int]]] = {}  # by slice, steps of those that are for calibration alone
        self._ready: dict[Key, Calibration] = {}  # of the first repetition, by its key, or by slice alone
        self._keys: dict[int, Key] = {}  # by slice, which lines calibrate it: the first that can
        self._waiting: dict[int, list[Slice]] = {}  # by slice, those of interleaved repetitions without maps so far

    def accepts(self, key: Key) -> bool:
        """Return whether lines of a key calibrate their slice: those that come first do."""
        return key == self._keys.setdefault(key.slice, key)

    def may_fill(self, key: Key, image: LineGroup) -> bool:
        """Return whether lines that calibrate a slice may be of it: they fill its gaps, and none was acquired twice."""
        lines, alone = self.lines.get(key.slice), self.alone.get(key.slice, set())
        return lines is not None and bool(alone) and not alone & image.sums.keys() and fills_gaps(lines, image)

    @property
    def waiting(self) -> list[int]:
        """Numbers of slices that are held back."""
        return sorted(self._waiting)

    def add_interleaved(self, key: Key, group: LineGroup, slices: list[Slice]) -> list[Slice]:
        """Hold slices back until the repetitions so far, together, have the calibration region that maps need."""
        self._waiting.setdefault(key.slice, []).extend(slices)
        self._hold(sum(slice_.kspace.size for slice_ in slices))
        first = key._replace(repetition=0)
        if _alone(slices[0].key.slice) not in self._ready and self.accepts(first):
            together = self.lines.setdefault(key.slice, LineGroup(group.encoding, group.head, group.rows))
            together.include(group)
            if not has_calibration_region(together, group.encoding):
                return []
        return self.release(key.slice)

    def release(self, number: int) -> list[Slice]:
        """Return the slices of a slice or slab that were held back."""
        waiting = self._waiting.pop(number)
        self._hold(-sum(slice_.kspace.size for slice_ in waiting))
        return self.calibrate(number, waiting)

    def calibrate(self, number: int, slices: list[Slice], embedded: bool = False) -> list[Slice]:
        """Return slices with what their maps are estimated from.

        Parameters
        ----------
        number : the scanner's, of the slice or slab
        embedded : whether calibration lines are in the slices themselves
        """
        return [replace(slice_, calibration=self._find(number, slice_, embedded)) for slice_ in slices]

    def _find(self, number: int, slice_: Slice, embedded: bool) -> Calibration | None:
        encoding = self.header.encodings[slice_.key.encoding]
        repeated = encoding.limit("repetition").maximum > 0
        if number in self.lines and not embedded:
            alone = _alone(slice_.key.slice)
            if alone not in self._ready:
                kspaces, measured = fit_calibration(self.lines[number], encoding)
                for k, kspace in enumerate(kspaces[encoding.imaged_slice(2)], number * encoding.imaged_size(2)):
                    self._ready[alone._replace(slice=k)] = Calibration(kspace, measured, repeated)
            return self._ready[alone]
        if not repeated:
            return None
        earliest = slice_.key._replace(repetition=0)
        if earliest not in self._ready:
            self._hold(slice_.kspace.size)
            self._ready[earliest] = Calibration(slice_.kspace, slice_.mask, repeated)
        return self._ready[earliest]


def _alone(number: int) -> Key:
    """Return the key of calibration that all slices of a number share."""
    return Key(0, 0, 0, 0, 0, number)


def is_embedded(encoding: Encoding) -> bool:
    """Return whether calibration lines are lines of the image, by the header."""
    return encoding.calibration_mode in (EMBEDDED, INTERLEAVED)


def fills_gaps(lines: LineGroup, image: LineGroup) -> bool:
    """Return whether calibration lines lie in gaps between lines of the image, so that they belong to it.

    They then were measured as it was: at its position, with its readout and coils, and lines that both have are the
    same. Those of a scan of their own differ in contrast.
    """
    first, last = min(image.sums), max(image.sums)
    reach = max(np.diff(sorted({step for step, _ in image.sums})), default=1)
    return (
        lines.coils == image.coils
        and bool(np.allclose(lines.rows, image.rows))
        and bool(np.allclose(lines.head.position[:], image.head.position[:], atol=POSITION_TOLERANCE))
        and all(first[0] - reach < step < last[0] + reach for step, _ in lines.sums)
        and _distance(lines, image) < SAME_LINES
    )


def _distance(lines: LineGroup, image: LineGroup) -> float:
    """Compute the squared difference, over the square, of the lines that two groups have in common; 0 without any."""
    difference = total = 0.0
    for step in lines.sums.keys() & image.sums.keys():
        own = (image.sums[step] / image.counts[step]).astype(np.complex128)
        other = (lines.sums[step] / lines.counts[step]).astype(np.complex128)
        difference += float((np.abs(other - own) ** 2).sum())
        total += float((np.abs(own) ** 2).sum())
    return difference / total if total > 0 else 0.0


def fit_calibration(group: LineGroup, image: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """Lay out calibration lines on the grid of the image: (partitions, coils, H, W), and the mask, (H, W)."""
    group = place_lines(group)[0]
    own = group.encoding
    for axis, name in enumerate("xyz"):
        ratio = own.voxel()[axis] * own.encoded.matrix[axis] / (image.voxel()[axis] * image.encoded.matrix[axis])
        if not abs(ratio - 1) < FOV_TOLERANCE:
            raise InputError(
                f"ACS lines have another field of view along {name} than the image, {ratio:.3g} times as large; "
                "acquire them with the same field of view"
            )
    partitions = image.encoded.matrix[2]
    shape = (image.imaged_size(0), image.encoded.matrix[1])
    kspaces, lines = grid_lines(group, partitions)
    mask = np.broadcast_to(mask_of_lines(own, np.asarray(lines.any(axis=1)), group.rows), kspaces.shape[-2:])
    return _resize(kspaces, shape), _resize(mask, shape)


def _resize(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Crop or zero-pad (..., H, W) per axis, as `physics.fourier.resize_kspace` does, without torch's threads."""
    resized = np.zeros((*array.shape[:-2], *shape), array.dtype)
    ours, theirs = [], []
    for new, old in zip(shape, array.shape[-2:]):
        kept = min(new, old)
        ours.append(slice(new // 2 - kept // 2, new // 2 - kept // 2 + kept))
        theirs.append(slice(old // 2 - kept // 2, old // 2 - kept // 2 + kept))
    resized[..., ours[0], ours[1]] = array[..., theirs[0], theirs[1]]
    return resized


def has_calibration_region(group: LineGroup, image: Encoding) -> bool:
    """Return whether lines have the calibration region (ACS) that maps are estimated from."""
    return min(calibration_box(torch.from_numpy(fit_calibration(group, image)[1]))) >= MIN_ACS_SIZE
