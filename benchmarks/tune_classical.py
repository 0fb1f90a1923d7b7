"""Tune the strengths of sigpy's L1-wavelet and TV on training scans, and check that their iterations have converged.

    python benchmarks/tune_classical.py --data DIR

takes about 10 minutes of one core and writes benchmarks/results/tune_classical.json: fastMRI's PSNR for every setting,
a mean over volumes, and the best strengths. `mrihvae.classical.DEFAULT_STRENGTH` is the best at 4x.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from simulated_scans import simulate_folder
from tqdm import tqdm

from mrihvae import classical
from mrihvae.errors import InputError
from mrihvae.evaluate import score_volume
from mrihvae.fastmri_files import Scan, list_files, read_scan
from mrihvae.files import replacing
from mrihvae.volumes import Method, Undersampling, lines_of, reconstruct_volume

STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03)
UNDERSAMPLING = {"4x": Undersampling("random", 4, 0.08), "8x": Undersampling("random", 8, 0.04)}
RAW = "ulf_singlecoil/train"
SIMULATED = ("images/t1ce/train", "images/ms_t1_t2_flair/train", "images/t1_brain/train")


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        if options.data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
        scans = list(training_scans(options.data))
        rows = [row for scan in tqdm(scans, "tuning") for row in tune(scan)]
        converged = [convergence(scan) for scan in tqdm(scans[::4], "convergence")]
    except InputError as error:
        print(f"tune_classical: error: {error}", file=sys.stderr)
        return 2
    table = means(rows)
    best = {
        f"{method} {at}": max((row for row in table if (row["method"], row["at"]) == (method, at)), key=psnr_of)
        for method in ("wavelet", "tv")
        for at in UNDERSAMPLING
    }
    doubled = {key: float(np.mean([row[key] for row in converged])) for key in ("wavelet", "tv")}
    results = {"best": best, "dB gained by twice the iterations": doubled, "means": table, "scans": len(scans)}
    with replacing(options.results / "tune_classical.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    return 0


def training_scans(data: Path) -> Iterator[Scan]:
    """Give the middle slice of every raw training volume, and of two simulated scans per image folder."""
    for file in list_files(data / RAW):
        scan = read_scan(file)
        yield scan.one(len(scan.kspace) // 2)
    for folder in SIMULATED:
        with tempfile.TemporaryDirectory() as temporary:
            for path in simulate_folder(data / folder, Path(temporary), every=40 if "t1ce" in folder else 8, limit=2):
                scan = read_scan(path)
                yield scan.one(len(scan.kspace) // 2)


def target_of(scan: Scan) -> np.ndarray:
    """Give the target, which all training scans have."""
    if scan.target is None:
        raise InputError(f"{scan.name}: has no target to score against; leave it out of the folder")
    return scan.target


def tune(scan: Scan) -> Iterator[dict[str, Any]]:
    """Score every method, acceleration and strength on a scan."""
    for at, undersampling in UNDERSAMPLING.items():
        lines = lines_of(scan, undersampling)
        settings = [("zero-filled", None)] + [(name, s) for name in ("wavelet", "tv") for s in STRENGTHS]
        for name, strength in settings:
            volume = reconstruct_volume(scan, lines, Method(name, strength=strength))
            yield {
                "at": at,
                "method": name,
                "strength": strength,
                "PSNR": score_volume(target_of(scan), volume)["PSNR"],
            }


def convergence(scan: Scan) -> dict[str, float]:
    """Compute what twice the iterations add to the PSNR at the default strengths, 4x."""
    lines = lines_of(scan, UNDERSAMPLING["4x"])
    gained = {}
    for name, solve in (("wavelet", classical.wavelet), ("tv", classical.total_variation)):
        strength, usual = classical.DEFAULT_STRENGTH[name], classical.ITERATIONS[name]
        once, twice = (np.abs(solve(scan.kspace[0], lines, strength, n * usual)) for n in (1, 2))
        gained[name] = (
            score_volume(target_of(scan), twice[None])["PSNR"] - score_volume(target_of(scan), once[None])["PSNR"]
        )
    return gained


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average the PSNR over scans."""
    keys = dict.fromkeys((row["at"], row["method"], row["strength"]) for row in rows)
    return [
        {
            **dict(zip(("at", "method", "strength"), key)),
            "PSNR": round(
                float(np.mean([row["PSNR"] for row in rows if (row["at"], row["method"], row["strength"]) == key])), 3
            ),
        }
        for key in keys
    ]


def psnr_of(row: dict[str, Any]) -> float:
    """Give the PSNR of a row."""
    return float(row["PSNR"])


if __name__ == "__main__":
    sys.exit(main())
