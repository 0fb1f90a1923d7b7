"""The training loop: prior, decoder, q and r at once, with checkpoints that continue exactly.

Step n of a run depends on the settings, the data and n alone: micro-batches and latent noise are seeded by
(seed, step, index of the micro-batch). So a run that was killed and resumed ends with the weights of one that was not,
and the number of processes changes nothing but the rounding of sums.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from mrihvae.model.hvae import HVAE
from mrihvae.physics.operators import to_device
from mrihvae.training.batches import DegradedImages, Scans
from mrihvae.training.draw import SimulationSettings, draw_batch, draw_real
from mrihvae.training.draw_coils import draw_coils
from mrihvae.training.draw_degraded import draw_degraded
from mrihvae.training.log import append_line, cut_log, write_step
from mrihvae.training.objective import (
    PriorTerms,
    Rollout,
    first_guess_step,
    match_degraded,
    prior_terms,
    rollout,
    rollout_degraded,
)
from mrihvae.training.processes import average_terms, parallel, rank, share_of, world
from mrihvae.training.run import Run, TrainSettings, save_checkpoint
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
    """The micro-batches of every step, on the CPU; each depends on settings, data, its step and its index alone.

    Item n is that of index n % A of step n // A, with A = `TrainSettings.accumulate`.
    """

    settings: TrainSettings
    simulation: SimulationSettings
    source: SliceSource
    real: bool = False  # whether slices are real images, (channels, h, w), for a model of such
    degraded: bool = False  # whether r is for degraded images
    guesses: bool = True  # whether there are U-Nets, which train alone at the start

    def __getitem__(self, number: int) -> Batch:
        settings = self.settings
        step, index = divmod(number, settings.accumulate)
        shape = settings.shapes[np.random.default_rng((settings.seed, step)).integers(len(settings.shapes))]
        rng = np.random.default_rng((settings.seed, step, index + 1))
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


class StepLosses(nn.Module):
    """The losses of a micro-batch, computed by one module: so DistributedDataParallel knows what they depend on.

    It returns what is differentiated, and what is reported: terms of r, and those of prior, decoder and q, if the step
    at which the run stands trains them.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.model = run.model

    def forward(self, scans: Batch) -> tuple[list[Tensor], Rollout | None, PriorTerms | None]:
        settings, step, model = self.run.settings, self.run.counters.step, self.model
        guess_only = model.settings.masked and step < settings.guess_only and model.settings.cascades > 0
        with_masked = model.settings.masked and not guess_only and step >= settings.masked_start
        with_prior = not guess_only and (not with_masked or step % settings.prior_every == 0)
        masked = prior = None
        second = settings.second_every > 0 and step % settings.second_every == settings.second_every - 1
        if isinstance(scans, DegradedImages):
            start = "round" if second else "beginning" if step % BEGINNING_EVERY == 0 else "guess"
            masked = rollout_degraded(model, scans, "guess" if guess_only else start, guess_only)
            prior = match_degraded(model, scans) if with_prior else None
        else:
            if guess_only:
                masked = first_guess_step(model, scans)
            elif with_masked:
                masked = rollout(model, scans, second)
            if with_prior:
                prior = prior_terms(model, scans, with_masked, masked.completed if masked else None)
        losses = [] if masked is None else [masked.loss]
        if prior is not None:
            kl_weight = min(1.0, (step + 1) / max(settings.kl_warmup, 1))
            if (
                isinstance(scans, Scans) and scans.coils > 1
            ):  # maps are estimated: the prior must not learn their errors
                losses.append(settings.matching_weight * prior.matching.sum())
            else:
                losses.append(prior.loss(kl_weight, settings.matching_weight))
        return losses, _detached(masked), _detached(prior)


def _detached(terms: Any) -> Any:
    """Return terms, or None, without their graph."""
    if terms is None:
        return None
    return dataclasses.replace(
        terms, **{name: value.detach() for name, value in vars(terms).items() if isinstance(value, Tensor)}
    )


def train_step(run: Run, *batches: Batch, losses: nn.Module | None = None) -> tuple[Rollout | None, PriorTerms | None]:
    """Take one step of the optimizer on the micro-batches of this process, and count it.

    Parameters
    ----------
    run : changed in place
    batches : this process's part of the step's micro-batches, in their order
    losses : `StepLosses` of the run, of several processes in `mrihvae.training.processes.parallel`

    Returns
    -------
    terms of r, and those of prior, decoder and q, if they were trained; averaged over all micro-batches
    """
    settings, counters = run.settings, run.counters
    losses = StepLosses(run) if losses is None else losses
    run.optimizer.zero_grad(set_to_none=True)
    if run.model.settings.masked and counters.step == settings.masked_start > 0:
        run.model.r.start_from(run.model.q)
        run.average.r.start_from(run.average.q)
    if counters.step in (settings.guess_only, settings.masked_start):
        counters.norm_masked = 0.0  # other terms from here on, of another size
    terms = []
    for place, scans in enumerate(batches):
        more = place < len(batches) - 1  # gradients are averaged over processes after the last one
        with losses.no_sync() if more and isinstance(losses, DistributedDataParallel) else nullcontext():
            terms.append(_add_gradient(run, losses, scans, rank() + place * world(), len(batches)))
    for group in ("prior", "masked"):
        _clip_or_skip(run, group)
    for parameters in run.optimizer.param_groups:
        parameters["lr"] = learning_rate(settings, counters.step)
    run.optimizer.step()
    _update_average(run)
    counters.step += 1
    counters.slices += sum(map(_slices, batches)) * world()
    masked, prior = ([term for term in part if term is not None] for part in zip(*terms))
    return average_terms(masked) if masked else None, average_terms(prior) if prior else None


