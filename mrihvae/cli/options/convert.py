"""Options of `mrihvae convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

ABOUT = (
    "K-space: fastMRI HDF5 (.h5), BART (.cfl), NumPy (.npy with .json). Images, of a reconstruction or a complete "
    "scan: NIfTI (.nii, .nii.gz), MRD images (.mrd), PNG (.png); of a reconstruction also .h5, .cfl and .npy."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = f"{parser.description}. {ABOUT}"
    parser.add_argument(
        "input",
        type=Path,
        metavar="IN",
        help="file with k-space of any format, or a reconstruction of this package, or MRD images",
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="file to write; its suffix says the format")
    parser.add_argument("--slice", type=int, help="write one slice of the images, from 0 on; left out, all")
    parser.add_argument("--dataset", help="images of IN to take, where it has several; left out, the reconstruction")
    parser.add_argument(
        "--images", action="store_true", help="write images of complete k-space where OUT could be both"
    )
