"""How `mrihvae serve` answers a scan beside a crowd of clients that hold connections and send nothing useful.

    python -m benchmarks.scanner.crowd
    python -m benchmarks.scanner.crowd --quick

Starts the command, on this machine alone, and measures the seconds from connection to last image of a scan: first
alone, then beside clients of all kinds that `kinds` describes, which come again when the server ends their connection.
Images are compared bit for bit with those of the same scan in a file. Then the log is searched for characters that a
terminal would obey, which some of the clients send. Leave the machine alone meanwhile; it takes about three minutes.
Writes results/scanner_crowd.json and .md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import HERE
from benchmarks.common.complete_scans import write_results
from benchmarks.common.provenance import provenance
from benchmarks.scanner.served import HOST, Good, good_scan, resident, scan, served
from benchmarks.scanner.tables import crowd_table
from mrihvae.model.shipped import weights_for
from mrihvae.server.engine import load_engine
from tests.support import mrd

LIMIT = 2.0  # times the usual seconds
CONTROL = "\x1b]0;OWNED\x07\x1b[31m\x9b\u202e\u2028"  # what a terminal obeys
OPEN_FILES = 512  # of this process beside the crowd
TICKS = 20  # parts of the crowd, each of which sends once a second, one after another
SMALL, QUICK = (32, 2), (60, 5, 6.0)  # size and coils; connections, scans and seconds of --quick
USUAL, COILS = 128, 8
Pieces = Callable[[], Iterator[bytes]]


def kinds() -> dict[str, Pieces]:
    """Return what each kind of client sends, a piece a second."""
    shape = (1, 2, 32, 32)
    xml, line = mrd.cartesian_xml(shape), mrd.acquisition(mrd.Line(np.ones((2, 64), np.complex64)))
    header = mrd.config_file("mrihvae") + mrd.header(xml)
    note = mrd.text(json.dumps({f"mrihvae_{CONTROL}": CONTROL}))
    refused = mrd.header(xml.replace("cartesian", f"{CONTROL[-3:]}spiral")) + line
    return {
        "idle": lambda: itertools.repeat(b""),
        "that send a byte a second": lambda: (bytes([byte]) for byte in header),
        "that send a text a second": lambda: itertools.repeat(note),
        "that send a header alone": lambda: itertools.chain([header], itertools.repeat(b"")),
        "that send a waveform a second": lambda: itertools.chain([header], itertools.repeat(mrd.waveform([[1]]))),
        "that send a line byte by byte": lambda: itertools.chain([header], (bytes([byte]) for byte in line)),
        "that send what is refused": lambda: itertools.chain([refused], itertools.repeat(b"")),
    }


@dataclass
class Client:
    """One of the crowd: a connection, and what it still sends."""

    pieces: Pieces
    connection: socket.socket | None = None
    rest: Iterator[bytes] = field(default_factory=lambda: iter(()))


class Crowd:
    """Clients of all kinds in turn, in a thread; within `with` they send."""

    def __init__(self, port: int, size: int) -> None:
        self._clients = [Client(pieces) for _, pieces in zip(range(size), itertools.cycle(kinds().values()))]
        self._port, self._stopped, self.ended = port, threading.Event(), 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Crowd:
        for client in self._clients:
            self._connect(client)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        for client in self._clients:
            if client.connection is not None:
                client.connection.close()

    def _run(self) -> None:
        for tick in itertools.count():
            for client in self._clients[tick % TICKS :: TICKS]:
                if not self._send(client):
                    self.ended += 1
                    self._connect(client)
            if self._stopped.wait(1 / TICKS):
                return

    def _connect(self, client: Client) -> None:
        if client.connection is not None:
            client.connection.close()
        client.connection = None
        with suppress(OSError):
            client.connection = socket.create_connection((HOST, self._port), timeout=5)
            client.connection.setblocking(False)
            client.rest = client.pieces()

    def _send(self, client: Client) -> bool:
        """Send the next piece; return whether the server has not ended the connection."""
        if client.connection is None:
            return False
        try:
            client.connection.sendall(next(client.rest, b""))
            while received := client.connection.recv(2**16):
                del received
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def measure(port: int, good: Good, count: int, seconds: float) -> dict[str, Any]:
    """Send a scan at least `count` times and for so long; return its seconds, and how often it was as expected."""
    taken, right, began = [], 0, time.monotonic()
    while len(taken) < count or time.monotonic() - began < seconds:
        start = time.perf_counter()
        replies = good.answered_by(port)
        right += replies is not None
        taken.append((replies.image_times[-1] if replies is not None else time.perf_counter()) - start)
        time.sleep(0.2)
    return {
        "scans": len(taken),
        "right": right,
        "median_seconds": round(statistics.median(taken), 4),
        "max_seconds": round(max(taken), 4),
    }


def beside_crowd(
    port: int, process: int, good: Good, options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure a scan alone and beside a crowd; return the two, and what the server held meanwhile."""
    measure(port, good, 2, 0)  # until all is warm
    before, alone = resident(process, "VmRSS"), measure(port, good, options.scans, 0)
    with Crowd(port, options.connections) as crowd:
        time.sleep(2)
        held = [_open_files(process)]
        beside = measure(port, good, options.scans, options.seconds)
        held.append(_open_files(process))
        memory = {"before": before, "crowd": resident(process, "VmRSS"), "peak": resident(process, "VmHWM")}
    found = {
        "alone": alone,
        "crowd": beside,
        "ratio": round(beside["median_seconds"] / alone["median_seconds"], 3),
        "kinds": dict(Counter(itertools.islice(itertools.cycle(kinds()), options.connections))),
        "open_files": max(held),
        "ended": crowd.ended,
        "memory_MiB": memory,
    }
    after = measure(port, good, 1, 0)
    return found, after


