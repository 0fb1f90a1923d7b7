"""A client of MRD servers for tests, and scans for it to send: written from the MRD v1 specification alone.

It shares nothing with the package: a mistake in the server's reading cannot hide behind the same one in here.
Streams are little-endian without padding. Flag n of the specification is bit n - 1.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIG_FILE, CONFIG_TEXT, HEADER, CLOSE, TEXT, ACQUISITION, IMAGE, WAVEFORM = 1, 2, 3, 4, 5, 1008, 1022, 1026

FIRST_IN_SLICE, LAST_IN_SLICE, LAST_IN_MEASUREMENT = 7, 8, 25
NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE = 19, 20, 21, 22
NAVIGATION, PHASE_CORRECTION, HP_FEEDBACK, DUMMY, RT_FEEDBACK = 23, 24, 26, 27, 28

DATA_TYPES: dict[int, np.dtype[Any]] = {
    k + 1: np.dtype(name).newbyteorder("<") for k, name in enumerate(("u2", "i2", "u4", "i4", "f4", "f8", "c8", "c16"))
}
ATTRIBUTES_LIMIT = 1 << 24  # longer attributes or texts from a server are a misread length

Vector = tuple[float, float, float]
Read = Callable[[int], bytes]  # gives at most so many bytes, and none at the end


class _Field(NamedTuple):
    name: str
    code: str  # of struct
    size: int = 1


def _fields(table: str) -> tuple[_Field, ...]:
    return tuple(_Field(name, code[-1], int(code[:-1] or 1)) for name, code in map(str.split, table.split(",")))


_GEOMETRY = "position 3f, read_dir 3f, phase_dir 3f, slice_dir 3f, patient_table_position 3f"
_COUNTERS = _fields(
    "kspace_encode_step_1 H, kspace_encode_step_2 H, average H, slice H, contrast H, phase H, repetition H, set H,"
    "segment H, user 8H"
)
_BEFORE_COUNTERS = _fields(
    "version H, flags Q, measurement_uid I, scan_counter I, acquisition_time_stamp I, physiology_time_stamp 3I,"
    "number_of_samples H, available_channels H, active_channels H, channel_mask 16Q, discard_pre H, discard_post H,"
    f"center_sample H, encoding_space_ref H, trajectory_dimensions H, sample_time_us f, {_GEOMETRY}"
)
_AFTER_COUNTERS = _fields("user_int 8i, user_float 8f")
ACQUISITION_FIELDS = _BEFORE_COUNTERS + _COUNTERS + _AFTER_COUNTERS
IMAGE_FIELDS = _fields(
    "version H, data_type H, flags Q, measurement_uid I, matrix_size 3H, field_of_view 3f, channels H,"
    f"{_GEOMETRY}, average H, slice H, contrast H, phase H, repetition H, set H, acquisition_time_stamp I,"
    "physiology_time_stamp 3I, image_type H, image_index H, image_series_index H, user_int 8i, user_float 8f,"
    "attribute_string_len I"
)


def _layout(fields: Sequence[_Field]) -> struct.Struct:
    return struct.Struct("<" + "".join(f"{field.size}{field.code}" for field in fields))


_ACQUISITION, _IMAGE = _layout(ACQUISITION_FIELDS), _layout(IMAGE_FIELDS)
_WAVEFORM = struct.Struct("<H6xQIIIHHfH2x")  # aligned, other than the two above: 40 bytes
ACQUISITION_SIZE, IMAGE_SIZE, WAVEFORM_SIZE = _ACQUISITION.size, _IMAGE.size, _WAVEFORM.size


def offset_of(name: str, fields: Sequence[_Field] = ACQUISITION_FIELDS) -> int:
    """Find where in its header a field begins, in bytes."""
    return int(_layout(fields[: [field.name for field in fields].index(name)]).size)


def _pack(layout: struct.Struct, fields: Sequence[_Field], values: Mapping[str, Any]) -> bytes:
    given = ([values[field.name]] if field.size == 1 else values[field.name] for field in fields)
    return layout.pack(*chain.from_iterable(given))


def _unpack(layout: struct.Struct, fields: Sequence[_Field], packed: bytes) -> dict[str, Any]:
    numbers, named, at = layout.unpack(packed), {}, 0
    for name, _, count in fields:
        named[name] = numbers[at] if count == 1 else numbers[at : at + count]
        at += count
    return named


def flags(*numbers: int) -> int:
    """Set the flags of these numbers."""
    return sum(1 << (number - 1) for number in set(numbers))


@dataclass(frozen=True, eq=False)
class Line:
    """One acquisition: its header, complex64 data (channels, samples), and float32 trajectory (samples, dimensions).

    Numbers of samples, channels and dimensions follow from the arrays. Lines are equal if all their bytes are.
    """

    data: NDArray[np.complex64]
    trajectory: NDArray[np.float32] | None = None
    version: int = 1
    flags: int = 0
    measurement_uid: int = 0
    scan_counter: int = 0
    acquisition_time_stamp: int = 0
    physiology_time_stamp: tuple[int, ...] = (0,) * 3
    available_channels: int | None = None  # as many as active
    channel_mask: tuple[int, ...] = (0,) * 16
    discard_pre: int = 0
    discard_post: int = 0
    center_sample: int = 0
    encoding_space_ref: int = 0
    sample_time_us: float = 5.0
    position: Vector = (0.0, 0.0, 0.0)
    read_dir: Vector = (1.0, 0.0, 0.0)
    phase_dir: Vector = (0.0, 1.0, 0.0)
    slice_dir: Vector = (0.0, 0.0, 1.0)
    patient_table_position: Vector = (0.0, 0.0, 0.0)
    kspace_encode_step_1: int = 0
    kspace_encode_step_2: int = 0
    average: int = 0
    slice: int = 0
    contrast: int = 0
    phase: int = 0
    repetition: int = 0
    set: int = 0
    segment: int = 0
    user: tuple[int, ...] = (0,) * 8
    user_int: tuple[int, ...] = (0,) * 8
    user_float: tuple[float, ...] = (0.0,) * 8

    @property
    def number_of_samples(self) -> int:
        return int(self.data.shape[1])

    @property
    def active_channels(self) -> int:
        return int(self.data.shape[0])

    @property
    def trajectory_dimensions(self) -> int:
        return 0 if self.trajectory is None else self.trajectory.shape[1]

    def has(self, flag: int) -> bool:
        """Tell whether the flag of this number is set."""
        return bool(self.flags >> (flag - 1) & 1)

    def pack(self, **lies: Any) -> bytes:
        """Write header, trajectory and data, without message id; `lies` replace header fields of these names."""
        values = {field.name: getattr(self, field.name) for field in ACQUISITION_FIELDS}
        if values["available_channels"] is None:
            values["available_channels"] = self.active_channels
        trajectory = b"" if self.trajectory is None else self.trajectory.astype("<f4").tobytes()
        return _pack(_ACQUISITION, ACQUISITION_FIELDS, values | lies) + trajectory + self.data.astype("<c8").tobytes()

    @classmethod
    def unpack(cls, packed: bytes) -> Line:
        """Read header, trajectory and data of one line: the inverse of `pack`."""
        values = _unpack(_ACQUISITION, ACQUISITION_FIELDS, packed[:ACQUISITION_SIZE])
        floats = np.frombuffer(packed[ACQUISITION_SIZE:], "<f4")
        size = values["number_of_samples"] * values["trajectory_dimensions"]
        return cls._of(values, floats[:size], floats[size:])

    @classmethod
    def _of(cls, values: dict[str, Any], trajectory: NDArray[np.float32], data: NDArray[np.float32]) -> Line:
        samples, channels = values.pop("number_of_samples"), values.pop("active_channels")
        dimensions = values.pop("trajectory_dimensions")
        return cls(
            data.view(np.complex64).reshape(channels, samples),
            trajectory.reshape(samples, dimensions) if dimensions else None,
            **values,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Line) and self.pack() == other.pack()

    __hash__ = None  # type: ignore[assignment]


# Messages


def _counted(identifier: int, content: bytes) -> bytes:
    return struct.pack("<HI", identifier, len(content)) + content


def config_file(name: str) -> bytes:
    """Name the configuration."""
    encoded = name.encode()
    assert len(encoded) < 1024, f"{len(encoded)} bytes of name"
    return struct.pack("<H1024s", CONFIG_FILE, encoded)


def config_text(content: str, nul: bool = False) -> bytes:
    """Send the configuration itself, optionally with NUL behind."""
    return _counted(CONFIG_TEXT, content.encode() + b"\0" * nul)


def header(xml: str, nul: bool = True) -> bytes:
    """Send the XML header, with NUL behind as the usual client has it."""
    return _counted(HEADER, xml.encode() + b"\0" * nul)


def text(content: str, nul: bool = False) -> bytes:
    """Send text, optionally with NUL behind."""
    return _counted(TEXT, content.encode() + b"\0" * nul)


def waveform(
    data: ArrayLike,
    *,
    flags: int = 0,
    measurement_uid: int = 0,
    scan_counter: int = 0,
    time_stamp: int = 0,
    sample_time_us: float = 100.0,
    waveform_id: int = 0,
) -> bytes:
    """Send a waveform (channels, samples) of u32 numbers."""
    values = np.atleast_2d(np.asarray(data)).astype("<u4")
    numbers = (1, flags, measurement_uid, scan_counter, time_stamp, values.shape[1], values.shape[0])
    return struct.pack("<H", WAVEFORM) + _WAVEFORM.pack(*numbers, sample_time_us, waveform_id) + values.tobytes()


def acquisition(line: Line, **lies: Any) -> bytes:
    """Send a line; `lies` replace header fields of these names."""
    return struct.pack("<H", ACQUISITION) + line.pack(**lies)


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
    return b"".join(
        [first, header(xml, nul), second, *waveforms, *map(acquisition, lines), close() if closing else b""]
    )


class Message(NamedTuple):
    """Where a message lies in a stream, id included."""

    identifier: int
    start: int
    end: int


def split(payload: bytes) -> list[Message]:
    """Find the messages of a client's stream; one that is unknown or incomplete is an AssertionError."""
    return list(_walk(payload))


