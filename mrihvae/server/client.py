"""A client of ISMRMRD servers over TCP: sends a scan, and takes the images that come back."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass

from mrihvae.errors import InputError
from mrihvae.io.mrd.messages import Message, StreamError, read_messages

PORT = 9002  # the usual one
RECEIVED = 2**18  # bytes that are taken from the network at once
POLL = 0.25  # seconds in which it is noticed that nothing moves


@dataclass(frozen=True)
class Address:
    """Host and port of a server."""

    host: str
    port: int = PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read HOST, HOST:PORT or [HOST]:PORT.

    Raises
    ------
    InputError
        No host, or a port that is none.
    """
    host, separator, port = text.rpartition(":")
    if not separator or text.endswith("]"):
        host, port = text, str(PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"address '{text}': is not HOST:PORT; give, for example, 127.0.0.1:{PORT}")
    return Address(host, int(port))


class ServerLostError(InputError):
    """A server that goes away before its close message, or no longer answers."""


def exchange_messages(
    address: Address,
    messages: Iterable[bytes],
    timeout: float = 300.0,
    on_sent: Callable[[], object] = lambda: None,
) -> Generator[Message, None, None]:
    """Send messages to a server, and yield its answers meanwhile, up to its close message.

    Parameters
    ----------
    messages : as `mrihvae.io.mrd.write_messages.client_messages` gives them; an error in them is raised here
    timeout : seconds in which the server must take or send something
    on_sent : called after each message, from another thread

    Raises
    ------
    InputError
        Nothing listens there, or an error in the messages.
    ServerLostError
        Nothing moved for too long, answers are no messages, or the connection ended without a close message.
    """
    try:
        connection = socket.create_connection((address.host, address.port), timeout=timeout)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{address}: cannot be reached ({why}); check the address, and that a server runs") from error
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        exchange = _Exchange(connection, messages, timeout, on_sent)
        exchange.thread.start()
        try:
            closed = yield from read_messages(exchange.receive)
        except TimeoutError as error:
            raise ServerLostError(
                f"{address}: no reply for {timeout:g} s; see the server's log, or raise --timeout"
            ) from error
        except StreamError as error:
            raise exchange.failure or ServerLostError(f"{address}: {error}") from error
        finally:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # ends the sender, too
            exchange.thread.join()
    if exchange.failure is not None:
        raise exchange.failure
    if not closed:
        raise ServerLostError(f"{address}: ended the connection without a close message; see the server's log")


class _Exchange:
    """Both directions of a connection: a thread sends, for a server may answer while a scan is still being sent."""

    def __init__(
        self,
        connection: socket.socket,
        messages: Iterable[bytes],
        timeout: float,
        on_sent: Callable[[], object],
    ) -> None:
        self.failure: Exception | None = None  # of the messages themselves
        self.thread = threading.Thread(target=self._send, args=(messages, on_sent), daemon=True)
        self._connection, self._timeout = connection, timeout
        self._sender = connection.dup()  # a time-out of its own
        self._sender.settimeout(timeout)
        self._connection.settimeout(POLL)
        self._moved = time.monotonic()
        self._held = memoryview(b"")

    def receive(self, count: int) -> bytes:
        """Return at least one byte and at most `count`; none at the end."""
        while not self._held:
            try:
                self._held = memoryview(self._connection.recv(RECEIVED))
            except TimeoutError:
                if time.monotonic() - self._moved > self._timeout:
                    raise
                continue
            except ConnectionError:
                return b""
            self._moved = time.monotonic()
            if not self._held:
                return b""
        given, self._held = self._held[:count], self._held[count:]
        return bytes(given)

    def _send(self, messages: Iterable[bytes], on_sent: Callable[[], object]) -> None:
        with self._sender:
            try:
                for message in messages:
                    self._sender.sendall(message)
                    self._moved = time.monotonic()
                    on_sent()
            except OSError:
                return  # what the server said before it went is still to be read
            except Exception as error:
                self.failure = error
                with suppress(OSError):
                    self._sender.shutdown(socket.SHUT_RDWR)
