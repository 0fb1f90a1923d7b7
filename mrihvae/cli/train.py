"""`mrihvae train`: from any mixture of raw k-space and magnitude images to weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mrihvae.cli import options
from mrihvae.cli.common import check_output
from mrihvae.cli.console import progress
from mrihvae.cli.output_folder import claim_results
from mrihvae.cli.train_checks import check_fit, check_same_data, check_same_settings, describe
from mrihvae.cli.train_output import LossLines, closing_lines, show_steps
from mrihvae.datasets.mixture import Reading, load_mixture
from mrihvae.errors import InputError, reason
from mrihvae.model.hvae import HVAE
from mrihvae.model.settings import ModelSettings
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import fingerprint, load_card, load_model
from mrihvae.protocols.training import (
    SECTIONS,
    TrainingProtocol,
    data_paths,
    find_training_protocol,
    read_training_protocol,
)
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.loop import train
from mrihvae.training.processes import any_process, check_agreement, join, rank, share_of
from mrihvae.training.run import Run, TrainSettings, continue_weights, load_checkpoint
from mrihvae.training.validation import ValidationCase, ValidationSettings, draw_cases, validate
from mrihvae.utils.config import from_dict

TRAINED = {"guess_only": 0, "masked_start": 0, "kl_warmup": 1}  # of given weights all parts train from the first step
VALIDATE_EVERY = 500  # steps
STREAMED = 10**9  # bytes of HDF5 below a path, beyond which slices are read when they are drawn


def run(arguments: options.Train) -> None:
    """Train; prints progress on standard error."""
    torch.set_num_threads(max(1, arguments.threads))
    arguments = _options_of_process(arguments)
    claims = rank() == 0  # the one that writes files
    with claim_results(arguments.output, ["checkpoint.safetensors"]) if claims else nullcontext():
        _run(arguments, claims)
    if dist.is_initialized():
        dist.destroy_process_group()


def _run(arguments: options.Train, first: bool) -> None:
    """Train, as the first process or another one."""
    path = find_training_protocol(arguments.protocol) if arguments.protocol else None
    protocol = read_training_protocol(path) if path else None
    paths = _paths(arguments, protocol)
    check_output(arguments.output)
    job = _job(arguments, path, protocol)
    share_of(job.settings.accumulate)
    mixture = load_mixture(
        paths,
        lambda files: iter(progress(files, "reading", "file", disable=None if first else True)),
        reading_of(arguments, job.simulation.several),
    )
    check_fit(mixture, job.model.settings, job.settings)
    if arguments.resume:
        check_same_data(arguments.output, describe(mixture))
    check_agreement(
        {"a run at step": job.counters.step, "settings": job.settings, "data": describe(mixture)},
        str(arguments.output),
    )
    validate = _validation(arguments, job) if arguments.validation and first else None
    stop = Stop(arguments.minutes)
    provenance: dict[str, Any] = {"data": describe(mixture), "torch": str(torch.__version__)}
    if path is not None:
        provenance["protocol"] = {"name": path.stem, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if origin := _starting_weights(arguments, protocol):
        provenance["begun"] = origin
    losses = LossLines(job.settings.steps)
    try:
        train(
            job,
            mixture,
            arguments.output,
            arguments.checkpoint_seconds,
            lambda steps: show_steps(steps, job, first),
            stop,
            provenance,
            max(0, arguments.workers),
            validate,
            losses,
        )
    except InputError as error:  # of a worker it comes with that one's traceback
        raise InputError(str(error).splitlines()[-1].removeprefix(f"{InputError.__module__}.InputError: ")) from error
    if first:
        losses.show()
        from mrihvae.evaluation.figures import training_figure

        training_figure(arguments.output / "log.jsonl", arguments.output / "training.png")
        print(closing_lines(job, arguments))


def _options_of_process(arguments: options.Train) -> options.Train:
    """Join the other processes, and return the options as this one takes them.

    Under torchrun --resume starts a run where there is none yet: what it starts again is the same command.
    """
    starts = dist.is_torchelastic_launched() and not _holds_run(arguments.output)
    return dataclasses.replace(arguments, device=join(arguments.device), resume=arguments.resume and not starts)


def _holds_run(output: Path) -> bool:
    """Return whether there is a checkpoint to resume."""
    return (output / "checkpoint.safetensors").exists()


def _starting_weights(arguments: options.Train, protocol: TrainingProtocol | None) -> dict[str, str]:
    """Return the weights that a run started from, with checksums; of a resumed run those of its card."""
    if arguments.resume:
        weights = arguments.output / "weights.safetensors"
        return dict(load_card(weights).get("begun", {})) if weights.is_file() else {}
    if arguments.go_on:
        path = find_weights(arguments.go_on)
        return {**load_card(path).get("begun", {}), "went on from": f"{path.stem}, SHA-256 {fingerprint(path)}"}
    start = arguments.weights or (protocol.weights if protocol else None)
    origin = {}
    for part, name in (("all", start), ("first guess", arguments.guess_weights)):
        if name:
            path = find_weights(name)
            origin[part] = f"{path.stem}, SHA-256 {fingerprint(path)}"
    return origin


def _validation(arguments: options.Train, job: Run) -> Callable[[HVAE], Mapping[str, Any]]:
    """Draw the scans to score weights on, and return a function that scores weights."""
    if not job.settings.validate_every:
        job.settings = dataclasses.replace(job.settings, validate_every=VALIDATE_EVERY)
    cases = validation_cases(arguments.validation or (), job, reading_of(arguments, job.simulation.several))
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


def _paths(arguments: options.Train, protocol: TrainingProtocol | None) -> list[str]:
    """Choose the data: PATH or PATH=WEIGHT of each."""
    if protocol is None and arguments.root is not None:
        raise InputError("--data: is the folder with the data of --protocol; without a protocol, give PATHs")
    if protocol is not None and arguments.settings:
        raise InputError("--settings: the protocol has its own settings; edit a copy of it ('mrihvae protocols NAME')")
    if arguments.data:
        if arguments.root is not None:
            raise InputError("--data: PATHs replace the protocol's folders; leave out one of them")
        return list(arguments.data)
    if protocol is None:
        again = ", as the run was started with" if arguments.resume else ""
        raise InputError(f"PATH: nothing to train on; give data, or --protocol NAME and --data DIR{again}")
    if arguments.root is None:
        raise InputError(f"--data: is missing; give the directory with {', '.join(protocol.data)}, or PATHs")
    return data_paths(protocol, arguments.root)


def reading_of(arguments: options.Train, several: bool) -> Reading:
    """Choose how data are read, of one or `several` coils."""
    if not 0 <= arguments.cache_megabytes < float("inf"):
        raise InputError(f"--cache-megabytes {arguments.cache_megabytes}: must be at least 0")
    above = {True: 0.0, False: float("inf"), None: float(STREAMED)}[arguments.stream]
    return Reading(above, int(arguments.cache_megabytes * 1e6), several)


def _job(arguments: options.Train, path: Path | None = None, protocol: TrainingProtocol | None = None) -> Run:
    """Return a new run, by settings or a protocol, or continue the one in the output folder."""
    try:
        torch.zeros(1, device=arguments.device)
    except (RuntimeError, AssertionError) as error:
        why = reason(error)
        raise InputError(f"--device {arguments.device}: cannot be used ({why}); try cpu") from error
    changes = {
        name: getattr(arguments, name) for name in ("steps", "accumulate") if getattr(arguments, name) is not None
    }
    if arguments.resume:
        return _resumed(arguments, changes)
    if _holds_run(arguments.output):
        raise InputError(f"{arguments.output}: already holds a run; add --resume, or choose another --output")
    if arguments.go_on:
        if protocol is not None or arguments.settings or arguments.weights or arguments.guess_weights:
            raise InputError("--go-on: keeps settings and weights; leave out --protocol, --settings and other weights")
        job = continue_weights(find_weights(arguments.go_on), arguments.device, **changes)
        if job.counters.step >= job.settings.steps:
            raise InputError(f"--go-on: these weights have {job.counters.step} steps already; give more by --steps")
        return job
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
    begun = dataclasses.asdict(weights.settings) if weights else {}
    model = from_dict(ModelSettings, {**begun, **settings.get("model", {})}, f"{where}, model")
    order = TRAINED if weights and model == weights.settings else {}
    return Run.new(
        model,
        from_dict(TrainSettings, {**order, **settings.get("training", {}), **changes}, f"{where}, training"),
        from_dict(SimulationSettings, settings.get("simulation", {}), f"{where}, simulation"),
        arguments.device,
        weights,
        guess,
    )


def _resumed(arguments: options.Train, changes: Mapping[str, Any]) -> Run:
    """Continue the run in the output folder; under torchrun it may be given anew what it started with."""
    if not dist.is_torchelastic_launched():
        if arguments.settings:
            raise InputError("--settings: a resumed run keeps its settings; leave this option out")
        for option in ("--weights", "--guess-weights", "--go-on"):
            if getattr(arguments, option[2:].replace("-", "_")):
                raise InputError(f"{option}: a resumed run has weights already; leave this option out")
    job = load_checkpoint(arguments.output, arguments.device, **changes)
    if arguments.settings:
        check_same_settings(job, _read_settings(arguments.settings), arguments.settings)
    return job


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: file not found; check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); check the file") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: is not a JSON object; use sections model, training or simulation")
    for key, values in settings.items():
        if key not in SECTIONS:
            raise InputError(f"{path}: unknown section '{key}'; use model, training or simulation")
        if not isinstance(values, dict):
            raise InputError(f"{path}, {key}: is not a JSON object; write names and values of settings")
    return settings


class Stop:
    """True once the time is over or the process is to end (SIGINT, SIGTERM), in any of the processes."""

    def __init__(self, minutes: float | None) -> None:
        self.end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def _request(self, *_: object) -> None:
        self.requested = True

    def __call__(self) -> bool:
        return any_process(self.requested or time.monotonic() > self.end)
