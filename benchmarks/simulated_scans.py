"""Simulated single-coil scans from magnitude images, as fastMRI HDF5 files that anyone can make again bit for bit.

A magnitude image has no phase and no noise, and is often interpolated, which flatters every reconstruction ("data
crimes", Shimron et al. 2022). So each slice is brought to 256x256 by cropping k-space, never by interpolating, gets a
smooth phase of a few radians, and white noise of 1 % of its 99th percentile. The fully sampled target has that noise.

    python benchmarks/simulated_scans.py IMAGES_DIR --output DIR [--every N] [--limit N]

writes one file per NIfTI volume (its slices with an object in them) and one per 10 pictures.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.files import replacing
from mrihvae.fourier import centre_pad, fft2c, ifft2c, resize_kspace
from mrihvae.masks import seed_of
from mrihvae.slices import magnitude_slices

MATRIX = 256
NOISE = 0.01  # standard deviation per complex bin over the 99th percentile of the magnitude
PHASE_ORDER = 3
PICTURES_PER_FILE = 10
VOLUMES = (".nii", ".nii.gz")
PICTURES = (".jpg", ".jpeg", ".png")
HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <experimentalConditions><H1resonanceFrequency_Hz>0</H1resonanceFrequency_Hz></experimentalConditions>
  <encoding>
    <encodedSpace>{space}</encodedSpace>
    <reconSpace>{space}</reconSpace>
    <encodingLimits>
      <kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum><center>{center}</center></kspace_encoding_step_1>
    </encodingLimits>
    <trajectory>cartesian</trajectory>
  </encoding>
</ismrmrdHeader>
"""
SPACE = (
    "<matrixSize><x>{h}</x><y>{w}</y><z>1</z></matrixSize><fieldOfView_mm><x>{h}</x><y>{w}</y><z>1</z></fieldOfView_mm>"
)


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


def simulate_folder(images: Path, output: Path, every: int = 1, limit: int | None = None) -> Iterator[Path]:
    """Write the scans of a folder of images; yields the path of each file once it is whole.

    Parameters
    ----------
    images : folder of NIfTI volumes or pictures; pictures are taken in the order of the numbers in their names
    output : folder of the .h5 files
    every : take every N-th slice with an object in it, or every N-th picture
    limit : write at most this many files, spread evenly over the folder

    Raises
    ------
    InputError
        No image in the folder, an unreadable one, or a number below 1.
    """
    if every < 1 or (limit is not None and limit < 1):
        raise InputError(f"every {every} and limit {limit} must be at least 1")
    files = sorted(images.iterdir(), key=_natural) if images.is_dir() else []
    groups = [[file] for file in files if file.name.lower().endswith(VOLUMES)]
    pictures = [file for file in files if file.name.lower().endswith(PICTURES)][::every]
    groups += [pictures[k : k + PICTURES_PER_FILE] for k in range(0, len(pictures), PICTURES_PER_FILE)]
    if not groups:
        raise InputError(f"{images}: no NIfTI volume, JPEG or PNG picture in it; give a folder of them")
    if limit is not None and limit < len(groups):
        groups = [groups[k * len(groups) // limit] for k in range(limit)]
    acquisition = images.resolve().name if images.name not in ("train", "val", "test") else images.resolve().parent.name
    for group in groups:
        scans = [scan for file in group for scan in _scans(file, every)]
        if scans:
            stems = [re.sub(r"\.nii(\.gz)?$|\.[^.]+$", "", file.name) for file in group]
            name = stems[0] if len(stems) == 1 else f"{acquisition}_{stems[0]}_to_{stems[-1]}"
            path = output / f"{name}.h5"
            kspace = torch.stack([scan for scan, _ in scans]).numpy()
            write_scan(path, kspace, f"SIMULATED_{acquisition}", name, [noise for _, noise in scans])
            yield path


def simulate(magnitude: np.ndarray, rng: RandomState) -> Tensor:
    """Turn a magnitude image (h, w) into noisy k-space, complex64 (256, 256).

    A larger image is resampled by cropping its k-space, by one factor on both axes, until it fits; a smaller one is
    surrounded with zeros. Nothing of the field of view is lost.
    """
    return _simulate(magnitude, rng)[0]


def _simulate(magnitude: np.ndarray, rng: RandomState) -> tuple[Tensor, float]:
    """Simulate k-space; also give the standard deviation of its noise per complex bin."""
    image = torch.from_numpy(magnitude.astype(np.complex64))
    factor = min(1.0, MATRIX / max(image.shape))
    image = ifft2c(resize_kspace(fft2c(image), (round(image.shape[0] * factor), round(image.shape[1] * factor))))
    image = centre_pad(image, (MATRIX, MATRIX)) * torch.from_numpy(np.exp(1j * _phase(rng)).astype(np.complex64))
    noise = torch.from_numpy((rng.randn(MATRIX, MATRIX) + 1j * rng.randn(MATRIX, MATRIX)).astype(np.complex64))
    deviation = NOISE * float(torch.quantile(image.abs(), 0.99))
    return fft2c(image) + deviation / math.sqrt(2) * noise, deviation


def write_scan(
    path: Path, kspace: np.ndarray, acquisition: str, patient: str, noise: list[float] | None = None
) -> None:
    """Write k-space, complex64 (slice, H, W), with its magnitude image as a single-coil fastMRI file.

    The attribute `noise` tells, where it is known, the standard deviation of the noise per complex bin of each slice.
    """
    target = ifft2c(torch.from_numpy(kspace)).abs().numpy()
    height, width = kspace.shape[-2:]
    header = HEADER.format(space=SPACE.format(h=height, w=width), last=width - 1, center=width // 2)
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file["kspace"] = kspace
        file["reconstruction_esc"] = target
        file["ismrmrd_header"] = header.encode()
        file.attrs["acquisition"] = acquisition
        file.attrs["max"] = float(target.max())
        file.attrs["norm"] = float(np.linalg.norm(target))
        file.attrs["patient_id"] = patient
        if noise is not None:
            file.attrs["noise"] = noise


def _scans(file: Path, every: int) -> Iterator[tuple[Tensor, float]]:
    """Simulate a picture, or every N-th slice with an object: k-space and its noise.

    The seed is the file name and the slice's number.
    """
    volume = file.name.lower().endswith(VOLUMES)
    slices = magnitude_slices(file) if volume else magnitude_slices(file, smallest_object=0.0)
    for k in range(0, len(slices), every if volume else 1):
        yield _simulate(slices[k], RandomState([*seed_of(file.name), k]))


def _phase(rng: RandomState) -> np.ndarray:
    """Draw a smooth phase, (256, 256): a random constant, and a random cubic polynomial of 1 to 3 radians in a disc."""
    u = np.linspace(-1, 1, MATRIX)
    orders = np.arange(PHASE_ORDER + 1)
    degree = orders[:, None] + orders
    coefficients = rng.randn(len(orders), len(orders)) / np.maximum(degree, 1)
    coefficients[(degree == 0) | (degree > PHASE_ORDER)] = 0.0
    phase = np.polynomial.polynomial.polygrid2d(u, u, coefficients)
    disc = np.hypot(u[:, None], u) < 1  # the corners, where a cubic is steepest, hold no object
    return np.asarray(phase * rng.uniform(1.0, 3.0) / np.abs(phase[disc]).max() + rng.uniform(-np.pi, np.pi))


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key by which 10.jpg comes after 9.jpg."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


if __name__ == "__main__":
    sys.exit(main())
