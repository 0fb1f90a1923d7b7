"""Files broken in one place: bits, bytes, pieces of another file, numbers at the ends of their ranges."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping

import numpy as np

Generator = np.random.Generator
Mutation = Callable[[bytes, Generator], bytes]

LENGTHS = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
FLOATS = (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-42, 0.0, -1.0, 1e300)
HEAD_BYTES = 1024  # where most formats have their sizes
WIDEST = 12  # powers of two of bytes that are moved, or made up


def flip_bits(data: bytes, rng: Generator) -> bytes:
    """Flip up to 16 bits."""
    broken = bytearray(data)
    for _ in range(int(rng.integers(1, 17))):
        broken[place(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(broken)


def insert(data: bytes, rng: Generator) -> bytes:
    """Insert random bytes."""
    at = place(data, rng)
    return data[:at] + rng.bytes(width(rng)) + data[at:]


def overwrite(data: bytes, rng: Generator) -> bytes:
    """Replace bytes by random ones, zeros or ones."""
    at = place(data, rng)
    count = min(width(rng), len(data) - at)
    piece = (rng.bytes(count), b"\0" * count, b"\xff" * count)[int(rng.integers(3))]
    return data[:at] + piece + data[at + count :]


def delete(data: bytes, rng: Generator) -> bytes:
    """Take bytes away."""
    at = place(data, rng)
    return data[:at] + data[at + width(rng) :]


def truncate(data: bytes, rng: Generator) -> bytes:
    """Cut the end off."""
    return data[: place(data, rng)]


def repeat(data: bytes, rng: Generator) -> bytes:
    """Repeat a piece."""
    at = place(data, rng)
    piece = data[at : at + width(rng)]
    return data[:at] + piece * int(rng.integers(1, 4)) + data[at:]


def extreme_integer(data: bytes, rng: Generator) -> bytes:
    """Write a number at the end of a range at a place that is aligned, in either byte order."""
    code = "BHIQ"[int(rng.integers(4))]
    size = struct.calcsize(code)
    value = int(LENGTHS[int(rng.integers(len(LENGTHS)))])
    if size == 8 and rng.random() < 0.5:
        value = (2**63 - 1, 2**63, 2**64 - 1, 2**40)[int(rng.integers(4))]
    at = place(data, rng) // size * size
    packed = struct.pack(("<" if rng.random() < 0.7 else ">") + code, value % 2 ** (8 * size))
    return data[:at] + packed + data[at + size :]


def extreme_float(data: bytes, rng: Generator) -> bytes:
    """Write numbers that are none, or huge, at a place that is aligned."""
    value = FLOATS[int(rng.integers(len(FLOATS)))]
    with np.errstate(over="ignore"):
        packed = (np.float32(value) if rng.random() < 0.6 else np.float64(value)).tobytes()
    at = place(data, rng) // 4 * 4
    return data[:at] + packed + data[at + len(packed) :]


def splice(data: bytes, rng: Generator, other: bytes) -> bytes:
    """Begin as one file and end as another."""
    return data[: place(data, rng)] + other[place(other, rng) :]


def place(data: bytes, rng: Generator) -> int:
    """Choose a byte, as often in the first `HEAD_BYTES` as anywhere."""
    size = max(len(data), 1)
    return int(rng.integers(min(size, HEAD_BYTES) if rng.random() < 0.5 else size))


def width(rng: Generator) -> int:
    """Choose a number of bytes; small ones are as frequent as large ones."""
    return int(2 ** rng.uniform(0, WIDEST))


BYTE_MUTATIONS: Mapping[str, Mutation] = {
    "bits": flip_bits,
    "insert": insert,
    "overwrite": overwrite,
    "delete": delete,
    "truncate": truncate,
    "repeat": repeat,
    "integer": extreme_integer,
    "float": extreme_float,
}


def inside_gzip(mutation: Mutation) -> Mutation:
    """Let a mutation work on what a gzip file holds; also the claim of a long run of zeros."""

    def mutate(data: bytes, rng: Generator) -> bytes:
        inner = mutation(zlib.decompress(data, 31), rng)
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        tail = b"\0" * 2**22 if rng.random() < 0.05 else b""
        return packer.compress(inner + tail) + packer.flush()

    return mutate
