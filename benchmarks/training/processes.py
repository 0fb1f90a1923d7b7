"""Whether training depends on the number of processes: their loss curves, runs that change it, and a killed worker.

    python -m benchmarks.training.processes

trains a small network on images drawn here, on CPUs: 50 steps of 4 micro-batches by 1, 2 and 4 processes; the same by
1, then 2, then 1 process, stopped and resumed; and by 2 processes under torchrun, of which one is killed. All is
in single precision; in other rows convolutions and Muon's matrices are in bfloat16, whose rounding is seen in losses.
results/processes.json and .md have by how much losses and weights differ from those of one process, and what the killed
worker cost. --quick takes 8 steps of 2 micro-batches.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.random import Generator
from safetensors.torch import load_file

from benchmarks import HERE
from mrihvae.model.settings import ModelSettings
from mrihvae.training import loop
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.processes import join, rank
from mrihvae.training.run import Run, TrainSettings, load_checkpoint
from mrihvae.utils.files import atomic_write
from mrihvae.utils.precision import PRECISION_VARIABLE

MODEL = ModelSettings(widths=(16, 16), layers=1, cascades=1, guess_widths=(16, 16), guess_memory=2)
SETTINGS = TrainSettings(
    steps=50, accumulate=4, warmup=5, shapes=((16, 24), (24, 16), (16, 16)), pixels=800, kl_warmup=10, guess_only=4,
    masked_start=12, prior_every=2, second_every=3, bf16=False, learning_rate=1e-3,
)  # fmt: skip
QUICK = dataclasses.replace(SETTINGS, steps=8, accumulate=2, guess_only=1, masked_start=3)
INTERVAL = 1.0  # seconds between checkpoints, where a worker is killed
PATIENCE = 300  # seconds after which nothing more is waited for


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps, without a worker that is killed")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    settings = QUICK if options.quick else SETTINGS
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, Any] = {
            "torch": torch.__version__,
            "settings": {name: getattr(settings, name) for name in ("steps", "accumulate", "seed", "pixels", "shapes")},
            "rows": [],
        }
        for precision, counts in (("float32", (1, 2, 4)), ("bfloat16", (1, 2))):
            os.environ[PRECISION_VARIABLE] = precision
            own = dataclasses.replace(settings, bf16=precision == "bfloat16")
            rows = compare(Path(folder) / precision, own, counts)
            results["rows"] += [{"precision": precision, **row} for row in rows]
        if not options.quick:
            results["killed worker"] = kill_worker(Path(folder) / "killed")
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "processes.json"
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    with atomic_write(path.with_suffix(".md")) as temporary:
        temporary.write_text(markdown(results))
    print(path.with_suffix(".md").read_text())
    return 0


class Blobs:
    """A source of a few smooth images."""

    def __init__(self, count: int = 6) -> None:
        rng = np.random.default_rng(0)
        y, x = np.mgrid[-1:1:30j, -1:1:26j]
        self.images = []
        for _ in range(count):
            centers, sizes = rng.uniform(-0.5, 0.5, (4, 2)), rng.uniform(0.1, 0.6, 4)
            blobs = (np.exp(-((y - a) ** 2 + (x - b) ** 2) / c**2) for (a, b), c in zip(centers, sizes))
            self.images.append(sum(blobs).astype(np.float32))

    def draw(self, count: int, rng: Generator) -> list[tuple[np.ndarray, bool]]:
        """Draw images, (30, 26), with the flag that they are magnitudes."""
        return [(self.images[rng.integers(len(self.images))], False) for _ in range(count)]


def compare(folder: Path, settings: TrainSettings, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Train by these numbers of processes, the first of them 1, and by 1, 2 and 1 in turn; compare each with 1."""
    thirds = [settings.steps // 3, 2 * settings.steps // 3, settings.steps]
    plans = {str(n): [(n, settings.steps)] for n in counts if settings.accumulate % n == 0}
    plans["1, 2, 1"] = list(zip((1, 2, 1), thirds))
    rows = []
    for name, plan in plans.items():
        output, began = folder / name.replace(", ", "-"), time.monotonic()
        for count, until in plan:
            together(count, train_part, output, settings, until)
        rows.append({"processes": name, **differences(output, folder / "1"), "seconds": time.monotonic() - began})
    return rows


def differences(output: Path, reference: Path) -> dict[str, Any]:
    """Compare two runs: the largest difference of losses, over their sizes, and of weights."""
    ours, theirs = (
        [json.loads(line) for line in (run / "losses.jsonl").read_text().splitlines()] for run in (output, reference)
    )
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    apart = [
        abs(a[name] - b[name]) / max(1.0, abs(b[name])) for a, b in zip(ours, theirs) for name in b if name != "step"
    ]
    weights, others = (load_file(run / "checkpoint.safetensors") for run in (output, reference))
    furthest = max(float((weights[name] - others[name]).abs().max()) for name in others if name.startswith("model/"))
    return {"steps": len(ours), "losses": max(apart), "weights": furthest}


def train_part(output: Path, settings: TrainSettings, until: int) -> None:
    """Start a run, or resume it, and train up to a step; the first process keeps the losses of every step."""
    if (output / "checkpoint.safetensors").exists():
        run = load_checkpoint(output, "cpu")
    else:
        run = Run.new(MODEL, settings, SimulationSettings(), "cpu")
    step, lines = loop.train_step, []

    def recorded(run: Run, *batches: Any, **rest: Any) -> Any:
        masked, prior = step(run, *batches, **rest)
        terms = {} if masked is None else {"rollout": float(masked.loss), "error": float(masked.error)}
        if prior is not None:
            terms |= {"elbo": float(prior.elbo), "matching": float(prior.matching.sum())}
        lines.append({"step": run.counters.step, **terms})
        return masked, prior

    loop.train_step = recorded  # of this process alone, which ends with it
    loop.train(run, Blobs(), output, stop=lambda: run.counters.step >= until)
    if rank() == 0:
        with (output / "losses.jsonl").open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


def together(count: int, function: Callable[..., None], *given: Any) -> None:
    """Call a function in processes that train together, as torchrun would.

    Raises
    ------
    RuntimeError
        One that failed, or took too long.
    """
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    workers = [
        multiprocessing.get_context("fork").Process(target=_work, args=(k, count, port, function, given))
        for k in range(count)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
        worker.kill()
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError(f"processes ended with {[worker.exitcode for worker in workers]}")


def _work(place: int, count: int, port: int, function: Callable[..., None], given: Sequence[Any]) -> None:
    """Be one of the processes."""
    torch.set_num_threads(1)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "RANK": str(place)}
    os.environ.update(address)
    join("cpu")
    function(*given)
    if dist.is_initialized():
        dist.destroy_process_group()


def kill_worker(folder: Path, steps: int = 120) -> dict[str, Any]:
    """Train by two processes under torchrun, kill one on the way, and count what is done twice.

    Raises
    ------
    RuntimeError
        A run that did not come so far, or did not end well.
    """
    command = _prepare(folder, steps)
    errors = folder / "errors.txt"
    with errors.open("w") as file:
        agent = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL, stderr=file)
        try:
            log, output = folder / "run" / "log.jsonl", folder / "run"
            _wait(lambda: _count(log) > steps // 3 and (output / "checkpoint.safetensors").exists(), agent, errors)
            workers = find_workers(agent.pid)
            os.kill(workers[1], signal.SIGKILL)
            _wait(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers.values()), agent, errors)
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            kept = load_checkpoint(output, "cpu").counters
            agent.wait(PATIENCE)
        finally:
            agent.terminate()
            agent.wait()
    after = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    if agent.returncode or after != list(range(1, steps + 1)):
        raise RuntimeError(f"torchrun ended with {agent.returncode} after step {after[-1]}: {errors.read_text()}")
    times = [0.0, *(line["seconds"] for line in lines)]
    return {
        "steps": steps,
        "killed after step": lines[-1]["step"],
        "resumed from step": kept.step,
        "seconds lost": lines[-1]["seconds"] - times[kept.step],
        "seconds between checkpoints": INTERVAL,
        "longest step, seconds": max(b - a for a, b in itertools.pairwise(times)),
    }


