"""From single lines of k-space, as scanners send them, to slices: what files and streams of ISMRMRD have in common.

A line says by its indices where in k-space it belongs, of which slice, contrast and repetition, and by its flags what
it is. Readout oversampling is taken away line by line, after the Fourier transform of the readout. Partitions of 3D
scans become slices by a Fourier transform across them. Averages are averaged; contrasts, repetitions, phases and sets
stay apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import ismrmrd
import numpy as np

from mrihvae.data.calibration import Calibration
from mrihvae.data.geometry import Geometry
from mrihvae.errors import InputError
from mrihvae.io.mrd.header import Encoding, ScanHeader
from mrihvae.io.mrd.lines import (
    STEPS,
    Lines,
    calibrates,
    fitted,
    geometry_of_line,
    gridded,
    mask_of_lines,
    padding_of,
    partitions_of,
    place_of,
    readout,
    step_limit,
)
from mrihvae.io.mrd.orientation import is_reversed, reverse_directions
from mrihvae.io.partitions import check_partitions

UNUSED_FLAGS = (  # lines that hold no part of the image
    ismrmrd.ACQ_IS_NAVIGATION_DATA,
    ismrmrd.ACQ_IS_PHASECORR_DATA,
    ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
    ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
    ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
    ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION,
)
EMBEDDED = "embedded"  # mode in which lines for calibration are of the image, too
INTERLEAVED = "interleaved"  # the same, and repetitions take other lines each
K = TypeVar("K")
MAX_HELD_NUMBERS = 2**28  # numbers of lines that are held at once, of slices that are not complete: 2 GiB
MAX_NOISE_NUMBERS = 2**22  # numbers of noise scans that are kept: more say no more of the covariance


class Key(NamedTuple):
    """What tells slices apart."""

    encoding: int
    contrast: int
    repetition: int
    phase: int
    set: int
    slice: int


@dataclass(frozen=True)
class Slice:
    """One slice, complete.

    Attributes
    ----------
    key : see there; partitions of 3D scans count as slices
    kspace : complex64 (coils, H, W), readout along H
    mask : bool (W,) of measured lines, or (H, W) where readouts are partial
    padding : first and one past the last line that the scanner would encode, or None for all
    matrix : (h, w) of the image to deliver
    geometry : of this slice alone
    head : header of its first line
    calibration : lines to estimate maps from, or None for those in `kspace`
    """

    key: Key
    kspace: np.ndarray
    mask: np.ndarray
    padding: tuple[int, int] | None
    matrix: tuple[int, int]
    geometry: Geometry
    head: ismrmrd.AcquisitionHeader
    calibration: Calibration | None


class SliceAssembler:
    """Sorts lines into slices.

    Parameters
    ----------
    header : of the scan
    early : whether slices are given as soon as they are complete, as a scanner wants them, not at the end alone
    held : numbers of lines that may be held

    Raises
    ------
    InputError
        A trajectory that is not Cartesian.
    """

    def __init__(self, header: ScanHeader, early: bool = True, held: int = MAX_HELD_NUMBERS) -> None:
        if not any(map(_is_cartesian, header.encodings)):
            raise _refused(header.encodings[0])
        self.warnings: list[str] = []  # what was wrong, and could be done without
        self.header, self.early, self.held = header, early, held
        self.late = 0  # lines that came after their slice had been given
        self._noise: list[np.ndarray] = []
        self._lines: dict[Key, Lines] = {}
        self._calibration: dict[int, Lines] = {}  # by slice
        self._made: dict[Key, Calibration] = {}  # of the first repetition, by its key, or by slice alone
        self._calibrating: dict[int, Key] = {}  # by slice, which lines calibrate it: the first that can
        self._waiting: dict[int, list[Slice]] = {}  # by slice, those of interleaved repetitions without maps so far
        self._given: set[Key] = set()
        self._size = 0

    @property
    def noise(self) -> np.ndarray | None:
        """The noise scan so far, complex64 (coils, samples), or None."""
        return np.concatenate(self._noise, axis=1) if self._noise else None

    def add(self, line: ismrmrd.Acquisition) -> list[Slice]:
        """Take a line, and give the slices that it completes.

        Raises
        ------
        InputError
            A line that has no place in what the header tells, that does not fit those before it, or holds NaN; more
            lines than may be held; or as `end`.
        """
        if any(line.is_flag_set(flag) for flag in UNUSED_FLAGS):
            return []
        if not np.isfinite(line.data).all():
            raise InputError(f"line {line.scan_counter}: holds NaN or infinite values; the scan is damaged")
        if line.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT):
            self._add_noise(line.data)
            return []
        encoding, i = self._encoding(line), line.idx
        key = Key(line.encoding_space_ref, i.contrast, i.repetition, i.phase, i.set, i.slice)
        both = line.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
        alone = line.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION) and not both
        if encoding.calibration_mode not in (EMBEDDED, INTERLEAVED) and (both or alone):
            if key == self._calibrating.setdefault(key.slice, key):
                self._place(line, encoding, self._calibration, key.slice)
            if alone:
                return []
        if key in self._given:
            self.late += 1
            return []
        over = self._over(key)
        self._place(line, encoding, self._lines, key)
        if self.early and line.is_flag_set(ismrmrd.ACQ_LAST_IN_MEASUREMENT):
            over = sorted(self._lines)
        elif self.early and self._is_last(line, key):
            over.append(key)
        return [one for each in over for one in self._give(each)]

    def end(self) -> list[Slice]:
        """Give the slices that are left, by their keys.

        Raises
        ------
        InputError
            Partitions of a 3D scan that are missing.
        """
        given = [one for key in sorted(self._lines) for one in self._give(key)]
        return given + [one for number in sorted(self._waiting) for one in self._released(number)]

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _add_noise(self, data: np.ndarray) -> None:
        if self._noise and len(data) != len(self._noise[0]):
            raise InputError(f"noise scans of {len(self._noise[0])} and {len(data)} coils; they must have the same")
        if sum(one.size for one in self._noise) < MAX_NOISE_NUMBERS:
            self._noise.append(np.array(data))

    def _encoding(self, line: ismrmrd.Acquisition) -> Encoding:
        number = int(line.encoding_space_ref)
        if number >= len(self.header.encodings):
            raise InputError(
                f"line {line.scan_counter}: is of encoding {number}, and the header has {len(self.header.encodings)}"
            )
        encoding = self.header.encodings[number]
        if not _is_cartesian(encoding):
            raise _refused(encoding)
        return encoding

    def _place(self, line: ismrmrd.Acquisition, encoding: Encoding, groups: dict[K, Lines], key: K) -> None:
        """Add a line to its group."""
        i = line.idx
        place = place_of(encoding, 1, i.kspace_encode_step_1), place_of(encoding, 2, i.kspace_encode_step_2)
        data, rows = readout(line, encoding)
        group = groups.get(key)
        if group is None:
            group = Lines(encoding, ismrmrd.AcquisitionHeader.from_buffer_copy(line.getHead()), rows)
            groups[key] = group
        first = next(iter(group.sums.values()), data)
        if len(first) != len(data):
            raise InputError(f"line {line.scan_counter}: has {len(data)} coils, and others have {len(first)}")
        if place not in group.sums:
            self._hold(data.size)
        group.add(place, data, rows)

    def _hold(self, size: int) -> None:
        """Count numbers that are held."""
        self._size += size
        if self._size > self.held:
            raise InputError(
                f"scan is larger than {8 * self.held / 2**30:.3g} GiB, which may be held of it; raise --max-memory"
            )

    def _over(self, key: Key) -> list[Key]:
        """List the slices that are over because their next repetition begins."""
        if not self.early or key in self._lines:
            return []
        return [
            one
            for one in self._lines
            if one.repetition < key.repetition and one._replace(repetition=0) == key._replace(repetition=0)
        ]

    def _is_last(self, line: ismrmrd.Acquisition, key: Key) -> bool:
        """Tell whether a line completes its slice: by its flag, or as all lines are there."""
        group = self._lines[key]
        encoding = group.encoding
        averages = encoding.limit("average").maximum
        step_1, step_2 = (step_limit(encoding, axis).count for axis in (1, 2))
        flags = (ismrmrd.ACQ_LAST_IN_SLICE, ismrmrd.ACQ_LAST_IN_REPETITION)
        if any(line.is_flag_set(flag) for flag in flags) and line.idx.average >= averages:
            last_partition = line.is_flag_set(ismrmrd.ACQ_LAST_IN_REPETITION) or encoding.encoded.matrix[2] == 1
            return last_partition or len({z for _, z in group.sums}) >= step_2
        whole = STEPS[1] in encoding.limits and len(group.sums) >= step_1 * step_2
        return whole and min(group.counts.values()) > averages

    def _give(self, key: Key) -> list[Slice]:
        """Make the slices of a group, which then is forgotten."""
        group = self._lines.pop(key)
        self._given.add(key)
        self._size -= sum(one.size for one in group.sums.values())
        coils = len(next(iter(group.sums.values())))
        if self._noise and len(self._noise[0]) != coils:
            self._warn(f"the noise scan of {len(self._noise[0])} coils is left out, for lines have {coils}")
            self._noise.clear()
        encoding, head = group.encoding, group.head
        partitions = encoding.encoded.matrix[2]
        kspaces, lines = gridded(group, partitions)
        if partitions > 1:
            check_partitions(lines, partitions_of(encoding))
        mask = mask_of_lines(encoding, np.asarray(lines.any(axis=1)), group.rows)
        h, w, depth = (encoding.kept(axis) for axis in range(3))
        slices = [
            Slice(
                key._replace(slice=k), kspaces[z], mask, padding_of(encoding), (h, w),
                self._geometry(head, encoding, z), head, None,
            )
            for k, z in enumerate(range(partitions)[encoding.kept_slice(2)], key.slice * depth)
        ]  # fmt: skip
        if encoding.calibration_mode == INTERLEAVED:
            return self._interleaved(key, group, slices)
        return [replace(one, calibration=self._calibration_of(key.slice, one)) for one in slices]

    def _geometry(self, head: ismrmrd.AcquisitionHeader, encoding: Encoding, z: int) -> Geometry:
        """Place a slice in the patient; where directions are wrong, as if it were axial."""
        try:
            geometry = geometry_of_line(head, encoding, z)
        except InputError as error:
            self._warn(f"{error}; the image is placed as an axial one")
            plain = ismrmrd.AcquisitionHeader()
            if np.isfinite(head.position[:]).all():
                plain.position[:] = head.position[:]
            head, geometry = plain, geometry_of_line(plain, encoding, z)
        return reverse_directions(geometry, head.position[:]) if is_reversed(self.header.vendor) else geometry

    def _interleaved(self, key: Key, group: Lines, slices: list[Slice]) -> list[Slice]:
        """Hold slices back until the repetitions so far have what maps take, together; those after these have it."""
        self._waiting.setdefault(key.slice, []).extend(slices)
        self._hold(sum(one.kspace.size for one in slices))
        apart = Key(0, 0, 0, 0, 0, slices[0].key.slice)
        first = key._replace(repetition=0)
        if apart not in self._made and first == self._calibrating.setdefault(key.slice, first):
            together = self._calibration.setdefault(key.slice, Lines(group.encoding, group.head, group.rows))
            together.include(group)
            if not calibrates(together, group.encoding):
                return []
        return self._released(key.slice)

    def _released(self, number: int) -> list[Slice]:
        """Give the slices that were held back of a slice or slab."""
        waiting = self._waiting.pop(number)
        self._size -= sum(one.kspace.size for one in waiting)
        return [replace(one, calibration=self._calibration_of(number, one)) for one in waiting]

    def _calibration_of(self, number: int, one: Slice) -> Calibration | None:
        """Find what the maps of a slice are estimated from, if not from itself: lines of their own, or repetition 0.

        `number` is the scanner's, of the slice or slab.
        """
        encoding = self.header.encodings[one.key.encoding]
        repeated = encoding.limit("repetition").maximum > 0
        if number in self._calibration:
            apart = Key(0, 0, 0, 0, 0, one.key.slice)
            if apart not in self._made:
                kspaces, measured = fitted(self._calibration[number], encoding)
                for k, kspace in enumerate(kspaces[encoding.kept_slice(2)], number * encoding.kept(2)):
                    self._made[apart._replace(slice=k)] = Calibration(kspace, measured, repeated)
            return self._made[apart]
        if not repeated:
            return None
        earliest = one.key._replace(repetition=0)
        if earliest not in self._made:
            self._hold(one.kspace.size)
            self._made[earliest] = Calibration(one.kspace, one.mask, repeated)
        return self._made[earliest]


def _is_cartesian(encoding: Encoding) -> bool:
    return encoding.trajectory.lower() == "cartesian"


def _refused(encoding: Encoding) -> InputError:
    return InputError(
        f"trajectory '{encoding.trajectory}': lines on a Cartesian grid alone can be reconstructed; grid the data"
    )
