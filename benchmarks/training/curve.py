"""How the quality of a run grows with CPU time, against the shipped weights on the same scans and against their log.

    python -m benchmarks.training.curve runs/model2 --data DIR

reads validation.jsonl and log.jsonl of the run, scores the shipped weights on the scans that the run is scored on, and
writes results/training_curve.json, .md and .png: PSNR of one encoder pass over the hours of the run, by number of coils
and acceleration; and how far errors of training batches of one coil are below zero-filling's, beside those of the log
of `default` (results/train_default.jsonl). Scans for training differ between the two, and so do the
machines.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import HERE
from benchmarks.common.plots import save, subplots
from benchmarks.training.train import VALIDATION
from mrihvae.cli.train import validation_cases
from mrihvae.errors import InputError
from mrihvae.model.weights import load_model
from mrihvae.training.run import load_checkpoint
from mrihvae.training.validation import mean_psnr, validate
from mrihvae.utils.files import atomic_write

PARTS = ("1 coil, 4x", "1 coil, 8x", "8 coils, 4x", "8 coils, 8x")
SHIPPED = ("default", "multicoil")
WINDOW = 200  # steps of a log that are averaged


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--go-on", action="store_true", help="keep what results have of an earlier part of the run")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    try:
        if options.data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
        write(options)
    except InputError as error:
        print(f"training_curve: error: {error}", file=sys.stderr)
        return 2
    return 0


def write(options: argparse.Namespace) -> None:
    """Score the shipped weights, and write results."""
    lines = read_lines(options.run / "validation.jsonl")
    path = options.results / "training_curve.json"
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    shipped = earlier.get("shipped", {})
    begun = lines[0]["step"] if options.go_on else 0  # what an earlier part of the run had before stays
    lines = [line for line in earlier.get("curve", []) if line["step"] < begun] + lines
    if any(list(shipped.get(name, {})) != list(lines[-1]["scores"]) for name in SHIPPED):
        job = load_checkpoint(options.run, "cpu")
        cases = validation_cases([f"{options.data}/{folder}" for folder in VALIDATION.values()], job)
        cases = [case.with_tv_initialization(1.0) for case in cases]
        shipped = {name: validate(load_model(name), cases) for name in SHIPPED}
    log = read_lines(options.run / "log.jsonl")
    before = earlier.get("gain of training batches, dB", {}).get("this run", []) if options.go_on else []
    gains = {
        "this run": [point for point in before if point[0] < log[0]["seconds"]] + gain_over_time(log),
        "default": gain_over_time(read_lines(HERE / "results" / "train_default.jsonl")),
    }
    results = {"shipped": shipped, "curve": lines, "gain of training batches, dB": gains}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    with atomic_write(path.with_suffix(".md")) as temporary:
        temporary.write_text(markdown(results))
    plot(results, path.with_suffix(".png"))
    print(path.with_suffix(".md").read_text())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a log of JSON lines.

    Raises
    ------
    InputError
        Not there, or empty.
    """
    try:
        found = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no log of a run ({error}); train first") from error
    if not found:
        raise InputError(f"{path}: is empty; train further first")
    return found


def gain_over_time(lines: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Average by how many dB errors of one-coil batches are below zero-filling's: (seconds, dB) of each window."""
    steps = [
        (line["seconds"], 10 * math.log10(line["zero_filled"] / line["rollout"]))
        for line in lines
        if line.get("rollout", 0) > 0 and line.get("zero_filled", 0) > 0 and line.get("coils", 1) == 1
    ]
    windows = [steps[k : k + WINDOW] for k in range(0, len(steps), WINDOW)]
    return [(round(window[-1][0]), round(float(np.mean([gain for _, gain in window])), 3)) for window in windows]


def markdown(results: dict[str, Any]) -> str:
    """Lay out a row for some points of the curve, and for the shipped weights."""
    curve = results["curve"]
    chosen = sorted({round(k) for k in np.linspace(0, len(curve) - 1, min(10, len(curve)))})
    lines = ["| weights | " + " | ".join(PARTS) + " | all |", "|---" * (len(PARTS) + 2) + "|"]
    rows = [
        (f"after {curve[k]['seconds'] / 3600:.2f} h, {curve[k]['slices']} slices", curve[k]["scores"]) for k in chosen
    ]
    for name, scores in [*((f"shipped {name}", results["shipped"][name]) for name in SHIPPED), *rows]:
        cells = [f"{mean_psnr(scores, part):.2f}" for part in (*PARTS, "")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nPSNR in dB of one encoder pass, mean over the sets of scans.\n"


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw the curves."""
    figure, (left, right) = subplots(1, 2, size=(11, 4.5))
    hours = [line["seconds"] / 3600 for line in results["curve"]]
    for number, part in enumerate(PARTS):
        color = f"C{number}"
        left.plot(hours, [mean_psnr(line["scores"], part) for line in results["curve"]], color=color, label=part)
        name = SHIPPED[0] if part.startswith("1 ") else SHIPPED[1]
        left.axhline(mean_psnr(results["shipped"][name], part), color=color, linestyle=":", label=f"{part}: {name}")
    left.set_xlabel("hours of the run on one CPU thread, pauses counted")
    left.set_ylabel("PSNR of one encoder pass, dB")
    left.legend(fontsize=7)
    for name, points in results["gain of training batches, dB"].items():
        right.plot([seconds / 3600 for seconds, _ in points], [gain for _, gain in points], label=name)
    right.set_xlabel("hours")
    right.set_ylabel("training batches of one coil: error below zero-filling, dB")
    right.legend(fontsize=8)
    save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
