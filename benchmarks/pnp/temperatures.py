"""Which temperature of the prior suits which task and noise: quality and consistency with the data over tau.

    python -m benchmarks.pnp.temperatures --data DIR --checkpoint restoration

PSNR is over the truth's peak; consistency is |A x - y| / (sigma sqrt(n)) over the n numbers of the data, 1 where x
differs from them by their noise. Both of mu and of x. Temperatures are constant, or go linearly from the first at the
coarsest level to the second at the finest; all else of the loop is what is recommended for encoder, task and noise. The
best on the training images is recommended; on the validation images it is told what that gains over tau = 1. Writes
results/NAME.json, .md and .png, NAME being the protocol's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from torch import Tensor
from tqdm import tqdm

from benchmarks.common.complete_scans import limited, read_toml, run_command, weights_of, write_results
from benchmarks.common.plots import save, subplots
from benchmarks.common.provenance import provenance
from benchmarks.pnp.contraction import degraded, read_images, read_task, stacked
from benchmarks.pnp.degraded_images import TASKS, Picture, TaskSettings
from mrihvae.errors import InputError
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import fingerprint, load_model
from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.degradations import Inpainting
from mrihvae.pnp.loop import restore
from mrihvae.pnp.recommended import TASKS as COMMANDS
from mrihvae.pnp.recommended import recommended
from mrihvae.pnp.restore import in_model_units, make_posteriors
from mrihvae.pnp.settings import ENCODERS
from mrihvae.utils.config import from_dict

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class TemperatureSettings:
    """What is measured.

    Attributes
    ----------
    checkpoint : weights: shipped, or a file of benchmarks/weights
    sets : folders with `train` and `val`, below the data directory
    matrix : H and W of images, see `degraded_images.read_pictures`
    slices, val_slices : of each set
    noises : over the image's 99th percentile
    constant : temperatures of all levels
    finest : temperatures of the finest level, the coarsest one's being 1
    """

    checkpoint: str = "restoration"
    sets: tuple[str, ...] = ("images/t1ce",)
    matrix: int = 128
    slices: int = 1
    val_slices: int = 1
    noises: tuple[float, ...] = (0.01, 0.03, 0.05, 0.1)
    constant: tuple[float, ...] = (1.0, 0.95, 0.9, 0.8, 0.6, 0.3)
    finest: tuple[float, ...] = (0.8, 0.6)

    def __post_init__(self) -> None:
        if not self.sets or min(self.matrix, self.slices, self.val_slices) < 1:
            raise ValueError("all numbers must be at least 1")
        if min(self.noises) <= 0 or not all(0 <= tau <= 1 for tau in (*self.constant, *self.finest)):
            raise ValueError("noises must be above 0, and temperatures in [0, 1]")
        if 1.0 not in self.constant:
            raise ValueError("constant needs 1, which the others are compared with")

    @property
    def temperatures(self) -> list[tuple[float, float]]:
        """All pairs of the coarsest and the finest level's."""
        return [(tau, tau) for tau in self.constant] + [(1.0, tau) for tau in self.finest]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    weights = {"checkpoint": "weights with r for degraded images"}
    return run_command(measure, __doc__, "pnp_temperature.toml", weights, arguments)


def measure(options: argparse.Namespace) -> None:
    """Measure all temperatures on training images, and the best ones on others; write results and figure."""
    settings, degradation = read_settings(options.protocol)
    settings = replace(
        settings, slices=limited(settings.slices, options.limit), val_slices=limited(settings.val_slices, options.limit)
    )
    checkpoint = weights_of(options.checkpoint, settings.checkpoint)
    model = load_model(checkpoint)
    if not model.settings.degraded:
        raise InputError(f"--checkpoint {checkpoint}: has no posterior of degraded images; choose restoration")
    train, val = (
        read_images(options.data, [f"{one}/{part}" for one in settings.sets], slices, settings.matrix)
        for part, slices in (("train", settings.slices), ("val", settings.val_slices))
    )
    cells = [(e, task, noise) for e in ENCODERS for task in TASKS for noise in settings.noises]
    rows: Rows = []
    for cell in tqdm(cells, "train"):
        rows += measured(model, train, *cell, settings.temperatures, degradation)
    found = best_of(rows)
    held_out: Rows = []
    for best in tqdm(found, "val"):
        temperatures = list(dict.fromkeys([(best["tau"], best["tau_finest"]), (1.0, 1.0)]))
        cell = (best["encoder"], best["task"], best["noise"])
        held_out += measured(model, val, *cell, temperatures, degradation)
    results = {
        **provenance(options.protocol),
        **asdict(settings),
        "checkpoint": fingerprint(find_weights(checkpoint)),
        "task": asdict(degradation),
        "train": rows,
        "recommended": [gains(best, held_out) for best in found],
        "val": held_out,
    }
    output = options.results / f"{options.protocol.stem}.json"
    write_results(output, results, markdown(results))
    _plot(results, output.with_suffix(".png"))
    print(markdown(results))


