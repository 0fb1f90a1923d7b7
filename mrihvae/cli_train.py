"""`mrihvae train`: from any mixture of raw k-space and magnitude images to weights."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from mrihvae.errors import InputError
from mrihvae.model import HVAE, ModelSettings
from mrihvae.runs import Run, TrainSettings, load_checkpoint
from mrihvae.settings import from_dict
from mrihvae.simulate import SimulationSettings
from mrihvae.slices import Mixture, Reading, load_mixture
from mrihvae.streams import Stream
from mrihvae.training import Batch, train
from mrihvae.training_protocols import (
    SECTIONS,
    TrainingProtocol,
    data_paths,
    find_training_protocol,
    read_training_protocol,
)
from mrihvae.validation import ValidationCase, ValidationSettings, draw_cases, validate
from mrihvae.weights import find_weights, fingerprint, load_card, load_model

VALIDATE_EVERY = 500  # steps
STREAMED = 10**9  # bytes of HDF5 below a path, beyond which slices are read when they are drawn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    paths = parser.add_argument(
        "data",
        nargs="+",
        metavar="PATH[=WEIGHT]",
        help="fastMRI HDF5, NIfTI, PNG, JPEG, folders of them; for real images CIFAR10's .bin or MNIST-like IDX files; "
        "left out, the folders of --protocol",
    )
    paths.required = False  # unlike nargs "*", which is done with before options that come first
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        help="data, settings and weights to start from: a training protocol, as 'mrihvae protocols' lists them, with "
        "'train_' in front or without, or a TOML file; a run that is resumed keeps its settings",
    )
    parser.add_argument("--data", dest="root", type=Path, metavar="DIR", help="data directory of --protocol")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoint, weights, log and plot")
    parser.add_argument("--resume", action="store_true", help="go on exactly where the run in --output stopped")
    parser.add_argument("--settings", type=Path, help='JSON with any of "model", "training", "simulation"')
    parser.add_argument("--weights", help="start from these: a name of shipped weights, or a .safetensors file")
    parser.add_argument(
        "--guess-weights", metavar="WEIGHTS", help="start the U-Nets of the first guess from these, of any model"
    )
    parser.add_argument("--steps", type=int, help="steps of the whole run; also when resuming")
    parser.add_argument("--minutes", type=float, help="stop, with a checkpoint, after this long")
    parser.add_argument("--checkpoint-seconds", type=float, default=240.0, help="time between checkpoints")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads per process")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw batches ahead; for a GPU")
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        help="read slices when they are drawn, so that memory does not grow with the data; left out, where they would "
        "take more than 1 GB of it",
    )
    parser.add_argument(
        "--cache-megabytes", type=float, default=512.0, help="of slices so read that are kept, in each process"
    )
    parser.add_argument(
        "--validation",
        nargs="+",
        metavar="PATH",
        help="score the weights on scans made from these, one set each, every 'validate_every' steps (500 if the "
        "settings say none), into validation.jsonl",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda; several processes by torchrun")


def run(arguments: argparse.Namespace) -> None:
    """Train; prints progress on standard error."""
    torch.set_num_threads(max(1, arguments.threads))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
    first = not dist.is_initialized() or dist.get_rank() == 0
    path = find_training_protocol(arguments.protocol) if arguments.protocol else None
    protocol = read_training_protocol(path) if path else None
    paths = _paths(arguments, protocol)
    job = _job(arguments, path, protocol)
    mixture = load_mixture(
        paths,
        lambda files: iter(tqdm(files, "reading", disable=not first)),
        reading_of(arguments, job.simulation.several),
    )
    check_fit(mixture, job.model.settings, job.settings)
    validate = _validation(arguments, job) if arguments.validation and first else None
    stop = _Stop(arguments.minutes)
    provenance: dict[str, Any] = {"data": _describe(mixture), "torch": str(torch.__version__)}
    if path is not None:
        provenance["protocol"] = {"name": path.stem, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if begun := _begun(arguments, protocol):
        provenance["begun"] = begun
    try:
        train(
            job,
            mixture,
            arguments.output,
            arguments.checkpoint_seconds,
            lambda steps: _progress(steps, job, first),
            stop,
            provenance,
            max(0, arguments.workers),
            validate,
        )
    except InputError as error:  # of a worker it comes with that one's traceback
        raise InputError(str(error).splitlines()[-1].removeprefix(f"{InputError.__module__}.InputError: ")) from error
    if first:
        from mrihvae.figures import training_figure

        training_figure(arguments.output / "log.jsonl", arguments.output / "training.png")
    if dist.is_initialized():
        dist.destroy_process_group()


def _begun(arguments: argparse.Namespace, protocol: TrainingProtocol | None) -> dict[str, str]:
    """Name the weights that a run began with, and their checksums; of a resumed one as its card says."""
    if arguments.resume:
        weights = arguments.output / "weights.safetensors"
        return dict(load_card(weights).get("begun", {})) if weights.is_file() else {}
    start = arguments.weights or (protocol.weights if protocol else None)
    begun = {}
    for part, name in (("all", start), ("first guess", arguments.guess_weights)):
        if name:
            path = find_weights(name)
            begun[part] = f"{path.stem}, SHA-256 {fingerprint(path)}"
    return begun


def _validation(arguments: argparse.Namespace, job: Run) -> Callable[[HVAE], Mapping[str, Any]]:
    """Draw the scans to score weights on, and give what scores them."""
    if not job.settings.validate_every:
        job.settings = dataclasses.replace(job.settings, validate_every=VALIDATE_EVERY)
    cases = validation_cases(arguments.validation, job, reading_of(arguments, job.simulation.several))
    return lambda weights: validate(weights, cases)


def validation_cases(paths: Sequence[str], job: Run, reading: Reading | None = None) -> list[ValidationCase]:
    """Draw the scans that a run is scored on, one set a path.

    Raises
    ------
    InputError
        Paths without anything usable, or a model that is not for undersampled scans.
    """
    model = job.model.settings
    if not model.masked or model.degraded:
        raise InputError("--validation: scores undersampled scans; leave it out for models of other images")
    sources = {_name(path): load_mixture([path], iter, reading) for path in paths}
    multiple = math.lcm(model.multiple, 2)
    height, width = (multiple * max(1, round(size / multiple)) for size in ValidationSettings().shape)
    settings = ValidationSettings(shape=(height, width), coils=(1, 8) if job.simulation.several else (1,))
    return draw_cases(sources, settings, job.simulation, model.start_share)


def _name(path: str) -> str:
    """Name a set of scans by its folder: that above, where the folder is called by its split."""
    parts = [part for part in Path(path).parts if part not in ("val", "validation", "test")]
    return parts[-1] if parts else path


def _paths(arguments: argparse.Namespace, protocol: TrainingProtocol | None) -> list[str]:
    """Choose the data: PATH or PATH=WEIGHT of each."""
    if protocol is None and arguments.root is not None:
        raise InputError("--data: is where the folders of a --protocol lie; without one give PATHs")
    if protocol is not None and arguments.settings:
        raise InputError("--settings: a protocol has settings of its own; change a copy ('mrihvae protocols NAME')")
    if arguments.data:
        if arguments.root is not None:
            raise InputError("--data: PATHs take the place of the protocol's folders; leave one of them out")
        return list(arguments.data)
    if protocol is None:
        raise InputError("PATH: nothing to train on; give data, or --protocol NAME and --data DIR")
    if arguments.root is None:
        raise InputError(f"--data: left out; give the directory with {', '.join(protocol.data)}, or PATHs")
    return data_paths(protocol, arguments.root)


def reading_of(arguments: argparse.Namespace, several: bool) -> Reading:
    """Choose how data are read, of one or `several` coils."""
    if not 0 <= arguments.cache_megabytes < float("inf"):
        raise InputError(f"--cache-megabytes {arguments.cache_megabytes}: must be at least 0")
    above = {True: 0.0, False: float("inf"), None: float(STREAMED)}[arguments.stream]
    return Reading(above, int(arguments.cache_megabytes * 1e6), several)


def _job(arguments: argparse.Namespace, path: Path | None = None, protocol: TrainingProtocol | None = None) -> Run:
    """Make a new run, by settings or a protocol, or continue the one in the output folder."""
    try:
        torch.zeros(1, device=arguments.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {arguments.device}: cannot be used ({reason}); try cpu") from error
    changes = {} if arguments.steps is None else {"steps": arguments.steps}
    if arguments.resume:
        if arguments.settings:
            raise InputError("--settings: a resumed run keeps its settings; leave this option out")
        for option, value in (("--weights", arguments.weights), ("--guess-weights", arguments.guess_weights)):
            if value:
                raise InputError(f"{option}: a resumed run has weights already; leave this option out")
        return load_checkpoint(arguments.output, arguments.device, **changes)
    if (arguments.output / "checkpoint.safetensors").exists():
        raise InputError(f"{arguments.output}: already holds a run; add --resume, or choose another --output")
    settings: Mapping[str, Mapping[str, Any]] = {}
    if protocol is not None:
        settings = protocol.settings
    elif arguments.settings:
        settings = _read_settings(arguments.settings)
    where = str(path or arguments.settings or "options")
    start = arguments.weights or (protocol.weights if protocol else None)
    device = torch.device(arguments.device)
    weights = load_model(start, device) if start else None
    guess = load_model(arguments.guess_weights, device) if arguments.guess_weights else None
    model = dataclasses.asdict(weights.settings) if weights else {}
    return Run.new(
        from_dict(ModelSettings, {**model, **settings.get("model", {})}, f"{where}, model"),
        from_dict(TrainSettings, {**settings.get("training", {}), **changes}, f"{where}, training"),
        from_dict(SimulationSettings, settings.get("simulation", {}), f"{where}, simulation"),
        arguments.device,
        weights,
        guess,
    )


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); check the file") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: holds no dictionary; use sections model, training or simulation")
    for key, values in settings.items():
        if key not in SECTIONS:
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
        if dataset.pictures != model.real:
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
            "kind": "raw k-space" if dataset.raw else "pictures" if dataset.pictures else "magnitude",
            "share": round(float(share), 4),
            **({"streamed": True} if isinstance(dataset.arrays, Stream) else {}),
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
