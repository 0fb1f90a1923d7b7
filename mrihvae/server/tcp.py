"""A server of the ISMRMRD protocol over TCP: each connection is a scan, whose images go back while it runs."""

from __future__ import annotations

import errno
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from mrihvae.errors import InputError
from mrihvae.io.mrd.messages import Config, Header, Message, Note, ReplyWriter, StreamError, one_line, read_messages
from mrihvae.server.listener import ServerSettings, is_awaited, keep_alive, listen
from mrihvae.server.session import Engine, reconstruct_stream

LOG = logging.getLogger("mrihvae.serve")
RECEIVED = 2**18  # bytes that are taken from the network at once
POLL = 0.25  # seconds in which a worker notices that the server stops
QUEUED = 2**30  # bytes of answers that wait for a client to take them
DRAINED = 2.0  # seconds without bytes after which nothing is expected of a client that got its last answer
GRACE = 8.0  # seconds that scans have to end in when the server stops
CUT = 1.0  # seconds that they have then, cut off


class Server:
    """Listens from the moment it is made; `serve` answers until `stop` is called, from another thread or a signal.

    Parameters
    ----------
    engine : reconstructs
    settings : see `ServerSettings`
    listener : listens already, as `mrihvae.server.listener.listen` gives it; left out, it is made

    Raises
    ------
    InputError
        A host or port on which nothing can listen.
    """

    def __init__(
        self, engine: Engine, settings: ServerSettings | None = None, listener: socket.socket | None = None
    ) -> None:
        self.settings = settings or ServerSettings()
        self._listener = listener or listen(self.settings)
        self._executor = engine.executor or ThreadPoolExecutor(1, "reconstruction")
        self.engine = replace(engine, executor=self._executor)
        self._stopped = False  # an Event's lock could be held when a signal comes
        self._open: set[socket.socket] = set()
        self._listener.settimeout(POLL)
        self.port = int(self._listener.getsockname()[1])

    def serve(self) -> bool:
        """Answer until stopped; then let scans that run end, for a few seconds, and close.

        Returns
        -------
        whether all have ended; what a thread computes cannot be interrupted
        """
        # always the same threads: memory that they took once they use again
        workers = [
            threading.Thread(target=self._work, name=f"connection {k}", daemon=True)
            for k in range(self.settings.connections)
        ]
        for worker in workers:
            worker.start()
        while not self._stopped:
            time.sleep(POLL)
        self._listener.close()
        _join(workers, GRACE)
        for connection in list(self._open):
            LOG.warning("a scan was cut off, for the server stops")
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        ended = _join(workers, CUT)
        self._executor.shutdown(wait=False)
        return ended

    def stop(self) -> None:
        """Ask the server to stop."""
        self._stopped = True

    def _work(self) -> None:
        """Serve connections, one after another."""
        while not self._stopped:
            try:
                connection, address = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if not self._stopped:
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
        keep_alive(connection)
        began, images = time.monotonic(), 0
        with _Sender(connection, self.settings.timeout) as sender:
            replies = ReplyWriter(sender.send)
            try:
                messages = self._messages(connection, client)
                images = reconstruct_stream(messages, self.engine, replies, sender.check)
                wrong = ""
            except InputError as error:
                wrong = one_line(error)
                LOG.warning("%s: %s", client, wrong)
            except ConnectionError as error:
                wrong = f"the client has gone ({error})"
                LOG.warning("%s: %s", client, wrong)
            except Exception:
                wrong = "the reconstruction failed; see the server's log"
                LOG.exception("%s: the scan failed", client)
            with suppress(ConnectionError):
                if wrong:
                    replies.text(f"ERROR mrihvae: {wrong}")
                replies.close()
        if not wrong:
            LOG.info("%s: %d images in %.2f s", client, images, time.monotonic() - began)
        _hang_up(connection, self.settings.timeout)

    def _messages(self, connection: socket.socket, client: str) -> Iterator[Message]:
        """Yield the messages of a client, each within its time-out; log an end without a close message."""
        receiver = _Receiver(connection, self.settings, self._others_wait)
        closed = False

        def noted() -> Iterator[Message]:
            nonlocal closed
            closed = yield from read_messages(receiver.read, self.settings.limits, receiver.begin)

        try:
            for message in noted():
                if isinstance(message, Header):
                    receiver.opened = True
                elif not isinstance(message, Config | Note):
                    receiver.useful = True
                yield message
        except TimeoutError as error:
            raise StreamError(f"stream: {error}; the connection is closed") from error
        if not closed:
            LOG.warning("%s: the stream ended without a close message", client)

    def _others_wait(self) -> bool:
        """Whether connections wait for one of those that are served to end."""
        all_taken = len(self._open) >= self.settings.connections
        return all_taken and not self._stopped and is_awaited(self._listener)


