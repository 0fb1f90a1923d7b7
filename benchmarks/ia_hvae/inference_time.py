"""Seconds of amortized inference and of refinement over depth: separable and vanilla decoder (IA-HVAE, section 3.2).

    python -m benchmarks.ia_hvae.inference_time protocols/ia_hvae_time.toml

times, in one run and on networks with fresh weights, one amortized pass, and N refinement steps of every latent in
four ways: the vanilla decoder layer by layer and with all latents at once, the separable one layer by layer and a level
at once. Predicted ratios count layers (IA-HVAE, section 2.1; a layer's cost goes with its pixels): a step of a latent
runs the layers from it to the end of its group; heads, and what layer by layer starts anew, are not counted. Writes
results/inference_time.json, a table (.md) and the plot of the paper's Fig. 2 (.png), on another device or with compiled
layers under a name that says so.
Leave the machine alone meanwhile. Memory is what a process grows by at most while it takes one step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.complete_scans import read_toml, write_results
from benchmarks.common.plots import save, subplots
from benchmarks.common.provenance import provenance
from mrihvae.errors import InputError, reason
from mrihvae.inference.encoders import CompleteEncoder
from mrihvae.inference.latents import compile_layers, infer
from mrihvae.inference.settings import RefinementSettings
from mrihvae.model.hvae import HVAE
from mrihvae.model.settings import ModelSettings
from mrihvae.utils.config import from_dict, with_settings

WAYS = (("vanilla", "layer"), ("vanilla", "together"), ("separable", "layer"), ("separable", "together"))
ROUND = (WAYS[2], *WAYS, WAYS[2])  # the fast one thrice: a passing disturbance is a large part of its time
TITLES = {
    ("vanilla", "layer"): "vanilla, layer by layer",
    ("vanilla", "together"): "vanilla, all at once",
    ("separable", "layer"): "separable, layer by layer",
    ("separable", "together"): "separable, a level at once",
}


@dataclass(frozen=True)
class TimeSettings:
    """What is timed.

    Attributes
    ----------
    shape : (H, W)
    widths : channels of each level, coarsest first
    layers : K, one run each
    sweeps : N
    deepest : K beyond which runs take one step and then two, and count t(1) + (N - 1) (t(2) - t(1))
    slices : in a batch
    """

    shape: tuple[int, ...] = (128, 128)
    widths: tuple[int, ...] = (32,) * 8
    layers: tuple[int, ...] = (1, 2, 5, 10, 20)
    sweeps: int = 25
    deepest: int = 5
    slices: int = 1

    def __post_init__(self) -> None:
        if not self.layers or min(*self.shape, *self.widths, *self.layers, self.sweeps, self.slices) < 1:
            raise ValueError("all numbers must be at least 1")
        multiple = 2 ** (len(self.widths) - 1)
        if len(self.shape) != 2 or any(size % multiple for size in self.shape):
            raise ValueError(f"shape {self.shape} must be two multiples of {multiple} for {len(self.widths)} widths")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", type=Path, nargs="?", default=HERE.parent / "protocols/ia_hvae_time.toml")
    parser.add_argument("--layers", type=int, nargs="+", help="K, instead of the protocol's")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="compile the layers; takes minutes a depth")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--memory", nargs=3, metavar=("DECODER", "ORDER", "K"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        torch.set_num_threads(max(1, options.threads))
        settings, refinement = read_settings(options.protocol)
        try:
            torch.zeros(1, device=options.device)
            settings = replace(settings, layers=tuple(options.layers or settings.layers))
            network(settings, 1, "separable", options.device)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise InputError(f"{options.protocol}, or options: {reason(error)}") from error
        if options.memory:
            print(_peak(settings, refinement, *options.memory))
            return 0
        rows: list[dict[str, Any]] = []
        kind = "" if options.device == "cpu" else f"_{options.device.split(':')[0]}"
        kind += "_compiled" if options.compile else ""
        output = options.results / f"inference_time{kind}.json"
        for k in settings.layers:
            rows += time_depth(settings, refinement, k, options)
            results = {
                **provenance(options.protocol),
                "threads": options.threads,
                "device": options.device,
                "compiled": options.compile,
                **asdict(settings),
                "refinement": asdict(refinement),
                "rows": rows,
            }
            write_results(output, results, markdown(results))
            _plot(results, output.with_suffix(".png"))
        print(markdown(results))
    except InputError as error:
        print(f"inference_time: error: {error}", file=sys.stderr)
        return 2
    return 0


def read_settings(path: Path) -> tuple[TimeSettings, RefinementSettings]:
    """Read a protocol.

    Raises
    ------
    InputError
        Not readable, or with unknown settings.
    """
    found = read_toml(path)
    refinement = from_dict(RefinementSettings, found.pop("refinement", {}), f"{path}, refinement")
    return from_dict(TimeSettings, found, str(path)), refinement


def time_depth(
    settings: TimeSettings, refinement: RefinementSettings, layers: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Time all ways at one depth, in turn, so that a machine that changes its speed does it to all of them.

    A round refines one level layer by layer, and all levels at once. A whole run is the sum of the levels' times of the
    former (separable: of medians of three), and the median of the latter.
    """
    levels, full = len(settings.widths), layers <= settings.deepest
    runs = {}
    for decoder in dict.fromkeys(decoder for decoder, _ in WAYS):
        model = network(settings, layers, decoder, options.device)
        if options.compile:
            torch._dynamo.config.cache_size_limit = 4096  # a layer is a function of its own
            compile_layers(model)
        runs[decoder] = Timed(model, settings, options.device)
        for sweeps in (0, 1):  # warms up
            runs[decoder].seconds(with_settings(refinement, order="together", sweeps=sweeps))
    passes: dict[tuple[str, str], list[float]] = {way: [] for way in WAYS}
    times: dict[tuple[str, str], list[list[float]]] = {way: [[] for _ in range(levels)] for way in WAYS}
    for j in tqdm(range(levels), f"K = {layers}"):
        for way in ROUND:
            chosen, run = with_settings(refinement, order=way[1]), runs[way[0]]
            amortized = run.seconds(with_settings(chosen, sweeps=0))
            passes[way].append(amortized)
            whole = way[1] == "together"
            swept = {n: n if whole else _only(j, n, levels) for n in (1, 2, settings.sweeps)}
            if full:
                taken = run.seconds(with_settings(chosen, sweeps=swept[settings.sweeps])) - amortized
            else:
                one, two = (run.seconds(with_settings(chosen, sweeps=swept[n])) for n in (1, 2))
                taken = one - amortized + (settings.sweeps - 1) * (two - one)
            times[way][j].append(taken)
    refined = {way: _whole_run(way[1], per_level) for way, per_level in times.items()}
    rows = []
    for decoder, order in WAYS:
        rows.append(
            {
                "decoder": decoder,
                "order": order,
                "layers": layers,
                "depth": layers * levels,
                "amortized_seconds": round(statistics.median(passes[decoder, order]), 4),
                "refinement_seconds": round(refined[decoder, order], 4),
                "steps_run": settings.sweeps if full else 2,
                "predicted_cost": predicted_cost(settings, layers, decoder, order),
                "peak_MiB": peak_memory(options, decoder, order, layers),
            }
        )
    slowest = rows[0]
    for row in rows:
        row["faster_than_vanilla_layer_by_layer"] = round(
            slowest["refinement_seconds"] / max(row["refinement_seconds"], 1e-9), 2
        )
        row["predicted"] = round(slowest["predicted_cost"] / row["predicted_cost"], 2)
    return rows


