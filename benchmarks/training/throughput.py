"""How many slices a second training takes, and how much of that is drawing them: one coil and eight, CPU and GPU.

    python -m benchmarks.training.throughput --data DIR

Steps of the network and loss of the shipped weights (train_default.json, all parts together), at 128 x 128 and
256 x 256, on one and two CPU threads, and on a GPU where there is one; in seconds, with the machine left alone, and in
CPU seconds. Rows of one label (--label; in the checkout of another version, its name) and processor replace each other:
results/training_throughput.json, .md. Those of 0.1.0 were measured by an earlier form of this script, before modules
had the places that they have now.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import HERE
from benchmarks.training.train import SOURCES
from mrihvae.datasets.mixture import WeightedDatasets, load_mixture
from mrihvae.errors import InputError
from mrihvae.model.settings import ModelSettings
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.loop import Batches, train_step
from mrihvae.training.run import Run, TrainSettings
from mrihvae.utils.config import from_dict
from mrihvae.utils.files import atomic_write

SIZES = (128, 256)
COILS = (1, 8)
PIXELS = {"cpu": (65_536, 131_072), "cuda": (2_097_152,)}  # a step
WARM_UP, STEPS = 2, 12  # a multiple of 6 and 3: every sixth step trains the prior, every third is a second round


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--packed", type=Path, help="slices of benchmarks/training/pack_slices.py, in place of --data")
    parser.add_argument("--label", default="unreleased", help="of the version that is measured")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--float32", action="store_true", help="without bfloat16, as on processors that have none")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    try:
        if options.packed is None and options.data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA, or give --packed")
        sources = [str(options.packed)] if options.packed else [f"{options.data}/{source}" for source in SOURCES]
        measure(load_mixture(sources), options)
    except InputError as error:
        print(f"training_throughput: error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(mixture: WeightedDatasets, options: argparse.Namespace) -> None:
    """Measure every row, and write them beside those of other labels."""
    path = options.results / "training_throughput.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    processor = torch.cuda.get_device_name() if options.device == "cuda" else _processor()
    precision = "float32" if options.float32 else "auto"
    for threads in options.threads if options.device == "cpu" else (torch.get_num_threads(),):
        torch.set_num_threads(threads)
        for coils in COILS:
            for size in SIZES:
                for pixels in PIXELS[options.device]:
                    row = {
                        "label": options.label, "processor": processor, "device": options.device, "threads": threads,
                        "precision": precision, "coils": coils, "size": size, "pixels": pixels,
                    }  # fmt: skip
                    rows = [one for one in rows if any(one[key] != row[key] for key in row)]
                    rows.append({**row, **seconds(mixture, coils, size, pixels, options.device, not options.float32)})
                    with atomic_write(path) as temporary:
                        temporary.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
                    with atomic_write(path.with_suffix(".md")) as temporary:
                        temporary.write_text(markdown(rows))
    print(path.with_suffix(".md").read_text())


def seconds(mixture: WeightedDatasets, coils: int, size: int, pixels: int, device: str, bf16: bool) -> dict[str, float]:
    """Take steps of one kind: seconds a slice of training and of drawing; CPU seconds on a CPU."""
    given = json.loads((HERE / "training" / "train_default.json").read_text())
    changes = {"guess_only": 0, "masked_start": 0, "pixels": pixels, "shapes": [[size, size]], "bf16": bf16}
    simulation = SimulationSettings(coils=(coils, coils))
    settings = from_dict(TrainSettings, {**given["training"], **changes}, "train_default.json")
    run = Run.new(from_dict(ModelSettings, given["model"], "train_default.json"), settings, simulation, device)
    batches = Batches(settings, simulation, mixture)
    spent, slices = {"training": 0.0, "drawing": 0.0, "cpu": 0.0}, 0
    for number in range(WARM_UP + STEPS):
        before, began, cpu = run.counters.slices, time.perf_counter(), time.process_time()
        scans = batches[run.counters.step]
        drawn = time.perf_counter()
        train_step(run, scans)
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= WARM_UP:
            spent["drawing"] += drawn - began
            spent["training"] += time.perf_counter() - drawn
            spent["cpu"] += time.process_time() - cpu
            slices += run.counters.slices - before
    return {name: round(value / slices, 4) for name, value in spent.items()}


def markdown(rows: list[dict[str, Any]]) -> str:
    """Lay out a row per kind of slice and way, a column per label."""
    labels = list(dict.fromkeys(row["label"] for row in rows))
    kinds = ("processor", "precision", "threads", "coils", "size", "pixels")
    order = sorted({tuple(row[key] for key in kinds) for row in rows}, key=str)
    head = ["processor", "precision", "threads", "coils", "size", "pixels a step"]
    head += [f"{label}: {what}" for label in labels for what in ("slices / s", "slices / CPU s", "drawing")]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for kind in order:
        cells = [str(value) for value in kind]
        for label in labels:
            found = [row for row in rows if row["label"] == label and tuple(row[key] for key in kinds) == kind]
            if not found:
                cells += ["", "", ""]
                continue
            both = found[0]["training"] + found[0]["drawing"]
            cells += [f"{1 / both:.2f}", f"{1 / found[0]['cpu']:.2f}", f"{found[0]['drawing'] / both:.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nDrawing is included; its share of the seconds stands beside.\n"


def _processor() -> str:
    """Name the processor by its instructions, which matter most."""
    capability = torch.backends.cpu.get_cpu_capability()
    flags = getattr(torch.cpu, "get_capabilities", dict)()
    return f"{platform.machine()}, {capability}{', bfloat16' if flags.get('avx512_bf16') else ''}"


if __name__ == "__main__":
    sys.exit(main())
