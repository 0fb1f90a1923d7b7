"""`mrihvae demo`: a real scan that comes with the package, undersampled, reconstructed, scored, drawn."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from mrihvae.cli import options
from mrihvae.cli.common import check_output
from mrihvae.data.scan import Scan
from mrihvae.evaluation.figures import volume_panel
from mrihvae.evaluation.scores import score_volume
from mrihvae.io.fastmri import read_scan, write_reconstruction
from mrihvae.model.weights import load_model
from mrihvae.physics.fastmri_masks import effective_acceleration
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.methods import make_method
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume

SCANS = Path(__file__).parents[1] / "demo_scans"
METHODS = ("zero-filled", "wavelet", "tv", "amortized", "hybrid")
LABELS = {
    "wavelet": "L1-wavelet (sigpy)",
    "tv": "TV (sigpy)",
    "amortized": "mrihvae (amortized)",
    "hybrid": "mrihvae (hybrid)",
}


def run(arguments: options.Demo) -> None:
    """Reconstruct the scans with every method, print a table of scores and write the panels."""
    check_output(arguments.output, "panels", "reconstructions")
    model = load_model(arguments.checkpoint)
    undersampling = Undersampling("random", arguments.acceleration, 0.32 / max(arguments.acceleration, 1))
    files = sorted(SCANS.glob("*.h5"))
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    with tqdm(total=len(files) * len(METHODS), desc="reconstructing", leave=False) as bar:
        for file in files:
            scan = read_scan(file)
            assert scan.target is not None
            lines = mask_of(scan, undersampling)
            volumes = {}
            for name in METHODS:
                method = make_method(name, model)
                reconstruct_volume(scan.single_slice(0), lines, method)  # loads what the method needs; not timed
                began = time.perf_counter()
                volumes[name] = reconstruct_volume(scan, lines, method)
                seconds = (time.perf_counter() - began) / len(volumes[name])
                rows[name].append({**score_volume(scan.target, volumes[name]), "seconds": seconds})
                bar.update()
            _write(arguments.output, file, scan, lines, volumes)
    print(table(rows))
    sampled = f"random mask, {arguments.acceleration}x, on {len(files)} volumes of real 0.055 T k-space"
    print(f"\n{sampled}; {torch.get_num_threads()} CPU threads")
    print(f"panels: {arguments.output / 'panels'}   images: {arguments.output / 'reconstructions'}")


def table(rows: Mapping[str, list[dict[str, float]]]) -> str:
    """Lay out the means over volumes, a line per method."""
    lines = [f"{'':<20} {'PSNR / dB':>9} {'SSIM':>7} {'NMSE':>8} {'s / slice':>10}"]
    for name, scored in rows.items():
        mean = {key: float(np.mean([row[key] for row in scored])) for key in scored[0]}
        numbers = f"{mean['PSNR']:>9.2f} {mean['SSIM']:>7.4f} {mean['NMSE']:>8.5f} {mean['seconds']:>10.3f}"
        lines.append(f"{LABELS.get(name, name):<20} {numbers}")
    return "\n".join(lines)


def _write(output: Path, file: Path, scan: Scan, lines: np.ndarray, volumes: Mapping[str, np.ndarray]) -> None:
    write_reconstruction(output / "reconstructions" / file.name, volumes["hybrid"])
    title = f"{scan.name}, 0.055 T, effective acceleration {effective_acceleration(lines):.2f}"
    panels = {LABELS.get(name, name): volumes[name] for name in METHODS if name != "amortized"}
    volume_panel(output / "panels" / f"{file.stem}.png", title, panels, scan.target)
