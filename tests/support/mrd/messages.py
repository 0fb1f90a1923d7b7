"""Messages of MRD streams for tests, written from the MRD v1 specification alone.

They share nothing with the package: a mistake in a server's reading cannot hide behind the same one in here.
Streams are little-endian without padding. Flag n of the specification is bit n - 1.
"""

from __future__ import annotations

import json
import struct
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIG_FILE, CONFIG_TEXT, HEADER, CLOSE, TEXT, ACQUISITION, IMAGE, WAVEFORM = 1, 2, 3, 4, 5, 1008, 1022, 1026

FIRST_IN_SLICE, LAST_IN_SLICE, LAST_IN_MEASUREMENT = 7, 8, 25
NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE = 19, 20, 21, 22
NAVIGATION, PHASE_CORRECTION, HP_FEEDBACK, DUMMY, RT_FEEDBACK = 23, 24, 26, 27, 28

DATA_TYPES = dict(enumerate(map(np.dtype[Any], ("<u2", "<i2", "<u4", "<i4", "<f4", "<f8", "<c8", "<c16")), 1))
TEXT_LIMIT = 1 << 24  # longer attributes or texts from a server are a misread length

Vector = tuple[float, float, float]
Read = Callable[[int], bytes]  # gives at most so many bytes, and none at the end


def _fields(table: str) -> np.dtype[Any]:
    return np.dtype([(name, f"<{kind}") for name, kind in map(str.split, table.split(","))])


_GEOMETRY = "position 3f4, read_dir 3f4, phase_dir 3f4, slice_dir 3f4, patient_table_position 3f4"
ACQUISITION_FIELDS = _fields(
    "version u2, flags u8, measurement_uid u4, scan_counter u4, acquisition_time_stamp u4, physiology_time_stamp 3u4,"
    "number_of_samples u2, available_channels u2, active_channels u2, channel_mask 16u8, discard_pre u2,"
    "discard_post u2, center_sample u2, encoding_space_ref u2, trajectory_dimensions u2, sample_time_us f4,"
    f"{_GEOMETRY}, kspace_encode_step_1 u2, kspace_encode_step_2 u2, average u2, slice u2, contrast u2, phase u2,"
    "repetition u2, set u2, segment u2, user 8u2, user_int 8i4, user_float 8f4"
)
IMAGE_FIELDS = _fields(
    "version u2, data_type u2, flags u8, measurement_uid u4, matrix_size 3u2, field_of_view 3f4, channels u2,"
    f"{_GEOMETRY}, average u2, slice u2, contrast u2, phase u2, repetition u2, set u2, acquisition_time_stamp u4,"
    "physiology_time_stamp 3u4, image_type u2, image_index u2, image_series_index u2, user_int 8i4, user_float 8f4,"
    "attribute_string_len u4"
)
COUNTS = ("number_of_samples", "active_channels", "trajectory_dimensions")  # they give the length of a line
_WAVEFORM = struct.Struct("<H6xQIIIHHfH2x")  # aligned, other than the two above
ACQUISITION_SIZE, IMAGE_SIZE, WAVEFORM_SIZE = ACQUISITION_FIELDS.itemsize, IMAGE_FIELDS.itemsize, _WAVEFORM.size


def offset_of(name: str, fields: np.dtype[Any] = ACQUISITION_FIELDS) -> int:
    """Find where in its header a field begins, in bytes."""
    return dict(fields.fields or {})[name][1]


