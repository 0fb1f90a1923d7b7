"""The client: sends while it receives, and says so where a server is not there, goes away or is silent."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

pytest.importorskip("ismrmrd")

from mrihvae.errors import InputError
from mrihvae.io.mrd.messages import Note, ReceivedImage
from mrihvae.server import client
from mrihvae.server.client import Address, ServerLostError, exchange_messages, parse_address
from tests.support import mrd
from tests.support.serving import HOST, scan, serving, stream


@pytest.mark.parametrize(
    "text, host, port",
    [
        ("a:1", "a", 1),
        ("a", "a", 9002),
        ("[::1]:7", "::1", 7),
        ("[::1]", "::1", 9002),
        ("10.0.0.1:65535", "10.0.0.1", 65535),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)
    assert parse_address(str(Address(host, port))) == Address(host, port)


@pytest.mark.parametrize("text", ["", ":1", "a:", "a:b", "a:0", "a:65536", "a:-1", "[]:1"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(InputError, match="is not HOST:PORT"):
        parse_address(text)


def test_images_come_while_lines_are_sent() -> None:
    xml, lines = scan(slices=2)
    pieces = [b"".join(map(mrd.acquisition, lines[k : k + 24])) for k in (0, 24)]
    first = threading.Event()

    def messages() -> Iterator[bytes]:
        yield stream(xml, [], closing=False) + pieces[0]
        assert first.wait(10)
        yield pieces[1] + mrd.close()

    counted = itertools.count()
    images = []
    with serving() as running:
        answers = exchange_messages(Address(HOST, running.port), messages(), 10, lambda: next(counted))
        for answer in answers:
            if isinstance(answer, ReceivedImage):
                images.append(answer.head.slice)
                first.set()
    assert images == [0, 1] and next(counted) == 2


def test_errors_of_the_server_are_texts() -> None:
    with serving() as running:
        (answer,) = exchange_messages(Address(HOST, running.port), [mrd.header("no XML"), mrd.close()], 10)
    assert isinstance(answer, Note) and answer.text.startswith("ERROR mrihvae: stream: the header is not XML")


def test_a_long_scan_after_an_error_is_not_sent_to_its_end() -> None:
    line = scan(slices=1)[1][0]
    sent = 0

    def messages() -> Iterator[bytes]:
        nonlocal sent
        yield mrd.header("no XML") + mrd.acquisition(line)
        while sent < 10**6:
            yield mrd.acquisition(line) * 100
            sent += 1

    with serving() as running:
        answers = list(exchange_messages(Address(HOST, running.port), messages(), 10))
    assert len(answers) == 1 and sent < 10**5


@contextmanager
def answering(payload: bytes | None) -> Iterator[int]:
    """Listen once: take what comes, send `payload` and hang up; None is silence."""
    with socket.create_server((HOST, 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.recv(1)
                if payload is None:
                    while connection.recv(2**16):
                        pass
                connection.sendall(payload or b"")
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(2**16):
                    pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize(
    "payload, words",
    [
        (b"", "ended the connection without a close message"),
        (mrd.text("INFO x"), "ended the connection without a close message"),
        (mrd.text("INFO x")[:-1], "stream: ended within a text"),
        (b"\7\7", "stream: message 1799 is not expected here"),
    ],
)
def test_servers_that_go_away(payload: bytes, words: str) -> None:
    with answering(payload) as port:
        with pytest.raises(ServerLostError, match=words) as caught:
            list(exchange_messages(Address(HOST, port), [mrd.close()], 10))
        assert str(caught.value).startswith(f"{HOST}:{port}: ")


def test_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "POLL", 0.05)
    with answering(None) as port:
        began = time.monotonic()
        with pytest.raises(ServerLostError, match=r"no reply for 0.3 s; see the server's log, or raise --timeout"):
            list(exchange_messages(Address(HOST, port), [mrd.close()], 0.3))
        assert 0.3 <= time.monotonic() - began < 5


def test_nobody_listens() -> None:
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(InputError, match=rf"^{HOST}:{port}: cannot be reached \(Connection refused\)"):
        list(exchange_messages(Address(HOST, port), [], 1))
    with pytest.raises(InputError, match=r"no\.such\.host\.invalid:1: cannot be reached"):
        list(exchange_messages(Address("no.such.host.invalid", 1), [], 1))


def test_errors_in_the_messages_are_raised() -> None:
    def messages() -> Iterator[bytes]:
        yield stream(*scan(slices=1), closing=False)
        raise InputError("scan.h5: line 3 is damaged")

    with serving() as running, pytest.raises(InputError, match="line 3 is damaged"):
        list(exchange_messages(Address(HOST, running.port), messages(), 10))
