"""Sends answers from a thread of its own: a client may send a whole scan before it reads."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from mrihvae.server.budget import Budget
from mrihvae.server.listener import POLL, ServerSettings

QUEUED = 2**30  # bytes of answers that wait for a client to take them
SMALL = 2**12  # bytes of a message that a budget does not count, so that errors reach the client


class Sender:
    """Sends messages, in order; at its end the client has a limited time for those that wait.

    Parameters
    ----------
    connection : with a client
    settings : of the server
    others_wait : whether other scans wait for a place
    budget : counts the answers that wait
    """

    def __init__(
        self, connection: socket.socket, settings: ServerSettings, others_wait: Callable[[], bool], budget: Budget
    ) -> None:
        self._connection = connection.dup()  # a time-out of its own
        self._connection.settimeout(settings.timeout)
        self._settings, self._others_wait, self._budget = settings, others_wait, budget
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._failed: Exception | None = None
        self._given = self._taken = 0  # bytes; each is counted by one thread alone
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._messages.put(None)
        began = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(POLL)
            limit = self._settings.idle_timeout if self._others_wait() else self._settings.timeout
            if time.monotonic() - began > min(limit, self._settings.timeout):
                with suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)  # ends the thread, too
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
        StreamError
            The answers that wait for all clients are too many.
        """
        if self._failed is not None:
            raise ConnectionError(f"answers cannot be sent: {self._failed}")
        if self._given + len(message) - self._taken > QUEUED:
            raise ConnectionError(f"answers of more than {QUEUED} bytes were not taken")
        if len(message) > SMALL:
            self._budget.take(len(message))
        self._given += len(message)
        self._messages.put(message)

    def _run(self) -> None:
        while (message := self._messages.get()) is not None:
            try:
                if self._failed is None:
                    self._connection.sendall(message)
            except OSError as error:
                self._failed = error
            self._taken += len(message)
            if len(message) > SMALL:
                self._budget.give(len(message))
