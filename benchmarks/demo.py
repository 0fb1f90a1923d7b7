"""Run `mrihvae demo`, and renew what docs/ shows of it: its picture and its tables.

    python -m benchmarks.demo

writes benchmarks/results/demo.json and demo.png, and the tables of the pages (`benchmarks.tables`). Leave the
machine alone meanwhile: seconds of a busy one are left out.
"""

from __future__ import annotations

import argparse
import json
import os
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
BUSY = 0.5  # load of the machine


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--work", type=Path, default=Path("runs/demo"), help="output folder of the demo")
    options = parser.parse_args(arguments)
    torch.set_num_threads(max(1, options.threads))
    if (load := os.getloadavg()[0]) > BUSY:
        print(f"demo: the load of this machine is {load:.1f}: seconds are left out", file=sys.stderr)
    try:
        demo.run(Demo(output=options.work))
        keep(options.work, options.results, timed=load <= BUSY)
    except InputError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 2
    return tables.main(["--results", str(options.results)])


def keep(output: Path, results: Path, timed: bool) -> None:
    """Copy the scores and the picture of a demo to the results; its seconds only if they were `timed`."""
    found = json.loads((output / demo.RESULTS).read_text())
    found["threads"] = found["threads"] if timed else None
    for scan in found["scans"] if not timed else []:
        for scores in scan["scores"].values():
            del scores["seconds"]
    with atomic_write(results / "demo.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    with atomic_write(results / "demo.png") as temporary:
        shutil.copyfile(output / demo.COMPARISON / f"{SHOWN}.png", temporary)
    shrink(results / "demo.png")


if __name__ == "__main__":
    sys.exit(main())
