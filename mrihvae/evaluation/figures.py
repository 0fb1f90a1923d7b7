"""Pictures of results: a panel per volume, and the curves of a training run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mrihvae.errors import InputError
from mrihvae.utils.files import atomic_write
from mrihvae.utils.text import printable

ERROR_GAIN = 4  # errors are shown this much brighter, on the images' own gray scale


def volume_panel(
    path: Path | str,
    title: str,
    images: Mapping[str, np.ndarray],
    target: np.ndarray | None,
    index: int | None = None,
    uncertainty: np.ndarray | None = None,
) -> None:
    """Write a picture of one slice of a volume: named images, target and the errors below, all on one gray scale.

    An uncertainty map is shown last, as bright as the errors; without a target it has a column of its own, too.

    Parameters
    ----------
    path : PNG to write
    title : line above the panel
    images : names and magnitudes (slice, h, w)
    target : reference (slice, h, w) or None
    index : the slice to show; None for the middle one
    uncertainty : standard deviation (slice, h, w) of the last image, or None
    """
    first = next(iter(images.values()))
    index = len(first) // 2 if index is None else index
    shown = {name: volume[index] for name, volume in images.items()}
    columns = {**shown, **({"target": target[index]} if target is not None else {})}
    if uncertainty is not None and target is None:
        columns[f"uncertainty (SD) x {ERROR_GAIN}"] = ERROR_GAIN * uncertainty[index]
    bright = float(np.max(target[index] if target is not None else first[index])) or 1.0
    rows = 1 if target is None else 2
    height, width = first.shape[-2:]
    size = (2.6 * len(columns) + 0.9, rows * 2.6 * height / width + 0.7)
    figure, axes = subplots(rows, len(columns), size=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, image) in zip(axes[0], columns.items()):
        artist = axis.imshow(image, cmap="gray", vmin=0, vmax=bright)
        axis.set_title(plain_text(name), fontsize=10)
    if target is not None:
        peak = float(target.max()) or 1.0
        for axis, image in zip(axes[1], shown.values()):
            error = np.abs(image - target[index])
            axis.imshow(ERROR_GAIN * error, cmap="gray", vmin=0, vmax=bright)
            psnr = 20 * np.log10(peak / max(float(np.sqrt(np.mean(error**2))), 1e-12 * peak))
            axis.set_title(f"error x {ERROR_GAIN}, {psnr:.2f} dB", fontsize=9)
        if uncertainty is not None:
            axes[1][-1].imshow(ERROR_GAIN * uncertainty[index], cmap="gray", vmin=0, vmax=bright)
            axes[1][-1].set_title(f"uncertainty (SD) x {ERROR_GAIN}", fontsize=9)
    figure.colorbar(artist, ax=axes, shrink=0.7, pad=0.01)
    figure.suptitle(plain_text(title), fontsize=10)
    save_figure(figure, path)


def image_grid(path: Path | str, title: str, rows: list[list[np.ndarray]], names: list[str] | None = None) -> None:
    """Write a picture of rows of images (h, w), or (h, w, 3) in color, gray from 0 to the 99.5th percentile of all.

    Parameters
    ----------
    path : PNG to write
    title : line above
    rows : images; rows may differ in length
    names : of the columns, or None
    """
    columns = max(len(row) for row in rows)
    height, width = rows[0][0].shape[:2]
    size = (1.7 * columns + 0.2, 1.7 * len(rows) * height / width + 0.6)
    figure, axes = subplots(len(rows), columns, size=size, squeeze=False)
    bright = float(np.percentile(np.concatenate([image.ravel() for row in rows for image in row]), 99.5)) or 1.0
    for axis in axes.flat:
        axis.axis("off")
    for row, images in zip(axes, rows):
        for axis, image in zip(row, images):
            axis.imshow(image, cmap="gray", vmin=0, vmax=bright)
    for axis, name in zip(axes[0], names or []):
        axis.set_title("\n".join(map(plain_text, name.split("\n"))), fontsize=9)
    figure.suptitle(plain_text(title), fontsize=10)
    save_figure(figure, path)


def training_figure(log: Path | str, path: Path | str) -> None:
    """Write a picture of the curves of log.jsonl: objective, KL and matching per level, gain over zero-filling."""
    try:
        lines = [json.loads(line) for line in Path(log).read_text().splitlines()]
        prior = [line for line in lines if "elbo" in line]  # not every step, nor every run, trains the prior
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{log}: is not a complete log of a run ({error}); resume the run to repair it") from error
    if not any(isinstance(line, dict) and {"elbo", "rollout"} & set(line) for line in lines):
        raise InputError(f"{log}: holds no step yet; train first")
    masked = [line for line in lines if "rollout" in line]
    panels = 4 if masked else 2  # without r, or before it trains, there is nothing of it to show
    figure, axes = subplots(1, panels, size=(4.25 * panels, 4))
    axes[0].set_ylabel("nats per real dimension")
    for axis, label in zip(axes[1:3], ("KL(q || p), nats per real dimension", "KL(q || r)")):
        axis.set_ylabel(label)
    if prior:
        _plot_prior(axes, prior)
    if masked:
        ratio = _smooth([line["zero_filled"] for line in masked]) / _smooth([line["rollout"] for line in masked])
        axes[3].plot([line["step"] for line in masked], 10 * np.log10(ratio), label="means of r, or first guess")
        axes[3].axhline(0, color="gray", linewidth=0.8)
        axes[3].set_ylim(-3, None)
        axes[3].set_ylabel("k-space error below zero-filling, dB")
    for axis in axes:
        axis.set_xlabel("step")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    save_figure(figure, path)


def _plot_prior(axes: np.ndarray, prior: list[dict[str, Any]]) -> None:
    """Plot objective, KL and matching of the steps that trained the prior."""
    step = np.array([line["step"] for line in prior])
    for key in ("elbo", "distortion"):
        axes[0].plot(step, _smooth([line[key] for line in prior]), label=f"negative {key}" if key == "elbo" else key)
    low, high = np.percentile([line["distortion"] for line in prior], [0.5, 75])
    axes[0].set_ylim(low - 0.05, max(high, low + 0.01) + 1)
    for axis, key in zip(axes[1:3], ("kl", "matching")):
        for j, level in enumerate(np.array([line[key] for line in prior]).T):
            axis.semilogy(step, np.maximum(_smooth(level), 1e-6), label=f"level {j}")


def _smooth(values: list[float] | np.ndarray) -> np.ndarray:
    """Average over a window of a fiftieth of the run."""
    window = max(1, len(values) // 50)
    padded = np.pad(np.asarray(values, dtype=float), (window // 2, window - 1 - window // 2), mode="edge")
    return np.convolve(padded, np.ones(window) / window, mode="valid")


def subplots(rows: int = 1, columns: int = 1, size: tuple[float, float] | None = None, **more: Any) -> Any:
    """Return a figure that is drawn into memory, whatever backend pyplot has, and its axes as `Figure.subplots` does.

    Parameters
    ----------
    rows, columns : of axes
    size : in inches
    more : arguments of `matplotlib.figure.Figure.subplots`

    Returns
    -------
    the figure, and an axis or an array of them
    """
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **more)


def plain_text(text: str) -> str:
    """Return a text with names of files in it that matplotlib shows as it is: no mathematics, no control characters."""
    return printable(text).replace("$", r"\$")


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write a figure as PNG."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