def read_settings(path: Path) -> tuple[TemperatureSettings, TaskSettings]:
    """Read a protocol: what is measured, and how images are degraded.

    Raises
    ------
    InputError
        Not readable, or with unknown settings.
    """
    found = read_toml(path)
    degradation = read_task(found, path)
    return from_dict(TemperatureSettings, found, str(path)), degradation


def measured(
    model: HVAE,
    pictures: Sequence[Picture],
    encoder: str,
    task: str,
    noise: float,
    temperatures: Sequence[tuple[float, float]],
    degradation: TaskSettings,
) -> Rows:
    """Restore images at some temperatures: a row of means each."""
    chosen = recommended(dict(zip(TASKS, COMMANDS))[task], noise, encoder)
    term, scale = in_model_units(degraded(pictures, task, noise, degradation))
    truth = stacked(pictures) / scale[:, None, None]
    rows = []
    with torch.no_grad():
        posteriors, initial = make_posteriors(model, term, chosen)
        for tau, finest in temperatures:
            found = restore(model, term, posteriors, initial, replace(chosen, tau=tau, tau_finest=finest))
            rows.append({"encoder": encoder, "task": task, "noise": noise, "tau": tau, "tau_finest": finest,
                         "result": chosen.result,
                         **scores(found.decoded, truth, term, "decoded"),
                         **scores(found.image, truth, term, "image")})  # fmt: skip
    return rows


def scores(image: Tensor, truth: Tensor, term: LeastSquares, name: str) -> dict[str, float]:
    """Compute mean PSNR, dB, and mean consistency of real images (slices, H, W) in model units."""
    return {
        f"{name}_PSNR": float(psnr(image, truth).mean()),
        f"{name}_consistency": float(consistency(image, term).mean()),
    }


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    """Compute the PSNR of real images over the truth's peak, dB, (slices,)."""
    error = (image - truth).square().mean(dim=(-2, -1))
    return 20 * torch.log10(truth.amax(dim=(-2, -1))) - 10 * torch.log10(error.clamp_min(1e-20))


def consistency(image: Tensor, term: LeastSquares) -> Tensor:
    """Compute |A x - y| / (sigma sqrt(n)) of real images, (slices,), over pixels that are known, if some are not."""
    known = torch.ones_like(term.data)
    if isinstance(term.operator, Inpainting):
        known = term.operator.mask.expand(term.data.shape).to(term.data)
    return torch.sqrt(2 * term.value(image) / known.flatten(1).sum(dim=1))


def best_of(rows: Rows) -> Rows:
    """Choose, of each encoder, task and noise, the temperature whose result, mu or x, has the best PSNR."""
    found = []
    for cell in dict.fromkeys((row["encoder"], row["task"], row["noise"]) for row in rows):
        of_cell = [row for row in rows if (row["encoder"], row["task"], row["noise"]) == cell]
        key = f"{of_cell[0]['result']}_PSNR"
        best = max(of_cell, key=lambda row: row[key])
        at_one = next(row for row in of_cell if row["tau"] == row["tau_finest"] == 1)
        names = ("encoder", "task", "noise", "tau", "tau_finest", "result")
        found.append({**{name: best[name] for name in names}, "train_gain_dB": best[key] - at_one[key]})
    return found


def gains(best: dict[str, Any], held_out: Rows) -> dict[str, Any]:
    """Add to a recommendation what it has on validation images: PSNR, its gain over tau = 1, and consistency."""
    of_cell = [row for row in held_out if all(row[name] == best[name] for name in ("encoder", "task", "noise"))]
    own = next(row for row in of_cell if (row["tau"], row["tau_finest"]) == (best["tau"], best["tau_finest"]))
    at_one = next(row for row in of_cell if row["tau"] == row["tau_finest"] == 1)
    key = f"{best['result']}_PSNR"
    consistent = own[f"{best['result']}_consistency"]
    return {**best, "val_PSNR": own[key], "val_gain_dB": own[key] - at_one[key], "val_consistency": consistent}


