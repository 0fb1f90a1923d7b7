"""Messages, whole and broken: against the specification's numbers, themselves, and the ismrmrd library."""

from __future__ import annotations

import io
from dataclasses import fields, replace
from itertools import count
from typing import Any

import numpy as np
import pytest

from tests.support import mrd
from tests.support.mrd import Image, Line, Mutator

META = "<ismrmrdMeta><meta><name>a</name><value>1</value></meta><meta><name>a</name><value/></meta></ismrmrdMeta>"


@pytest.fixture(scope="module")
def ismrmrd() -> Any:
    pytest.importorskip("ismrmrd.xsd")
    return pytest.importorskip("ismrmrd")


def odd_line(dimensions: int = 2) -> Line:
    """Make a line whose fields differ from each other, whole numbers close to the largest that have room."""
    rng, numbers = np.random.default_rng(dimensions), count(1)

    def number(kind: np.dtype[Any]) -> Any:
        return next(numbers) / 4 if kind.kind == "f" else int(np.iinfo(kind).max) - next(numbers)

    values: dict[str, Any] = {}
    for name in [field.name for field in fields(Line) if field.name not in ("data", "trajectory", "version")]:
        kind = mrd.ACQUISITION_FIELDS[name]
        values[name] = tuple(number(kind.base) for _ in range(kind.shape[0])) if kind.shape else number(kind)
    trajectory = rng.standard_normal((10, dimensions)).astype(np.float32) if dimensions else None
    return Line(mrd.white(rng, 3, 10).astype(np.complex64), trajectory, **values)


def picture(kind: str = "<f4", attributes: str = "", **fields: Any) -> Image:
    """Make an image of 2 channels, (z, y, x) = (1, 3, 4), in which all numbers differ."""
    values = np.arange(24).reshape(2, 1, 3, 4) * (1.5 if kind[1] in "fc" else 1)
    return Image(values.astype(kind), attributes, **fields)


def assert_same_header(found: Any, want: Any, layout: np.dtype[Any]) -> None:
    """Compare a header of the library with ours, field by field."""
    for name in layout.names or ():
        value = getattr(found.idx if hasattr(found, "idx") and hasattr(found.idx, name) else found, name)
        assert (tuple(value) if layout[name].shape else value) == getattr(want, name), name


def assert_same_line(found: Any, line: Line) -> None:
    """Compare a line of the library with ours."""
    channels = line.available_channels or line.active_channels
    assert_same_header(found.getHead(), replace(line, available_channels=channels), mrd.ACQUISITION_FIELDS)
    np.testing.assert_array_equal(found.data, line.data)
    if line.trajectory is not None:
        np.testing.assert_array_equal(found.traj, line.trajectory)


def test_headers_have_the_sizes_and_offsets_of_the_specification() -> None:
    assert (mrd.ACQUISITION_SIZE, mrd.IMAGE_SIZE, mrd.WAVEFORM_SIZE) == (340, 198, 40)
    offsets = {"flags": 2, "measurement_uid": 10, "physiology_time_stamp": 22, "number_of_samples": 34}
    offsets |= {"active_channels": 38, "channel_mask": 40, "discard_pre": 168, "center_sample": 172}
    offsets |= {"trajectory_dimensions": 176, "sample_time_us": 178, "position": 182, "slice_dir": 218}
    offsets |= {"patient_table_position": 230, "kspace_encode_step_1": 242, "slice": 248, "user_int": 276}
    assert {name: mrd.offset_of(name) for name in offsets} == offsets and mrd.offset_of("user_float") == 308
    assert mrd.offset_of("attribute_string_len", mrd.IMAGE_FIELDS) == 194


@pytest.mark.parametrize("dimensions", [0, 2])
def test_lines_round_trip(dimensions: int) -> None:
    line = replace(odd_line(dimensions), flags=mrd.flags(mrd.REVERSE, 64))
    packed = line.pack()
    assert len(packed) == 340 + 10 * (4 * dimensions + 8 * 3)
    again = Line.unpack(packed)
    assert again == line and again != replace(line, segment=0) and again != "a line"
    assert (again.user_float, again.available_channels) == (line.user_float, line.available_channels)
    np.testing.assert_array_equal(again.data, line.data)
    assert line.has(mrd.REVERSE) and line.has(64) and not line.has(mrd.NOISE)
    lying = line.pack(number_of_samples=65535)
    assert len(lying) == len(packed) and sum(a != b for a, b in zip(lying, packed)) == 2


