"""Options of `mrihvae train`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    paths = parser.add_argument(
        "data",
        nargs="+",
        metavar="PATH[=WEIGHT]",
        help="fastMRI HDF5, NIfTI, PNG, JPEG, folders of them; for real images CIFAR10's .bin or MNIST-like IDX files; "
        "left out, the folders of --protocol",
    )
    paths.required = False  # unlike nargs "*", which is done with before options that come first
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        help="data, settings and weights to start from: a training protocol, as 'mrihvae protocols' lists them, with "
        "'train_' in front or without, or a TOML file; a run that is resumed keeps its settings",
    )
    parser.add_argument("--data", dest="root", type=Path, metavar="DIR", help="data directory of --protocol")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoint, weights, log and plot")
    parser.add_argument("--resume", action="store_true", help="go on exactly where the run in --output stopped")
    parser.add_argument("--settings", type=Path, help='JSON with any of "model", "training", "simulation"')
    parser.add_argument("--weights", help="start from these: a name of shipped weights, or a .safetensors file")
    parser.add_argument(
        "--guess-weights", metavar="WEIGHTS", help="start the U-Nets of the first guess from these, of any model"
    )
    parser.add_argument(
        "--go-on", metavar="WEIGHTS", help="go on with the run that these are of, whose checkpoint is lost"
    )
    parser.add_argument("--steps", type=int, help="steps of the whole run; also when resuming")
    parser.add_argument("--minutes", type=float, help="stop, with a checkpoint, after this long")
    parser.add_argument("--checkpoint-seconds", type=float, default=240.0, help="time between checkpoints")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads per process")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw batches ahead; for a GPU")
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        help="read slices when they are drawn, so that memory does not grow with the data; left out, where they would "
        "take more than 1 GB of it",
    )
    parser.add_argument(
        "--cache-megabytes", type=float, default=512.0, help="of slices so read that are kept, in each process"
    )
    parser.add_argument(
        "--validation",
        nargs="+",
        metavar="PATH",
        help="score the weights on scans made from these, one set each, every 'validate_every' steps (500 if the "
        "settings say none), into validation.jsonl",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda; several processes by torchrun")
