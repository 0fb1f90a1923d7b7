"""Bytes of a stream of MRD version 2, as the package `mrd-python` takes them, which allocates whatever a stream claims.

Here memory grows with what comes and not with what was claimed. It is imported where a stream is of version 2 alone.
"""

from __future__ import annotations

import io
from typing import Any

import mrd
from mrd import _binary

from mrihvae.io.mrd.messages import READ_BYTES, Read, StreamError

BUFFER_BYTES = 2**16  # that are read at once; larger arrays and texts are read past the buffer
MAX_ARRAY_BYTES = 2**28  # of the arrays of a message, as many as version 1 may have in its widest type
MAX_OTHER_BYTES = 2**20  # of a message beside large arrays: Python's numbers and lists take 100 times their bytes
NUMBER_BYTES = 10  # of an integer of 64 bits
DAMAGED = "the stream may be damaged"


class BoundedInput(_binary.CodedInputStream):  # type: ignore[misc]
    """Numbers, texts and arrays of a stream; what a message may have in all is limited.

    Parameters
    ----------
    read : as `mrihvae.io.mrd.messages.read_messages` takes it
    """

    def __init__(self, read: Read) -> None:
        super().__init__(io.BufferedReader(_Readable(read)), buffer_size=BUFFER_BYTES)
        self.next_message()

    def next_message(self) -> None:
        """Count anew, for a message begins."""
        self._arrays = self._others = 0

    def read_unsigned_varint(self) -> int:
        """Read an integer of at most 64 bits.

        Raises
        ------
        StreamError
            A longer one, whose bits would take time that grows with the square of their number.
        """
        result = 0
        for k in range(NUMBER_BYTES):
            byte: int = self.read_byte()
            result |= (byte & 0x7F) << 7 * k
            if byte < 0x80:
                return result
        raise StreamError(f"stream: a number has more than {NUMBER_BYTES} bytes; {DAMAGED}")

    def read_view(self, count: int) -> memoryview:
        """Read bytes, of a text for example; raises as `read_bytearray` does."""
        return super().read_view(count) if 0 <= count <= BUFFER_BYTES else memoryview(self.read_bytearray(count))

    def read_bytearray(self, count: int) -> bytearray:
        """Read the bytes of an array.

        Raises
        ------
        StreamError
            More than a message may have.
        EOFError
            The stream ended within.
        """
        if not 0 <= count <= MAX_ARRAY_BYTES - self._arrays:
            raise StreamError(f"stream: a message claims {count} bytes, beyond {MAX_ARRAY_BYTES} in all; {DAMAGED}")
        if count <= BUFFER_BYTES:
            return bytearray(super().read_view(count))
        self._arrays += count
        found = bytearray(super().read_view(self._last_read_count - self._offset))
        while len(found) < count:
            piece = self._stream.read(min(count - len(found), READ_BYTES))
            if not piece:
                raise EOFError("Unexpected EOF")
            found += piece
        return found

    def _fill_buffer(self, min_count: int = 0) -> None:
        self._others += BUFFER_BYTES
        if self._others > MAX_OTHER_BYTES:
            raise StreamError(f"stream: a message has more than {MAX_OTHER_BYTES} bytes beside arrays; {DAMAGED}")
        super()._fill_buffer(min_count)


def open_reader(read: Read) -> tuple[Any, BoundedInput]:
    """Read the schema of a stream; return a reader of what follows, and its bytes.

    Raises
    ------
    EOFError
        The stream ended within its schema.
    RuntimeError
        Another schema than that of the installed package.
    """
    expected = _start()
    found = b""
    while len(found) < len(expected):
        piece = read(len(expected) - len(found))
        if not piece:
            raise EOFError("Unexpected EOF")
        found += piece
        if not expected.startswith(found):
            raise RuntimeError("Invalid schema")
    reader = mrd.BinaryMrdReader(io.BytesIO(expected))
    reader._stream = source = BoundedInput(read)
    return reader, source


def _start() -> bytes:
    """Return the bytes with which every stream begins that the installed package reads."""
    written = io.BytesIO()
    output = _binary.CodedOutputStream(written)
    output.write_bytes(_binary.MAGIC_BYTES)
    _binary.write_fixed_int32(output, _binary.CURRENT_BINARY_FORMAT_VERSION)
    _binary.string_serializer.write(output, mrd.BinaryMrdReader.schema)
    output.flush()
    return written.getvalue()


class _Readable(io.RawIOBase):
    """A stream that is read by a function."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)
