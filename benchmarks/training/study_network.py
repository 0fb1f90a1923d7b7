"""Which network to train: short runs of equal CPU time from nothing, on one coil and on several, two seeds each.

    python -m benchmarks.training.study_network --data DIR --seeds 0 1 --minutes 5
    python -m benchmarks.training.study_network --collect

trains every variant (first guess, then prior, then all together, as a long run does) and scores one encoder pass on
fixed scans of people and anatomies that no training data have: PSNR by set, coils and acceleration, the evidence bound
of fully sampled scans, the Fréchet distance between draws of the prior and those scans, and CPU seconds of inference.
The control is a cascade of U-Nets with data consistency alone, of about equal cost. Data are drawn outside of the
budget. A row goes to --work when it is done, and is kept by later calls; so two seeds may run side by side. --collect
writes results/study_network.json, .md and .png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.frechet import frechet_distance, gabor_features
from benchmarks.common.plots import save, subplots
from benchmarks.training.train import SOURCES, VALIDATION
from mrihvae.datasets.mixture import WeightedDatasets, load_mixture
from mrihvae.errors import InputError
from mrihvae.inference.latents import generate
from mrihvae.inference.reconstruct import reconstruct
from mrihvae.inference.settings import InferenceSettings, RefinementSettings
from mrihvae.model.hvae import HVAE
from mrihvae.model.settings import ModelSettings
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.loop import Batches, train_step
from mrihvae.training.run import Run, TrainSettings
from mrihvae.training.validation import (
    ValidationCase,
    ValidationSettings,
    draw_cases,
    mean_psnr,
    psnr,
    validate,
)
from mrihvae.utils.config import from_dict
from mrihvae.utils.files import atomic_write

SHAPES = ((128, 128), (128, 160), (160, 128), (160, 160), (192, 192))
PIXELS = 65_536
GUESS_UNTIL, PRIOR_UNTIL = 0.3, 0.5  # shares of the time: the first guess alone, then the prior alone
LEARNING_RATE = 1.5e-3
FIRST = {"cascades": 2, "guess_widths": [64, 96, 128, 160], "guess_memory": 16}  # the network of version 0.1.0
FINE = {**FIRST, "guess_fold": 2, "fold": 1, "any_size": True, "widths": [64, 64, 48, 32, 16]}
DEEP = {**FINE, "widths": [96, 96, 96, 64, 48, 32, 16], "layers": [4, 4, 3, 2, 2, 1, 1]}
SIX = {**FINE, "widths": [64, 96, 64, 48, 32, 16], "layers": [3, 3, 2, 2, 1, 1]}
VARIANTS: dict[str, dict[str, Any]] = {
    "version 0.1.0": FIRST,
    "fold 1": FINE,
    "fold 1, 7 levels": DEEP,
    "control: three U-Nets alone": {**FIRST, "cascades": 3},
    "fold 1, 7 levels, a quarter of the start": {**DEEP, "start_share": 0.25},
    "fold 1, 7 levels, one wide U-Net": {**DEEP, "cascades": 1, "guess_widths": [96, 128, 192, 224]},
    "fold 1, 7 levels, three narrow U-Nets": {**DEEP, "cascades": 3, "guess_widths": [48, 80, 112, 128]},
    "fold 1, 7 levels, two shared U-Nets": {**DEEP, "guess_shared": True},
    "fold 1, 7 levels, K = 2": {**DEEP, "layers": 2},
    "no U-Nets: version 0.1.0": {**FIRST, "cascades": 0},
    "no U-Nets: fold 1": {**FINE, "cascades": 0},
    "no U-Nets: fold 1, 6 levels": {**SIX, "cascades": 0},
    "no U-Nets: fold 1, 7 levels": {**DEEP, "cascades": 0},
    "no U-Nets: fold 1, 6 levels, K = 2 at the finest two": {**SIX, "layers": [3, 3, 2, 2, 2, 2], "cascades": 0},
    "fold 1, 6 levels, K = 2 at the finest two, half of the start": {
        **SIX,
        "layers": [3, 3, 2, 2, 2, 2],
        "start_share": 0.5,
    },
}
CONTROL = "control"
SIMULATION = SimulationSettings(
    coils=(1, 16), one_coil=0.5, physical_phase=0.7, tissue_phase=2.5, tone=0.5, inversion=0.2, blur=0.2, empty=0.02
)
DRAWS, DRAWN = 64, (128, 128)
TIMED = (256, 256)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--minutes", type=float, default=5.0, help="CPU time of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--collect", action="store_true", help="write tables of the rows that are there, and end")
    parser.add_argument("--work", type=Path, default=Path("runs/study_network"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        if unknown := set(options.variants) - set(VARIANTS):
            raise InputError(f"--variants: {', '.join(sorted(unknown))} unknown; choose of {', '.join(VARIANTS)}")
        if not options.collect:
            if options.data is None:
                raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
            study(options)
        collect(options)
    except InputError as error:
        print(f"study_network: error: {error}", file=sys.stderr)
        return 2
    return 0


def study(options: argparse.Namespace) -> None:
    """Train and score what is missing."""
    mixture = load_mixture([f"{options.data}/{source}" for source in SOURCES])
    cases = validation_cases(options.data)
    options.work.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for name in options.variants:
            path = options.work / f"{list(VARIANTS).index(name)}_{seed}.json"
            if path.is_file():
                continue
            row = {"variant": name, "seed": seed, **trained(name, mixture, cases, options.minutes, seed)}
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(row, indent=1) + "\n")


def validation_cases(data: Path, slices: int = 3) -> list[ValidationCase]:
    """Draw the fixed scans to score on."""
    sources = {name: load_mixture([f"{data}/{folder}"]) for name, folder in VALIDATION.items()}
    return draw_cases(sources, ValidationSettings(slices=slices), SIMULATION)


def trained(
    name: str, mixture: WeightedDatasets, cases: list[ValidationCase], minutes: float, seed: int
) -> dict[str, Any]:
    """Train a variant for so much CPU time, and score it."""
    never, control = 10**9, name.startswith(CONTROL)
    settings = TrainSettings(
        steps=never, learning_rate=LEARNING_RATE, warmup=50, kl_warmup=100, guess_only=never, masked_start=never,
        prior_every=4, matching_weight=0.3, skip=50.0, shapes=SHAPES, pixels=PIXELS, ema=0.99, seed=seed,
    )  # fmt: skip
    run = Run.new(from_dict(ModelSettings, VARIANTS[name], name), settings, SIMULATION, "cpu")
    used, limit = 0.0, 60 * minutes
    with tqdm(total=round(limit), unit="s", desc=f"{name}, seed {seed}", mininterval=20) as bar:
        while used < limit:
            step, share = run.counters.step, used / limit
            changes: dict[str, Any] = {"steps": max(step + 2, round((step + 1) / max(share, 0.01)))}
            if not control and share > GUESS_UNTIL and run.settings.guess_only == never:
                changes["guess_only"] = step
            if not control and share > PRIOR_UNTIL and run.settings.masked_start == never:
                changes["masked_start"] = step
            run.settings = dataclasses.replace(run.settings, **changes)
            scans = Batches(run.settings, run.simulation, mixture, guesses=run.model.settings.cascades > 0)[step]
            began = time.process_time()
            train_step(run, scans)
            used += time.process_time() - began
            bar.update(round(used) - bar.n)
    share = run.average.settings.start_share
    scores = validate(run.average, [case.with_tv_initialization(share) for case in cases])
    if control:
        scores = {key: {**row, "psnr": row["guess"]} for key, row in scores.items()}
    else:
        for case in cases:
            if case.coils == 1:
                scores[case.key]["hybrid"] = hybrid_psnr(run.average, case)
    elbos = [row["elbo"] for row in scores.values() if "elbo" in row]
    return {
        "minutes": minutes,
        "steps": run.counters.step,
        "slices": run.counters.slices,
        "parameters": sum(p.numel() for p in run.average.parameters()),
        "seconds": {
            "amortized": inference_seconds(
                run.average, InferenceSettings(views=1, rounds=1, refinement=RefinementSettings(sweeps=0)), control
            ),
            "hybrid": inference_seconds(run.average, InferenceSettings(), control),
        },
        "elbo": None if control else round(float(np.mean(elbos)), 4),
        "frechet": None if control else round(frechet(run.average, cases), 3),
        "scores": scores,
    }


def hybrid_psnr(model: HVAE, case: ValidationCase) -> float:
    """Compute the mean PSNR in dB of scans of one coil by the default inference: views, rounds and refinement."""
    scans, images = case.scans, []
    for kspace, mask in zip(scans.measured, scans.mask):  # their masks differ
        images.append(reconstruct(model, kspace[None], mask))
    return round(psnr(fft2c(torch.cat(images)), scans.kspace), 3)


def inference_seconds(model: HVAE, settings: InferenceSettings, control: bool) -> float:
    """Time the reconstruction of one slice of one coil, in CPU seconds on one thread: the median of 3."""
    torch.manual_seed(0)
    mask = torch.rand(TIMED[1]) < 0.25
    mask[TIMED[1] // 2 - 8 : TIMED[1] // 2 + 8] = True
    kspace = torch.where(mask, torch.randn(1, *TIMED, dtype=torch.complex64), 0)
    seconds = []
    with torch.no_grad():
        for _ in range(4):
            began = time.process_time()
            if control:
                for _ in range(settings.views):
                    model.r.guesses(kspace, mask.expand(1, *TIMED))
            else:
                reconstruct(model, kspace, mask, None, settings)
            seconds.append(time.process_time() - began)
    return round(float(np.median(seconds[1:])), 3)


def frechet(model: HVAE, cases: list[ValidationCase]) -> float:
    """Compute the Fréchet distance between draws of the prior and the magnitudes of the fully sampled scans."""
    truth = torch.cat([ifft2c(case.scans.kspace).abs() for case in cases if case.coils == 1])
    with torch.no_grad():
        drawn = torch.cat([ifft2c(generate(model, 8, DRAWN, seed=k).kspace).abs() for k in range(DRAWS // 8)])
    return frechet_distance(gabor_features(drawn).numpy(), gabor_features(truth).numpy())


def collect(options: argparse.Namespace) -> None:
    """Write the tables and the plot of all rows that are there."""
    order = list(VARIANTS)
    rows = [json.loads(path.read_text()) for path in sorted(options.work.glob("*_*.json"))]
    rows.sort(key=lambda row: (order.index(row["variant"]), row["seed"]))
    if not rows:
        raise InputError(f"{options.work}: no rows yet; train first")
    path = options.results / "study_network.json"
    about = {"torch": str(torch.__version__), "threads": 1, "simulation": dataclasses.asdict(SIMULATION)}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    with atomic_write(path.with_suffix(".md")) as temporary:
        temporary.write_text(markdown(rows))
    plot(rows, path.with_suffix(".png"))
    print(path.with_suffix(".md").read_text())


def markdown(rows: list[dict[str, Any]]) -> str:
    """Lay out means over seeds, a row per variant, and the PSNR of each set."""
    names = list(dict.fromkeys(row["variant"] for row in rows))
    parts = ["1 coil, 4x", "1 coil, 8x", "8 coils, 4x", "8 coils, 8x"]
    head = ["network", *parts, "spread of seeds", "evidence bound", "Fréchet", "amortized, s", "hybrid, s", "slices"]
    rows_have_hybrid = any("hybrid" in one for row in rows for one in row["scores"].values())
    one_coil = parts[:2] if rows_have_hybrid else []
    head += [f"hybrid, {part}" for part in one_coil]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in names:
        found = [row for row in rows if row["variant"] == name]
        overall = [mean_psnr(row["scores"]) for row in found]
        cells = [f"{np.mean([mean_psnr(row['scores'], part) for row in found]):.2f}" for part in parts]
        cells.append(f"{max(overall) - min(overall):.2f}" if len(found) > 1 else "")
        for key, form in (("elbo", "{:.3f}"), ("frechet", "{:.2f}")):
            values = [row[key] for row in found if row[key] is not None]
            cells.append(form.format(np.mean(values)) if values else "")
        cells += [f"{np.mean([row['seconds'][way] for row in found]):.2f}" for way in ("amortized", "hybrid")]
        cells.append(f"{np.mean([row['slices'] for row in found]):.0f}")
        for part in one_coil:
            scores = [one for row in found for key, one in row["scores"].items() if part in key]
            hybrid = [one["hybrid"] for one in scores if "hybrid" in one]
            cells.append(f"{np.mean(hybrid):.2f}" if hybrid else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    sets = list(dict.fromkeys(key.split(",")[0] for key in rows[0]["scores"]))
    lines += ["", "By set, mean over coils and accelerations:", "", "| network | " + " | ".join(sets) + " |"]
    lines.append("|---" * (len(sets) + 1) + "|")
    for name in names:
        found = [row for row in rows if row["variant"] == name]
        cells = [f"{np.mean([mean_psnr(row['scores'], f'{one},') for row in found]):.2f}" for one in sets]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    minutes = ", ".join(f"{m:g}" for m in sorted({row["minutes"] for row in rows}))
    counts = sorted({sum(row["variant"] == name for row in rows) for name in names})
    seeds = " or ".join(map(str, counts))
    note = (
        "PSNR in dB of one encoder pass; evidence bound in nats per real dimension (less is better); CPU seconds of a "
        f"{TIMED[0]} x {TIMED[1]} slice of one coil on one thread. CPU minutes of each run: {minutes}; seeds: {seeds}."
    )
    return "\n".join([*lines, "", note]) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw quality over the seconds of one encoder pass, a mark per run."""
    figure, axes = subplots(1, 2, size=(12, 4.5))
    names = [name for name in VARIANTS if any(row["variant"] == name for row in rows)]
    for axis, part in zip(axes, ("1 coil", "8 coils")):
        for number, name in enumerate(names):
            found = [row for row in rows if row["variant"] == name]
            points = [(row["seconds"]["amortized"], mean_psnr(row["scores"], part)) for row in found]
            marker = "os^D"[number // 5 % 4]
            axis.plot(*zip(*points), marker, color=f"C{number % 5}", label=name)
        axis.set_title(part)
        axis.set_xlabel(f"CPU seconds of one encoder pass, {TIMED[0]} x {TIMED[1]}")
        axis.set_ylabel("PSNR, dB")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
