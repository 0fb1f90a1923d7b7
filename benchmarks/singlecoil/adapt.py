"""What `mrihvae adapt` gains on anatomies that the weights never saw, from undersampled slices alone.

    python -m benchmarks.singlecoil.adapt --data DIR

simulates fully sampled scans of each set, undersamples them at 4x as fastMRI does, adapts the weights to `SLICES` of
the undersampled slices as the command does, and scores the reconstruction before and after: of these very slices, and
of others of the same set, which stay unseen. It writes benchmarks/results/adapt.json, and a table (.md) and a picture
(.png) beside it after every run; --resume goes on, --sets and --weights take a part, --steps and --minutes bound a run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.plots import save, subplots
from benchmarks.common.protocol import ScanSet, scan_files, spread, subset
from mrihvae import __version__
from mrihvae.cli.adapt_scans import SiteScan
from mrihvae.cli.train import Stop
from mrihvae.coils.settings import CoilSettings
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.evaluation.scores import score_volume
from mrihvae.io.fastmri import read_scan
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import fingerprint, load_model
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.catalog import make_method
from mrihvae.recon.sliced_scan import SlicedScan
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_scan
from mrihvae.training.adapt_settings import AdaptSettings
from mrihvae.training.adaptation import LOG, Adaptation, adapt
from mrihvae.training.run import WEIGHTS
from mrihvae.utils.files import atomic_write

SLICES = 20  # that weights are adapted to, and at most as many others to score
PATTERN = Undersampling("random", 4, 0.08)
METHODS = ("amortized", "hybrid")
PARTS = ("adapted to", "others")
MODEL2 = str(HERE / "weights" / "model2.safetensors")
SETS = (
    ScanSet("knee", "images/knee/val", every=1),
    ScanSet("heart", "images/heart/val", every=1),
    ScanSet("raw 0.055 T", "ulf_singlecoil/val"),
    ScanSet("knee, 4 coils", "images/knee/val", every=4, coils=4),
)
Volumes = list[tuple[Scan, np.ndarray]]


@dataclass(frozen=True)
class Site:
    """The scans of a set with their masks, and slices of each: those to adapt to, and others."""

    adapted: Volumes
    others: Volumes


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="simulated scans and runs")
    parser.add_argument("--sets", nargs="+", help="some of the sets")
    parser.add_argument("--weights", nargs="+", help="default: the shipped ones by coils, and model2")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=AdaptSettings.steps)
    parser.add_argument("--slices", type=int, default=SLICES, help="slices to adapt to, and to score beside them")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(max(1, options.threads))
    try:
        benchmark(options)
    except InputError as error:
        print(f"adapt: error: {error}", file=sys.stderr)
        return 2
    return 0


def benchmark(options: argparse.Namespace) -> None:
    """Adapt to every set with all weights, and write results after each."""
    if options.data is None:
        raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
    output = options.results / "adapt.json"
    runs = json.loads(output.read_text())["runs"] if options.resume and output.is_file() else []
    names = subset([each.name for each in SETS], options.sets, "--sets")
    for scans in (each for each in SETS if each.name in names):
        for weights in options.weights or ("multicoil" if scans.coils > 1 else "default", MODEL2):
            mark = fingerprint(find_weights(weights))
            if any((run["set"], run["weights"]) == (scans.name, mark) for run in runs):
                continue
            folder = options.work / "adapted" / f"{scans.name}_{Path(weights).stem}".replace(" ", "_").replace(",", "")
            shutil.rmtree(folder, ignore_errors=True)
            print(f"{scans.name}, {weights}", file=sys.stderr)
            runs.append(run_once(scans, weights, mark, folder, options))
            write(output, runs)
    print(table(runs))


def run_once(scans: ScanSet, weights: str, mark: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Adapt weights to a set, and score them before and after."""
    site, start = draw_site(scan_files(scans, Path(options.data), options.work), options.slices), load_model(weights)
    slices = []
    for scan, mask in site.adapted:
        ready = SiteScan(Path(scan.name), scan, mask, SlicedScan(scan, mask, CoilSettings(), inspect=False))
        slices += [found for k in range(len(ready.sliced)) if (found := ready.slice(k)) is not None]
    before = scores(site, start)
    job = Adaptation.new(start, AdaptSettings(steps=options.steps))
    adapt(job, slices, folder, 60.0, lambda steps: tqdm(steps, total=options.steps), Stop(options.minutes))
    after = scores(site, load_model(str(folder / WEIGHTS)))
    log = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return {
        "set": scans.name, "weights": mark, "name": Path(weights).stem, "slices": len(slices), "coils": scans.coils,
        "before": before, "after": after, **dataclasses.asdict(job.progress),
        "checks": [[line["step"], line["check"]] for line in log if "check" in line],
    }  # fmt: skip


