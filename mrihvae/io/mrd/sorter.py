"""From single lines of k-space, as scanners send them, to slices: what files and streams of ISMRMRD have in common.

The indices of a line are its place in k-space, slice, contrast and repetition; its flags describe its purpose. Readout
oversampling is taken away line by line, after the Fourier transform of the readout. Partitions of 3D scans become
slices by a Fourier transform across them. Averages are averaged; contrasts, repetitions, phases and sets stay apart.
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
    LineGroup,
    fit_calibration,
    geometry_of_line,
    grid_lines,
    has_calibration_region,
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
    """Indices that identify a slice."""

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
    """Sort lines into slices.

    Parameters
    ----------
    header : of the scan
    early : whether slices are given as soon as they are complete, as a scanner wants them, not at the end alone
    max_held : numbers of lines that may be held

    Raises
    ------
    InputError
        A trajectory that is not Cartesian.
    """

    def __init__(self, header: ScanHeader, early: bool = True, max_held: int = MAX_HELD_NUMBERS) -> None:
        if not any(map(_is_cartesian, header.encodings)):
            raise _unsupported_trajectory(header.encodings[0])
        self.warnings: list[str] = []  # what was wrong, and could be done without
        self.header, self.early, self.max_held = header, early, max_held
        self.late = 0  # lines that came after their slice had been given
        self._noise: list[np.ndarray] = []
        self._lines: dict[Key, LineGroup] = {}
        self._calibration: dict[int, LineGroup] = {}  # by slice
        self._calibrations: dict[Key, Calibration] = {}  # of the first repetition, by its key, or by slice alone
        self._calibrating: dict[int, Key] = {}  # by slice, which lines calibrate it: the first that can
        self._waiting: dict[int, list[Slice]] = {}  # by slice, those of interleaved repetitions without maps so far
        self._delivered: set[Key] = set()
        self._size = 0

    @property
    def noise(self) -> np.ndarray | None:
        """The noise scan so far, complex64 (coils, samples), or None."""
        return np.concatenate(self._noise, axis=1) if self._noise else None

    def add(self, line: ismrmrd.Acquisition) -> list[Slice]:
        """Add a line, and return the slices that it completes.

        Raises
        ------
        InputError
            A line outside of the encoding in the header, that does not fit those before it, or holds NaN; more
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
        if key in self._delivered:
            self.late += 1
            return []
        completed = self._completed_keys(key)
        self._place(line, encoding, self._lines, key)
        if self.early and line.is_flag_set(ismrmrd.ACQ_LAST_IN_MEASUREMENT):
            completed = sorted(self._lines)
        elif self.early and self._is_last(line, key):
            completed.append(key)
        return [slice_ for each in completed for slice_ in self._pop_slices(each)]

    def end(self) -> list[Slice]:
        """Return the remaining slices, in the order of their keys.

        Raises
        ------
        InputError
            Partitions of a 3D scan that are missing.
        """
        slices = [slice_ for key in sorted(self._lines) for slice_ in self._pop_slices(key)]
        return slices + [slice_ for number in sorted(self._waiting) for slice_ in self._release(number)]

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _add_noise(self, data: np.ndarray) -> None:
        if self._noise and len(data) != len(self._noise[0]):
            raise InputError(f"noise scans of {len(self._noise[0])} and {len(data)} coils; they must have the same")
        if sum(scan.size for scan in self._noise) < MAX_NOISE_NUMBERS:
            self._noise.append(np.array(data))

    def _encoding(self, line: ismrmrd.Acquisition) -> Encoding:
        number = int(line.encoding_space_ref)
        if number >= len(self.header.encodings):
            raise InputError(
                f"line {line.scan_counter}: is of encoding {number}, and the header has {len(self.header.encodings)}"
            )
        encoding = self.header.encodings[number]
        if not _is_cartesian(encoding):
            raise _unsupported_trajectory(encoding)
        return encoding

    def _place(self, line: ismrmrd.Acquisition, encoding: Encoding, groups: dict[K, LineGroup], key: K) -> None:
        """Add a line to its group."""
        i = line.idx
        place = place_of(encoding, 1, i.kspace_encode_step_1), place_of(encoding, 2, i.kspace_encode_step_2)
        data, rows = readout(line, encoding)
        group = groups.get(key)
        if group is None:
            group = LineGroup(encoding, ismrmrd.AcquisitionHeader.from_buffer_copy(line.getHead()), rows)
            groups[key] = group
        first = next(iter(group.sums.values()), data)
        if len(first) != len(data):
            raise InputError(f"line {line.scan_counter}: has {len(data)} coils, and others have {len(first)}")
        if place not in group.sums:
            self._hold(data.size)
        group.add(place, data, rows)

    def _hold(self, size: int) -> None:
        """Count the k-space samples that are held in memory."""
        self._size += size
        if self._size > self.max_held:
            raise InputError(
                f"scan is larger than {8 * self.max_held / 2**30:.3g} GiB, which may be held of it; raise --max-memory"
            )

    def _completed_keys(self, key: Key) -> list[Key]:
        """List the slices that are complete because their next repetition begins."""
        if not self.early or key in self._lines:
            return []
        return [
            earlier
            for earlier in self._lines
            if earlier.repetition < key.repetition and earlier._replace(repetition=0) == key._replace(repetition=0)
        ]

    def _is_last(self, line: ismrmrd.Acquisition, key: Key) -> bool:
        """Return whether a line completes its slice: by its flag, or because all lines are there."""
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

    def _pop_slices(self, key: Key) -> list[Slice]:
        """Remove a group of lines, and return its slices."""
        group = self._lines.pop(key)
        self._delivered.add(key)
        self._size -= sum(line.size for line in group.sums.values())
        coils = len(next(iter(group.sums.values())))
        if self._noise and len(self._noise[0]) != coils:
            self._warn(f"the noise scan of {len(self._noise[0])} coils is left out, for lines have {coils}")
            self._noise.clear()
        encoding, head = group.encoding, group.head
        partitions = encoding.encoded.matrix[2]
        kspaces, lines = grid_lines(group, partitions)
        if partitions > 1:
            check_partitions(lines, partitions_of(encoding))
        mask = mask_of_lines(encoding, np.asarray(lines.any(axis=1)), group.rows)
        h, w, depth = (encoding.imaged_size(axis) for axis in range(3))
        slices = [
            Slice(
                key._replace(slice=k), kspaces[z], mask, padding_of(encoding), (h, w),
                self._geometry(head, encoding, z), head, None,
            )
            for k, z in enumerate(range(partitions)[encoding.imaged_slice(2)], key.slice * depth)
        ]  # fmt: skip
        if encoding.calibration_mode == INTERLEAVED:
            return self._add_interleaved(key, group, slices)
        return [replace(slice_, calibration=self._calibration_of(key.slice, slice_)) for slice_ in slices]

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

    def _add_interleaved(self, key: Key, group: LineGroup, slices: list[Slice]) -> list[Slice]:
        """Hold slices back until the repetitions so far, together, have the calibration region that maps need."""
        self._waiting.setdefault(key.slice, []).extend(slices)
        self._hold(sum(slice_.kspace.size for slice_ in slices))
        apart = Key(0, 0, 0, 0, 0, slices[0].key.slice)
        first = key._replace(repetition=0)
        if apart not in self._calibrations and first == self._calibrating.setdefault(key.slice, first):
            together = self._calibration.setdefault(key.slice, LineGroup(group.encoding, group.head, group.rows))
            together.include(group)
            if not has_calibration_region(together, group.encoding):
                return []
        return self._release(key.slice)

    def _release(self, number: int) -> list[Slice]:
        """Return the slices of a slice or slab that were held back."""
        waiting = self._waiting.pop(number)
        self._size -= sum(slice_.kspace.size for slice_ in waiting)
        return [replace(slice_, calibration=self._calibration_of(number, slice_)) for slice_ in waiting]

    def _calibration_of(self, number: int, slice_: Slice) -> Calibration | None:
        """Find what the maps of a slice are estimated from, if not from itself: lines of their own, or repetition 0.

        `number` is the scanner's, of the slice or slab.
        """
        encoding = self.header.encodings[slice_.key.encoding]
        repeated = encoding.limit("repetition").maximum > 0
        if number in self._calibration:
            apart = Key(0, 0, 0, 0, 0, slice_.key.slice)
            if apart not in self._calibrations:
                kspaces, measured = fit_calibration(self._calibration[number], encoding)
                for k, kspace in enumerate(kspaces[encoding.imaged_slice(2)], number * encoding.imaged_size(2)):
                    self._calibrations[apart._replace(slice=k)] = Calibration(kspace, measured, repeated)
            return self._calibrations[apart]
        if not repeated:
            return None
        earliest = slice_.key._replace(repetition=0)
        if earliest not in self._calibrations:
            self._hold(slice_.kspace.size)
            self._calibrations[earliest] = Calibration(slice_.kspace, slice_.mask, repeated)
        return self._calibrations[earliest]


def _is_cartesian(encoding: Encoding) -> bool:
    return encoding.trajectory.lower() == "cartesian"


def _unsupported_trajectory(encoding: Encoding) -> InputError:
    return InputError(
        f"trajectory '{encoding.trajectory}': lines on a Cartesian grid alone can be reconstructed; grid the data"
    )
