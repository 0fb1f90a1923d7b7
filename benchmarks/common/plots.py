"""Plots of the benchmark: quality over acceleration, and quality over seconds, a panel per set of scans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from benchmarks.common.protocol import LABELS
from mrihvae.errors import InputError
from mrihvae.evaluation.figures import save_figure
from mrihvae.evaluation.figures import subplots as subplots
from mrihvae.utils.files import atomic_write

LARGEST = 300_000  # bytes of a picture of results
COLORS, GRAY_BITS = 128, 6
ACCELERATIONS = "singlecoil_accelerations"
MAIN = "singlecoil_random_4x"
TIMED = "256x256"  # the size of the simulated scans
STYLES = {
    "zero-filled": ("0.6", "o"),
    "pocs": ("0.3", "h"),
    "wavelet": ("tab:olive", "v"),
    "tv": ("tab:green", "s"),
    "bart-wavelet": ("tab:cyan", "^"),
    "bart-tv": ("tab:blue", "D"),
    "unet": ("tab:purple", "P"),
    "amortized": ("tab:orange", "X"),
    "hybrid": ("tab:red", "*"),
    "samples": ("tab:brown", "p"),
}
Rows = list[dict[str, Any]]


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG of at most `LARGEST` bytes: with fewer colors, and smaller where that is not enough."""
    save_figure(figure, path)
    shrink(path)


def shrink(path: Path) -> None:
    """Make a PNG smaller until it has at most `LARGEST` bytes."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    red, green, blue = picture.split()
    gray = red.tobytes() == green.tobytes() == blue.tobytes()
    width, height = picture.size
    while path.stat().st_size > LARGEST:
        smaller = picture.resize((width, height), Image.Resampling.LANCZOS)
        fewer = ImageOps.posterize(smaller.convert("L"), GRAY_BITS) if gray else smaller.quantize(COLORS)
        with atomic_write(path) as temporary:
            fewer.save(temporary, format="PNG", optimize=True)
        width, height = round(0.9 * width), round(0.9 * height)


def write_plots(results: Path) -> list[Path]:
    """Draw what there are results for; gives the files written."""
    written = []
    for name, source, draw in (
        ("quality_over_acceleration", ACCELERATIONS, over_acceleration),
        ("quality_over_seconds", MAIN, over_seconds),
    ):
        rows = _read(results / f"{source}.json", "volumes")
        if rows:
            path = results / f"{name}.png"
            save(draw(rows, seconds_of(results)), path)
            written.append(path)
    return written


def seconds_of(results: Path, size: str = TIMED) -> dict[str, float] | None:
    """Read the median seconds per method that `quality.py --time` measured, or None if it was not run."""
    found = _read(results / "seconds.json", "seconds")
    return {name: float(times["median"]) for name, times in found[size].items()} if found else None


def over_acceleration(rows: Rows, seconds: dict[str, float] | None = None) -> Figure:
    """Draw mean PSNR over mean effective acceleration, a line per method, with the noise-limited ceiling."""
    figure, axes = _panels(rows)
    for axis, group in axes:
        for method in dict.fromkeys(row["method"] for row in group):
            points = _by_pattern([row for row in group if row["method"] == method], "PSNR")
            color, marker = STYLES.get(method, ("k", "."))
            axis.plot(*points, color=color, marker=marker, label=LABELS.get(method, method), linewidth=1.2)
        limits = _by_pattern([row for row in group if row.get("ceiling") is not None], "ceiling")
        axis.plot(*limits, color="k", linestyle="--", linewidth=1, label="noise-limited ceiling")
        axis.set_xscale("log")
        ticks = np.unique(np.round(limits[0] if len(limits[0]) else points[0], 1))
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel("effective acceleration")
    return _finish(figure, axes)


def over_seconds(rows: Rows, seconds: dict[str, float] | None = None) -> Figure:
    """Draw mean PSNR over seconds per slice, a point per method; seconds measured alone where there are any."""
    figure, axes = _panels(rows)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    alone = seconds is not None and all(method in seconds for method in methods)
    for axis, group in axes:
        for method in methods:
            of_method = [row for row in group if row["method"] == method]
            if not of_method:
                continue
            time = seconds[method] if alone and seconds else np.median([row["seconds"] for row in of_method])
            color, marker = STYLES.get(method, ("k", "."))
            level = float(np.mean([row["PSNR"] for row in of_method]))
            axis.plot(
                time, level, color=color, marker=marker, linestyle="", markersize=9, label=LABELS.get(method, method)
            )
        limits = [row["ceiling"] for row in group if row.get("ceiling") is not None]
        if limits:
            axis.axhline(float(np.mean(limits)), color="k", linestyle="--", linewidth=1, label="noise-limited ceiling")
        axis.set_xscale("log")
        size = TIMED.replace("x", " x ")
        axis.set_xlabel(f"seconds per slice of {size}" if alone else "seconds per slice, not alone on the machine")
    figure.suptitle(", ".join(dict.fromkeys(row["pattern"] for row in rows)))
    return _finish(figure, axes)


def _panels(rows: Rows) -> tuple[Figure, list[tuple[Axes, Rows]]]:
    """Make a panel per set of scans, with its rows."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    figure, axes = subplots(1, len(sets), size=(4.2 * len(sets), 4.6), squeeze=False)
    for axis, name in zip(axes[0], sets):
        axis.set_title(name)
        axis.grid(alpha=0.3)
    return figure, [(axis, [row for row in rows if row["set"] == name]) for axis, name in zip(axes[0], sets)]


def _finish(figure: Figure, axes: list[tuple[Axes, Rows]]) -> Figure:
    axes[0][0].set_ylabel("PSNR / dB, mean over volumes")
    handles: dict[str, Any] = {}
    for axis, _ in axes:
        for handle, name in zip(*axis.get_legend_handles_labels()):
            handles.setdefault(name, handle)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=5, fontsize=9)
    return figure


def _by_pattern(rows: Rows, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Average effective acceleration and `key` over volumes for each pattern, in the order of acceleration."""
    groups = [[row for row in rows if row["pattern"] == name] for name in dict.fromkeys(row["pattern"] for row in rows)]
    points = sorted((np.mean([row["R"] for row in group]), np.mean([row[key] for row in group])) for group in groups)
    return np.array([x for x, _ in points]), np.array([y for _, y in points])


def _read(path: Path, key: str) -> Any:
    """Read one entry of results; None if the file is not there."""
    try:
        return json.loads(path.read_text())[key]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable as results ({type(error).__name__}: {error}); run it again") from error


def reliability(results: dict[str, Any]) -> Figure:
    """Draw observed over nominal coverage, a line per set of scans, a panel per pattern."""
    patterns = list(dict.fromkeys(row["pattern"] for row in results["calibration"]))
    figure, axes = subplots(1, len(patterns), size=(4.6 * len(patterns), 4.8), squeeze=False)
    nominal = [100 * level for level in results["levels"]]
    for axis, pattern in zip(axes[0], patterns):
        axis.plot([0, 100], [0, 100], color="k", linestyle="--", linewidth=1, label="calibrated")
        for row in (row for row in results["calibration"] if row["pattern"] == pattern):
            axis.plot(nominal, [100 * value for value in row["coverage"].values()], marker="o", label=row["set"])
        axis.set_title(f"{pattern}, {results['samples']} samples, spread {results['spread']:g}", fontsize=10)
        axis.set_xlabel("level of the interval / %")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("pixels of the head inside the interval / %")
    axes[0][0].legend(fontsize=9)
    return figure
