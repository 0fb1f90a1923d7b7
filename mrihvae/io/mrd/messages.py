"""Messages of the ISMRMRD protocol, version 1, from a stream of bytes: what a scanner sends over TCP or a pipe.

A message is a little-endian number of two bytes and a payload. Waveforms, which reconstruction has no use for, are read
over. Lengths are checked against limits before anything is read or allocated for them. The reader of `ismrmrd` does not
do that; nor does it take the zero that usual clients send at the end of a header.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias

import ismrmrd
import numpy as np

from mrihvae.errors import InputError
from mrihvae.io.mrd.numbers import Number
from mrihvae.utils.text import printable

CONFIG_NAME_BYTES = 1024  # bytes of the name of a configuration, padded with zeros
READ_BYTES = 2**20  # bytes that are read at once
IMAGE_TYPES = {  # of pixels, by number; ismrmrd's own table has 64 bits for the fourth
    1: "<u2", 2: "<i2", 3: "<u4", 4: "<i4", 5: "<f4", 6: "<f8", 7: "<c8", 8: "<c16",
}  # fmt: skip
Read = Callable[[int], bytes]


class StreamError(InputError):
    """A stream that cannot be gone on with."""


@dataclass(frozen=True)
class Limits:
    """What one message may hold.

    Attributes
    ----------
    text : bytes of a configuration, header or text, or of an image's attributes
    numbers : samples times channels of an acquisition or waveform, pixels times channels of an image
    """

    text: int = 2**24
    numbers: int = 2**24


@dataclass(frozen=True)
class Config:
    """How the client wants its data reconstructed: the name of a configuration, or its text."""

    text: str
    is_name: bool


@dataclass(frozen=True)
class Header:
    """The XML header of the scan."""

    xml: str


@dataclass(frozen=True)
class Note:
    """Text beside the scan, such as parameters in JSON."""

    text: str


@dataclass(frozen=True, eq=False)
class ReceivedImage:
    """An image that a client sent, as it came.

    Attributes
    ----------
    head : its header
    attributes : XML of its meta attributes, UTF-8; may be empty
    data : (channels, z, y, x), of a type of `IMAGE_TYPES`
    """

    head: ismrmrd.ImageHeader
    attributes: bytes
    data: np.ndarray

    def to_bytes(self) -> bytes:
        """Return the image as a message has it, behind the message's number."""
        head = ismrmrd.ImageHeader.from_buffer_copy(self.head)
        head.attribute_string_len = len(self.attributes)
        return bytes(head) + struct.pack("<Q", len(self.attributes)) + self.attributes + self.data.tobytes()


Message: TypeAlias = Config | Header | Note | ismrmrd.Acquisition | ReceivedImage


def read_messages(
    read: Read, limits: Limits | None = None, on_message: Callable[[], object] = lambda: None
) -> Generator[Message, None, bool]:
    """Yield the messages of a stream up to its close message, or to its end between two messages.

    The generator's own value, of `yield from`, is whether a close message ended the stream.

    Parameters
    ----------
    read : gives at most so many bytes, at least one unless the stream has ended, as `read1` of a buffered stream does
    limits : see `Limits`
    on_message : called before each message is waited for, those that are read over too

    Raises
    ------
    StreamError
        The stream ends within a message, has one that is not known or not expected, or one beyond the limits.
    """
    limits = limits or Limits()
    while True:
        on_message()
        start = _read_exactly(read, 2, "the number of a message", may_end=True)
        if not start:
            return False
        (number,) = struct.unpack("<H", start)
        if number == Number.CLOSE:
            return True
        if number == Number.CONFIG_FILE:
            yield Config(_as_text(_read_exactly(read, CONFIG_NAME_BYTES, "the name of a configuration")), True)
        elif number == Number.CONFIG_TEXT:
            yield Config(_text(read, limits, "a configuration"), False)
        elif number == Number.HEADER:
            yield Header(_text(read, limits, "the header"))
        elif number == Number.TEXT:
            yield Note(_text(read, limits, "a text"))
        elif number == Number.ACQUISITION:
            yield _acquisition(read, limits)
        elif number == Number.IMAGE:
            yield _image(read, limits)
        elif number == Number.WAVEFORM:
            _skip_waveform(read, limits)
        else:
            raise StreamError(
                f"stream: message {number} is not expected here; send configuration, header and acquisitions or images"
            )


