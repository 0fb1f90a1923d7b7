"""`mrihvae serve`: reconstruct scans that a scanner sends over TCP, and send the images back."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mrihvae.cli import options
from mrihvae.cli.events import log_event, run_logged
from mrihvae.errors import InputError, reason
from mrihvae.io.mrd.extra import require_ismrmrd
from mrihvae.utils.text import PrintableFormatter

if TYPE_CHECKING:
    from mrihvae.server.engine import Engine

TRIM, MAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
KEPT = 2**25  # bytes, the most that it takes
LOG = logging.getLogger("mrihvae.serve")


def run(arguments: options.Serve) -> int:
    """Serve until SIGTERM or SIGINT; logs connections on standard error. Returns the exit status, 0.

    It listens at once, for the platforms that start it wait for that; connections wait until weights are loaded.
    """
    return run_logged(arguments.log_json, "serve", partial(_run, arguments))


def _run(arguments: options.Serve) -> int:
    """Check options, listen, load weights, and serve."""
    require_ismrmrd("mrihvae serve")
    from mrihvae.server.listener import ServerSettings, is_awaited, listen

    for name, size in (("max-memory", arguments.max_memory), ("max-total-memory", arguments.max_total_memory)):
        if size is not None and not 0 < size < float("inf"):
            raise InputError(f"--{name} {size}: must be a number of GiB above 0")
    try:
        settings = ServerSettings(
            arguments.host,
            arguments.port,
            arguments.max_connections,
            arguments.timeout,
            arguments.first_timeout,
            arguments.idle_timeout,
            scan_timeout=arguments.scan_timeout,
            waiting=arguments.max_waiting,
            allow_remote=arguments.allow_remote,
        )
    except InputError as error:
        raise InputError(f"--{error}") from error
    _check_weights(arguments.protocol)
    _log_to_stderr()
    # one thread has all to do with torch: OpenMP is half as fast as soon as another one has used it, too
    executor = ThreadPoolExecutor(1, "reconstruction")
    if arguments.device != "cpu":
        executor.submit(_check_device, arguments.device).result()

    with listen(settings) as listener:

        def leave() -> None:
            if is_awaited(listener):
                LOG.warning("a scan was cut off because the server is stopping")
            _leave()  # there is nothing to end

        with _on_signals(leave):
            loading = executor.submit(_load, arguments)
            port = listener.getsockname()[1]
            print(f"mrihvae: listening on {arguments.host}:{port}", flush=True)
            log_event("listening", host=arguments.host, port=port)
            engine = replace(loading.result(), executor=executor)
            from mrihvae.server.tcp import Server

            server = Server(engine, settings, listener)
            with _on_signals(server.stop):
                ended = server.serve()
    if not ended:
        _leave()  # for an interpreter that ends while threads compute aborts
    return 0


def _leave() -> None:
    """End the process at once."""
    log_event("end", status=0)
    os._exit(0)


def _log_to_stderr() -> None:
    """Log on standard error, with all escaped that a terminal would obey."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _check_weights(protocol: str | None) -> None:
    """Check that the weights are there, without torch; they are read when the server listens already."""
    from mrihvae.model.shipped import find_weights, weights_for
    from mrihvae.protocols.evaluation import find_protocol, read_protocol
    from mrihvae.recon.settings import MODEL_METHODS

    if protocol is None:
        for coils in (1, 2):
            find_weights(weights_for(coils))
        return
    chosen = read_protocol(find_protocol(protocol))
    if chosen.method in MODEL_METHODS:
        find_weights(chosen.weights)


def _check_device(device: str) -> None:
    """Check that a device is there."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: cannot be used ({reason(error)}); try cpu") from error


@contextmanager
def _on_signals(act: Callable[[], object]) -> Iterator[None]:
    """Act on SIGTERM and SIGINT in the meantime."""
    usual = {number: signal.signal(number, lambda *_: act()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def _load(arguments: options.Serve) -> Engine:
    """Load weights, and use them once."""
    from mrihvae.server.budget import Budget
    from mrihvae.server.engine import load_engine, warm_up

    _keep_memory()
    engine = load_engine(arguments.protocol, arguments.device)
    warm_up(engine)
    request = replace(engine.request, pixels=arguments.pixels)
    total = arguments.max_total_memory or 2 * arguments.max_memory
    budget = Budget(int(total * 2**30))
    return replace(engine, request=request, max_held=int(arguments.max_memory * 2**27), budget=budget)


def _keep_memory() -> None:
    """Have the C library keep memory that scans give back, for the next: to get it anew takes time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc alone has it
    if mallopt is not None:
        for threshold in (TRIM, MAP):
            mallopt(threshold, KEPT)
