"""Tune the strengths of L1-wavelet and TV, of sigpy and of BART, on training scans; check that they have converged.

    python -m benchmarks.singlecoil.tune_classical --data DIR

takes about 15 minutes of one core and writes benchmarks/results/tune_classical.json: the best strengths by fastMRI's
PSNR, a mean over volumes, for each method, acceleration and kind of scan (raw or simulated), which quality.py gives to
these methods; the means behind them; what so fine a choice gains over one strength for all; and what twice the
iterations add. Rows per scan go to --work as they come, and --resume goes on from them.
`mrihvae.recon.classical.DEFAULT_STRENGTH` is the best at 4x over all scans.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.protocol import subset
from benchmarks.common.simulated_scans import simulate_folder
from benchmarks.peers import bart
from benchmarks.singlecoil.contestants import slicewise
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.evaluation.scores import score_volume
from mrihvae.io.fastmri import read_scan
from mrihvae.io.formats import list_files
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon import classical
from mrihvae.recon.catalog import make_method
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume
from mrihvae.utils.files import atomic_write

STRENGTHS = {
    "wavelet": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "tv": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "bart-wavelet": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
    "bart-tv": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
}
PATTERNS = tuple(Undersampling("random", r, c) for r, c in ((2, 0.16), (4, 0.08), (8, 0.04), (12, 0.027)))
RAW = "ulf_singlecoil/train"
SIMULATED = ("images/t1ce/train", "images/ms_t1_t2_flair/train", "images/t1_brain/train")
Rows = list[dict[str, Any]]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--methods", nargs="+", help=f"some of {', '.join(STRENGTHS)}")
    parser.add_argument("--limit", type=int, help="at most this many scans")
    parser.add_argument("--resume", action="store_true", help="keep the rows that an earlier call left in --work")
    parser.add_argument("--work", type=Path, default=Path("runs/tune_classical.jsonl"), help="rows per scan")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        results = tune_all(options)
        with atomic_write(options.results / "tune_classical.json") as temporary:
            temporary.write_text(layout(results))
    except InputError as error:
        print(f"tune_classical: error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({key: results[key] for key in ("best", "gain", "dB gained by twice the iterations")}, indent=1))
    return 0


def tune_all(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything that is missing, and find the best strengths."""
    if options.data is None:
        raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
    methods = subset(list(STRENGTHS), options.methods, "--methods:")
    if bart.version() is None:
        print("tune_classical: bart is not installed, so its methods are left out", file=sys.stderr)
        methods = [name for name in methods if not name.startswith("bart-")]
    scans = list(training_scans(options.data))[: options.limit]
    rows = _earlier(options.work) if options.resume else []
    for scan, kind in tqdm(scans, "tuning"):
        done = {(row["method"], row["acceleration"], row["strength"]) for row in rows if row["scan"] == scan.name}
        rows += tune(scan, kind, methods, done)
        with atomic_write(options.work) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    best = best_of(rows)
    converged = [convergence(scan, kind, methods, best) for scan, kind in tqdm(scans[::4], "convergence")]
    return {
        "best": best,
        "gain": gains(rows),
        "dB gained by twice the iterations": {
            name: round(float(np.mean([row[name] for row in converged])), 3) for name in methods
        },
        "bart": bart.version(),
        "scans": len(scans),
        "means": means(rows, ("method", "acceleration", "kind", "strength")),
    }


