"""The training loop: prior, decoder, q and r at once, with checkpoints that continue exactly.

Step n of a run depends on the settings, the data and n alone: batches and latent noise are seeded by
(seed, step, process). So a run that was killed and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.random import Generator
from torch.utils.data import DataLoader, Dataset

from mrihvae.errors import InputError
from mrihvae.model.hvae import HVAE
from mrihvae.physics.operators import to_device
from mrihvae.training.batches import DegradedImages, Scans
from mrihvae.training.draw import SimulationSettings, draw_batch, draw_real
from mrihvae.training.draw_coils import draw_coils
from mrihvae.training.draw_degraded import draw_degraded
from mrihvae.training.objective import (
    PriorTerms,
    Rollout,
    first_guess_step,
    match_degraded,
    prior_terms,
    rollout,
    rollout_degraded,
)
from mrihvae.training.run import Run, TrainSettings, save_checkpoint
from mrihvae.utils.files import atomic_write
from mrihvae.utils.precision import has_bfloat16

BEGINNING_EVERY = 8  # every n-th step, r of degraded images is given the guess that its U-Nets start from


class SliceSource(Protocol):
    """Where slices come from: `draw` returns arrays (h, w), magnitude, or raw k-space if flagged.

    For models of real images they are (channels, h, w) in 0..255.
    """

    def draw(self, count: int, rng: Generator) -> list[tuple[np.ndarray, bool]]: ...


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Compute the learning rate of a step: linear warm-up, its peak, then a half cosine to 0."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    falling = max(settings.steps - settings.warmup, 1) * settings.decay
    progress = (step - (settings.steps - falling)) / max(falling, 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


Batch = Scans | DegradedImages


@dataclass(frozen=True)
class Batches(Dataset[Batch]):
    """The batch of every step, on the CPU; item n depends on settings, data, n and the process's rank alone."""

    settings: TrainSettings
    simulation: SimulationSettings
    source: SliceSource
    rank: int = 0
    real: bool = False  # whether slices are real images, (channels, h, w), for a model of such
    degraded: bool = False  # whether r is for degraded images
    guesses: bool = True  # whether there are U-Nets, which train alone at the start

    def __getitem__(self, step: int) -> Batch:
        settings = self.settings
        shape = settings.shapes[np.random.default_rng((settings.seed, step)).integers(len(settings.shapes))]
        rng = np.random.default_rng((settings.seed, step, self.rank + 1))
        count = max(1, round(settings.pixels / (shape[0] * shape[1])))
        images = self.source.draw(count, rng)
        if self.degraded:
            return draw_degraded(images, shape, self.simulation, rng)
        if self.simulation.several and not self._one_coil(step):
            return draw_coils(images, shape, self.simulation, rng)
        return draw_real(images, shape) if self.real else draw_batch(images, shape, self.simulation, rng)

    def _one_coil(self, step: int) -> bool:
        """Return whether the batch of a step has one coil: a fraction, and all while the prior trains alone."""
        settings = self.settings
        if (settings.guess_only if self.guesses else 0) <= step < settings.masked_start:
            return True
        return float(np.random.default_rng((settings.seed, step, 0)).random()) < self.simulation.one_coil


