"""Messages of scanners, built from the specification with struct alone, and the ways in which streams can be wrong."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from tests.support.files import complex_normal

pytest.importorskip("ismrmrd")

import ismrmrd

from mrihvae.io.mrd.messages import (
    Config,
    Header,
    Limits,
    Note,
    ReceivedImage,
    ReplyWriter,
    StreamError,
    message_size,
    read_messages,
)
from tests.support import mrd

CLOSE = struct.pack("<H", 4)
XML = "<ismrmrdHeader>é</ismrmrdHeader>"


def text(number: int, payload: bytes) -> bytes:
    return struct.pack("<HI", number, len(payload)) + payload


def acquisition_header(samples: int, channels: int, axes: int = 0, flags: int = 0, line: int = 0) -> bytes:
    """Pack the header of 340 bytes, without padding."""
    return b"".join(
        [
            struct.pack("<HQIII3I", 1, flags, 7, 8, 9, 1, 2, 3),
            struct.pack("<HHH16Q", samples, channels, channels, *range(16)),
            struct.pack("<HHHHH", 0, 0, samples // 2, 0, axes),
            struct.pack("<f3f3f3f3f3f", 5.0, 1, 2, 3, 1, 0, 0, 0, 1, 0, 0, 0, 1, 4, 5, 6),
            struct.pack("<9H8H", line, 0, 0, 2, 0, 0, 1, 0, 0, *range(8)),
            struct.pack("<8i8f", *range(8), *range(8)),
        ]
    )


def acquisition(data: np.ndarray, flags: int = 0, line: int = 0, axes: int = 0) -> bytes:
    channels, samples = data.shape
    trajectory = np.arange(samples * axes, dtype="<f4").tobytes()
    head = acquisition_header(samples, channels, axes, flags, line)
    return struct.pack("<H", 1008) + head + trajectory + data.astype("<c8").tobytes()


def waveform(samples: int = 5, channels: int = 2) -> bytes:
    head = struct.pack("<HxxxxxxQIIIHHfHxx", 1, 0, 7, 8, 9, samples, channels, 1.0, 3)
    return struct.pack("<H", 1026) + head + bytes(4 * samples * channels)


def messages(stream: bytes, limits: Limits | None = None) -> list:
    return list(read_messages(io.BytesIO(stream).read, limits))


def slowly(stream: bytes) -> Callable[[int], bytes]:
    """Give a byte or three at a time, as sockets may."""
    buffer = io.BytesIO(stream)
    return lambda count: buffer.read(min(count, 1 + buffer.tell() % 3))


DATA = complex_normal((3, 8))
GOOD = (
    struct.pack("<H", 1)
    + b"hybrid".ljust(1024, b"\0")
    + text(2, b"<configuration/>\0")
    + text(3, XML.encode() + b"\0")
    + text(5, b'{"parameters": {}}')
    + waveform()
    + acquisition(DATA, flags=1 << 18, line=5, axes=2)
    + acquisition(2 * DATA)
    + CLOSE
)


@pytest.mark.parametrize("end", [b"", CLOSE, b"whatever comes after the close"])
def test_messages(end: bytes) -> None:
    config, configuration, header, note, first, second = messages(GOOD + end)
    assert config == Config("hybrid", True) and configuration == Config("<configuration/>", False)
    assert header == Header(XML) and note == Note('{"parameters": {}}')  # the usual zero at the end is gone
    assert np.array_equal(first.data, DATA) and np.array_equal(second.data, 2 * DATA)
    assert first.isFlagSet(ismrmrd.ACQ_IS_NOISE_MEASUREMENT) and not second.isFlagSet(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    assert first.traj.tolist() == np.arange(16).reshape(8, 2).tolist() and second.traj.shape == (8, 0)
    assert (first.idx.kspace_encode_step_1, first.idx.slice, first.idx.repetition) == (5, 2, 1)
    assert list(first.position) == [1, 2, 3] and list(first.phase_dir) == [0, 1, 0] and first.center_sample == 4


def test_stream_that_comes_slowly() -> None:
    fast, slow = messages(GOOD), list(read_messages(slowly(GOOD)))
    assert slow[:4] == fast[:4]
    assert all(np.array_equal(one.data, other.data) for one, other in zip(slow[4:], fast[4:], strict=True))


IMAGE = mrd.image(mrd.Image(np.zeros((2, 3, 4, 5), np.int16), "<ismrmrdMeta/>"))


def test_size_of_a_message_is_known_from_its_start() -> None:
    buffer, limits, sizes = io.BytesIO(GOOD.removesuffix(CLOSE) + IMAGE), Limits(), []
    read = read_messages(buffer.read, limits, lambda: sizes.append(buffer.tell()))
    assert len(list(read)) == 7
    whole = buffer.getvalue()
    for start, end in pairwise(sizes):
        known = [message_size(whole[start : start + count], limits) for count in range(end - start + 1)]
        assert set(known) == {None, end - start} and known == sorted(known, key=lambda size: size is not None)
        assert message_size(whole[start:], limits) == end - start


@pytest.mark.parametrize(
    "start",
    [
        CLOSE,
        struct.pack("<H", 1007),
        struct.pack("<HI", 3, 2**24 + 1),
        struct.pack("<H", 1008) + acquisition_header(65535, 65535),
        waveform()[: 2 + 28] + struct.pack("<HHfHxx", 65535, 65535, 1.0, 0),
        mrd.image(mrd.Image(np.zeros((1, 1, 2, 2), np.int16)), channels=65535, matrix_size=(65535,) * 3),
    ],
)
def test_messages_that_are_over_at_once(start: bytes) -> None:
    assert message_size(start, Limits()) == 0


def test_texts_of_answers_are_printable() -> None:
    written: list[bytes] = []
    ReplyWriter(written.append).text("a\x1b[31m\u202e\n\ud800é")
    assert written == [text(5, "a\\x1b[31m\\u202e\\x0a\\ud800é".encode())]


def test_stream_may_end_between_messages() -> None:
    """As measurements do whose client closes the connection alone."""
    assert len(messages(GOOD.removesuffix(CLOSE))) == 6
    assert messages(b"") == messages(CLOSE) == []


def test_messages_are_given_as_they_come() -> None:
    """What is wrong later does not keep back what was right."""
    reader = read_messages(io.BytesIO(text(3, XML.encode()) + b"\1").read)
    assert next(reader) == Header(XML)
    with pytest.raises(StreamError, match="ended within the number of a message, after 1 of 2 bytes"):
        next(reader)


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (struct.pack("<H", 1) + b"short", "ended within the name of a configuration, after 5 of 1024 bytes"),
        (struct.pack("<HB", 3, 9), "ended within the length of the header, after 1 of 4 bytes"),
        (struct.pack("<HI", 3, 100) + b"<", "ended within the header, after 1 of 100 bytes"),
        (struct.pack("<HI", 5, 2**32 - 1), "a text claims 4294967295 bytes, more than 16777216"),
        (text(2, b"\xff\xfe"), "text that is not UTF-8"),
        (struct.pack("<H", 1022) + bytes(198), "an image has data type 0"),
        (struct.pack("<H", 77), "message 77 is not expected here"),
        (struct.pack("<H", 1008) + bytes(20), "ended within the header of an acquisition, after 20 of 340 bytes"),
        (struct.pack("<H", 1008) + acquisition_header(0, 4), "an acquisition has 0 samples of 4 channels"),
        (struct.pack("<H", 1008) + acquisition_header(8, 0), "an acquisition has 8 samples of 0 channels"),
        (struct.pack("<H", 1008) + acquisition_header(65535, 65535), "claims 65535 samples of 65535 channels"),
        (struct.pack("<H", 1008) + acquisition_header(65535, 1, 65535), "and 65535 axes, more than 16777216 numbers"),
        (acquisition(DATA)[:-1], "ended within the data of an acquisition, after 191 of 192 bytes"),
        (acquisition(DATA, axes=2)[:400], "ended within the trajectory of an acquisition"),
        (waveform()[:-1], "ended within a waveform, after 39 of 40 bytes"),
    ],
)
def test_wrong_streams_are_refused(stream: bytes, said: str) -> None:
    with pytest.raises(StreamError) as error:
        messages(stream)
    assert said in str(error.value)


def test_limits() -> None:
    assert len(messages(GOOD, Limits(text=64, numbers=24))) == 6
    with pytest.raises(StreamError, match="claims 8 samples of 3 channels and 2 axes, more than 23 numbers"):
        messages(GOOD, Limits(numbers=23))
    with pytest.raises(StreamError, match="the header claims 34 bytes, more than 30"):
        messages(GOOD, Limits(text=30))


def test_memory_grows_with_what_comes_not_with_what_is_claimed() -> None:
    claimed = struct.pack("<H", 1008) + acquisition_header(60000, 270) + bytes(1000)  # 130 MB
    tracemalloc.start()
    with pytest.raises(StreamError, match="after 1000 of 129600000 bytes"):
        messages(claimed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


def test_mutated_streams_end_with_an_answer() -> None:
    """Flipped, cut, repeated: messages or a StreamError, and nothing else."""
    rng = np.random.default_rng(0)
    for _ in range(400):
        stream = bytearray(GOOD)
        for place in rng.integers(0, len(stream), rng.integers(1, 6)):
            stream[place] ^= 1 << int(rng.integers(8))
        cut = sorted(int(place) for place in rng.integers(0, len(stream), 2))
        stream = [stream, stream[: cut[0]], stream[: cut[1]] + stream[cut[0] :]][int(rng.integers(3))]
        try:
            messages(bytes(stream))
        except StreamError as error:
            assert str(error).startswith("stream: ")


# Images


@pytest.mark.parametrize("kind", mrd.DATA_TYPES.values())
def test_images_are_read_and_written_bit_by_bit(kind: np.dtype) -> None:
    raw = np.random.default_rng(0).integers(0, 255, 2 * 3 * 4 * 5 * kind.itemsize, np.uint8)
    sent = mrd.Image(raw.view(kind).reshape(2, 3, 4, 5), "<ismrmrdMeta/>\n", slice=3, user_float=tuple(range(8)))
    for payload in (mrd.image(sent), mrd.image(sent, attribute_string_len=0)):
        (found,) = messages(payload)
        assert isinstance(found, ReceivedImage) and found.data.shape == (2, 3, 4, 5) and found.data.dtype == kind
        assert found.to_bytes() == sent.pack() and found.head.slice == 3
    written: list[bytes] = []
    ReplyWriter(written.append).image(found)
    assert written == [mrd.image(sent)]


PLAIN = mrd.Image(np.ones((1, 1, 4, 4), np.float32))


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (mrd.image(PLAIN, data_type=9), "an image has data type 9"),
        (mrd.image(PLAIN, channels=0), "an image has 0 channels of 4 x 4 x 1 pixels"),
        (mrd.image(PLAIN, matrix_size=(4, 0, 1)), "1 channels of 4 x 0 x 1 pixels"),
        (mrd.image(PLAIN, matrix_size=(65535,) * 3), "claims 1 channels of 65535 x 65535 x 65535 pixels, more than"),
        (mrd.image(PLAIN)[:200] + struct.pack("<Q", 2**63), "claim 9223372036854775808 bytes, more than 16777216"),
        (mrd.image(PLAIN)[:-1], "ended within the pixels of an image, after 63 of 64 bytes"),
        (mrd.image(PLAIN)[:100], "ended within the header of an image, after 98 of 198 bytes"),
    ],
)
def test_images_beyond_limits_are_refused_before_memory_is_taken(payload: bytes, said: str) -> None:
    tracemalloc.start()
    with pytest.raises(StreamError) as error:
        messages(payload)
    assert said in str(error.value) and tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize("closing", [True, False])
def test_whether_a_close_message_came(closing: bool) -> None:
    reader = read_messages(io.BytesIO(text(5, b"a") + CLOSE * closing).read)
    assert next(reader) == Note("a")
    with pytest.raises(StopIteration) as end:
        next(reader)
    assert end.value.value is closing
