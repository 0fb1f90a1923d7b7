"""Make the picture of docs/results.md that no table goes with: of 8 coils at 4x.

    python -m benchmarks.pictures --data DIR --varnet runs/varnet/weights.safetensors

Writes results/multicoil.png. The picture of README.md is made by `benchmarks.demo`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks import HERE
from benchmarks.common.plots import shrink
from benchmarks.multicoil import run as multicoil
from mrihvae.errors import InputError

SCANS = "simulated, 8 coils"  # a set of protocols/multicoil.toml
COILS = "random_4x/8_patient09_study2_FLAIR.png"
METHODS = ("zero-filled", "tv", "bart-wavelet", "varnet", "hybrid")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            write_coils(Path(temporary), options)
    except InputError as error:
        print(f"pictures: error: {error}", file=sys.stderr)
        return 2
    return 0


def write_coils(folder: Path, options: argparse.Namespace) -> None:
    """Take the panel of a scan of 8 coils from the benchmark of several coils, run for that set alone."""
    words = [str(HERE.parent / "protocols" / "multicoil.toml"), "--varnet", str(options.varnet), "--sets", SCANS]
    words += ["--methods", *METHODS, "--results", str(folder / "results"), "--work", str(folder / "work")]
    (folder / "results").mkdir()
    if multicoil.main([*words, *(["--data", str(options.data)] if options.data else [])]):
        raise InputError("benchmarks.multicoil.run: failed; see what it said")
    _keep(folder / "work" / "multicoil" / COILS, options.results / "multicoil.png")


def _keep(source: Path, target: Path) -> None:
    """Copy a picture, small enough for the repository."""
    shrink(source)
    shutil.copyfile(source, target.with_suffix(".part"))
    target.with_suffix(".part").replace(target)
    print(target)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--varnet", type=Path, required=True, help="weights of benchmarks/peers/varnet.py")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