def train_step(run: Run, scans: Batch, rank: int = 0) -> tuple[Rollout | None, PriorTerms | None]:
    """Take one step of the optimizer on a batch, and count it."""
    settings, counters = run.settings, run.counters
    scans = to_device(scans, run.model.start.device)
    if isinstance(scans, Scans):
        scans = scans.with_tv_initialization(run.model.settings.start_share)
    torch.manual_seed(int(np.random.SeedSequence((settings.seed, counters.step, rank)).generate_state(1)[0]))
    run.optimizer.zero_grad(set_to_none=True)
    masked_model = run.model.settings.masked
    if masked_model and counters.step == settings.masked_start > 0:
        run.model.r.start_from(run.model.q)
        run.average.r.start_from(run.average.q)
    if counters.step in (settings.guess_only, settings.masked_start):
        counters.norm_masked = 0.0  # other terms from here on, of another size
    guess_only = masked_model and counters.step < settings.guess_only and run.model.settings.cascades > 0
    with_masked = masked_model and not guess_only and counters.step >= settings.masked_start
    with_prior = not guess_only and (not with_masked or counters.step % settings.prior_every == 0)
    masked = prior = None
    second = settings.second_every > 0 and counters.step % settings.second_every == settings.second_every - 1
    with _precision(run):
        if isinstance(scans, DegradedImages):
            start = "round" if second else "beginning" if counters.step % BEGINNING_EVERY == 0 else "guess"
            masked = rollout_degraded(run.model, scans, "guess" if guess_only else start, guess_only)
            prior = match_degraded(run.model, scans) if with_prior else None
        else:
            if guess_only:
                masked = first_guess_step(run.model, scans)
            elif with_masked:
                masked = rollout(run.model, scans, second)
            if with_prior:
                prior = prior_terms(run.model, scans, with_masked, masked.completed if masked else None)
    if masked is not None:
        masked.loss.backward()
    if prior is not None:
        kl_weight = min(1.0, (counters.step + 1) / max(settings.kl_warmup, 1))
        if (
            isinstance(scans, Scans) and scans.coils > 1
        ):  # combined by estimated maps, whose errors the prior must not learn
            (settings.matching_weight * prior.matching.sum()).backward()
        else:
            prior.loss(kl_weight, settings.matching_weight).backward()
    _average_gradients(run.model)
    for group in ("prior", "masked"):
        _clip_or_skip(run, group)
    for parameters in run.optimizer.param_groups:
        parameters["lr"] = learning_rate(settings, counters.step)
    run.optimizer.step()
    _update_average(run)
    counters.step += 1
    counters.slices += len(scans.term.noise if isinstance(scans, DegradedImages) else scans.noise) * _world()
    return masked, prior


def train(
    run: Run,
    source: SliceSource,
    directory: Path,
    checkpoint_seconds: float = 240.0,
    progress: Callable[[Iterator[Batch]], Iterator[Batch]] = iter,
    stop: Callable[[], bool] = lambda: False,
    provenance: dict[str, Any] | None = None,
    workers: int = 0,
    validate: Callable[[HVAE], Mapping[str, Any]] | None = None,
) -> None:
    """Train up to `run.settings.steps`, with checkpoints, a log and the averaged weights in `directory`.

    Prior, decoder and the full-data posterior q minimize the first of these, the measurement-conditioned posterior r
    the second, with w = `TrainSettings.matching_weight` and khat the k-space that the means of r decode to:

        -ELBO(k),    w sum_l KL(stopgrad q(z_l | z_<l, x) || r(z_l | z_<l, y, M)) + log |khat - k|^2.

    Parameters
    ----------
    run : new or resumed; changed in place
    source : where slices come from
    directory : gets checkpoint.safetensors, log.jsonl, weights.safetensors and weights.json
    checkpoint_seconds : time between checkpoints, s
    progress : wraps the iterator over the steps' batches, such as tqdm
    stop : called after every step; True ends the run early, with a checkpoint
    provenance : goes into weights.json
    workers : processes that draw batches ahead, for a device that is faster than the drawing; 0 draws in this one
    validate : scores the averaged weights every `TrainSettings.validate_every` steps, for validation.jsonl; the time it
        takes counts in the seconds of the run

    Examples
    --------
    >>> from pathlib import Path
    >>> from mrihvae.model import ModelSettings
    >>> from mrihvae.training import Run, SimulationSettings, TrainSettings, train
    >>> class Noise:
    ...     def draw(self, count, rng):
    ...         return [(rng.random((16, 16)), False) for _ in range(count)]
    >>> model = ModelSettings(widths=(16, 16), layers=1, cascades=0, guess_widths=(16,))
    >>> settings = TrainSettings(steps=2, shapes=((16, 16),), pixels=512, bf16=False)
    >>> train(Run.new(model, settings, SimulationSettings(), "cpu"), Noise(), Path("run"))
    >>> sorted(path.name for path in Path("run").iterdir())
    ['checkpoint.safetensors', 'log.jsonl', 'weights.json', 'weights.safetensors']
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    saved = began = time.monotonic()
    before = run.counters.seconds
    if rank == 0 and run.counters.step < run.settings.steps:
        for name in ("log.jsonl", "validation.jsonl"):
            _cut_log(directory / name, run.counters.step)
    model = run.model.settings
    batches = DataLoader(
        Batches(run.settings, run.simulation, source, rank, model.real, model.degraded, model.cascades > 0),
        batch_size=None,
        sampler=range(run.counters.step, run.settings.steps),
        num_workers=workers,
    )
    for scans in progress(iter(batches)):
        terms = train_step(run, scans, rank)
        run.counters.seconds = before + time.monotonic() - began
        finished = run.counters.step == run.settings.steps or stop()
        if rank == 0:
            _write_log(directory / "log.jsonl", run, scans, *terms)
            if validate is not None and _is_due(run):
                with _precision(run):
                    scores = validate(run.average)
                run.counters.seconds = before + time.monotonic() - began
                done = {name: getattr(run.counters, name) for name in ("step", "slices", "seconds")}
                _append(directory / "validation.jsonl", {**done, "scores": scores})
            if finished or time.monotonic() - saved > checkpoint_seconds:
                save_checkpoint(directory, run, provenance or {})
                saved = time.monotonic()
        if finished:
            return


def _is_due(run: Run) -> bool:
    """Return whether it is time to score the weights."""
    every = run.settings.validate_every
    return every > 0 and (run.counters.step % every == 0 or run.counters.step == run.settings.steps)


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _precision(run: Run) -> AbstractContextManager[Any]:
    device = run.model.start.device
    if not (run.settings.bf16 and has_bfloat16(device)):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _average_gradients(model: HVAE) -> None:
    """Average gradients over processes, in one message."""
    if _world() == 1:
        return
    parameters = [p for p in model.parameters() if p.grad is not None]
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    flat /= _world()
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters])):
        parameter.grad = gradient.view_as(parameter)


def _clip_or_skip(run: Run, group: str) -> None:
    """Clip a group's gradient, or drop it if its norm is far out of its running mean or not finite."""
    settings, counters = run.settings, run.counters
    parameters = run.model.prior_parameters() if group == "prior" else run.model.masked_parameters()
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    norm = float(torch.nn.utils.get_total_norm(gradients))
    usual = getattr(counters, f"norm_{group}")
    if not math.isfinite(norm) or (usual > 0 and counters.step > settings.warmup and norm > settings.skip * usual):
        setattr(counters, f"skipped_{group}", getattr(counters, f"skipped_{group}") + 1)
        if math.isfinite(norm):  # what stays large becomes usual, so that no run skips for ever
            setattr(counters, f"norm_{group}", 1.02 * usual)
        for parameter in parameters:
            parameter.grad = None
        return
    if usual > 0 and norm > settings.clip * usual:
        setattr(counters, f"clipped_{group}", getattr(counters, f"clipped_{group}") + 1)
        torch.nn.utils.clip_grads_with_norm_(parameters, settings.clip * usual, torch.tensor(norm))
        norm = settings.clip * usual
    setattr(counters, f"norm_{group}", norm if usual == 0 else 0.98 * usual + 0.02 * norm)


