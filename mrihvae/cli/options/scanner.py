"""Options of commands. Scanners."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts import Token

from mrihvae.cli.options.common import DEVICE, KEY, LOG_JSON, OUTPUT, OVERWRITE, PIXEL_TYPE, PROTOCOL, QUIET, UNCENTERED
from mrihvae.cli.sections import EXPERT, FILES, METHOD, SEVERAL, Options
from mrihvae.server.request import STORED


class Serve(Options):
    """reconstruct scans as a scanner sends them over TCP (MRD)

    Example:
      mrihvae serve --device cuda
      mrihvae serve --host 0.0.0.0 --allow-remote
    """

    host: str = FILES("address to listen on; 0.0.0.0 for all, with --allow-remote", "127.0.0.1")
    allow_remote: bool = FILES("listen where other machines connect, without a password or encryption", False)
    port: int = FILES("port to listen on; 0 for one that is free", 9002)
    protocol: str | None = PROTOCOL()
    pixels: str = PIXEL_TYPE(STORED)
    max_connections: int = EXPERT("scans at once; further ones wait", 4)
    max_waiting: int = EXPERT("connections that wait, or have sent no line; further ones are refused", 1024)
    max_memory: float = EXPERT("GiB of k-space that are held of a scan at most", 8.0)
    max_total_memory: float | None = EXPERT(
        "GiB of k-space and images that are held of all scans at most", None, "twice --max-memory"
    )
    timeout: float = EXPERT("seconds within which a client must send its next line", 300.0)
    first_timeout: float = EXPERT("seconds within which a client must send its header", 30.0)
    idle_timeout: float = EXPERT("seconds within which a client must send its next line if others wait", 60.0)
    scan_timeout: float = EXPERT("seconds within which a scan must be over", 14400.0)
    device: str = DEVICE("cpu")
    log_json: Path | None = LOG_JSON()


class Filter(Options):
    """reconstruct a scan between pipes or files, by default standard input and output (MRD)

    Examples:
      mrihvae filter < scan.bin > images.bin
      mrihvae filter --input scan.pipe --output images.pipe --noise noise.bin
    """

    input: Path | None = FILES("named pipe or file to read the scan from", None, "standard input")
    output: Path | None = OUTPUT("named pipe or file to write images to", None, "standard output")
    noise: Path | None = FILES(
        "noise scan measured apart: an MRD stream or ISMRMRD HDF5 file, in place of the scan's own", None
    )
    protocol: str | None = PROTOCOL()
    pixels: str = PIXEL_TYPE(STORED)
    device: str = DEVICE("cpu")


def _every(_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Keep the values of an option that is repeated."""
    return tuple(token.value for token in tokens)


class Send(Options):
    """send a scan to a server (MRD), and store the images that come back

    ISMRMRD files are sent as they are, line by line, other formats as lines that were made of them. The images are
    written to images.mrd in --output, which 'mrihvae convert' makes DICOM or NIfTI of. The exit status is 1 if the
    server reports an error, goes away, or sends no image.

    Examples:
      mrihvae send scan.h5 127.0.0.1:9002 --output images/
      mrihvae send scan.h5 recon:9002 -o images/ --parameter method=sense
    """

    input: Path = FILES("k-space of any format, or MRD images", name="FILE", positional=True)
    server: str = FILES("where the server listens", name="HOST:PORT", positional=True)
    output: Path = OUTPUT("folder for images.mrd")
    group: str | None = FILES("scan to send, of a file with several", None)
    key: str | None = KEY()
    uncentered: bool = UNCENTERED()
    overwrite: bool = OVERWRITE()
    quiet: bool = QUIET()
    config: str = METHOD("name of the server's configuration", "mrihvae")
    parameter: tuple[str, ...] | None = METHOD(
        "a parameter for the server, sent as JSON; may be repeated", None, metavar="NAME=VALUE", converter=_every,
        **SEVERAL,
    )  # fmt: skip
    timeout: float = EXPERT("seconds in which the server must take or send something", 300.0)
