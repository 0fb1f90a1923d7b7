"""Reconstruct the scans of a protocol with every method on the same masks, and score them with fastMRI's metrics.

    python -m benchmarks.singlecoil.quality protocols/singlecoil_random_4x.toml --data DIR --unet random:4=FILE \\
        random:8=FILE

writes benchmarks/results/PROTOCOL.json after every volume, tables beside it (.md), and a panel per volume below
--work. A row is one volume, method and pattern: fastMRI's scores, the noise-limited ceiling of the PSNR, effective
acceleration, seconds per slice, and what made it (weights, settings). --resume keeps the rows that are there and were
made by the same weights and settings, and runs the rest: after an interruption, for another --unet, for new weights.

Seconds in these rows are of a run that may not be alone on the machine. The ones to quote come from

    python -m benchmarks.singlecoil.quality protocols/singlecoil_random_4x.toml --time --unet random:4=FILE

which reconstructs one slice of 320 x 320 and one of 256 x 256, and writes benchmarks/results/seconds.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.common.ceiling import ceiling
from benchmarks.common.protocol import METHODS, Protocol, ScanSet, add_options, label, read_protocol, scan_files, subset
from benchmarks.common.provenance import provenance
from benchmarks.peers import bart
from benchmarks.peers.unet import Network, load_network
from benchmarks.singlecoil.contestants import TUNED, Contest, Contestant, Ours, read_strengths
from benchmarks.singlecoil.timing import median_seconds
from benchmarks.tables import quality_tables, seconds_table
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.evaluation.figures import volume_panel
from mrihvae.evaluation.scores import score_volume
from mrihvae.io.fastmri import read_scan
from mrihvae.physics.fastmri_masks import effective_acceleration
from mrihvae.physics.sampling import PATTERNS, Undersampling
from mrihvae.recon.undersampling import mask_of
from mrihvae.utils.files import atomic_write

NOT_SHOWN = ("amortized", "samples", "bart-tv")  # in panels, which have little room
SECONDS_NOTE = "per slice, one volume after the other, maybe beside other work; seconds.json has those to quote"
Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Job:
    """One scan under one pattern."""

    scans: ScanSet
    file: Path
    pattern: Undersampling

    def key(self, method: str) -> Key:
        """Identify the row of a method."""
        return self.scans.name, self.file.name, label(self.pattern), method


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(max(1, options.threads))
    try:
        protocol = read_protocol(options.protocol)
        contest = Contest(Ours.load(options.checkpoint), read_strengths(options.strengths), read_networks(options.unet))
        methods = _methods(protocol, contest, options.methods)
        if options.time:
            write_seconds(contest, methods, options)
        else:
            benchmark(protocol, contest, methods, options)
    except InputError as error:
        print(f"quality: error: {error}", file=sys.stderr)
        return 2
    return 0


def benchmark(protocol: Protocol, contest: Contest, methods: list[str], options: argparse.Namespace) -> None:
    """Run everything that is missing, and write results after every volume."""
    if options.data is None:
        raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
    output: Path = options.results / f"{options.protocol.stem}.json"
    rows = earlier_rows(output, options)
    jobs = list(list_jobs(protocol, options))
    order = [job.key(method) for job in jobs for method in METHODS]
    for job in tqdm(jobs, options.protocol.stem):
        fit = [name for name in methods if contest.takes(name, job.pattern)]
        contestants = [contest.contestant(name, job.pattern, job.scans.kind) for name in fit]
        missing = [c for c in contestants if not is_current(rows.get(job.key(c.name)), c, job)]
        if missing:
            rows |= {job.key(row["method"]): row for row in run_job(job, missing, options)}
            kept = [key for key in order if key in rows] + [key for key in rows if key not in order]
            provenance = {**_provenance(contest, options), "seconds_are": SECONDS_NOTE}
            write_results(output, provenance, [rows[key] for key in kept])
    if rows:
        print(output.with_suffix(".md").read_text())


def is_current(row: dict[str, Any] | None, contestant: Contestant, job: Job) -> bool:
    """Tell whether a row was made by the same weights and settings from the same slices."""
    made = (contestant.made_by, job.scans.every, job.pattern.center_fraction)
    return row is not None and (row.get("made_by"), row.get("every"), row.get("center_fraction")) == made


def run_job(job: Job, contestants: list[Contestant], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Reconstruct a scan with these methods; gives a row for each."""
    scan = read_scan(job.file)
    if scan.target is None:
        raise InputError(f"{job.file}: has no target to score against; leave it out of the folder")
    mask = mask_of(scan, job.pattern)
    limit = ceiling(scan, mask)
    rows, volumes = [], {}
    for contestant in contestants:
        began = time.perf_counter()
        volumes[contestant.name] = contestant.run(scan, mask)
        seconds = (time.perf_counter() - began) / len(scan.kspace)
        rows.append(
            {
                "set": job.scans.name,
                "file": job.file.name,
                "pattern": label(job.pattern),
                "center_fraction": job.pattern.center_fraction,
                "method": contestant.name,
                "every": job.scans.every,
                "slices": len(scan.kspace),
                "R": round(effective_acceleration(mask), 3),
                **{key: finite(value) for key, value in score_volume(scan.target, volumes[contestant.name]).items()},
                "ceiling": limit,
                "seconds": seconds,
                "made_by": contestant.made_by,
                **({"foreign": True} if contestant.foreign else {}),
            }
        )
    if not options.no_panels:
        _panel(job, scan, mask, volumes, options)
    return rows


