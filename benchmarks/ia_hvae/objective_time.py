"""Seconds to an objective: a level at once in the separable decoder, all latents jointly in the vanilla.

    python -m benchmarks.ia_hvae.objective_time --data DIR

A step of either runs every layer once; what differs is how far steps get. The objective is -log p(k, z) of complete
scans, in nats per real dimension. It has the densities of latents in it, which do not compare over models. So seconds
are counted until a way has made a part of its decoder's descent: from amortized inference to the lowest that was
reached (in the separable decoder, a level at once). The negative evidence bound around the inferred latents does
compare: given are its lowest value, and seconds until it is as low as the vanilla model ever gets. Ways that refine all
latents of the separable decoder jointly, as the vanilla one has to be, are a control: they are timed to the very value
of the objective that a level at once is timed to. Of the ways that the protocol names, the best of each kind counts, so
that no step size is chosen for one alone.
Every N is a run of its own, timed from k-space to bins; between them times are interpolated. Writes results/NAME.json,
.md and a plot (.png), NAME being the protocol's. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
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
    objective_of,
    read_toml,
    run_command,
    weights_of,
    write_results,
)
from benchmarks.common.plots import save, subplots
from benchmarks.common.provenance import provenance
from mrihvae.errors import InputError
from mrihvae.inference.encoders import CompleteEncoder
from mrihvae.inference.latents import Inferred, infer, likelihood_std, top_down
from mrihvae.inference.refinement import Objective, Target, refine
from mrihvae.inference.settings import RefinementSettings
from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import Gaussian
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import fingerprint, load_model
from mrihvae.training.batches import Scans
from mrihvae.utils.config import from_dict, with_settings

DECODERS = ("separable", "vanilla")
KINDS = (*DECODERS, "jointly")


@dataclass(frozen=True)
class Way:
    """A way to refine.

    Attributes
    ----------
    name : in tables
    decoder : "separable" or "vanilla"
    jointly : whether to refine all levels of the separable decoder at once
    steps : N, a run each; 0 comes before them
    refinement : its settings
    """

    name: str
    decoder: str
    jointly: bool
    steps: tuple[int, ...]
    refinement: RefinementSettings

    @property
    def kind(self) -> str:
        """Which of `KINDS` it is."""
        return "jointly" if self.jointly else self.decoder


@dataclass(frozen=True)
class ObjectiveSettings:
    """What is measured.

    Attributes
    ----------
    separable, vanilla : weights: files of benchmarks/weights
    data : training paths as `mrihvae train` takes them, below the data directory; equal shares
    shape : (H, W)
    slices, batch : how many scans, and how many at once
    part : of the descent that is possible for a model
    importance : samples of the bound
    seed : of scans
    """

    separable: str = "ia_hvae"
    vanilla: str = "ia_hvae_vanilla"
    data: tuple[str, ...] = ("images/t1ce/val",)
    shape: tuple[int, ...] = (128, 128)
    slices: int = 8
    batch: int = 8
    part: float = 0.9
    importance: int = 4
    seed: int = 9

    def __post_init__(self) -> None:
        if not self.data or len(self.shape) != 2 or min(*self.shape, self.slices, self.batch, self.importance) < 1:
            raise ValueError("all numbers must be at least 1, shape two of them, and data not empty")
        if not 0 < self.part < 1:
            raise ValueError(f"part {self.part} must be between 0 and 1")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    weights = {"separable": "weights of the separable model", "vanilla": "weights of the vanilla one"}
    return run_command(measure, __doc__, "ia_hvae_objective.toml", weights, arguments)


def measure(options: argparse.Namespace) -> None:
    """Run all ways, and write the results after each."""
    settings, ways = read_settings(options.protocol)
    settings = replace(settings, slices=limited(settings.slices, options.limit))
    files = {name: weights_of(getattr(options, name), getattr(settings, name)) for name in DECODERS}
    models = {name: load_model(file) for name, file in files.items()}
    for name, model in models.items():
        if model.settings.separable != (name == "separable"):
            raise InputError(f"--{name}: these weights are of another kind of model")
    for way in ways:
        way.refinement.check(models[way.decoder].settings.levels, way.kind == "separable")
    paths = [options.data / one for one in settings.data]
    shape = (settings.shape[0], settings.shape[1])
    batches = draw_scans(models["separable"], paths, shape, settings.slices, settings.batch, settings.seed)
    rows: list[dict[str, Any]] = []
    for way in ways:
        rows.append({"way": way.name, "kind": way.kind, "refinement": asdict(way.refinement)})
        torch.manual_seed(settings.seed)
        rows[-1]["runs"] = list(run_way(models[way.decoder], way, batches, settings.importance))
        results = {
            **provenance(options.protocol),
            "threads": options.threads,
            "depth": {name: model.settings.levels * model.settings.layers for name, model in models.items()},
            **asdict(settings),
            **{name: fingerprint(find_weights(file)) for name, file in files.items()},
            "rows": rows,
            **compare(rows, settings.part),
        }
        output = options.results / f"{options.protocol.stem}.json"
        write_results(output, results, markdown(results))
    _plot(results, output.with_suffix(".png"))
    print(markdown(results))


def read_settings(path: Path) -> tuple[ObjectiveSettings, list[Way]]:
    """Read a protocol.

    Raises
    ------
    InputError
        Not readable, with unknown settings, or without a way for each decoder.
    """
    found = read_toml(path)
    ways = []
    for number, own in enumerate(found.pop("ways", [])):
        where = f"{path}, ways[{number}]"
        if not isinstance(own, dict):
            raise InputError(f"{where}: must be a table")
        own = dict(own)
        name, decoder, steps = own.pop("name", None), own.pop("decoder", None), own.pop("steps", None)
        jointly = own.pop("jointly", False)
        whole = isinstance(steps, list) and steps and all(isinstance(n, int) and n > 0 for n in steps)
        if not isinstance(name, str) or decoder not in DECODERS or not whole:
            raise InputError(f"{where}: needs a name, a decoder ({' or '.join(DECODERS)}), and a list of steps")
        if not isinstance(jointly, bool) or (jointly and decoder != "separable"):
            raise InputError(f"{where}: jointly is true or false, and of the separable decoder; the vanilla always is")
        if jointly:
            left_out(own, ("start", "order"), where)
        ways.append(Way(name, decoder, jointly, tuple(sorted(steps)), from_dict(RefinementSettings, own, where)))
    if not set(DECODERS) <= {way.kind for way in ways}:
        raise InputError(f"{path}: needs [[ways]] of both decoders, and of the separable one a level at once")
    return from_dict(ObjectiveSettings, found, str(path)), ways


def run_way(model: HVAE, way: Way, batches: Sequence[Scans], importance: int) -> list[dict[str, float]]:
    """Infer all scans with every N: the objective, the bound and seconds a slice."""
    runs = []
    for steps in tqdm((0, *way.steps), way.name):
        chosen = replace(way, refinement=with_settings(way.refinement, sweeps=steps))
        if steps in (0, way.steps[0]):
            _infer(model, chosen, batches[0], 1)  # warms up
        objectives: list[float] = []
        bounds: list[float] = []
        seconds = 0.0
        for scans in batches:
            taken, objective, bound = _infer(model, chosen, scans, importance)
            seconds += taken
            objectives += objective.tolist()
            bounds += bound.tolist()
        values = {"objective": float(np.mean(objectives)), "bound": float(np.mean(bounds))}
        runs.append({"steps": steps, **values, "seconds": seconds / len(objectives)})
    return runs


def _infer(model: HVAE, way: Way, scans: Scans, importance: int) -> tuple[float, Tensor, Tensor]:
    with torch.no_grad():
        s, everywhere = likelihood_std(model, scans.noise), torch.ones(scans.kspace.shape, dtype=torch.bool)
        began = time.perf_counter()
        q = CompleteEncoder(model, scans.kspace)
        if way.jointly:
            found = infer_jointly(model, q, scans.kspace, s, way.refinement)
        else:
            found = infer(model, q, scans.kspace, everywhere, s, way.refinement)
        taken = time.perf_counter() - began
        bound, _ = evidence_bounds(model, q, found, scans, s, importance)
        return taken, objective_of(model, found, scans, s), bound


def infer_jointly(
    model: HVAE, q: CompleteEncoder, kspace: Tensor, s: Tensor, refinement: RefinementSettings
) -> Inferred:
    """Refine the latents of all levels at once: every step runs the whole decoder, whatever kind it is.

    Parameters
    ----------
    kspace : complex (slices, H, W), complete, in model units
    s : (slices,), the likelihood's standard deviation per complex bin
    refinement : how, but for its order
    """
    shape, encoded = (kspace.shape[-2], kspace.shape[-1]), []

    def amortized(j: int, k: int, state: Tensor, prior: Gaussian) -> Tensor:
        encoded.append(q(j, k, state, prior))
        return encoded[-1].mu

    def decoded(z: Sequence[Tensor]) -> Inferred:
        left = iter(z)
        return top_down(model, len(kspace), shape, lambda *_: next(left))

    def complete(z: Sequence[Tensor]) -> tuple[list[Gaussian], Tensor]:
        found = decoded(z)
        return list(chain(*found.priors)), found.kspace

    top_down(model, len(kspace), shape, amortized)
    target = Target(kspace, torch.ones(kspace.shape, dtype=torch.bool), s.view(-1, *[1] * (kspace.ndim - 1)))
    return decoded(refine(Objective(complete, encoded, [one.mu for one in encoded], target, refinement, 0)))


def compare(rows: Sequence[dict[str, Any]], part: float) -> dict[str, Any]:
    """Find when ways get where, see the top, and how many times as long as `separable` others take; None: not there."""
    bounds = [run["bound"] for row in rows if row["kind"] == "vanilla" for run in row["runs"]]
    compared: dict[str, Any] = {"vanilla_reaches": min(bounds, default=0.0)}
    for row in rows:
        start = row["runs"][0]["objective"]
        further = start - part * (start - lowest_objective(rows, row))
        row["same_part_seconds"] = time_to("objective", further, row["runs"])
        row["same_bound_seconds"] = time_to("bound", compared["vanilla_reaches"], row["runs"])
    best = {}
    for kind in KINDS:
        reached = [row["same_part_seconds"] for row in rows if row["kind"] == kind]
        best[kind] = min((seconds for seconds in reached if seconds is not None), default=None)
    for kind in KINDS[1:]:
        seconds, other = best["separable"], best[kind]
        compared[f"same_part_ratio_{kind}"] = None if seconds is None or other is None else other / seconds
    return compared


def lowest_objective(rows: Sequence[dict[str, Any]], of: dict[str, Any]) -> float:
    """Find the lowest objective that a way's own decoder reached; a level at once, where that is the separable one."""
    kind = "vanilla" if of["kind"] == "vanilla" else "separable"
    return float(min(run["objective"] for row in rows if row["kind"] == kind for run in row["runs"]))


