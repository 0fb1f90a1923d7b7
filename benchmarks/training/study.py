"""What buys quality per CPU second: short runs of variants of the network, equal in CPU time, from the same start.

    python -m benchmarks.training.study ladder --data DIR --minutes 8
    python -m benchmarks.training.study guess --data DIR --minutes 4

`ladder` trains prior, decoder and both posteriors from nothing, with total variation as r's first guess: a third of
the time for the prior alone, as r begins as q. `guess` trains the learned first guess alone. A variant changes one
thing of the first one. Each is then run on scans drawn with seeds that no training step uses, and its reconstruction
of one 320 x 320 slice is timed in CPU seconds on one thread. Data are drawn outside of the budget: all variants see
the same scans in the same order, the faster ones more of them. Writes results/study_NAME.json, .md and .png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import mrihvae.model.hvae
import mrihvae.model.layers
from benchmarks import HERE
from benchmarks.common.plots import save, subplots
from benchmarks.training.train import SOURCES
from mrihvae.datasets.mixture import WeightedDatasets, load_mixture
from mrihvae.errors import InputError
from mrihvae.inference.encoders import CompleteEncoder
from mrihvae.inference.latents import infer
from mrihvae.inference.settings import RefinementSettings
from mrihvae.model.bands import merge
from mrihvae.model.hvae import HVAE
from mrihvae.model.settings import ModelSettings
from mrihvae.training.batches import Scans
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.loop import Batches, train_step
from mrihvae.training.objective import decode_means
from mrihvae.training.run import Run, TrainSettings
from mrihvae.utils.config import from_dict
from mrihvae.utils.files import atomic_write

SHAPES = ((96, 96), (128, 128), (128, 160), (160, 128), (192, 192))
MEASURED = (16, (192, 192))  # batches of two slices, and their shape
LADDER = {"cascades": 0, "widths": [64, 96, 96, 64, 32], "layers": 2, "latents": 1, "fold": 2}
GUESS = {**LADDER, "cascades": 1, "guess_widths": [64, 96, 128, 160]}
STUDIES: dict[str, dict[str, dict[str, Any]]] = {
    "ladder": {
        "as shipped": {},
        "narrower": {"widths": [48, 64, 64, 48, 16]},
        "wider": {"widths": [96, 128, 128, 96, 48]},
        "flat widths": {"widths": [64, 64, 64, 64, 64]},
        "wide coarse levels": {"widths": [192, 160, 96, 64, 32]},
        "K = 1": {"layers": 1},
        "K = 4": {"layers": 4},
        "2 latents a pixel": {"latents": 2},
        "fold 1, narrow": {"fold": 1, "widths": [64, 64, 48, 32, 16]},
        "fold 4, wide": {"fold": 4, "widths": [96, 128, 128, 128]},
        "4 levels": {"widths": [64, 96, 64, 32]},
        "in frequency space": {"frequency": True},
    },
    "guess": {
        "1 U-Net": {},
        "1 U-Net, AdamW": {"adamw": True},
        "2 U-Nets": {"cascades": 2},
        "3 narrower U-Nets": {"cascades": 3, "guess_widths": [48, 64, 96, 128]},
        "1 narrower U-Net": {"guess_widths": [32, 48, 64, 96]},
        "1 wider U-Net": {"guess_widths": [96, 128, 192, 256]},
        "1 shallow U-Net": {"guess_widths": [64, 96, 128]},
        "fold 1": {"fold": 1, "guess_widths": [32, 64, 96, 128]},
    },
}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=tuple(STUDIES))
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--minutes", type=float, default=8.0, help="CPU time of each variant")
    parser.add_argument("--variants", nargs="+", help="only these; others keep their earlier results")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    try:
        if arguments.data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
        study(arguments)
    except InputError as error:
        print(f"study: error: {error}", file=sys.stderr)
        return 2
    return 0


def study(arguments: argparse.Namespace) -> None:
    """Train and measure the variants; results are written after each."""
    torch.set_num_threads(1)
    variants = STUDIES[arguments.study]
    unknown = set(arguments.variants or ()) - set(variants)
    if unknown:
        raise InputError(f"--variants: {', '.join(sorted(unknown))} unknown; choose of {', '.join(variants)}")
    mixture = load_mixture([f"{arguments.data}/{source}" for source in SOURCES], lambda files: iter(tqdm(files)))
    path = arguments.results / f"study_{arguments.study}.json"
    rows = {row["variant"]: row for row in json.loads(path.read_text())["rows"]} if path.is_file() else {}
    for name in arguments.variants or variants:
        with _in_frequency_space(variants[name].get("frequency", False)):
            rows[name] = {"variant": name, **variant(arguments.study, variants[name], mixture, arguments.minutes)}
        found = [rows[one] for one in variants if one in rows]
        about = {"study": arguments.study, "torch": str(torch.__version__), "threads": 1}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({**about, "rows": found}, indent=1) + "\n")
        with atomic_write(path.with_suffix(".md")) as temporary:
            temporary.write_text(markdown(found))
        _plot(found, path.with_suffix(".png"))
    print(path.with_suffix(".md").read_text())


def variant(study: str, changes: dict[str, Any], mixture: WeightedDatasets, minutes: float) -> dict[str, Any]:
    """Train one variant and measure it."""
    base = GUESS if study == "guess" else LADDER
    own = {key: value for key, value in changes.items() if key not in ("frequency", "adamw")}
    model = from_dict(ModelSettings, {**base, **own}, study)
    never = 10**9
    settings = TrainSettings(
        steps=never,
        learning_rate=1.5e-3,
        warmup=50,
        kl_warmup=100,
        guess_only=never if study == "guess" else 0,
        masked_start=0 if study == "guess" else never,
        shapes=SHAPES,
        pixels=32768,
        ema=0.99,
    )
    run = Run.new(model, settings, SimulationSettings(), "cpu")
    if changes.get("adamw"):
        run.optimizer = torch.optim.AdamW(run.model.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=0.0)  # type: ignore[assignment]
    _train(run, mixture, 60 * minutes)
    scores = measure(run.average, mixture, study == "guess")
    return {
        "changes": changes,
        "minutes": minutes,
        "steps": run.counters.step,
        "parameters": sum(p.numel() for p in run.average.parameters()),
        "inference_cpu_seconds": _inference_seconds(run.average),
        **scores,
    }


def _train(run: Run, mixture: WeightedDatasets, seconds: float) -> None:
    """Do steps for so much CPU time; the learning rate falls to 0 over it, and r joins after a third of it."""
    batches = Batches(run.settings, run.simulation, mixture)
    used, limit = 0.0, float(seconds)
    with tqdm(total=round(limit), unit="s") as bar:
        while used < limit:
            step = run.counters.step
            if run.settings.masked_start > step and used > limit / 3:
                run.settings = dataclasses.replace(run.settings, masked_start=step)
            steps = max(step + 2, round((step + 1) / max(used / limit, 0.01)))
            run.settings = dataclasses.replace(run.settings, steps=steps)
            scans = batches[step]
            began = time.process_time()
            train_step(run, scans)
            used += time.process_time() - began
            bar.update(round(used) - bar.n)


def measure(model: HVAE, mixture: WeightedDatasets, guess_only: bool) -> dict[str, float]:
    """Measure, on fixed scans, by how many dB the error of bins that were not measured is below zero-filling's."""
    count, shape = MEASURED
    settings = TrainSettings(shapes=(shape,), pixels=2 * shape[0] * shape[1], seed=9)
    batches = Batches(settings, SimulationSettings(), mixture)
    gains: dict[str, list[float]] = {"total variation": [], "reconstruction": [], "q, complete scan": []}
    with torch.no_grad():
        for number in range(count):
            scans = batches[number]
            guesses = model.r.guesses(scans.measured, scans.mask)
            found = {"total variation": guesses[0], "reconstruction": guesses[-1]}
            if not guess_only:
                found["reconstruction"] = merge(decode_means(model, scans.measured, scans.mask, guesses[-1]))
                found["q, complete scan"] = decoded_means_of_q(model, scans.kspace)
            below = _error(scans, scans.measured)
            for name, estimate in found.items():
                gains[name] += (10 * torch.log10(below / _error(scans, estimate)))[below > 1e-6].tolist()
    return {f"gain_dB, {name}": round(float(np.mean(values)), 3) for name, values in gains.items() if values}


