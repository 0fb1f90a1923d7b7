"""The protocol of a measurement: text in the header of TWIX files, with values in two notations.

The parser of twixtools would allocate whatever an index in a damaged file says, and may need a time that grows with the
square of the text; this one keeps names as they are, and looks up what is needed.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from mrihvae.errors import InputError
from mrihvae.io.twix.extra import MAX_BUFFERS
from mrihvae.utils.text import printable

BEGIN, END = "### ASCCONV BEGIN", "### ASCCONV END ###"  # around assignments, NAME = VALUE
MAX_NAME_BYTES = 48  # of a buffer
ADJUSTMENT = "adjustseq"  # in the path of sequences by which the scanner adjusts itself
PULSEQ = "pulseq"  # in the names of sequences whose protocol does not describe what is measured


@dataclass(frozen=True)
class Protocol:
    """What the scanner was asked to measure.

    Attributes
    ----------
    values : text of each value by its name, such as "sKSpace.lBaseResolution"
    parameters : text of the other notation, `<ParamDouble."flReadoutOSFactor"> { 2.0 }`, of several buffers
    """

    values: Mapping[str, str]
    parameters: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name that the user gave."""
        return self.text("tProtocolName") or "unnamed"

    @property
    def sequence(self) -> str:
        """Path of the sequence, such as "%SiemensSeq%\\gre"."""
        return self.text("tSequenceFileName")

    @property
    def is_adjustment(self) -> bool:
        """Whether the scanner adjusted itself, and nothing was measured for the user."""
        return ADJUSTMENT in self.sequence.lower()

    @property
    def is_pulseq(self) -> bool:
        """Whether a Pulseq file was played, of which the protocol knows neither matrix nor field of view."""
        return PULSEQ in self.sequence.lower()

    def text(self, name: str) -> str:
        """Return a text; empty if the protocol has none."""
        return self.values.get(name, "").strip('"')

    def number(self, name: str, default: float = 0.0) -> float:
        """Return a number, decimal or hexadecimal; `default` if the protocol has no finite number."""
        value = self.values.get(name, "")
        try:
            found = float(int(value, 16)) if value.lower().startswith("0x") else float(value)
        except (ValueError, OverflowError):
            return default
        return found if math.isfinite(found) else default

    def whole(self, name: str, default: int = 0) -> int:
        """Return a whole number, as `number`."""
        return round(self.number(name, default))

    def parameter(self, name: str) -> float | None:
        """Return the first number of a parameter in the other notation; None where no buffer has it."""
        pattern = re.compile(rf'<Param\w+\."{name}">\s*\{{\s*(?:<Precision>\s*\d+)?\s*([-+.\deE]+)')
        for text in self.parameters:
            found = pattern.search(text)
            if found:
                try:
                    return float(found[1])
                except ValueError:
                    continue
        return None


def parse_protocol(header: bytes) -> Protocol:
    """Read the header of a measurement.

    Parameters
    ----------
    header : all of it, from its length on

    Raises
    ------
    InputError
        No header, buffers that end beyond it, or none with the protocol.
    """
    buffers = _buffers(header)
    for name in ("MeasYaps", "Phoenix"):
        _, found, rest = buffers.get(name, "").partition(BEGIN)
        if found:
            pairs = (line.partition("=") for line in rest.partition(END)[0].splitlines()[1:])
            values = {left.strip(): _value(right) for left, sign, right in pairs if sign}
            return Protocol(values, tuple(buffers[each] for each in ("Dicom", "Meas") if each in buffers))
    raise InputError(f"header of a measurement has no protocol, only {printable(', '.join(buffers)) or 'nothing'}")


def _value(text: str) -> str:
    """Return the value of an assignment, without the comment behind it."""
    text = text.strip()
    return text if text.startswith('"') else text.partition("#")[0].strip()


def _buffers(header: bytes) -> dict[str, str]:
    """Return the text of each buffer of a header by its name."""
    (count,) = struct.unpack_from("<I", header, 4)
    if not 1 <= count <= MAX_BUFFERS:
        raise InputError(f"header of a measurement claims {count} parts; they must be 1 to {MAX_BUFFERS}")
    found, position = {}, 8
    for _ in range(count):
        end = header.find(b"\0", position, position + MAX_NAME_BYTES)
        if end < 0 or end + 5 > len(header):
            raise InputError("header of a measurement ends early, or its parts have no names")
        (length,) = struct.unpack_from("<I", header, end + 1)
        first = end + 5
        if first + length > len(header):
            raise InputError(f"header of a measurement ends early: a part claims {length} bytes")
        found[header[position:end].decode("latin1")] = header[first : first + length].decode("latin1")
        position = first + length
    return found
