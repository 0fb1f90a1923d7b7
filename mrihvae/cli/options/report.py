"""Options of `mrihvae report`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="--output of 'mrihvae run' or 'mrihvae reconstruct'")
    parser.add_argument(
        "--data", type=Path, help="folder with the scans, if they are no longer where they were; matched by file name"
    )
    parser.add_argument("--output", type=Path, help="HTML file to write; DIR/report.html if left out")
    parser.add_argument("--title", help="heading of the report; by what was run if left out")
    parser.add_argument(
        "--slices", type=int, help="pictures of only so many slices of a volume, evenly spaced; keeps big reports small"
    )
