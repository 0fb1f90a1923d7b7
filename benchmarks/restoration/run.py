"""Restoration of magnitude images: PnP-HVAE against TV, wavelets, a denoiser in its place and joint gradient descent.

    python -m benchmarks.restoration.run --data DIR --tune
    python -m benchmarks.restoration.run --data DIR

Images are blurred, made coarser, cut into or made noisy; all ways have the same operator, data and noise. The first
call tunes each way for every task and noise on training images, and goes on where it was ended: it keeps what
results/NAME_tuned.json has of the same settings and weights. The second measures PSNR, SSIM and seconds on images of
other people, which --resume goes on with; it writes results/NAME.json, .md, a figure of images (.png) and one of the
PSNR over noise (_psnr.png), NAME being the protocol's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from benchmarks.common.complete_scans import limited, run_command, weights_of
from benchmarks.common.plots import save
from benchmarks.common.protocol import subset
from benchmarks.common.provenance import provenance
from benchmarks.peers.restoration_peers import Candidate, run
from benchmarks.pnp.degraded_images import Picture, Problem, degrade, problems, read_pictures
from benchmarks.restoration.tables import comparison, markdown, over_noise
from benchmarks.restoration.tuning import Fingerprints, chosen, spread, tune_all
from benchmarks.restoration.ways import (
    Protocol,
    Way,
    fingerprints,
    identity,
    layout,
    not_default,
    psnr,
    read_protocol,
    read_rows,
    ssim,
)
from mrihvae.errors import InputError
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import load_model
from mrihvae.utils.files import atomic_write

SHOWN = ("first", "tv", "wavelet", "denoiser", "pnp")
Rows = list[dict[str, Any]]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""

    def further(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--tune", action="store_true", help="tune on training images instead of measuring")
        parser.add_argument("--ways", nargs="+", metavar="WAY", help="some of the protocol's")
        parser.add_argument("--tasks", nargs="+", metavar="TASK", help="some of the protocol's")
        parser.add_argument("--resume", action="store_true", help="keep what an earlier call measured")

    return run_command(measure, __doc__, "restoration.toml", {"checkpoint": "weights"}, arguments, further)


def measure(options: argparse.Namespace) -> None:
    """Tune, or measure; write results and figures."""
    protocol = read_protocol(options.protocol)
    settings, whole = protocol.settings, protocol
    ways = subset(list(protocol.ways), options.ways, "--ways:")
    tasks = subset(list(protocol.tasks), options.tasks, "--tasks:")
    protocol = replace(
        protocol,
        ways={name: protocol.ways[name] for name in ways},
        tasks={name: protocol.tasks[name] for name in tasks},
    )
    limit = limited(settings.images, options.limit)
    file = weights_of(options.checkpoint, settings.weights)
    model = load_model(file)
    weights = fingerprints(model, find_weights(file))
    tuned = options.results / f"{options.protocol.stem}_tuned.json"
    if options.tune:
        if options.limit is not None:
            raise InputError("--limit: is of measuring; set tuned_on in the protocol")
        tune_all(protocol, model, weights, options.data, tuned)
        return
    output = options.results / f"{options.protocol.stem}.json"
    plan = Plan(protocol, weights, tuned)
    rows = [row for row in read_rows(output) if plan.holds(row, whole)] if options.resume else []
    results = {
        **provenance(options.protocol),
        "weights": weights["all"],
        **{key: value for key, value in asdict(settings).items() if key != "weights"},
        "tasks": {name: asdict(one) for name, one in protocol.tasks.items()},
    }
    for problem, missing in tqdm(list(plan.missing(options.data, limit, rows)), "measuring"):
        for way in missing:
            rows = [*rows, measured(way, plan, model, problem)]
            with atomic_write(output) as temporary:
                temporary.write_text(layout({**results, "rows": rows}))
    for path, text in (
        (output, layout({**results, "rows": rows})),
        (output.with_suffix(".md"), markdown({"rows": rows})),
    ):
        with atomic_write(path) as temporary:
            temporary.write_text(text)
    save(over_noise(rows), output.with_name(f"{output.stem}_psnr.png"))
    save(comparison(list(show(plan, model, options.data))), output.with_suffix(".png"))
    print(markdown({"rows": rows}))


class Plan:
    """What is run with which settings.

    Parameters
    ----------
    protocol : what is restored and how
    weights : fingerprints of the network's parts
    tuned : file of tuned settings

    Raises
    ------
    InputError
        Settings were not tuned yet, or for other weights.
    """

    def __init__(self, protocol: Protocol, weights: Fingerprints, tuned: Path) -> None:
        self.protocol, self.weights = protocol, weights
        rows = read_rows(tuned)
        self.settings = {
            (way.name, task, noise): way.settings(task, chosen(protocol, way, task, noise, weights, rows, tuned))
            for way in protocol.ways.values()
            for task, degraded in protocol.tasks.items()
            for noise in degraded.noise
        }

    def of(self, way: Way, problem: Problem) -> Any:
        """Give the settings of a way for a problem."""
        return self.settings[way.name, problem.task, problem.noise]

    def identity(self, way: Way, task: str, noise: float) -> str:
        """Identify what a row depends on."""
        degraded = replace(self.protocol.tasks[task], noise=(noise,))
        weights = self.weights[way.kind.network]
        settings = not_default(self.settings[way.name, task, noise])
        return identity(way.name, task, settings, degraded, self.protocol.settings.matrix, weights)

    def holds(self, row: dict[str, Any], whole: Protocol) -> bool:
        """Tell whether a row is of these settings and weights, or of a way or task of `whole` that is left out now."""
        name, task, noise = row["way"], row["task"], row["noise"]
        if (name, task, noise) in self.settings:
            return bool(row["of"] == self.identity(self.protocol.ways[name], task, noise))
        return name in whole.ways and task in whole.tasks and noise in whole.tasks[task].noise

    def pictures(self, data: Path, limit: int) -> Iterator[tuple[Picture, list[Way]]]:
        """Give images, and the ways that have to do with them."""
        settings = self.protocol.settings
        for one in settings.sets:
            found = spread(read_pictures(data, one, settings.images, settings.matrix), limit)
            few = {name: spread(found, way.images or limit) for name, way in self.protocol.ways.items()}
            for picture in found:
                yield picture, [way for name, way in self.protocol.ways.items() if any(p is picture for p in few[name])]

    def missing(self, data: Path, limit: int, rows: Rows) -> Iterator[tuple[Problem, list[Way]]]:
        """Give problems, and the ways that were not measured on them."""
        done = {(row["set"], row["image"], row["of"]) for row in rows}
        for picture, ways in self.pictures(data, limit):
            for problem in problems([picture], self.protocol.tasks):
                left = [
                    w
                    for w in ways
                    if (picture.set, picture.name, self.identity(w, problem.task, problem.noise)) not in done
                ]
                if left:
                    yield problem, left


def measured(way: Way, plan: Plan, model: HVAE, problem: Problem) -> dict[str, Any]:
    """Run a way on a problem: its scores, seconds, and the PSNR of candidates of the same kind over seconds.

    Joint descent goes on to its last step, so that one sees whether it gets anywhere later.
    """
    settings = plan.of(way, problem)
    most = way.settings(problem.task)
    longest = replace(settings, steps=max(settings.steps, most.steps)) if way.name == "joint" else settings
    trace, last = [], None
    for one in run(way.kind.restore, model, problem, longest):
        if one.settings.get("result", "") == getattr(settings, "result", ""):
            trace.append([round(one.seconds, 3), round(psnr(one.image, problem), 4)])
        if agrees(one, settings):
            last = one
    assert last is not None
    return {
        "set": problem.picture.set,
        "image": problem.picture.name,
        "task": problem.task,
        "noise": problem.noise,
        "way": way.name,
        "PSNR": round(psnr(last.image, problem), 4),
        "SSIM": round(ssim(last.image, problem), 5),
        "seconds": round(last.seconds, 3),
        **({"trace": trace} if len(trace) > 1 or way.name in ("pnp", "complete", "joint") else {}),
        "of": plan.identity(way, problem.task, problem.noise),
    }


def agrees(candidate: Candidate, settings: Any) -> bool:
    """Tell whether a candidate is what settings ask for."""
    return all(getattr(settings, key) == value for key, value in candidate.settings.items())


def show(plan: Plan, model: HVAE, data: Path) -> Iterator[tuple[Problem, dict[str, Tensor]]]:
    """Restore the image that is shown, at the middle noise of every task."""
    settings = plan.protocol.settings
    picture = read_pictures(data, settings.picture or settings.sets[0], settings.images, settings.matrix)[0]
    for task, degraded in plan.protocol.tasks.items():
        problem = degrade(picture, task, degraded.middle, degraded)
        images = {}
        for name in SHOWN:
            if name in plan.protocol.ways:
                way = plan.protocol.ways[name]
                used = plan.of(way, problem)
                images[name] = [c.image for c in run(way.kind.restore, model, problem, used) if agrees(c, used)][-1]
        yield problem, images


if __name__ == "__main__":
    sys.exit(main())
