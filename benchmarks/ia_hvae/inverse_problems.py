"""Deblurring and denoising without training for it: hybrid inference against an amortized vanilla HVAE.

    python -m benchmarks.ia_hvae.inverse_problems --data DIR

The experiments of IA-HVAE, section 3.4, in numbers. Deblurring: only a centered square of bins is measured; latents of
the levels that it reaches are inferred, the others are the prior's means. A sample starts at draws from q instead, and
draws the others from the prior. Denoising: white noise of the image's own deviation is added. PSNR is that of the
complex image against the scan without the added noise, over the peak of its magnitude. Writes results/NAME.json, .md
and a figure with the logarithm of k-space (.png), NAME being the protocol's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.common.complete_scans import (
    draw_scans,
    left_out,
    limited,
    read_toml,
    run_command,
    weights_of,
    write_results,
)
from benchmarks.common.plots import save, subplots
from benchmarks.common.provenance import provenance
from mrihvae.errors import InputError
from mrihvae.inference.encoders import CompleteEncoder, TruncatedEncoder
from mrihvae.inference.latents import infer, likelihood_std
from mrihvae.inference.settings import RefinementSettings
from mrihvae.model.bands import grids
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import fingerprint, load_model
from mrihvae.physics.fourier import center_pad, ifft2c
from mrihvae.physics.scaling import kspace_scale
from mrihvae.training.batches import Scans
from mrihvae.utils.config import from_dict, with_settings

TASKS = ("deblurring", "denoising")


@dataclass(frozen=True)
class InverseSettings:
    """What is measured.

    Attributes
    ----------
    separable, vanilla : weights: files of benchmarks/weights
    shape : (H, W)
    measured : side of the centered square of bins that deblurring is given
    noise : deviation of the noise that denoising has to remove, over the image's
    sweeps : N of the hybrid
    slices, batch : of each set, and at once
    sets : training paths as `mrihvae train` takes them, below the data directory
    seed : of scans and noise
    """

    separable: str = "ia_hvae"
    vanilla: str = "ia_hvae_vanilla"
    shape: tuple[int, ...] = (128, 128)
    measured: int = 8
    noise: float = 1.0
    sweeps: int = 25
    slices: int = 24
    batch: int = 8
    sets: tuple[str, ...] = ("images/t1ce/val",)
    seed: int = 9

    def __post_init__(self) -> None:
        numbers = (*self.shape, self.measured, self.sweeps, self.slices, self.batch)
        if not self.sets or min(numbers) < 1 or not self.noise > 0:
            raise ValueError("all numbers must be at least 1, and noise above 0")


@dataclass(frozen=True)
class Task:
    """Degraded scans: k-space in model units, what was measured of it, the deviation of its noise, and the truth."""

    kspace: Tensor
    mask: Tensor
    noise: Tensor
    truth: Tensor


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    weights = {"separable": "weights of the separable model", "vanilla": "weights of the vanilla one"}
    return run_command(measure, __doc__, "ia_hvae_inverse.toml", weights, arguments)


def measure(options: argparse.Namespace) -> None:
    """Run every method on every set and task; write results and figure."""
    settings, refinement = read_settings(options.protocol)
    settings = replace(settings, slices=limited(settings.slices, options.limit))
    shape = (settings.shape[0], settings.shape[1])
    files = {name: weights_of(getattr(options, name), getattr(settings, name)) for name in ("separable", "vanilla")}
    models = {name: load_model(file) for name, file in files.items()}
    for name, model in models.items():
        if model.settings.separable != (name == "separable") or model.settings.real:
            raise InputError(f"--{name}: these weights are of another kind of model")
        coarsest = max(grids(shape, model.settings.levels)[0])
        if settings.measured < coarsest:
            raise InputError(f"measured {settings.measured}: the coarsest grid of --{name} is {coarsest}; measure more")
    refinement = with_settings(refinement, sweeps=settings.sweeps)
    rows, shown = [], {}
    for one in settings.sets:
        batches = draw_scans(
            models["separable"], [options.data / one], shape, settings.slices, settings.batch, settings.seed
        )
        for task in TASKS:
            psnr: dict[str, list[float]] = {}
            for number, scans in enumerate(tqdm(batches, f"{one}, {task}")):
                degraded = degrade(task, scans, settings, number)
                for name, found in solve(degraded, models, refinement, settings).items():
                    psnr.setdefault(name, []).extend(scores(found, degraded.truth))
                    shown.setdefault((one, task), {}).setdefault(name, found[0])
                shown[one, task].setdefault("truth", degraded.truth[0])
            found_rows = [{"method": k, "PSNR": round(float(np.mean(v)), 4)} for k, v in psnr.items()]
            margin = np.subtract(psnr["separable, hybrid"], psnr["vanilla, amortized"])
            rows.append({
                "set": one,
                "task": task,
                "methods": found_rows,
                "hybrid_over_vanilla_dB": round(float(margin.mean()), 4),
                "hybrid_over_vanilla_std_dB": round(float(margin.std()), 4),
            })  # fmt: skip
    results = {
        **provenance(options.protocol),
        **asdict(settings),
        **{name: fingerprint(find_weights(file)) for name, file in files.items()},
        "refinement": asdict(refinement),
        "rows": rows,
    }
    output = options.results / f"{options.protocol.stem}.json"
    write_results(output, results, markdown(results))
    _plot(shown, output.with_suffix(".png"))
    print(markdown(results))


def read_settings(path: Path) -> tuple[InverseSettings, RefinementSettings]:
    """Read a protocol.

    Raises
    ------
    InputError
        Not readable, or with unknown settings.
    """
    found = read_toml(path)
    own = found.pop("refinement", {})
    left_out(own, ("start", "sweeps"), f"{path}, refinement")
    return from_dict(InverseSettings, found, str(path)), from_dict(RefinementSettings, own, f"{path}, refinement")


def degrade(task: str, scans: Scans, settings: InverseSettings, number: int) -> Task:
    """Take bins away, or add noise, and bring what is left to model units."""
    kspace, shape = scans.kspace, (scans.kspace.shape[-2], scans.kspace.shape[-1])
    if task == "deblurring":
        square = torch.ones(settings.measured, settings.measured, dtype=torch.bool)
        mask = center_pad(square, shape, value=False).expand(kspace.shape)
        given, noise = torch.where(mask, kspace, 0), scans.noise
    else:
        generator = torch.Generator().manual_seed(settings.seed + number)
        image = ifft2c(kspace)
        added = (
            settings.noise * (image - image.mean(dim=(-2, -1), keepdim=True)).abs().square().mean(dim=(-2, -1)).sqrt()
        )
        white = torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)
        given, mask = kspace + added[:, None, None] * white, torch.ones(kspace.shape, dtype=torch.bool)
        noise = torch.sqrt(scans.noise**2 + added**2)
    scale = kspace_scale(given)
    return Task(given / scale[:, None, None], mask, noise / scale, kspace / scale[:, None, None])


def solve(
    task: Task, models: dict[str, HVAE], refinement: RefinementSettings, settings: InverseSettings
) -> dict[str, Tensor]:
    """Reconstruct k-space in every way: both models amortized; the separable one hybrid, and if bins miss a sample."""
    partly = not bool(task.mask.all())
    found = {"as given": task.kspace}
    for name, model in models.items():
        levels = model.settings.levels
        sizes = grids(shape_of(task), levels)
        last = max(j for j, size in enumerate(sizes) if max(size) <= settings.measured) if partly else levels - 1
        run = _runner(model, task, last)
        found[f"{name}, amortized"] = run(with_settings(refinement, sweeps=0), None)
        if name == "separable":
            inferred = tuple(settings.sweeps if j <= last else 0 for j in range(levels))
            found["separable, hybrid"] = run(with_settings(refinement, sweeps=inferred), None)
            if partly:
                found["separable, sample"] = run(with_settings(refinement, sweeps=inferred), settings.seed)
    return found


def shape_of(task: Task) -> tuple[int, int]:
    """Give (H, W)."""
    return task.kspace.shape[-2], task.kspace.shape[-1]


def _runner(model: HVAE, task: Task, last: int) -> Callable[[RefinementSettings, int | None], Tensor]:
    s = likelihood_std(model, task.noise)

    def run(refinement: RefinementSettings, seed: int | None) -> Tensor:
        generator = torch.Generator().manual_seed(seed or 0)
        draw = None if seed is None else lambda like: torch.randn(like.shape, generator=generator)
        with torch.no_grad():
            encoder = TruncatedEncoder(CompleteEncoder(model, task.kspace), last)
            return infer(model, encoder, task.kspace, task.mask, s, refinement, draw).kspace

    return run


def scores(found: Tensor, truth: Tensor) -> list[float]:
    """Compute the PSNR of complex images, in dB."""
    peak = ifft2c(truth).abs().amax(dim=(-2, -1))
    error = (found - truth).abs().square().mean(dim=(-2, -1))
    return (20 * torch.log10(peak) - 10 * torch.log10(error)).tolist()


def markdown(results: dict[str, Any]) -> str:
    """Lay out a row per set and task."""
    names = list(dict.fromkeys(one["method"] for row in results["rows"] for one in row["methods"]))
    lines = ["| scans | task | " + " | ".join(names) + " | hybrid over vanilla, dB |", "|---" * (len(names) + 3) + "|"]
    for row in results["rows"]:
        psnr = {one["method"]: f"{one['PSNR']:.2f}" for one in row["methods"]}
        margin = f"{row['hybrid_over_vanilla_dB']:+.2f} (std {row['hybrid_over_vanilla_std_dB']:.2f})"
        lines.append(f"| {row['set']} | {row['task']} | {' | '.join(psnr.get(n, '') for n in names)} | {margin} |")
    return "\n".join(lines) + f"\n\nPSNR in dB, N = {results['sweeps']}, {results['slices']} scans of each set.\n"


def _plot(shown: dict[tuple[str, str], dict[str, Tensor]], path: Path) -> None:
    """Draw the first scan of the first and the last set: images, and the logarithm of k-space below."""
    sets = list(dict.fromkeys(one for one, _ in shown))
    cases = [(one, task) for task in TASKS for one in dict.fromkeys((sets[0], sets[-1]))]
    columns = max(len(shown[case]) for case in cases)
    figure, axes = subplots(2 * len(cases), columns, size=(1.9 * columns, 3.9 * len(cases)), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for row, case in enumerate(cases):
        bright = float(ifft2c(shown[case]["truth"]).abs().max())
        for column, (name, kspace) in enumerate(shown[case].items()):
            axes[2 * row, column].imshow(ifft2c(kspace).abs(), cmap="gray", vmin=0, vmax=0.9 * bright)
            axes[2 * row, column].set_title(f"{case[1]}:\n{name}" if column == 0 else name, fontsize=8)
            axes[2 * row + 1, column].imshow(torch.log10(kspace.abs() + 1e-3), cmap="gray", vmin=-3, vmax=1.5)
    save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
