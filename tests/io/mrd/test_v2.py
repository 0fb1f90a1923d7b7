"""MRD version 2: its lines and images are those of version 1, in both directions, and what is refused."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ismrmrd")
pytest.importorskip("mrd")

import ismrmrd

from mrihvae.errors import InputError
from mrihvae.io.mrd.messages import Header, ReceivedImage, StreamError, read_messages
from mrihvae.io.mrd.v2 import StreamV2, is_v2
from mrihvae.utils.memory import peak_memory, reset_peak_memory
from tests.support import mrd
from tests.support.mrd.v2 import acquisition_v2, header_v2, image_v2, replies_v2, stream_v2
from tests.support.serving import scan

HEADER = header_v2((32, 24), 24)
META = "<ismrmrdMeta><meta><name>A</name><value>1</value><value>b</value></meta></ismrmrdMeta>"
IMAGE = mrd.Image(np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4), META, slice=2, position=(1.0, 2.0, 3.0))


def lines() -> list[mrd.Line]:
    return scan(
        slices=2, coils=3, noise_scans=1, discard=(2, 1), read_dir=(0.0, 1.0, 0.0), phase_dir=(1.0, 0.0, 0.0),
        counters={"user_int": tuple(range(8)), "user": tuple(range(8)), "measurement_uid": 9, "segment": 3},
    )[1]  # fmt: skip


def read(payload: bytes) -> list[Any]:
    return list(StreamV2(BytesIO(payload).read, len).messages())


def test_recognized_by_the_first_bytes() -> None:
    assert all(is_v2(start) for start in (b"y", b"yardl", b"yardl\1\0"))
    assert not any(is_v2(start) for start in (b"", b"\1\0", b"x", b"yardx", mrd.config_file("yardl")[:1]))


def test_lines_are_those_of_version_1() -> None:
    sent = lines()
    first, *found = read(stream_v2(HEADER, [acquisition_v2(line) for line in sent]))
    assert isinstance(first, Header) and len(found) == len(sent)
    for line, other in zip(found, sent):
        assert mrd.Line.unpack(line.to_bytes()).pack(sample_time_us=0) == other.pack(sample_time_us=0)


def test_images_in() -> None:
    _, found = read(stream_v2(HEADER, [image_v2(IMAGE, A="1")]))
    assert isinstance(found, ReceivedImage)
    np.testing.assert_array_equal(found.data, IMAGE.data)
    assert (found.head.slice, found.head.image_series_index, found.head.position[:]) == (2, 7, [1, 2, 3])
    assert found.head.matrix_size[:] == [4, 3, 1] and ismrmrd.Meta.deserialize(found.attributes)["A"] == "1"


@pytest.mark.parametrize("kind", [kind.str for kind in mrd.DATA_TYPES.values()])
def test_images_out(kind: str) -> None:
    packed = mrd.image(replace(IMAGE, data=IMAGE.data.astype(kind), image_index=4, user_float=(0.5,) * 8))
    (image,) = read_messages(BytesIO(packed).read)
    written: list[bytes] = []
    stream = StreamV2(BytesIO(stream_v2(HEADER, [])).read, written.append)
    list(stream.messages())
    assert isinstance(image, ReceivedImage)
    stream.image(image)
    stream.close()
    header, (item,) = replies_v2(b"".join(written))
    assert header == HEADER and item.value.data.dtype == np.dtype(kind)
    np.testing.assert_array_equal(item.value.data, IMAGE.data)
    head = item.value.head
    assert (head.slice, head.image_index, head.user_float) == (2, 4, [0.5] * 8)
    np.testing.assert_array_equal(head.position, [1, 2, 3])
    assert [value.value for value in item.value.meta["A"]] == ["1", "b"]
    (again,) = read(stream_v2(HEADER, [item]))[1:]
    assert ismrmrd.Meta.deserialize(again.attributes) == ismrmrd.Meta.deserialize(image.attributes)
    assert replace(again, attributes=b"").to_bytes() == replace(image, attributes=b"").to_bytes()


def test_images_of_the_server() -> None:
    image = ismrmrd.Image.from_array(IMAGE.data, transpose=False, image_type=ismrmrd.IMTYPE_MAGNITUDE, slice=3)
    image.attribute_string = META
    written: list[bytes] = []
    stream = StreamV2(BytesIO(stream_v2(HEADER, [])).read, written.append)
    list(stream.messages())
    stream.image(image)
    stream.close()
    _, (item,) = replies_v2(b"".join(written))
    np.testing.assert_array_equal(item.value.data, IMAGE.data)
    assert item.value.head.slice == 3 and len(item.value.meta["A"]) == 2


@pytest.mark.parametrize("left", [6, 1000, 21000, -2000, -1])
def test_cut_streams(left: int) -> None:
    payload = stream_v2(HEADER, [acquisition_v2(line) for line in lines()])
    with pytest.raises(StreamError, match="stream: ended within .*; it is truncated"):
        read(payload[:left])


def test_other_refusals() -> None:
    payload = stream_v2(HEADER, [])
    with pytest.raises(StreamError, match=r"not the version of the installed mrd-python \(Invalid schema\)"):
        read(payload.replace(b"AcquisitionHeader", b"AcquisitionHeaded"))
    with pytest.raises(StreamError, match="has no header"):
        read(stream_v2(None, []))
    import mrd as second

    with pytest.raises(StreamError, match="ArrayComplexFloat is not expected here"):
        read(stream_v2(HEADER, [second.StreamItem.ArrayComplexFloat(np.zeros(3, np.complex64))]))
    empty = second.StreamItem.Acquisition(second.Acquisition())
    with pytest.raises(StreamError, match="an acquisition has 0 samples of 0 channels"):
        read(stream_v2(HEADER, [empty]))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrihvae.io.mrd.v2.find_spec", lambda name: None if name == "mrd" else importlib.util.find_spec)
    with pytest.raises(InputError, match=r"pip install 'mrihvae\[mrd2\]'"):
        read(b"yardl")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (b"\x80\x80\x80\x08\x40", r"a message claims 8589934592 bytes, beyond 268435456 in all"),
        (b"\x80\x80\x02\x40", "ended within a message"),  # 16 MiB, less than a message may have
        (b"\x80" * 8 + b"\x40\x03", "a message claims -"),  # a product beyond 64 bits
        (b"\xff" * 2**12, "a number has more than 10 bytes"),
    ],
)
def test_claims_take_no_memory(shape: bytes, message: str) -> None:
    sent = lines()[1:]
    payload = stream_v2(HEADER, [acquisition_v2(line) for line in sent])
    place = payload.index(sent[0].data.tobytes()) - 2
    assert tuple(payload[place : place + 2]) == sent[0].data.shape
    reset_peak_memory()
    before = peak_memory()
    with pytest.raises(StreamError, match=message):
        read(payload[:place] + shape + payload[place + 2 :])
    assert peak_memory() - before < 2**24


def test_messages_of_many_small_parts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes 100 times the bytes of numbers in a list."""
    monkeypatch.setattr("mrihvae.io.mrd.v2_input.MAX_OTHER_BYTES", 2**17)
    line = acquisition_v2(lines()[1])
    line.value.head.user_int = [1] * 2**18
    with pytest.raises(StreamError, match="a message has more than 131072 bytes beside arrays"):
        read(stream_v2(HEADER, [line]))
    line = acquisition_v2(replace(lines()[1], data=np.ones((3, 2000), np.complex64)))  # of a stream there may be more
    assert len(read(stream_v2(HEADER, [line] * 9))) == 10


def test_large_images_are_read_past_the_buffer() -> None:
    image = mrd.Image(np.random.default_rng(0).standard_normal((1, 2, 300, 400)).astype(np.float32))
    _, found, again = read(stream_v2(HEADER, [image_v2(image), image_v2(IMAGE)]))
    np.testing.assert_array_equal(found.data, image.data)
    np.testing.assert_array_equal(again.data, IMAGE.data)
