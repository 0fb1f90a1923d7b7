"""`mrihvae filter`: a scan as a stream of messages on standard input or a pipe, its images on another."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrihvae.cli import options
from mrihvae.cli.console import show_error
from mrihvae.errors import InputError
from mrihvae.io.mrd.extra import require_ismrmrd
from mrihvae.utils.files import atomic_write
from mrihvae.utils.text import printable

if TYPE_CHECKING:
    import ismrmrd

    from mrihvae.io.mrd.messages import Message, ReceivedImage

Read = Callable[[int], bytes]
Write = Callable[[bytes], object]


def run(arguments: options.Filter) -> int:
    """Reconstruct the scan; a mistake is reported in the stream, too.

    The status is 1 if the stream was empty or cut, had no image, or nobody takes the images any more.
    """
    require_ismrmrd("mrihvae filter")
    try:
        with _input(arguments.input) as read, _output(arguments.output) as write:
            return _filter(arguments, read, write)
    except BrokenPipeError:
        if arguments.output is None:  # what is still in its buffer cannot be written at the end, either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail("the program that reads the images has ended; see its messages")


def _filter(arguments: options.Filter, read: Read, write: Write) -> int:
    from mrihvae.io.mrd.messages import one_line
    from mrihvae.io.mrd.noise_files import read_noise_lines
    from mrihvae.server.engine import load_engine
    from mrihvae.server.session import reconstruct_stream

    replies = _Replies(write)
    stream = _Stream(read, replies)
    try:
        engine = load_engine(arguments.protocol, arguments.device)
        noise = [] if arguments.noise is None else read_noise_lines(arguments.noise)
        request = replace(engine.request, pixels=arguments.pixels)
        reconstruct_stream(_with_noise(stream.messages(), noise), replace(engine, request=request), replies)
        if problem := stream.problem():
            replies.fail(problem)
            return _fail(problem)
        replies.close()
    except BrokenPipeError:
        raise
    except InputError as error:
        replies.fail(one_line(error))
        raise
    except Exception:
        replies.fail("the reconstruction failed")
        raise
    return 0


class _Replies:
    """Answers in the version of the stream; texts of version 2, which has none, go to standard error."""

    def __init__(self, write: Write) -> None:
        from mrihvae.io.mrd.messages import ReplyWriter

        self.write, self.images = write, 0
        self.second: Any = None  # of version 2
        self._first = ReplyWriter(write)

    def image(self, image: ismrmrd.Image | ReceivedImage) -> None:
        """Write an image."""
        self.images += 1
        (self.second or self._first).image(image)

    def text(self, text: str) -> None:
        """Write a text."""
        if self.second is None:
            self._first.text(text)
        else:
            print(printable(text), file=sys.stderr)

    def fail(self, problem: str) -> None:
        """Write what went wrong, and that nothing follows; version 2 shows it by a stream that is cut."""
        if self.second is None:
            self._first.text(f"ERROR mrihvae: {problem}")
            self._first.close()

    def close(self) -> None:
        """Write that nothing follows."""
        (self.second or self._first).close()


class _Stream:
    """The messages of a stream, and how it ended."""

    def __init__(self, read: Read, replies: _Replies) -> None:
        self._read, self._replies = read, replies
        self._empty, self._whole = True, False

    def messages(self) -> Iterator[Message]:
        """Yield the messages of a stream of either version, which its first byte tells."""
        import ismrmrd

        for message in self._until_closed():
            self._empty = False
            if isinstance(message, ismrmrd.Acquisition) and message.is_flag_set(ismrmrd.ACQ_LAST_IN_MEASUREMENT):
                self._whole = True
            yield message

    def problem(self) -> str:
        """Say what is wrong with a stream that was read to its end; nothing if all is well."""
        if self._empty:
            return "stream: is empty; send a header and lines"
        if not self._whole:
            return (
                "stream: ended with neither its last line nor a close message; it may be truncated, and images "
                "incomplete"
            )
        if not self._replies.images:
            return "stream: has no image lines; there is nothing to reconstruct"
        return ""

    def _until_closed(self) -> Generator[Message, None, None]:
        from mrihvae.io.mrd.messages import read_messages
        from mrihvae.io.mrd.v2 import StreamV2, is_v2

        start = [self._read(1)]

        def read(count: int) -> bytes:
            return start.pop() if start else self._read(count)

        if is_v2(start[0]):
            self._replies.second = stream = StreamV2(read, self._replies.write)
            yield from stream.messages()
            closed = True  # else it is an error
        else:
            closed = yield from read_messages(read)
        self._whole |= closed


def _with_noise(messages: Iterable[Message], noise: list[ismrmrd.Acquisition]) -> Iterator[Message]:
    """Put a noise scan behind the header, in place of the stream's own."""
    import ismrmrd

    from mrihvae.io.mrd.messages import Header

    for message in messages:
        own = isinstance(message, ismrmrd.Acquisition) and message.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        if not (own and noise):
            yield message
        if isinstance(message, Header):
            yield from noise


@contextmanager
def _input(path: Path | None) -> Iterator[Read]:
    """Open a file or named pipe to read from; it waits for whoever writes a pipe."""
    if path is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("standard input: is a terminal, or closed; pipe a scan into it, or give --input")
        yield partial(os.read, sys.stdin.fileno())
        return
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a named pipe or a file") from error
    with file:
        yield partial(os.read, file.fileno())


@contextmanager
def _output(path: Path | None) -> Iterator[Write]:
    """Open a named pipe or a file to write to; a file is in its place once it is whole."""
    if path is None:
        if sys.stdout is None:
            raise InputError("standard output: is closed; connect it, or give --output")
        output = sys.stdout.buffer

        def write(message: bytes) -> None:
            output.write(message)
            output.flush()  # the next program waits for it

        yield write
    elif path.exists() and not path.is_file():
        try:
            pipe = path.open("wb", buffering=0)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); give a named pipe or a file") from error
        with pipe:
            yield partial(_write_all, pipe)
    else:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            yield file.write


def _write_all(pipe: Any, message: bytes) -> None:
    """Write a message whole: a pipe may take a part of it at a time."""
    rest = memoryview(message)
    while rest:
        rest = rest[pipe.write(rest) :]


def _fail(problem: str) -> int:
    """Print what is wrong in one line, and return the status."""
    show_error(problem)
    return 1