class _Receiver:
    """Takes bytes from a connection, those of a message within its time.

    Attributes
    ----------
    opened, useful : whether the header came, and whether a line or image did; set by who reads messages
    """

    def __init__(self, connection: socket.socket, settings: ServerSettings, others_wait: Callable[[], bool]) -> None:
        self._connection, self._settings, self._others_wait = connection, settings, others_wait
        self._held = memoryview(b"")  # a slice of it is no copy
        self._deadline = 0.0
        self._first_deadline = time.monotonic() + settings.first_timeout
        self.opened = self.useful = False

    def begin(self) -> None:
        """Begin a message."""
        self._deadline = time.monotonic() + self._settings.timeout

    def read(self, count: int) -> bytes:
        """Return at least one byte and at most `count`; none at the end.

        Raises
        ------
        TimeoutError
            Nothing came in time.
        ConnectionError
            The client is gone.
        """
        while not self._held:
            self._connection.settimeout(self._patience())
            try:
                self._held = memoryview(self._connection.recv(RECEIVED))
            except TimeoutError as error:
                if error.errno == errno.ETIMEDOUT:  # not ours, but the network's
                    raise ConnectionError("its machine does not answer") from error
                continue
            if not self._held:
                break
        given, self._held = self._held[:count], self._held[count:]
        return bytes(given)

    def _patience(self) -> float:
        """Compute for how many seconds to wait now; a TimeoutError where there was time enough."""
        now, first = time.monotonic(), self._settings.first_timeout
        left, left_first = self._deadline - now, self._first_deadline - now
        if left <= 0:
            raise TimeoutError(f"no whole message came for {self._settings.timeout:g} s")
        if self.useful:
            return left
        if not self.opened:
            if left_first <= 0:
                raise TimeoutError(f"no header came for {first:g} s")
            return min(left, left_first)
        if left_first <= 0 and self._others_wait():
            raise TimeoutError(f"no line came for {first:g} s, and others wait")
        return min(left, POLL)


class _Sender:
    """Sends messages from a thread of its own: a client may send a whole scan before it reads."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        self._connection = connection.dup()  # a time-out of its own
        self._connection.settimeout(timeout)
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._failed: Exception | None = None
        self._given = self._taken = 0  # bytes; each is counted by one thread alone
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    def __enter__(self) -> _Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._messages.put(None)
        self._thread.join()
        self._connection.close()

    def check(self) -> None:
        """Raise ConnectionError if the client has gone, so that nobody takes what would be computed."""
        if self._failed is None and (number := self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            self._failed = OSError(number, os.strerror(number))
        if self._failed is not None:
            raise ConnectionError(f"answers cannot be sent: {self._failed}")

    def send(self, message: bytes) -> None:
        """Send a message, some time.

        Raises
        ------
        ConnectionError
            An earlier one could not be sent, or too many wait.
        """
        if self._failed is not None:
            raise ConnectionError(f"answers cannot be sent: {self._failed}")
        self._given += len(message)
        if self._given - self._taken > QUEUED:
            raise ConnectionError(f"answers of more than {QUEUED} bytes were not taken")
        self._messages.put(message)

    def _run(self) -> None:
        while (message := self._messages.get()) is not None:
            if self._failed is not None:
                continue
            try:
                self._connection.sendall(message)
                self._taken += len(message)
            except OSError as error:
                self._failed = error


def _hang_up(connection: socket.socket, timeout: float) -> None:
    """End a connection: what a client still sends is thrown away, for a reset would take answers from it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(min(left, DRAINED))
            if not connection.recv(RECEIVED):
                return


def _join(workers: list[threading.Thread], seconds: float) -> bool:
    """Wait for all of them together; return whether they have ended."""
    deadline = time.monotonic() + seconds
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    return not any(worker.is_alive() for worker in workers)
