"""How the phase of simulated scans compares with measured phase.

    python -m benchmarks.training.phase --data DIR

Three measures of a complex image, weighted by its magnitude, without wrapping:

offset : samples between the peak of k-space and its center along an axis, from the mean change of phase
change : what else the phase changes, over a window of 7 x 7 pixels, in radians per 1/128 of the field of view;
    median and 90th percentile over the object
beyond : share of the energy of exp(i phase), within the object and without the offset, that lies farther than
    2, 4, 8 and 16 samples from the center of k-space

Each is given as its median, and 10th and 90th percentile, over slices. Raw scans of `ulf_singlecoil/train` are what
the phase at low field is fitted to: the standard deviation of offsets, and median and deviation of the logarithm of
change. `multicoil` is compared with alone. Simulated scans are made of the training images (`train.SOURCES`), with
noise as the raw training scans have it, over the image's 99th percentile.
Writes phase.json, phase.md and phase.png.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import HERE
from benchmarks.training.train import SOURCES
from mrihvae.datasets.mixture import Reading, WeightedDatasets, load_mixture
from mrihvae.errors import InputError
from mrihvae.io.fastmri import read_scan
from mrihvae.physics.fourier import fft2c, ifft2c, resize_kspace
from mrihvae.physics.noise import noise_std
from mrihvae.physics.scaling import image_scale
from mrihvae.simulation.phases import KIND_SHARES, add_phase
from mrihvae.training.draw import SimulationSettings, white_noise, with_phase
from mrihvae.utils.files import atomic_write

WINDOW = 7  # pixels, over which changes are averaged
OBJECT = 0.3  # of the 99th percentile of the magnitude, above which the phase counts
RADII = (2, 4, 8, 16)  # samples
CURVE = tuple(range(33))
MATRIX = 128
FITTED = "ulf_singlecoil/train"
TESTS = ("usc_mprage", "usc_t2_onecoil", "pulseq_brain16", "pulseq_brain_bodycoil2", "pulseq_phantom16")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--slices", type=int, default=60, help="of each kind of simulated scans")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    try:
        if options.data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
        if options.slices < 2:
            raise InputError(f"--slices {options.slices}: must be at least 2")
        compare(options.data, options.slices, options.results)
    except InputError as error:
        print(f"phase: error: {error}", file=sys.stderr)
        return 2
    return 0


def compare(data: Path, slices: int, results: Path) -> None:
    """Measure all sets of images and write the results."""
    raw = raw_images(data / FITTED)
    measured = [measure(image) for image in raw]
    noise = [float(noise_std(fft2c(image)) / image_scale(image)) for image in raw]
    sets = {f"measured: {FITTED}": measured}
    magnitudes = [f"{data}/{source}" for source in SOURCES if not source.startswith(FITTED)]
    mixture = load_mixture(magnitudes, reading=Reading(stream_above=0))
    sets["simulated: smooth"] = [measure(image) for image in simulated(mixture, slices, noise, None)]
    for kind in KIND_SHARES:
        sets[f"simulated: {kind}"] = [measure(image) for image in simulated(mixture, slices, noise, kind)]
    for name in TESTS:
        path = data / "multicoil" / f"{name}.h5"
        if path.is_file():
            sets[f"test: {name}"] = [measure(image) for image in raw_images(path)]
    found = {"fit": fit(measured), "sets": {name: summary(rows) for name, rows in sets.items()}}
    with atomic_write(results / "phase.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    with atomic_write(results / "phase.md") as temporary:
        temporary.write_text(table(found))
    with atomic_write(results / "phase.png") as temporary:
        plot({name: [row["curve"] for row in rows] for name, rows in sets.items()}, temporary)
    print(table(found))
    print(json.dumps(found["fit"]))


def measure(image: Tensor) -> dict[str, Any]:
    """Measure the phase of one image, complex (h, w)."""
    magnitude = image.abs()
    inside = magnitude > OBJECT * float(torch.quantile(magnitude, 0.99))
    steps, offsets = [], []
    for axis, size in enumerate(image.shape):
        product = torch.roll(image, -1, axis) * image.conj()
        product.narrow(axis, size - 1, 1).zero_()
        offsets.append(float(product.sum().angle()) * size / (2 * np.pi))
        turned = product * np.exp(-2j * np.pi * offsets[-1] / size)
        steps.append(_averaged(turned).angle() * size / 128)
    change, weight = torch.hypot(steps[0], steps[1])[inside], magnitude[inside].square()
    ramp = sum(
        2 * np.pi * offset / n * torch.arange(n, dtype=torch.float32).view(-1, *[1] * (1 - axis))
        for axis, (offset, n) in enumerate(zip(offsets, image.shape))
    )
    phasor = torch.polar(torch.ones_like(magnitude), image.angle() - ramp) * _averaged(inside.to(image.dtype)).real
    power = fft2c(phasor).abs().square()
    peak = np.unravel_index(int(_averaged(power.to(image.dtype), 3).abs().argmax()), power.shape)
    down, right = (torch.arange(n, dtype=torch.float32) - int(p) for n, p in zip(power.shape, peak))
    radius = torch.hypot(down[:, None], right)
    curve = [float(power[radius > r].sum() / power.sum()) for r in CURVE]
    return {"offsets": offsets, "change": _weighted(change, weight, (0.5, 0.9)), "curve": curve}


def _averaged(values: Tensor, window: int = WINDOW) -> Tensor:
    """Average complex values (h, w) over windows."""
    parts = torch.view_as_real(values).permute(2, 0, 1)[None]
    mean = torch.nn.functional.avg_pool2d(parts, window, 1, window // 2)[0]
    return torch.complex(mean[0], mean[1])


def _weighted(values: Tensor, weights: Tensor, quantiles: Sequence[float]) -> list[float]:
    order = values.argsort()
    share = weights[order].cumsum(0) / weights.sum()
    return [float(values[order][min(int((share < q).sum()), len(order) - 1)]) for q in quantiles]


def fit(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Fit the constants of `mrihvae.simulation.phases` for low field."""
    offsets = np.array([row["offsets"] for row in rows])
    change = np.log([row["change"][0] for row in rows])
    return {
        "LOW_FIELD_OFFSET": round(float(np.sqrt((offsets**2).mean())), 3),
        "LOW_FIELD_CHANGE": [round(float(np.exp(np.median(change))), 4), round(float(change.std()), 3)],
    }