def _walk(payload: bytes) -> Iterator[Message]:
    at = 0
    while at < len(payload):
        assert at + 2 <= len(payload), f"half an id at byte {at}"
        (identifier,) = struct.unpack_from("<H", payload, at)
        try:
            size = 2 + _size(identifier, payload, at + 2)
        except struct.error as e:
            raise AssertionError(f"message {identifier} at byte {at} is cut in its header") from e
        assert at + size <= len(payload), f"message {identifier} at byte {at} is cut"
        yield Message(identifier, at, at + size)
        at += size


def _size(identifier: int, payload: bytes, at: int) -> int:
    if identifier in (CONFIG_TEXT, HEADER, TEXT):
        return 4 + int(struct.unpack_from("<I", payload, at)[0])
    if identifier == ACQUISITION:
        names = ("number_of_samples", "active_channels", "trajectory_dimensions")
        samples, channels, dimensions = (struct.unpack_from("<H", payload, at + offset_of(name))[0] for name in names)
        return ACQUISITION_SIZE + int(samples * (4 * dimensions + 8 * channels))
    if identifier == WAVEFORM:
        numbers = _WAVEFORM.unpack_from(payload, at)
        return WAVEFORM_SIZE + 4 * int(numbers[5] * numbers[6])
    assert identifier in (CONFIG_FILE, CLOSE), f"unknown message {identifier} before byte {at}"
    return 1024 if identifier == CONFIG_FILE else 0