def label(tau: float, finest: float) -> str:
    """Write a temperature: one number, or the coarsest and the finest level's."""
    return f"{tau:g}" if tau == finest else f"{tau:g} to {finest:g}"


def markdown(results: dict[str, Any]) -> str:
    """Lay out PSNR and consistency of mu over temperatures, and what is recommended."""
    names = list(dict.fromkeys(label(row["tau"], row["tau_finest"]) for row in results["train"]))
    lines = ["| encoder | task | noise | of | " + " | ".join(f"tau {name}" for name in names) + " |"]
    lines.append("|---" * (4 + len(names)) + "|")
    for best in results["recommended"]:
        cell = (best["encoder"], best["task"], best["noise"])
        of_cell = [row for row in results["train"] if (row["encoder"], row["task"], row["noise"]) == cell]
        for result, symbol in (("decoded", "mu"), ("image", "x")):
            shown = [f"{row[f'{result}_PSNR']:.2f} ({row[f'{result}_consistency']:.2f})" for row in of_cell]
            lines.append(f"| {cell[0]} | {cell[1]} | {cell[2]:g} | {symbol} | {' | '.join(shown)} |")
    lines += ["", "PSNR in dB (consistency with the data) on training images.", ""]
    lines.append(
        "| encoder | task | noise | recommended tau | of | train, dB over tau 1 | val, dB over tau 1 | val PSNR |"
    )
    lines.append("|---" * 8 + "|")
    for best in results["recommended"]:
        lines.append(
            f"| {best['encoder']} | {best['task']} | {best['noise']:g} | {label(best['tau'], best['tau_finest'])} | "
            f"{'mu' if best['result'] == 'decoded' else 'x'} | {best['train_gain_dB']:+.2f} | "
            f"{best['val_gain_dB']:+.2f} | {best['val_PSNR']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _plot(results: dict[str, Any], path: Path) -> None:
    """Draw PSNR, and consistency, of mu and x over constant temperatures; schedules as marks at their finest."""
    figure, axes = subplots(4, len(TASKS), size=(3.5 * len(TASKS), 12), sharex=True, squeeze=False)
    colors = dict(zip(results["noises"], colormaps["viridis"](np.linspace(0, 0.85, len(results["noises"])))))
    for row, (encoder, name) in enumerate((e, n) for e in ENCODERS for n in ("PSNR", "consistency")):
        for column, task in enumerate(TASKS):
            axis = axes[row][column]
            for noise, color in colors.items():
                of_cell = [one for one in results["train"]
                           if (one["encoder"], one["task"], one["noise"]) == (encoder, task, noise)]  # fmt: skip
                for result, style, symbol in (("decoded", "-", "mu"), ("image", "--", "x")):
                    points = [(one["tau_finest"], one[f"{result}_{name}"], one["tau"]) for one in of_cell]
                    line = sorted((tau, value) for tau, value, coarsest in points if coarsest == tau)
                    marks = [(tau, value) for tau, value, coarsest in points if coarsest != tau]
                    axis.plot(*zip(*line), style, color=color, marker=".", label=f"{symbol}, noise {noise:g}")
                    if marks:
                        axis.plot(*zip(*marks), linestyle="", color=color, marker="x" if result == "image" else "D",
                                  markersize=4, label=f"{symbol}, from 1 to that at the finest level")  # fmt: skip
            axis.set_title(f"{task}, {'r' if encoder == 'data' else 'q'} (encoder {encoder})", fontsize=9)
            axis.grid(alpha=0.3)
            if name == "consistency":
                axis.axhline(1, color="0.5", linewidth=0.8)
        axes[row][0].set_ylabel("PSNR / dB" if name == "PSNR" else "|A x - y| over the noise's")
    for axis in axes[-1]:
        axis.set_xlabel(r"temperature $\tau$ of the finest level")
    handles = dict(zip(*reversed(axes[0][0].get_legend_handles_labels())))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=5, fontsize=8)
    save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
