"""Options of `mrihvae sample`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mrihvae.utils.precision import PRECISIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--output", type=Path, required=True, help="folder for samples.h5, samples.png and bands.png")
    parser.add_argument("--checkpoint", default="default", help="name of shipped weights, or a .safetensors file")
    parser.add_argument("--samples", type=int, default=8, help="how many images")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"), help="of the images")
    parser.add_argument("--temperature", type=float, default=1.0, help="factor on the prior's deviations; 0 its means")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal images")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the network's arithmetic")