def _open_files(process: int) -> int:
    """Count the open files of a process."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def faults(results: dict[str, Any]) -> list[str]:
    """List what should not be."""
    found = []
    for name in ("alone", "crowd", "after"):
        if results[name]["right"] != results[name]["scans"]:
            found.append(f"{name}: some scans were not answered as expected")
    if results["ratio"] > LIMIT:
        found.append(f"a scan took {results['ratio']} times as long as alone, more than {LIMIT:g}")
    if results["open_files"] < results["connections"]:
        found.append(f"the server held {results['open_files']} open files, fewer than there were connections")
    if results["log_lines_with_control_characters"]:
        found.append("the log has characters that a terminal obeys")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status, 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=1000, help="of the crowd")
    parser.add_argument("--scans", type=int, default=20, help="alone, and at least beside the crowd")
    parser.add_argument("--seconds", type=float, default=90.0, help="beside the crowd: longer than --first-timeout")
    parser.add_argument("--quick", action="store_true", help="60 connections, small scans, a few seconds")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "scanner_crowd.json")
    options = parser.parse_args(arguments)
    if options.quick:
        options.connections, options.scans, options.seconds = QUICK
    if min(options.connections, options.scans, options.threads) < 1:
        parser.error("numbers must be at least 1")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, options.connections + OPEN_FILES)), hard))
    torch.set_num_threads(options.threads)
    size, coils = SMALL if options.quick else (USUAL, COILS)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        good = good_scan(load_engine(None), Path(folder), *scan(size, coils, 1, 4, options.seed), "hybrid")
        log = Path(folder) / "log"
        limits = ("--first-timeout", "2") if options.quick else ()
        with served(options.threads, *limits, log=log) as (port, process):
            found, after = beside_crowd(port, process, good, options)
        lines = log.read_text(errors="surrogateescape").split("\n")
    results: dict[str, Any] = {
        **provenance(weights=weights_for(2)),
        "threads": options.threads,
        "seed": options.seed,
        "scan": f"{size} x {size}, {coils} coils, 4x",
        "connections": options.connections,
        **found,
        "after": after,
        "log_lines": len(lines) - 1,
        "log_lines_with_control_characters": sum(not line.isprintable() for line in lines),
    }
    results["faults"] = faults(results)
    write_results(options.output, results, crowd_table(results))
    print(crowd_table(results))
    for fault in results["faults"]:
        print(f"scanner_crowd: {fault}", file=sys.stderr)
    return 1 if results["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