def draw_site(files: Sequence[Path], slices: int = SLICES) -> Site:
    """Spread the slices to adapt to evenly over all files, and as many others between them."""
    scans = [read_scan(file) for file in files]
    every = [(n, k) for n, scan in enumerate(scans) for k in range(len(scan.kspace))]
    chosen = spread(every, min(slices, (len(every) + 1) // 2))
    rest = spread([place for place in every if place not in set(chosen)], slices)
    return Site(*(_volumes(scans, places) for places in (chosen, rest)))


def _volumes(scans: Sequence[Scan], places: Sequence[tuple[int, int]]) -> Volumes:
    """Return the scans cut to some slices, with their masks."""
    found = []
    for n, scan in enumerate(scans):
        own = [k for number, k in places if number == n]
        if own and scan.target is not None:
            cut = dataclasses.replace(scan, kspace=np.asarray(scan.kspace)[own], target=np.asarray(scan.target)[own])
            found.append((cut, mask_of(scan, PATTERN)))
    return found


def scores(site: Site, model: HVAE) -> dict[str, dict[str, dict[str, float]]]:
    """Compute PSNR and SSIM of each method and part, means over slices."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in METHODS:
        for part, volumes in zip(PARTS, (site.adapted, site.others)):
            rows = []
            for scan, mask in volumes:
                score = score_volume(scan.target, reconstruct_scan(scan, mask, make_method(name, model)).magnitude)
                rows.append((score["PSNR"], score["SSIM"], len(scan.kspace)))
            values = np.array(rows)
            means = np.average(values[:, :2], axis=0, weights=values[:, 2])
            found.setdefault(name, {})[part] = {"PSNR": round(float(means[0]), 4), "SSIM": round(float(means[1]), 5)}
    return found


def write(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Write the results, their table and the picture; each whole or not at all."""
    head = {
        "mrihvae": __version__,
        "pattern": dataclasses.asdict(PATTERN),
        "settings": dataclasses.asdict(AdaptSettings()),
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({**head, "runs": list(runs)}, indent=1) + "\n")
    with atomic_write(path.with_suffix(".md")) as temporary:
        temporary.write_text(table(runs))
    figure, axes = subplots(1, len(runs), (2.6 * len(runs) + 0.6, 2.8), squeeze=False)
    for ax, run in zip(axes[0], runs):
        steps, checks = zip(*run["checks"])
        ax.plot(steps, checks, "o-", markersize=3, color="tab:red")
        ax.axhline(run["start"], color="0.6", linestyle="--", linewidth=1)
        gain = run["after"]["hybrid"]["others"]["PSNR"] - run["before"]["hybrid"]["others"]["PSNR"]
        ax.set_title(f"{run['set']}, {run['name']}\n{gain:+.2f} dB on others", fontsize=8)
        ax.set_xlabel("step", fontsize=8)
        ax.tick_params(labelsize=7)
    axes[0][0].set_ylabel("error of held-out lines, dB", fontsize=8)
    save(figure, path.with_suffix(".png"))


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Tabulate PSNR and SSIM before and after."""
    lines = [
        "| set | weights | scored on | method | PSNR before | after | gain, dB | SSIM before | after | check, dB | "
        "steps | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        for part in PARTS:
            for method in METHODS:
                old, new = run["before"][method][part], run["after"][method][part]
                lines.append(
                    f"| {run['set']} | {run['name']} | {part} | {method} | {old['PSNR']:.2f} | {new['PSNR']:.2f} | "
                    f"{new['PSNR'] - old['PSNR']:+.2f} | {old['SSIM']:.4f} | {new['SSIM']:.4f} | "
                    f"{run['start']:.2f} to {run['best']:.2f} | {run['best_step']} of {run['step']} | "
                    f"{run['seconds']:.0f} |"
                )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