def raw_images(path: Path) -> list[Tensor]:
    """Read the images of raw scans, one for each coil of a slice, complex (h, w)."""
    files = sorted(path.glob("*.h5")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: no .h5 file in it; give the data directory that has some there")
    found: list[Tensor] = []
    for file in files:
        kspace = torch.from_numpy(read_scan(file).kspace)
        found += list(ifft2c(kspace).reshape(-1, *kspace.shape[-2:]))
    return found


def simulated(mixture: WeightedDatasets, slices: int, noise: list[float], kind: str | None) -> Iterable[Tensor]:
    """Simulate images with a phase of one kind, or with the smooth one: complex (h, w), of 128 on the longer side."""
    rng = np.random.default_rng(0)
    for array, _ in mixture.draw(slices, rng):
        magnitude = torch.from_numpy(array.astype(np.float32)).clamp_min(0)
        magnitude = magnitude / magnitude.max()
        image = with_phase(magnitude, SimulationSettings(), rng) if kind is None else add_phase(magnitude, rng, kind)
        factor = MATRIX / max(image.shape)
        image = ifft2c(resize_kspace(fft2c(image), [round(factor * size) for size in image.shape]))
        level = float(image_scale(image)) * float(rng.choice(noise))
        yield image + level * white_noise((image.shape[0], image.shape[1]), rng)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Give percentiles 10, 50 and 90 over slices."""

    def percentiles(values: Iterable[float]) -> list[float]:
        return [round(float(one), 4) for one in np.percentile(list(values), (10, 50, 90))]

    return {
        "slices": len(rows),
        "offset": percentiles(abs(offset) for row in rows for offset in row["offsets"]),
        "change_50": percentiles(row["change"][0] for row in rows),
        "change_90": percentiles(row["change"][1] for row in rows),
        "beyond": {str(radius): percentiles(row["curve"][radius] for row in rows) for radius in RADII},
    }


def table(found: dict[str, Any]) -> str:
    """Render the results as Markdown."""
    heads = ["scans", "slices", "offset, samples", "change, median", "change, 90th percentile"]
    heads += [f"beyond {radius} samples, %" for radius in RADII]
    lines = [f"| {' | '.join(heads)} |", "| " + " | ".join("---" for _ in heads) + " |"]
    for name, row in found["sets"].items():
        cells = [name, str(row["slices"]), _cell(row["offset"], 1), _cell(row["change_50"], 3)]
        cells.append(_cell(row["change_90"], 3))
        cells += [_cell([100 * value for value in row["beyond"][str(radius)]], 1) for radius in RADII]
        lines.append(f"| {' | '.join(cells)} |")
    what = "Median over slices, and 10th to 90th percentile. Change is in radians per 1/128 of the field of view."
    return "\n".join([what, "", *lines]) + "\n"


def _cell(values: list[float], digits: int) -> str:
    low, middle, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({low} to {high})"


def plot(curves: dict[str, list[list[float]]], path: Path) -> None:
    """Draw the energy of the phase beyond a radius of k-space: median and 90th percentile over slices."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for axes, share, name in zip(figure.subplots(1, 2, sharey=True), (50, 90), ("median", "90th percentile")):
        for label, rows in curves.items():
            style = "-" if label.startswith("measured") else "--" if label.startswith("simulated") else ":"
            width = 2.5 if label.startswith("measured") else 1.3
            axes.semilogy(CURVE, np.percentile(rows, share, axis=0), style, linewidth=width, label=label)
        axes.set(xlabel="samples from the center of k-space", title=name, ylim=(1e-3, 1))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("energy of exp(i phase) beyond")
    figure.axes[1].legend(fontsize=7)
    figure.savefig(path, format="png", dpi=110)


if __name__ == "__main__":
    sys.exit(main())
