"""Tune the strengths of the multi-coil peers on training scans.

    python -m benchmarks.multicoil.tune --data DIR

simulates a slice or two of each folder of training images with 8 coils, and scores every method, acceleration and
strength by the PSNR of the coil-combined image, as benchmarks/multicoil/run.py does. BART's ESPIRiT + L1-wavelet, with
maps of its own, is scored by root-sum-of-squares with every kernel, also on scans of 128 x 128 with 16 coils, where
calibration lines are few. It writes results/tune_multicoil.json: the best strengths, which that benchmark gives to
these methods, the best kernels by number of calibration lines, and the means behind both. Rows go to --work as they
come, and --resume goes on from them; --kernels tunes the kernels alone and keeps the rest of the results.
`mrihvae.recon.classical.COIL_STRENGTH` is the best at 4x.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.protocol import ScanSet, label, scan_files
from benchmarks.multicoil.run import complete_images, support
from benchmarks.peers import bart, multicoil_peers
from benchmarks.singlecoil.contestants import strength_for
from benchmarks.singlecoil.tune_classical import Rows, best_of, layout, means
from mrihvae.coils.espirit import calibration_box
from mrihvae.coils.settings import CoilSettings
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.evaluation.scores import score_volume
from mrihvae.io.fastmri import read_scan
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.sliced_scan import SlicedScan
from mrihvae.recon.undersampling import mask_of
from mrihvae.simulation.files import image_groups, simulate_file
from mrihvae.simulation.settings import ScannerSettings
from mrihvae.utils.files import atomic_write

STRENGTHS = {
    "sense": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
    "wavelet": (0.0001, 0.0003, 0.001, 0.003),
    "tv": (0.0003, 0.001, 0.003, 0.01),
    "bart-wavelet": (0.0001, 0.0003, 0.0006, 0.0012, 0.0025, 0.005),
    "bart-tv": (0.0006, 0.002, 0.006),
}
PATTERNS = (Undersampling("random", 4, 0.08), Undersampling("random", 8, 0.04))
SETS = (
    ScanSet("T1ce", "images/t1ce/train", every=1300, limit=1, coils=8),
    ScanSet("T1, T2, FLAIR", "images/ms_t1_t2_flair/train", every=17, limit=2, coils=8),
    ScanSet("T1 brain", "images/t1_brain/train", every=9, limit=1, coils=8),
)
KERNELS = (3, 4, 5, 6)
PENALTY = "bart-wavelet"
OWN = "ecalib-wavelet"  # the same with maps of BART's own, for which its kernel is tuned
FEW_LINES = 128  # matrix of the scans of few calibration lines
FEW_LINES_COILS = 16
IMAGES = tuple(scans.path for scans in SETS)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--kernels", action="store_true", help="tune BART's kernels alone")
    parser.add_argument("--resume", action="store_true", help="keep the rows that an earlier call left in --work")
    parser.add_argument("--work", type=Path, default=Path("runs/tune_multicoil"), help="rows, and simulated scans")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        if options.data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
        path: Path = options.results / "tune_multicoil.json"
        if options.kernels:
            results = json.loads(path.read_text())
        else:
            rows = tune(options)
            results = {
                "best": best_of(rows),
                "means": means(rows, ("method", "acceleration", "kind", "strength")),
            }
        tried = tune_kernels(options, results["best"]) if bart.version() else []
        results["kernels"] = best_of(tried, ("lines", "acceleration"), "kernel")
        results["kernel means"] = means(tried, ("lines", "acceleration", "kernel"))
        results["bart"] = bart.version()
        with atomic_write(path) as temporary:
            temporary.write_text(layout(results))
    except (InputError, OSError) as error:
        print(f"tune_multicoil: error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({key: results[key] for key in ("best", "kernels")}, indent=1))
    return 0


def tune(options: argparse.Namespace) -> Rows:
    """Score everything that is not scored yet; gives a row for each scan, method, acceleration and strength."""
    work: Path = options.work / "rows.jsonl"
    rows: Rows = []
    if options.resume and work.is_file():
        rows = [json.loads(line) for line in work.read_text().splitlines()]
    work.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["scan"], row["method"], row["acceleration"], row["strength"]) for row in rows}
    files = [file for scans in SETS for file in scan_files(scans, options.data, options.work)]
    todo = [(file, pattern, name) for file in files for pattern in PATTERNS for name in STRENGTHS]
    with work.open("a" if options.resume else "w") as log:
        for file, pattern, name in tqdm(todo, "tuning"):
            if name in multicoil_peers.BART and bart.version() is None:
                continue
            for strength in STRENGTHS[name]:
                if (file.name, name, pattern.acceleration, strength) in done:
                    continue
                row = {
                    "scan": file.name,
                    "kind": "simulated",
                    "method": name,
                    "acceleration": pattern.acceleration,
                    "strength": strength,
                    "PSNR": round(score(file, pattern, name, strength), 4),
                }
                rows.append(row)
                log.write(json.dumps(row) + "\n")
                log.flush()
    return rows


def tune_kernels(options: argparse.Namespace, best: Rows) -> Rows:
    """Score BART's ESPIRiT with every kernel; gives a row for each scan, acceleration and kernel.

    The strength is the best of `PENALTY`; where that was not tuned, there is nothing to do.
    """
    if not any(row["method"] == PENALTY for row in best):
        return []
    scans = [
        whole.single_slice(len(whole.kspace) // 2)
        for whole in (read_scan(file) for sets in SETS for file in scan_files(sets, options.data, options.work)[:1])
    ]
    scans += [scan for path in IMAGES if (scan := few_lines_scan(options.data / path)) is not None]
    rows: Rows = []
    for scan, pattern in tqdm([(scan, pattern) for scan in scans for pattern in PATTERNS], "kernels"):
        mask = np.broadcast_to(mask_of(scan, pattern), scan.kspace.shape[-2:])
        lines = calibration_box(torch.from_numpy(mask.copy()))[1]
        kspace = np.where(mask, scan.kspace[0], 0)
        strength = strength_for(best, PENALTY, pattern.acceleration, "simulated")
        for kernel in (kernel for kernel in KERNELS if kernel < lines):
            try:
                found = multicoil_peers.reconstruct(OWN, kspace, mask, strength=strength, kernel=kernel)
            except InputError:  # BART may find fewer lines than there are, and then takes no such kernel
                continue
            image = multicoil_peers.to_rss(found.image, found.maps, kspace, mask)[None]
            assert scan.target is not None
            psnr = score_volume(scan.target, image)["PSNR"]
            row = {"scan": scan.name, "lines": lines, "acceleration": pattern.acceleration, "kernel": kernel}
            rows.append({**row, "PSNR": round(psnr, 4)})
    return rows


def few_lines_scan(images: Path) -> Scan | None:
    """Simulate the middle slice of the first image file of a folder with 16 coils on 128 x 128; None without images."""
    if not images.is_dir():
        return None
    [group] = image_groups(images, limit=1)
    settings = ScannerSettings(coils=FEW_LINES_COILS, matrix=FEW_LINES, fields="random")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / f"{group.name}_{FEW_LINES}.h5"
        first = replace(group, files=group.files[:1])
        count = simulate_file(first, path, settings)
        return read_scan(path).single_slice(count // 2) if count else None


def score(file: Path, pattern: Undersampling, name: str, strength: float) -> float:
    """Compute the PSNR of the coil-combined image of a scan's middle slice."""
    whole = read_scan(file)
    scan = whole.single_slice(len(whole.kspace) // 2)
    if scan.target is None:
        raise InputError(f"{file}: has no target to score against ({label(pattern)}); leave it out of the folder")
    volume = SlicedScan(scan, mask_of(scan, pattern), CoilSettings(compress=0))
    batch = volume.batch(0, 1)
    mask = np.broadcast_to(volume.known.numpy(), scan.kspace.shape[-2:])
    found = multicoil_peers.reconstruct(name, batch.kspace[0].numpy(), mask, batch.maps[0].numpy(), strength)
    inside = support(scan.target)
    image = np.abs(found.image)[None].astype(np.float32)
    return score_volume(complete_images(scan, volume) * inside, image * inside)["PSNR"]


if __name__ == "__main__":
    sys.exit(main())
