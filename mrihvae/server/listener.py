"""Where a server listens, and for how long it waits for clients; without torch, so that it listens soon."""

from __future__ import annotations

import ipaddress
import logging
import selectors
import socket
from contextlib import suppress
from dataclasses import dataclass, field

from mrihvae.errors import InputError
from mrihvae.io.mrd.messages import Limits

LOG = logging.getLogger("mrihvae.serve")
TEXT = 2**22  # bytes of a header or text: a longer one would take seconds to read, in which others wait
BACKLOG = 1024  # connections that the network holds until the server takes them
POLL = 0.25  # seconds in which threads notice what has changed
OWN_FILES = 256  # open files of the process itself, and of connections that are about to end
FILES_PER_SCAN = 2  # a connection, and its copy for answers
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # s, s and number of probes: a minute in all


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    Attributes
    ----------
    host, port : address to listen on; port 0 takes a free one
    connections : number of scans that are served at once; further ones wait
    timeout : seconds in which a client must send its next message, its next line, and take a message
    first_timeout : seconds in which its header must be there, and where others wait, its first line or image
    idle_timeout : seconds in which a client must send its next line where others wait
    message_timeout : seconds in which a message must be whole that has begun
    scan_timeout : seconds in which a scan must be over
    waiting : number of clients that wait for a place, or have not sent a line; further ones are refused
    allow_remote : whether `host` may be an address that other machines reach
    limits : of one message
    """

    host: str = "127.0.0.1"
    port: int = 9002
    connections: int = 4
    timeout: float = 120.0
    first_timeout: float = 30.0
    idle_timeout: float = 60.0
    message_timeout: float = 60.0
    scan_timeout: float = 14400.0
    waiting: int = 1024
    allow_remote: bool = False
    limits: Limits = field(default_factory=lambda: Limits(text=TEXT))

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise InputError(f"port {self.port}: must be 0 to 65535")
        for name, count in (("max-connections", self.connections), ("max-waiting", self.waiting)):
            if count < 1:
                raise InputError(f"{name} {count}: must be at least 1")
        for name in ("timeout", "first-timeout", "idle-timeout", "message-timeout", "scan-timeout"):
            value = getattr(self, name.replace("-", "_"))
            if not 0 < value <= 86400:
                raise InputError(f"{name} {value}: must be above 0 and at most 86400 seconds")


def listen(settings: ServerSettings) -> socket.socket:
    """Return a socket that listens; connections wait until a server takes them.

    Raises
    ------
    InputError
        A host or port on which nothing can listen, or a host that other machines reach, without `allow_remote`.
    """
    host, port = settings.host, settings.port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if not ipaddress.ip_address(address[0]).is_loopback:
            _warn_of_remote(settings)
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except InputError:
        raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{host}:{port}: nothing can listen there ({reason}); choose another") from error


def _warn_of_remote(settings: ServerSettings) -> None:
    """Warn of a host that other machines reach, or refuse it."""
    reached = f"host {settings.host}: other machines can reach it, and MRD has neither a password nor encryption"
    if not settings.allow_remote:
        raise InputError(
            f"{reached}; use 127.0.0.1 behind SSH or TLS (docs/scanner.md), or add --allow-remote in a network that "
            "you trust"
        )
    LOG.warning("%s: set up a firewall that admits only the scanner", reached)


def allow_files(settings: ServerSettings) -> None:
    """Raise the limit of open files, within that of the system, to what connections need; warn if it is less."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = OWN_FILES + settings.waiting + FILES_PER_SCAN * settings.connections
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= needed:
        return
    allowed = needed if hard == unlimited else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        LOG.warning(
            "open files are limited to %d, and %d connections may need %d: raise the limit (ulimit -Hn), or lower "
            "--max-waiting",
            allowed, settings.waiting, needed,
        )  # fmt: skip


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
