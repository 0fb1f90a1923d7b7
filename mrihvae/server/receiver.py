"""Takes the bytes of a scan from its connection, within the client's deadlines."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from mrihvae.server.deadlines import Deadlines
from mrihvae.server.listener import POLL, ServerSettings

RECEIVED = 2**18  # bytes that are taken from the network at once


class Receiver:
    """Takes bytes from a connection.

    Parameters
    ----------
    connection : with a client
    settings : of the server
    others_wait : whether other scans wait for a place
    held : bytes that were taken already
    """

    def __init__(
        self, connection: socket.socket, settings: ServerSettings, others_wait: Callable[[], bool], held: bytes = b""
    ) -> None:
        self._connection, self._others_wait = connection, others_wait
        self._held = memoryview(held)  # a slice of it is no copy
        self.deadlines = Deadlines(settings)

    def read(self, count: int) -> bytes:
        """Return at least one byte and at most `count`; none at the end.

        Raises
        ------
        TimeoutError
            The client had time enough.
        ConnectionError
            The client is gone.
        """
        while not self._held:
            self._connection.settimeout(min(self.deadlines.left(self._others_wait()), POLL))
            try:
                self._held = memoryview(self._connection.recv(RECEIVED))
            except TimeoutError as error:
                if error.errno == errno.ETIMEDOUT:  # not ours, but the network's
                    raise ConnectionError("its machine does not answer") from error
                continue
            if not self._held:
                return b""
        self.deadlines.enter()
        given, self._held = self._held[:count], self._held[count:]
        return bytes(given)