def _error(scans: Scans, estimate: Tensor) -> Tensor:
    missing = torch.where(scans.mask, torch.zeros((), dtype=estimate.dtype), scans.kspace - estimate)
    return missing.abs().square().mean(dim=(-2, -1))


def decoded_means_of_q(model: HVAE, kspace: Tensor) -> Tensor:
    """Decode the means of q of complete scans: what decoder and latents can carry at best."""
    complete, s = torch.ones_like(kspace, dtype=torch.bool), kspace.real.new_ones(len(kspace))
    return infer(model, CompleteEncoder(model, kspace), kspace, complete, s, RefinementSettings(sweeps=0)).kspace


def _inference_seconds(model: HVAE) -> float:
    """Time the amortized reconstruction of one 320 x 320 slice, in CPU seconds on one thread; median of 3."""
    torch.manual_seed(0)
    mask = (torch.rand(320) < 0.25).expand(1, 320, 320)
    measured = torch.where(mask, torch.randn(1, 320, 320, dtype=torch.complex64), 0)
    seconds = []
    with torch.no_grad():
        for _ in range(4):
            began = time.process_time()
            decode_means(model, measured, mask, model.r.guesses(measured, mask)[-1])
            seconds.append(time.process_time() - began)
    return round(float(np.median(seconds[1:])), 3)


