"""The MRD server: images while the scan runs, limits, time-outs, connections beside each other, and how it stops."""

from __future__ import annotations

import errno
import itertools
import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.files import complex_normal

pytest.importorskip("ismrmrd")

from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.kspace import open_kspace
from mrihvae.io.mrd.messages import Limits
from mrihvae.recon import sliced_scan
from mrihvae.recon.catalog import change_method, make_method
from mrihvae.recon.methods import Method
from mrihvae.recon.reconstruction import Reconstruction
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_scan, reconstruct_volume
from mrihvae.server import lobby, sender
from mrihvae.server import session as online
from mrihvae.server import tcp as server
from mrihvae.server.budget import Budget
from mrihvae.server.engine import Engine
from mrihvae.server.receiver import Receiver
from mrihvae.server.tcp import Server, ServerSettings
from tests.support import mrd
from tests.support.serving import (
    HOST,
    Client,
    cheap,
    expected,
    lines_of,
    pictures,
    scan,
    serving,
    small_ready,
    some_kspace,
    stream,
)

WIDTH = 24
ZERO = make_method("zero-filled")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients that do not hang up keep a connection for less long."""
    monkeypatch.setattr(lobby, "DRAINED", 0.2)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as running:
        yield running.port


@pytest.fixture(scope="module")
def good() -> tuple[bytes, list[np.ndarray]]:
    """A scan, and its images."""
    xml, lines = scan(coils=2)
    return stream(xml, lines), [expected(lines, WIDTH, ZERO, k) for k in range(2)]


def assert_good(port: int, good: tuple[bytes, list[np.ndarray]]) -> None:
    replies = mrd.reconstruct(HOST, port, good[0], timeout=20)
    assert replies.close and replies.connection_closed and not replies.reset
    assert [one.slice for one in replies.images] == [0, 1]
    for found, image in zip(pictures(replies), good[1], strict=True):
        np.testing.assert_array_equal(found, image)


def assert_refused(replies: mrd.Replies, word: str) -> None:
    """A text that says what is wrong, and a proper end."""
    assert not replies.images and replies.close and replies.connection_closed and not replies.reset
    assert len(replies.texts) == 1 and replies.texts[0].startswith("ERROR mrihvae: "), replies.texts
    assert word in replies.texts[0] and "\n" not in replies.texts[0]


# Images


@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize("name", ["zero-filled", "sense", "amortized", "hybrid"])
def test_images_are_those_of_reconstruct_volume(coils: int, name: str) -> None:
    xml, lines = scan(coils=coils, mask=lines_of(WIDTH))
    engine = small_ready()
    method = change_method(engine.methods[1], name, 8)
    with serving(engine) as running:
        replies = mrd.reconstruct(HOST, running.port, stream(xml, lines, name))
    assert len(replies.images) == 2 and replies.close and replies.connection_closed
    for k, image in enumerate(replies.images):
        assert image.data.dtype == np.float32 and image.data.shape == (1, 1, WIDTH, 32)
        np.testing.assert_array_equal(image.data[0, 0], expected(lines, WIDTH, method, k))
        assert image.meta["ImageProcessingHistory"] == ["MRIHVAE", name]


def test_oversampled_noisy_scan_is_that_of_its_file(port: int, tmp_path: Path) -> None:
    kspace = some_kspace(1, 3)
    lines = mrd.cartesian_lines(kspace, noise_scans=4, noise_covariance=[[1, 0.3, 0], [0.3, 2, 0], [0, 0, 1]])
    xml = mrd.cartesian_xml(kspace.shape)
    mrd.write_mrd(tmp_path / "scan.h5", xml, lines)
    (of_file,) = open_kspace(tmp_path / "scan.h5")
    image = reconstruct_volume(of_file, mask_of(of_file, None), make_method("sense"))[0].T
    for noise_first in (True, False):  # without whitening the image is another
        sent = lines if noise_first else lines[4:]
        (found,) = pictures(mrd.reconstruct(HOST, port, stream(xml, sent, "sense")))
        assert np.array_equal(found, image) or not of_file.mask.all()


@pytest.mark.parametrize("order", ["ascending", "odd_even"])
def test_images_come_before_the_next_lines_are_sent(port: int, order: str) -> None:
    xml, lines = scan(slices=4, slice_order=order)
    slices = list(dict.fromkeys(line.slice for line in lines))
    with Client(port) as client:
        client.send(stream(xml, [], closing=False))
        for k in slices:
            client.send(b"".join(mrd.acquisition(line) for line in lines if line.slice == k))
            image = client.image()
            assert image.slice == k
            np.testing.assert_array_equal(image.data[0, 0], expected(lines, WIDTH, ZERO, k))
        client.send(mrd.close())
        assert [one for one in client.rest() if not isinstance(one, str)] == [None]


@pytest.mark.parametrize("flags", ["repetition", "none"])
def test_lines_of_slices_in_turn(port: int, flags: str) -> None:
    xml, lines = scan(slices=3, slice_order="by_line", slice_flags=flags, shuffle=True, last_in_measurement=False)
    replies = mrd.reconstruct(HOST, port, stream(xml, lines))
    assert sorted(one.slice for one in replies.images) == [0, 1, 2]
    for image in replies.images:
        np.testing.assert_array_equal(image.data[0, 0], expected(lines, WIDTH, ZERO, image.slice))


@pytest.mark.parametrize("ending", ["close message", "end of the stream"])
def test_scan_that_ends_by_its_close_alone(port: int, ending: str) -> None:
    xml, lines = scan(mask=lines_of(WIDTH), slice_flags="none", last_in_measurement=False)
    message = ending == "close message"
    replies = mrd.reconstruct(HOST, port, stream(xml, lines, closing=message), half_close=not message)
    assert replies.close and replies.connection_closed
    for k, found in enumerate(pictures(replies)):
        np.testing.assert_array_equal(found, expected(lines, WIDTH, ZERO, k))
    assert len(replies.images) == 2


def test_maps_of_the_first_repetition_are_used_again(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    estimated = []
    usual = sliced_scan.estimate_maps

    def counted(kspace: object, *rest: object) -> object:
        estimated.append(kspace)
        return usual(kspace, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(sliced_scan, "estimate_maps", counted)
    kspace = np.stack([some_kspace(1, 3, seed=seed) for seed in range(3)])
    calibrating, sparse = lines_of(WIDTH), np.arange(WIDTH) % 3 == 0
    mask = np.stack([calibrating, sparse, sparse])[:, None]
    lines = mrd.cartesian_lines(kspace, mask=mask, oversampling=1)
    xml = mrd.cartesian_xml(kspace.shape, 1)
    replies = mrd.reconstruct(HOST, port, stream(xml, lines, "sense"))
    assert [one.repetition for one in replies.images] == [0, 1, 2] and len(estimated) == 1
    np.testing.assert_array_equal(replies.images[0].data[0, 0], expected(lines, WIDTH, make_method("sense")))
    with pytest.raises(InputError, match="give maps"):  # they have too few lines for maps of their own
        expected(lines, WIDTH, make_method("sense"), 0, 1)


def test_late_lines_are_told_of(port: int) -> None:
    xml, lines = scan()
    replies = mrd.reconstruct(HOST, port, stream(xml, [*lines, lines[3], lines[4]]))
    assert len(replies.images) == 2 and replies.close
    assert [one for one in replies.texts if one.startswith("WARNING")] == [
        "WARNING mrihvae: lines that came after their slice was complete, and were not used: 2"
    ]


def test_texts_tell_of_slices(port: int) -> None:
    xml, lines = scan(slices=1, mask=lines_of(WIDTH))
    (told,) = mrd.reconstruct(HOST, port, stream(xml, lines)).texts
    assert told.startswith("INFO mrihvae: slice 0, contrast 0, repetition 0: R = 1.60, ")


@pytest.mark.parametrize("payload", [b"", mrd.close(), mrd.config_file("hybrid") + mrd.close(), mrd.text("{}")])
def test_connection_without_a_scan(port: int, payload: bytes) -> None:
    replies = mrd.reconstruct(HOST, port, payload, half_close=True)
    assert replies.messages == [] and replies.close and replies.connection_closed


def test_scan_without_lines(port: int) -> None:
    replies = mrd.reconstruct(HOST, port, stream(scan()[0], []))
    assert replies.texts == ["WARNING mrihvae: the scan had no image lines"] and replies.close


@pytest.mark.parametrize("nul", [True, False])
def test_zero_at_the_end_of_texts(port: int, nul: bool) -> None:
    xml, lines = scan(slices=1)
    payload = stream(xml, lines, mrd.config_text('{"method": "sense"}', nul), {"pixels": "short"}, nul=nul)
    (image,) = mrd.reconstruct(HOST, port, payload).images
    assert image.data.dtype == np.int16 and image.meta["ImageProcessingHistory"] == ["MRIHVAE", "sense"]


def test_waveforms_are_read_over(port: int, good: tuple[bytes, list[np.ndarray]]) -> None:
    xml, lines = scan(coils=2)
    assert_good(port, (stream(xml, lines, waveforms=[mrd.waveform(np.arange(40).reshape(4, 10))] * 3), good[1]))


# What clients ask for


def test_request_may_come_in_any_way(port: int) -> None:
    _, lines = scan(slices=1)
    shape = (1, 1, 32, WIDTH)
    plain = mrd.cartesian_xml(shape, 1)
    header = mrd.cartesian_xml(shape, 1, user={"mrihvae_method": "sense", "samples": "of another program"})
    streams = [
        stream(plain, lines, "sense"),
        stream(plain, lines, "sense.xml"),
        stream(plain, lines, mrd.config_text('{"parameters": {"method": "sense"}}')),
        stream(plain, lines, "openrecon", {"parameters": {"mrihvae_method": "sense", "customconfig": ""}}),
        stream(plain, lines, None, {"method": "sense", "version": "1.0"}),
        stream(header, lines, None),
        stream(header, lines, "tv"),  # what comes later counts
        mrd.text('{"method": "sense"}') + stream(plain, lines, None),
    ]
    for payload in streams:
        (image,) = mrd.reconstruct(HOST, port, payload).images
        assert image.meta["ImageProcessingHistory"] == ["MRIHVAE", "sense"]


@pytest.mark.parametrize(
    "parameters, word",
    [
        ({"method": "magic"}, "parameter method 'magic': is unknown; choose one of hybrid"),
        ({"method": "x" * 10000}, "parameter method 'xxxx"),
        ({"method": "\ud800\n"}, "parameter method '?': is unknown"),  # half a character, in JSON's writing
        ({"uncertainty": "perhaps"}, "parameter uncertainty 'perhaps': must be true or false"),
        ({"samples": "many"}, "parameter samples 'many': must be a whole number"),
        ({"samples": 1e300}, "must be 2 to 256"),
        ({"pixels": "double"}, "parameter pixels 'double'"),
        ({"method": "hybrid"}, "method 'hybrid' needs a model"),
        ({"uncertainty": True}, "needs a model"),
    ],
)
def test_wrong_parameters(
    port: int, parameters: dict[str, object], word: str, good: tuple[bytes, list[np.ndarray]]
) -> None:
    xml, lines = scan(slices=1)
    assert_refused(mrd.reconstruct(HOST, port, stream(xml, lines, parameters=parameters)), word)
    assert_good(port, good)


def test_wrong_user_parameter(port: int) -> None:
    xml = mrd.cartesian_xml((1, 1, 32, WIDTH), 1, user={"mrihvae_samples": 1})
    assert_refused(mrd.reconstruct(HOST, port, stream(xml, scan(slices=1)[1])), "must be 2 to 256")


def test_parameters_after_the_first_image(port: int) -> None:
    xml, lines = scan()
    first = b"".join(mrd.acquisition(line) for line in lines if line.slice == 0)
    same, other = mrd.text('{"method": "zero-filled", "note": 1}'), mrd.text('{"method": "sense"}')
    start = stream(xml, [], "zero-filled", closing=False) + first
    replies = mrd.reconstruct(HOST, port, start + same + other + mrd.close())
    assert len(replies.images) == 1 and replies.close
    assert "parameters came after the first image" in replies.texts[-1]


def test_uncertainty_is_a_second_series() -> None:
    xml, lines = scan(coils=2, mask=lines_of(WIDTH))
    with serving(small_ready()) as running:
        parameters = {"uncertainty": "true", "samples": 3, "pixels": "short"}
        replies = mrd.reconstruct(HOST, running.port, stream(xml, lines, parameters=parameters))
    assert [(one.image_series_index, one.image_index, one.slice) for one in replies.images] == [
        (1, 1, 0), (2, 1, 0), (1, 2, 1), (2, 2, 1),
    ]  # fmt: skip
    assert {one.data.dtype for one in replies.images} == {np.dtype("<i2")}
    assert [one.meta["DataRole"] for one in replies.images[:2]] == ["Image", ["Image", "Quantitative", "Uncertainty"]]
    assert [one.data.max() for one in replies.images[:2]] == [2047, 2047]


def test_samples_are_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the mean of samples, too, not of its uncertainty alone."""
    counts = []
    usual = online.reconstruct_scan

    def counted(one: Scan, mask: np.ndarray, method: Method, **words: Any) -> Reconstruction:
        counts.append(method.samples)
        return usual(one, mask, method, **words)

    monkeypatch.setattr(online, "reconstruct_scan", counted)
    xml, lines = scan(coils=2, slices=1, mask=lines_of(WIDTH))
    with serving(small_ready()) as running:
        for samples in (3, 5):
            parameters = {"method": "samples", "samples": samples}
            assert len(mrd.reconstruct(HOST, running.port, stream(xml, lines, parameters=parameters)).images) == 1
    assert counts == [3, 5]


