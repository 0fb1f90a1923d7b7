"""`mrihvae serve`: reconstruct scans that a scanner sends over TCP, and send the images back."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from mrihvae.cli import options
from mrihvae.errors import InputError
from mrihvae.io.mrd.extra import require_ismrmrd

TRIM, MAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
KEPT = 2**25  # bytes, the most that it takes


def run(arguments: options.Serve) -> None:
    """Serve until SIGTERM or SIGINT; logs connections on standard error."""
    require_ismrmrd("mrihvae serve")
    from mrihvae.server.session import load_engine, warm_up
    from mrihvae.server.tcp import Server, ServerSettings

    if not 0 < arguments.max_memory < float("inf"):
        raise InputError(f"--max-memory {arguments.max_memory}: must be a number of GiB above 0")
    try:
        settings = ServerSettings(arguments.host, arguments.port, arguments.max_connections, arguments.timeout)
    except InputError as error:
        raise InputError(f"--{error}") from error
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _keep_memory()
    # one thread has all to do with torch: OpenMP is half as fast as soon as another one has used it, too
    executor = ThreadPoolExecutor(1, "reconstruction")
    engine = executor.submit(load_engine, arguments.protocol, arguments.device).result()
    executor.submit(warm_up, engine).result()
    engine = replace(
        engine,
        request=replace(engine.request, pixels=arguments.pixels),
        executor=executor,
        max_held=int(arguments.max_memory * 2**27),
    )
    server = Server(engine, settings)
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
