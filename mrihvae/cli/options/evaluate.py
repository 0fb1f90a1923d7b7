"""Options of `mrihvae evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mrihvae.data.scan import TARGETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--target-path", type=Path, required=True, help="fastMRI HDF5 with references, or a folder")
    parser.add_argument("--predictions-path", type=Path, required=True, help="reconstructions of the same names")
    parser.add_argument("--challenge", choices=tuple(TARGETS), required=True, help="says which dataset is the target")
    parser.add_argument("--acquisition", help="score only volumes of this acquisition")
    parser.add_argument("--acceleration", type=float, help="score only volumes of this acceleration")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--csv", type=Path, help="write one row per volume here")