def _acquisition(read: Read, limits: Limits) -> ismrmrd.Acquisition:
    """Read a line of k-space."""
    size = ctypes.sizeof(ismrmrd.AcquisitionHeader)
    head = ismrmrd.AcquisitionHeader.from_buffer_copy(_read_exactly(read, size, "the header of an acquisition"))
    samples, channels, axes = head.number_of_samples, head.active_channels, head.trajectory_dimensions
    if not samples or not channels:
        raise StreamError(f"stream: an acquisition has {samples} samples of {channels} channels; leave it out")
    if max(channels, axes) * samples > limits.numbers:
        raise StreamError(
            f"stream: an acquisition claims {samples} samples of {channels} channels and {axes} axes, more than "
            f"{limits.numbers} numbers; the stream may be damaged"
        )
    trajectory = _read_exactly(read, 4 * axes * samples, "the trajectory of an acquisition")
    data = _read_exactly(read, 8 * channels * samples, "the data of an acquisition")
    found = ismrmrd.Acquisition(head)
    found.traj[:] = np.frombuffer(trajectory, "<f4").reshape(samples, axes)
    found.data[:] = np.frombuffer(data, "<c8").reshape(channels, samples)
    return found


def _image(read: Read, limits: Limits) -> ReceivedImage:
    """Read an image."""
    size = ctypes.sizeof(ismrmrd.ImageHeader)
    head = ismrmrd.ImageHeader.from_buffer_copy(_read_exactly(read, size, "the header of an image"))
    x, y, z = head.matrix_size
    count = head.channels * x * y * z
    if head.data_type not in IMAGE_TYPES:
        raise StreamError(
            f"stream: an image has data type {head.data_type}, which MRD does not have; check the program that wrote it"
        )
    if not count:
        raise StreamError(f"stream: an image has {head.channels} channels of {x} x {y} x {z} pixels; leave it out")
    if count > limits.numbers:
        raise StreamError(
            f"stream: an image claims {head.channels} channels of {x} x {y} x {z} pixels, more than {limits.numbers} "
            "numbers; the stream may be damaged"
        )
    (length,) = struct.unpack("<Q", _read_exactly(read, 8, "the length of an image's attributes"))
    if length > limits.text:
        raise StreamError(
            f"stream: attributes of an image claim {length} bytes, more than {limits.text}; the stream may be damaged"
        )
    attributes = _read_exactly(read, length, "the attributes of an image").rstrip(b"\0")
    kind = np.dtype(IMAGE_TYPES[head.data_type])
    data = np.frombuffer(_read_exactly(read, count * kind.itemsize, "the pixels of an image"), kind)
    return ReceivedImage(head, attributes, data.reshape(head.channels, z, y, x))


def _skip_waveform(read: Read, limits: Limits) -> None:
    """Read over the curve of a pulse or breath sensor."""
    size = ctypes.sizeof(ismrmrd.WaveformHeader)
    head = ismrmrd.WaveformHeader.from_buffer_copy(_read_exactly(read, size, "the header of a waveform"))
    count = head.number_of_samples * head.channels
    if count > limits.numbers:
        raise StreamError(f"stream: a waveform claims {count} numbers, more than {limits.numbers}; it may be damaged")
    _read_exactly(read, 4 * count, "a waveform")


def _text(read: Read, limits: Limits, what: str) -> str:
    (length,) = struct.unpack("<I", _read_exactly(read, 4, f"the length of {what}"))
    if length > limits.text:
        raise StreamError(f"stream: {what} claims {length} bytes, more than {limits.text}; the stream may be damaged")
    return _as_text(_read_exactly(read, length, what))