def test_messages_are_framed() -> None:
    assert mrd.config_file("hybrid") == b"\x01\x00hybrid" + bytes(1018)
    assert mrd.config_text("a: b") == b"\x02\x00\x04\x00\x00\x00a: b"
    assert mrd.header("<a/>") == b"\x03\x00\x05\x00\x00\x00<a/>\0"
    assert mrd.header("<a/>", nul=False) == b"\x03\x00\x04\x00\x00\x00<a/>"
    assert mrd.text("é") == b"\x05\x00\x02\x00\x00\x00\xc3\xa9"
    assert mrd.close() == b"\x04\x00"
    assert mrd.acquisition(odd_line())[:2] == b"\xf0\x03"
    wave = mrd.waveform(np.arange(6).reshape(2, 3), waveform_id=1)
    assert wave[:2] == b"\x02\x04" and len(wave) == 2 + 40 + 24 and wave[30:34] == b"\x03\x00\x02\x00"
    with pytest.raises(AssertionError, match="1024 bytes of name"):
        mrd.config_file("a" * 1024)


def test_streams_split_into_their_messages() -> None:
    lines = [odd_line(k) for k in range(3)]
    payload = mrd.stream("<a/>", lines, parameters={"samples": 4}, waveforms=[mrd.waveform([1, 2])])
    messages = mrd.split(payload)
    assert [message.identifier for message in messages] == [1, 3, 5, 1026, 1008, 1008, 1008, 4]
    assert payload[messages[2].start + 6 : messages[2].end] == b'{"samples": 4}\0'
    assert [Line.unpack(payload[m.start + 2 : m.end]) for m in messages if m.identifier == mrd.ACQUISITION] == lines
    assert mrd.split(mrd.stream("", [], config=mrd.config_text("c"), closing=False)) == [(2, 0, 7), (3, 7, 14)]
    assert mrd.stream("", [], config=None, closing=False) == mrd.header("")
    for end, what in ((-1, "cut"), (-3, "is cut"), (1100, "is cut"), (messages[4].start + 100, "cut in its header")):
        with pytest.raises(AssertionError, match=what):
            mrd.split(payload[:end])
    with pytest.raises(AssertionError, match="unknown message 77"):
        mrd.split(b"\x4d\x00")


