"""A server of the ISMRMRD protocol over TCP: each connection is a scan, whose images go back while it runs."""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from mrihvae.errors import InputError
from mrihvae.mrd_replies import ReplyWriter
from mrihvae.mrd_stream import Limits, Message, StreamError, read_messages
from mrihvae.online import Ready, respond

LOG = logging.getLogger("mrihvae.serve")
RECEIVED = 2**18  # bytes that are taken from the network at once
POLL = 0.25  # seconds in which a worker notices that the server stops
DRAINED = 2.0  # seconds for which bytes are thrown away that a client still sends after an error
GRACE = 8.0  # seconds that scans have to end in when the server stops


@dataclass(frozen=True)
class ServerSettings:
    """How a server listens.

    Attributes
    ----------
    host, port : where; port 0 takes one that is free
    connections : how many scans are served at once; further ones wait
    timeout : seconds in which a client must send its next message whole, and take a message
    limits : of one message
    """

    host: str = "127.0.0.1"
    port: int = 9002
    connections: int = 4
    timeout: float = 120.0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise InputError(f"port {self.port}: must be 0 to 65535")
        if self.connections < 1:
            raise InputError(f"connections {self.connections}: must be at least 1")
        if not 0 < self.timeout <= 86400:
            raise InputError(f"timeout {self.timeout}: must be above 0 and at most 86400 seconds")


class Server:
    """Listens from the moment it is made; `serve` answers until `stop` is called, from another thread or a signal.

    Raises
    ------
    InputError
        A host or port on which nothing can listen.
    """

    def __init__(self, ready: Ready, settings: ServerSettings | None = None) -> None:
        self.settings = settings or ServerSettings()
        self.ready = replace(ready, turn=threading.Lock())
        self._stopped = threading.Event()
        self._open: set[socket.socket] = set()
        host, port = self.settings.host, self.settings.port
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._listener = socket.create_server(address[:2], family=family, backlog=64)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"{host}:{port}: nothing can listen there ({reason}); choose another port") from error
        self._listener.settimeout(POLL)
        self.port = int(self._listener.getsockname()[1])

    def serve(self) -> None:
        """Answer until stopped; then let scans that run end, for a few seconds, and close."""
        # always the same threads: memory that they took once they use again
        workers = [
            threading.Thread(target=self._work, name=f"connection {k}", daemon=True)
            for k in range(self.settings.connections)
        ]
        for worker in workers:
            worker.start()
        while not self._stopped.wait(POLL):
            pass
        self._listener.close()
        deadline = time.monotonic() + GRACE
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        for connection in list(self._open):
            LOG.warning("a scan was cut off, for the server stops")
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for worker in workers:
            worker.join(1.0)

    def stop(self) -> None:
        """Ask the server to stop."""
        self._stopped.set()

    def _work(self) -> None:
        """Serve connections, one after another."""
        while not self._stopped.is_set():
            try:
                connection, address = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if not self._stopped.is_set():
                    LOG.error("no connection could be accepted: %s", error)
                    time.sleep(POLL)
                continue
            self._open.add(connection)
            try:
                self._answer(connection, f"{address[0]}:{address[1]}")
            except Exception:  # of one connection, whatever it is: the others go on
                LOG.exception("%s:%s: the connection failed", *address[:2])
            finally:
                self._open.discard(connection)
                connection.close()

    def _answer(self, connection: socket.socket, client: str) -> None:
        """Serve a scan, and end its connection so that the client gets all answers."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began, images = time.monotonic(), 0
        with _Sender(connection, self.settings.timeout) as sender:
            replies = ReplyWriter(sender.send)
            try:
                images = respond(self._messages(connection), self.ready, replies)
            except InputError as error:
                LOG.warning("%s: %s", client, error)
                replies.text(f"ERROR mrihvae: {error}")
            except ConnectionError as error:
                LOG.warning("%s: the client has gone (%s)", client, error)
            except Exception:
                LOG.exception("%s: the scan failed", client)
                replies.text("ERROR mrihvae: the reconstruction failed; see the server's log")
            replies.close()
        LOG.info("%s: %d images in %.2f s", client, images, time.monotonic() - began)
        _hang_up(connection)

    def _messages(self, connection: socket.socket) -> Iterator[Message]:
        """Give the messages of a client, each of which has its time."""
        receiver = _Receiver(connection)
        messages = read_messages(receiver.read, self.settings.limits)
        while True:
            receiver.deadline = time.monotonic() + self.settings.timeout
            try:
                message = next(messages, None)
            except TimeoutError as error:
                raise StreamError(
                    f"stream: no whole message came for {self.settings.timeout:g} s; the connection is closed"
                ) from error
            if message is None:
                return
            yield message


class _Receiver:
    """Takes bytes from a connection, up to a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._held = connection, b""
        self.deadline = 0.0

    def read(self, count: int) -> bytes:
        """Give at least one byte and at most `count`; none at the end."""
        if not self._held:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            self._held = self._connection.recv(RECEIVED)
        given, self._held = self._held[:count], self._held[count:]
        return given


class _Sender:
    """Sends messages from a thread of its own: a client may send a whole scan before it reads."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        self._connection = connection.dup()  # a time-out of its own
        self._connection.settimeout(timeout)
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    def __enter__(self) -> _Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._messages.put(None)
        self._thread.join()
        self._connection.close()

    def send(self, message: bytes) -> None:
        """Send a message, some time.

        Raises
        ------
        ConnectionError
            An earlier one could not be sent.
        """
        if self._failed is not None:
            raise ConnectionError(f"answers cannot be sent: {self._failed}")
        self._messages.put(message)

    def _run(self) -> None:
        while (message := self._messages.get()) is not None:
            if self._failed is not None:
                continue
            try:
                self._connection.sendall(message)
            except OSError as error:
                self._failed = error


def _hang_up(connection: socket.socket) -> None:
    """End a connection: what a client still sends is thrown away, for a reset would take answers from it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + DRAINED
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(RECEIVED):
                return
