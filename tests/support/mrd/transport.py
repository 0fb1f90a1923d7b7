"""Sends streams to MRD servers, by TCP or through a pipe, and receives what they answer at the same time."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.mrd.messages import ACQUISITION, Image, Read, read_replies, split

Call = Callable[..., Any]


@dataclass(eq=False)
class Replies:
    """What a server sent for a stream, and when (perf_counter, seconds)."""

    started: float  # connected
    messages: list[Image | str] = field(default_factory=list)
    image_times: list[float] = field(default_factory=list)
    acquisition_times: list[float] = field(default_factory=list)  # when the last byte of each was handed over
    sent: float | None = None  # the last byte, unless sending failed
    finished: float = 0.0  # the end of the server's stream
    close: bool = False  # a close message came
    connection_closed: bool = False  # the server ended its stream, after the close message if one came
    reset: bool = False  # by resetting the connection
    send_error: str | None = None
    returncode: int | None = None  # of the command, and what it wrote to stderr
    stderr: str = ""

    @property
    def images(self) -> list[Image]:
        return [message for message in self.messages if isinstance(message, Image)]

    @property
    def texts(self) -> list[str]:
        return [message for message in self.messages if isinstance(message, str)]

    def receive(self, read: Read, on_image: Call | None) -> None:
        """Take what comes until a close message or the end."""
        for message in read_replies(read):
            if message is None:
                self.close = True
                break
            self.messages.append(message)
            if isinstance(message, Image):
                self.image_times.append(time.perf_counter())
                if on_image is not None:
                    on_image(message)
        self.finished = time.perf_counter()

    def __str__(self) -> str:
        ends = "a" if self.close else "no"
        came = f"{len(self.images)} images, {ends} close message and the texts {self.texts} had come"
        return f"{came}, {len(self.acquisition_times)} lines sent; stderr:\n{self.stderr}"


def _send(
    replies: Replies, payload: bytes, chunk: int | None, delay: float, write: Call, finish: Call | None
) -> threading.Thread:
    """Start to write a payload: message by message, or in pieces of `chunk` bytes, with `delay` seconds between."""
    try:
        messages = split(payload)
    except AssertionError:  # a broken stream goes in one piece
        messages = []
    lines = [message.end for message in messages if message.identifier == ACQUISITION]
    ends = {message.end for message in messages} if chunk is None else set(range(chunk, len(payload), chunk))

    def run() -> None:
        start, view, times = 0, memoryview(payload), replies.acquisition_times
        try:
            for end in sorted(ends | {len(payload)}):
                time.sleep(delay if start else 0)
                write(view[start:end])
                times += [time.perf_counter()] * (bisect_right(lines, end) - len(times))
                start = end
            replies.sent = time.perf_counter()
            if finish is not None:
                finish()
        except (OSError, ValueError) as e:  # the server went away, or the receiver gave up
            replies.send_error = f"{type(e).__name__}: {e}"

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def _wait(source: Any, deadline: float) -> None:
    """Wait until something can be read, a TimeoutError at the deadline."""
    if not select.select([source], [], [], max(deadline - time.perf_counter(), 0))[0]:
        raise TimeoutError


def reconstruct(
    host: str,
    port: int,
    payload: bytes,
    timeout: float = 60,
    chunk: int | None = None,
    delay: float = 0,
    on_image: Call | None = None,
    *,
    half_close: bool = False,
    linger: float = 10,
) -> Replies:
    """Send a stream to a server and receive what it answers, both at once.

    Pieces are of `chunk` bytes, or messages if None, with `delay` seconds between. `on_image` is called with each
    image when it has arrived. With `half_close`, sending is shut down behind the payload, so that a server need not
    wait for more of a cut stream. A server has `linger` seconds to close the connection after its close message. If
    all takes longer than `timeout` seconds, a TimeoutError says what had come.
    """
    deadline = time.perf_counter() + timeout
    with socket.create_connection((host, port), timeout=timeout) as connection:
        replies = Replies(time.perf_counter())
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def read(size: int) -> bytes:
            _wait(connection, deadline)
            try:
                return connection.recv(size)
            except ConnectionError:
                replies.reset = True
                return b""

        finish = partial(connection.shutdown, socket.SHUT_WR) if half_close else None
        sender = _send(replies, payload, chunk, delay, connection.sendall, finish)
        try:
            replies.receive(read, on_image)
            deadline = min(deadline, time.perf_counter() + linger)
            with suppress(TimeoutError):
                assert not replies.close or not read(1), "bytes after close"
                replies.connection_closed = True
        except TimeoutError as e:
            raise TimeoutError(f"after {timeout:g} s: {replies}") from e
        finally:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            sender.join(10)
    return replies


def reconstruct_pipe(
    command: Sequence[str],
    payload: bytes,
    timeout: float = 60,
    chunk: int | None = None,
    delay: float = 0,
    on_image: Call | None = None,
    *,
    half_close: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Replies:
    """Send a stream to a command's stdin and receive what it answers on stdout, as `reconstruct` does.

    Without `half_close`, stdin stays open until the command has ended its output.
    """
    pipe, deadline = subprocess.PIPE, time.perf_counter() + timeout
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(list(command), stdin=pipe, stdout=pipe, stderr=errors, bufsize=0, env=env, cwd=cwd) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        replies, stdin, output = Replies(time.perf_counter()), process.stdin, process.stdout.fileno()

        def read(size: int) -> bytes:
            _wait(output, deadline)
            return os.read(output, size)

        sender = _send(replies, payload, chunk, delay, stdin.write, stdin.close if half_close else None)
        late = None
        try:
            replies.receive(read, on_image)
            assert not read(1), "bytes after close"
            replies.connection_closed = True
            process.stdout.close()
            sender.join(max(deadline - time.perf_counter(), 0))
            stdin.close()
            replies.returncode = process.wait(max(deadline - time.perf_counter(), 0))
        except (TimeoutError, subprocess.TimeoutExpired) as e:
            late = e
        finally:
            process.kill()
            sender.join(10)
            errors.seek(0)
            replies.stderr = errors.read().decode(errors="replace")
        if late is not None:
            raise TimeoutError(f"after {timeout:g} s: {replies}") from late
    return replies
