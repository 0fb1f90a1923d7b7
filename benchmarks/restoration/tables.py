"""Tables and figures of the benchmark of image restoration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.common.plots import subplots
from benchmarks.pnp.degraded_images import TASKS, Problem
from benchmarks.restoration.ways import WAYS, psnr

Rows = list[dict[str, Any]]
COLORS = {
    "first": ("0.6", "o"),
    "tv": ("tab:green", "s"),
    "wavelet": ("tab:olive", "v"),
    "denoiser": ("tab:blue", "D"),
    "pnp": ("tab:red", "*"),
    "complete": ("tab:orange", "X"),
    "r": ("tab:pink", "P"),
    "unets": ("tab:purple", "^"),
    "joint": ("tab:brown", "p"),
}


def markdown(results: Mapping[str, Any]) -> str:
    """Lay out PSNR and seconds, SSIM, margins, and the time of joint descent."""
    rows: Rows = results["rows"]
    if not rows:
        return "Nothing was measured.\n"
    ways = [name for name in WAYS if any(row["way"] == name for row in rows)]
    noises = {task: sorted({row["noise"] for row in rows if row["task"] == task}) for task in TASKS}
    noises = {task: found for task, found in noises.items() if found}
    images = {name: len({(row["set"], row["image"]) for row in rows if row["way"] == name}) for name in ways}
    most = max(images.values())
    names = {way: WAYS[way].label + (f" (images: {images[way]})" if images[way] < most else "") for way in ways}
    head = [column for task, found in noises.items() for column in (*(f"{task} {n:g}" for n in found), "mean")]
    lines = [f"| PSNR / dB | {' | '.join(head)} | seconds |", "|---" * (len(head) + 2) + "|"]
    for way in ways:
        cells = []
        for task, found in noises.items():
            levels = [mean(rows, "PSNR", way=way, task=task, noise=noise) for noise in found]
            cells += [*map(number, levels), f"**{number(float(np.mean(levels)))}**"]
        seconds = float(np.median([row["seconds"] for row in rows if row["way"] == way]))
        lines.append(f"| {names[way]} | {' | '.join(cells)} | {seconds:.2f} |")
    lines += ["", f"Means over {most} images; seconds are the median over all. Noise: over the 99th percentile.", ""]
    lines += [f"| SSIM | {' | '.join(noises)} |", "|---" * (len(noises) + 1) + "|"]
    for way in ways:
        cells = [number(mean(rows, "SSIM", way=way, task=task), 4) for task in noises]
        lines.append(f"| {names[way]} | {' | '.join(cells)} |")
    lines += ["", *_margins(rows, list(noises))]
    return "\n".join(lines).rstrip() + "\n"


def overview(results: Mapping[str, Any]) -> str:
    """Lay out PSNR and SSIM of every task for docs/restoration.md: means over images and noises, ways that have all."""
    rows: Rows = results["rows"]
    tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
    count = {way: sum(row["way"] == way for row in rows) for way in WAYS}
    lines = [f"| way | {' | '.join(f'{task}: PSNR, SSIM' for task in tasks)} | s / image |"]
    lines.append("| --- |" + " --- |" * (len(tasks) + 1))
    for way, kind in WAYS.items():
        if count[way] and count[way] == max(count.values()):
            cells = [f"{mean(rows, 'PSNR', way=way, task=task):.2f}, {mean(rows, 'SSIM', way=way, task=task):.3f}"
                     for task in tasks]  # fmt: skip
            seconds = float(np.median([row["seconds"] for row in rows if row["way"] == way]))
            lines.append(f"| {kind.label} | {' | '.join(cells)} | {seconds:.2f} |")
    return "\n".join(lines) + f"\n\nMedian seconds, {results['threads']} CPU threads.\n"


def _margins(rows: Rows, tasks: list[str]) -> list[str]:
    """Lay out, per task, PnP-HVAE over peers, and how much longer joint descent takes."""
    peers = ("tv", "wavelet", "denoiser")
    found = {f"{WAYS[a].label} over {WAYS[b].label}, dB": (a, b) for a in ("pnp", "complete") for b in peers}
    lines = [f"| | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for label, (ours, other) in found.items():
        if any(row["way"] == ours for row in rows) and any(row["way"] == other for row in rows):
            cells = [number(margin(rows, task, ours, other), 2, "+") for task in tasks]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    for ours in ("pnp", "complete", "r"):
        races = {task: race(rows, task, ours) for task in tasks}
        if any(one["problems"] for one in races.values()):
            label = WAYS[ours].label
            for text, key, digits, sign in (
                (f"seconds of joint descent over those of {label} at equal PSNR", "ratio", 1, ""),
                (f"part of the problems where joint descent gets as far as {label}", "reached", 2, ""),
                (f"{label} over the best of joint descent, dB", "margin", 2, "+"),
            ):
                lines.append(f"| {text} | {' | '.join(number(races[task][key], digits, sign) for task in tasks)} |")
    return [*lines, "", "At equal PSNR: the lower one of the two's best, of each problem; the median of the ratios."]


def mean(rows: Rows, key: str, **of: Any) -> float:
    """Average over rows with these values; NaN without any."""
    values = [row[key] for row in rows if all(row[name] == value for name, value in of.items())]
    return float(np.mean(values)) if values else float("nan")


def margin(rows: Rows, task: str, ours: str, other: str) -> float:
    """Compute the mean difference of the PSNR of two ways on the problems that both have."""
    found = [_by_problem(rows, task, way) for way in (ours, other)]
    both = found[0].keys() & found[1].keys()
    return float(np.mean([found[0][key]["PSNR"] - found[1][key]["PSNR"] for key in both])) if both else float("nan")


def race(rows: Rows, task: str, ours: str) -> dict[str, float]:
    """Compare the times of joint descent and of a loop until both have the PSNR that both reach.

    Gives the median of the ratios, the part of the problems where joint descent reaches the loop's best, the loop's
    mean margin in best PSNR, and of how many problems.
    """
    found = [_by_problem(rows, task, way) for way in ("joint", ours)]
    both = sorted(found[0].keys() & found[1].keys())
    ratios, margins = [], []
    for key in both:
        traces = [one[key].get("trace") or [[one[key]["seconds"], one[key]["PSNR"]]] for one in found]
        best = [max(level for _, level in trace) for trace in traces]
        times = [time_to(min(best), trace) for trace in traces]
        ratios.append(times[0] / max(times[1], 1e-9))
        margins.append(best[1] - best[0])
    if not both:
        return {"ratio": float("nan"), "reached": float("nan"), "margin": float("nan"), "problems": 0}
    return {
        "ratio": float(np.median(ratios)),
        "reached": float(np.mean([one <= 0 for one in margins])),
        "margin": float(np.mean(margins)),
        "problems": len(both),
    }


def time_to(level: float, trace: list[list[float]]) -> float:
    """Give the seconds after which a trace of (seconds, PSNR) is first as good."""
    return next(seconds for seconds, found in trace if found >= level - 1e-9)


def _by_problem(rows: Rows, task: str, way: str) -> dict[tuple[str, str, float], dict[str, Any]]:
    return {(r["set"], r["image"], r["noise"]): r for r in rows if r["task"] == task and r["way"] == way}


def number(value: float, digits: int = 2, sign: str = "") -> str:
    """Write a number, or nothing for one that is not there."""
    return "" if np.isnan(value) else f"{value:{sign}.{digits}f}"


def over_noise(rows: Rows) -> Figure:
    """Draw the mean PSNR over noise, a panel per task, a line per way that has all images."""
    tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
    images = {way: len({(r["set"], r["image"]) for r in rows if r["way"] == way}) for way in WAYS}
    figure, axes = subplots(1, len(tasks), size=(3.6 * len(tasks), 4.2), squeeze=False)
    for axis, task in zip(axes[0], tasks):
        noises = sorted({row["noise"] for row in rows if row["task"] == task})
        for way, kind in WAYS.items():
            if images[way] and images[way] == max(images.values()):
                color, marker = COLORS[way]
                levels = [mean(rows, "PSNR", way=way, task=task, noise=noise) for noise in noises]
                axis.plot(noises, levels, color=color, marker=marker, label=kind.label, linewidth=1.2)
        axis.set_title(task)
        axis.set_xticks(noises, [f"{noise:g}" for noise in noises])
        axis.set_xlabel("noise")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("PSNR / dB, mean over images")
    handles = dict(zip(*reversed(axes[0][0].get_legend_handles_labels())))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, fontsize=9)
    return figure


def comparison(shown: list[tuple[Problem, dict[str, Tensor]]]) -> Figure:
    """Draw a problem per pair of rows: what the ways make of it, and the truth; below, their absolute errors."""
    columns = max(len(images) for _, images in shown) + 1
    figure, axes = subplots(2 * len(shown), columns, size=(2.1 * columns, 4.5 * len(shown)), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for row, (problem, images) in enumerate(shown):
        bright = float(problem.truth.max())
        for column, (way, image) in enumerate({**images, "truth": problem.truth}.items()):
            axis = axes[2 * row, column]
            axis.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=0.9 * bright)
            label = "truth" if way == "truth" else WAYS[way].label
            axis.set_title(f"{problem.task}, {problem.noise:g}:\n{label}" if column == 0 else label, fontsize=8)
            if way != "truth":
                below = axes[2 * row + 1, column]
                below.imshow((image - problem.truth)[0].abs().numpy(), cmap="magma", vmin=0, vmax=0.2 * bright)
                below.set_title(f"{psnr(image, problem):.2f} dB", fontsize=8)
    return figure
