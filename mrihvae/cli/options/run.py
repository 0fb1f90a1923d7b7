"""Options of `mrihvae run`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("protocol", metavar="PROTOCOL", help="name, as 'mrihvae protocols' lists them, or a TOML file")
    parser.add_argument("--data", type=Path, required=True, help="data directory, or the protocol's folder itself")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for reconstructions/, panels/, scores.md and run.json"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--batch-size", type=int, default=8, help="coil images reconstructed together; lower it to save memory"
    )
    parser.add_argument("--limit", type=int, help="only the first so many files, to try it")
    parser.add_argument("--resume", action="store_true", help="leave out volumes that are in --output already")