def test_what_could_be_done_without_is_told(port: int) -> None:
    """A noise scan of other coils, wrong directions, and no center of k-space: one warning each, and the images."""
    xml, lines = scan(coils=2, mask=np.arange(WIDTH) % 3 == (WIDTH // 2 + 1) % 3)
    lines = [replace(line, read_dir=(0.8, 0.6, 0)) for line in lines]
    noise = mrd.Line(complex_normal((3, 64)), flags=mrd.flags(mrd.NOISE))
    replies = mrd.reconstruct(HOST, port, stream(xml, [noise, *lines]))
    told = [text for text in replies.texts if text.startswith("WARNING")]
    assert len(told) == 3 and len(replies.images) == 2
    for part in ("noise scan of 3 coils is left out", "placed as an axial one", "center of k-space was not acquired"):
        assert sum(part in text for text in told) == 1


def test_server_of_one_kind_of_scans() -> None:
    with serving(Engine({1: make_method("zero-filled")})) as running:
        replies = mrd.reconstruct(HOST, running.port, stream(*scan(coils=2)))
    assert_refused(replies, "scan of 2 coils: the server's protocol does not support this number of coils")


# Messages that are wrong


def test_wrong_messages_end_their_own_connection_only(port: int, good: tuple[bytes, list[np.ndarray]]) -> None:
    xml, lines = scan(coils=2)
    half = len(lines) // 2
    start = stream(xml, lines[:half], closing=False)
    bad = {
        "line came before the header": mrd.acquisition(lines[0]),
        "second header": start + mrd.header(xml),
        "message 1007 is not expected": start + struct.pack("<H", 1007),
        "has data type 9": start + mrd.image(mrd.Image(np.zeros((1, 1, 2, 2), np.float32)), data_type=9),
        "an image claims 65535 channels": start
        + mrd.image(mrd.Image(np.zeros((1, 1, 2, 2), np.float32)), channels=65535, matrix_size=(65535,) * 3),
        "header is not XML": mrd.header("<ismrmrdHeader>"),
        "no 'encoding'": mrd.header("<ismrmrdHeader/>"),
        "not UTF-8": struct.pack("<HI", 5, 1) + b"\xff",
        "0 samples": start + mrd.acquisition(lines[0], number_of_samples=0),
        "NaN": start + mrd.acquisition(mrd.Line(np.full((2, 32), np.nan, np.complex64))),
        "ended within": start + mrd.acquisition(lines[0])[:100],
        "line 0: has 65535 coils": mrd.header(mrd.cartesian_xml((1, 1, 64, 64)))
        + mrd.acquisition(mrd.Line(np.zeros((65535, 1), np.complex64))),
        "larger than 4194304 pixels": mrd.header(mrd.cartesian_xml((1, 1, 2048, 2056))),
    }
    with Client(port) as beside:
        beside.send(start)
        for word, payload in bad.items():
            replies = mrd.reconstruct(HOST, port, payload, half_close=True)
            assert replies.close and replies.connection_closed and not replies.reset, word
            assert word in replies.texts[-1] and replies.texts[-1].startswith("ERROR mrihvae: "), replies.texts
        beside.send(b"".join(map(mrd.acquisition, lines[half:])) + mrd.close())
        found = [one.data[0, 0] for one in beside.rest() if isinstance(one, mrd.Image)]
    np.testing.assert_array_equal(found, good[1])


def test_answers_reach_a_client_that_goes_on_sending(port: int) -> None:
    xml, lines = scan(slices=1, height=128, width=128)
    rest = b"".join(map(mrd.acquisition, lines)) * 40  # more than buffers hold
    with Client(port) as client:
        client.send(mrd.header(xml) + mrd.header(xml) + rest)
        text, end = client.rest()
    assert "second header" in text and end is None


def test_limits_of_messages(good: tuple[bytes, list[np.ndarray]]) -> None:
    with serving(limits=Limits(text=4000, numbers=64)) as running:
        assert_good(running.port, good)
        long = mrd.text(" " * 4001)
        assert_refused(mrd.reconstruct(HOST, running.port, long), "claims 4001 bytes, more than 4000")
        line = mrd.acquisition(mrd.Line(np.zeros((5, 13), np.complex64)))
        replies = mrd.reconstruct(HOST, running.port, mrd.header(scan()[0]) + line)
        assert_refused(replies, "claims 13 samples of 5 channels and 0 axes, more than 64 numbers")
        assert_good(running.port, good)


def test_what_lengths_claim_is_not_allocated(port: int) -> None:
    claims = [
        *(struct.pack("<HI", number, length) for number in (2, 3, 5) for length in (2**24, 2**31, 2**32 - 1)),
        *(
            mrd.acquisition(scan()[1][0], number_of_samples=samples, active_channels=channels)
            for samples, channels in ((65535, 256), (65535, 65535), (1, 65535))
        ),
        mrd.waveform(np.zeros((1, 1)))[: 2 + 28] + struct.pack("<HHfHxx", 65535, 65535, 1.0, 0),
    ]
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = _memory("VmRSS")
    for payload in claims:
        replies = mrd.reconstruct(HOST, port, payload, half_close=True)
        assert_refused(replies, "stream: ")
    assert _memory("VmHWM") < before + 16


def _memory(key: str, process: str = "self") -> float:
    """Read a line of the memory of a process, MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of values near the largest
def test_300_mutated_streams(good: tuple[bytes, list[np.ndarray]], caplog: pytest.LogCaptureFixture) -> None:
    kspace = some_kspace(2, 2, 16, 16)
    lines = mrd.cartesian_lines(kspace, mask=lines_of(16), noise_scans=1)
    xml = mrd.cartesian_xml(kspace.shape, user={"mrihvae_method": "zero-filled"})
    payload = stream(xml, lines, "zero-filled", {"method": "zero-filled"}, waveforms=[mrd.waveform([[1, 2]])])
    mutator, rng = mrd.Mutator(payload), np.random.default_rng(0)
    broken = [mutator.draw(rng) for _ in range(300)]
    with serving(connections=4, timeout=10.0) as running, ThreadPoolExecutor(4) as clients:

        def send(number: int) -> tuple[str, mrd.Replies]:
            if number % 50 == 49:
                assert_good(running.port, good)
            kind, payload = broken[number]
            return kind, mrd.reconstruct(HOST, running.port, payload, 20, half_close=True)

        for kind, replies in clients.map(send, range(300)):
            errors = [one for one in replies.texts if one.startswith("ERROR")]
            assert replies.connection_closed and replies.close and not replies.reset, (kind, str(replies))
            assert len(errors) <= 1 and not any("failed" in one for one in errors), (kind, errors)
            assert all(np.isfinite(one.data).all() for one in replies.images)
        assert_good(running.port, good)
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


def test_unexpected_failure_is_told(
    good: tuple[bytes, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving() as running:
        for error, word in ((ZeroDivisionError("inner"), "failed; see the server's log"), (MemoryError(), "memory")):
            with monkeypatch.context() as patch:

                def broken(*_: object, error: Exception = error, **__: object) -> None:
                    raise error

                patch.setattr(online, "reconstruct_scan", broken)
                assert_refused(mrd.reconstruct(HOST, running.port, good[0]), word)
            assert_good(running.port, good)
    assert "ZeroDivisionError: inner" in caplog.text


# Clients that are slow, silent, or gone


def test_silent_and_slow_clients_time_out(good: tuple[bytes, list[np.ndarray]]) -> None:
    word = "no whole message came for 0.6 s"
    with serving(timeout=0.6) as running, ThreadPoolExecutor() as clients:
        began = time.monotonic()
        start = good[0][:5000]
        silent = [clients.submit(mrd.reconstruct, HOST, running.port, payload) for payload in (b"", start)]
        slow = clients.submit(mrd.reconstruct, HOST, running.port, good[0], chunk=1, delay=0.01)
        for one in (*silent, slow):
            assert_refused(one.result(), word)
        assert time.monotonic() - began < 5
        assert_good(running.port, good)


def test_each_line_has_its_time() -> None:
    xml, lines = scan(slices=1)
    payload = stream(xml, lines, waveforms=[mrd.waveform([[1]])] * 3)
    with serving(timeout=0.6) as running:
        replies = mrd.reconstruct(HOST, running.port, payload, delay=0.07)  # all of it takes 2 s
    assert len(replies.images) == 1 and replies.finished - replies.started > 1.5


def test_client_that_sends_all_before_it_reads(port: int) -> None:
    xml, lines = scan(slices=1, height=128, width=128, repetitions=80)
    with Client(port) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)  # the answers are more than buffers hold
        client.send(stream(xml, lines))
        answers = client.rest()
    images = [one for one in answers if isinstance(one, mrd.Image)]
    assert [one.repetition for one in images] == list(range(80)) and answers[-1] is None
    np.testing.assert_array_equal(images[-1].data[0, 0], expected(lines, 128, ZERO, 0, 79))


@pytest.mark.parametrize("queued", [2**30, 2**20])
def test_client_that_never_reads(
    queued: int, good: tuple[bytes, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sender, "QUEUED", queued)
    caplog.set_level(logging.INFO)
    xml, lines = scan(slices=1, height=128, width=128, repetitions=80)
    with serving(connections=1, timeout=1.0) as running, Client(running.port) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(stream(xml, lines, closing=False))
        assert_good(running.port, good)  # the only place is free again
    assert "the client has gone" in caplog.text or "no whole message" in caplog.text
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


@pytest.mark.parametrize("reset", [True, False])
def test_client_that_goes_in_the_middle(
    port: int, reset: bool, good: tuple[bytes, list[np.ndarray]], caplog: pytest.LogCaptureFixture
) -> None:
    for size in (0, 1, 700, 5000, len(good[0]) // 2, len(good[0]) - 1, len(good[0])):
        client = Client(port)
        client.send(good[0][:size])
        if reset:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()
    assert_good(port, good)
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


# Clients that send nothing useful


def test_idle_clients_do_not_hold_all_places(good: tuple[bytes, list[np.ndarray]]) -> None:
    with serving(connections=4, first_timeout=3) as running, ExitStack() as stack:
        idle = [stack.enter_context(Client(running.port)) for _ in range(8)]
        idle[1].send(good[0][:100])
        idle[2].send(good[0][:-1000])  # a scan that takes one place
        began = time.monotonic()
        assert_good(running.port, good)
        assert time.monotonic() - began < 2  # it did not wait for them
        for client in idle[:2] + idle[3:]:
            text, end = client.rest()
            assert text == "ERROR mrihvae: stream: no header came for 3 s; the connection is closed" and end is None


def test_clients_that_drip_have_no_more_time_for_their_header(good: tuple[bytes, list[np.ndarray]]) -> None:
    with serving(first_timeout=0.5, timeout=0.4) as running, Client(running.port) as client:
        with suppress(OSError):
            for _ in range(40):  # each whole, and in time
                client.send(mrd.text("{}"))
                time.sleep(0.05)
        assert "no header came for 0.5 s" in client.rest()[0]
        assert_good(running.port, good)


def test_clients_without_a_line_stay_until_others_wait(good: tuple[bytes, list[np.ndarray]]) -> None:
    xml, lines = scan(coils=2)
    with serving(connections=2, first_timeout=0.3) as running:
        with Client(running.port) as slow:  # as a scanner that prepares its scan
            slow.send(stream(xml, [], closing=False))
            time.sleep(0.8)
            slow.send(b"".join(map(mrd.acquisition, lines)) + mrd.close())
            assert len([one for one in slow.rest() if isinstance(one, mrd.Image)]) == 2
        with Client(running.port) as first, Client(running.port) as working:
            first.send(stream(xml, [], closing=False))
            working.send(stream(xml, lines[:3], closing=False))
            time.sleep(0.6)
            assert_good(running.port, good)  # a client without a line holds no place
            for client, rest in ((first, lines), (working, lines[3:])):
                client.send(b"".join(map(mrd.acquisition, rest)) + mrd.close())
                assert len([one for one in client.rest() if isinstance(one, mrd.Image)]) == 2


def test_scans_that_pause_stay_until_others_wait(good: tuple[bytes, list[np.ndarray]]) -> None:
    """What is no line prolongs nothing."""
    xml, lines = scan(coils=2)
    start, note, wave = stream(xml, lines[:3], closing=False), mrd.text("{}"), mrd.waveform([[1]])
    with serving(connections=2, idle_timeout=0.6) as running, ExitStack() as stack:
        pausing = [stack.enter_context(Client(running.port)) for _ in range(2)]
        for client in pausing:
            client.send(start)
        time.sleep(1)  # longer than they have if others wait
        good_scan = threading.Thread(target=assert_good, args=(running.port, good))
        pausing[0].send(mrd.acquisition(lines[3]))
        good_scan.start()
        with suppress(OSError):
            for _ in range(20):
                pausing[0].send(note + wave)
                time.sleep(0.05)
        good_scan.join(10)
        assert not good_scan.is_alive()
        assert pausing[1].rest() == [
            "ERROR mrihvae: stream: no line came for 0.6 s, and others wait; the connection is closed", None
        ]  # fmt: skip
        pausing[0].send(b"".join(map(mrd.acquisition, lines[4:])) + mrd.close())
        assert len([one for one in pausing[0].rest() if isinstance(one, mrd.Image)]) == 2


@pytest.mark.parametrize(
    "message, limits, word",
    [
        (mrd.text("{}"), {"timeout": 0.8}, "no line came for 0.8 s"),
        (mrd.waveform([[1]]), {"timeout": 0.8}, "no line came for 0.8 s"),
        (None, {"message_timeout": 0.5}, "a message took more than 0.5 s"),
        (b"line", {"scan_timeout": 0.8}, "the scan took more than 0.8 s"),
    ],
)
@pytest.mark.parametrize("count", [0, 3])
def test_drips_prolong_nothing(
    count: int, message: bytes | None, limits: dict[str, float], word: str, good: tuple[bytes, list[np.ndarray]]
) -> None:
    """Texts and waveforms that are whole, a line byte by byte, and lines for ever; before the first line, and after."""
    xml, lines = scan(coils=2)
    if message == b"line":
        message, count = mrd.acquisition(lines[3]), max(count, 1)
    drip = itertools.repeat(message) if message else (bytes([one]) for one in mrd.acquisition(lines[3]))
    with serving(connections=1, **limits) as running, Client(running.port) as client:
        client.send(stream(xml, lines[:count], closing=False))
        with suppress(OSError):
            for piece in itertools.islice(drip, 60):
                client.send(piece)
                time.sleep(0.03)
        text, end = client.rest()
        assert text == f"ERROR mrihvae: stream: {word}; the connection is closed" and end is None
        assert_good(running.port, good)


def test_answers_that_nobody_takes_free_the_place(good: tuple[bytes, list[np.ndarray]]) -> None:
    """A client that reads a few bytes at a time keeps neither the place nor the answers."""
    payload = stream(*scan(slices=1, height=128, width=128, repetitions=80))
    with serving(connections=1, timeout=1.0) as running, Client(running.port) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(payload)
        began = time.monotonic()
        while time.monotonic() - began < 4:
            client.socket.recv(10)
            time.sleep(0.05)
        assert_good(running.port, good)
        assert running.engine.budget.held == 0


def test_further_clients_are_refused_and_idle_ones_make_room(
    good: tuple[bytes, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lobby, "PRESSED", 0.8)
    with serving(waiting=3) as running, ExitStack() as stack:
        opened, *idle = (stack.enter_context(Client(running.port)) for _ in range(3))
        opened.send(stream(scan()[0], [], closing=False))
        time.sleep(0.2)
        with Client(running.port) as further:
            assert further.rest() == ["ERROR mrihvae: stream: 3 connections wait already; try again later", None]
        time.sleep(1)
        assert_good(running.port, good)
        assert idle[0].rest() == [
            "ERROR mrihvae: stream: nothing useful came, and others wait; the connection is closed", None
        ]  # fmt: skip
        for client in (opened, idle[1]):  # the others stay
            client.send(mrd.close())
            assert client.rest()[-1] is None


def test_memory_of_all_scans_together_is_limited(good: tuple[bytes, list[np.ndarray]]) -> None:
    xml, lines = scan(coils=2, slices=8, slice_order="by_line")
    engine = replace(cheap(), budget=Budget(250_000))  # a scan holds 150 kB, with what lines take beside samples
    payload = stream(xml, lines[: len(lines) // 2], closing=False)
    with serving(engine) as running, Client(running.port) as one, Client(running.port) as other:
        one.send(payload)
        time.sleep(0.5)
        assert 100_000 < engine.budget.held < 250_000
        other.send(payload)
        other.send(payload[len(stream(xml, [], closing=False)) :])
        (text, end) = other.rest()
        assert end is None and "all connections together would hold more than 0.000233 GiB" in text
        one.socket.close()
        time.sleep(0.5)
        assert engine.budget.held == 0
        assert_good(running.port, good)


def test_connections_are_kept_alive_by_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    usual = server.keep_alive

    def noted(connection: socket.socket) -> None:
        usual(connection)
        seen.append(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    monkeypatch.setattr(server, "keep_alive", noted)
    with serving() as running:
        mrd.reconstruct(HOST, running.port, mrd.close())
    assert len(seen) == 1 and seen[0]


def test_machine_that_does_not_answer_is_gone() -> None:
    class Dead:
        def settimeout(self, seconds: float) -> None: ...

        def recv(self, count: int) -> bytes:
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    dead: Any = Dead()
    receiver = Receiver(dead, ServerSettings(), lambda: False)
    with pytest.raises(ConnectionError, match="its machine does not answer"):
        receiver.read(1)


# Ends


@pytest.mark.parametrize("closing", [True, False])
def test_end_without_a_close_message_is_logged(port: int, closing: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    xml, lines = scan(slices=1)
    mrd.reconstruct(HOST, port, stream(xml, lines, closing=closing), half_close=True)
    time.sleep(0.1)
    assert ("ended without a close message" in caplog.text) is not closing and "1 image in" in caplog.text


def test_work_for_a_client_that_is_gone_stops(
    good: tuple[bytes, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    computed: list[int] = []
    gone = threading.Event()

    def slowly(*rest: Any, **words: Any) -> Reconstruction:
        computed.append(1)
        assert gone.wait(10)
        time.sleep(0.1)
        return reconstruct_scan(*rest, **words)

    xml, lines = scan(slices=6, slice_order="by_line", slice_flags="none", last_in_measurement=False)
    with serving() as running:
        with monkeypatch.context() as patch:
            patch.setattr(online, "reconstruct_scan", slowly)
            client = Client(running.port)
            client.send(stream(xml, lines))
            while not computed:
                time.sleep(0.01)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.socket.close()
            time.sleep(0.1)
            gone.set()
            while "the client has gone" not in caplog.text:
                time.sleep(0.01)
        assert_good(running.port, good)
    assert len(computed) == 1


def test_images_of_a_client_come_back(port: int) -> None:
    picture = mrd.Image(np.arange(4 * 12, dtype=np.int16).reshape(2, 2, 3, 4), "<ismrmrdMeta/>", image_series_index=3)
    replies = mrd.reconstruct(HOST, port, mrd.header("Dummy XML header") + mrd.image(picture) * 2 + mrd.close())
    assert [one.pack() for one in replies.images] == [picture.pack()] * 2 and replies.texts == [] and replies.close


def test_unknown_parameters_do_not_end_a_scan(port: int) -> None:
    replies = mrd.reconstruct(HOST, port, stream(*scan(slices=1), parameters={"mrihvae_samplse": 4}))
    word = "parameter mrihvae_samplse: is unknown; the nearest known one is 'mrihvae_samples'. It was ignored"
    assert replies.texts[0] == f"WARNING mrihvae: {word}" and len(replies.images) == 1


# Connections beside each other


def test_further_connections_wait(good: tuple[bytes, list[np.ndarray]]) -> None:
    with (
        serving(connections=2) as running,
        ThreadPoolExecutor() as clients,
        Client(running.port) as one,
        Client(running.port) as other,
    ):
        start = len(good[0]) // 2  # with lines: others hold no place
        one.send(good[0][:start])
        other.send(good[0][:start])
        time.sleep(0.3)
        third = clients.submit(assert_good, running.port, good)
        time.sleep(0.7)
        assert not third.done()
        one.send(good[0][start:])
        assert len([answer for answer in one.rest() if isinstance(answer, mrd.Image)]) == 2
        third.result(10)
        other.send(good[0][start:])
        assert len([answer for answer in other.rest() if isinstance(answer, mrd.Image)]) == 2


def test_8_scans_at_once() -> None:
    scans = [scan(slices=1 + k % 2, coils=1 + k // 4, seed=k, mask=lines_of(WIDTH)) for k in range(8)]
    engine = small_ready()
    with serving(engine, connections=8) as running, ThreadPoolExecutor(8) as clients:
        replies = clients.map(lambda one: mrd.reconstruct(HOST, running.port, stream(*one)), scans)
        for number, (one, (_, lines)) in enumerate(zip(replies, scans, strict=True)):
            images = [expected(lines, WIDTH, engine.methods[1], k) for k in range(1 + number % 2)]
            np.testing.assert_array_equal(pictures(one), images)


def test_one_thread_reconstructs(good: tuple[bytes, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set()

    def told(*arguments: Any, **words: Any) -> Reconstruction:
        threads.add(threading.get_ident())
        return reconstruct_scan(*arguments, **words)

    monkeypatch.setattr(online, "reconstruct_scan", told)
    with serving(connections=3) as running, ThreadPoolExecutor(3) as clients:
        list(clients.map(lambda _: assert_good(running.port, good), range(6)))
    assert len(threads) == 1  # each would keep the memory that it took


# Start and stop


def test_settings_that_cannot_be() -> None:
    for changes, word in (
        ({"port": -1}, "port -1: must be 0 to 65535"),
        ({"connections": 0}, "max-connections 0: must be at least 1"),
        ({"timeout": float("nan")}, "timeout nan: must be above 0"),
        ({"timeout": 1e6}, "at most 86400"),
    ):
        with pytest.raises(InputError, match=word):
            ServerSettings(**changes)


@pytest.mark.parametrize("host", ["no such host", "192.0.2.1"])
def test_host_that_is_not_here(host: str) -> None:
    with pytest.raises(InputError, match=f"{host}:0: nothing can listen there"):
        Server(cheap(), ServerSettings(host, 0, allow_remote=True))


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6(good: tuple[bytes, list[np.ndarray]]) -> None:
    try:
        with serving(host="::1") as running:
            replies = mrd.reconstruct("::1", running.port, good[0])
    except InputError:
        pytest.skip("no IPv6 here")
    assert len(replies.images) == 2


def test_stop_cuts_off_what_does_not_end(monkeypatch: pytest.MonkeyPatch, good: tuple[bytes, list[np.ndarray]]) -> None:
    monkeypatch.setattr(server, "GRACE", 0.5)
    running = Server(cheap(), ServerSettings(port=0))
    ended: list[bool] = []
    thread = threading.Thread(target=lambda: ended.append(running.serve()))
    thread.start()
    with Client(running.port) as silent, Client(running.port) as middle:
        middle.send(good[0][:5000])
        time.sleep(0.5)
        running.stop()
        thread.join(5)
        assert ended == [True]
        for client in (silent, middle):
            client.rest()
    with pytest.raises(ConnectionRefusedError):
        Client(running.port)