# Scans


def write_xml(
    encoded: Sequence[int],
    recon: Sequence[int] | None = None,
    *,
    encoded_fov_mm: Sequence[float] | None = None,
    recon_fov_mm: Sequence[float] | None = None,
    limits: Mapping[str, tuple[int, int, int]] | None = None,
    trajectory: str = "cartesian",
    acceleration: tuple[int, int] | None = None,
    calibration_mode: str | None = None,
    interleaving_dimension: str | None = None,
    user: Mapping[str, int | float | str] | None = None,
    channels: int | None = None,
    field_strength: float | None = 3.0,
    measurement: Mapping[str, str] | None = None,
    encodings: int = 1,
    namespace: bool = True,
) -> str:
    """Write an XML header.

    Matrices and fields of view (mm; as large as the matrix, with pixels of 1 mm, if not given) are (x, y, z).
    `limits` are minimum, maximum and centre of kspace_encoding_step_1, kspace_encoding_step_2, average, slice,
    contrast, phase, repetition, set or segment. `user` becomes userParameterLong, -Double or -String by type.
    `measurement` fills measurementInformation, e.g. protocolName. `encodings` repeats the encoding.
    """
    root = ET.Element("ismrmrdHeader", {"xmlns": "http://www.ismrm.org/ISMRMRD"} if namespace else {})

    def add(parent: ET.Element, name: str, value: object = None) -> ET.Element:
        element = ET.SubElement(parent, name)
        if value is not None:
            element.text = str(value)
        return element

    def space(parent: ET.Element, name: str, matrix: Sequence[int], fov: Sequence[float]) -> None:
        element = add(parent, name)
        for tag, numbers in (("matrixSize", matrix), ("fieldOfView_mm", fov)):
            vector = add(element, tag)
            for axis, number in zip("xyz", numbers):
                add(vector, axis, number)

    if measurement is not None:
        element = add(root, "measurementInformation")
        for name in ("measurementID", "patientPosition", "protocolName", "sequenceName", "seriesDescription"):
            if name in measurement or name == "patientPosition":
                add(element, name, measurement.get(name, "HFS"))
    system = add(root, "acquisitionSystemInformation")
    if field_strength is not None:
        add(system, "systemFieldStrength_T", field_strength)
    if channels is not None:
        add(system, "receiverChannels", channels)
    add(add(root, "experimentalConditions"), "H1resonanceFrequency_Hz", round(42577478 * (field_strength or 3.0)))
    recon = encoded if recon is None else recon
    for _ in range(encodings):
        encoding = add(root, "encoding")
        space(encoding, "encodedSpace", encoded, encoded_fov_mm or encoded)
        space(encoding, "reconSpace", recon, recon_fov_mm or recon)
        bounds = add(encoding, "encodingLimits")
        for name, numbers in (limits or {}).items():
            limit = add(bounds, name)
            for tag, number in zip(("minimum", "maximum", "center"), numbers):
                add(limit, tag, number)
        add(encoding, "trajectory", trajectory)
        if acceleration is not None:
            parallel = add(encoding, "parallelImaging")
            factor = add(parallel, "accelerationFactor")
            add(factor, "kspace_encoding_step_1", acceleration[0])
            add(factor, "kspace_encoding_step_2", acceleration[1])
            if calibration_mode is not None:
                add(parallel, "calibrationMode", calibration_mode)
            if interleaving_dimension is not None:
                add(parallel, "interleavingDimension", interleaving_dimension)
    if user:
        parameters = add(root, "userParameters")
        for kind, of in (("Long", int), ("Double", float), ("String", str)):
            for name, value in user.items():
                if type(value) is of:
                    parameter = add(parameters, f"userParameter{kind}")
                    add(parameter, "name", name)
                    add(parameter, "value", value)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode")


