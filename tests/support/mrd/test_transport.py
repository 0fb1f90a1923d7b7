"""Streams that go to small servers and commands, and what comes back from them, or does not."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.support import mrd
from tests.support.mrd import Image, Line, Replies

PAYLOAD = mrd.stream(mrd.cartesian_xml((2, 3, 8, 12)), mrd.cartesian_lines(np.ones((2, 3, 8, 12), np.complex64)))
IMAGES = [mrd.image(Image(np.ones((2, 1, 3, 4), np.float32), slice=k)) for k in range(2)]
ANSWER = IMAGES[0] + mrd.text("half") + IMAGES[1] + mrd.close()


@contextmanager
def serving(handle: Callable[[socket.socket], Any]) -> Iterator[int]:
    """Serve one connection by `handle`, then close it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            connection, _ = server.accept()
            with connection:
                handle(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


def receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size and (piece := connection.recv(size - len(received))):
        received += piece
    return received


@pytest.mark.parametrize("chunk", [None, 1000, 1 << 20])
def test_reconstruct_sends_all_and_reads_all(chunk: int | None) -> None:
    got: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        got.append(receive(connection, len(PAYLOAD)))
        time.sleep(0.1)
        connection.sendall(ANSWER)

    seen: list[int] = []
    with serving(handle) as port:
        replies = mrd.reconstruct("127.0.0.1", port, PAYLOAD, 10, chunk, on_image=lambda im: seen.append(im.slice))
    assert got == [PAYLOAD] and seen == [0, 1]
    assert [image.slice for image in replies.images] == seen and replies.texts == ["half"]
    assert replies.close and replies.connection_closed and not replies.reset and replies.send_error is None
    assert len(replies.acquisition_times) == 24 and replies.sent is not None
    times = [replies.started, *replies.acquisition_times, replies.sent]
    assert times == sorted(times)
    assert replies.sent <= replies.image_times[0] <= replies.image_times[1] <= replies.finished


def test_images_that_come_while_lines_are_sent_are_timed() -> None:
    def handle(connection: socket.socket) -> None:
        receive(connection, len(PAYLOAD) // 2)
        connection.sendall(ANSWER[:320])  # the first image and a part of the text
        receive(connection, len(PAYLOAD) - len(PAYLOAD) // 2)
        time.sleep(0.1)
        connection.sendall(ANSWER[320:])

    with serving(handle) as port:
        replies = mrd.reconstruct("127.0.0.1", port, PAYLOAD, 20, delay=0.005)
    assert replies.sent is not None and len(replies.images) == 2
    assert replies.acquisition_times[4] < replies.image_times[0] < replies.sent < replies.image_times[1]
    assert replies.acquisition_times[-1] - replies.acquisition_times[0] > 23 * 0.005


def test_a_large_answer_while_nothing_is_read_does_not_lock() -> None:
    large = mrd.image(Image(np.zeros((1, 1, 2000, 1000), np.float32)))
    payload = mrd.stream("<a/>", [Line(np.ones((16, 4096), np.complex64))] * 20)

    def handle(connection: socket.socket) -> None:
        connection.sendall(large * 2)  # before anything is received
        receive(connection, len(payload))
        connection.sendall(mrd.close())

    with serving(handle) as port:
        replies = mrd.reconstruct("127.0.0.1", port, payload, 20)
    assert len(replies.images) == 2 and replies.close and replies.sent is not None


def test_a_server_that_goes_away_is_told_apart() -> None:
    def answering(answer: bytes, payload: bytes = PAYLOAD, size: int = len(PAYLOAD)) -> Replies:
        def handle(connection: socket.socket) -> None:
            receive(connection, size)
            connection.sendall(answer)

        with serving(handle) as port:
            return mrd.reconstruct("127.0.0.1", port, payload, 10)

    replies = answering(mrd.text("no"))
    assert replies.texts == ["no"] and not replies.close and replies.connection_closed and not replies.reset
    replies = answering(b"", PAYLOAD * 50, 10)  # what is left unread resets the connection
    assert replies.connection_closed and not replies.close and (replies.reset or replies.send_error)
    with pytest.raises(AssertionError, match="before the end of image data"):
        answering(ANSWER[:-20])


def test_a_silent_server_runs_into_the_timeout_and_one_that_stays_is_seen() -> None:
    def staying(answer: bytes, timeout: float, payload: bytes = PAYLOAD) -> Replies:
        def handle(connection: socket.socket) -> None:
            connection.sendall(answer)
            while connection.recv(1 << 16):
                pass

        with serving(handle) as port:
            return mrd.reconstruct("127.0.0.1", port, payload, timeout, linger=0.2)

    with pytest.raises(TimeoutError, match=r"after 1 s: 0 images.*thinking.*24 lines sent"):
        staying(mrd.text("thinking"), 1)
    replies = staying(ANSWER, 10)
    assert replies.close and not replies.connection_closed


def test_a_server_that_reads_nothing_runs_into_the_timeout() -> None:
    with serving(lambda connection: time.sleep(2)) as port, pytest.raises(TimeoutError, match="after 1 s: 0 images"):
        mrd.reconstruct("127.0.0.1", port, PAYLOAD * 1000, 1)


def test_half_close_ends_a_cut_stream() -> None:
    got: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        got.append(receive(connection, 1 << 30))
        connection.sendall(mrd.close())

    with serving(handle) as port:
        replies = mrd.reconstruct("127.0.0.1", port, PAYLOAD[:-500], 10, half_close=True)
    assert got == [PAYLOAD[:-500]] and replies.close and replies.connection_closed


def pipe(code: str, payload: bytes = PAYLOAD, timeout: float = 20, **options: Any) -> Replies:
    """Run code that has stdin `i`, stdout `o`, the payload's `size` and an `answer`."""
    given = f"import sys, time; i, o = sys.stdin.buffer, sys.stdout.buffer; size, answer = {len(PAYLOAD)}, {ANSWER!r}"
    return mrd.reconstruct_pipe([sys.executable, "-c", f"{given}\n{code}"], payload, timeout, **options)


@pytest.mark.parametrize("half_close", [True, False])
def test_a_pipe_answers(half_close: bool) -> None:
    seen: list[int] = []
    code = "assert len(i.read(size)) == size\nsys.stderr.write('well')\no.write(answer)"
    replies = pipe(code, half_close=half_close, on_image=lambda im: seen.append(im.slice))
    assert seen == [0, 1] and replies.texts == ["half"] and replies.close and replies.connection_closed
    assert (replies.returncode, replies.stderr, replies.send_error) == (0, "well", None)
    assert len(replies.acquisition_times) == 24 and replies.sent is not None


def test_a_pipe_that_fails_says_so() -> None:
    replies = pipe("sys.exit('no such scan')", PAYLOAD * 20)
    assert replies.returncode == 1 and "no such scan" in replies.stderr and not replies.close
    assert replies.send_error is not None and replies.sent is None
    with pytest.raises(AssertionError, match="message 26952 from the server"):
        pipe("print('Hi there'); i.read()")
    with pytest.raises(AssertionError, match="bytes after close"):
        pipe("i.read(); o.write(answer + b'more')")
    with pytest.raises(TimeoutError, match=r"after 3 s: 2 images, a close message.*\n.*stays"):
        pipe("sys.stderr.write('stays'); sys.stderr.flush(); o.write(answer); o.flush(); time.sleep(60)", timeout=3)
    with pytest.raises(TimeoutError, match="0 images, no close"):  # waits for an end of stdin that does not come
        pipe("i.read(); o.write(answer)", timeout=1, half_close=False)
