"""Make the pictures of docs/method.md: the network, and a reconstruction band by band.

    python -m benchmarks.method_pictures

Writes results/method_network.png, from the settings of the shipped weights, and results/method_bands.png, from a scan
that comes with the package.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

import mrihvae
from benchmarks import HERE
from benchmarks.common.plots import shrink
from mrihvae.cli.demo import SCANS
from mrihvae.coils import CoilSettings
from mrihvae.evaluation import save_figure
from mrihvae.evaluation.figures import subplots
from mrihvae.model import ModelSettings, load_model
from mrihvae.model.bands import band_on_grid, grids
from mrihvae.physics import fft2c, ifft2c

SCAN = SCANS / "pulseq_brain16.h5"
SHAPE = (128, 128)  # of the scan, and of the grids in the picture of the network
ENCODER, LATENT, HEAD, LINE = "#dbe9d3", "#f7dca8", "#d6e4f5", "#555555"
HEIGHT, STEP = 0.6, 1.0  # of a box, and from level to level


def main(arguments: list[str] | None = None) -> int:
    """Make both pictures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    results: Path = parser.parse_args(arguments).results
    torch.set_num_threads(1)
    settings = load_model("default").settings
    draw_network(settings, results / "method_network.png")
    draw_bands(settings.levels, results / "method_bands.png")
    for name in ("method_network.png", "method_bands.png"):
        shrink(results / name)
        print(results / name)
    return 0


def draw_network(settings: ModelSettings, path: Path) -> None:
    """Draw a row for each level: the encoder's features, the layers of latents, the head, and the band in k-space."""
    figure, axis = subplots(size=(9.0, 4.9))
    axis.set_axis_off()
    axis.set_aspect("equal")
    most = max(settings.layers_at(j) for j in range(settings.levels))
    head = 3.0 + 1.7 * most
    axis.set_xlim(-0.1, head + 4.6)
    axis.set_ylim(-0.9, STEP * settings.levels)
    number = 0
    for j, (height, width) in enumerate(grids(SHAPE, settings.levels)):
        y = STEP * (settings.levels - 1 - j)
        middle = y + HEIGHT / 2
        box(axis, 0.0, y, 2.2, f"level {j}: {settings.widths[j]} channels", ENCODER)
        for k in range(settings.layers_at(j)):
            box(axis, 3.0 + 1.7 * k, y, 1.2, f"$z_{{{number}}}$", LATENT)
            arrow(axis, (2.5 + 1.7 * k - (0.3 if k == 0 else 0), middle), (3.0 + 1.7 * k, middle))
            number += 1
        arrow(axis, (head - 0.5, middle), (head, middle))
        box(axis, head, y, 1.2, "head", HEAD)
        arrow(axis, (head + 1.2, middle), (head + 1.7, middle))
        inset = axis.inset_axes((head + 1.75, y - 0.05, 0.7, 0.7), transform=axis.transData)
        inset.imshow(band_on_grid(SHAPE, settings.levels, j).numpy(), cmap="Blues", vmin=-0.2, vmax=1.3)
        inset.set_xticks([])
        inset.set_yticks([])
        axis.text(head + 2.65, middle, f"$\\hat{{h}}_{j}$, {height} x {width}", va="center", fontsize=10)
        if j:
            arrow(axis, (1.1, y + HEIGHT), (1.1, y + STEP))
            between = y + (HEIGHT + STEP) / 2  # the state goes from the end of a level to the begin of the next
            axis.plot([head - 0.25, head - 0.25, 2.6, 2.6], [middle + STEP, between, between, middle], color=LINE, lw=1)
    notes = {
        1.1: "features of the encoder\n(q or r)",
        3.0 + 0.85 * most: "latents, coarsest first",
        head + 0.6: "a head for\neach band",
        head + 2.9: "bands of k-space;\ntheir sum is the image",
    }
    for x, text in notes.items():
        axis.text(x, -0.45, text, ha="center", va="center", fontsize=10)
    save_figure(figure, path)


def box(axis: Axes, x: float, y: float, width: float, text: str, color: str) -> None:
    """Draw a box with text in it."""
    axis.add_patch(FancyBboxPatch((x, y), width, HEIGHT, "round,pad=0,rounding_size=0.1", fc=color, ec=LINE))
    axis.text(x + width / 2, y + HEIGHT / 2, text, ha="center", va="center", fontsize=10)


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow."""
    axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": LINE, "shrinkA": 0, "shrinkB": 0})


def draw_bands(levels: int, path: Path) -> None:
    """Draw a reconstruction at 4x, zero-filling and the fully sampled image: each up to band 0, 1 and so on.

    Coils are combined by maps, those of the last two by maps of the fully sampled scan.
    """
    (scan,) = mrihvae.open_kspace(SCAN)
    kspace = torch.from_numpy(np.asarray(scan.kspace))
    maps = mrihvae.estimate_maps(kspace, torch.ones(SHAPE, dtype=torch.bool), CoilSettings(refine_maps=0))
    mask = torch.from_numpy(mrihvae.sampling_pattern("random", SHAPE, 4, center_fraction=0.08, seed=0))
    images = {
        "mrihvae (hybrid)": mrihvae.reconstruct(kspace, mask).image[0],
        "zero-filled": (maps.conj() * ifft2c(kspace * mask)).sum(dim=1)[0],
        "fully sampled": (maps.conj() * ifft2c(kspace)).sum(dim=1)[0],
    }
    bright = float(images["fully sampled"].abs().quantile(0.999))
    figure, axes = subplots(len(images), levels, size=(2.0 * levels, 2.1 * len(images)))
    for row, (name, image) in zip(axes, images.items()):
        shown = torch.zeros(SHAPE, dtype=torch.bool)
        for j, axis in enumerate(row):
            shown |= band_on_grid(SHAPE, levels, j)
            axis.imshow(ifft2c(fft2c(image) * shown).abs().numpy(), cmap="gray", vmin=0, vmax=bright)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name)
    for j, axis in enumerate(axes[0]):
        axis.set_title("band 0" if j == 0 else f"bands 0 to {j}", fontsize=10)
    save_figure(figure, path)


if __name__ == "__main__":
    sys.exit(main())
