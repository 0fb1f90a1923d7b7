"""Where clients are until they have sent a line: one thread keeps all of them, so that idle ones hold no place."""

from __future__ import annotations

import logging
import queue
import selectors
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from mrihvae.io.mrd.messages import BEFORE_LINES, ReplyWriter, message_size
from mrihvae.io.mrd.numbers import Number
from mrihvae.server.deadlines import Deadlines
from mrihvae.server.listener import POLL, ServerSettings

LOG = logging.getLogger("mrihvae.serve")
HELD = 2**17  # bytes of a waiting client: one that has sent more gets a place
PRESSED = 2.0  # seconds after which a client without a header makes room for another, where all room is taken
DRAINED = 2.0  # seconds in which a client must have sent something that got its last answer, or is left
SLOWEST = 2**10  # bytes that it must have sent in these
MOST_LEAVING = 256  # clients that got their last answer, and still send
LOGGED = 5.0  # seconds between two lines in the log about clients that were refused
TAKEN = 64  # connections that are accepted before others are looked at


@dataclass(eq=False)
class Guest:
    """A client that waits.

    Attributes
    ----------
    connection : with it
    address : of it, as logs name it
    deadlines : within which it must send its header and a line
    held : what it has sent
    whole : number of bytes of `held` that are whole messages
    """

    connection: socket.socket
    address: str
    deadlines: Deadlines
    held: bytearray = field(default_factory=bytearray)
    whole: int = 0


@dataclass(eq=False)
class Leaving:
    """A client that got its last answer: what it still sends is thrown away, for a reset would take answers from it."""

    connection: socket.socket
    until: float  # the end in any case
    checked: float  # when it must have sent something
    received: int = 0  # bytes since the last check