def finite(value: float) -> float | None:
    """Write a score that is infinite (of a reconstruction without error) or NaN as JSON can: null."""
    return value if math.isfinite(value) else None


def earlier_rows(output: Path, options: argparse.Namespace) -> dict[Key, dict[str, Any]]:
    """Read the rows to go on from with --resume; without it none, and a part must not replace what is there."""
    if options.resume:
        return read_rows(output)
    if output.exists() and (options.sets or options.methods or options.limit):
        raise InputError(f"{output}: holds results that a part would replace; add --resume, or another --results")
    return {}


def read_rows(path: Path) -> dict[Key, dict[str, Any]]:
    """Read the rows of earlier results; none if there are no results yet."""
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text())["volumes"]
        return {(row["set"], row["file"], row["pattern"], row["method"]): row for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no results of this benchmark ({error}); leave out --resume") from error


def write_results(
    path: Path,
    provenance: dict[str, Any],
    rows: list[dict[str, Any]],
    tables: Callable[[list[dict[str, Any]]], str] = quality_tables,
) -> None:
    """Write rows as JSON, one a line, and as Markdown tables beside it; each whole or not at all."""
    with atomic_write(path) as temporary:
        head = json.dumps(provenance, indent=1, allow_nan=False)[:-2]
        lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
        temporary.write_text(f'{head},\n "volumes": [\n{lines}\n ]\n}}\n')
    with atomic_write(path.with_suffix(".md")) as temporary:
        temporary.write_text(tables(rows))


def read_networks(named: list[str]) -> dict[str, Network]:
    """Load U-Nets given as MASK_TYPE:ACCELERATION=FILE, by the mask that they were trained for.

    Raises
    ------
    InputError
        Not of this form, or weights that were trained for another mask.
    """
    networks = {}
    for text in named:
        name, _, file = text.partition("=")
        mask_type, _, acceleration = name.partition(":")
        try:
            wanted = label(Undersampling(mask_type, float(acceleration), 1.0))
        except ValueError:
            wanted = ""
        if not wanted or not file or mask_type not in PATTERNS:
            raise InputError(f"--unet {text}: write it as MASK_TYPE:ACCELERATION=FILE, such as random:4=FILE")
        network = load_network(Path(file))
        if network.settings.mask != wanted:
            raise InputError(f"--unet {text}: these weights were trained for {network.settings.mask}; name that mask")
        networks[wanted] = network
    return networks


def write_seconds(contest: Contest, methods: list[str], options: argparse.Namespace) -> None:
    """Time every method on single slices, and write seconds.json and seconds.md."""
    load = os.getloadavg()[0]
    if load > 0.5:
        print(
            f"quality: the load of this machine is {load:.1f}: these seconds are not of a machine alone",
            file=sys.stderr,
        )
    pattern = Undersampling("random", 4, 0.08)
    fit = [name for name in methods if contest.takes(name, pattern)]
    contestants = [contest.contestant(name, pattern, "simulated") for name in fit]
    results = {
        **_provenance(contest, options),
        "load_before": round(load, 2),
        "pattern": label(pattern),
        "seconds": median_seconds([*contestants, contest.uncertainty()], pattern),
        "peak_memory_GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    path = options.results / "seconds.json"
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    table = seconds_table(results)
    with atomic_write(path.with_suffix(".md")) as temporary:
        temporary.write_text(table)
    print(table)


def _methods(protocol: Protocol, contest: Contest, wanted: list[str] | None) -> list[str]:
    """Choose the methods that are asked for and can run; tells of each that cannot."""
    chosen = subset(METHODS, wanted, "--methods:") if wanted else subset(METHODS, protocol.methods, "method")
    for name in list(chosen):
        if why := contest.missing(name):
            print(f"quality: {why}", file=sys.stderr)
            chosen.remove(name)
    if not chosen:
        raise InputError("no method is left to run; choose others by --methods")
    return chosen


def list_jobs(protocol: Protocol, options: argparse.Namespace) -> Iterator[Job]:
    """List the scans of the sets that are asked for, under every pattern."""
    names = subset(list(dict.fromkeys(scans.name for scans in protocol.scans)), options.sets, "--sets:")
    for pattern in protocol.patterns:
        for scans in protocol.scans:
            if scans.name in names:
                for file in scan_files(scans, options.data, options.work, options.limit or 0):
                    yield Job(scans, file, pattern)


def _panel(job: Job, scan: Scan, mask: np.ndarray, volumes: dict[str, np.ndarray], options: argparse.Namespace) -> None:
    shown = {name: volume for name, volume in volumes.items() if name not in NOT_SHOWN} or volumes
    folder = options.work / options.protocol.stem / label(job.pattern).replace(" ", "_")
    title = f"{job.scans.name}, {scan.name}, {label(job.pattern)}, R = {effective_acceleration(mask):.2f}"
    volume_panel(folder / f"{job.file.stem}.png", title, shown, scan.target)


def _provenance(contest: Contest, options: argparse.Namespace) -> dict[str, Any]:
    return {
        **provenance(options.protocol),
        "bart": bart.version(),
        "checkpoint": Path(options.checkpoint).name,
        "weights": contest.ours.fingerprint,
        "training_steps": contest.ours.steps,
        "inference": dataclasses.asdict(contest.ours.inference),
        "unet": {
            name: {"weights": network.fingerprint, "minutes": network.settings.minutes}
            for name, network in contest.networks.items()
        },
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", type=Path)
    parser.add_argument("--unet", nargs="+", default=[], metavar="MASK_TYPE:ACCELERATION=FILE", help="fastMRI's U-Nets")
    parser.add_argument(
        "--strengths", type=Path, default=TUNED, help="results of benchmarks/singlecoil/tune_classical.py"
    )
    parser.add_argument("--methods", nargs="+", help="instead of the protocol's")
    parser.add_argument("--sets", nargs="+", help="only these sets of scans, by name")
    parser.add_argument("--limit", type=int, help="at most this many files of each set")
    parser.add_argument("--resume", action="store_true", help="keep rows made by the same weights and settings")
    parser.add_argument("--time", action="store_true", help="time single slices instead; leave the machine alone")
    parser.add_argument("--no-panels", action="store_true")
    add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