def _whole_run(order: str, per_level: list[list[float]]) -> float:
    """Put a run together from the times taken in each level's round: see `time_depth`."""
    if order == "together":
        return statistics.median(one for times in per_level for one in times)
    return sum(statistics.median(times) for times in per_level)


def network(settings: TimeSettings, layers: int, decoder: str, device: str) -> HVAE:
    """Make a network with fresh weights; the paper's shape but for its widths."""
    torch.manual_seed(0)
    model = ModelSettings(
        widths=settings.widths,
        layers=layers,
        fold=1,
        cascades=0,
        guess_widths=settings.widths[:1],
        separable=decoder == "separable",
        masked=False,
    )
    return HVAE(model).to_device(device).eval().requires_grad_(False)


class Timed:
    """Inference of noise, with a clock."""

    def __init__(self, model: HVAE, settings: TimeSettings, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (settings.slices, *settings.shape)
        self.kspace = torch.randn(shape, dtype=torch.complex64, generator=generator).to(device)
        self.model, self.device = model, device
        self.mask = torch.ones(shape, dtype=torch.bool, device=device)
        self.s = torch.full((settings.slices,), 0.1, device=device)

    def seconds(self, refinement: RefinementSettings) -> float:
        """Time one run, with what the encoder sees of the data."""
        began = time.perf_counter()
        with torch.no_grad():
            infer(self.model, CompleteEncoder(self.model, self.kspace), self.kspace, self.mask, self.s, refinement)
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - began


def _only(j: int, sweeps: int, levels: int) -> tuple[int, ...]:
    """Sweep level j alone."""
    return tuple(sweeps if level == j else 0 for level in range(levels))


def predicted_cost(settings: TimeSettings, layers: int, decoder: str, order: str) -> float:
    """Count the layers that one step of every latent runs, each by its multiplications, in those of a finest one."""
    levels = len(settings.widths)
    cost = [(settings.widths[j] / settings.widths[-1]) ** 2 / 4 ** (levels - 1 - j) for j in range(levels)]
    each = [(j, cost[j]) for j in range(levels) for _ in range(layers)]
    groups = [each] if decoder == "vanilla" else [[one for one in each if one[0] == j] for j in range(levels)]
    total = 0.0
    for group in groups:
        costs = [c for _, c in group]
        total += sum(costs) if order == "together" else sum(sum(costs[k:]) for k in range(len(costs)))
    return round(total, 4)


def peak_memory(options: argparse.Namespace, decoder: str, order: str, layers: int) -> float | None:
    """Measure by how much memory a process grows while it takes one step; CPU under Linux alone."""
    if options.device != "cpu" or not Path("/proc/self/clear_refs").exists():
        return None
    command = [
        sys.executable,
        "-m",
        "benchmarks.ia_hvae.inference_time",
        str(options.protocol.resolve()),
    ]
    words = ["--threads", str(options.threads), "--memory", decoder, order, str(layers)]
    taken = subprocess.run([*command, *words], capture_output=True, text=True, check=False, cwd=HERE.parent)
    return float(taken.stdout.split()[-1]) if taken.returncode == 0 else None


def _peak(settings: TimeSettings, refinement: RefinementSettings, decoder: str, order: str, layers: str) -> float:
    """Take a step at the first latent (and what goes with it): how many MiB the process grew by."""
    run = Timed(network(settings, int(layers), decoder, "cpu"), settings, "cpu")
    run.seconds(with_settings(refinement, sweeps=0))
    levels = len(settings.widths)
    first = _only(0 if decoder == "vanilla" else levels - 1, 1, levels)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    run.seconds(with_settings(refinement, order=order, sweeps=first if order == "layer" else 1))
    return round(_resident("VmHWM") - before, 1)


def _resident(key: str) -> float:
    """Read a line of the memory that Linux says this process has, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def markdown(results: dict[str, Any]) -> str:
    """Lay out a row per depth and way."""
    lines = [
        "| L | refinement | amortized pass, s | N steps, s | faster than vanilla layer by layer | predicted | MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        star = "" if row["steps_run"] == results["sweeps"] else "*"
        cells = [
            str(row["depth"]),
            TITLES[row["decoder"], row["order"]],
            f"{row['amortized_seconds']:.3f}",
            f"{row['refinement_seconds']:.2f}{star}",
            f"{row['faster_than_vanilla_layer_by_layer']:.2f}",
            f"{row['predicted']:.2f}",
            "-" if row["peak_MiB"] is None else f"{row['peak_MiB']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    shape = " x ".join(map(str, results["shape"]))
    foot = f"{shape}, {len(results['widths'])} levels, widths {results['widths']}, N = {results['sweeps']}, "
    foot += f"{results['slices']} slice, {results['device']}, {results['threads']} threads"
    foot += ", compiled layers. " if results["compiled"] else ". "
    foot += "Of times of the same, medians, but for vanilla layer by layer, which runs once. "
    foot += "\\* of two steps, carried on to N.\n"
    return "\n".join(lines) + "\n\n" + foot


def _plot(results: dict[str, Any], path: Path) -> None:
    """Draw seconds over depth, and how much faster each way is than the slowest, beside what was predicted."""
    figure, (left, right) = subplots(1, 2, size=(10, 4.2))
    for (decoder, order), color in zip(WAYS, ("tab:red", "tab:orange", "tab:blue", "tab:green")):
        rows = [row for row in results["rows"] if (row["decoder"], row["order"]) == (decoder, order)]
        depths = [row["depth"] for row in rows]
        left.plot(depths, [row["refinement_seconds"] for row in rows], "o-", color=color, label=TITLES[decoder, order])
        if order == "together":
            left.plot(depths, [row["amortized_seconds"] for row in rows], "o:", color=color, alpha=0.6)
        if (decoder, order) != WAYS[0]:
            right.plot(depths, [row["faster_than_vanilla_layer_by_layer"] for row in rows], "o-", color=color)
            right.plot(depths, [row["predicted"] for row in rows], "--", color=color, alpha=0.7)
    left.set_ylabel(f"seconds of {results['sweeps']} steps (dotted: of an amortized pass)")
    right.set_ylabel("times faster than vanilla layer by layer\n(dashed: predicted)")
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("L, stochastic layers")
    left.legend(fontsize=8)
    save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
