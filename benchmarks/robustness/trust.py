"""Whether results depend on how they are computed: batch sizes, threads, processes, precision, seeds; and memory.

    python -m benchmarks.robustness.trust

Differences are the largest of any pixel, over the largest pixel; of the classical parts, against double precision,
those of the norm; of half precision, decibels of PSNR against the phantom. Memory is that of a process of its own that
reconstructs one slice after another, as Linux tells it, from the share `SETTLED` of the slices on. Leave the machine
alone meanwhile. Writes results/numerical_trust.json and .md.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing as mp
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import HERE
from benchmarks.common.complete_scans import write_results
from benchmarks.common.provenance import provenance
from benchmarks.robustness.reference import Row, reference_rows
from benchmarks.robustness.tables import trust_table
from mrihvae.data.scan import Scan
from mrihvae.inference.settings import InferenceSettings, RefinementSettings
from mrihvae.model.weights import load_model
from mrihvae.physics.fourier import ifft2c
from mrihvae.pnp.settings import PnPSettings
from mrihvae.recon.catalog import make_method
from mrihvae.recon.methods import Method
from mrihvae.recon.volumes import reconstruct_volume, sample_volume
from mrihvae.utils.memory import return_large_blocks
from tests.support.small import small_kspace
from tests.support.small_coils import calibrated, coil_scans, true_maps

METHODS = ("hybrid", "amortized", "samples", "pnp", "sense", "wavelet", "tv", "zero-filled")
CHEAP = ("amortized", "pnp", "zero-filled")
SHAPE = (4, 64, 48)  # slices, H, W
COILS = 4
BATCHES = (1, 3)
EQUAL = 1e-5  # relative
DRAWN_START = 1e-3  # of sigpy's methods, which draw the start of a power iteration at random
CLASSICAL = ("wavelet", "tv")
HALF_PRECISION_DB = 0.05
FLAT = 0.02
SETTLED = 0.2
SLICES = 1000
QUICK_SLICES = 60
NOISE = 0.01


@dataclass(frozen=True)
class Setup:
    """What is compared.

    Attributes
    ----------
    quick : the cheap methods alone, with less work
    threads : the larger number of threads
    seed : of the phantoms
    """

    quick: bool = False
    threads: int = 2
    seed: int = 0

    def scan(self, coils: int) -> Scan:
        """Make a fully sampled scan of phantoms with noise."""
        slices, height, width = SHAPE
        if coils == 1:
            return Scan("phantoms.h5", small_kspace(*SHAPE, noise=NOISE, seed=self.seed).numpy())
        return Scan("phantoms.h5", coil_scans(slices, coils, height, width, NOISE, self.seed)[0].numpy())

    def truth(self, coils: int) -> np.ndarray:
        """Return the phantoms without noise, as magnitudes: float32 (slices, H, W)."""
        kspace = small_kspace(*SHAPE, noise=0.0, seed=self.seed)
        images = ifft2c(kspace).abs()
        if coils > 1:
            maps = true_maps((SHAPE[-2], SHAPE[-1]), coils, self.seed)
            images = images * maps.abs().square().sum(dim=0).sqrt()
        return np.asarray(images)

    def method(self, name: str, coils: int, precision: str = "float32") -> Method:
        """Make a method with the shipped weights."""
        model = load_model("default" if coils == 1 else "multicoil")
        sweeps = 1 if self.quick else 2
        inference = InferenceSettings(
            RefinementSettings(sweeps=sweeps),
            views=1 if self.quick else 2,
            tv_blend=not self.quick,
            precision=precision,
        )
        pnp = PnPSettings(iterations=3 if self.quick else 20)
        return make_method(name, model, inference, samples=2, pnp=pnp)

    def names(self, coils: int) -> list[str]:
        """List the methods that are compared."""
        return [name for name in (CHEAP if self.quick else METHODS) if name != "sense" or coils > 1]


def lines() -> np.ndarray:
    """Mark the lines that are acquired: bool (W,)."""
    return np.asarray(calibrated(SHAPE[-1], 16))


def volume_of(setup: Setup, name: str, coils: int, batch_size: int = 8, threads: int = 1) -> np.ndarray:
    """Reconstruct the phantoms: float32 (slices, H, W)."""
    torch.set_num_threads(threads)
    try:
        return reconstruct_volume(setup.scan(coils), lines(), setup.method(name, coils), batch_size)
    finally:
        torch.set_num_threads(1)


def equality_rows(setup: Setup) -> Iterator[Row]:
    """Compare batch sizes, threads and processes."""
    pool = ProcessPoolExecutor(1, mp.get_context("spawn"))
    with pool:
        for coils in (1, COILS):
            for name in setup.names(coils):
                whole = volume_of(setup, name, coils)
                limit = DRAWN_START if name in CLASSICAL else EQUAL
                for size in BATCHES[: 1 if setup.quick else None]:
                    yield _row("batch size", name, coils, difference(volume_of(setup, name, coils, size), whole), limit)
                threaded = volume_of(setup, name, coils, threads=setup.threads)
                yield _row("threads", name, coils, difference(threaded, whole), limit)
                elsewhere = pool.submit(volume_of, setup, name, coils).result()
                exact = limit if name in CLASSICAL else 0.0
                yield _row("processes", name, coils, difference(elsewhere, whole), exact)


def seed_rows(setup: Setup) -> Iterator[Row]:
    """Compare posterior samples of equal seeds, and of another one, which must differ."""
    for coils in (1, COILS):
        scan, method = setup.scan(coils).single_slice(0), setup.method("samples", coils)
        first, again, other = (sample_volume(scan, lines(), method, seed).samples for seed in (3, 3, 4))
        yield _row("equal seeds", "samples", coils, difference(again, first), 0.0)
        yield {**_row("other seeds", "samples", coils, difference(other, first), math.inf), "least": 1e-4}


def precision_rows(setup: Setup) -> Iterator[Row]:
    """Compare what half precision costs, in dB of PSNR against the phantom without noise."""
    for coils in (1, COILS):
        scan, truth = setup.scan(coils), setup.truth(coils)
        for name in [name for name in setup.names(coils) if name in ("hybrid", "amortized")]:
            scores = []
            for precision in ("float32", "bfloat16"):
                volume = reconstruct_volume(scan, lines(), setup.method(name, coils, precision))
                scores.append(psnr(volume, truth))
            yield _row("half precision, dB", name, coils, scores[0] - scores[1], HALF_PRECISION_DB)


def difference(found: np.ndarray | None, truth: np.ndarray | None) -> float:
    """Compute the largest difference of a pixel over the largest pixel."""
    assert found is not None and truth is not None
    return float(np.abs(found - truth).max() / np.abs(truth).max())


def psnr(found: np.ndarray, truth: np.ndarray) -> float:
    """Compute the peak signal-to-noise ratio of a volume, in dB."""
    return float(10 * np.log10(truth.max() ** 2 / ((found - truth) ** 2).mean()))


def memory_of_slices(setup: Setup, name: str, coils: int, count: int) -> list[float]:
    """Reconstruct a slice so often; return the memory of the process after each, in MiB."""
    torch.set_num_threads(1)
    return_large_blocks()
    method, scan, mask = setup.method(name, coils), setup.scan(coils), lines()
    found = []
    for k in range(count):
        reconstruct_volume(scan.single_slice(k % len(scan.kspace)), mask, method)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    return found


def memory_row(setup: Setup, name: str, coils: int, count: int) -> Row:
    """Measure by how much memory changes over many slices, once it is settled."""
    with ProcessPoolExecutor(1, mp.get_context("spawn")) as pool:
        memory = pool.submit(memory_of_slices, setup, name, coils, count).result()
    later = memory[round(SETTLED * count) :]
    row = _row(f"memory, {count} slices", name, coils, max(later) / min(later) - 1, FLAT)
    return {**row, "memory_MiB": [round(value, 1) for value in memory[:: max(1, count // 50)]]}


def _row(check: str, name: str, coils: int, found: float, limit: float) -> Row:
    what = f"{name}, {coils} {'coil' if coils == 1 else 'coils'}"
    return {"check": check, "what": what, "difference": found, "limit": limit}


def is_right(row: Row) -> bool:
    """Return whether a row is within its limit."""
    return bool(row.get("least", -math.inf) <= row["difference"] <= row["limit"])


def measure(setup: Setup, slices: int) -> dict[str, Any]:
    """Measure all of it."""
    torch.set_num_threads(1)
    rows = [*reference_rows(setup.seed), *equality_rows(setup), *seed_rows(setup), *precision_rows(setup)]
    name = "amortized" if setup.quick else "hybrid"
    rows += [memory_row(setup, name, coils, slices) for coils in ((1,) if setup.quick else (1, COILS))]
    return {
        **provenance(weights=("default", "multicoil")),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": setup.threads,
        "seed": setup.seed,
        "shape": list(SHAPE),
        "rows": [{**row, "right": is_right(row)} for row in rows],
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status, 1 if anything is beyond its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, help=f"of which memory is watched; {SLICES}, with --quick {QUICK_SLICES}")
    parser.add_argument("--threads", type=int, default=max(2, os.cpu_count() or 2), help="against one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="the cheap methods alone")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "numerical_trust.json")
    options = parser.parse_args(arguments)
    slices = options.slices or (QUICK_SLICES if options.quick else SLICES)
    if slices < 10 or options.threads < 2 or options.seed < 0:
        parser.error("--slices must be at least 10, --threads at least 2, and --seed at least 0")
    results = measure(Setup(options.quick, options.threads, options.seed), slices)
    write_results(options.output, results, trust_table(results))
    print(trust_table(results))
    wrong = [row for row in results["rows"] if not row["right"]]
    for row in wrong:
        print(f"trust: {row['check']}, {row['what']}: {row['difference']:.2g} beyond {row['limit']}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