@contextmanager
def _in_frequency_space(wanted: bool) -> Iterator[None]:
    """Let the network see and predict bins in place of images, if `wanted`: its convolutions run over frequencies."""
    modules = ((mrihvae.model.hvae, "fft2c"), (mrihvae.model.hvae, "ifft2c"), (mrihvae.model.layers, "ifft2c"))
    before: list[Callable[[Tensor], Tensor]] = [getattr(module, name) for module, name in modules]
    try:
        for module, name in modules if wanted else ():
            setattr(module, name, lambda tensor: tensor)
        yield
    finally:
        for (module, name), function in zip(modules, before, strict=True):
            setattr(module, name, function)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Lay out a row per variant."""
    gains = [key for key in rows[0] if key.startswith("gain_dB")]
    titles = [f"{key.removeprefix('gain_dB, ')}, dB over zero-filled" for key in gains]
    lines = ["| variant | " + " | ".join([*titles, "CPU s a slice, 320 x 320", "steps", "parameters, M"]) + " |"]
    lines.append("|---" * (len(gains) + 4) + "|")
    for row in rows:
        cells = [f"{row[key]:.2f}" for key in gains]
        cells += [f"{row['inference_cpu_seconds']:.2f}", str(row["steps"]), f"{row['parameters'] / 1e6:.1f}"]
        lines.append(f"| {row['variant']} | " + " | ".join(cells) + " |")
    minutes = sorted({row["minutes"] for row in rows})
    return "\n".join(lines) + f"\n\nCPU minutes of each run: {', '.join(f'{m:g}' for m in minutes)}; one thread.\n"


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw quality over the CPU seconds of a slice."""
    figure, axis = subplots(size=(7, 4.5))
    for row in rows:
        x, y = row["inference_cpu_seconds"], row["gain_dB, reconstruction"]
        axis.plot(x, y, "o", color="black" if row is rows[0] else "tab:blue")
        axis.annotate(row["variant"], (x, y), xytext=(5, 3), textcoords="offset points", fontsize=8)
    axis.axhline(rows[0]["gain_dB, total variation"], color="gray", linewidth=0.8, label="total variation")
    axis.set_xlabel("CPU seconds for one 320 x 320 slice, one thread")
    axis.set_ylabel("error below zero-filling, dB")
    axis.margins(x=0.2)
    axis.legend(fontsize=8)
    save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
