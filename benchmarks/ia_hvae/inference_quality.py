"""Quality of amortized, iterative and hybrid inference over refinement steps (IA-HVAE, section 3.3 and Table 1).

    python -m benchmarks.ia_hvae.inference_quality protocols/ia_hvae_quality.toml --data DIR

infers the latents of complete scans with one set of weights and writes, per mode and N: the squared error of what they
decode to, in (1 % of a model unit)^2, or of the range of real images; -log p(z) in nats per latent,
which is low where latents have stayed at the prior; the negative evidence bound in nats per real dimension, that of
normal distributions around the inferred latents with q's deviations, by itself and importance-weighted (Burda et al.
2016); the Frechet distance (`frechet.py`) of decoded images to the scans, beside that of one half of the scans to the
other; and seconds a slice. A step of Adam is in units of what latents start from, the prior's deviation or q's, so
the same N goes differently far. Variants of the protocol follow. Writes results/NAME.json, .md, a plot of error over
seconds (.png) and scans as they grow band by band (_bands.png), NAME being the protocol's.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.common.complete_scans import (
    draw_scans,
    evidence_bounds,
    left_out,
    limited,
    log_prior,
    read_toml,
    run_command,
    weights_of,
    write_results,
)
from benchmarks.common.frechet import GABOR, Features, frechet_distance, gabor_features, inception_features
from benchmarks.common.plots import save, subplots
from benchmarks.common.provenance import provenance
from mrihvae.cli.sample import as_pictures, growth
from mrihvae.errors import InputError
from mrihvae.evaluation.figures import image_grid
from mrihvae.inference.encoders import CompleteEncoder
from mrihvae.inference.latents import infer, likelihood_std, mixed_seed, normal
from mrihvae.inference.settings import RefinementSettings
from mrihvae.model.bands import grids
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import fingerprint, load_model
from mrihvae.physics.fourier import ifft2c
from mrihvae.training.batches import Scans
from mrihvae.utils.config import from_dict, with_settings

STARTS = {"iterative": "prior", "hybrid": "encoder"}
UNIT = 0.01  # of the 99th percentile
SHOWN, SHOWN_SWEEPS = 4, 25  # scans in the picture of bands, and their N
SHOWN_BOUND = 0.2  # nats per dimension above the amortized bound, in the plot


@dataclass(frozen=True)
class QualitySettings:
    """What is measured.

    Attributes
    ----------
    weights : a file of benchmarks/weights, or a shipped name
    data : training paths as `mrihvae train` takes them, below the data directory; equal shares
    shape : (H, W)
    slices, batch : how many scans, and how many at once
    sweeps : N
    importance : samples of the bounds
    seed : of scans and samples
    """

    weights: str = "ia_hvae"
    data: tuple[str, ...] = ("images/t1ce/val",)
    shape: tuple[int, ...] = (128, 128)
    slices: int = 96
    batch: int = 8
    sweeps: tuple[int, ...] = (5, 10, 20, 25, 50)
    importance: int = 8
    seed: int = 9

    def __post_init__(self) -> None:
        numbers = (*self.shape, *self.sweeps, self.slices, self.batch, self.importance)
        if not self.data or not self.sweeps or min(numbers) < 1 or len(self.shape) != 2:
            raise ValueError("all numbers must be at least 1, shape two of them, and data and sweeps not empty")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""

    def further(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--inception-weights", type=Path, help="torchvision's inception_v3 as safetensors, for FID")

    return run_command(measure, __doc__, "ia_hvae_quality.toml", {"checkpoint": "weights"}, arguments, further)


def measure(options: argparse.Namespace) -> None:
    """Measure all modes, and write the results after each."""
    settings, modes, variants = read_settings(options.protocol)
    settings = replace(settings, slices=limited(settings.slices, options.limit))
    checkpoint = weights_of(options.checkpoint, settings.weights)
    model = load_model(checkpoint)
    paths = [options.data / one for one in settings.data]
    shape = (settings.shape[0], settings.shape[1])
    batches = draw_scans(model, paths, shape, settings.slices, settings.batch, settings.seed)
    features, space = gabor_features, GABOR
    if options.inception_weights:
        features, space = inception_features(options.inception_weights), "torchvision's Inception-v3, pooled"
    rows: list[dict[str, Any]] = []
    output = options.results / f"{options.protocol.stem}.json"
    about = {
        **provenance(options.protocol),
        "threads": options.threads,
        "checkpoint": Path(checkpoint).name,
        "fingerprint": fingerprint(find_weights(checkpoint)),
        "levels": model.settings.levels,
        "depth": model.settings.levels * model.settings.layers,
        "separable": model.settings.separable,
        **asdict(settings),
        "modes": {mode: asdict(chosen) for mode, chosen in modes.items()},
        "features": space,
    }
    runs = [("amortized", with_settings(modes["hybrid"], sweeps=0))]
    runs += [(mode, with_settings(chosen, sweeps=n)) for mode, chosen in modes.items() for n in settings.sweeps]
    run_mode(model, batches[:1], runs[0][1], settings, features)  # warms up
    real = torch.cat([features(magnitude(model, scans.kspace)) for scans in batches]).numpy()
    about["frechet_of_halves"] = round(frechet_distance(real[::2], real[1::2]), 5)
    for mode, chosen in [*runs, *variants.items()]:
        rows.append({"mode": mode, "sweeps": chosen.sweeps, **run_mode(model, batches, chosen, settings, features)})
        results = {**about, "rows": rows}
        write_results(output, results, markdown(results))
    _plot(rows, output.with_suffix(".png"))
    show_bands(model, batches[0], with_settings(modes["hybrid"], sweeps=SHOWN_SWEEPS), output)
    print(output.with_suffix(".md").read_text())


def read_settings(path: Path) -> tuple[QualitySettings, dict[str, RefinementSettings], dict[str, RefinementSettings]]:
    """Read a protocol: what is measured, how latents are refined in each mode, and variants by name.

    Raises
    ------
    InputError
        Not readable, or with unknown settings.
    """
    found = read_toml(path)
    own = found.pop("refinement", {})
    changed = {mode: found.pop(mode, {}) for mode in STARTS}
    for section, settings in (("refinement", own), *changed.items()):
        left_out(settings, ("start", "sweeps"), f"{path}, {section}")
    modes = {
        mode: from_dict(RefinementSettings, {**own, **changes, "start": STARTS[mode]}, f"{path}, {mode}")
        for mode, changes in changed.items()
    }
    variants = {}
    for number, more in enumerate(found.pop("variants", [])):
        where = f"{path}, variants[{number}]"
        if not isinstance(more, dict) or not isinstance(more.get("name"), str):
            raise InputError(f"{where}: needs a name")
        changes = {key: value for key, value in more.items() if key != "name"}
        variants[more["name"]] = from_dict(RefinementSettings, {**own, **changes}, where)
    return from_dict(QualitySettings, found, str(path)), modes, variants


def run_mode(
    model: HVAE, batches: list[Scans], refinement: RefinementSettings, settings: QualitySettings, features: Features
) -> dict[str, float]:
    """Infer all scans in one way, and score."""
    torch.manual_seed(settings.seed)
    errors, latents, bounds, weighted, seconds = [], [], [], [], 0.0
    made, wanted = [], []
    count = sum(len(scans.noise) for scans in batches)
    with torch.no_grad():
        for scans in tqdm(batches, f"{refinement.start}, N = {refinement.sweeps}"):
            s, everywhere = likelihood_std(model, scans.noise), torch.ones(scans.kspace.shape, dtype=torch.bool)
            generators = [torch.Generator().manual_seed(mixed_seed(settings.seed, n)) for n in range(len(s))]
            draw = partial(normal, generators=generators) if refinement.start == "sample" else None
            began = time.perf_counter()
            q = CompleteEncoder(model, scans.kspace)
            found = infer(model, q, scans.kspace, everywhere, s, refinement, draw)
            seconds += time.perf_counter() - began
            errors += ((found.kspace - scans.kspace).abs().square().flatten(1).mean(dim=1) / UNIT**2).tolist()
            count_z = sum(z[0].numel() for level in found.latents for z in level)
            latents += (-log_prior(found) / count_z).tolist()
            single, many = evidence_bounds(model, q, found, scans, s, settings.importance)
            bounds += single.tolist()
            weighted += many.tolist()
            made.append(features(magnitude(model, found.kspace)))
            wanted.append(features(magnitude(model, scans.kspace)))
    return {
        "MSE": round(float(np.mean(errors)), 4),
        "MSE_std": round(float(np.std(errors)), 4),
        "latent_nll": round(float(np.mean(latents)), 5),
        "nll": round(float(np.mean(bounds)), 5),
        "nll_importance_weighted": round(float(np.mean(weighted)), 5),
        "frechet": round(frechet_distance(torch.cat(made).numpy(), torch.cat(wanted).numpy()), 5),
        "seconds": round(seconds / count, 4),
    }


def magnitude(model: HVAE, kspace: Tensor) -> Tensor:
    """Compute magnitudes (n, h, w); of real images the mean over channels, from 0 on."""
    image = ifft2c(kspace)
    return image.real.clamp_min(0).mean(dim=1) if model.settings.real else image.abs()


def show_bands(model: HVAE, scans: Scans, refinement: RefinementSettings, output: Path) -> None:
    """Draw what scans are inferred to be after each level, and the scans (the paper's Fig. 3), as NAME_bands.png."""
    s, everywhere = likelihood_std(model, scans.noise), torch.ones(scans.kspace.shape, dtype=torch.bool)
    with torch.no_grad():
        found = infer(model, CompleteEncoder(model, scans.kspace), scans.kspace, everywhere, s, refinement)
    sizes = grids((scans.kspace.shape[-2], scans.kspace.shape[-1]), model.settings.levels)
    rows, names = growth(found, SHOWN, [sizes[group[-1]] for group in model.groups])
    rows = [[*row, scan] for row, scan in zip(rows, as_pictures(ifft2c(scans.kspace)))]
    title = f"hybrid, N = {refinement.sweeps}, band by band, and the scan"
    image_grid(output.with_name(f"{output.stem}_bands.png"), title, rows, [*names, "scan"])


def markdown(results: dict[str, Any]) -> str:
    """Lay out Table 1: a row per mode and N."""
    lines = [
        "| inference | N | MSE | -log p(z), nats / latent | bound, nats / dim | weighted bound | Frechet | s / slice |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        numbers = (row["latent_nll"], row["nll"], row["nll_importance_weighted"], row["frechet"])
        cells = [
            row["mode"],
            str(row["sweeps"]),
            f"{row['MSE']:.3f}",
            *(f"{value:.3f}" if np.isfinite(value) else "infinite" for value in numbers),
        ]
        cells.append(f"{row['seconds']:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    shape = " x ".join(map(str, results["shape"]))
    foot = f"L = {results['depth']}, {shape}, {results['slices']} images in batches of {results['batch']}, rule "
    foot += f"{results['modes']['hybrid']['rule']}, {results['threads']} threads. Features of the Frechet distance: "
    halves = f"between halves of the scans it is {results['frechet_of_halves']:.3f}"
    return "\n".join(lines) + f"\n\n{foot}{results['features']}; {halves}.\n"


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw error and bound over seconds."""
    figure, axes = subplots(1, 2, size=(9, 4))
    for axis, key, title in zip(axes, ("MSE", "nll"), ("MSE", "negative evidence bound, nats / dim")):
        for mode, color in (("amortized", "black"), ("iterative", "tab:orange"), ("hybrid", "tab:red")):
            own = [row for row in rows if row["mode"] == mode]
            axis.plot(
                [row["seconds"] for row in own],
                [row[key] for row in own],
                "o-",
                color=color,
                label=mode,
            )
            for row in own:
                if np.isfinite(row[key]):
                    axis.annotate(row["sweeps"], (row["seconds"], row[key]), fontsize=7)
        axis.set_xlabel("seconds a slice")
        axis.set_ylabel(title)
        axis.set_xscale("log")
    bounds = [row["nll"] for row in rows if np.isfinite(row["nll"])]
    axes[0].set_yscale("log")
    axes[1].set_ylim(min(bounds) - SHOWN_BOUND / 10, rows[0]["nll"] + SHOWN_BOUND)  # far worse ones are out of view
    axes[0].legend(fontsize=8)
    save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