def _as_text(payload: bytes) -> str:
    """Decode text; usual clients send zeros at its end."""
    try:
        return payload.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise StreamError(f"stream: text that is not UTF-8 ({error.reason}); the stream may be damaged") from error


def _read_exactly(read: Read, count: int, what: str, may_end: bool = False) -> bytes:
    """Read `count` bytes, in pieces, so that memory grows with what comes and not with what was claimed."""
    found = bytearray()
    while len(found) < count:
        piece = read(min(count - len(found), READ_BYTES))
        if not piece:
            if may_end and not found:
                break
            raise StreamError(f"stream: ended within {what}, after {len(found)} of {count} bytes")
        found += piece
    return bytes(found)


BEFORE_LINES = (Number.CONFIG_FILE, Number.CONFIG_TEXT, Number.HEADER, Number.TEXT, Number.WAVEFORM)
HEADS = {  # bytes behind the number from which the size of a message is known
    Number.CONFIG_FILE: 0,
    Number.CONFIG_TEXT: 4,
    Number.HEADER: 4,
    Number.TEXT: 4,
    Number.ACQUISITION: ctypes.sizeof(ismrmrd.AcquisitionHeader),
    Number.IMAGE: ctypes.sizeof(ismrmrd.ImageHeader) + 8,
    Number.WAVEFORM: ctypes.sizeof(ismrmrd.WaveformHeader),
}


def message_size(start: bytes, limits: Limits) -> int | None:
    """Compute how many bytes the message has that begins there, its number included.

    None where `start` is too short to know it; 0 of messages that are over at once: the close message, and those that
    `read_messages` refuses by their numbers and lengths.
    """
    if len(start) < 2:
        return None
    (number,) = struct.unpack_from("<H", start)
    if number not in HEADS:
        return 0
    head = start[2 : 2 + HEADS[number]]
    if len(head) < HEADS[number]:
        return None
    size, numbers, text = 0, 0, 0
    if number == Number.CONFIG_FILE:
        size = CONFIG_NAME_BYTES
    elif number == Number.ACQUISITION:
        line = ismrmrd.AcquisitionHeader.from_buffer_copy(head)
        samples, channels, axes = line.number_of_samples, line.active_channels, line.trajectory_dimensions
        numbers, size = max(channels, axes) * samples, (4 * axes + 8 * channels) * samples
    elif number == Number.IMAGE:
        image = ismrmrd.ImageHeader.from_buffer_copy(head[:-8])
        (text,) = struct.unpack("<Q", head[-8:])
        numbers = image.channels * math.prod(image.matrix_size)
        size = text + numbers * np.dtype(IMAGE_TYPES.get(image.data_type, "u1")).itemsize
    elif number == Number.WAVEFORM:
        curve = ismrmrd.WaveformHeader.from_buffer_copy(head)
        numbers = curve.number_of_samples * curve.channels
        size = 4 * numbers
    else:
        (text,) = struct.unpack("<I", head)
        size = text
    return 0 if numbers > limits.numbers or text > limits.text else 2 + len(head) + size


MAX_ERROR_LETTERS = 500  # letters of an error, which may quote what a client sent


def one_line(error: Exception) -> str:
    """Return an error in one line of printable text."""
    return printable(" ".join(str(error).split()))[:MAX_ERROR_LETTERS]


class ReplyWriter:
    """Writes answers to a stream.

    Parameters
    ----------
    write : takes the bytes of one whole message
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def image(self, image: ismrmrd.Image | ReceivedImage) -> None:
        """Write an image."""
        self._write(struct.pack("<H", Number.IMAGE) + image.to_bytes())

    def text(self, text: str) -> None:
        """Write a text; what is not printed in it, as texts quote what a client sent, is escaped."""
        payload = printable(text).encode()
        self._write(struct.pack("<HI", Number.TEXT, len(payload)) + payload)

    def close(self) -> None:
        """Write that nothing follows."""
        self._write(struct.pack("<H", Number.CLOSE))
