"""Adapting the measurement-conditioned posterior r to undersampled scans alone; the prior stays as it is.

Each step holds acquired samples out of slices at random and lowers the error of r's answer there
(`mrihvae.training.self_supervised`). Other samples are never trained on: every n-th step the averaged weights are
checked on them, and the result is the best weights by this check, or those of the start where none were better.

Step n of a run depends on the start, the slices, the settings and n alone, so that a run that was killed and resumed
ends with the weights of one that was not.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrihvae.errors import InputError, reason
from mrihvae.inference.reconstruct import infer_kspace
from mrihvae.inference.settings import InferenceSettings, RefinementSettings
from mrihvae.model.hvae import HVAE
from mrihvae.model.weights import save_weights
from mrihvae.training.adapt_settings import FEWEST_SLICES, AdaptSettings
from mrihvae.training.checkpoints import optimizer_tensors, read_checkpoint, replace_checkpoint, restore_optimizer
from mrihvae.training.log import append_line, cut_log
from mrihvae.training.objective import rollout
from mrihvae.training.run import WEIGHTS
from mrihvae.training.self_supervised import VIEWS, HeldOut, UndersampledSlice, hold_out, normalized_error, take
from mrihvae.utils.config import from_dict

LOG = "log.jsonl"
CHECKED = InferenceSettings(RefinementSettings(sweeps=0), views=1, rounds=1, tv_blend=False)  # an encoder pass
R = "r."  # what names of r's weights begin with


@dataclass(frozen=True)
class Splits:
    """What is trained on and what is checked.

    Attributes
    ----------
    trained : numbers of slices that steps are taken on
    checked : numbers of slices that are checked
    reserved : of every slice, the samples that are checked and never trained on, bool (H, W); none of the others
    """

    trained: tuple[int, ...]
    checked: tuple[int, ...]
    reserved: tuple[Tensor, ...]


def draw_splits(slices: Sequence[UndersampledSlice], settings: AdaptSettings) -> Splits:
    """Draw which slices and samples are checked, by the seed."""
    rng = np.random.default_rng(settings.seed)
    count = round(settings.check_slices * len(slices)) if len(slices) >= FEWEST_SLICES else 0
    order = [int(k) for k in rng.permutation(len(slices))]
    apart, trained = order[:count], order[count:]
    own = apart[: max(1, settings.most_checked // 2)]
    checked = (*own, *trained[: settings.most_checked - len(own)])
    reserved = [torch.zeros_like(scan.outside) for scan in slices]
    for k in checked:
        reserved[k] = take(slices[k].outside, settings.check_share, rng, slices[k].lines)
    return Splits(tuple(sorted(trained)), checked, tuple(reserved))


@dataclass
class Progress:
    """What a run has done so far; part of the checkpoint.

    Attributes
    ----------
    step, seconds : done so far
    start, best : the check of the start and the least one: mean error over the variance of the likelihood, dB
    best_step : step of the latter; 0 for the start
    idle : checks since
    loss, last : of the newest step, and the newest check
    """

    step: int = 0
    seconds: float = 0.0
    start: float | None = None
    best: float | None = None
    best_step: int = 0
    idle: int = 0
    loss: float = 0.0
    last: float = 0.0


@dataclass
class Adaptation:
    """A run in memory: weights that are trained, averaged, and best by the check, which begin as those of the start."""

    model: HVAE
    average: HVAE
    best: HVAE
    optimizer: torch.optim.Adam
    settings: AdaptSettings
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def new(cls, start: HVAE, settings: AdaptSettings) -> Adaptation:
        """Begin with weights, whose r is trained and all else fixed.

        Raises
        ------
        InputError
            Weights without a posterior for undersampled scans.
        """
        if not start.settings.masked or start.settings.degraded:
            raise InputError("these weights have no posterior for undersampled scans; choose others, such as default")
        model, average, best = (copy.deepcopy(start).requires_grad_(False) for _ in range(3))
        for parameter in model.masked_parameters():
            parameter.requires_grad_(True)
        return cls(
            model, average, best, torch.optim.Adam(model.masked_parameters(), lr=0.0, betas=(0.9, 0.99)), settings
        )

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the check has long not become better."""
        return self.progress.step >= self.settings.steps or self.progress.idle >= self.settings.patience


