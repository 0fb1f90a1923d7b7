"""`mrihvae sample`: images drawn from the prior, as a file and as a picture, and how they grow band by band."""

from __future__ import annotations

import numpy as np
import torch

from mrihvae.cli import options
from mrihvae.errors import InputError
from mrihvae.evaluation.figures import image_grid
from mrihvae.inference.latents import Inferred, generate
from mrihvae.io.hdf5 import write_datasets
from mrihvae.model.bands import grids, merge
from mrihvae.model.weights import load_model
from mrihvae.physics.fourier import ifft2c
from mrihvae.utils.precision import arithmetic
from mrihvae.utils.text import counted

SHOWN = 16
GROWING = 4


def run(arguments: options.Sample) -> None:
    """Draw, and write the images in model units: their 99th percentile is about 1."""
    if arguments.seed < 0:
        raise InputError(f"--seed {arguments.seed}: must be at least 0")
    model = load_model(arguments.checkpoint)
    shape = (arguments.size[0], arguments.size[1])
    with arithmetic(torch.device("cpu"), arguments.precision):
        found = generate(model, arguments.samples, shape, arguments.temperature, arguments.seed)
    images = ifft2c(found.kspace)
    stored = images.real if model.settings.real else images
    settings = {"temperature": arguments.temperature, "seed": arguments.seed, "checkpoint": arguments.checkpoint}
    write_datasets(arguments.output / "samples.h5", {"samples": stored.numpy()}, settings)
    title = f"drawn from the prior, temperature {arguments.temperature:g}"
    shown = as_pictures(images[:SHOWN])
    image_grid(arguments.output / "samples.png", title, [shown[k : k + 4] for k in range(0, len(shown), 4)])
    levels = model.settings.levels
    sizes = [grids(shape, levels)[group[-1]] for group in model.groups]
    rows, names = growth(found, min(GROWING, arguments.samples), sizes)
    image_grid(arguments.output / "bands.png", "the same, band by band", rows, names)
    print(f"{counted(arguments.samples, 'image')} of {shape[0]} x {shape[1]}: {arguments.output / 'samples.h5'}")
    print(f"pictures: {arguments.output / 'samples.png'}   band by band: {arguments.output / 'bands.png'}")


def growth(found: Inferred, count: int, sizes: list[tuple[int, int]]) -> tuple[list[list[np.ndarray]], list[str]]:
    """Show the first images as they are after each level (IA-HVAE, Fig. 3): rows of magnitudes, and columns' names.

    Parameters
    ----------
    sizes : of the grid of each level with a head
    """
    nothing = torch.zeros_like(found.bands[-1])
    steps = [merge([*found.bands[: j + 1], nothing]) for j in range(len(found.bands) - 1)]
    images = [as_pictures(ifft2c(step[:count])) for step in (*steps, found.kspace)]
    names = [f"{height} x {width}" for height, width in sizes]
    return [list(row) for row in zip(*images)], names


def as_pictures(images: torch.Tensor) -> list[np.ndarray]:
    """Turn images (n, H, W), or real ones (n, channels, H, W), into magnitudes (h, w) or colors (h, w, 3)."""
    if images.ndim == 3:
        return list(images.abs().numpy())
    real = images.real.clamp(0, 1).numpy()
    return [np.moveaxis(image, 0, -1) if len(image) == 3 else image.mean(axis=0) for image in real]