class Lobby:
    """Takes connections, and puts those in the queue `ready` that a worker should serve: their first line is there.

    Parameters
    ----------
    listener : a socket that listens
    settings : of the server
    """

    def __init__(self, listener: socket.socket, settings: ServerSettings) -> None:
        self.ready: queue.SimpleQueue[Guest] = queue.SimpleQueue()
        self._listener, self._settings = listener, settings
        self._left: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()  # by other threads
        self._guests: dict[Guest, None] = {}  # in the order in which they came
        self._leaving: dict[Leaving, None] = {}
        self._selector = selectors.DefaultSelector()
        self._closed = self._finished = False  # an Event's lock could be held when a signal comes
        self._swept = self._logged = 0.0
        self._refused = 0  # since the last line about it in the log
        self._thread = threading.Thread(target=self._run, name="lobby", daemon=True)

    def start(self) -> None:
        """Take connections from now on."""
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections, and end those that wait."""
        self._closed = True

    def finish(self, seconds: float) -> None:
        """Wait until those that are leaving have left, after `close`, once no others will `leave`."""
        self._finished = True
        self._thread.join(seconds)

    def leave(self, connection: socket.socket) -> None:
        """End a connection whose last answer was sent; from any thread."""
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        self._left.put(connection)

    def _run(self) -> None:
        while not (self._finished and not self._leaving and self._left.empty()):
            try:
                for key, _ in self._selector.select(POLL):
                    key.data()
                if time.monotonic() - self._swept > POLL:
                    self._sweep()
            except Exception:  # whatever it is: the server goes on
                LOG.exception("connections that wait failed")
                time.sleep(POLL)

    def _accept(self) -> None:
        """Take new connections."""
        for _ in range(TAKEN):
            if self._closed:
                return
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                LOG.error("no connection could be accepted: %s", error)
                self._selector.unregister(self._listener)  # until the next sweep
                return
            connection.setblocking(False)
            guest = Guest(connection, f"{address[0]}:{address[1]}", Deadlines(self._settings))
            if self._has_room():
                self._guests[guest] = None
                self._selector.register(connection, selectors.EVENT_READ, partial(self._receive, guest))
            else:
                self._refused += 1
                self._dismiss(guest, f"{self._settings.waiting} connections wait already; try again later")

    def _has_room(self) -> bool:
        """Return whether another client may wait, in place of one that has been idle for longest if need be."""
        if len(self._guests) + self.ready.qsize() < self._settings.waiting:
            return True
        guest = next((one for one in self._guests if self._is_idle(one)), None)  # the first are the oldest
        if guest is None:
            return False
        self._refused += 1
        self._dismiss(guest, "nothing useful came, and others wait; the connection is closed")
        return True

    def _is_idle(self, guest: Guest) -> bool:
        """Return whether a client has had its time, where all room is taken."""
        if not guest.deadlines.opened:
            return guest.deadlines.age > PRESSED
        try:
            guest.deadlines.left(others_wait=True)
        except TimeoutError:
            return True
        return False

    def _receive(self, guest: Guest) -> None:
        """Take what a client sent."""
        if guest not in self._guests:  # it was dismissed just now
            return
        try:
            received = guest.connection.recv(HELD - len(guest.held))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            LOG.warning("%s: the client has gone (%s)", guest.address, error)
            self._forget(guest)
            guest.connection.close()
            return
        if not received and not guest.held:  # a check of whether the port is open: nothing for a worker
            self._forget(guest)
            with suppress(OSError):
                ReplyWriter(guest.connection.send).close()
            guest.connection.close()
            return
        guest.held += received
        if not received or len(guest.held) >= HELD or self._is_ready(guest):
            self._forget(guest)
            self.ready.put(guest)

    def _is_ready(self, guest: Guest) -> bool:
        """Read on over whole messages; return whether a line, an image or something that is over at once is there."""
        while True:
            start = bytes(memoryview(guest.held)[guest.whole : guest.whole + 512])  # longer than heads of messages
            size = message_size(start, self._settings.limits)
            if size == 0:
                return True
            if size is None or len(guest.held) < guest.whole + size:
                if start:
                    guest.deadlines.enter()
                return False
            (number,) = struct.unpack_from("<H", start)
            if number not in BEFORE_LINES:
                return True
            guest.whole += size
            if number == Number.HEADER and not guest.deadlines.opened:
                guest.deadlines.progress(useful=False)
            guest.deadlines.begin()

    def _sweep(self) -> None:
        """Let those go whose time is over."""
        self._swept = now = time.monotonic()
        while not self._left.empty():
            self._see_off(self._left.get())
        for guest in list(self._guests):
            try:
                guest.deadlines.left(others_wait=False)
            except TimeoutError as error:
                self._dismiss(guest, f"{error}; the connection is closed", logged=True)
        for one in list(self._leaving):
            if now > one.checked:
                if one.received < SLOWEST or now > one.until:
                    self._end(one)
                one.checked, one.received = now + DRAINED, 0
        if self._refused and now - self._logged > LOGGED:
            LOG.warning("%d connections were refused or dropped, because too many wait", self._refused)
            self._refused, self._logged = 0, now
        if self._closed:
            self._clear()
        elif self._listener not in self._selector.get_map():
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _clear(self) -> None:
        """End all that wait, for the server stops."""
        with suppress(KeyError, ValueError):
            self._selector.unregister(self._listener)
        self._listener.close()
        for guest in list(self._guests):
            self._dismiss(guest, "the server stops")
        with suppress(queue.Empty):
            while True:
                guest = self.ready.get_nowait()
                LOG.warning("a scan was cut off because the server is stopping")
                self._dismiss(guest, "the server stops")

    def _dismiss(self, guest: Guest, reason: str, logged: bool = False) -> None:
        """Send a client a text and a close, and see it off."""
        if logged:
            LOG.warning("%s: stream: %s", guest.address, reason)
        self._forget(guest)
        guest.connection.setblocking(False)
        replies = ReplyWriter(guest.connection.send)  # so little need not wait, for nothing was sent before
        with suppress(OSError):
            replies.text(f"ERROR mrihvae: stream: {reason}")
            replies.close()
            guest.connection.shutdown(socket.SHUT_WR)
        self._see_off(guest.connection)

    def _forget(self, guest: Guest) -> None:
        """Watch a client no longer."""
        if guest in self._guests:
            del self._guests[guest]
            self._selector.unregister(guest.connection)

    def _see_off(self, connection: socket.socket) -> None:
        """Throw away what a client still sends, for a while."""
        if len(self._leaving) >= MOST_LEAVING:
            self._end(next(iter(self._leaving)))
        now = time.monotonic()
        one = Leaving(connection, now + self._settings.timeout, now + DRAINED)
        connection.setblocking(False)
        self._leaving[one] = None
        self._selector.register(connection, selectors.EVENT_READ, partial(self._drain, one))

    def _drain(self, one: Leaving) -> None:
        if one not in self._leaving:
            return
        try:
            received = len(one.connection.recv(HELD))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            received = 0
        one.received += received
        if not received:
            self._end(one)

    def _end(self, one: Leaving) -> None:
        if self._leaving.pop(one, self) is None:
            self._selector.unregister(one.connection)
            one.connection.close()