@pytest.mark.parametrize("dimensions", [0, 2])
def test_the_library_reads_lines(ismrmrd: Any, dimensions: int) -> None:
    line = replace(odd_line(dimensions), flags=mrd.flags(mrd.REVERSE, mrd.LAST_IN_MEASUREMENT, 64))
    found = ismrmrd.Acquisition.from_bytes(line.pack())
    assert_same_line(found, line)
    assert found.is_flag_set(ismrmrd.ACQ_IS_REVERSE) and found.is_flag_set(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
    assert found.to_bytes() == line.pack()


@pytest.mark.parametrize(
    "names",
    [
        *("FIRST_IN_SLICE FIRST_IN_SLICE", "LAST_IN_SLICE LAST_IN_SLICE", "LAST_IN_MEASUREMENT LAST_IN_MEASUREMENT"),
        *("NOISE IS_NOISE_MEASUREMENT", "CALIBRATION IS_PARALLEL_CALIBRATION", "REVERSE IS_REVERSE"),
        *("CALIBRATION_AND_IMAGING IS_PARALLEL_CALIBRATION_AND_IMAGING", "NAVIGATION IS_NAVIGATION_DATA"),
        *("PHASE_CORRECTION IS_PHASECORR_DATA", "HP_FEEDBACK IS_HPFEEDBACK_DATA", "DUMMY IS_DUMMYSCAN_DATA"),
        "RT_FEEDBACK IS_RTFEEDBACK_DATA",
    ],
)
def test_flags_are_those_of_the_library(ismrmrd: Any, names: str) -> None:
    ours, theirs = names.split()
    assert getattr(mrd, ours) == getattr(ismrmrd, f"ACQ_{theirs}")


def test_the_library_reads_a_stream(ismrmrd: Any) -> None:
    from ismrmrd.serialization import ConfigFile, ProtocolDeserializer

    lines = [odd_line(k) for k in range(3)]
    wave = mrd.waveform(np.arange(6).reshape(2, 3), flags=3, scan_counter=4, time_stamp=5, waveform_id=6)
    xml = mrd.cartesian_xml((2, 3, 8, 12))
    payload = mrd.stream(xml, lines, parameters={"seed": 1}, waveforms=[wave], nul=False)
    config, head, parameters, found_wave, *found = ProtocolDeserializer(io.BytesIO(payload)).deserialize()
    assert isinstance(config, ConfigFile) and config == "hybrid" and parameters == '{"seed": 1}'
    assert head.encoding[0].encodedSpace.matrixSize.x == 16
    assert (found_wave.flags, found_wave.scan_counter, found_wave.time_stamp, found_wave.waveform_id) == (3, 4, 5, 6)
    np.testing.assert_array_equal(found_wave.data, np.arange(6).reshape(2, 3))
    for acquisition, line in zip(found, lines, strict=True):
        assert_same_line(acquisition, line)


@pytest.mark.parametrize("kind", ["uint16", "int16", "uint32", "float32", "float64", "complex64", "complex128"])
def test_images_of_the_library_are_read(ismrmrd: Any, kind: str) -> None:
    values = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(kind) * (1 + 2j if kind[0] == "c" else 1)
    values = values.astype(kind)
    fields = {"image_index": 3, "image_series_index": 4, "image_type": 5, "slice": 6, "repetition": 7, "set": 8}
    sent = ismrmrd.Image.from_array(values, **fields)
    sent.field_of_view, sent.position, sent.read_dir = (1.5, 2.5, 3.5), (4.0, 5.0, 6.0), (0.0, 1.0, 0.0)
    sent.user_int, sent.user_float, sent.measurement_uid = tuple(range(8)), (0.5,) * 8, 2**32 - 1
    sent.meta = ismrmrd.Meta({"DataRole": ["Image", "AVE"], "RescaleSlope": 0.5, "Note": "é < & ö", "Keep": 1})
    found, text = mrd.parse_replies(b"\xfe\x03" + sent.to_bytes() + mrd.text("done") + mrd.close())
    assert text == "done" and isinstance(found, Image)
    assert found.data.dtype == np.dtype(kind) and found.matrix_size == (5, 4, 3) and found.channels == 2
    np.testing.assert_array_equal(found.data, values)
    assert_same_header(sent.getHead(), found, mrd.IMAGE_FIELDS)
    assert found.meta == {"DataRole": ["Image", "AVE"], "RescaleSlope": "0.5", "Note": "é < & ö", "Keep": "1"}
    assert mrd.image(found) == b"\xfe\x03" + sent.to_bytes()


@pytest.mark.parametrize("data_type", range(1, 9))
def test_images_round_trip(data_type: int) -> None:
    kind = mrd.DATA_TYPES[data_type]
    sent = picture(kind.str, META, slice=2, user_float=(0.5,) * 8)
    (found,) = mrd.parse_replies(mrd.image(sent) + mrd.close())
    assert isinstance(found, Image) and found.data.dtype == kind and found.data_type == data_type
    np.testing.assert_array_equal(found.data, sent.data)
    assert (found.slice, found.matrix_size, found.channels, found.meta) == (2, (4, 3, 1), 2, {"a": ["1", ""]})
    assert len(sent.pack()) == 198 + 8 + len(META) + 24 * kind.itemsize


GOOD = mrd.image(picture(attributes="<ismrmrdMeta/>")) + mrd.text("t")


@pytest.mark.parametrize(
    ("payload", "what"),
    [
        (b"", "after 0 messages without close"),
        (GOOD, "after 2 messages without close"),
        (GOOD + mrd.close() + b"\0", "bytes after close"),
        (GOOD + mrd.close() + mrd.close(), "bytes after close"),
        (GOOD + b"\x04", "1 bytes before the end of a message id"),
        (GOOD[:100], "before the end of an image header"),
        (GOOD[:202], "before the end of the length of attributes"),
        (GOOD[:220], "before the end of attributes"),
        (GOOD[:230], "before the end of image data"),
        (GOOD[:-1], "before the end of a text"),
        (mrd.header("<a/>") + mrd.close(), "message 3 from the server"),
        (mrd.acquisition(odd_line()) + mrd.close(), "message 1008 from the server"),
        (mrd.image(picture(), data_type=0), "data type 0"),
        (mrd.image(picture(), data_type=9), "data type 9"),
        (mrd.image(picture(), version=0), "version 0"),
        (mrd.image(picture(), channels=0), "0 channels"),
        (mrd.image(picture(), matrix_size=(4, 0, 1)), "matrix"),
        (mrd.image(picture(), attribute_string_len=1), "counts 1 bytes of attributes, 0 are sent"),
        (mrd.image(picture(attributes="<ismrmrdMeta/>\0")), "NUL in attributes"),
        (mrd.image(picture(attributes="<meta/>")), "attributes in meta"),
        (mrd.image(picture(attributes="<ismrmrdMeta><meta><value/></meta></ismrmrdMeta>")), "without name"),
        (mrd.image(picture())[:200] + b"\xff" * 8, "attributes of 18446744073709551615 bytes"),
        (mrd.text("")[:2] + b"\xff" * 4, "a text of 4294967295 bytes"),
    ],
)
def test_wrong_replies_are_named(payload: bytes, what: str) -> None:
    with pytest.raises(AssertionError, match=what):
        mrd.parse_replies(payload)


@pytest.fixture(scope="module")
def mutator() -> Mutator:
    kspace = mrd.white(np.random.default_rng(0), 2, 3, 4, 6).astype(np.complex64)
    lines = mrd.cartesian_lines(kspace)
    return Mutator(mrd.stream(mrd.cartesian_xml(kspace.shape), lines, parameters={"samples": 2}))


def test_mutations_are_drawn_by_seed_and_of_all_kinds(mutator: Mutator) -> None:
    assert mutator.kinds == mrd.KINDS
    drawn, again = ([mutator.draw(np.random.default_rng(seed)) for seed in range(300)] for _ in range(2))
    assert drawn == again and {kind for kind, _ in drawn} == set(mrd.KINDS)
    assert all(broken != mutator.payload for _, broken in drawn) and len({broken for _, broken in drawn}) > 280
    assert mrd.mutations(mutator.payload, np.random.default_rng(5)) == drawn[5][1]
    few = Mutator(mrd.close())
    assert "xml" not in few.kinds and "count" not in few.kinds
    assert all(few.mutate(np.random.default_rng(seed)) != few.payload for seed in range(50))


@pytest.mark.parametrize("kind", mrd.KINDS)
def test_mutations_do_what_their_kind_says(mutator: Mutator, kind: str) -> None:
    whole, old = 0, mutator.payload
    for seed in range(60):
        broken = mutator.mutate(np.random.default_rng(seed), kind)
        assert kind != "cut" or old.startswith(broken)
        if kind not in ("cut", "xml"):
            assert np.sign(len(broken) - len(old)) == {"repeat": 1, "insert": 1, "drop": -1}.get(kind, 0)
        try:
            messages = mrd.split(broken)
        except AssertionError:
            continue
        whole += len(messages) == len(mutator.messages)
        if kind == "xml":
            assert [m.identifier for m in messages] == [m.identifier for m in mutator.messages]
        if kind == "floats":
            assert sum(broken[m.start : m.end] != old[m.start : m.end] for m in mutator.lines) == 1
    if kind in ("counter", "floats", "swap", "xml"):
        assert whole == 60
    if kind in ("count", "length"):
        assert whole < 30


def test_xml_mutations_reach_the_matrix(mutator: Mutator) -> None:
    matrix = {b"<x>0</x>", b"<x>-1</x>", b"<x>4294967296</x>", b"<x>99999</x>", b"<y>0</y>", b"<y>99999</y>"}
    drawn = [mutator.mutate(np.random.default_rng(seed), "xml") for seed in range(600)]
    assert all(any(piece in broken for broken in drawn) for piece in matrix)
