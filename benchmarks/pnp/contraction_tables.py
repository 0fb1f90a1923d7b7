"""Tables and figures of how far PnP-HVAE's maps are from contractions, and of runs from three starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps

from benchmarks.common.plots import save, subplots
from benchmarks.pnp.degraded_images import TASKS

STARTS = ("first image", "zero", "noise")
SAME = 1e-3  # relative distance at which two images count as one


def markdown(results: dict[str, Any]) -> str:
    """Lay out ratios and norms over temperatures, then the runs."""
    taus = results["taus"]
    lines = ["| encoder | map | noise | measure | " + " | ".join(f"tau {tau:g}" for tau in taus) + " |"]
    lines.append("|---" * (4 + len(taus)) + "|")
    for encoder, which, noise in _cases(results["ratios"]):
        for name in ("mean", "max"):
            values = [f"{value:.3f}" for value in _over_tau(results["ratios"], (encoder, which, noise), taus, name)]
            lines.append(f"| {encoder} | {which} | {noise:g} | {name} ratio | {' | '.join(values)} |")
    for encoder, which, noise in _cases(results["norms"]):
        values = [f"{value:.3f}" for value in _over_tau(results["norms"], (encoder, which, noise), taus, "bound")]
        lines.append(f"| {encoder} | {which} | {noise:g} | norm, at least | {' | '.join(values)} |")
    lines += ["", "Means over tasks, images and pairs; greatest values over all of them.", ""]
    lines.append(
        "| task | encoder | tau | late ratio | distance of starts | to go | held | J fell throughout | largest rise |"
    )
    lines.append("|---" * 9 + "|")
    for run in results["runs"]:
        held = "yes" if run["contracts"] and run["held"] else "no" if run["contracts"] else "no contraction"
        to_go = "" if run["reach"] is None else f"{run['reach']:.1e}"
        fell = "yes" if run["monotone"] else "no"
        lines.append(
            f"| {run['task']} | {run['encoder']} | {run['tau']:g} | {run['late_ratio']:.3f} | {run['distance']:.1e} | "
            f"{to_go} | {held} | {fell} | {100 * run['rise']:.2f} % |"
        )
    away = sum(any(run["diverged"]) for run in results["runs"])
    return "\n".join([
        *lines,
        "",
        f"At most {results['loop_iterations']} iterations; {away} of {len(results['runs'])} had a start that ran away. "
        f"Held: late steps shrink on average, and starts end within {SAME:g} of each other. To go: how far the last "
        "iterates are from where such steps lead. The largest rise of J in an iteration is over its whole range.",
        "",
    ])  # fmt: skip


def _cases(rows: list[dict[str, Any]]) -> list[tuple[str, str, float]]:
    return list(dict.fromkeys((row["encoder"], row["map"], row["noise"]) for row in rows))


def _over_tau(
    rows: list[dict[str, Any]], case: tuple[str, str, float], taus: Sequence[float], name: str
) -> list[float]:
    """Take the mean of "mean", or the greatest of any other number, over tasks, for each temperature."""
    of_case = [row for row in rows if (row["encoder"], row["map"], row["noise"]) == case]
    take = np.mean if name == "mean" else np.max
    return [float(take([row[name] for row in of_case if row["tau"] == tau])) for tau in taus]


def plot_ratios(results: dict[str, Any], path: Path) -> None:
    """Draw greatest ratios and norms over temperatures, a line per noise, a panel per encoder and map."""
    maps = {"HVAE": r"$x \to$ HVAE$_\tau(x)$", "loop": r"$x \to$ prox(HVAE$_\tau(x)$)"}
    figure, axes = subplots(2, 2, size=(9.5, 7.2), sharex=True)
    colors = dict(zip(results["noises"], colormaps["viridis"](np.linspace(0, 0.85, len(results["noises"])))))
    for column, encoder in enumerate(("complete", "data")):
        for row, which in enumerate(maps):
            axis = axes[row][column]
            for name, style, label in (("ratios", "-", "ratio"), ("norms", "--", "norm")):
                for case in [one for one in _cases(results[name]) if one[:2] == (encoder, which)]:
                    key = "max" if name == "ratios" else "bound"
                    line = _over_tau(results[name], case, results["taus"], key)
                    color = colors.get(case[2], "k")
                    axis.plot(
                        results["taus"], line, style, color=color, marker=".", label=f"{label}, noise {case[2]:g}"
                    )
            axis.axhline(1, color="0.5", linewidth=0.8)
            axis.set_title(f"{maps[which]}, {'q' if encoder == 'complete' else 'r'} (encoder {encoder})", fontsize=10)
            axis.grid(alpha=0.3)
            axis.set_ylim(0, None)
            axis.legend(fontsize=7)
        axes[1][column].set_xlabel(r"temperature $\tau$")
    for axis in axes[:, 0]:
        axis.set_ylabel("greatest ratio, or norm (at least)")
    save(figure, path)


def plot_runs(of_image: list[dict[str, Any]], path: Path) -> None:
    """Draw steps, J over its least value and the distance of starts of one image's runs, a column per task."""
    rows = (("residual", "relative step"), ("objective", "J minus its least value"), ("distance", "distance of starts"))
    figure, axes = subplots(len(rows), len(TASKS), size=(3.6 * len(TASKS), 8.4), sharex=True, squeeze=False)
    taus = sorted({run["tau"] for run in of_image}, reverse=True)
    for column, task in enumerate(TASKS):
        axes[0][column].set_title(task)
        axes[-1][column].set_xlabel("iteration")
        for run in [one for one in of_image if one["task"] == task]:
            style = ("-", ":", "-.")[taus.index(run["tau"]) % 3]
            for row, (name, _) in enumerate(rows):
                axis, values = axes[row][column], np.array(run["curves"][name], dtype=float)
                if name == "objective":  # the last ones are the least themselves
                    values = np.maximum(values - np.nanmin(values), 1e-7 * np.nanmax(np.abs(values)))
                colors = ("tab:blue", "tab:cyan", "tab:purple") if run["encoder"] == "complete" else (
                    "tab:red", "tab:orange", "tab:brown")  # fmt: skip
                lines = values.T if values.ndim == 2 else values[None]
                for start, (color, line) in enumerate(zip(colors, lines)):
                    label = f"{run['encoder']}, tau {run['tau']:g}, {STARTS[start] if len(lines) > 1 else 'distance'}"
                    numbers = 1 + run["every"] * np.arange(len(line))
                    axis.loglog(numbers, line, style, color=color, label=label, linewidth=1.2)
    for row, (_, label) in enumerate(rows):
        axes[row][0].set_ylabel(label)
        for axis in axes[row]:
            axis.grid(alpha=0.3)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8)
    save(figure, path)
