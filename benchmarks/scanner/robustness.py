"""How `mrihvae serve` holds out: latency, many scans one after another and at once, memory, and broken streams.

    python -m benchmarks.scanner.robustness

Starts the command and sends it scans with the client of the tests, which was written from the specification. Images are
compared bit for bit with what the package reconstructs of the same scan in a file. Mutated streams are small scans,
broken in one place: bits flipped, pieces cut, repeated, dropped or exchanged, lengths, counters or headers changed.
Good scans between them must be answered as ever. Memory is that of the process as Linux tells it. Leave the machine
alone meanwhile; it takes about ten minutes. Writes results/scanner_robustness.json and .md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.complete_scans import write_results
from benchmarks.common.provenance import provenance
from benchmarks.scanner.served import HOST, Good, good_scan, resident, scan, served
from benchmarks.scanner.tables import scanner_tables
from mrihvae.model.shipped import weights_for
from mrihvae.server.engine import load_engine
from tests.support import mrd

REPEATS = 20  # scans whose latency is measured, of each kind
SETTLED = 20  # scans after which memory must stay
FLAT = 0.02  # within this
BETWEEN = 100  # mutated streams between two good scans
PATIENT = 200  # of so many clients with a mutated stream one waits, without saying that nothing follows
TIMEOUT = 2.0  # seconds for which the server waits for these
EVERY = 10  # of so many mutated streams one is reconstructed with the network
ROUNDS = 5  # of scans at once
ENDED = 0.1  # seconds in which a thread gives back the memory of a scan


def latency(port: int, scans: dict[str, Good]) -> list[dict[str, Any]]:
    """Measure the seconds from the last line to the first image."""
    rows = []
    for name, one in scans.items():
        seconds = []
        for _ in tqdm(range(REPEATS + 1), f"latency, {name}"):
            replies = one.answered_by(port)
            if replies is not None:
                seconds.append(replies.image_times[0] - replies.acquisition_times[-1])
        rows.append(
            {
                "scan": name,
                "scans": REPEATS,
                "right": len(seconds) - 1,
                "median_seconds": round(statistics.median(seconds[1:]), 4),
                "max_seconds": round(max(seconds[1:]), 4),
            }
        )
    return rows


def endurance(port: int, process: int, one: Good, scans: int, connections: int) -> dict[str, Any]:
    """Send a scan many times, one after another, then several at once; watch memory after each."""
    right, memory, at_once = 0, [], []
    for _ in tqdm(range(scans), "one after another"):
        right += one.answered_by(port) is not None
        time.sleep(ENDED)
        memory.append(resident(process, "VmRSS"))
    together = 0
    with ThreadPoolExecutor(connections) as clients:
        for _ in tqdm(range(ROUNDS), f"{connections} at once"):
            together += sum(answer is not None for answer in clients.map(one.answered_by, [port] * connections))
            time.sleep(ENDED)
            at_once.append(resident(process, "VmRSS"))
    return {
        "scans": scans,
        "right": right,
        "at_once": connections,
        "rounds": ROUNDS,
        "right_at_once": together,
        "settled_after": SETTLED,
        "memory_spread": _spread(memory[min(SETTLED, len(memory)) - 1 :]),
        "memory_spread_at_once": _spread(at_once[1:]),
        "peak_MiB": resident(process, "VmHWM"),
        "memory_MiB": memory,
        "memory_at_once_MiB": at_once,
    }


def _spread(memory: list[float]) -> float:
    return round(max(memory) / min(memory) - 1, 4)


def outcome(port: int, payload: bytes, patient: bool) -> str:
    """Send a mutated stream; tells in a word how it was answered."""
    try:
        replies = mrd.reconstruct(HOST, port, payload, 60, half_close=not patient)
    except (TimeoutError, OSError, AssertionError) as error:
        return f"wrong: {type(error).__name__}"
    errors = [one for one in replies.texts if one.startswith("ERROR")]
    if not replies.close or replies.reset or len(errors) > 1:
        return "wrong: no proper end"
    if any("failed" in one for one in errors):
        return "wrong: failed inside"
    if any("no whole message came" in one for one in errors):
        return "timed out"
    return ("images" if replies.images else "no image") + (", error told" if errors else "")


def mutations(
    port: int, process: int, good: Good, payloads: list[bytes], options: argparse.Namespace
) -> dict[str, Any]:
    """Send mutated streams from several clients, and good scans between them."""
    mutators = [mrd.Mutator(payload) for payload in payloads]
    before, began, lock = resident(process, "VmRSS"), time.perf_counter(), threading.Lock()
    counts: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    good_scans = [0, 0]

    def send(number: int) -> None:
        rng = np.random.default_rng((options.seed, number))
        kind, payload = mutators[number % EVERY == 0].draw(rng)
        told = outcome(port, payload, number % PATIENT == PATIENT - 1)
        right = good.answered_by(port) is not None if number % BETWEEN == 0 else None
        with lock:
            counts[told] += 1
            kinds.setdefault(kind, Counter())[told] += 1
            if right is not None:
                good_scans[0] += right
                good_scans[1] += 1

    with ThreadPoolExecutor(options.connections) as clients:
        numbers = range(options.mutations)
        list(tqdm(clients.map(send, numbers), "mutated streams", total=len(numbers)))
    return {
        "streams": options.mutations,
        "clients": options.connections,
        "outcomes": dict(sorted(counts.items())),
        "kinds": {kind: dict(sorted(found.items())) for kind, found in sorted(kinds.items())},
        "good_scans": good_scans[1],
        "good_scans_right": good_scans[0],
        "memory_before_MiB": before,
        "memory_after_MiB": resident(process, "VmRSS"),
        "peak_MiB": resident(process, "VmHWM"),
        "seconds": round(time.perf_counter() - began, 1),
    }


def faults(results: dict[str, Any]) -> list[str]:
    """List what should not be."""
    held, broken = results["endurance"], results["mutations"]
    found = [f"latency of {row['scan']}: wrong images" for row in results["latency"] if row["right"] != row["scans"]]
    if held["right"] != held["scans"] or held["right_at_once"] != held["rounds"] * held["at_once"]:
        found.append("some of many scans were wrong")
    if held["memory_spread"] > FLAT:
        found.append(f"memory was not flat within {FLAT:.0%}")
    if broken["good_scans"] != broken["good_scans_right"]:
        found.append("some good scans between mutated streams were wrong")
    return found + [f"mutated streams: {told}" for told in broken["outcomes"] if told.startswith("wrong")]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status, 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=200, help="one after another")
    parser.add_argument("--mutations", type=int, default=10000, help="mutated streams")
    parser.add_argument("--connections", type=int, default=8, help="at once")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "scanner_robustness.json")
    options = parser.parse_args(arguments)
    if min(options.scans, options.connections, options.threads) < 1 or min(options.mutations, options.seed) < 0:
        parser.error("numbers must be at least 1, and --mutations and --seed at least 0")
    torch.set_num_threads(options.threads)
    engine = load_engine(None)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        complete, undersampled = (scan(128, 8, 1, acceleration, options.seed) for acceleration in (1, 4))
        small, network = scan(32, 2, 2, 2, options.seed), scan(32, 2, 1, 2, options.seed)
        kinds = {
            "128 x 128, 8 coils, complete": (*complete, "hybrid"),
            "128 x 128, 8 coils, 4x": (*undersampled, "hybrid"),
            "128 x 128, 8 coils, 4x, amortized": (*undersampled, "amortized"),
        }
        timed = {name: good_scan(engine, Path(folder), *one) for name, one in kinds.items()}
        usual = good_scan(engine, Path(folder), *small, "hybrid")
    connections = ("--max-connections", str(options.connections))
    results: dict[str, Any] = {
        **provenance(weights=weights_for(2)),
        "threads": options.threads,
        "seed": options.seed,
        "scan": list(timed)[1],
    }
    with served(options.threads, *connections) as (port, process):
        results["latency"] = latency(port, timed)
        results["endurance"] = endurance(port, process, timed[results["scan"]], options.scans, options.connections)
    waves = [mrd.waveform(np.arange(12).reshape(3, 4))]
    broken = [
        mrd.stream(*small, "zero-filled", {"method": "zero-filled"}, waveforms=waves),
        mrd.stream(*network, "amortized", {"method": "amortized"}),
    ]
    with served(options.threads, *connections, "--timeout", str(TIMEOUT)) as (port, process):
        results["mutations"] = mutations(port, process, usual, broken, options)
    results["faults"] = faults(results)
    write_results(options.output, results, scanner_tables(results))
    print(scanner_tables(results))
    for fault in results["faults"]:
        print(f"scanner_robustness: {fault}", file=sys.stderr)
    return 1 if results["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
