"""Breaks good MRD streams at random, as servers must survive it."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

import numpy as np

from tests.support.mrd.messages import (
    ACQUISITION,
    ACQUISITION_SIZE,
    CONFIG_TEXT,
    COUNTS,
    HEADER,
    TEXT,
    offset_of,
    split,
)

KINDS = (
    *("bits", "cut", "repeat", "drop", "swap", "random", "insert"),
    *("identifier", "length", "count", "counter", "floats", "xml"),
)
COUNTERS = (  # fields of lines that leave the framing as it is
    *("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase", "repetition", "set"),
    *("segment", "version", "flags", "available_channels", "discard_pre", "discard_post", "center_sample"),
    "encoding_space_ref",
)
WORDS = (  # for the XML header
    *("0", "1", "-1", "4294967296", "99999", "65535", "1e400", "nan", "inf", "0x10", "1.5", "word", "", "&lt;"),
    *("9" * 5000, "\N{ARABIC-INDIC DIGIT ONE}"),
)
ELEMENTS = (b"x", b"maximum", b"matrixSize", b"reconSpace", b"encodingLimits", b"encoding")  # taken away from it


class Mutator:
    """Breaks a good stream in one place at random; `kinds` are the ways that this stream offers."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.messages = split(payload)
        self.lines = [m for m in self.messages if m.identifier == ACQUISITION and m.end - m.start > 350]
        self.counted = [m for m in self.messages if m.identifier in (CONFIG_TEXT, HEADER, TEXT)]
        self.headers = [m for m in self.messages if m.identifier == HEADER]
        needs = {"swap": self.messages[1:], "length": self.counted, "xml": self.headers}
        needs |= dict.fromkeys(("count", "counter", "floats"), self.lines)
        self.kinds = tuple(kind for kind in KINDS if needs.get(kind, True))

    def mutate(self, rng: np.random.Generator, kind: str | None = None) -> bytes:
        """Make one mutation, of a random kind if none is given."""
        return self.draw(rng, kind)[1]

    def draw(self, rng: np.random.Generator, kind: str | None = None) -> tuple[str, bytes]:
        """Make one mutation and say of which kind."""
        for _ in range(100):
            chosen = self.kinds[rng.integers(len(self.kinds))] if kind is None else kind
            broken = bytes(getattr(self, f"_{chosen}")(rng))
            if broken != self.payload:
                return chosen, broken
        raise AssertionError(f"no mutation of kind {kind}")

    def _put(self, at: int, piece: bytes) -> bytes:
        return self.payload[:at] + piece + self.payload[at + len(piece) :]

    def _span(self, rng: np.random.Generator) -> tuple[int, int]:
        """Choose up to three messages, or any piece."""
        if rng.random() < 0.6:
            first = int(rng.integers(len(self.messages)))
            last = min(first + int(rng.integers(3)), len(self.messages) - 1)
            return self.messages[first].start, self.messages[last].end
        start = int(rng.integers(len(self.payload)))
        return start, min(start + int(2 ** rng.uniform(0, 12)), len(self.payload))

    def _place(self, rng: np.random.Generator) -> int:
        """Choose a byte, as often in the header of a message as anywhere."""
        if rng.random() < 0.5:
            return int(rng.integers(len(self.payload)))
        message = self.messages[rng.integers(len(self.messages))]
        return int(rng.integers(message.start, min(message.end, message.start + 2 + ACQUISITION_SIZE)))

    def _bits(self, rng: np.random.Generator) -> bytes:
        broken = bytearray(self.payload)
        for _ in range(rng.integers(1, 17)):
            broken[self._place(rng)] ^= 1 << int(rng.integers(8))
        return bytes(broken)

    def _cut(self, rng: np.random.Generator) -> bytes:
        return self.payload[: self._place(rng)]

    def _repeat(self, rng: np.random.Generator) -> bytes:
        start, end = self._span(rng)
        return self.payload[:end] + self.payload[start:end] * int(rng.integers(1, 4)) + self.payload[end:]

    def _drop(self, rng: np.random.Generator) -> bytes:
        start, end = self._span(rng)
        return self.payload[:start] + self.payload[end:]

    def _swap(self, rng: np.random.Generator) -> bytes:
        one, other = sorted(rng.choice(len(self.messages), 2, replace=False))
        a, b, p = self.messages[one], self.messages[other], self.payload
        return p[: a.start] + p[b.start : b.end] + p[a.end : b.start] + p[a.start : a.end] + p[b.end :]

    def _identifier(self, rng: np.random.Generator) -> bytes:
        others = (0, 1, 2, 3, 4, 5, 6, 1007, 1008, 1010, 1022, 1026, 65535)
        message = self.messages[rng.integers(len(self.messages))]
        return self._put(message.start, struct.pack("<H", rng.choice(others)))

    def _length(self, rng: np.random.Generator) -> bytes:
        message = self.counted[rng.integers(len(self.counted))]
        size = message.end - message.start - 6
        sizes = (0, 1, size - 1, size + 1, 2 * size, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
        return self._put(message.start + 2, struct.pack("<I", max(int(rng.choice(sizes)), 0)))

    def _of_line(self, rng: np.random.Generator, names: Sequence[str]) -> tuple[int, int]:
        """Choose a u16 field of a line: where it lies, and its value."""
        line = self.lines[rng.integers(len(self.lines))]
        at = line.start + 2 + offset_of(names[int(rng.integers(len(names)))])
        return at, int(struct.unpack_from("<H", self.payload, at)[0])

    def _count(self, rng: np.random.Generator) -> bytes:
        at, value = self._of_line(rng, COUNTS)
        return self._put(at, struct.pack("<H", rng.choice((0, 1, max(value - 1, 0), value + 1, 32768, 65535))))

    def _counter(self, rng: np.random.Generator) -> bytes:
        at, value = self._of_line(rng, COUNTERS)
        near = (0, 1, max(value - 1, 0), min(value + 1, 65535), 255, 1024, 32768, 65535, int(rng.integers(65536)))
        return self._put(at, struct.pack("<H", rng.choice(near)))

    def _floats(self, rng: np.random.Generator) -> bytes:
        """Put numbers that are none, or huge, into the data or the geometry of a line."""
        line = self.lines[rng.integers(len(self.lines))]
        value = struct.pack("<f", rng.choice((np.nan, np.inf, -np.inf, 3e38, 1e-42)))
        if rng.random() < 0.2:
            return self._put(line.start + 2 + offset_of("sample_time_us") + 4 * int(rng.integers(16)), value)
        at = line.start + 2 + ACQUISITION_SIZE
        floats = (line.end - at) // 4
        first = int(rng.integers(floats))
        return self._put(at + 4 * first, value * int(rng.integers(1, floats - first + 1)))

    def _random(self, rng: np.random.Generator) -> bytes:
        at = self._place(rng)
        return self._put(at, rng.bytes(min(int(2 ** rng.uniform(0, 10)), len(self.payload) - at)))

    def _insert(self, rng: np.random.Generator) -> bytes:
        at = self._place(rng) if rng.random() < 0.5 else self.messages[rng.integers(len(self.messages))].start
        return self.payload[:at] + rng.bytes(int(2 ** rng.uniform(0, 10))) + self.payload[at:]

    def _xml(self, rng: np.random.Generator) -> bytes:
        """Replace a number or a word of the XML header, or take an element away; the length stays right."""
        message = self.headers[rng.integers(len(self.headers))]
        xml = self.payload[message.start + 6 : message.end]
        if rng.random() < 0.15:
            elements = [m for tag in ELEMENTS for m in re.finditer(rb"<%s>.*?</%s>" % (tag, tag), xml, re.DOTALL)]
            new = b""
        else:
            elements = list(re.finditer(rb"(?<=>)[^<>]*\w[^<>]*(?=<)", xml))
            new = WORDS[rng.integers(len(WORDS))].encode()
        if not elements:
            return self.payload
        old = elements[rng.integers(len(elements))]
        changed = xml[: old.start()] + new + xml[old.end() :]
        counted = struct.pack("<HI", HEADER, len(changed)) + changed
        return self.payload[: message.start] + counted + self.payload[message.end :]


def mutations(payload: bytes, rng: np.random.Generator) -> bytes:
    """Break a good stream in one place at random."""
    return Mutator(payload).mutate(rng)
