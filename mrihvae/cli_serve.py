"""`mrihvae serve`: reconstruct scans that a scanner sends over TCP, and send the images back."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from mrihvae.errors import InputError
from mrihvae.mrd import needed
from mrihvae.scanner_requests import PIXELS

TRIM, MAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
KEPT = 2**25  # bytes, the most that it takes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all, without protection")
    parser.add_argument("--port", type=int, default=9002, help="port to listen on; 0 for one that is free")
    parser.add_argument("--protocol", help="how to reconstruct: a protocol's name or file; left out, the usual way")
    parser.add_argument("--pixels", choices=PIXELS, default="float", help="of images, where a scan asks for none")
    parser.add_argument("--max-connections", type=int, default=4, help="scans at once; further ones wait")
    parser.add_argument("--max-memory", type=float, default=8.0, help="GiB of k-space that are held of a scan at most")
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="seconds that may pass until a client has sent its next message"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")


def run(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT; tells of connections on standard error."""
    needed("mrihvae serve")
    from mrihvae.online import make_ready, warm_up
    from mrihvae.server import Server, ServerSettings

    if not 0 < arguments.max_memory < float("inf"):
        raise InputError(f"--max-memory {arguments.max_memory}: must be a number of GiB above 0")
    try:
        settings = ServerSettings(arguments.host, arguments.port, arguments.max_connections, arguments.timeout)
    except InputError as error:
        raise InputError(f"--{error}") from error
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _keep_memory()
    # one thread has all to do with torch: OpenMP is half as fast as soon as another one has used it, too
    turn = ThreadPoolExecutor(1, "reconstruction")
    ready = turn.submit(make_ready, arguments.protocol, arguments.device).result()
    turn.submit(warm_up, ready).result()
    ready = replace(
        ready,
        request=replace(ready.request, pixels=arguments.pixels),
        turn=turn,
        held=int(arguments.max_memory * 2**27),
    )
    server = Server(ready, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    print(f"mrihvae: listening on {arguments.host}:{server.port}", flush=True)
    if not server.serve():
        os._exit(0)  # for an interpreter that ends while threads compute aborts


def _keep_memory() -> None:
    """Have the C library keep memory that scans give back, for the next: to get it anew takes time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc alone has it
    if mallopt is not None:
        for threshold in (TRIM, MAP):
            mallopt(threshold, KEPT)
