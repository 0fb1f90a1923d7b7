"""Run `mrihvae demo`, and renew what README.md shows of it: its picture and its tables.

    python -m benchmarks.demo

writes benchmarks/results/demo.json and demo.png, and the tables of README.md and docs/ (`benchmarks.tables`). Leave the
machine alone meanwhile: its seconds are shown.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch

from benchmarks import HERE, tables
from benchmarks.common.plots import shrink
from mrihvae.cli import demo
from mrihvae.cli.options import Demo
from mrihvae.errors import InputError
from mrihvae.utils.files import atomic_write

SHOWN = "pulseq_brain16"  # the scan of the picture


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--work", type=Path, default=Path("runs/demo"), help="output folder of the demo")
    options = parser.parse_args(arguments)
    torch.set_num_threads(max(1, options.threads))
    try:
        demo.run(Demo(output=options.work))
        keep(options.work, options.results)
    except InputError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 2
    return tables.main(["--results", str(options.results)])


def keep(output: Path, results: Path) -> None:
    """Copy the scores and the picture of a demo to the results."""
    for source, name in ((output / demo.RESULTS, "demo.json"), (output / "comparison" / f"{SHOWN}.png", "demo.png")):
        with atomic_write(results / name) as temporary:
            shutil.copyfile(source, temporary)
    shrink(results / "demo.png")


if __name__ == "__main__":
    sys.exit(main())
