"""The simulated single-coil scans of the benchmarks, as fastMRI HDF5 files that anyone can make again bit for bit.

Each slice is 256x256 with a smooth phase and white noise of 1 % of its 99th percentile, as `mrihvae simulate` makes
them (`mrihvae.simulation.scanner` says how); the fully sampled target has that noise. Files lie in the output folder
itself.

    python -m benchmarks.common.simulated_scans IMAGES_DIR --output DIR [--every N] [--limit N]

writes one file per NIfTI volume (its slices with an object in them) and one per 10 pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.random import RandomState
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.simulation.files import image_groups, simulate_file
from mrihvae.simulation.scanner import simulate_slice
from mrihvae.simulation.settings import ScannerSettings

__all__ = ["MATRIX", "main", "simulate", "simulate_folder"]

MATRIX = 256
SETTINGS = ScannerSettings(coils=1, matrix=MATRIX, noise=0.01)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description="simulate single-coil fastMRI files from magnitude images")
    parser.add_argument("images", type=Path, metavar="IMAGES_DIR", help="folder of NIfTI volumes or of pictures")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--every", type=int, default=1, help="take every N-th slice, or every N-th picture")
    parser.add_argument("--limit", type=int, help="write at most N files, spread evenly over the folder")
    options = parser.parse_args(arguments)
    try:
        for path in simulate_folder(options.images, options.output, options.every, options.limit):
            print(path)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def simulate_folder(
    images: Path, output: Path, every: int = 1, limit: int | None = None, coils: int = 1
) -> Iterator[Path]:
    """Write the scans of a folder of images; yields the path of each file once it is whole.

    Parameters
    ----------
    images : folder of NIfTI volumes or pictures; pictures are taken in the order of the numbers in their names
    output : folder of the .h5 files
    every : take every N-th slice with an object in it, or every N-th picture
    limit : write at most this many files, spread evenly over the folder
    coils : of a birdcage, or one

    Raises
    ------
    InputError
        No image in the folder, an unreadable one, or a number below 1.
    """
    for group in image_groups(images, every, limit):
        path = output / f"{group.name}.h5"
        if simulate_file(group, path, replace(SETTINGS, coils=coils)):
            yield path


def simulate(magnitude: np.ndarray, rng: RandomState) -> Tensor:
    """Turn a magnitude image (h, w) into noisy k-space, complex64 (256, 256)."""
    return _simulate(magnitude, rng)[0]


def _simulate(magnitude: np.ndarray, rng: RandomState) -> tuple[Tensor, float]:
    """Simulate k-space; also give the standard deviation of its noise per complex bin."""
    kspace, deviation = simulate_slice(magnitude, rng, SETTINGS)
    return kspace[0], deviation


if __name__ == "__main__":
    sys.exit(main())
