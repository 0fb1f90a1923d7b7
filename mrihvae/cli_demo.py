"""`mrihvae demo`: a real scan that comes with the package, undersampled, reconstructed, scored, drawn."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from mrihvae.fastmri_files import Scan, read_scan, write_reconstruction
from mrihvae.figures import volume_panel
from mrihvae.masks import effective_acceleration
from mrihvae.volumes import Method, Undersampling, lines_of, reconstruct_volume
from mrihvae.weights import load_model

SCANS = Path(__file__).parent / "demo_scans"
METHODS = ("zero-filled", "wavelet", "amortised", "hybrid")
LABELS = {"wavelet": "L1-wavelet (sigpy)", "amortised": "ours, amortised", "hybrid": "ours, hybrid"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--output", type=Path, default=Path("mrihvae-demo"), help="folder for pictures and results")
    parser.add_argument("--acceleration", type=int, default=4, help="nominal acceleration of the random mask")
    parser.add_argument("--checkpoint", default="default", help="name of shipped weights, or a .safetensors file")


def run(arguments: argparse.Namespace) -> None:
    """Reconstruct the scans with every method, print a table of scores and write the panels."""
    model = load_model(arguments.checkpoint)
    undersampling = Undersampling("random", arguments.acceleration, 0.32 / max(arguments.acceleration, 1))
    files = sorted(SCANS.glob("*.h5"))
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    with tqdm(total=len(files) * len(METHODS), desc="reconstructing", leave=False) as bar:
        for file in files:
            scan = read_scan(file)
            lines = lines_of(scan, undersampling)
            volumes = {}
            for name in METHODS:
                method = Method(name, model)
                reconstruct_volume(_first_slice(scan), lines, method)  # loads what the method needs; not timed
                began = time.perf_counter()
                volumes[name] = reconstruct_volume(scan, lines, method)
                seconds = (time.perf_counter() - began) / len(volumes[name])
                rows[name].append({**scores(scan.target, volumes[name]), "seconds": seconds})
                bar.update()
            _write(arguments.output, file, scan, lines, volumes)
    print(table(rows))
    print(f"\nR is nominal; {len(files)} volumes of real 0.055 T k-space, {torch.get_num_threads()} CPU threads")
    print(f"panels: {arguments.output / 'panels'}   images: {arguments.output / 'reconstructions'}")


def scores(target: np.ndarray | None, volume: np.ndarray) -> dict[str, float]:
    """Compute fastMRI's PSNR, SSIM and NMSE of a volume, cropped as fastMRI's evaluation crops."""
    from fastmri import evaluate as metrics
    from fastmri.data.transforms import center_crop

    assert target is not None
    width = target.shape[-1]
    target, volume = center_crop(target, (width, width)), center_crop(volume, (width, width))
    return {
        "PSNR": float(metrics.psnr(target, volume)),
        "SSIM": float(metrics.ssim(target, volume).item()),
        "NMSE": float(metrics.nmse(target, volume)),
    }


def table(rows: Mapping[str, list[dict[str, float]]]) -> str:
    """Lay out the means over volumes, a line per method."""
    lines = [f"{'':<20} {'PSNR / dB':>9} {'SSIM':>7} {'NMSE':>8} {'s / slice':>10}"]
    for name, scored in rows.items():
        mean = {key: float(np.mean([row[key] for row in scored])) for key in scored[0]}
        numbers = f"{mean['PSNR']:>9.2f} {mean['SSIM']:>7.4f} {mean['NMSE']:>8.5f} {mean['seconds']:>10.3f}"
        lines.append(f"{LABELS.get(name, name):<20} {numbers}")
    return "\n".join(lines)


def _first_slice(scan: Scan) -> Scan:
    target = None if scan.target is None else scan.target[:1]
    return Scan(scan.name, scan.kspace[:1], scan.mask, target, scan.padding, scan.matrix)


def _write(output: Path, file: Path, scan: Scan, lines: np.ndarray, volumes: Mapping[str, np.ndarray]) -> None:
    write_reconstruction(output / "reconstructions" / file.name, volumes["hybrid"])
    title = f"{scan.name}, 0.055 T, effective acceleration {effective_acceleration(lines):.2f}"
    shown = {LABELS.get(name, name): volumes[name] for name in METHODS if name != "amortised"}
    volume_panel(output / "panels" / f"{file.stem}.png", title, shown, scan.target)