def cartesian_xml(
    shape: Sequence[int],
    oversampling: int = 2,
    *,
    pixel_mm: tuple[float, float] = (1.0, 1.0),
    thickness_mm: float = 5.0,
    repetitions: int = 1,
    averages: int = 1,
    **changes: Any,
) -> str:
    """Write the header that goes with `cartesian_lines` of k-space (..., slices, coils, H, W); see `write_xml`."""
    slices, coils, height, width = shape[-4:]
    counts = {"average": averages, "slice": slices, "repetition": shape[0] if len(shape) == 5 else repetitions}
    limits = {"kspace_encoding_step_1": (0, width - 1, width // 2), "kspace_encoding_step_2": (0, 0, 0)}
    fov = (height * pixel_mm[0], width * pixel_mm[1], thickness_mm)
    settings: dict[str, Any] = {
        "encoded": (height * oversampling, width, 1),
        "recon": (height, width, 1),
        "encoded_fov_mm": (fov[0] * oversampling, *fov[1:]),
        "recon_fov_mm": fov,
        "limits": limits | {name: (0, count - 1, 0) for name, count in counts.items()},
        "channels": coils,
    }
    return write_xml(**(settings | changes))


def _transform(fft: Callable[..., Any], data: NDArray[Any]) -> NDArray[Any]:
    shifted = fft(np.fft.ifftshift(data, axes=-1), axis=-1, norm="ortho")
    return np.asarray(np.fft.fftshift(shifted, axes=-1))


def oversample(lines: NDArray[Any], factor: int = 2) -> NDArray[np.complex64]:
    """Put zeros around the image along the readout, the last axis: k-space with `factor` times as many samples."""
    size = lines.shape[-1]
    before = factor * size // 2 - size // 2
    pads = [(0, 0)] * (lines.ndim - 1) + [(before, (factor - 1) * size - before)]
    image = np.pad(_transform(np.fft.ifft, lines.astype(np.complex128)), pads)
    return _transform(np.fft.fft, image).astype(np.complex64)


def remove_oversampling(lines: NDArray[Any], size: int) -> NDArray[np.complex64]:
    """Crop the image along the readout, the last axis, to `size`: the inverse of `oversample`."""
    before = lines.shape[-1] // 2 - size // 2
    image = _transform(np.fft.ifft, lines.astype(np.complex128))[..., before : before + size]
    return _transform(np.fft.fft, image).astype(np.complex64)


def white(rng: np.random.Generator, *shape: int) -> NDArray[np.complex128]:
    """Draw complex white noise of mean square magnitude 1."""
    pair = rng.standard_normal((2, *shape)) / 2**0.5
    return np.asarray(pair[0] + 1j * pair[1])


class _Event(NamedTuple):
    average: int
    line: int
    flag: int  # CALIBRATION, CALIBRATION_AND_IMAGING or 0


def cartesian_lines(
    kspace: NDArray[np.complex64],
    *,
    mask: ArrayLike | None = None,
    oversampling: int = 2,
    slice_order: Literal["ascending", "odd_even", "by_line"] = "ascending",
    shuffle: bool = False,
    repetitions: int = 1,
    averages: int = 1,
    average_noise: float = 0.0,
    noise_scans: int = 0,
    noise_covariance: ArrayLike = 1.0,
    noise_sample_time_us: float = 5.0,
    margin_noise: bool = False,
    reverse: ArrayLike | None = None,
    nominal_center: bool = False,
    calibration: ArrayLike | None = None,
    calibration_apart: bool = False,
    garbage: Mapping[int, int] | None = None,
    discard: tuple[int, int] = (0, 0),
    missing: int = 0,
    slice_flags: Literal["repetition", "average", "none"] = "repetition",
    last_in_measurement: bool = True,
    positions: ArrayLike | None = None,
    thickness_mm: float = 5.0,
    read_dir: Vector = (1.0, 0.0, 0.0),
    phase_dir: Vector = (0.0, 1.0, 0.0),
    slice_dir: Vector = (0.0, 0.0, 1.0),
    counters: Mapping[str, Any] | None = None,
    first_scan: int = 0,
    seed: int = 0,
) -> list[Line]:
    """Make the lines of a 2D scan of slices.

    Parameters
    ----------
    kspace
        Complex64 (slices, coils, H, W), or (repetitions, slices, coils, H, W), centred: H along the readout, W the
        phase encoding. With the oversampling removed after the readout transform, the lines give it back.
    mask
        What of W is acquired: bool (W,), (slices, W) or (repetitions, slices, W); all if not given.
    slice_order
        One slice after the other, the same with slices 0, 2, ... before 1, 3, ..., or one line of each slice in turn.
    shuffle
        Acquire the lines of each slice in random order.
    repetitions
        How often the scan is repeated, if kspace has no axis for it.
    averages, average_noise
        Every line is acquired so often, with white noise of this standard deviation that cancels in the mean.
    noise_scans, noise_covariance, noise_sample_time_us
        So many noise scans come first; the covariance (coils, coils) of a sample, or one variance, above 0.
    margin_noise
        Fill what oversampling adds around the image with noise of this covariance, as a receiver does, not with zeros.
    reverse
        Lines of W that are read backwards, bool (W,). Their `center_sample` is where k = 0 lies as stored, or
        (`nominal_center`) what it is for forward lines, as converters of vendors' data write it.
    calibration, calibration_apart
        Lines of W that calibrate, bool (W,). Those in the mask have flag 21, the others flag 20 and come among them.
        Apart: all have flag 20 and come before the slice's imaging lines, which have no such flag.
    garbage
        Flag number -> how many lines with it, large numbers in them, come at random places before the last line.
    discard
        Garbage samples before and behind every readout, as `discard_pre` and `discard_post`.
    missing
        Samples missing at the low end of k of every readout (asymmetric echo).
    slice_flags
        FIRST_ and LAST_IN_SLICE at each slice's first and last line of a repetition, of every average of it, or never.
    positions
        Of slices, (slices, 3) mm; if not given, along slice_dir around the isocentre.
    counters
        Further fields of every line, e.g. contrast.
    first_scan
        `scan_counter` of the first line.
    """
    rng = np.random.default_rng(seed)
    volumes = np.broadcast_to(kspace, (repetitions, *kspace.shape)) if kspace.ndim == 4 else kspace
    repetitions, slices, coils, height, width = volumes.shape
    samples = oversampling * height
    taken = np.broadcast_to(True if mask is None else np.asarray(mask, bool), (repetitions, slices, width))
    backwards = np.broadcast_to(False if reverse is None else np.asarray(reverse, bool), width)
    calibrates = np.broadcast_to(False if calibration is None else np.asarray(calibration, bool), width)
    if positions is None:
        positions = np.outer(np.arange(slices) - (slices - 1) / 2, np.multiply(slice_dir, thickness_mm))
    places = np.asarray(positions, float)

    def make(data: NDArray[Any], slice_: int, is_reversed: bool, **values: Any) -> Line:
        center = samples // 2 - missing
        data = data[:, missing:]
        if is_reversed:
            data = data[:, ::-1]
            center = center if nominal_center else samples - 1 - samples // 2
        around = [1e3 * white(rng, coils, count) for count in discard]
        return Line(
            np.concatenate([around[0], data, around[1]], axis=1).astype(np.complex64),
            center_sample=center + discard[0],
            discard_pre=discard[0],
            discard_post=discard[1],
            position=tuple(places[slice_].tolist()),
            slice=slice_,
            read_dir=read_dir,
            phase_dir=phase_dir,
            slice_dir=slice_dir,
            **values,
        )

    made: list[tuple[Line, set[int]]] = []
    variance = np.asarray(noise_covariance)
    root = np.linalg.cholesky(variance if variance.ndim else variance * np.eye(coils))
    for _ in range(noise_scans):
        line = Line((root @ white(rng, coils, samples)).astype(np.complex64), sample_time_us=noise_sample_time_us)
        made.append((line, {NOISE}))

    for repetition in range(repetitions):
        readouts = oversample(np.moveaxis(volumes[repetition], -1, 1), oversampling)  # (slices, W, coils, samples)
        if margin_noise:
            spread = np.einsum("cd,swdx->swcx", root, white(rng, slices, width, coils, samples))
            readouts = readouts + spread - oversample(remove_oversampling(spread, height), oversampling)
        sequences: list[list[_Event]] = []
        noise: dict[tuple[int, int], NDArray[Any]] = {}
        for slice_ in range(slices):
            imaged = taken[repetition, slice_]
            events = [
                _Event(
                    average, line, int(calibrates[line]) * (CALIBRATION_AND_IMAGING if imaged[line] else CALIBRATION)
                )
                for average in range(averages)
                for line in np.flatnonzero(imaged | calibrates).tolist()
            ]
            ahead: list[_Event] = []
            if calibration_apart:
                ahead = [_Event(0, line, CALIBRATION) for line in np.flatnonzero(calibrates).tolist()]
                events = [event._replace(flag=0) for event in events if imaged[event.line]]
            if shuffle:
                events = [events[k] for k in rng.permutation(len(events))]
            sequences.append(ahead + events)
            for row in {event.line for event in events} if averages > 1 and average_noise else ():
                spread = average_noise * white(rng, averages, coils, samples)
                noise[slice_, row] = spread - spread.mean(axis=0)
        ordered = _in_turn(sequences, slice_order)
        edges = _edges(ordered, slice_flags, calibration_apart)
        for k, (slice_, event) in enumerate(ordered):
            data = readouts[slice_, event.line]
            if (slice_, event.line) in noise and not (calibration_apart and event.flag == CALIBRATION):
                data = data + noise[slice_, event.line][event.average]
            marks = {event.flag} | edges.get(k, set()) | ({REVERSE} if backwards[event.line] else set())
            at = {"kspace_encode_step_1": event.line, "average": event.average, "repetition": repetition}
            made.append((make(data, slice_, bool(backwards[event.line]), **(at | dict(counters or {}))), marks))
    for flag, count in (garbage or {}).items():
        for _ in range(count):
            at = {"kspace_encode_step_1": int(rng.integers(width)), "repetition": int(rng.integers(repetitions))}
            line = make(1e3 * white(rng, coils, samples), int(rng.integers(slices)), False, **at)
            made.insert(int(rng.integers(noise_scans, len(made))), (line, {flag}))
    if last_in_measurement:
        made[-1][1].add(LAST_IN_MEASUREMENT)
    return [
        replace(line, flags=flags(*(marks - {0})), scan_counter=first_scan + k, acquisition_time_stamp=4 * k)
        for k, (line, marks) in enumerate(made)
    ]


def _in_turn(sequences: Sequence[Sequence[_Event]], order: str) -> list[tuple[int, _Event]]:
    """Order the events of all slices as (slice, event)."""
    if order == "by_line":
        longest = max(map(len, sequences))
        return [(s, events[k]) for k in range(longest) for s, events in enumerate(sequences) if k < len(events)]
    slices = list(range(len(sequences)))
    if order == "odd_even":
        slices = slices[::2] + slices[1::2]
    return [(s, event) for s in slices for event in sequences[s]]


def _edges(ordered: Sequence[tuple[int, _Event]], each: str, apart: bool) -> dict[int, set[int]]:
    """Flag the first and last event of each slice: index among all -> flags."""
    groups: dict[tuple[int, int], list[int]] = {}
    for k, (slice_, event) in enumerate(ordered):
        if each != "none" and not (apart and event.flag == CALIBRATION):
            groups.setdefault((slice_, event.average if each == "average" else 0), []).append(k)
    edges: dict[int, set[int]] = {}
    for indices in groups.values():
        edges.setdefault(indices[0], set()).add(FIRST_IN_SLICE)
        edges.setdefault(indices[-1], set()).add(LAST_IN_SLICE)
    return edges


# Files


def _file_type() -> np.dtype[Any]:
    def table(fields: Sequence[_Field]) -> list[tuple[Any, ...]]:
        sizes = {"H": "<u2", "I": "<u4", "Q": "<u8", "i": "<i4", "f": "<f4"}
        return [(name, sizes[code]) if count == 1 else (name, sizes[code], (count,)) for name, code, count in fields]

    floats = h5py.vlen_dtype(np.dtype("<f4"))
    head = [*table(_BEFORE_COUNTERS), ("idx", table(_COUNTERS)), *table(_AFTER_COUNTERS)]
    return np.dtype([("head", head), ("traj", floats), ("data", floats)])


def write_mrd(path: str | Path, xml: str, lines: Sequence[Line]) -> None:
    """Write an MRD file in HDF5 with the group `dataset`; a file that is there is replaced."""
    kind = _file_type()
    rows = np.empty(len(lines), kind)
    rows["head"] = np.frombuffer(b"".join(line.pack()[:ACQUISITION_SIZE] for line in lines), kind["head"])
    for k, line in enumerate(lines):
        rows["traj"][k] = np.ravel([] if line.trajectory is None else line.trajectory).astype("<f4")
        rows["data"][k] = line.data.astype("<c8").view("<f4").ravel()
    with h5py.File(path, "w") as file:
        group = file.create_group("dataset")
        group.create_dataset("xml", (1,), h5py.string_dtype("ascii"))[0] = xml.encode()
        group.create_dataset("data", data=rows, maxshape=(None,), chunks=(64,))


def read_mrd(path: str | Path) -> tuple[str, list[Line]]:
    """Read header and lines of an MRD file in HDF5."""
    kind = _file_type()
    with h5py.File(path, "r") as file:
        xml = file["dataset/xml"][0]
        rows = file["dataset/data"].astype(kind)[:]
    heads = np.ascontiguousarray(rows["head"]).tobytes()
    lines = []
    for k, (trajectory, data) in enumerate(zip(rows["traj"], rows["data"])):
        packed = heads[k * ACQUISITION_SIZE : (k + 1) * ACQUISITION_SIZE]
        lines.append(Line._of(_unpack(_ACQUISITION, ACQUISITION_FIELDS, packed), trajectory, data))
    return xml.decode() if isinstance(xml, bytes) else str(xml), lines


# Replies


@dataclass(frozen=True, eq=False)
class Image:
    """One image: its header, the attributes as sent, and data (channels, z, y, x) of the type that data_type names."""

    data: NDArray[Any]
    attributes: str = ""
    version: int = 1
    flags: int = 0
    measurement_uid: int = 0
    field_of_view: Vector = (0.0, 0.0, 0.0)
    position: Vector = (0.0, 0.0, 0.0)
    read_dir: Vector = (0.0, 0.0, 0.0)
    phase_dir: Vector = (0.0, 0.0, 0.0)
    slice_dir: Vector = (0.0, 0.0, 0.0)
    patient_table_position: Vector = (0.0, 0.0, 0.0)
    average: int = 0
    slice: int = 0
    contrast: int = 0
    phase: int = 0
    repetition: int = 0
    set: int = 0
    acquisition_time_stamp: int = 0
    physiology_time_stamp: tuple[int, ...] = (0,) * 3
    image_type: int = 1
    image_index: int = 0
    image_series_index: int = 0
    user_int: tuple[int, ...] = (0,) * 8
    user_float: tuple[float, ...] = (0.0,) * 8

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
        values = {field.name: getattr(self, field.name) for field in IMAGE_FIELDS} | lies
        attributes = self.attributes.encode()
        counted = struct.pack("<Q", len(attributes)) + attributes
        return _pack(_IMAGE, IMAGE_FIELDS, values) + counted + self.data.astype(DATA_TYPES[self.data_type]).tobytes()


def image(picture: Image, **lies: Any) -> bytes:
    """Send an image, as servers do; `lies` replace header fields of these names."""
    return struct.pack("<H", IMAGE) + picture.pack(**lies)


def _exactly(read: Read, size: int, what: str) -> bytes:
    pieces, missing = [], size
    while missing:
        piece = read(min(missing, 1 << 20))
        assert piece, f"the stream ends {missing} bytes before the end of {what}"
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _read_image(read: Read) -> Image:
    values = _unpack(_IMAGE, IMAGE_FIELDS, _exactly(read, IMAGE_SIZE, "an image header"))
    assert values["version"] == 1, f"an image of version {values['version']}"
    data_type, channels, matrix = values.pop("data_type"), values.pop("channels"), values.pop("matrix_size")
    assert data_type in DATA_TYPES, f"an image of data type {data_type}"
    assert channels and all(matrix), f"an image of {channels} channels and matrix {matrix}"
    (length,) = struct.unpack("<Q", _exactly(read, 8, "the length of attributes"))
    assert length <= ATTRIBUTES_LIMIT, f"attributes of {length} bytes"
    counted = values.pop("attribute_string_len")
    assert counted == length, f"the image header counts {counted} bytes of attributes, {length} are sent"
    attributes = _exactly(read, length, "attributes").decode()
    assert "\0" not in attributes, "NUL in attributes"
    shape = (channels, *reversed(matrix))
    content = _exactly(read, int(np.prod(shape)) * DATA_TYPES[data_type].itemsize, "image data")
    picture = Image(np.frombuffer(content, DATA_TYPES[data_type]).reshape(shape), attributes, **values)
    assert picture.meta is not None  # parses
    return picture


def _messages(read: Read) -> Iterator[Image | str | None]:
    """Give images and texts, then None if a close message ended them; other ends come between messages only."""
    while first := read(1):
        (identifier,) = struct.unpack("<H", first + _exactly(read, 1, "a message id"))
        if identifier == CLOSE:
            yield None
            return
        assert identifier in (IMAGE, TEXT), f"message {identifier} from the server"
        if identifier == IMAGE:
            yield _read_image(read)
        else:
            (length,) = struct.unpack("<I", _exactly(read, 4, "the length of a text"))
            assert length <= ATTRIBUTES_LIMIT, f"text of {length} bytes"
            yield _exactly(read, length, "a text").decode()


def parse_replies(source: bytes | Read) -> list[Image | str]:
    """Read all a server sends; all but images and texts, then close, then nothing, is an AssertionError."""
    read = BytesIO(source).read if isinstance(source, bytes) else source
    replies = list(_messages(read))
    assert replies and replies[-1] is None, f"the stream ends after {len(replies)} messages without close"
    assert not read(1), "bytes after close"
    return [reply for reply in replies if reply is not None]


@dataclass(frozen=True, eq=False)
class Replies:
    """What a server sent for a stream, and when (perf_counter, seconds)."""

    messages: list[Image | str]
    image_times: list[float]
    acquisition_times: list[float]  # when the last byte of each was handed over
    started: float  # connected
    sent: float | None  # the last byte, unless sending failed
    finished: float  # the end of the server's stream
    close: bool  # a close message came
    connection_closed: bool  # the server ended its stream, after the close message if one came
    reset: bool  # by resetting the connection
    send_error: str | None
    returncode: int | None = None  # of the command, and what it wrote to stderr
    stderr: str = ""

    @property
    def images(self) -> list[Image]:
        return [message for message in self.messages if isinstance(message, Image)]

    @property
    def texts(self) -> list[str]:
        return [message for message in self.messages if isinstance(message, str)]


class _Sender(threading.Thread):
    """Writes a payload: message by message, or in pieces of `chunk` bytes, with `delay` seconds between."""

    def __init__(
        self,
        write: Callable[[memoryview], Any],
        finish: Callable[[], Any],
        payload: bytes,
        chunk: int | None,
        delay: float,
    ) -> None:
        super().__init__(daemon=True)
        self.write, self.finish, self.payload, self.delay = write, finish, payload, delay
        messages: list[Message] = []
        with suppress(AssertionError):  # of a broken stream, the messages before the fault
            for message in _walk(payload):
                messages.append(message)
        self.ends = [message.end for message in messages if message.identifier == ACQUISITION]
        self.cuts = [m.end for m in messages] if chunk is None else list(range(chunk, len(payload), chunk))
        if payload and (not self.cuts or self.cuts[-1] < len(payload)):
            self.cuts.append(len(payload))
        self.times: list[float] = []
        self.sent: float | None = None
        self.error: str | None = None

    def run(self) -> None:
        start, view = 0, memoryview(self.payload)
        try:
            for cut in self.cuts:
                if start and self.delay:
                    time.sleep(self.delay)
                self.write(view[start:cut])
                start, now = cut, time.perf_counter()
                while len(self.times) < len(self.ends) and self.ends[len(self.times)] <= cut:
                    self.times.append(now)
            self.sent = time.perf_counter()
            self.finish()
        except (OSError, ValueError) as e:  # the server went away, or the receiver gave up
            self.error = f"{type(e).__name__}: {e}"


def reconstruct(
    host: str,
    port: int,
    payload: bytes,
    timeout: float = 60,
    chunk: int | None = None,
    delay: float = 0,
    on_image: Callable[[Image], Any] | None = None,
    *,
    half_close: bool = False,
    linger: float = 10,
) -> Replies:
    """Send a stream to a server and receive what it answers, both at once.

    Parameters
    ----------
    timeout
        Seconds for all of it; a TimeoutError says what had come by then.
    chunk, delay
        Send pieces of so many bytes (messages, if None) with so many seconds between.
    on_image
        Called with each image when it has arrived.
    half_close
        Shut the sending side down after the payload, so that a server need not wait for more of a cut stream.
    linger
        Seconds that a server has to close the connection after its close message.
    """
    deadline = time.perf_counter() + timeout
    reset = False
    with socket.create_connection((host, port), timeout=timeout) as connection:
        started = time.perf_counter()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        receiving = connection.dup()  # its timeout is its own

        def read(size: int) -> bytes:
            nonlocal reset
            receiving.settimeout(max(deadline - time.perf_counter(), 1e-3))
            try:
                return receiving.recv(size)
            except ConnectionError:
                reset = True
                return b""

        def finish() -> None:
            if half_close:
                connection.shutdown(socket.SHUT_WR)

        sender = _Sender(connection.sendall, finish, payload, chunk, delay)
        sender.start()
        got = _Received(on_image)
        try:
            got.receive(read)
            closed = not got.close
            if got.close:
                deadline = min(deadline, time.perf_counter() + linger)
                try:
                    assert not read(1), "bytes after close"
                    closed = True
                except TimeoutError:
                    closed = False
        except TimeoutError as e:
            raise TimeoutError(f"after {timeout:g} s: {got}, {len(sender.times)} lines sent") from e
        finally:
            receiving.close()
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            sender.join(10)
    return Replies(
        got.messages,
        got.times,
        sender.times,
        started,
        sender.sent,
        got.finished,
        got.close,
        closed,
        reset,
        sender.error,
    )


class _Received:
    """What has come so far."""

    def __init__(self, on_image: Callable[[Image], Any] | None) -> None:
        self.messages: list[Image | str] = []
        self.times: list[float] = []
        self.close = False
        self.finished = 0.0
        self.on_image = on_image

    def receive(self, read: Read) -> None:
        for message in _messages(read):
            if message is None:
                self.close = True
                break
            self.messages.append(message)
            if isinstance(message, Image):
                self.times.append(time.perf_counter())
                if self.on_image is not None:
                    self.on_image(message)
        self.finished = time.perf_counter()

    def __str__(self) -> str:
        texts = [message for message in self.messages if isinstance(message, str)]
        return f"{len(self.times)} images, {'a' if self.close else 'no'} close message and the texts {texts} had come"


def reconstruct_pipe(
    command: Sequence[str],
    payload: bytes,
    timeout: float = 60,
    chunk: int | None = None,
    delay: float = 0,
    on_image: Callable[[Image], Any] | None = None,
    *,
    half_close: bool = True,
    env: Mapping[str, str] | None = None,
) -> Replies:
    """Send a stream to a command's stdin and receive what it answers on stdout, as `reconstruct` does.

    Without `half_close`, stdin stays open until the command has ended its output.
    """
    with subprocess.Popen(
        list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=env
    ) as process:
        started = time.perf_counter()
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        stdin, output, complaints = process.stdin, process.stdout.fileno(), process.stderr
        late = threading.Event()
        errors: list[bytes] = []

        def give_up() -> None:
            late.set()
            process.kill()

        def write(rest: memoryview) -> None:
            while rest:
                rest = rest[os.write(stdin.fileno(), rest) :]

        timer = threading.Timer(timeout, give_up)
        listener = threading.Thread(target=lambda: errors.append(complaints.read()), daemon=True)
        sender = _Sender(write, stdin.close if half_close else lambda: None, payload, chunk, delay)
        for thread in (timer, listener, sender):
            thread.start()
        got, ended = _Received(on_image), False
        try:
            got.receive(lambda size: os.read(output, size))
            assert not os.read(output, 1), "bytes after close"
            ended = True
        except AssertionError:
            if not late.is_set():
                raise
        finally:
            if not ended:
                process.kill()
            with suppress(OSError):
                process.stdout.close()
            sender.join(10)
            if not sender.is_alive():
                with suppress(OSError):
                    stdin.close()
            process.wait()
            timer.cancel()
            listener.join(10)
    said = b"".join(errors).decode(errors="replace")
    if late.is_set():
        raise TimeoutError(f"after {timeout:g} s: {got}, {len(sender.times)} lines sent; stderr:\n{said}")
    return Replies(
        got.messages,
        got.times,
        sender.times,
        started,
        sender.sent,
        got.finished,
        got.close,
        True,
        False,
        sender.error,
        process.returncode,
        said,
    )


# Broken streams


KINDS = (
    *("bits", "cut", "repeat", "drop", "swap", "random", "insert"),
    *("identifier", "length", "count", "counter", "floats", "xml"),
)
ODD_VALUES = ("0", "1", "-1", "4294967296", "99999", "65535", "1e400", "nan", "inf", "0x10", "1.5", "word", "", "&lt;")


class Mutator:
    """Breaks a good stream in one place at random; `kinds` are the ways that this stream offers."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.messages = split(payload)
        self.lines = [m.start for m in self.messages if m.identifier == ACQUISITION and m.end - m.start > 350]
        self.counted = [m for m in self.messages if m.identifier in (CONFIG_TEXT, HEADER, TEXT)]
        self.headers = [m for m in self.messages if m.identifier == HEADER]
        needs: dict[str, Sequence[Any]] = {
            "swap": self.messages[1:],
            "length": self.counted,
            "xml": self.headers,
            "count": self.lines,
            "counter": self.lines,
            "floats": self.lines,
        }
        self.kinds = tuple(kind for kind in KINDS if needs.get(kind, (0,)))

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

    def _end(self, start: int) -> int:
        return next(message.end for message in self.messages if message.start == start)

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

    def _of_line(self, rng: np.random.Generator, names: list[str]) -> tuple[int, int]:
        """Choose a u16 field of a line: where it lies, and its value."""
        start = self.lines[rng.integers(len(self.lines))]
        at = start + 2 + offset_of(names[int(rng.integers(len(names)))])
        return at, int(struct.unpack_from("<H", self.payload, at)[0])

    def _count(self, rng: np.random.Generator) -> bytes:
        at, value = self._of_line(rng, ["number_of_samples", "active_channels", "trajectory_dimensions"])
        return self._put(at, struct.pack("<H", rng.choice((0, 1, max(value - 1, 0), value + 1, 32768, 65535))))

    def _counter(self, rng: np.random.Generator) -> bytes:
        """Change fields that leave the framing as it is."""
        names = [field.name for field in _COUNTERS if field.name != "user"]
        names += ["version", "flags", "available_channels", "discard_pre", "discard_post", "center_sample"]
        at, value = self._of_line(rng, [*names, "encoding_space_ref"])
        near = (0, 1, max(value - 1, 0), min(value + 1, 65535), 255, 1024, 32768, 65535, int(rng.integers(65536)))
        return self._put(at, struct.pack("<H", rng.choice(near)))

    def _floats(self, rng: np.random.Generator) -> bytes:
        """Put numbers that are none, or huge, into the data or the geometry of a line."""
        start = self.lines[rng.integers(len(self.lines))]
        end = self._end(start)
        value = struct.pack("<f", rng.choice((np.nan, np.inf, -np.inf, 3e38, 1e-42)))
        if rng.random() < 0.2:
            geometry = start + 2 + offset_of("sample_time_us")
            return self._put(geometry + 4 * int(rng.integers(16)), value)
        at = start + 2 + ACQUISITION_SIZE
        floats = (end - at) // 4
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
            elements = [
                m
                for tag in (b"x", b"maximum", b"matrixSize", b"reconSpace", b"encodingLimits", b"encoding")
                for m in re.finditer(rb"<%s>.*?</%s>" % (tag, tag), xml, re.DOTALL)
            ]
            new = b""
        else:
            elements = list(re.finditer(rb"(?<=>)[^<>]*\w[^<>]*(?=<)", xml))
            odd = (*ODD_VALUES, "9" * 5000, "\N{ARABIC-INDIC DIGIT ONE}")
            new = odd[rng.integers(len(odd))].encode()
        if not elements:
            return self.payload
        old = elements[rng.integers(len(elements))]
        changed = xml[: old.start()] + new + xml[old.end() :]
        return self.payload[: message.start] + _counted(HEADER, changed) + self.payload[message.end :]


def mutations(payload: bytes, rng: np.random.Generator) -> bytes:
    """Break a good stream in one place at random."""
    return Mutator(payload).mutate(rng)