def _update_average(run: Run) -> None:
    """Move the averaged weights; early on they follow faster, so that they forget the start."""
    decay = min(run.settings.ema, (1 + run.counters.step) / (10 + run.counters.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(run.average.parameters()), list(run.model.parameters()), 1 - decay)


def _write_log(path: Path, run: Run, scans: Batch, masked: Rollout | None, prior: PriorTerms | None) -> None:
    """Append one line of JSON; numbers are nats per real dimension unless named otherwise."""
    line = dataclasses.asdict(run.counters)
    if isinstance(scans, Scans):
        line["coils"] = scans.coils
    if masked is not None:
        line |= {
            "rollout": round(float(masked.error), 5),
            "guess": round(float(masked.guess), 5),
            "stages": [round(float(stage), 5) for stage in masked.stages],
            "zero_filled": round(float(masked.zero_filled), 5),
        }
    if prior is not None:
        line |= {
            "elbo": round(float(prior.elbo.detach()), 5),
            "distortion": round(float(prior.distortion.detach()), 5),
            "kl": [round(v, 6) for v in prior.kl.tolist()],
            "matching": [round(v, 6) for v in prior.matching.tolist()],
            "active": [round(v, 5) for v in prior.active.tolist()],
        }
    _append(path, line)


def _append(path: Path, line: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free space or choose another place") from error


def _cut_log(path: Path, step: int) -> None:
    """Drop log lines after the checkpoint's step, of a run that was killed: those steps will be done again."""
    if not path.is_file():
        return
    with path.open() as file:
        lines = [line for line in file if line.endswith("\n") and json.loads(line)["step"] <= step]
    with atomic_write(path) as temporary:
        temporary.write_text("".join(lines))