def time_to(key: str, goal: float, runs: Sequence[dict[str, float]]) -> float | None:
    """Find when a way gets as low as a goal, between runs by straight lines; None if it does not."""
    last = runs[0]
    for run in runs:
        if run[key] <= goal:
            if run is last or last[key] == run[key]:
                return run["seconds"]
            along = (last[key] - goal) / (last[key] - run[key])
            return last["seconds"] + along * (run["seconds"] - last["seconds"])
        last = run
    return None


def markdown(results: dict[str, Any]) -> str:
    """Lay out a row per way, and the ratios of the best."""
    lines = [
        "| way | -log p(k, z), amortized | lowest | at N | s a step | s to "
        f"{100 * results['part']:.0f} % | bound, amortized | lowest | s to {results['vanilla_reaches']:.4f} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        best, last = min(row["runs"], key=lambda run: run["objective"]), row["runs"][-1]
        step = (last["seconds"] - row["runs"][0]["seconds"]) / last["steps"]
        to_part, to_bound = (
            "not reached" if row[key] is None else f"{row[key]:.3f}"
            for key in ("same_part_seconds", "same_bound_seconds")
        )
        numbers = [f"{row['runs'][0]['objective']:.4f}", f"{best['objective']:.4f}", str(best["steps"]), f"{step:.3f}"]
        bounds = [run["bound"] for run in row["runs"]]
        numbers += [to_part, f"{bounds[0]:.4f}", f"{min(bounds):.4f}", to_bound]
        lines.append(f"| {row['way']} | {' | '.join(numbers)} |")
    shape = " x ".join(map(str, results["shape"]))
    depth, threads = results["depth"]["separable"], results["threads"]
    foot = "-log p(k, z) and bound in nats per real dimension; seconds a slice. Seconds to the part of the best way "
    foot += "over those of the best that refines the separable decoder a level at once: "
    for kind, name in (("vanilla", "vanilla"), ("jointly", "separable, jointly")):
        ratio = results[f"same_part_ratio_{kind}"]
        foot += f"{name} {'not reached' if ratio is None else format(ratio, '.1f')}; "
    foot = f"{foot[:-2]}. L = {depth}, "
    foot += f"{shape}, {results['slices']} scans in batches of {results['batch']}, {threads} threads.\n"
    return "\n".join(lines) + "\n\n" + foot


def _plot(results: dict[str, Any], path: Path) -> None:
    """Draw over seconds what of its model's descent a way has made, and the bound."""
    figure, axes = subplots(1, 2, size=(11, 4.2))
    styles = {
        "separable": ("tab:green", "tab:blue", "tab:cyan"),
        "vanilla": ("tab:orange", "tab:red", "tab:brown"),
        "jointly": ("black", "dimgray", "darkgray"),
    }
    drawn, highest = dict.fromkeys(styles, 0), 100.0
    for row in results["rows"]:
        colors, number = styles[row["kind"]], drawn[row["kind"]]
        drawn[row["kind"]] += 1
        line = f"o{('-', '--', ':')[number // len(colors) % 3]}"
        seconds = [run["seconds"] for run in row["runs"]]
        low = lowest_objective(results["rows"], row)
        start = row["runs"][0]["objective"]
        parts = [100 * (start - run["objective"]) / max(start - low, 1e-9) for run in row["runs"]]
        highest = max(highest, *parts)
        for axis, values in zip(axes, (parts, [run["bound"] for run in row["runs"]])):
            axis.plot(seconds, values, line, color=colors[number % len(colors)], markersize=3, label=row["way"])
    bounds = [run["bound"] for row in results["rows"] for run in row["runs"]]
    starts = [row["runs"][0]["bound"] for row in results["rows"]]
    margin = 0.1 * (max(starts) - min(bounds)) + 1e-6
    axes[0].set_ylim(-10, highest + 5)
    axes[0].axhline(100 * results["part"], color="gray", linewidth=0.8)
    axes[0].set_ylabel("% of the descent of -log p(k, z)")
    axes[1].set_ylim(min(bounds) - margin, max(starts) + margin)
    axes[1].axhline(results["vanilla_reaches"], color="gray", linewidth=0.8)
    axes[1].set_ylabel("negative evidence bound, nats per real dimension")
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xlabel("seconds a slice")
    axes[0].legend(fontsize=8)
    save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
