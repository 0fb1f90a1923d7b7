"""Tuning of the ways to restore images: for every task and noise the settings of the greatest mean PSNR."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.peers.restoration_peers import run
from benchmarks.pnp.degraded_images import Problem, degrade, read_pictures
from benchmarks.restoration.ways import Protocol, Way, identity, layout, not_default, psnr, read_rows
from mrihvae.errors import InputError
from mrihvae.model.hvae import HVAE
from mrihvae.utils.config import with_settings
from mrihvae.utils.files import atomic_write

ROUNDS = 2  # over all settings, one at a time
GROWTH = 6  # values that are added to a grid at most
WORTH = 0.005  # dB that a value at an end must be better by for the grid to go on
CONVERGED = 1000  # iterations
LEFT = 0.02  # dB that these may change
Score = Callable[[dict[str, float]], tuple[float, dict[str, Any]]]
Rows = list[dict[str, Any]]
Fingerprints = Mapping[str, str]  # see `restoration_ways.fingerprints`


def tune_all(protocol: Protocol, model: HVAE, weights: Fingerprints, data: Path, output: Path) -> None:
    """Tune every way that has something to tune; rows that are there already, of the same settings, are kept."""
    settings = protocol.settings
    pictures = {one: read_pictures(data, one, settings.tuned_on, settings.matrix) for one in settings.tuning}
    rows = read_rows(output)
    for way, task, noise in tqdm(list(_cases(protocol)), "tuning"):
        count = way.tuned_on or settings.tuned_on
        of = tuned_identity(protocol, way, task, noise, weights)
        if any(row["of"] == of for row in rows):
            continue
        problems = [
            degrade(picture, task, noise, protocol.tasks[task])
            for found in pictures.values()
            for picture in spread(found, count)
        ]
        row = {"way": way.name, "task": task, "noise": noise, **tune(way, task, model, problems), "of": of}
        if way.name in ("tv", "wavelet") and noise == protocol.tasks[task].middle:
            row["dB_to_go"] = to_go(way, task, model, problems[0], row["settings"])
            if abs(row["dB_to_go"]) > LEFT:
                print(
                    f"{way.name}, {task}: {CONVERGED} iterations change the PSNR by {row['dB_to_go']:+.3f} dB; "
                    "give it more in the protocol",
                    file=sys.stderr,
                )
        same = (row["way"], row["task"], row["noise"])
        rows = [*(one for one in rows if (one["way"], one["task"], one["noise"]) != same), row]
        with atomic_write(output) as temporary:
            temporary.write_text(layout({"rows": rows}))


def _cases(protocol: Protocol) -> Iterator[tuple[Way, str, float]]:
    for way in protocol.ways.values():
        if way.tuned:
            for task, settings in protocol.tasks.items():
                yield from (
                    (way, task, noise) for noise in dict.fromkeys(way.tuned_at(n, settings) for n in settings.noise)
                )


def tuned_identity(protocol: Protocol, way: Way, task: str, noise: float, weights: Fingerprints) -> str:
    """Identify what tuned settings depend on."""
    settings = protocol.settings
    count = way.tuned_on or settings.tuned_on
    degraded = replace(protocol.tasks[task], noise=(noise,))
    fixed = not_default(way.settings(task))
    return identity(
        way.name, task, fixed, way.tuned, degraded, settings.tuning, settings.tuned_on, count, settings.matrix,
        weights[way.kind.network],
    )  # fmt: skip


def chosen(
    protocol: Protocol, way: Way, task: str, noise: float, weights: Fingerprints, rows: Rows, where: Path
) -> dict[str, Any]:
    """Look up tuned settings; none for a way that has nothing to tune.

    Raises
    ------
    InputError
        They are not there, or of other settings or weights.
    """
    if not way.tuned:
        return {}
    of = tuned_identity(protocol, way, task, way.tuned_at(noise, protocol.tasks[task]), weights)
    for row in rows:
        if row["of"] == of:
            return dict(row["settings"])
    raise InputError(f"{where}: has no settings of {way.name} for {task} at {noise:g}, or old ones; run with --tune")


def tune(way: Way, task: str, model: HVAE, problems: Sequence[Problem]) -> dict[str, Any]:
    """Find the best settings of a way on problems of a kind; also gives their PSNR and what was tried."""

    def score(values: dict[str, float]) -> tuple[float, dict[str, Any]]:
        """Run all problems; of the candidates that one run gives, choose the best for all."""
        found: dict[tuple[tuple[str, Any], ...], list[float]] = {}
        for problem in problems:
            for one in run(way.kind.restore, model, problem, way.settings(task, values)):
                found.setdefault(tuple(one.settings.items()), []).append(psnr(one.image, problem))
        means = {key: float(np.mean(values)) for key, values in found.items()}
        best = max(means, key=lambda key: means[key])
        return means[best], dict(best)

    best, tried = search(way.tuned, score, way.kind.grows)
    level, further = score_of(tried, best)
    return {
        "settings": {**best, **further},
        "PSNR": round(level, 4),
        "tried": [[dict(key), round(found[0], 3)] for key, found in tried.items()],
    }


def search(
    grid: Mapping[str, Sequence[float]], score: Score, grows: bool
) -> tuple[dict[str, float], dict[tuple[tuple[str, float], ...], tuple[float, dict[str, Any]]]]:
    """Search a grid, one setting after the other, from the middle; also gives what was tried, and how it went.

    Where grids grow, one whose best value is at an end goes on there by the same factor.
    """
    best = {name: values[len(values) // 2] for name, values in grid.items()}
    tried: dict[tuple[tuple[str, float], ...], tuple[float, dict[str, Any]]] = {}

    def level(name: str, value: float) -> float:
        key = tuple({**best, name: value}.items())
        if key not in tried:
            tried[key] = score(dict(key))
        return tried[key][0]

    for _ in range(ROUNDS if len(grid) > 1 else 1):
        before = dict(best)
        for name in grid:
            values = sorted(grid[name])
            for _ in range(GROWTH + 1):
                levels = [level(name, value) for value in values]
                top = int(np.argmax(levels))
                if not grows or 0 < top < len(values) - 1 or levels[top] - levels[1 if top == 0 else -2] < WORTH:
                    break
                factor = values[1] / values[0] if top == 0 else values[-1] / values[-2]
                more = float(f"{values[top] * (1 / factor if top == 0 else factor):.3g}")
                values = [more, *values] if top == 0 else [*values, more]
            best[name] = values[top]
        if best == before:
            break
    return best, tried


def score_of(
    tried: Mapping[tuple[tuple[str, float], ...], tuple[float, dict[str, Any]]], values: Mapping[str, float]
) -> tuple[float, dict[str, Any]]:
    """Look up how some values went."""
    return tried[tuple(values.items())]


def to_go(way: Way, task: str, model: HVAE, problem: Problem, values: Mapping[str, Any]) -> float:
    """Compute what very many iterations add to the PSNR of an image, in dB."""
    settings = way.settings(task, values)
    first, second = (
        [psnr(one.image, problem) for one in run(way.kind.restore, model, problem, used)][-1]
        for used in (settings, with_settings(settings, iterations=CONVERGED))
    )
    return round(second - first, 4)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Take so many, evenly."""
    kept = min(len(items), count)
    return [items[k * len(items) // kept] for k in range(kept)]