def check(model: HVAE, slices: Sequence[UndersampledSlice], splits: Splits, settings: AdaptSettings) -> float:
    """Compute how well samples that were never trained on are predicted: the mean error of slices in dB.

    The error is relative to the variance that the likelihood has for a sample. Weights are rounded as they are stored.
    """
    errors = []
    with torch.no_grad():
        for k in splits.checked:
            scans = hold_out(model, slices[k], splits.reserved[k], splits.reserved[k], 1 - settings.check_share)
            found = scans.problem.finish(infer_kspace(model, scans.problem, CHECKED))
            errors.append(float(normalized_error(model, scans, found)))
    return float(np.mean(errors))


def draw_step(
    model: HVAE, slices: Sequence[UndersampledSlice], splits: Splits, settings: AdaptSettings, step: int
) -> HeldOut:
    """Draw the slice of a step, the view of it, and the samples that are held out."""
    rng = np.random.default_rng((settings.seed, step))
    k = splits.trained[int(rng.integers(len(splits.trained)))]
    free = slices[k].outside & ~splits.reserved[k]
    compared = take(free, settings.held_out, rng, slices[k].lines)
    kept = (1 - settings.check_share if k in splits.checked else 1) * (1 - settings.held_out)
    return hold_out(model, slices[k], compared | splits.reserved[k], compared, kept, int(rng.integers(VIEWS)))


