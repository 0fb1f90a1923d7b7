"""Options of commands. Scanners."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts import Token

from mrihvae.cli.options.common import DEVICE, KEY, LOG_JSON, OUTPUT, OVERWRITE, PIXEL_TYPE, PROTOCOL, QUIET, UNCENTERED
from mrihvae.cli.sections import EXPERT, INPUT, METHOD, SEVERAL, Options
from mrihvae.server.request import STORED


class Serve(Options):
    """run a server that reconstructs scans while a scanner sends them (MRD over TCP)

    The server runs until it is interrupted (Ctrl + C) or terminated. 'mrihvae send' is a client.

    Examples:
      mrihvae serve --device cuda
      mrihvae serve --host 0.0.0.0 --allow-remote
    """

    host: str = INPUT("address to listen on; 0.0.0.0 for all addresses, with --allow-remote", "127.0.0.1")
    allow_remote: bool = INPUT("allow other machines to connect; there is no password and no encryption", False)
    port: int = INPUT("port to listen on; 0 for any free one", 9002)
    protocol: str | None = PROTOCOL()
    pixels: str = PIXEL_TYPE(STORED)
    max_connections: int = EXPERT("number of scans at once; others wait", 4)
    max_waiting: int = EXPERT("number of connections that wait or have sent no line yet; others are refused", 1024)
    max_memory: float = EXPERT("maximum k-space of one scan held in memory, in GiB", 8.0)
    max_total_memory: float | None = EXPERT(
        "maximum k-space and images of all scans held in memory, in GiB", None, "twice --max-memory"
    )
    timeout: float = EXPERT("seconds that a client may take to send its next line", 300.0)
    first_timeout: float = EXPERT("seconds that a client may take to send its header", 30.0)
    idle_timeout: float = EXPERT("seconds that a client may take to send its next line while others wait", 60.0)
    scan_timeout: float = EXPERT("seconds that a whole scan may take", 14400.0)
    device: str = DEVICE("cpu")
    log_json: Path | None = LOG_JSON()


class Filter(Options):
    """reconstruct a scan between pipes or files, such as standard input and output (MRD)

    Examples:
      mrihvae filter < scan.bin > images.bin
      mrihvae filter --input scan.pipe --output images.pipe --noise noise.bin
    """

    input: Path | None = INPUT("named pipe or file to read the scan from", None, "standard input")
    output: Path | None = OUTPUT("named pipe or file to write images to", None, "standard output")
    noise: Path | None = INPUT(
        "separate noise scan, an MRD stream or ISMRMRD HDF5 file, used in place of the scan's own",
        None,
        "that of the scan",
    )
    protocol: str | None = PROTOCOL()
    pixels: str = PIXEL_TYPE(STORED)
    device: str = DEVICE("cpu")


def _every(_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Keep the values of an option that is repeated."""
    return tuple(token.value for token in tokens)


class Send(Options):
    """send a scan to a server (MRD), and store the images that come back

    ISMRMRD files are sent unchanged, line by line; other formats are converted to lines first. The images are written
    to OUTPUT/images.mrd, and 'mrihvae convert' turns them into DICOM or NIfTI. The exit status is 1 if the server
    reports an error, closes the connection, or sends no image.

    Examples:
      mrihvae send scan.h5 127.0.0.1:9002 --output images/
      mrihvae send scan.h5 recon:9002 -o images/ --parameter method=sense
    """

    input: Path = INPUT("k-space of any format, or MRD images", name="FILE", positional=True)
    server: str = INPUT("address of the server", name="HOST:PORT", positional=True)
    output: Path = OUTPUT("folder for images.mrd")
    group: str | None = INPUT("which scan to send, if the file has several", None, "the only one")
    key: str | None = KEY()
    uncentered: bool = UNCENTERED()
    overwrite: bool = OVERWRITE()
    quiet: bool = QUIET()
    config: str = METHOD("configuration for the server", "mrihvae")
    parameter: tuple[str, ...] | None = METHOD(
        "a parameter for the server, sent as JSON; may be repeated", None, "none", metavar="NAME=VALUE",
        converter=_every, **SEVERAL,
    )  # fmt: skip
    timeout: float = EXPERT("seconds to wait for the server to receive or send something", 300.0)
