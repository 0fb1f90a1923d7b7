"""From single lines of k-space, as scanners send them, to slices: what files and streams of ISMRMRD have in common.

The indices of a line are its place in k-space, slice, contrast and repetition; its flags describe its purpose. Readout
oversampling is taken away line by line, after the Fourier transform of the readout. Partitions of 3D scans become
slices by a Fourier transform across them. Averages are averaged; contrasts, repetitions, phases and sets stay apart.
What depends on several lines, as the center of k-space, is decided when a slice is complete.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from operator import sub
from typing import TypeVar

import ismrmrd
import numpy as np

from mrihvae.errors import InputError
from mrihvae.io.mrd.calibration import INTERLEAVED, SEPARATE, CalibrationLines, fills_gaps, is_embedded
from mrihvae.io.mrd.header import Encoding, ScanHeader
from mrihvae.io.mrd.lines import STEPS, USER_CENTERS, LineGroup, place_lines, step_limit
from mrihvae.io.mrd.noise import NoiseScans
from mrihvae.io.mrd.readouts import Readout, match_encoding, readout
from mrihvae.io.mrd.slices import Key, Slice, cut_slices
from mrihvae.utils.notices import DistinctWarnings

__all__ = ["MAX_HELD_NUMBERS", "Key", "Slice", "SliceAssembler"]

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
UNUSED_NOISE_FLAGS = set(UNUSED_FLAGS) - {ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA}  # noise may be of that scan
K = TypeVar("K")
LINE_NUMBERS = 128  # numbers of 8 bytes that a line takes in memory beside its samples
MAX_HELD_NUMBERS = 2**28  # numbers of lines that are held at once, of slices that are not complete: 2 GiB


class SliceAssembler:
    """Sort lines into slices.

    Parameters
    ----------
    header : of the scan
    early : whether slices are given as soon as they are complete, as a scanner wants them, not at the end alone
    max_held : numbers of lines that may be held
    noise : of earlier measurements, which counts if this one has none of the same coils

    Raises
    ------
    InputError
        A trajectory that is not Cartesian.
    """

    def __init__(
        self,
        header: ScanHeader,
        early: bool = True,
        max_held: int = MAX_HELD_NUMBERS,
        noise: NoiseScans | None = None,
    ) -> None:
        if not any(map(_is_cartesian, header.encodings)):
            raise _unsupported_trajectory(header.encodings[0])
        self._warnings = DistinctWarnings()
        self._warn(header.warnings)
        self.header, self.early, self.max_held = header, early, max_held
        self.late = 0  # lines that came after their slice had been given
        self.noise_scans = NoiseScans(noise)
        self._coils: int | None = None  # of the last slice
        self._lines: dict[Key, LineGroup] = {}
        self._gaps: dict[Key, LineGroup] = {}  # calibration lines that may be of the image
        self._calibration = CalibrationLines(header, self._hold)
        self._delivered: set[Key] = set()
        self._size = self._count = 0  # k-space samples and lines that are held

    @property
    def warnings(self) -> list[str]:
        """What was wrong, and could be done without; after `end` also how many warnings were alike."""
        return self._warnings.texts

    @property
    def held(self) -> int:
        """The number of k-space samples that are held, with those of noise scans, and what lines take beside them."""
        return self._size + self.noise_scans.size + LINE_NUMBERS * self._count

    @property
    def noise(self) -> np.ndarray | None:
        """The noise scan so far, of the coils of the image, complex64 (coils, samples), or None."""
        return self.noise_scans.find(self._coils)

    def add(self, line: ismrmrd.Acquisition) -> list[Slice]:
        """Add a line, and return the slices that it completes.

        Raises
        ------
        InputError
            A line of another encoding than the header has, that does not fit those before it, or holds NaN; more
            lines than may be held; or as `end`.
        """
        is_noise = line.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        if any(line.is_flag_set(flag) for flag in (UNUSED_NOISE_FLAGS if is_noise else UNUSED_FLAGS)):
            return []
        if not np.isfinite(line.data).all():
            raise InputError(f"line {line.scan_counter}: holds NaN or infinite values; the scan is damaged")
        if is_noise:
            self.noise_scans.add(line.data)
            return []
        both = line.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
        alone = line.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION) and not both
        encoding, i = self._encoding(line, alone), line.idx
        if encoding is None:
            return []
        key = Key(line.encoding_space_ref, i.contrast, i.repetition, i.phase, i.set, i.slice)
        samples = readout(line, encoding)
        self._warn([samples.doubt] if samples.doubt else [])
        if (both or alone) and not is_embedded(encoding):
            if self._calibration.accepts(key):
                self._place(line, encoding, samples, self._calibration.lines, key.slice)
                if alone:
                    step = int(i.kspace_encode_step_1), int(i.kspace_encode_step_2)
                    self._calibration.alone.setdefault(key.slice, set()).add(step)
            if alone and encoding.calibration_mode not in SEPARATE and key not in self._delivered:
                self._place(line, encoding, samples, self._gaps, key)
            if alone:
                return self._complete(line, key, []) if key in self._gaps and key in self._lines else []
        if key in self._delivered:
            self.late += 1
            return []
        completed = self._completed_keys(key)
        if key in self._lines and max(map(abs, map(sub, self._lines[key].rows, samples.rows))) > 0.5:
            self._warn(["lines have readouts of different lengths: missing samples count as not acquired"])
        self._place(line, encoding, samples, self._lines, key)
        return self._complete(line, key, completed)

    def end(self) -> list[Slice]:
        """Return the remaining slices, in the order of their keys.

        Raises
        ------
        InputError
            Partitions of a 3D scan that are missing, or lines that lie outside of the header's matrix.
        """
        slices = [slice_ for key in sorted(self._lines) for slice_ in self._pop_slices(key)]
        self.warnings.extend(self._warnings.left_out())
        return slices + [one for number in self._calibration.waiting for one in self._calibration.release(number)]

    def _warn(self, texts: Iterable[str]) -> None:
        for text in texts:
            self._warnings.add(text)

    def _encoding(self, line: ismrmrd.Acquisition, is_dispensable: bool) -> Encoding | None:
        """Find the encoding of a line; None where the header has none, if the image can do without the line."""
        number = int(line.encoding_space_ref)
        if number >= len(self.header.encodings):
            text = f"is of encoding {number}, and the header has {len(self.header.encodings)}"
            if is_dispensable:
                self._warn([f"an ACS line {text}: such lines are left out"])
                return None
            raise InputError(
                f"line {line.scan_counter}: {text}; convert the scan again with a style sheet that adds the encoding, "
                "or, of Siemens data, without the option -F of siemens_to_ismrmrd"
            )
        encoding = self.header.encodings[number]
        if not _is_cartesian(encoding):
            raise _unsupported_trajectory(encoding)
        matched = match_encoding(line, encoding)
        if matched != encoding:
            size, samples = encoding.encoded.matrix[0], matched.encoded.matrix[0]
            self._warn(
                [
                    f"lines have {samples} samples, and the header's encodedSpace {size} over "
                    f"their field of view: it is taken as {samples}"
                ]
            )
            encodings = [matched if k == number else each for k, each in enumerate(self.header.encodings)]
            self.header = self._calibration.header = replace(self.header, encodings=tuple(encodings))
        return matched

    def _place(
        self, line: ismrmrd.Acquisition, encoding: Encoding, samples: Readout, groups: dict[K, LineGroup], key: K
    ) -> None:
        """Add a line to its group."""
        i, (data, rows) = line.idx, samples[:2]
        step = int(i.kspace_encode_step_1), int(i.kspace_encode_step_2)
        group = groups.get(key)
        if group is None:
            group = LineGroup(encoding, ismrmrd.AcquisitionHeader.from_buffer_copy(line.getHead()), rows)
            groups[key] = group
        if group.sums and group.coils != len(data):
            raise InputError(f"line {line.scan_counter}: has {len(data)} coils, and others have {group.coils}")
        if step not in group.sums:
            self._hold(data.size)
            self._count += 1
        group.add(step, data, rows)
        group.centers.add((int(i.user[USER_CENTERS[1]]), int(i.user[USER_CENTERS[2]])))

    def _hold(self, size: int) -> None:
        """Count the k-space samples that are held in memory."""
        self._size += size
        if self._size > self.max_held:
            raise InputError(
                f"scan is larger than {8 * self.max_held / 2**30:.3g} GiB, the limit for one scan; raise --max-memory"
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

    def _complete(self, line: ismrmrd.Acquisition, key: Key, completed: list[Key]) -> list[Slice]:
        """Return the slices that are complete already, and those that a line completes."""
        if self.early and line.is_flag_set(ismrmrd.ACQ_LAST_IN_MEASUREMENT):
            completed = sorted(self._lines)
        elif self.early and self._is_last(line, key):
            completed.append(key)
        return [slice_ for each in completed for slice_ in self._pop_slices(each)]

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
        group, gaps = self._lines.pop(key), self._gaps.pop(key, None)
        self._delivered.add(key)
        for each in (group, gaps):
            self._size -= 0 if each is None else sum(line.size for line in each.sums.values())
            self._count -= 0 if each is None else len(each.sums)
        is_filled = gaps is not None and fills_gaps(gaps, group)
        if gaps is not None and is_filled:
            group.fill(gaps)
            self._warn(
                [
                    f"ACS lines of calibration mode '{group.encoding.calibration_mode or 'none'}' fill gaps between "
                    "lines of the image: they are used for the image, as with 'embedded'"
                ]
            )
        elif group.encoding.calibration_mode in SEPARATE and self._calibration.may_fill(key, group):
            self._warn(
                [
                    "ACS lines are exactly the lines that the image lacks, but the header's calibration mode "
                    f"'{group.encoding.calibration_mode}' leaves them out: if they belong to the image, set the mode "
                    "to 'embedded'"
                ]
            )
        self._coils = group.coils
        self._warn(self.noise_scans.doubts(group.coils))
        placed, doubts = place_lines(group)
        slices, more = cut_slices(key, placed, self.header.vendor)
        self._warn([*doubts, *more])
        if group.encoding.calibration_mode == INTERLEAVED:
            return self._calibration.add_interleaved(key, group, slices)
        return self._calibration.calibrate(key.slice, slices, is_filled)


def _is_cartesian(encoding: Encoding) -> bool:
    return encoding.trajectory.lower() == "cartesian"


def _unsupported_trajectory(encoding: Encoding) -> InputError:
    return InputError(
        f"trajectory '{encoding.trajectory}': only lines on a Cartesian grid can be reconstructed; grid the data"
    )
