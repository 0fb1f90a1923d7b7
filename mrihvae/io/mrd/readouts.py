"""Samples of a line along its readout: which of them is the center of k-space, and how much they are oversampled.

Headers and lines of converters disagree about both. The grid of a readout is the one that its longer side reaches: that
of the header's encodedSpace; that of the image, where oversampling was removed before; or a larger one, where the
header has the base resolution and the samples alone show the oversampling. What is a guess is said.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import ismrmrd
import numpy as np

from mrihvae.errors import InputError
from mrihvae.io.mrd.header import MIN_OVERSAMPLING, Encoding
from mrihvae.io.partitions import centered_fft

MAX_READOUT_NUMBERS = 2**22  # numbers of a line with its oversampling, which a short one may be laid out to
MAX_OVERSAMPLING = 8  # of a readout, times what the header has
CENTER_TOLERANCE = 1  # samples that the center of a whole readout may be beside its middle
FACTOR_TOLERANCE = 1e-6  # of oversampling that is a whole number, or a half
ODD = 2  # rank of factors that are neither


class Readout(NamedTuple):
    """A line without readout oversampling.

    Attributes
    ----------
    data : complex64 (coils, H)
    rows : first and last acquired row of H
    doubt : what about it is a guess; empty if nothing is
    """

    data: np.ndarray
    rows: tuple[float, float]
    doubt: str = ""


@dataclass(frozen=True)
class _Samples:
    """What a line has: numbers of samples, and where its header says that the center is.

    Attributes
    ----------
    count : samples without those to discard
    total : all samples
    center : of k-space among `count`, as the specification has it
    late_center : the same, if the line's center was counted after the discard
    is_unset : whether the line's center is 0, as where a writer left it out
    """

    count: int
    total: int
    center: int
    late_center: int
    is_unset: bool

    def reaches(self, grid: int) -> bool:
        """Return whether the longer side of the center ends where a grid does."""
        return self.is_inside and abs(2 * max(self.center, self.count - self.center) - grid) <= CENTER_TOLERANCE

    @property
    def is_inside(self) -> bool:
        return 0 <= self.center < self.count

    def reversed(self) -> _Samples:
        """Return the same of a line that is stored from its end."""
        ends = self.count - 1 - self.center, self.count - 1 - self.late_center
        return _Samples(self.count, self.total, *ends, self.is_unset)


class _Place(NamedTuple):
    """Where samples lie: the size of the grid, the center among the samples, and what about it is a guess."""

    grid: int
    center: int
    doubt: str = ""


def readout(line: ismrmrd.Acquisition, encoding: Encoding) -> Readout:
    """Return a line without readout oversampling.

    Raises
    ------
    InputError
        No coil, samples that fit neither the header nor an oversampling of it, or more than memory should hold.
    """
    size, kept = encoding.encoded.matrix[0], encoding.imaged_size(0)
    data = line.data[:, line.discard_pre : max(line.number_of_samples - line.discard_post, 0)]
    if len(data) == 0:
        raise InputError(f"line {line.scan_counter}: has no coil; check how it was written")
    center = line.center_sample - line.discard_pre
    samples = _Samples(data.shape[1], line.number_of_samples, center, line.center_sample, line.center_sample == 0)
    tried = [_place(samples, size, kept)]
    if line.is_flag_set(ismrmrd.ACQ_IS_REVERSE):  # its center is where it is stored, or that of a forward line
        data, tried = data[:, ::-1], [_place(samples.reversed(), size, kept), *tried]
    places = [place for place in tried if place is not None]
    places.sort(key=lambda place: (place.grid != kept, bool(place.doubt)))
    if not places:
        raise InputError(
            f"line {line.scan_counter}: has {samples.count} samples to use with the center at {center}, which do not "
            f"fit the header's {size}; check its 'encodedSpace', and center_sample of lines"
        )
    return _lay_out(data, places[0], kept, line.scan_counter)


def match_encoding(line: ismrmrd.Acquisition, encoding: Encoding) -> Encoding:
    """Return the encoding of a line, with the line's samples where the header has the image's over all that they cover.

    Its field of view has the oversampling then, but its matrix does not.
    """
    encoded, recon = encoding.encoded, encoding.recon
    if recon is None or recon.matrix[0] != encoded.matrix[0] or min(encoded.fov[0], recon.fov[0]) <= 0:
        return encoding
    count = line.number_of_samples - line.discard_pre - line.discard_post
    factor = encoded.fov[0] / recon.fov[0]
    if factor < MIN_OVERSAMPLING or count != round(encoded.matrix[0] * factor):
        return encoding
    return replace(encoding, encoded=replace(encoded, matrix=(count, *encoded.matrix[1:])))


def _lay_out(data: np.ndarray, place: _Place, kept: int, number: int) -> Readout:
    """Lay out samples on their grid, and crop the image to `kept` pixels; of line `number`."""
    count, grid = data.shape[1], place.grid
    if len(data) * grid > MAX_READOUT_NUMBERS:
        raise InputError(
            f"line {number}: has {len(data)} coils, and the header's readout is {grid} long, together more than "
            f"{MAX_READOUT_NUMBERS} numbers; check its 'encodedSpace'"
        )
    start = grid // 2 - place.center
    factor = grid / kept
    rows = (start - grid // 2) / factor + kept // 2, (start + count - 1 - grid // 2) / factor + kept // 2
    if count == grid == kept:
        return Readout(data.astype(np.complex64), rows, place.doubt)
    whole = np.zeros((len(data), grid), np.complex64)
    whole[:, start : start + count] = data
    if kept == grid:
        return Readout(whole, rows, place.doubt)
    image = centered_fft(whole, 1, inverse=True)
    first = grid // 2 - kept // 2
    return Readout(centered_fft(image[:, first : first + kept], 1), rows, place.doubt)


def _place(samples: _Samples, size: int, kept: int) -> _Place | None:
    """Find the grid of a line and its center; None if nothing fits.

    Parameters
    ----------
    size : of the readout in the header
    kept : how much of it is the image
    """
    count, center = samples.count, samples.center
    if count < 1:
        return None
    if count == size and (samples.is_unset or abs(center - size // 2) <= CENTER_TOLERANCE):
        return _Place(size, size // 2)
    if kept < size and (place := _without_oversampling(samples, size, kept)):
        return place
    if samples.is_unset:
        return _place_middle(count, size)
    if _fits(count, center, size):
        return _Place(size, center)
    if _fits(count, samples.late_center, size):
        return _Place(size, samples.late_center, "center_sample of lines is taken as not counting discarded samples")
    return _oversampled(samples, size)


def _fits(count: int, center: int, grid: int) -> bool:
    return 0 <= center < count and 0 <= grid // 2 - center <= grid - count


def _without_oversampling(samples: _Samples, size: int, kept: int) -> _Place | None:
    """Place a line whose oversampling was removed before, though the header has it; None for all others."""
    count, center = samples.count, samples.center
    if count == kept and count == samples.total and center == kept // 2:
        return _Place(kept, center)
    removed = f"lines have {count} samples, and the header {size}: their oversampling is taken as already removed"
    middle = kept // 2
    if count == kept and samples.total != size:  # else samples to discard are of the readout itself
        guesses = (center - size // 2, samples.late_center - middle, samples.late_center - size // 2)
        if center == middle:
            return _Place(kept, middle, removed)
        if samples.is_unset or 0 in guesses or abs(center - middle) <= CENTER_TOLERANCE:
            return _Place(kept, middle, f"{removed}, with the center in their middle, not at center_sample")
    if count < kept and samples.reaches(kept) and not samples.is_unset and abs(2 * center - count) > CENTER_TOLERANCE:
        return _Place(kept, center, removed)
    return None


def _place_middle(count: int, size: int) -> _Place | None:
    """Place a line without a center: it is the middle, on the header's grid, or one that is oversampled."""
    doubt = "center_sample of lines is 0, which is taken as not set: the center is their middle"
    if count <= size:
        return _Place(size, count // 2, doubt)
    if not MIN_OVERSAMPLING <= count / size <= MAX_OVERSAMPLING:
        return None
    return _Place(count, count // 2, f"{_oversampling(count, size)}; {doubt}")


def _oversampling(grid: int, size: int) -> str:
    return (
        f"lines have {grid} samples, and the header's encodedSpace {size}: they are taken as {grid / size:.3g} times "
        "oversampled"
    )


def _oversampled(samples: _Samples, size: int) -> _Place | None:
    """Place a line that needs a larger grid than the header has: its oversampling is the simplest that fits."""
    count = samples.count
    if count <= size:
        return None
    if samples.center == size // 2 and MIN_OVERSAMPLING <= count / size <= MAX_OVERSAMPLING and count % size == 0:
        doubt = f"{_oversampling(count, size)}, with the center in their middle, not at center_sample"
        return _Place(count, count // 2, doubt)
    found = [*_grids(samples, samples.center, size), *_grids(samples, samples.late_center, size)]
    return min(found, key=lambda place: _complexity(place.grid / size), default=None)


def _grids(samples: _Samples, center: int, size: int) -> list[_Place]:
    """List the grids that the longer side of a line reaches, if they are plausible oversamplings of the header's."""
    count = samples.count
    if not 0 <= center < count:
        return []
    is_whole = abs(2 * center - count) <= 2 * CENTER_TOLERANCE
    if is_whole:
        grids, center = [count], count // 2
    elif count - center > center:
        grids = [2 * (count - center), 2 * (count - center) - 1, samples.total]
    else:
        grids = [2 * center, 2 * center + 1, samples.total]
    return [
        _Place(grid, center, _oversampling(grid, size))
        for grid in grids
        if MIN_OVERSAMPLING <= grid / size <= MAX_OVERSAMPLING
        and _fits(count, center, grid)
        and (is_whole or _complexity(grid / size) < ODD)  # a center that is damaged is no asymmetric echo
    ]


def _complexity(factor: float) -> int:
    """Rank factors of oversampling: whole numbers, halves, others (`ODD`)."""
    for rank, parts in enumerate((1, 2)):
        if abs(parts * factor - round(parts * factor)) < FACTOR_TOLERANCE:
            return rank
    return ODD
