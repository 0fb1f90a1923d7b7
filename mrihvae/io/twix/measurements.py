"""Measurements of a TWIX file: where each begins, its protocol, and the headers of its lines.

A claim of a file, such as the length of a measurement, is checked against the file's size before anything is read.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO

import numpy as np
from twixtools import hdr_def, mdh_def

from mrihvae.errors import InputError
from mrihvae.io.twix.extra import is_modern, is_vb
from mrihvae.io.twix.protocol import Protocol, parse_protocol

DMA_LENGTH_MODULUS = 2**25  # the bits above are flags
MIN_HEADER_BYTES = 16


@dataclass(frozen=True)
class Line:
    """A line in the file: its header, of `twixtools.mdh_def`, and where its samples are."""

    head: Any
    position: int
    modern: bool

    def has(self, *names: str) -> bool:
        """Return whether one of these flags is set."""
        return bool(self.head.EvalInfoMask & flag_bits(*names))

    def samples(self, file: BinaryIO) -> np.ndarray:
        """Read the samples, complex64 (coils, samples)."""
        own = ctypes.sizeof(mdh_def.Channel_header if self.modern else mdh_def.VB17_header)
        record = np.dtype([("head", "V", own), ("data", "<c8", self.head.SamplesInScan)])
        file.seek(self.position)
        rows = np.frombuffer(file.read(self.head.UsedChannels * record.itemsize), record, self.head.UsedChannels)
        return np.ascontiguousarray(rows["data"])


@dataclass(frozen=True)
class Measurement:
    """One measurement of a file, of which the first is number 0."""

    number: int
    protocol: Protocol
    lines: list[Line]
    finished: bool  # whether it ends with the mark for that


@cache
def flag_bits(*names: str) -> int:
    """Return the bits of flags, by the names of `twixtools.mdh_def`."""
    return sum(1 << mdh_def.mask_dict[name] for name in set(names))


def read_measurements(file: BinaryIO, size: int) -> list[Measurement]:
    """Read the protocols and line headers of a file.

    Parameters
    ----------
    file : at any position
    size : bytes of the file

    Raises
    ------
    InputError
        Not TWIX, or a header, line or measurement that would end beyond the file.
    """
    file.seek(0)
    start = file.read(hdr_def.MultiRaidFileHeader.itemsize)
    if is_modern(start):
        if len(start) < hdr_def.MultiRaidFileHeader.itemsize:
            raise InputError(f"is truncated: it ends after {size} bytes, within the table of measurements")
        table = np.frombuffer(start, hdr_def.MultiRaidFileHeader)[0]
        entries = table["entry"][: int(table["hdr"]["count_"])]
        spans = [_span(entries, k, size) for k in range(len(entries)) if entries["off_"][k]]
    elif is_vb(start):
        spans = [(0, size, False)]
    else:
        raise InputError("is not Siemens raw data (VB, VD or VE); copy it again, or leave it out")
    return [_measurement(file, k, span, is_modern(start)) for k, span in enumerate(spans)]


def _span(entries: np.ndarray, number: int, size: int) -> tuple[int, int, bool]:
    """Return where a measurement begins and ends, and whether the file tells its length.

    Without it, which is 0 then, it may reach up to the next measurement, or to the file's end.
    """
    first, length = int(entries["off_"][number]), int(entries["len_"][number])
    if first + max(length, MIN_HEADER_BYTES) > size:
        raise InputError(
            f"is truncated: measurement {number} ends at byte {first + length}, and the file has {size} bytes"
        )
    next_first = min((int(each) for each in entries["off_"] if first < each < size), default=size)
    return first, first + length if length else next_first, length > 0


def _measurement(file: BinaryIO, number: int, span: tuple[int, int, bool], modern: bool) -> Measurement:
    first, end, sized = span
    file.seek(first)
    (length,) = struct.unpack("<I", file.read(4))
    if not MIN_HEADER_BYTES <= length <= end - first:
        raise InputError(
            f"is truncated or damaged: the header of measurement {number} claims {length} bytes of {end - first}"
        )
    file.seek(first)
    protocol = parse_protocol(file.read(length))
    lines, finished = _lines(file, first + length, end, modern)
    if not (finished or sized):
        raise InputError(
            f"is truncated: measurement {number} has no end, after {len(lines)} lines; the last bytes of the file are "
            "missing"
        )
    return Measurement(number, protocol, lines, finished)


def _lines(file: BinaryIO, start: int, end: int, modern: bool) -> tuple[list[Line], bool]:
    """Read the headers of lines, and whether the mark of the end is behind them."""
    kind = mdh_def.Scan_header if modern else mdh_def.VB17_header
    size = ctypes.sizeof(kind)
    each = ctypes.sizeof(mdh_def.Channel_header) if modern else size
    last, other = flag_bits("ACQEND"), flag_bits("SYNCDATA")
    found: list[Line] = []
    position = start
    while position + size <= end:
        file.seek(position)
        head: Any = kind.from_buffer_copy(file.read(size))
        if head.EvalInfoMask & last:
            return found, True
        claimed = head.FlagsAndDMALength % DMA_LENGTH_MODULUS
        if head.EvalInfoMask & other:
            length = claimed
        else:
            length = size * modern + head.UsedChannels * (each + 8 * head.SamplesInScan)
            if claimed == 0 and head.UsedChannels == 0:
                return found, False  # zeros that fill the file up
        if length < size or not (head.EvalInfoMask & other or (head.UsedChannels and head.SamplesInScan)):
            raise InputError(f"is damaged: line {len(found)}, at byte {position}, has no samples or no length")
        if position + length > end:
            raise InputError(
                f"is truncated or damaged: line {len(found)} ends at byte {position + length}, and the measurement "
                f"ends at {end}"
            )
        if not head.EvalInfoMask & other:
            found.append(Line(head, position + size * modern, modern))
        position += length
    return found, False