def _add_gradient(
    run: Run, losses: nn.Module, scans: Batch, index: int, count: int
) -> tuple[Rollout | None, PriorTerms | None]:
    """Add the gradient of a micro-batch, by its index in the step, to those of the `count` that this process takes."""
    scans = to_device(scans, run.model.start.device)
    if isinstance(scans, Scans):
        scans = scans.with_tv_initialization(run.model.settings.start_share)
    torch.manual_seed(int(np.random.SeedSequence((run.settings.seed, run.counters.step, index)).generate_state(1)[0]))
    with _precision(run):
        parts, masked, prior = losses(scans)
    if run.settings.accumulate == 1:
        for part in parts:
            part.backward()
    else:  # at once, as several processes must: sums have the same order with one
        torch.autograd.backward([part / count for part in parts])
    return masked, prior


def _slices(scans: Batch) -> int:
    """Count the slices of a micro-batch."""
    return len(scans.term.noise if isinstance(scans, DegradedImages) else scans.noise)


def train(
    run: Run,
    source: SliceSource,
    directory: Path | str,
    checkpoint_seconds: float = 240.0,
    progress: Callable[[Iterator[Sequence[Batch]]], Iterator[Sequence[Batch]]] = iter,
    stop: Callable[[], bool] = lambda: False,
    provenance: dict[str, Any] | None = None,
    workers: int = 0,
    validate: Callable[[HVAE], Mapping[str, Any]] | None = None,
    watch: Callable[[Mapping[str, Any]], object] | None = None,
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
    progress : wraps the iterator over what each step trains on, such as tqdm
    stop : called after every step; True ends the run early, with a checkpoint
    provenance : goes into weights.json
    workers : further processes that draw batches ahead, for a device that is faster than that; 0 draws in this one
    validate : scores the averaged weights every `TrainSettings.validate_every` steps, for validation.jsonl; the time it
        takes counts in the seconds of the run
    watch : called after every step with its line of log.jsonl, as `mrihvae.training.log.write_step` describes it

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
    directory = Path(directory)
    share = share_of(run.settings.accumulate)
    saved = began = time.monotonic()
    before = run.counters.seconds
    if rank() == 0 and run.counters.step < run.settings.steps:
        for name in ("log.jsonl", "validation.jsonl"):
            cut_log(directory / name, run.counters.step)
    losses = parallel(StepLosses(run))
    for batches in progress(zip(*[_draw_batches(run, source, workers)] * share)):
        terms = train_step(run, *batches, losses=losses)
        run.counters.seconds = before + time.monotonic() - began
        finished = run.counters.step == run.settings.steps or stop()
        if rank() == 0:
            line = write_step(directory / "log.jsonl", run, batches[0], *terms)
            if watch is not None:
                watch(line)
            if validate is not None and _is_due(run):
                with _precision(run):
                    scores = validate(run.average)
                run.counters.seconds = before + time.monotonic() - began
                done = {name: getattr(run.counters, name) for name in ("step", "slices", "seconds")}
                append_line(directory / "validation.jsonl", {**done, "scores": scores})
            if finished or time.monotonic() - saved > checkpoint_seconds:
                save_checkpoint(directory, run, provenance or {})
                saved = time.monotonic()
        if finished:
            return


def _draw_batches(run: Run, source: SliceSource, workers: int) -> Iterator[Batch]:
    """Draw the micro-batches of this process, from the step on at which the run stands."""
    settings, model = run.settings, run.model.settings
    first, end = (step * settings.accumulate for step in (run.counters.step, settings.steps))
    batches = Batches(settings, run.simulation, source, model.real, model.degraded, model.cascades > 0)
    numbers = range(first + rank(), end, world())
    return iter(DataLoader(batches, batch_size=None, sampler=numbers, num_workers=workers))


def _is_due(run: Run) -> bool:
    """Return whether it is time to score the weights."""
    every = run.settings.validate_every
    return every > 0 and (run.counters.step % every == 0 or run.counters.step == run.settings.steps)


def _precision(run: Run) -> AbstractContextManager[Any]:
    device = run.model.start.device
    if not (run.settings.bf16 and has_bfloat16(device)):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


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