def training_scans(data: Path) -> Iterator[tuple[Scan, str]]:
    """Give the middle slice of every raw training volume, and of two simulated scans per image folder, and its kind."""
    for file in list_files(data / RAW):
        scan = read_scan(file)
        yield scan.single_slice(len(scan.kspace) // 2), "raw"
    for folder in SIMULATED:
        with tempfile.TemporaryDirectory() as temporary:
            for path in simulate_folder(data / folder, Path(temporary), every=40 if "t1ce" in folder else 8, limit=2):
                scan = read_scan(path)
                yield scan.single_slice(len(scan.kspace) // 2), "simulated"


def tune(scan: Scan, kind: str, methods: list[str], done: set[tuple[str, float, float]]) -> Iterator[dict[str, Any]]:
    """Score every method, acceleration and strength on a scan, but for those that are done."""
    for pattern in PATTERNS:
        mask = mask_of(scan, pattern)
        for name in methods:
            for strength in STRENGTHS[name]:
                if (name, pattern.acceleration, strength) not in done:
                    about = {"scan": scan.name, "kind": kind, "method": name, "acceleration": pattern.acceleration}
                    psnr = _score(scan, _reconstruct(scan, mask, name, strength))
                    yield {**about, "strength": strength, "PSNR": round(psnr, 4)}


def convergence(scan: Scan, kind: str, methods: list[str], best: Rows) -> dict[str, float]:
    """Compute what twice the iterations add to the PSNR at 4x, each method with its best strength there."""
    pattern = PATTERNS[1]
    mask = mask_of(scan, pattern)
    gained = {}
    for row in best:
        if (row["acceleration"], row["kind"]) == (pattern.acceleration, kind) and row["method"] in methods:
            once, twice = (
                _score(scan, _reconstruct(scan, mask, row["method"], row["strength"], times)) for times in (1, 2)
            )
            gained[row["method"]] = twice - once
    return gained


def best_of(rows: Rows, keys: tuple[str, ...] = ("method", "acceleration", "kind"), chosen: str = "strength") -> Rows:
    """Choose the strength, or what else is `chosen`, of the greatest mean PSNR for every combination of `keys`."""
    table = means(rows, (*keys, chosen))
    groups = dict.fromkeys(tuple(row[key] for key in keys) for row in table)
    return [max((row for row in table if tuple(row[k] for k in keys) == group), key=psnr_of) for group in groups]


def gains(rows: Rows) -> dict[str, dict[str, float]]:
    """Compute the mean PSNR of each method with one strength for all, one per acceleration, and one per kind, too."""
    choices = {
        "one": ("method",),
        "per acceleration": ("method", "acceleration"),
        "per acceleration and kind": ("method", "acceleration", "kind"),
    }
    found: dict[str, dict[str, float]] = {}
    for choice, keys in choices.items():
        strengths = {tuple(row[key] for key in keys): row["strength"] for row in best_of(rows, keys)}
        kept = [row for row in rows if strengths[tuple(row[key] for key in keys)] == row["strength"]]
        for row in means(kept, ("method",)):
            found.setdefault(row["method"], {})[choice] = row["PSNR"]
    return found


def means(rows: Rows, keys: tuple[str, ...]) -> Rows:
    """Average the PSNR over scans for every combination of `keys`."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row["PSNR"])
    return [{**dict(zip(keys, group)), "PSNR": round(float(np.mean(found)), 3)} for group, found in groups.items()]


def psnr_of(row: dict[str, Any]) -> float:
    """Give the PSNR of a row."""
    return float(row["PSNR"])


def layout(results: dict[str, Any]) -> str:
    """Write results as JSON with one row of a table per line."""
    parts = []
    for key, value in results.items():
        lines = ",\n".join(f"  {json.dumps(row)}" for row in value) if isinstance(value, list) else ""
        parts.append(f" {json.dumps(key)}: " + (f"[\n{lines}\n ]" if lines else json.dumps(value)))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _reconstruct(scan: Scan, mask: np.ndarray, name: str, strength: float, times: int = 1) -> np.ndarray:
    """Reconstruct a scan with a method, at `times` its usual iterations: float32 (slice, h, w)."""
    if name in classical.ITERATIONS and times == 1:
        return reconstruct_volume(scan, mask, make_method(name, strength=strength))
    solve: Callable[[np.ndarray, np.ndarray], np.ndarray]
    if name in classical.ITERATIONS:
        function = classical.wavelet if name == "wavelet" else classical.total_variation

        def solve(kspace: np.ndarray, known: np.ndarray) -> np.ndarray:
            return function(kspace, known, strength, times * classical.ITERATIONS[name])
    else:

        def solve(kspace: np.ndarray, known: np.ndarray) -> np.ndarray:
            return bart.reconstruct(kspace, known, name, strength, times * bart.ITERATIONS[name])

    return slicewise(scan, mask, solve)


def _score(scan: Scan, volume: np.ndarray) -> float:
    if scan.target is None:
        raise InputError(f"{scan.name}: has no target to score against; leave it out of the folder")
    return score_volume(scan.target, volume)["PSNR"]


def _earlier(work: Path) -> Rows:
    try:
        return [json.loads(line) for line in work.read_text().splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InputError(f"{work}: no rows of this command ({error}); leave out --resume") from error


if __name__ == "__main__":
    sys.exit(main())
