"""Seconds until an objective is reached: a level at once in the separable decoder, all latents jointly in the vanilla.

    python benchmarks/objective_time.py --data DIR

A step of either runs every layer once; what differs is how far steps get. The objective is -log p(k, z) of complete
scans, in nats per real dimension, with each model's own weights, so two comparisons are made. "To the same objective":
seconds until a way is as low as the best vanilla one after all its steps. "To the same part": seconds until a way has
made a part of the descent that is possible for its model, from amortised inference to the lowest that any way reached.
Of the ways that the protocol names, the best of each decoder counts, so that no step size is chosen for one alone.
Every N is a run of its own, timed from k-space to bins; between them times are interpolated. Writes results/NAME.json,
.md and a plot (.png), NAME being the protocol's. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from complete_scans import draw_scans, limited, objective_of, read_toml, run_command, weights_of, write_results
from plots import plt, save
from tqdm import tqdm

from mrihvae import __version__
from mrihvae.errors import InputError
from mrihvae.iahvae import FromComplete, infer
from mrihvae.model import HVAE
from mrihvae.objective import Scans, likelihood_std
from mrihvae.refinement import Refinement
from mrihvae.settings import from_dict
from mrihvae.weights import find_weights, fingerprint, load_model

HERE = Path(__file__).parent
DECODERS = ("separable", "vanilla")


@dataclass(frozen=True)
class Way:
    """A way to refine.

    Attributes
    ----------
    name : in tables
    decoder : "separable" or "vanilla"
    steps : N, a run each; 0 comes before them
    refinement : its settings
    """

    name: str
    decoder: str
    steps: tuple[int, ...]
    refinement: Refinement


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
    seed : of scans
    """

    separable: str = "ia_hvae"
    vanilla: str = "ia_hvae_vanilla"
    data: tuple[str, ...] = ("images/t1ce/val",)
    shape: tuple[int, ...] = (128, 128)
    slices: int = 8
    batch: int = 8
    part: float = 0.9
    seed: int = 9

    def __post_init__(self) -> None:
        if not self.data or len(self.shape) != 2 or min(*self.shape, self.slices, self.batch) < 1:
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
        way.refinement.check(models[way.decoder].settings.levels, way.decoder == "separable")
    paths = [options.data / one for one in settings.data]
    shape = (settings.shape[0], settings.shape[1])
    batches = draw_scans(models["separable"], paths, shape, settings.slices, settings.batch, settings.seed)
    rows: list[dict[str, Any]] = []
    for way in ways:
        rows.append({"way": way.name, "decoder": way.decoder, "refinement": asdict(way.refinement)})
        rows[-1]["runs"] = list(run_way(models[way.decoder], way, batches))
        results = {
            "mrihvae": __version__,
            "torch": str(torch.__version__),
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
        whole = isinstance(steps, list) and steps and all(isinstance(n, int) and n > 0 for n in steps)
        if not isinstance(name, str) or decoder not in DECODERS or not whole:
            raise InputError(f"{where}: needs a name, a decoder ({' or '.join(DECODERS)}), and a list of steps")
        ways.append(Way(name, decoder, tuple(sorted(steps)), from_dict(Refinement, own, where)))
    if {way.decoder for way in ways} != set(DECODERS):
        raise InputError(f"{path}: needs [[ways]] of both decoders")
    return from_dict(ObjectiveSettings, found, str(path)), ways


def run_way(model: HVAE, way: Way, batches: Sequence[Scans]) -> list[dict[str, float]]:
    """Infer all scans with every N: the objective and seconds a slice."""
    runs = []
    for steps in tqdm((0, *way.steps), way.name):
        chosen = replace(way.refinement, sweeps=steps)
        if not steps:
            _infer(model, chosen, batches[0])  # warms up
        objectives: list[float] = []
        seconds = 0.0
        for scans in batches:
            taken, found = _infer(model, chosen, scans)
            seconds += taken
            objectives += found
        runs.append({"steps": steps, "objective": float(np.mean(objectives)), "seconds": seconds / len(objectives)})
    return runs


def _infer(model: HVAE, refinement: Refinement, scans: Scans) -> tuple[float, list[float]]:
    with torch.no_grad():
        s, everywhere = likelihood_std(model, scans.noise), torch.ones(scans.kspace.shape, dtype=torch.bool)
        began = time.perf_counter()
        found = infer(model, FromComplete(model, scans.kspace), scans.kspace, everywhere, s, refinement)
        return time.perf_counter() - began, objective_of(model, found, scans, s).tolist()


def compare(rows: Sequence[dict[str, Any]], part: float) -> dict[str, Any]:
    """Find when ways get where: see the top; None where one does not."""
    lowest = {
        decoder: min((run["objective"] for row in rows if row["decoder"] == decoder for run in row["runs"]), default=0)
        for decoder in DECODERS
    }
    compared: dict[str, Any] = {"vanilla_reaches": lowest["vanilla"]}
    for key in ("same_objective", "same_part"):
        best: dict[str, float | None] = {}
        for decoder in DECODERS:
            own = [row for row in rows if row["decoder"] == decoder]
            for row in own:
                start = row["runs"][0]["objective"]
                goal = lowest["vanilla"] if key == "same_objective" else start - part * (start - lowest[decoder])
                row[f"{key}_seconds"] = time_to(goal, row["runs"])
            reached = [row[f"{key}_seconds"] for row in own if row[f"{key}_seconds"] is not None]
            best[decoder] = min(reached, default=None)
        seconds, other = best["separable"], best["vanilla"]
        compared[f"{key}_ratio"] = None if seconds is None or other is None else other / seconds
    return compared


def time_to(goal: float, runs: Sequence[dict[str, float]]) -> float | None:
    """Find when a way gets as low as a goal, between runs by straight lines; None if it does not."""
    last = runs[0]
    for run in runs:
        if run["objective"] <= goal:
            if run is last or last["objective"] == run["objective"]:
                return run["seconds"]
            along = (last["objective"] - goal) / (last["objective"] - run["objective"])
            return last["seconds"] + along * (run["seconds"] - last["seconds"])
        last = run
    return None


def markdown(results: dict[str, Any]) -> str:
    """Lay out a row per way, and the ratios of the best."""
    lines = [
        f"| way | amortised | lowest | at N | s a step | s to {results['vanilla_reaches']:.4f} | "
        f"s to {100 * results['part']:.0f} % |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        best, last = min(row["runs"], key=lambda run: run["objective"]), row["runs"][-1]
        step = (last["seconds"] - row["runs"][0]["seconds"]) / last["steps"]
        numbers = [f"{row['runs'][0]['objective']:.4f}", f"{best['objective']:.4f}", str(best["steps"]), f"{step:.3f}"]
        reached = (row["same_objective_seconds"], row["same_part_seconds"])
        numbers += ["not reached" if seconds is None else f"{seconds:.3f}" for seconds in reached]
        lines.append(f"| {row['way']} | {' | '.join(numbers)} |")
    ratios = [results["same_objective_ratio"], results["same_part_ratio"]]
    to_same, to_part = ("not reached" if ratio is None else f"{ratio:.1f}" for ratio in ratios)
    shape = " x ".join(map(str, results["shape"]))
    return "\n".join(lines) + (
        f"\n\n-log p(k, z) in nats per real dimension; seconds a slice. Best vanilla over best separable: {to_same} to "
        f"the same objective, {to_part} to the same part. L = {results['depth']['separable']}, {shape}, "
        f"{results['slices']} scans in batches of {results['batch']}, {results['threads']} threads.\n"
    )


def _plot(results: dict[str, Any], path: Path) -> None:
    """Draw the objective over seconds, from that of amortised inference down."""
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    styles = {"separable": ("tab:green", "tab:blue", "tab:cyan"), "vanilla": ("tab:orange", "tab:red", "tab:brown")}
    drawn = dict.fromkeys(styles, 0)
    for row in results["rows"]:
        colours, number = styles[row["decoder"]], drawn[row["decoder"]]
        drawn[row["decoder"]] += 1
        line = ("-", "--", ":")[number // len(colours) % 3]
        seconds, values = ([run[key] for run in row["runs"]] for key in ("seconds", "objective"))
        axis.plot(seconds, values, f"o{line}", color=colours[number % len(colours)], markersize=3, label=row["way"])
    axis.axhline(results["vanilla_reaches"], color="gray", linewidth=0.8)
    starts = [row["runs"][0]["objective"] for row in results["rows"]]
    lows = [run["objective"] for row in results["rows"] for run in row["runs"]]
    margin = 0.1 * (max(starts) - min(lows)) + 1e-6
    axis.set_ylim(min(lows) - margin, max(starts) + margin)
    axis.set_xscale("log")
    axis.set_xlabel("seconds a slice")
    axis.set_ylabel("-log p(k, z), nats per real dimension")
    axis.legend(fontsize=8)
    save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
