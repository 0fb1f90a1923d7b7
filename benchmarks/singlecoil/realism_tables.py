"""Tables of benchmarks/singlecoil/realism.py and prior_draws.py, and the figure of the first."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mrihvae.evaluation.figures import subplots

Pictures = list[tuple[str, np.ndarray]]
NAMES = {"sample": "a sample", "mean": "mean of samples", "hybrid": "mrihvae (hybrid)", "tv": "TV (sigpy)"}
SHOWN_BANDS = (0.1, 0.3, 0.46)  # cycles a pixel of the table's columns
COLUMNS = 10  # of pictures in a row


def name_of(images: str) -> str:
    """Say what images are: "sample, 0.5" becomes "a sample, temperature 0.5"."""
    kind, _, rest = images.partition(", ")
    return NAMES.get(kind, kind) + (f", temperature {rest}" if rest else "")


def markdown(results: dict[str, Any]) -> str:
    """Lay out a table a pattern, and one of draws of the prior."""
    chosen = [int(np.argmin(np.abs(np.array(results["frequencies"]) - band))) for band in SHOWN_BANDS]
    at = ", ".join(f"{results['frequencies'][k]:.2f}" for k in chosen)
    parts = []
    for pattern in dict.fromkeys(row["pattern"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["pattern"] == pattern]
        lines = [f"| {pattern} | PSNR / dB | Fréchet distance | power / dB at {at} |", "| --- | --- | --- | --- |"]
        for row in rows:
            if row["images"].startswith("mean, ") and row["images"] != "mean, 1":
                continue
            if "PSNR" in row:
                power = ", ".join(f"{_mean_power(row)[k]:+.1f}" for k in chosen)
                lines.append(f"| {name_of(row['images'])} | {row['PSNR']:.2f} | {row['frechet']:.3f} | {power} |")
            elif row["frechet"] is not None:
                lines.append(f"| one half of the true slices against the other | | {row['frechet']:.3f} | |")
        parts.append("\n".join(lines))
    lines = [f"| draws of the prior | Fréchet distance | power / dB at {at} |", "| --- | --- | --- |"]
    for row in results["prior"]:
        if row["temperature"] is None:
            lines.append(f"| one half of real slices against the other | {row['frechet']:.3f} | |")
        else:
            power = ", ".join(f"{row['power_dB'][k]:+.1f}" for k in chosen)
            lines.append(f"| temperature {row['temperature']:g} | {row['frechet']:.3f} | {power} |")
    slices = results["rows"][0]["slices"]
    foot = f"{slices} slices a mask, {results['samples']} samples of each, {results['draws']} draws; power of images "
    foot += f"over that of the truth, by cycles a pixel, mean over the sets; weights {results['checkpoint']}, SHA-256 "
    return "\n\n".join([*parts, "\n".join(lines), f"{foot}{results['weights']}."]) + "\n"


def prior_draws_table(results: dict[str, Any]) -> str:
    """Lay out the results of benchmarks/singlecoil/prior_draws.py, a row a way of drawing."""
    lines = ["| draws | Fréchet distance |", "| --- | --- |"]
    lines += [f"| {row['way']} | {row['frechet']:.2f} |" for row in results["rows"]]
    lines.append(f"| one half of the real slices against the other | {results['frechet_of_halves']:.2f} |")
    height, width = results["shape"]
    foot = f"{results['draws']} draws, and as many training slices, of {height} x {width}; weights "
    return "\n".join(lines) + f"\n\n{foot}{results['checkpoint']}, SHA-256 {results['weights']}.\n"


def _mean_power(row: dict[str, Any]) -> np.ndarray:
    power: np.ndarray = np.mean(list(row["power_dB"].values()), axis=0)
    return power


def draw_figure(results: dict[str, Any], images: Pictures, drawn: Pictures) -> Figure:
    """Draw curves of power, a panel a pattern and one of the prior, and rows of images."""
    patterns = list(dict.fromkeys(row["pattern"] for row in results["rows"]))
    figure, grid = subplots(3, 1, size=(14, 8.4), height_ratios=(2.6, 1, 1))
    subplot = grid[0].get_subplotspec()
    for axis in grid:
        axis.remove()
    columns = len(patterns) + 2
    inner = subplot.subgridspec(1, columns)
    axes = [figure.add_subplot(inner[k]) for k in range(columns)]
    for axis, pattern in zip(axes, patterns):
        _power_curves(axis, results, pattern)
    for row in results["prior"]:
        if row["temperature"] is not None:
            axes[-2].plot(results["frequencies"], row["power_dB"], color=_color(row["temperature"]),
                          label=f"{row['temperature']:g}")  # fmt: skip
    _finish(axes[-2], "draws of the prior by temperature")
    _trade(axes[-1], results)
    for row, shown in ((1, images), (2, drawn)):
        inner = grid[row].get_subplotspec().subgridspec(1, COLUMNS)
        bright = float(np.percentile(shown[0][1], 99.5))
        for k, (name, image) in enumerate(shown[:COLUMNS]):
            axis = figure.add_subplot(inner[k])
            axis.imshow(image, cmap="gray", vmin=0, vmax=bright)
            axis.set_title(name, fontsize=8)
            axis.axis("off")
    return figure


def _power_curves(axis: Axes, results: dict[str, Any], pattern: str) -> None:
    for row in results["rows"]:
        kind, _, rest = row["images"].partition(", ")
        if row["pattern"] != pattern or "power_dB" not in row:
            continue
        level = _mean_power(row)
        if kind == "sample":
            noisy = "noise" in rest
            style: dict[str, Any] = {"color": "k", "linestyle": ":"} if noisy else {"color": _color(float(rest))}
            axis.plot(results["frequencies"], level, label=f"sample, {rest}", **style)
        elif kind == "mean" and rest == "1":
            axis.plot(results["frequencies"], level, color=_color(1), linestyle="-.", label="mean of samples, 1")
        elif kind in ("hybrid", "tv"):
            color = "k" if kind == "hybrid" else "0.6"
            axis.plot(results["frequencies"], level, color=color, linestyle="--", linewidth=2, label=NAMES[kind])
    _finish(axis, pattern, -10)


def _trade(axis: Axes, results: dict[str, Any]) -> None:
    """Draw PSNR over the Frechet distance, a line a pattern over temperatures."""
    for pattern, marker in zip(dict.fromkeys(row["pattern"] for row in results["rows"]), "osv"):
        rows = [row for row in results["rows"] if row["pattern"] == pattern and "PSNR" in row]
        points = [row for row in rows if row["images"].startswith("sample, ") and "noise" not in row["images"]]
        axis.plot([row["frechet"] for row in points], [row["PSNR"] for row in points], f"{marker}-", label=pattern)
        for row in rows:
            if row in points:
                axis.annotate(row["images"].partition(", ")[2], (row["frechet"], row["PSNR"]), fontsize=7)
            elif not row["images"].startswith("mean"):
                name = "with noise" if "noise" in row["images"] else row["images"]
                axis.plot(row["frechet"], row["PSNR"], "k" + marker, markersize=4)
                axis.annotate(name, (row["frechet"], row["PSNR"]), fontsize=7)
    axis.set_xlabel("Fréchet distance to true slices")
    axis.set_ylabel("PSNR of an image / dB")
    axis.set_title("least error or realism, by temperature", fontsize=10)
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)


def _finish(axis: Axes, title: str, lowest: float = -32) -> None:
    axis.axhline(0, color="k", linewidth=0.8)
    axis.set_xlabel("spatial frequency / cycles a pixel")
    axis.set_ylabel("power over the truth's / dB")
    axis.set_ylim(lowest, 7)
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)


def _color(temperature: float) -> tuple[float, float, float]:
    """Give colors from light to dark blue."""
    return 0.75 * (1 - temperature), 0.85 - 0.55 * temperature, 0.95 - 0.2 * temperature