def _unpack(fields: np.dtype[Any], packed: bytes) -> dict[str, Any]:
    row = np.frombuffer(packed, fields, 1)[0]
    values = {name: row[name].tolist() for name in fields.names or ()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def flags(*numbers: int) -> int:
    """Set the flags of these numbers."""
    return sum(1 << (number - 1) for number in set(numbers))


@dataclass(frozen=True, eq=False, kw_only=True)
class _Header:
    """What the headers of lines and images have in common."""

    version: int = 1
    flags: int = 0
    measurement_uid: int = 0
    acquisition_time_stamp: int = 0
    physiology_time_stamp: tuple[int, ...] = (0,) * 3
    position: Vector = (0.0, 0.0, 0.0)
    read_dir: Vector = (1.0, 0.0, 0.0)
    phase_dir: Vector = (0.0, 1.0, 0.0)
    slice_dir: Vector = (0.0, 0.0, 1.0)
    patient_table_position: Vector = (0.0, 0.0, 0.0)
    average: int = 0
    slice: int = 0
    contrast: int = 0
    phase: int = 0
    repetition: int = 0
    set: int = 0
    user_int: tuple[int, ...] = (0,) * 8
    user_float: tuple[float, ...] = (0.0,) * 8

    def has(self, flag: int) -> bool:
        """Tell whether the flag of this number is set."""
        return bool(self.flags >> (flag - 1) & 1)

    def _pack(self, fields: np.dtype[Any], lies: Mapping[str, Any]) -> bytes:
        row = np.zeros((), fields)
        for name in fields.names or ():
            row[name] = lies[name] if name in lies else getattr(self, name)
        return row.tobytes()


@dataclass(frozen=True, eq=False)
class Line(_Header):
    """One acquisition: its header, complex64 data (channels, samples), and float32 trajectory (samples, dimensions).

    Numbers of samples, channels and dimensions follow from the arrays. Lines are equal if all their bytes are.
    """

    data: NDArray[np.complex64]
    trajectory: NDArray[np.float32] | None = None
    scan_counter: int = 0
    available_channels: int | None = None  # as many as active
    channel_mask: tuple[int, ...] = (0,) * 16
    discard_pre: int = 0
    discard_post: int = 0
    center_sample: int = 0
    encoding_space_ref: int = 0
    sample_time_us: float = 5.0
    kspace_encode_step_1: int = 0
    kspace_encode_step_2: int = 0
    segment: int = 0
    user: tuple[int, ...] = (0,) * 8

    @property
    def number_of_samples(self) -> int:
        return int(self.data.shape[1])

    @property
    def active_channels(self) -> int:
        return int(self.data.shape[0])

    @property
    def trajectory_dimensions(self) -> int:
        return 0 if self.trajectory is None else self.trajectory.shape[1]

    def pack(self, **lies: Any) -> bytes:
        """Write header, trajectory and data, without message id; `lies` replace header fields of these names."""
        if self.available_channels is None:
            lies.setdefault("available_channels", self.active_channels)
        trajectory = b"" if self.trajectory is None else self.trajectory.astype("<f4").tobytes()
        return self._pack(ACQUISITION_FIELDS, lies) + trajectory + self.data.astype("<c8").tobytes()

    @classmethod
    def unpack(cls, packed: bytes) -> Line:
        """Read header, trajectory and data of one line: the inverse of `pack`."""
        values, floats = _unpack(ACQUISITION_FIELDS, packed), np.frombuffer(packed[ACQUISITION_SIZE:], "<f4")
        samples, channels, dimensions = map(values.pop, COUNTS)
        trajectory, data = np.split(floats, [samples * dimensions])
        return cls(
            data.view(np.complex64).reshape(channels, samples),
            trajectory.reshape(samples, dimensions) if dimensions else None,
            **values,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Line) and self.pack() == other.pack()


@dataclass(frozen=True, eq=False)
class Image(_Header):
    """One image: its header, the attributes as sent, and data (channels, z, y, x) of the type that data_type names."""

    data: NDArray[Any]
    attributes: str = ""
    field_of_view: Vector = (0.0, 0.0, 0.0)
    image_type: int = 1
    image_index: int = 0
    image_series_index: int = 0

    @property
    def data_type(self) -> int:
        return next(k for k, kind in DATA_TYPES.items() if kind == self.data.dtype)

    @property
    def channels(self) -> int:
        return int(self.data.shape[0])

    @property
    def matrix_size(self) -> tuple[int, int, int]:
        """Give x, y, z."""
        return self.data.shape[3], self.data.shape[2], self.data.shape[1]

    @property
    def attribute_string_len(self) -> int:
        return len(self.attributes.encode())

    @property
    def meta(self) -> dict[str, str | list[str]]:
        """Parse the attributes: the value of each name, or the list of them where there are several."""
        named: dict[str, list[str]] = {}
        if self.attributes:
            root = ET.fromstring(self.attributes)
            assert root.tag == "ismrmrdMeta", f"attributes in {root.tag}"
            for element in root:
                name = element.findtext("name")
                assert element.tag == "meta" and name, f"{element.tag} in attributes, or one without name"
                named.setdefault(name, []).extend(value.text or "" for value in element.findall("value"))
        return {name: values[0] if len(values) == 1 else values for name, values in named.items()}

    def pack(self, **lies: Any) -> bytes:
        """Write header, attributes and data, without message id; `lies` replace header fields of these names."""
        attributes = struct.pack("<Q", self.attribute_string_len) + self.attributes.encode()
        return self._pack(IMAGE_FIELDS, lies) + attributes + self.data.astype(DATA_TYPES[self.data_type]).tobytes()


def _counted(identifier: int, content: str, nul: bool) -> bytes:
    encoded = content.encode() + b"\0" * nul
    return struct.pack("<HI", identifier, len(encoded)) + encoded


def config_file(name: str) -> bytes:
    """Name the configuration."""
    assert len(name.encode()) < 1024, f"{len(name.encode())} bytes of name"
    return struct.pack("<H1024s", CONFIG_FILE, name.encode())


def config_text(content: str, nul: bool = False) -> bytes:
    """Send the configuration itself, optionally with NUL behind."""
    return _counted(CONFIG_TEXT, content, nul)


def header(xml: str, nul: bool = True) -> bytes:
    """Send the XML header, with NUL behind as the usual client has it."""
    return _counted(HEADER, xml, nul)


def text(content: str, nul: bool = False) -> bytes:
    """Send text, optionally with NUL behind."""
    return _counted(TEXT, content, nul)


def waveform(
    data: ArrayLike, *, flags: int = 0, scan_counter: int = 0, time_stamp: int = 0, waveform_id: int = 0
) -> bytes:
    """Send a waveform (channels, samples) of u32 numbers, 100 us each."""
    values = np.atleast_2d(np.asarray(data)).astype("<u4")
    numbers = (1, flags, 0, scan_counter, time_stamp, values.shape[1], values.shape[0], 100.0, waveform_id)
    return struct.pack("<H", WAVEFORM) + _WAVEFORM.pack(*numbers) + values.tobytes()


def acquisition(line: Line, **lies: Any) -> bytes:
    """Send a line; `lies` replace header fields of these names."""
    return struct.pack("<H", ACQUISITION) + line.pack(**lies)


def image(picture: Image, **lies: Any) -> bytes:
    """Send an image, as servers do; `lies` replace header fields of these names."""
    return struct.pack("<H", IMAGE) + picture.pack(**lies)


def close() -> bytes:
    """End the stream."""
    return struct.pack("<H", CLOSE)


def stream(
    xml: str,
    lines: Iterable[Line],
    config: str | bytes | None = "hybrid",
    parameters: Mapping[str, Any] | None = None,
    closing: bool = True,
    nul: bool = True,
    waveforms: Iterable[bytes] = (),
) -> bytes:
    """Write all a client sends: configuration (a name or a message), header, parameters as JSON, waveforms, lines."""
    first = b"" if config is None else config if isinstance(config, bytes) else config_file(config)
    second = b"" if parameters is None else text(json.dumps(parameters), nul)
    last = close() if closing else b""
    return b"".join([first, header(xml, nul), second, *waveforms, *map(acquisition, lines), last])


class Message(NamedTuple):
    """Where a message lies in a stream, id included."""

    identifier: int
    start: int
    end: int


def split(payload: bytes) -> list[Message]:
    """Find the messages of a client's stream; one that is unknown or incomplete is an AssertionError."""
    found, at = [], 0
    while at < len(payload):
        try:
            (identifier,) = struct.unpack_from("<H", payload, at)
            end = at + 2 + _size(identifier, payload, at + 2)
        except struct.error as e:
            raise AssertionError(f"message at byte {at} is cut in its header") from e
        assert end <= len(payload), f"message {identifier} at byte {at} is cut"
        found.append(Message(identifier, at, end))
        at = end
    return found


def _size(identifier: int, payload: bytes, at: int) -> int:
    if identifier in (CONFIG_TEXT, HEADER, TEXT):
        return 4 + int(struct.unpack_from("<I", payload, at)[0])
    if identifier == ACQUISITION:
        samples, channels, dimensions = (struct.unpack_from("<H", payload, at + offset_of(name))[0] for name in COUNTS)
        return ACQUISITION_SIZE + int(samples * (4 * dimensions + 8 * channels))
    if identifier == WAVEFORM:
        samples, channels = _WAVEFORM.unpack_from(payload, at)[5:7]
        return WAVEFORM_SIZE + 4 * int(samples * channels)
    assert identifier in (CONFIG_FILE, CLOSE), f"unknown message {identifier} before byte {at}"
    return 1024 if identifier == CONFIG_FILE else 0


def _read_exactly(read: Read, size: int, what: str) -> bytes:
    pieces, missing = [], size
    while missing:
        piece = read(min(missing, 1 << 20))
        assert piece, f"the stream ends {missing} bytes before the end of {what}"
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _read_counted(read: Read, length: struct.Struct, what: str) -> str:
    (size,) = length.unpack(_read_exactly(read, length.size, f"the length of {what}"))
    assert size <= TEXT_LIMIT, f"{what} of {size} bytes"
    return _read_exactly(read, size, what).decode()


def _read_image(read: Read) -> Image:
    values = _unpack(IMAGE_FIELDS, _read_exactly(read, IMAGE_SIZE, "an image header"))
    assert values["version"] == 1, f"an image of version {values['version']}"
    data_type, channels, matrix = values.pop("data_type"), values.pop("channels"), values.pop("matrix_size")
    assert data_type in DATA_TYPES, f"an image of data type {data_type}"
    assert channels and all(matrix), f"an image of {channels} channels and matrix {matrix}"
    attributes = _read_counted(read, struct.Struct("<Q"), "attributes")
    counted, sent = values.pop("attribute_string_len"), len(attributes.encode())
    assert counted == sent, f"the image header counts {counted} bytes of attributes, {sent} are sent"
    assert "\0" not in attributes, "NUL in attributes"
    shape = (channels, *reversed(matrix))
    content = _read_exactly(read, int(np.prod(shape)) * DATA_TYPES[data_type].itemsize, "image data")
    picture = Image(np.frombuffer(content, DATA_TYPES[data_type]).reshape(shape), attributes, **values)
    assert picture.meta is not None  # parses
    return picture


def read_replies(read: Read) -> Iterator[Image | str | None]:
    """Read images and texts, then None if a close message ended them; other ends come between messages only."""
    while first := read(1):
        (identifier,) = struct.unpack("<H", first + _read_exactly(read, 1, "a message id"))
        if identifier == CLOSE:
            yield None
            return
        assert identifier in (IMAGE, TEXT), f"message {identifier} from the server"
        yield _read_image(read) if identifier == IMAGE else _read_counted(read, struct.Struct("<I"), "a text")


def parse_replies(source: bytes | Read) -> list[Image | str]:
    """Read all a server sends; all but images and texts, then close, then nothing, is an AssertionError."""
    read = BytesIO(source).read if isinstance(source, bytes) else source
    replies = list(read_replies(read))
    assert replies and replies[-1] is None, f"the stream ends after {len(replies)} messages without close"
    assert not read(1), "bytes after close"
    return [reply for reply in replies if reply is not None]
