"""Where a server listens, and for how long it waits for clients; without torch, so that it listens soon."""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress
from dataclasses import dataclass, field

from mrihvae.errors import InputError
from mrihvae.io.mrd.messages import Limits

TEXT = 2**22  # bytes of a header or text: a longer one would take seconds to read, in which others wait
BACKLOG = 64  # connections that wait
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # s, s and number of probes: a minute in all


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    Attributes
    ----------
    host, port : address to listen on; port 0 takes a free one
    connections : number of scans that are served at once; further ones wait
    timeout : seconds in which a client must send its next message whole, and take a message
    first_timeout : seconds in which its header must be there, and where others wait, its first line or image
    limits : of one message
    """

    host: str = "127.0.0.1"
    port: int = 9002
    connections: int = 4
    timeout: float = 120.0
    first_timeout: float = 30.0
    limits: Limits = field(default_factory=lambda: Limits(text=TEXT))

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise InputError(f"port {self.port}: must be 0 to 65535")
        if self.connections < 1:
            raise InputError(f"max-connections {self.connections}: must be at least 1")
        for name, value in (("timeout", self.timeout), ("first-timeout", self.first_timeout)):
            if not 0 < value <= 86400:
                raise InputError(f"{name} {value}: must be above 0 and at most 86400 seconds")


def listen(settings: ServerSettings) -> socket.socket:
    """Return a socket that listens; connections wait until a server takes them.

    Raises
    ------
    InputError
        A host or port on which nothing can listen.
    """
    host, port = settings.host, settings.port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{host}:{port}: nothing can listen there ({reason}); choose another") from error


def is_awaited(listener: socket.socket) -> bool:
    """Return whether a connection waits to be taken."""
    with suppress(OSError, ValueError), selectors.DefaultSelector() as selector:  # it may be closed just now
        selector.register(listener, selectors.EVENT_READ)
        return bool(selector.select(0))
    return False


def keep_alive(connection: socket.socket) -> None:
    """Have the network notice that a client has gone without a word, as when its machine is switched off."""
    with suppress(OSError):  # the connection may be gone already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):  # not everywhere
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