def _prepare(folder: Path, steps: int) -> list[str]:
    """Write data and settings, and return the command that trains on them."""
    from PIL import Image

    (folder / "data").mkdir(parents=True)
    for k, image in enumerate(Blobs().images):
        Image.fromarray((255 * image / image.max()).astype(np.uint8)).save(folder / "data" / f"{k}.png")
    training = dataclasses.asdict(dataclasses.replace(SETTINGS, steps=steps, accumulate=2))
    settings = {"model": dataclasses.asdict(MODEL), "training": training}
    (folder / "settings.json").write_text(json.dumps(settings))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3"]
    words = ["--output", folder / "run", "--settings", folder / "settings.json", "--checkpoint-seconds", INTERVAL]
    return [*torchrun, "-m", "mrihvae", "train", str(folder / "data"), *map(str, words), "--resume"]


def _environment() -> dict[str, str]:
    paths = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def _count(log: Path) -> int:
    return log.read_text().count("\n") if log.exists() else 0


def _wait(ready: Callable[[], bool], agent: subprocess.Popen[bytes], errors: Path) -> None:
    """Wait until something is so, while torchrun runs."""
    end = time.monotonic() + PATIENCE
    while not ready():
        if agent.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"torchrun ended too early, or came to nothing: {errors.read_text()}")
        time.sleep(0.005)


def find_workers(agent: int) -> dict[int, int]:
    """Find the processes that torchrun started: process ids by rank."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and f"\nPPid:\t{agent}\n" in (folder / "status").read_text():
                variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                found |= {int(one[5:]): int(folder.name) for one in variables if one.startswith("RANK=")}
        except OSError:  # it has ended
            continue
    return found


def markdown(results: dict[str, Any]) -> str:
    """Lay out the rows, and what the killed worker cost."""
    settings = results["settings"]
    lines = [
        f"{settings['steps']} steps of {settings['accumulate']} micro-batches, seed {settings['seed']}, on CPUs, torch "
        f"{results['torch']}; differences from one process, of losses over their sizes (at least 1)",
        "",
        "| precision | processes | losses, largest | weights, largest | seconds |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['precision']} | {row['processes']} | {row['losses']:.1e} | {row['weights']:.1e} "
        f"| {row['seconds']:.1f} |"
        for row in results["rows"]
    ]
    if killed := results.get("killed worker"):
        lines += [
            "",
            f"One of two workers under torchrun was killed after step {killed['killed after step']}. The run went on "
            f"from step {killed['resumed from step']}: {killed['seconds lost']:.2f} s were lost, with "
            f"{killed['seconds between checkpoints']} s between checkpoints and steps of up to "
            f"{killed['longest step, seconds']:.2f} s.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
