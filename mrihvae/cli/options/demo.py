"""Options of `mrihvae demo`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--output", type=Path, default=Path("mrihvae-demo"), help="folder for pictures and results")
    parser.add_argument("--acceleration", type=int, default=4, help="nominal acceleration of the random mask")
    parser.add_argument("--checkpoint", default="default", help="name of shipped weights, or a .safetensors file")
