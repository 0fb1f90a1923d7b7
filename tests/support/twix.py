"""Small Siemens raw data (TWIX) for tests, VB and VD, written byte by byte from the published layout.

They share nothing with the package, nor with the library that it reads the headers of lines with.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.mrd import oversample

ACQEND, RTFEEDBACK, SYNCDATA, PHASCOR, PATREFSCAN, PATREFANDIMASCAN, REFLECT, NOISE = 0, 1, 5, 21, 22, 23, 24, 25
COUNTERS = ("Lin", "Ave", "Sli", "Par", "Eco", "Phs", "Rep", "Set", "Seg")
AXIAL = (np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5))  # readout to the right in the header, phase encoding to the back
ALIGNMENT = 512

Protocol = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One line: complex64 data (coils, samples), flags by their numbers, counters by their names."""

    data: NDArray[np.complex64]
    counters: Mapping[str, int] = field(default_factory=dict)
    flags: tuple[int, ...] = ()
    center: tuple[int, int, int] = (0, 0, 0)  # column, line, partition
    cutoff: tuple[int, int] = (0, 0)
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    quaternion: Sequence[float] = AXIAL
    time: int = 0

    def pack(self, vb: bool = False, number: int = 1) -> bytes:
        """Write header and samples: one header for all coils in VD, one for each in VB."""
        coils, samples = self.data.shape
        total = coils * (128 + 8 * samples) if vb else 192 + coils * (32 + 8 * samples)
        head = self._head(total, vb, number)
        own = b"" if vb else struct.pack("<IiIiIIHHI", 32 + 8 * samples, 1, number, 0, 0, 0, 0, 0, 0)
        rows = [(head if vb else own) + row.astype("<c8").tobytes() for row in self.data]
        return b"".join(rows) if vb else head + b"".join(rows)

    def _head(self, length: int, vb: bool, number: int) -> bytes:
        coils, samples = self.data.shape
        mask = sum(1 << flag for flag in self.flags)
        start = struct.pack("<IiIII", length, 1, number, self.time, 0)
        start += b"" if vb else struct.pack("<HHiiii", 0, 0, 0, 0, 0, 0)
        start += struct.pack("<QHH", mask, samples, coils)
        start += struct.pack("<14H", *(self.counters.get(name, 0) for name in COUNTERS), *[0] * 5)
        start += struct.pack("<HHHHfIHH", *self.cutoff, self.center[0], 0, 0.0, 0, *self.center[1:])
        place = struct.pack("<7f", *self.position, *self.quaternion)
        if vb:
            return start + bytes(16) + place + struct.pack("<HH", 0, 0)
        return start + place + bytes(2 * 24 + 2 * 4 + 4 + 4)


def end(vb: bool = False) -> bytes:
    """Write the mark of the end."""
    return Line(np.zeros((1, 16), np.complex64), flags=(ACQEND,)).pack(vb)


def sync(vb: bool = False, size: int = 64) -> bytes:
    """Write data of a sensor between lines."""
    line = Line(np.zeros((0, 0), np.complex64), flags=(SYNCDATA,))
    head = line._head((128 if vb else 192) + size, vb, 0)
    return head + bytes(size)


def protocol(matrix: Sequence[int] = (16, 12, 1), fov_mm: Sequence[float] = (32, 36, 5), **changes: Any) -> Protocol:
    """Describe a 2D or 3D measurement; keywords have "__" for dots and replace values, None leaves them out."""
    values = {
        "tSequenceFileName": '""%SiemensSeq%\\gre""',
        "tProtocolName": '""t2_head""',
        "sKSpace.lBaseResolution": matrix[0],
        "sKSpace.lPhaseEncodingLines": matrix[1],
        "sKSpace.lPartitions": matrix[2],
        "sKSpace.ucDimension": "0x4" if matrix[2] > 1 else "0x2",
        "sKSpace.ucTrajectory": "0x1",
        "sSliceArray.asSlice[0].dReadoutFOV": fov_mm[0],
        "sSliceArray.asSlice[0].dPhaseFOV": fov_mm[1],
        "sSliceArray.asSlice[0].dThickness": fov_mm[2],
        "flReadoutOSFactor": 2.0,
    }
    return values | {name.replace("__", "."): value for name, value in changes.items()}


def header(values: Protocol) -> bytes:
    """Write the header of a measurement: two buffers, one of each notation."""
    rest = dict(values)
    factor, modes = rest.pop("flReadoutOSFactor", None), rest.pop("alRegridMode", 1)
    assignments = "".join(f"{name}\t = \t{value}\n" for name, value in rest.items() if value is not None)
    dicom = "" if factor is None else f'<ParamDouble."flReadoutOSFactor">  {{ <Precision> 6  {factor}  }}\n'
    dicom += f'<ParamLong."alRegridMode">  {{ {modes} 1 1 }}\n'
    yaps = f"### ASCCONV BEGIN object=MrProt ###\n{assignments}\n### ASCCONV END ###"
    buffers = b""
    for name, text in (("Dicom", dicom + "x" * 12000), ("MeasYaps", yaps)):
        buffers += name.encode() + b"\0" + struct.pack("<I", len(text)) + text.encode()
    whole = struct.pack("<I", 2) + buffers
    whole += bytes(-(len(whole) + 4) % 32)
    return struct.pack("<I", len(whole) + 4) + whole


def measurement(values: Protocol, lines: Iterable[Line | bytes], vb: bool = False, finished: bool = True) -> bytes:
    """Write a measurement; bytes stand between lines as they are."""
    packed = [one if isinstance(one, bytes) else one.pack(vb, k) for k, one in enumerate(lines, 1)]
    return header(values) + b"".join(packed) + (end(vb) if finished else b"")


def vd(*measurements: bytes, sized: bool = True) -> bytes:
    """Write a file of VD, VE or XA with these measurements; without `sized` their lengths are 0."""
    table, body, offset = b"", b"", 10240
    for k, one in enumerate(measurements):
        table += struct.pack("<IIQQ64s64s", k, k, offset + len(body), len(one) if sized else 0, b"patient", b"protocol")
        body += one + bytes(-len(one) % ALIGNMENT)
    return (struct.pack("<II", 0, len(measurements)) + table).ljust(offset, b"\0") + body


def cartesian(
    kspace: NDArray[Any], oversampling: int = 2, *, spacing_mm: float = 5.0, flags: Sequence[int] = (), **counters: int
) -> list[Line]:
    """Measure k-space (slices, coils, H, W) line by line, every other slice first."""
    slices, _, height, width = kspace.shape
    center = (height * oversampling // 2, width // 2, 0)
    lines = []
    for k in [*range(1, slices, 2), *range(0, slices, 2)]:
        position = (0.0, 0.0, (k - slices // 2) * spacing_mm)
        for column in range(width):
            data = oversample(kspace[k, :, :, column], oversampling)
            lines.append(Line(data, {"Lin": column, "Sli": k} | counters, tuple(flags), center, position=position))
    return lines


def slab(kspace: NDArray[Any], oversampling: int = 2) -> list[Line]:
    """Measure k-space (partitions, coils, H, W) of a 3D scan."""
    partitions, _, height, width = kspace.shape
    center = (height * oversampling // 2, width // 2, partitions // 2)
    return [
        Line(oversample(kspace[z, :, :, column], oversampling), {"Lin": column, "Par": z}, (), center)
        for z in range(partitions)
        for column in range(width)
    ]
