"""A server of the ISMRMRD protocol over TCP: each connection is a scan, whose images go back while it runs."""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from mrihvae.errors import InputError
from mrihvae.io.mrd.messages import Config, Header, Message, Note, ReplyWriter, StreamError, one_line, read_messages
from mrihvae.server.engine import Engine
from mrihvae.server.listener import POLL, ServerSettings, allow_files, keep_alive, listen
from mrihvae.server.lobby import Guest, Lobby
from mrihvae.server.receiver import Receiver
from mrihvae.server.sender import Sender
from mrihvae.server.session import reconstruct_stream
from mrihvae.utils.text import counted

LOG = logging.getLogger("mrihvae.serve")
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
        self._lobby = Lobby(self._listener, self.settings)
        self.port = int(self._listener.getsockname()[1])

    def serve(self) -> bool:
        """Answer until stopped; then let scans that run end, for a few seconds, and close.

        Returns
        -------
        whether all have ended; what a thread computes cannot be interrupted
        """
        allow_files(self.settings)
        self._lobby.start()
        # always the same threads: memory that they took once they use again
        workers = [
            threading.Thread(target=self._work, name=f"connection {k}", daemon=True)
            for k in range(self.settings.connections)
        ]
        for worker in workers:
            worker.start()
        while not self._stopped:
            time.sleep(POLL)
        self._lobby.close()
        _join(workers, GRACE)
        for connection in list(self._open):
            LOG.warning("a scan was cut off because the server is stopping")
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        ended = _join(workers, CUT)
        self._lobby.finish(CUT)
        self._executor.shutdown(wait=False)
        return ended

    def stop(self) -> None:
        """Ask the server to stop."""
        self._stopped = True

    def _work(self) -> None:
        """Serve connections, one after another."""
        while not self._stopped:
            try:
                guest = self._lobby.ready.get(timeout=POLL)
            except queue.Empty:
                continue
            self._open.add(guest.connection)
            try:
                self._answer(guest)
            except Exception:  # of one connection, whatever it is: the others go on
                LOG.exception("%s: the connection failed", guest.address)
            finally:
                self._open.discard(guest.connection)
                self._lobby.leave(guest.connection)

    def _answer(self, guest: Guest) -> None:
        """Serve a scan, and end its connection so that the client gets all answers."""
        connection, client = guest.connection, guest.address
        connection.settimeout(POLL)
        with suppress(OSError):  # it may be gone already
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(connection)
        began, images = time.monotonic(), 0
        with Sender(connection, self.settings, self._others_wait, self.engine.budget) as sender:
            replies = ReplyWriter(sender.send)
            try:
                messages = self._messages(guest)
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
            seconds = time.monotonic() - began
            values = {"client": client, "images": images, "seconds": round(seconds, 3)}
            text = "%s: %s in %.2f s"
            LOG.info(text, client, counted(images, "image"), seconds, extra={"event": "scan", "values": values})

    def _messages(self, guest: Guest) -> Iterator[Message]:
        """Yield the messages of a client, each within its deadlines; log an end without a close message."""
        receiver = Receiver(guest.connection, self.settings, self._others_wait, bytes(guest.held))
        guest.held.clear()
        deadlines, closed = receiver.deadlines, False

        def noted() -> Iterator[Message]:
            nonlocal closed
            closed = yield from read_messages(receiver.read, self.settings.limits, deadlines.begin)

        try:
            for message in noted():
                if not isinstance(message, Config | Note):
                    deadlines.progress(useful=not isinstance(message, Header))
                yield message
        except TimeoutError as error:
            raise StreamError(f"stream: {error}; the connection is closed") from error
        if not closed:
            LOG.warning("%s: the stream ended without a close message", guest.address)

    def _others_wait(self) -> bool:
        """Whether scans wait for one of those that are served to end."""
        return not self._stopped and not self._lobby.ready.empty()


def _join(workers: list[threading.Thread], seconds: float) -> bool:
    """Wait for all of them together; return whether they have ended."""
    deadline = time.monotonic() + seconds
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    return not any(worker.is_alive() for worker in workers)