def adapt_step(run: Adaptation, slices: Sequence[UndersampledSlice], splits: Splits) -> float:
    """Take one step of the optimizer, count it, and return its loss: the log-errors of r and of its guesses."""
    settings, step = run.settings, run.progress.step
    run.optimizer.zero_grad(set_to_none=True)
    scans = draw_step(run.model, slices, splits, settings, step)
    second = settings.second_every > 0 and step % settings.second_every == settings.second_every - 1
    loss = rollout(run.model, scans, second).loss
    loss.backward()
    trained: list[Tensor] = [*run.model.masked_parameters()]
    norm = torch.nn.utils.clip_grad_norm_(trained, settings.clip)
    if bool(torch.isfinite(norm)):
        for group in run.optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, (step + 1) / max(settings.warmup, 1))
        run.optimizer.step()
    decay = min(settings.ema, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_([*run.average.masked_parameters()], trained, 1 - decay)
    run.progress.step += 1
    run.progress.loss = float(loss.detach())
    return run.progress.loss


def check_step(run: Adaptation, slices: Sequence[UndersampledSlice], splits: Splits) -> float:
    """Check the averaged weights as they would be stored, and keep them if they are the best so far."""
    progress = run.progress
    if progress.start is None:
        progress.start = progress.best = progress.last = check(run.best, slices, splits, run.settings)
        return progress.start
    candidate = copy.deepcopy(run.average)
    for parameter in candidate.masked_parameters():
        parameter.copy_(parameter.half())
    progress.last = found = check(candidate, slices, splits, run.settings)
    progress.idle += 1
    if progress.best is not None and found < progress.best:
        progress.best, progress.best_step, progress.idle = found, progress.step, 0
        run.best = candidate
    return found


def adapt(
    run: Adaptation,
    slices: Sequence[UndersampledSlice],
    directory: Path | str,
    checkpoint_seconds: float = 60.0,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    stop: Callable[[], bool] = lambda: False,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Adapt r to undersampled slices, with checkpoints, a log and the best weights in `directory`.

    r minimizes, with Theta + Lambda a random split of the acquired samples, and khat what r's means decode to,

        log sum_Lambda w |khat(y_Theta) - y|^2

    and the same of its first guesses.

    Parameters
    ----------
    run : new or resumed; changed in place
    slices : what the site acquired
    directory : gets checkpoint.safetensors, log.jsonl, weights.safetensors and weights.json
    checkpoint_seconds : time between checkpoints, s
    progress : wraps the iterator over steps, such as tqdm
    stop : called after every step; True ends the run early, with a checkpoint
    provenance : goes into weights.json

    References
    ----------
    * Yaman et al. 2020 (SSDU), https://doi.org/10.1002/mrm.28378
    * Millard and Chiew 2023 (K-weighted SSDU), https://doi.org/10.1109/TCI.2023.3299212
    """
    directory = Path(directory)
    splits = draw_splits(slices, run.settings)
    began, before = time.monotonic(), run.progress.seconds
    saved = began
    if run.finished:  # a process that was killed may have left its weights behind
        save_best(directory, run, provenance or {})
    cut_log(directory / LOG, run.progress.step)
    if run.progress.start is None:
        append_line(directory / LOG, {"step": 0, "check": round(check_step(run, slices, splits), 5)})
    for _ in progress(_steps(run)):
        line: dict[str, Any] = {"loss": round(adapt_step(run, slices, splits), 5)}
        if run.progress.step % run.settings.check_every == 0 or run.progress.step == run.settings.steps:
            line["check"] = round(check_step(run, slices, splits), 5)
        run.progress.seconds = before + time.monotonic() - began
        line |= {"step": run.progress.step, "seconds": round(run.progress.seconds, 3)}
        append_line(directory / LOG, line)
        stopped = stop()
        if stopped or run.finished or time.monotonic() - saved > checkpoint_seconds:
            save_adaptation(directory, run, provenance or {})
            saved = time.monotonic()
        if stopped:
            return


def _steps(run: Adaptation) -> Iterator[int]:
    """Count steps until the run is finished."""
    while not run.finished:
        yield run.progress.step


def save_adaptation(directory: Path, run: Adaptation, provenance: Mapping[str, Any]) -> None:
    """Write what a run needs to resume, but for its start, to one file, and the best weights beside it."""
    tensors: dict[str, Tensor] = {}
    for kind in ("model", "average", "best"):
        named = getattr(run, kind).named_parameters()
        tensors |= {f"{kind}/{name}": parameter.detach() for name, parameter in named if name.startswith(R)}
    tensors |= optimizer_tensors(run.optimizer, run.model)
    state = {"adapt": dataclasses.asdict(run.settings), "progress": dataclasses.asdict(run.progress)}
    held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({**state, "provenance": dict(provenance)})
    replace_checkpoint(directory, held, {"state": text, "step": str(run.progress.step)})
    save_best(directory, run, provenance)


def save_best(directory: Path, run: Adaptation, provenance: Mapping[str, Any]) -> None:
    """Write the best weights, and their card."""
    done = run.progress
    counters = {"step": done.best_step, "steps": done.step, "seconds": round(done.seconds, 1)}
    checked = {"before": done.start, "after": done.best, "unit": "dB of held-out error over the likelihood's variance"}
    settings = dataclasses.asdict(run.settings)
    card = {**provenance, "adapt": settings, "counters": counters, "check": checked}
    save_weights(directory / WEIGHTS, run.best, card)


def load_adaptation(directory: Path | str, start: HVAE, **changes: Any) -> tuple[Adaptation, dict[str, Any]]:
    """Return an interrupted run from its folder, and its provenance; `changes` replace settings, such as `steps`.

    Parameters
    ----------
    start : the weights that it began with

    Raises
    ------
    InputError
        No checkpoint there, damaged ones alone, or one of another kind.
    """
    directory = Path(directory)
    path, metadata, tensors = read_checkpoint(directory, str(start.start.device))
    try:
        state = json.loads(metadata["state"])
        settings = from_dict(AdaptSettings, {**state["adapt"], **changes}, str(path))
        run = Adaptation.new(start, settings)
        run.progress = Progress(**state["progress"])
        for kind in ("model", "average", "best"):
            for name, parameter in getattr(run, kind).named_parameters():
                if name.startswith(R):
                    parameter.data.copy_(tensors[f"{kind}/{name}"])
        provenance = dict(state["provenance"])
    except InputError:
        raise
    except Exception as error:
        why = reason(error, -1)
        raise InputError(f"{path}: not a checkpoint of 'mrihvae adapt' ({why}); start the run anew") from error
    restore_optimizer(run.optimizer, run.model, tensors)
    return run, provenance
