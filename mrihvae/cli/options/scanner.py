"""Options of commands. Scanners."""

from __future__ import annotations

from mrihvae.cli.options.common import DEVICE, PIXEL_TYPE, PROTOCOL
from mrihvae.cli.sections import EXPERT, FILES, Options
from mrihvae.server.request import STORED


class Serve(Options):
    """reconstruct scans as a scanner sends them over TCP (MRD)

    Example:
      mrihvae serve --host 0.0.0.0 --device cuda
    """

    host: str = FILES("address to listen on; 0.0.0.0 for all, without protection", "127.0.0.1")
    port: int = FILES("port to listen on; 0 for one that is free", 9002)
    protocol: str | None = PROTOCOL()
    pixels: str = PIXEL_TYPE(STORED)
    max_connections: int = EXPERT("scans at once; further ones wait", 4)
    max_memory: float = EXPERT("GiB of k-space that are held of a scan at most", 8.0)
    timeout: float = EXPERT("seconds within which a client must send its next message", 300.0)
    first_timeout: float = EXPERT("seconds within which a client must send its header", 30.0)
    device: str = DEVICE("cpu")


class Filter(Options):
    """reconstruct a scan from standard input to standard output (MRD)

    Example:
      mrihvae filter < scan.bin > images.bin
    """

    protocol: str | None = PROTOCOL()
    pixels: str = PIXEL_TYPE(STORED)
    device: str = DEVICE("cpu")
