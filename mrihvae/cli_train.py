"""`mrihvae train`: from any mixture of raw k-space and magnitude images to weights."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from mrihvae.errors import InputError
from mrihvae.model import ModelSettings
from mrihvae.runs import Run, TrainSettings, load_checkpoint
from mrihvae.settings import from_dict
from mrihvae.simulate import SimulationSettings
from mrihvae.slices import Mixture, load_mixture
from mrihvae.training import Batch, train
from mrihvae.weights import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "data",
        nargs="+",
        metavar="PATH[=WEIGHT]",
        help="fastMRI HDF5, NIfTI, PNG, JPEG, folders of them; for real images CIFAR10's .bin or MNIST-like IDX files",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoint, weights, log and plot")
    parser.add_argument("--resume", action="store_true", help="go on exactly where the run in --output stopped")
    parser.add_argument("--settings", type=Path, help='JSON with any of "model", "training", "simulation"')
    parser.add_argument("--weights", help="start from these: a name of shipped weights, or a .safetensors file")
    parser.add_argument("--steps", type=int, help="steps of the whole run; also when resuming")
    parser.add_argument("--minutes", type=float, help="stop, with a checkpoint, after this long")
    parser.add_argument("--checkpoint-seconds", type=float, default=240.0, help="time between checkpoints")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads per process")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw batches ahead; for a GPU")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; several processes by torchrun")


def run(arguments: argparse.Namespace) -> None:
    """Train; prints progress on standard error."""
    torch.set_num_threads(max(1, arguments.threads))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
    first = not dist.is_initialized() or dist.get_rank() == 0
    job = _job(arguments)
    mixture = load_mixture(arguments.data, lambda files: iter(tqdm(files, "reading", disable=not first)))
    check_fit(mixture, job.model.settings, job.settings)
    stop = _Stop(arguments.minutes)
    train(
        job,
        mixture,
        arguments.output,
        arguments.checkpoint_seconds,
        lambda steps: _progress(steps, job, first),
        stop,
        {"data": _describe(mixture), "torch": str(torch.__version__)},
        max(0, arguments.workers),
    )
    if first:
        from mrihvae.figures import training_figure

        training_figure(arguments.output / "log.jsonl", arguments.output / "training.png")
    if dist.is_initialized():
        dist.destroy_process_group()


def _job(arguments: argparse.Namespace) -> Run:
    """Make a new run, or continue the one in the output folder."""
    try:
        torch.zeros(1, device=arguments.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {arguments.device}: cannot be used ({reason}); try cpu") from error
    changes = {} if arguments.steps is None else {"steps": arguments.steps}
    if arguments.resume:
        if arguments.settings:
            raise InputError("--settings: a resumed run keeps its settings; leave this option out")
        if arguments.weights:
            raise InputError("--weights: a resumed run has weights already; leave this option out")
        return load_checkpoint(arguments.output, arguments.device, **changes)
    if (arguments.output / "checkpoint.safetensors").exists():
        raise InputError(f"{arguments.output}: already holds a run; add --resume, or choose another --output")
    settings = _read_settings(arguments.settings) if arguments.settings else {}
    where = str(arguments.settings) if arguments.settings else "options"
    weights = load_model(arguments.weights, torch.device(arguments.device)) if arguments.weights else None
    model = dataclasses.asdict(weights.settings) if weights else {}
    return Run.new(
        from_dict(ModelSettings, {**model, **settings.get("model", {})}, f"{where}, model"),
        from_dict(TrainSettings, {**settings.get("training", {}), **changes}, f"{where}, training"),
        from_dict(SimulationSettings, settings.get("simulation", {}), f"{where}, simulation"),
        arguments.device,
        weights,
    )


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); check the file") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: holds no dictionary; use sections model, training or simulation")
    for key, values in settings.items():
        if key not in ("model", "training", "simulation"):
            raise InputError(f"{path}: unknown section '{key}'; use model, training or simulation")
        if not isinstance(values, dict):
            raise InputError(f"{path}, {key}: holds no dictionary; write names and values of settings")
    return settings


def check_fit(mixture: Mixture, model: ModelSettings, training: TrainSettings) -> None:
    """Check that slices are what the model is of.

    Raises
    ------
    InputError
        Pictures for a model of scans, scans for one of real images, pictures of other channels or too large, or raw
        k-space for one of degraded images.
    """
    for dataset in mixture.datasets:
        shape = dataset.arrays[0].shape
        if model.degraded and dataset.raw:
            raise InputError(
                f"{dataset.path}: raw k-space has noise of its own; degraded images are made of magnitudes"
            )
        if (len(shape) == 3) != model.real:
            wanted = "collections of pictures (.bin, idx3-ubyte)" if model.real else "scans or magnitude images"
            raise InputError(f"{dataset.path}: does not fit the model, which is of {wanted}; change data or 'real'")
        if model.real and shape[0] != model.channels:
            raise InputError(f"{dataset.path}: pictures of {shape[0]} channels; set the model's 'channels' to it")
        if model.real and any(size < have for one in training.shapes for size, have in zip(one, shape[1:])):
            raise InputError(f"{dataset.path}: pictures of {shape[1]} x {shape[2]} are larger than training 'shapes'")


def _describe(mixture: Mixture) -> list[dict[str, Any]]:
    return [
        {
            "path": "/".join(dataset.path.parts[-2:]),
            "slices": len(dataset.arrays),
            "kind": "raw k-space" if dataset.raw else "pictures" if dataset.arrays[0].ndim == 3 else "magnitude",
            "share": round(float(share), 4),
        }
        for dataset, share in zip(mixture.datasets, mixture.shares)
    ]


class _Stop:
    """True once the time is over or the process was asked to end (SIGINT, SIGTERM), in any of the processes."""

    def __init__(self, minutes: float | None) -> None:
        self.end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True

    def __call__(self) -> bool:
        over = self.asked or time.monotonic() > self.end
        if dist.is_initialized():
            flag = torch.tensor(float(over))
            dist.all_reduce(flag)
            over = bool(flag > 0)
        return over


def _progress(batches: Iterator[Batch], job: Run, show: bool) -> Iterator[Batch]:
    with tqdm(batches, "training", initial=job.counters.step, total=job.settings.steps, disable=not show) as bar:
        for scans in bar:
            yield scans
            skipped = job.counters.skipped_prior + job.counters.skipped_masked
            bar.set_postfix(skipped=skipped, refresh=False)
