"""Training: exact continuation, the schedule, gradients that are left out, and every bad input."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from safetensors.torch import load_file, save_file

import mrihvae
from mrihvae.cli import train as cli_train
from mrihvae.cli.main import main, parse
from mrihvae.errors import InputError
from mrihvae.inference.reconstruct import reconstruct
from mrihvae.model.hvae import HVAE
from mrihvae.model.settings import ModelSettings
from mrihvae.model.weights import fingerprint, load_card, load_model
from mrihvae.training import loop as training
from mrihvae.training.batches import DegradedImages, Scans
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.loop import Batches, learning_rate, train, train_step
from mrihvae.training.objective import PriorTerms, Rollout, prior_terms, rollout
from mrihvae.training.run import Counters, Run, TrainSettings, load_checkpoint, save_checkpoint
from tests.support.files import write_scan
from tests.support.small import phantom, small_kspace, small_scans
from tests.support.small_coils import calibrated, coil_scans

MODEL = ModelSettings(
    widths=(16, 16), layers=1, cascades=1, guess_widths=(16, 16), guess_memory=2
)  # takes multiples of 4
SETTINGS = TrainSettings(
    steps=7,
    warmup=3,
    shapes=((16, 24), (24, 16), (16, 16)),
    pixels=800,
    kl_warmup=4,
    guess_only=1,
    masked_start=3,
    prior_every=2,
    second_every=3,
    bf16=False,
    learning_rate=3e-3,
)
TOGETHER: dict[str, Any] = {
    "guess_only": 0,
    "masked_start": 0,
    "prior_every": 1,
}  # prior and masked posterior on every step
FILES = ["checkpoint.safetensors", "log.jsonl", "weights.json", "weights.safetensors"]
PACKAGE = Path(mrihvae.__file__).parents[1]


class Slices:
    """A source of a few magnitude and raw slices."""

    def __init__(self) -> None:
        self.slices = [(phantom(30, 26, k), False) for k in range(4)]
        self.slices += [(kspace.numpy(), True) for kspace in small_kspace(2, 28, 20)]

    def draw(self, count: int, rng: Generator) -> list[tuple[np.ndarray, bool]]:
        return [self.slices[rng.integers(len(self.slices))] for _ in range(count)]


def shared(run: Run) -> TrainSettings:
    """Return the settings of a run whose steps two processes share."""
    return dataclasses.replace(run.settings, accumulate=2)


def batch_of_step(run: Run, source: Slices, step: int, rank: int) -> Scans:
    return Batches(shared(run), run.simulation, source)[2 * step + rank]


def new_run(**changes: Any) -> Run:
    return Run.new(MODEL, dataclasses.replace(SETTINGS, **changes), SimulationSettings(), "cpu")


def state_of(run: Run) -> dict[str, torch.Tensor]:
    """List everything that the next step depends on, bit by bit."""
    state = {f"model/{name}": p.detach().clone() for name, p in run.model.named_parameters()}
    state |= {f"average/{name}": p.clone() for name, p in run.average.named_parameters()}
    for name, parameter in run.model.named_parameters():
        state |= {f"{key}/{name}": value.clone() for key, value in run.optimizer.state.get(parameter, {}).items()}
    return state


def assert_same(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    differing = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not differing


def without_time(counters: Counters) -> Counters:
    return dataclasses.replace(counters, seconds=0.0)


def logged_steps(directory: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (directory / "log.jsonl").read_text().splitlines()]


def stop_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(1, 10_000))
    return lambda: next(asked) >= steps


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("part", [1, 2, 5])
def test_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path: Path, bf16: bool, part: int) -> None:
    whole = new_run(bf16=bf16)
    train(whole, Slices(), tmp_path / "whole")
    first = new_run(bf16=bf16)
    train(first, Slices(), tmp_path / "parts", stop=stop_after(part))
    assert first.counters.step == part
    torch.manual_seed(1234)  # whatever else draws random numbers
    second = load_checkpoint(tmp_path / "parts", "cpu")
    assert second.settings == whole.settings and second.counters == first.counters
    assert_same(state_of(second), state_of(first))
    train(second, Slices(), tmp_path / "parts")

    assert without_time(second.counters) == without_time(whole.counters)
    assert_same(state_of(second), state_of(whole))
    for name in ("checkpoint.safetensors", "weights.safetensors"):
        assert_same(load_file(tmp_path / "parts" / name), load_file(tmp_path / "whole" / name))
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    ours, theirs = ([{**json.loads(line), "seconds": 0} for line in log] for log in logs)
    assert ours == theirs and logged_steps(tmp_path / "parts") == list(range(1, 8))


def test_log_after_a_kill_has_every_step_once(tmp_path: Path) -> None:
    train(new_run(), Slices(), tmp_path, stop=stop_after(3))
    kept = {name: (tmp_path / name).read_bytes() for name in FILES if name != "log.jsonl"}
    train(load_checkpoint(tmp_path, "cpu"), Slices(), tmp_path, stop=stop_after(2))
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)  # killed before it wrote the second checkpoint
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "sli')  # and in the middle of a line
    run = load_checkpoint(tmp_path, "cpu")
    assert run.counters.step == 3
    train(run, Slices(), tmp_path)
    assert logged_steps(tmp_path) == list(range(1, 8))


def test_run_that_was_killed_before_its_first_checkpoint_starts_a_new_log(tmp_path: Path) -> None:
    train(new_run(), Slices(), tmp_path, stop=stop_after(3))
    (tmp_path / "checkpoint.safetensors").unlink()
    train(new_run(), Slices(), tmp_path)
    assert logged_steps(tmp_path) == list(range(1, 8))


def test_files_and_card_of_a_run(tmp_path: Path) -> None:
    run = new_run(steps=2)
    train(run, Slices(), tmp_path / "new" / "folder", provenance={"data": "phantoms"})
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == FILES
    weights = tmp_path / "new" / "folder" / "weights.safetensors"
    card = load_card(weights)
    assert card["data"] == "phantoms" and card["counters"]["step"] == 2 and card["training"]["steps"] == 2
    assert card["counters"]["slices"] == run.counters.slices > 0 and card["counters"]["seconds"] > 0
    model = load_model(str(weights))
    average = dict(run.average.named_parameters())
    assert all(torch.equal(parameter, average[name].half().float()) for name, parameter in model.named_parameters())


def test_log_has_the_terms(tmp_path: Path) -> None:
    train(new_run(steps=2, **TOGETHER), Slices(), tmp_path)
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert line["elbo"] == pytest.approx(line["distortion"] + sum(line["kl"]), abs=1e-4)
    assert len(line["kl"]) == len(line["matching"]) == 2 and len(line["active"]) == 2
    assert line["rollout"] > 0 and line["guess"] > 0 and line["zero_filled"] >= 0 and line["step"] == 2


def test_masked_posterior_rests_until_its_start() -> None:
    run = new_run(guess_only=0, masked_start=3)
    before = {name: p.detach().clone() for name, p in run.model.r.named_parameters()}
    for step in range(3):
        masked, prior = train_step(run, batch_of_step(run, Slices(), step, 0))
        assert masked is None and prior is not None
    assert_same(before, {name: p.detach() for name, p in run.model.r.named_parameters()})
    names = dict(run.model.named_parameters())
    q = names["q.path.blocks.0.first.weight"].detach().clone()
    masked, prior = train_step(run, batch_of_step(run, Slices(), 3, 0))
    assert masked is not None and prior is None
    assert torch.equal(names["q.path.blocks.0.first.weight"], q)  # steps of r alone leave all else
    r = names["r.path.blocks.0.first.weight"]
    assert not torch.equal(r, q) and torch.allclose(r, q, atol=0.02)  # a step away from q


def moved(run: Run, before: dict[str, torch.Tensor]) -> set[str]:
    """Name the parts of the model whose parameters a step has changed: "guess", "r" (the rest of r) and "prior"."""
    parts = set()
    for name, parameter in run.model.named_parameters():
        if not torch.equal(before[name], parameter):
            parts.add("guess" if name.startswith("r.guess.") else "r" if name.startswith("r.") else "prior")
    return parts


def parameters_of(run: Run) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}


def test_what_every_step_trains() -> None:
    """The guess alone, then the prior, then r, with the prior every second and without the guess every third step."""
    run = new_run(steps=12, guess_only=2, masked_start=4, warmup=0)
    found = []
    for step in range(10):
        before = parameters_of(run)
        if step == 4:  # r starts as q before it trains
            run.model.r.start_from(run.model.q)
            before = parameters_of(run)
        masked, prior = train_step(run, batch_of_step(run, Slices(), step, 0))
        assert (masked is not None) == (step not in (2, 3))
        assert (prior is not None) == (step in (2, 3, 4, 6, 8))
        found.append(moved(run, before))
    everything = {"guess", "r", "prior"}
    assert found == [
        *({"guess"}, {"guess"}, {"prior"}, {"prior"}),
        *(everything, {"r"}, everything, {"guess", "r"}, {"r", "prior"}, {"guess", "r"}),
    ]
    assert run.counters.skipped_masked + run.counters.skipped_prior == 0


@pytest.mark.parametrize("guess_only", [0, 5])
def test_no_step_of_r_is_left_out_where_its_terms_change(guess_only: int) -> None:
    """The gradient of the guess alone is far smaller than that of all of r; it must not decide what is usual."""
    run = new_run(steps=100, guess_only=guess_only, masked_start=7, warmup=0)
    for step in range(12):
        train_step(run, batch_of_step(run, Slices(), step, 0))
    assert run.counters.skipped_masked == 0


def test_every_parameter_of_the_guess_is_trained_by_itself() -> None:
    run = new_run(guess_only=3)
    before = parameters_of(run)
    for step in range(3):
        masked, prior = train_step(run, batch_of_step(run, Slices(), step, 0))
        assert masked is not None and prior is None
        assert float(masked.error) == float(masked.guess)
    for name, parameter in run.model.named_parameters():
        assert torch.equal(before[name], parameter) != name.startswith("r.guess."), name
    assert run.counters.norm_masked > 0 and run.counters.norm_prior == 0


def test_without_cascades_there_is_no_guess_to_train() -> None:
    model = dataclasses.replace(MODEL, cascades=0)
    run = Run.new(model, dataclasses.replace(SETTINGS, guess_only=3), SimulationSettings(), "cpu")
    masked, prior = train_step(run, batch_of_step(run, Slices(), 0, 0))
    assert masked is None and prior is not None


DEGRADED = dataclasses.replace(MODEL, degraded=True)
DEGRADED_SHAPES: Any = {"shapes": ((32, 32), (32, 48)), "pixels": 2100, "masked_start": 0, "warmup": 1}


class Magnitudes(Slices):
    """A source of a few magnitude slices."""

    def __init__(self) -> None:
        self.slices = [(phantom(40, 44, k), False) for k in range(4)]


def degraded_run(**changes: Any) -> Run:
    settings = dataclasses.replace(SETTINGS, **{**DEGRADED_SHAPES, **changes})
    return Run.new(DEGRADED, settings, SimulationSettings(), "cpu")


def degraded_batch(run: Run, step: int, rank: int = 0) -> DegradedImages:
    batch = Batches(shared(run), run.simulation, Magnitudes(), degraded=True)[2 * step + rank]
    assert isinstance(batch, DegradedImages)
    return batch


@pytest.mark.parametrize("part", [1, 3, 5])
def test_resumed_run_of_degraded_images_is_bitwise_the_uninterrupted_one(tmp_path: Path, part: int) -> None:
    whole = degraded_run()
    train(whole, Magnitudes(), tmp_path / "whole")
    train(degraded_run(), Magnitudes(), tmp_path / "parts", stop=stop_after(part))
    torch.manual_seed(1234)
    second = load_checkpoint(tmp_path / "parts", "cpu")
    assert second.counters.step == part and second.model.settings.degraded
    train(second, Magnitudes(), tmp_path / "parts")
    assert without_time(second.counters) == without_time(whole.counters)
    assert_same(state_of(second), state_of(whole))
    line = json.loads((tmp_path / "parts" / "log.jsonl").read_text().splitlines()[-1])
    assert line["rollout"] > 0 and line["guess"] > 0 and line["zero_filled"] > 0
    assert load_model(str(tmp_path / "parts" / "weights.safetensors")).settings == DEGRADED


def test_degraded_images_leave_prior_decoder_and_q(tmp_path: Path) -> None:
    """In training, in the average, and after going on from a checkpoint."""
    run = degraded_run(guess_only=0, prior_every=1, warmup=0)
    first = [parameters_of(run), {name: p.clone() for name, p in run.average.named_parameters()}]
    found = []
    for step in range(3):
        before = parameters_of(run)
        masked, prior = train_step(run, degraded_batch(run, step))
        assert masked is not None and prior is not None
        found.append(moved(run, before))
    assert found == [{"guess", "r"}, {"guess", "r"}, {"r"}]  # the third is a second round
    save_checkpoint(tmp_path, run, {})
    run = load_checkpoint(tmp_path, "cpu")
    train_step(run, degraded_batch(run, 3))
    for before, model in zip(first, (run.model, run.average), strict=True):
        for name, parameter in model.named_parameters():
            if name not in ("r.known.0.weight", "r.context.0.weight"):  # before the first level all is 0
                assert torch.equal(before[name], parameter) != name.startswith("r."), name
    assert run.counters.norm_prior == 0 and run.counters.skipped_masked == 0


COILS = SimulationSettings(coils=(2, 4))


def coil_run(model: ModelSettings = MODEL, **changes: Any) -> Run:
    settings = {"shapes": ((24, 32), (32, 24)), "pixels": 1600, "guess_only": 0, "masked_start": 0, "warmup": 1}
    return Run.new(model, dataclasses.replace(SETTINGS, **{**settings, **changes}), COILS, "cpu")


def coil_batch(run: Run, step: int, rank: int = 0) -> Scans:
    batch = Batches(shared(run), run.simulation, Slices())[2 * step + rank]
    assert isinstance(batch, Scans) and batch.coils > 1
    return batch


@pytest.mark.parametrize("part", [1, 3])
def test_resumed_run_of_coils_is_bitwise_the_uninterrupted_one(tmp_path: Path, part: int) -> None:
    whole = coil_run(steps=5)
    train(whole, Slices(), tmp_path / "whole")
    train(coil_run(steps=5), Slices(), tmp_path / "parts", stop=stop_after(part))
    torch.manual_seed(1234)
    second = load_checkpoint(tmp_path / "parts", "cpu")
    assert second.counters.step == part and second.simulation == COILS
    train(second, Slices(), tmp_path / "parts")
    assert without_time(second.counters) == without_time(whole.counters)
    assert_same(state_of(second), state_of(whole))
    for line in map(json.loads, (tmp_path / "parts" / "log.jsonl").read_text().splitlines()):
        assert line["rollout"] > 0 and len(line["stages"]) == 2 and line["guess"] > 0 and line["zero_filled"] > 0
        assert ("matching" in line) == (line["step"] % 2 == 1)  # steps 0, 2 and 4
    card = load_card(tmp_path / "parts" / "weights.safetensors")
    assert card["simulation"]["coils"] == [2, 4] and load_model(str(tmp_path / "parts" / "weights.safetensors"))


def test_coils_train_r_alone(tmp_path: Path) -> None:
    """In training, in the average, and after going on from a checkpoint."""
    run = coil_run(prior_every=1, warmup=0)
    first = [parameters_of(run), {name: p.clone() for name, p in run.average.named_parameters()}]
    found = []
    for step in range(3):
        before = parameters_of(run)
        masked, prior = train_step(run, coil_batch(run, step))
        assert masked is not None and prior is not None and bool(torch.isfinite(masked.loss))
        found.append(moved(run, before))
    assert found == [{"guess", "r"}, {"guess", "r"}, {"r"}]  # the third is a second round
    save_checkpoint(tmp_path, run, {})
    run = load_checkpoint(tmp_path, "cpu")
    train_step(run, coil_batch(run, 3))
    for before, model in zip(first, (run.model, run.average), strict=True):
        for name, parameter in model.named_parameters():
            if name != "r.context.0.weight":  # before the first level all is 0
                assert torch.equal(before[name], parameter) != name.startswith("r."), name
    assert run.counters.norm_prior == 0 and run.counters.skipped_masked == 0


def test_step_of_coils_begins_with_total_variation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are drawn without it; what is trained on has it."""
    run, seen = coil_run(), []
    batch = coil_batch(run, 0)

    def watched(model: HVAE, scans: Scans, second: bool = False) -> Rollout:
        seen.append(scans.problem)
        return rollout(model, scans, second)

    monkeypatch.setattr(training, "rollout", watched)
    train_step(run, batch)
    assert torch.equal(seen[0].first, batch.problem.with_tv_initialization().first)
    assert not torch.allclose(seen[0].first, batch.problem.first)


def test_batch_of_coils_depends_on_seed_step_and_rank_alone() -> None:
    run = coil_run()
    first, again = coil_batch(run, 1), coil_batch(coil_run(), 1)
    assert torch.equal(first.kspace, again.kspace) and torch.equal(first.problem.combined, again.problem.combined)
    assert torch.equal(first.problem.sense.maps, again.problem.sense.maps)
    others = coil_batch(run, 2), coil_batch(run, 1, 1), coil_batch(coil_run(seed=1), 1)
    for other in others:
        assert other.kspace.shape != first.kspace.shape or not torch.equal(other.kspace, first.kspace)
    assert {coil_batch(run, step).problem.sense.maps.shape[1] for step in range(10)} == {2, 3, 4}


def test_coils_go_on_from_weights(tmp_path: Path) -> None:
    """Prior, decoder and q stay those of the weights; with r on its own from the start there is none to go on from."""
    train(new_run(**TOGETHER, steps=2), Slices(), tmp_path)
    weights = load_model(str(tmp_path / "weights.safetensors"))
    run = Run.new(MODEL, coil_run().settings, COILS, "cpu", weights)
    train_step(run, coil_batch(run, 0))
    for name, tensor in weights.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], tensor) != name.startswith("r."), name
    with pytest.raises(InputError, match="of several coils alone, starts from weights: set masked_start 0"):
        coil_run(masked_start=3)


def test_training_on_one_batch_of_coils_lowers_its_error() -> None:
    run = coil_run(steps=30, second_every=0, learning_rate=3e-3)
    batch = coil_batch(run, 0)
    losses = []
    for _ in range(12):
        masked, _ = train_step(run, batch)
        assert masked is not None
        losses.append(float(masked.loss.detach()))
    assert losses[-1] < losses[0] - 0.1


def test_guess_of_degraded_images_trains_by_itself() -> None:
    run = degraded_run(guess_only=3)
    before = parameters_of(run)
    for step in range(3):
        masked, prior = train_step(run, degraded_batch(run, step))
        assert masked is not None and prior is None
        assert float(masked.error) == float(masked.guess)
    for name, parameter in run.model.named_parameters():
        assert torch.equal(before[name], parameter) != name.startswith("r.guess."), name


def test_what_r_of_degraded_images_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every eighth step the beginning, every third its own answer, else the guess; while that trains alone, it."""
    run, asked = degraded_run(guess_only=2, prior_every=100, steps=20), []

    def rollout_degraded(model: HVAE, batch: DegradedImages, start: str, guess_only: bool) -> Rollout:
        asked.append((start, guess_only))
        loss = sum(p.sum() for p in model.masked_parameters())
        return Rollout(loss, *[torch.zeros(())] * 3)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "rollout_degraded", rollout_degraded)
    batch = degraded_batch(run, 0)
    for _ in range(17):
        train_step(run, batch)
    assert training.BEGINNING_EVERY == 8 and run.settings.second_every == 3
    starts = ["guess"] * 17
    starts[2::3] = ["round"] * 5
    starts[16] = "beginning"
    assert asked == [(start, step < 2) for step, start in enumerate(starts)]
    assert run.counters.slices == 17 * len(batch.images)


def test_batch_of_degraded_images_depends_on_seed_step_and_rank_alone() -> None:
    run = degraded_run()
    for step in range(3):
        ours, theirs, other = (degraded_batch(run, step, rank) for rank in (0, 0, 1))
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.term.data, theirs.term.data)
        assert not torch.equal(ours.images, other.images)


@pytest.mark.parametrize("second_every", [0, 1, 3])
def test_second_rounds_come_as_often_as_asked_for(second_every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []

    def note(model: HVAE, scans: Scans, second_round: bool) -> Rollout:
        given.append(second_round)
        return rollout(model, scans, second_round)

    monkeypatch.setattr(training, "rollout", note)
    run = new_run(second_every=second_every, **TOGETHER)
    for step in range(6):
        train_step(run, batch_of_step(run, Slices(), step, 0))
    expected = {0: [False] * 6, 1: [True] * 6, 3: [False, False, True, False, False, True]}
    assert given == expected[second_every]


def test_masked_start_0_leaves_r_as_it_was_given() -> None:
    """A run that goes on from trained weights must not throw r away."""
    weights = new_run(seed=5).model
    settings = dataclasses.replace(SETTINGS, **TOGETHER, learning_rate=1e-12)
    run = Run.new(MODEL, settings, SimulationSettings(), "cpu", weights)
    for step in range(2):
        masked, prior = train_step(run, batch_of_step(run, Slices(), step, 0))
        assert masked is not None and prior is not None
    for name, parameter in weights.named_parameters():
        torch.testing.assert_close(dict(run.model.named_parameters())[name], parameter, rtol=0, atol=1e-6)
        torch.testing.assert_close(dict(run.average.named_parameters())[name], parameter, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cascades": 2},
        {"cascades": 0},
        {"guess_widths": (32,)},
        {"guess_widths": (16, 32)},
        {"guess_memory": 4},
        {"noise_floor": 0.05},
    ],
)
def test_weights_to_start_from(changes: dict[str, Any]) -> None:
    """All of them are taken but those of a first guess of another shape; that is drawn anew."""
    weights = new_run(seed=5).model
    model = dataclasses.replace(MODEL, **changes)
    run = Run.new(model, SETTINGS, SimulationSettings(), "cpu", weights)
    fresh = Run.new(model, SETTINGS, SimulationSettings(), "cpu")
    assert run.model.settings == model and run.counters == Counters() and not run.optimizer.state
    given, drawn = dict(weights.named_parameters()), dict(fresh.model.named_parameters())
    taken = 0
    for name, parameter in run.model.named_parameters():
        fits = name in given and given[name].shape == parameter.shape
        assert torch.equal(parameter, given[name] if fits else drawn[name]), name
        assert fits or name.startswith("r.guess.")
        assert parameter.requires_grad
        taken += fits
    assert taken == len(given) if not changes else taken >= sum(not name.startswith("r.guess.") for name in given)
    assert_same(parameters_of(run), dict(run.average.named_parameters()))
    before = {name: parameter.clone() for name, parameter in given.items()}
    train_step(run, batch_of_step(run, Slices(), 0, 0))
    assert_same(before, given)  # they are copied


@pytest.mark.parametrize("changes", [{}, {"widths": (32, 16)}, {"fold": 1, "guess_fold": 2, "layers": 2}])
def test_first_guess_of_other_weights(changes: dict[str, Any]) -> None:
    """The U-Nets are taken, whatever else the model is; all else is drawn as without them."""
    guess = new_run(seed=5).model
    model = dataclasses.replace(MODEL, **changes)
    run = Run.new(model, SETTINGS, SimulationSettings(), "cpu", guess=guess)
    fresh = Run.new(model, SETTINGS, SimulationSettings(), "cpu")
    given, drawn = dict(guess.named_parameters()), dict(fresh.model.named_parameters())
    for name, parameter in run.model.named_parameters():
        assert torch.equal(parameter, (given if name.startswith("r.guess.") else drawn)[name]), name
    assert_same(parameters_of(run), dict(run.average.named_parameters()))


def test_first_guess_where_more_levels_part_the_coarsest_band() -> None:
    """The share of the coarsest band, which is not parted there, counts as that of its largest part."""
    guess = new_run(seed=5).model
    model = dataclasses.replace(MODEL, widths=(16, 16, 16, 16))
    run = Run.new(model, dataclasses.replace(SETTINGS, shapes=((16, 16),)), SimulationSettings(), "cpu", guess=guess)
    kspace, mask = small_kspace(1, 16, 16), calibrated(16).expand(1, 16, 16)
    measured, shares = torch.where(mask, kspace, 0), torch.tensor([0.8, 0.3])
    split = torch.cat((torch.tensor([0.1, 0.9]), shares))
    answers = [
        net.r.guess(measured, measured, given[None, :, None, None], lambda k, _: k)[-1]
        for net, given in ((guess, shares), (run.model, split))
    ]
    torch.testing.assert_close(answers[1], answers[0])


@pytest.mark.parametrize("changes", [{"cascades": 2}, {"cascades": 0}, {"guess_widths": (32, 16)}, {"fold": 1}])
def test_first_guess_that_does_not_fit(changes: dict[str, Any]) -> None:
    model = dataclasses.replace(MODEL, **changes)
    with pytest.raises(
        InputError, match=r"do not fit the model's first guess; set cascades 1, guess_widths \(16, 16\)"
    ):
        Run.new(model, SETTINGS, SimulationSettings(), "cpu", guess=new_run().model)


def test_card_names_the_weights_that_a_run_began_with(
    tmp_path: Path, data: Path, settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also after it was resumed; a resumed run takes no others."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(command(data, first, "--settings", settings, "--steps", "1")) == 0
    weights = first / "weights.safetensors"
    assert "begun" not in load_card(weights)
    words = ("--guess-weights", str(weights), "--settings", str(settings))
    assert main(command(data, second, *words, "--steps", "1")) == 0
    begun = load_card(second / "weights.safetensors")["begun"]
    assert begun == {"first guess": f"weights, SHA-256 {fingerprint(weights)}"}
    assert main(command(data, second, "--resume", "--steps", "2")) == 0
    assert load_card(second / "weights.safetensors")["begun"] == begun
    capsys.readouterr()
    assert main(command(data, second, "--resume", "--guess-weights", str(weights))) == 2
    assert "--guess-weights: a resumed run has weights already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"widths": (16, 32)},
        {"widths": (16, 16, 16)},
        {"widths": (16,), "guess_widths": (16,)},
        {"layers": 2},
        {"latents": 2},
        {"fold": 1},
    ],
)
def test_weights_of_another_shape_are_refused(changes: dict[str, Any]) -> None:
    """Also where the model to train has nothing that the weights lack: half of them would be lost without a word."""
    other = dataclasses.replace(MODEL, **changes)
    settings = dataclasses.replace(SETTINGS, shapes=((16, 16),))
    pairs = [(MODEL, other), (other, MODEL)]
    for of_weights, of_run in pairs:
        weights = Run.new(of_weights, settings, SimulationSettings(), "cpu").model
        with pytest.raises(InputError) as caught:
            Run.new(of_run, settings, SimulationSettings(), "cpu", weights)
        text = str(caught.value)
        assert text.startswith("the weights to start from have ") and "\n" not in text
        assert text.endswith("; give their own model settings")


def test_checkpoints_come_as_often_as_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def note(directory: Path, run: Run, provenance: dict[str, Any]) -> None:
        written.append(run.counters.step)

    monkeypatch.setattr(training, "save_checkpoint", note)
    train(new_run(), Slices(), tmp_path, checkpoint_seconds=-1)
    assert written == [1, 2, 3, 4, 5, 6, 7]
    train(new_run(), Slices(), tmp_path, checkpoint_seconds=1000)
    assert written[7:] == [7]


def test_more_steps_when_resuming(tmp_path: Path) -> None:
    train(new_run(steps=2), Slices(), tmp_path)
    run = load_checkpoint(tmp_path, "cpu", steps=4)
    assert run.settings == dataclasses.replace(SETTINGS, steps=4)
    train(run, Slices(), tmp_path)
    assert run.counters.step == 4 and logged_steps(tmp_path) == [1, 2, 3, 4]


def test_batch_depends_on_seed_step_and_rank_alone() -> None:
    def kspace(step: int, rank: int, **changes: Any) -> torch.Tensor:
        return batch_of_step(new_run(**changes), Slices(), step, rank).kspace

    first = kspace(3, 0)
    torch.manual_seed(99)
    assert torch.equal(first, kspace(3, 0))
    for other in (kspace(4, 0), kspace(3, 1), kspace(3, 0, seed=1)):
        assert first.shape != other.shape or not torch.equal(first, other)
    assert first.shape == kspace(3, 1).shape  # all processes work on one shape
    shapes = {kspace(step, 0).shape[1:] for step in range(20)}
    assert shapes == set(SETTINGS.shapes)
    assert {kspace(step, 0, pixels=1).shape[0] for step in range(3)} == {1}
    assert all(2 <= kspace(step, 0).shape[0] <= 3 for step in range(5))  # 800 pixels


def test_learning_rate() -> None:
    settings = TrainSettings(steps=1000, learning_rate=0.1, warmup=100)
    rates = [learning_rate(settings, step) for step in range(1001)]
    assert rates[0] == pytest.approx(0.001) and rates[49] == pytest.approx(0.05)
    assert rates[99] == rates[100] == pytest.approx(0.1)
    assert rates[550] == pytest.approx(0.05) and rates[1000] == pytest.approx(0.0, abs=1e-9)
    assert rates[325] == pytest.approx(0.05 * (1 + math.sqrt(0.5)))
    assert all(a <= b for a, b in itertools.pairwise(rates[:101]))
    assert all(a >= b for a, b in itertools.pairwise(rates[100:]))
    assert learning_rate(settings, 5000) == pytest.approx(0.0, abs=1e-9)
    assert learning_rate(TrainSettings(steps=10, warmup=0, learning_rate=1.0), 0) == 1.0
    assert learning_rate(TrainSettings(steps=5, warmup=50, learning_rate=1.0), 4) == pytest.approx(0.1)


def test_optimizer_uses_the_schedule() -> None:
    run = new_run()
    for step in range(4):
        train_step(run, batch_of_step(run, Slices(), step, 0))
        assert run.optimizer.param_groups[0]["lr"] == learning_rate(SETTINGS, step)


def warmed_up() -> tuple[Run, torch.Tensor]:
    """Do some steps, so that there is a usual gradient norm."""
    run = new_run(steps=50, second_every=0, **TOGETHER)
    for step in range(5):
        train_step(run, batch_of_step(run, Slices(), step, 0))
    return run, torch.tensor([run.counters.norm_prior, run.counters.norm_masked])


def poison(monkeypatch: pytest.MonkeyPatch, factor: float, group: str) -> None:
    """Multiply the gradients of one group, or of "both", by a factor."""

    def changed_prior(model: Any, *rest: Any) -> PriorTerms:
        terms = prior_terms(model, *rest)
        if group in ("prior", "both"):
            terms.distortion, terms.kl = factor * terms.distortion, factor * terms.kl
        return terms

    def changed_rollout(model: Any, *rest: Any) -> Rollout:
        terms = rollout(model, *rest)
        if group in ("masked", "both"):
            terms.loss = factor * terms.loss
        return terms

    monkeypatch.setattr(training, "prior_terms", changed_prior)
    monkeypatch.setattr(training, "rollout", changed_rollout)


@pytest.mark.parametrize("factor", [1e4, math.inf, math.nan])
@pytest.mark.parametrize("group", ["prior", "masked", "both"])
def test_bad_gradient_is_left_out_and_counted(group: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    run, usual = warmed_up()
    before = state_of(run)
    poison(monkeypatch, factor, group)
    train_step(run, batch_of_step(run, Slices(), 5, 0))
    after = state_of(run)
    counters = run.counters
    skipped = {"prior": counters.skipped_prior, "masked": counters.skipped_masked}
    assert skipped == {name: int(group in (name, "both")) for name in skipped}
    assert counters.step == 6
    for name in before:
        kind, _, parameter = name.partition("/")
        owner = "masked" if parameter.startswith("r.") else "prior"
        if group in (owner, "both") and kind != "average":
            assert torch.equal(before[name], after[name]), name
        elif kind == "step":
            assert after[name] == before[name] + 1
    assert not torch.equal(before["model/start"], after["model/start"]) or group != "masked"
    assert all(bool(torch.isfinite(value).all()) for value in after.values())
    norms = torch.tensor([counters.norm_prior, counters.norm_masked])
    kept = 1.02 * usual if math.isfinite(factor) else usual  # what stays large becomes usual
    affected = torch.tensor([group in ("prior", "both"), group in ("masked", "both")])
    torch.testing.assert_close(norms[affected], kept[affected])

    monkeypatch.undo()
    train_step(run, batch_of_step(run, Slices(), 6, 0))  # and the run goes on
    assert counters.skipped_prior + counters.skipped_masked == (2 if group == "both" else 1)
    assert not torch.equal(state_of(run)["model/start"], after["model/start"])


def test_large_gradient_is_clipped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    run, usual = warmed_up()
    poison(monkeypatch, 1e3, "prior")
    run.settings = dataclasses.replace(run.settings, skip=1e9)
    clipped = run.counters.clipped_prior
    train_step(run, batch_of_step(run, Slices(), 5, 0))
    assert run.counters.clipped_prior == clipped + 1 and run.counters.skipped_prior == 0
    norm = torch.nn.utils.get_total_norm([p.grad for p in run.model.prior_parameters() if p.grad is not None])
    assert float(norm) == pytest.approx(2 * float(usual[0]), rel=1e-4)
    assert run.counters.norm_prior == pytest.approx(1.02 * float(usual[0]), rel=1e-4)


def test_scan_that_is_not_finite_changes_nothing() -> None:
    run, _ = warmed_up()
    before = state_of(run)
    scans = batch_of_step(run, Slices(), 5, 0)
    scans.kspace[0, 3, 4] = torch.nan
    train_step(run, scans)
    after = state_of(run)
    assert run.counters.skipped_prior == run.counters.skipped_masked == 1
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("average/"))
    assert all(bool(torch.isfinite(value).all()) for value in after.values())


def test_average_follows_the_weights() -> None:
    run = new_run(ema=0.9, masked_start=100)
    expected = {name: p.clone().double() for name, p in run.average.named_parameters()}
    assert_same({n: p.detach() for n, p in run.model.named_parameters()}, dict(run.average.named_parameters()))
    for step in range(5):
        train_step(run, batch_of_step(run, Slices(), step, 0))
        decay = min(0.9, (1 + step) / (10 + step))
        for name, parameter in run.model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach().double()
    for name, parameter in run.average.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], rtol=1e-4, atol=1e-6)
        assert not parameter.requires_grad


@pytest.mark.parametrize("bf16", [False, True])
def test_training_on_one_batch_lowers_the_objective(bf16: bool) -> None:
    run = new_run(steps=60, bf16=bf16, warmup=5, **TOGETHER)
    scans = small_scans(2, 16, 24)
    errors, elbos = [], []
    for _ in range(50):
        masked, prior = train_step(run, scans)
        assert masked is not None and prior is not None
        errors.append(float(masked.error.detach()))
        elbos.append(float(prior.elbo.detach()))
    assert np.mean(elbos[-5:]) < np.mean(elbos[:5]) - 1.0
    assert np.mean(errors[-5:]) < np.mean(errors[:5])


def test_masked_posterior_starts_as_q_and_prior_takes_its_turns(tmp_path: Path) -> None:
    run = new_run(steps=7)
    train(run, Slices(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert ["rollout" in line for line in lines] == [True, False, False, True, True, True, True]
    assert ["elbo" in line for line in lines] == [False, True, True, False, True, False, True]
    assert lines[0]["rollout"] == lines[0]["guess"]  # the first guess alone


def test_shapes_must_fit_the_model() -> None:
    with pytest.raises(InputError, match=r"training shape \(16, 18\) is not a multiple of 4; change 'shapes'"):
        new_run(shapes=((16, 16), (16, 18)))


def drop(prefix: str) -> Callable[[Path], None]:
    """Leave the tensors whose names begin so out of the checkpoint."""

    def spoil(path: Path) -> None:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            metadata = {name: text for name, text in file.metadata().items() if name == "state"}  # no SHA-256
        save_file({k: v for k, v in load_file(path).items() if not k.startswith(prefix)}, path, metadata)

    return spoil


def test_posterior_of_degraded_images_by_the_command(
    tmp_path: Path, data: Path, settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes on from weights, whose prior stays; raw k-space is refused, and so is a start as q."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(command(data, first, "--settings", settings, "--steps", "1")) == 0
    weights = first / "weights.safetensors"
    training = {"shapes": [[32, 32]], "steps": 2, "pixels": 1024, "warmup": 0, "guess_only": 1}
    settings.write_text(json.dumps({"model": {"degraded": True}, "training": {**training, "masked_start": 0}}))
    assert main(command(data, second, "--weights", weights, "--settings", settings)) == 0
    given, trained = (
        dict(load_model(str(folder / "weights.safetensors")).named_parameters()) for folder in (first, second)
    )
    changed = {name for name in given if not torch.equal(given[name], trained[name])}
    assert changed and all(name.startswith("r.") for name in changed)
    lines = [json.loads(line) for line in (second / "log.jsonl").read_text().splitlines()]
    assert [len(line["stages"]) for line in lines] == [2, 2]

    settings.write_text(json.dumps({"model": {"degraded": True}, "training": training}))
    capsys.readouterr()
    assert main(command(data, tmp_path / "third", "--weights", weights, "--settings", settings)) == 2
    assert "set masked_start 0" in capsys.readouterr().err
    settings.write_text(json.dumps({"model": {"degraded": True}, "training": {**training, "masked_start": 0}}))
    scan = write_scan(tmp_path / "raw" / "scan.h5")
    assert main(command(scan, tmp_path / "third", "--weights", weights, "--settings", settings)) == 2
    assert "raw k-space is already noisy" in capsys.readouterr().err


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no checkpoint"),
        lambda path: save_file({"a": torch.ones(3)}, path),
        lambda path: save_file({"a": torch.ones(3)}, path, {"state": "{"}),
        lambda path: save_file({"a": torch.ones(3)}, path, {"state": "{}"}),
        drop("model/start"),
        drop("average/q."),
    ],
)
def test_damaged_checkpoint(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(tmp_path, new_run(), {})
    spoil(path)
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path, "cpu")
    text = str(caught.value)
    assert text.startswith(f"{path}: not a checkpoint of this version (") and "\n" not in text
    assert text.endswith("; start the run anew")


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"checkpoint.safetensors: file not found, so there is nothing to resume"):
        load_checkpoint(tmp_path, "cpu")


def test_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    run = new_run()
    save_checkpoint(tmp_path, run, {})
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))  # a write beyond this fails as on a full disk
    try:
        with pytest.raises(InputError) as caught:
            save_checkpoint(tmp_path, run, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "checkpoint.safetensors: cannot be written (" in str(caught.value) and "\n" not in str(caught.value)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [name for name in FILES if name != "log.jsonl"]


def test_log_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(InputError, match=r"log.jsonl: cannot be written"):
        train(new_run(), Slices(), tmp_path)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def keep_signal_handlers() -> Iterator[None]:
    """The command installs handlers of its own."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A JSON with a small network and few small batches."""
    path = tmp_path / "settings.json"
    changes = dataclasses.asdict(SETTINGS) | {"steps": 60}
    content = {"model": dataclasses.asdict(MODEL), "training": changes, "simulation": {"max_acceleration": 6}}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with two slices."""
    from PIL import Image

    (tmp_path / "data").mkdir()
    for k in range(2):
        image = (200 * phantom(40, 36, k) / 1.5).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "data" / f"slice{k}.png")
    return tmp_path / "data"


def command(data: Path, output: Path, *words: str | Path) -> list[str]:
    return ["train", str(data), "--output", str(output), *map(str, words)]


def environment() -> dict[str, str]:
    paths = os.pathsep.join(filter(None, (str(PACKAGE), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def test_killed_and_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path: Path, data: Path, settings: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    words = command(data, killed, "--settings", settings, "--checkpoint-seconds", "0.05")
    process = subprocess.Popen(
        [sys.executable, "-m", "mrihvae", *words],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert main(command(data, whole, "--settings", settings)) == 0
    moment = random.randint(2, 40), random.uniform(0, 0.02)
    log = killed / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= moment[0]):
        time.sleep(0.002)
    while process.poll() is None and not (killed / "checkpoint.safetensors").exists():
        time.sleep(0.002)
    time.sleep(moment[1])
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, (moment, errors)  # it was still at it
    assert not (killed / "training.png").exists()

    assert main(command(data, killed, "--resume", "--checkpoint-seconds", "0.5")) == 0
    for name in ("checkpoint.safetensors", "weights.safetensors"):
        assert_same(load_file(killed / name), load_file(whole / name))
    assert logged_steps(killed) == logged_steps(whole) == list(range(1, 61))
    for output in (killed, whole):
        assert set(FILES) | {"training.png"} <= {path.name for path in output.iterdir()}
        assert (output / "training.png").read_bytes().startswith(b"\x89PNG")
    card = load_card(whole / "weights.safetensors")
    assert card["data"][0]["slices"] == 2 and card["data"][0]["kind"] == "magnitude"
    assert card["simulation"]["max_acceleration"] == 6


def test_settings_file_counts_and_steps_override_it(tmp_path: Path, data: Path, settings: Path) -> None:
    assert main(command(data, tmp_path / "run", "--settings", settings, "--steps", "2")) == 0
    card = load_card(tmp_path / "run" / "weights.safetensors")
    assert card["training"]["steps"] == card["counters"]["step"] == 2
    assert card["training"]["shapes"] == [[16, 24], [24, 16], [16, 16]] and card["model"]["widths"] == [16, 16]


def test_resume_of_a_finished_run_changes_nothing(tmp_path: Path, data: Path, settings: Path) -> None:
    words = command(data, tmp_path / "run", "--settings", settings, "--steps", "2")
    assert main(words) == 0
    before = {name: (tmp_path / "run" / name).read_bytes() for name in FILES}
    assert main(command(data, tmp_path / "run", "--resume")) == 0
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in FILES}
    assert main(command(data, tmp_path / "run", "--resume", "--steps", "3")) == 0
    assert logged_steps(tmp_path / "run") == [1, 2, 3]


def test_signal_and_time_stop_a_run() -> None:
    assert not cli_train.Stop(None)() and not cli_train.Stop(10)()
    assert cli_train.Stop(1e-9)() and cli_train.Stop(0)()
    for number in (signal.SIGTERM, signal.SIGINT):
        stop = cli_train.Stop(None)
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert stop()


def job_of(words: list[str]) -> Run:
    """Make the run of a command, without training it."""
    return cli_train._job(parse(words))


def test_weights_to_start_from_by_the_command(tmp_path: Path, data: Path, settings: Path) -> None:
    first = tmp_path / "first"
    assert main(command(data, first, "--settings", settings, "--steps", "2")) == 0
    weights = first / "weights.safetensors"
    given = dict(load_model(str(weights)).named_parameters())

    job = job_of(command(data, tmp_path / "second", "--weights", weights))
    assert job.model.settings == MODEL and job.counters.step == 0  # the weights' own settings
    assert job.settings == TrainSettings(guess_only=0, masked_start=0, kl_warmup=1)  # all parts are trained already
    assert job.simulation == SimulationSettings()
    assert_same({name: parameter.detach() for name, parameter in job.model.named_parameters()}, given)

    content = {"model": {"cascades": 2}, "training": {"shapes": [[16, 16]], "steps": 1, "pixels": 256, "warmup": 0}}
    settings.write_text(json.dumps(content))
    job = job_of(command(data, tmp_path / "second", "--weights", weights, "--settings", settings))
    assert job.model.settings == dataclasses.replace(MODEL, cascades=2) and job.settings.steps == 1
    assert torch.equal(job.model.start, given["start"])

    assert main(command(data, tmp_path / "second", "--weights", weights, "--settings", settings)) == 0
    trained = dict(load_model(str(tmp_path / "second" / "weights.safetensors")).named_parameters())
    assert torch.equal(trained["start"], given["start"])  # its only step trained the guess
    assert not torch.equal(trained["r.guess.nets.0.head.weight"], given["r.guess.nets.0.head.weight"])


def test_run_goes_on_from_its_weights(
    tmp_path: Path, data: Path, settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the settings and counters of their card; the optimizer is new."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(command(data, first, "--settings", settings, "--steps", "2")) == 0
    weights = first / "weights.safetensors"
    job = job_of(command(data, second, "--go-on", weights, "--steps", "5"))
    card = load_card(weights)
    assert job.counters == Counters(**card["counters"]) and job.counters.step == 2 and job.settings.steps == 5
    assert dataclasses.replace(job.settings, steps=2) == load_checkpoint(first, "cpu").settings
    assert job.simulation == load_checkpoint(first, "cpu").simulation and not job.optimizer.state
    assert_same(parameters_of(job), dict(load_model(str(weights)).named_parameters()))
    assert main(command(data, second, "--go-on", weights, "--steps", "3")) == 0
    assert logged_steps(second) == [3]
    assert load_card(second / "weights.safetensors")["begun"] == {
        "went on from": f"weights, SHA-256 {fingerprint(weights)}"
    }

    capsys.readouterr()
    assert main(command(data, tmp_path / "third", "--go-on", weights, "--settings", settings)) == 2
    assert "--go-on: keeps settings and weights" in capsys.readouterr().err
    assert main(command(data, tmp_path / "third", "--go-on", weights, "--steps", "2")) == 2
    assert "--go-on: these weights have 2 steps already; give more by --steps" in capsys.readouterr().err
    path = weights.with_suffix(".json")
    path.write_text(json.dumps({key: value for key, value in card.items() if key != "counters"}))
    assert main(command(data, tmp_path / "third", "--go-on", weights)) == 2
    assert "its card has no 'counters', so its run is unknown" in capsys.readouterr().err


def test_weights_that_cannot_be_started_from(
    tmp_path: Path, data: Path, settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, weights = tmp_path / "run", tmp_path / "run" / "weights.safetensors"
    assert main(command(data, run, "--settings", settings, "--steps", "1")) == 0
    text = error_of(command(data, run, "--resume", "--weights", weights), capsys)
    assert text == "--weights: a resumed run has weights already; leave this option out"
    other = tmp_path / "other"
    text = error_of(command(data, other, "--weights", "nowhere"), capsys)
    assert text.startswith("nowhere: neither shipped weights")
    settings.write_text('{"model": {"latents": 3}}')
    text = error_of(command(data, other, "--weights", weights, "--settings", settings), capsys)
    assert text.startswith("the weights to start from have another '") and text.endswith("model settings")
    settings.write_text('{"model": {"widths": [16]}}')
    text = error_of(command(data, other, "--weights", weights, "--settings", settings), capsys)
    assert text.startswith(f"{settings}, model: ") and "guess_widths no more than widths" in text
    weights.write_bytes(weights.read_bytes()[:1000])
    text = error_of(command(data, other, "--weights", weights), capsys)
    assert text.startswith(f"{weights}: not a readable safetensors file")
    assert not other.exists()


def test_workers_draw_the_same_batches(tmp_path: Path) -> None:
    for workers in (0, 2):
        train(new_run(steps=4), Slices(), tmp_path / str(workers), workers=workers)
    assert_same(*(load_file(tmp_path / name / "checkpoint.safetensors") for name in ("0", "2")))


def test_stopped_run_leaves_a_checkpoint(tmp_path: Path, data: Path, settings: Path) -> None:
    assert main(command(data, tmp_path / "run", "--settings", settings, "--minutes", "1e-9")) == 0
    assert load_checkpoint(tmp_path / "run", "cpu").counters.step == 1
    assert (tmp_path / "run" / "training.png").exists()


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with one line; return it."""
    capsys.readouterr()
    assert main(words) == 2
    errors = capsys.readouterr().err
    lines = [line for line in errors.replace("\r", "\n").splitlines() if line.startswith("mrihvae")]
    assert len(lines) == 1 and lines[0].startswith("mrihvae: error: ") and "Traceback" not in errors
    assert errors.splitlines()[-1] == lines[0]
    return lines[0].removeprefix("mrihvae: error: ")


def test_resume_refuses_other_settings(
    tmp_path: Path, data: Path, settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(command(data, run, "--settings", settings, "--steps", "1")) == 0
    text = error_of(command(data, run, "--resume", "--settings", settings), capsys)
    assert text == "--settings: a resumed run keeps its settings; leave this option out"
    text = error_of(command(data, run, "--settings", settings), capsys)
    assert text == f"{run}: already holds a run; add --resume, or choose another --output"
    text = error_of(command(data, tmp_path / "other", "--resume"), capsys)
    assert text.startswith(
        f"{tmp_path / 'other' / 'checkpoint.safetensors'}: file not found, so there is nothing to resume"
    )
    (run / "checkpoint.safetensors").write_text("damaged")
    text = error_of(command(data, run, "--resume"), capsys)
    assert text.startswith(f"{run / 'checkpoint.safetensors'}: not a checkpoint of this version (")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "settings.json: not readable as JSON"),
        ("", "settings.json: not readable as JSON"),
        ("3", "settings.json: "),
        ("[]", "settings.json: "),
        ('{"optimizer": {}}', "settings.json: unknown section 'optimizer'; use model, training or simulation"),
        ('{"training": 3}', "settings.json, training: "),
        ('{"training": [1]}', "settings.json, training: "),
        (
            '{"model": {"width": [16]}}',
            "settings.json, model: unknown setting 'width'; the nearest known one is 'widths'",
        ),
        ('{"training": {"lr": 1}}', "settings.json, training: unknown setting 'lr'"),
        ('{"training": {"steps": "many"}}', "settings.json, training: "),
        ('{"simulation": {"noise": [0.1]}}', "settings.json, simulation: "),
        ('{"model": {"widths": [17]}}', "settings.json, model: widths (17,) must be multiples of 16"),
        ('{"model": {"guess_widths": []}}', "settings.json, model: guess_widths () must be multiples of 16"),
        ('{"model": {"widths": [16, 16]}}', "settings.json, model: cascades and guess_memory must be at least 0, and "),
        ('{"training": {"guess_only": -1}}', "settings.json, training: seed, warmup, kl_warmup, guess_only, "),
        (
            '{"model": {"widths": [16, 16], "guess_widths": [16]}, "training": {"shapes": [[18, 16]]}}',
            "training shape (18, 16) is not a multiple of 4; change 'shapes'",
        ),
    ],
)
def test_bad_settings(
    tmp_path: Path, data: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.json"
    path.write_text(content)
    text = error_of(command(data, tmp_path / "run", "--settings", path, "--minutes", "0"), capsys)
    assert message in text
    assert not (tmp_path / "run").exists()


def test_bad_options(tmp_path: Path, data: Path, settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    base = ["--settings", str(settings)]
    text = error_of(command(data, run, "--settings", tmp_path / "none.json"), capsys)
    assert text.startswith(f"{tmp_path / 'none.json'}: ")
    assert "steps" in error_of(command(data, run, "--steps", "0"), capsys)
    assert error_of(command(data, run, *base, "--device", "abacus"), capsys).startswith("--device abacus: ")
    if not torch.cuda.is_available():
        assert error_of(command(data, run, *base, "--device", "cuda"), capsys).startswith("--device cuda: ")
    assert "file not found" in error_of(command(tmp_path / "nowhere", run, *base), capsys)
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "bad.png").write_text("no picture")
    text = error_of(command(tmp_path / "mixed", run, *base), capsys)
    assert text.startswith(f"{tmp_path / 'mixed' / 'bad.png'}: not readable")
    assert "the weight '-2' is not" in error_of(command(Path(f"{data}=-2"), run, *base), capsys)
    assert not run.exists()
    run.write_text("in the way")
    assert "cannot be written" in error_of(command(data, run, *base), capsys)


def work(rank: int, port: int, words: list[str], output: Path) -> None:
    """Be one of two processes as torchrun starts them: train, and write the weights of this process."""

    def keep(job: Run, *rest: Any) -> None:
        train(job, *rest)
        state = {f"model/{name}": p.detach() for name, p in job.model.named_parameters()}
        state |= {f"average/{name}": p for name, p in job.average.named_parameters()}
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, output / f"rank{rank}.safetensors")

    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    os.environ.update(places)
    cli_train.train = keep  # type: ignore
    os._exit(main(words))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_have_the_same_weights(tmp_path: Path, data: Path, settings: Path) -> None:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    words = command(data, tmp_path / "two", "--settings", settings, "--steps", "3", "--accumulate", "2")
    workers = [
        multiprocessing.get_context("fork").Process(target=work, args=(rank, port, words, tmp_path)) for rank in (0, 1)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        worker.kill()
    assert [worker.exitcode for worker in workers] == [0, 0]

    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    assert_same(first, second)
    checkpoint = load_file(tmp_path / "two" / "checkpoint.safetensors")
    assert all(torch.equal(checkpoint[name], tensor) for name, tensor in first.items())
    assert logged_steps(tmp_path / "two") == [1, 2, 3]
    assert main(command(data, tmp_path / "one", "--settings", settings, "--steps", "3")) == 0
    one = load_file(tmp_path / "one" / "checkpoint.safetensors")
    assert not torch.equal(one["model/start"], first["model/start"])  # the other process had a say
    two, alone = (load_card(tmp_path / name / "weights.safetensors")["counters"]["slices"] for name in ("two", "one"))
    assert two == 2 * alone


MIXED = dataclasses.replace(COILS, coils=(1, 4), one_coil=0.5)


def test_batches_of_one_coil_and_of_several_in_one_run() -> None:
    run = Run.new(MODEL, dataclasses.replace(coil_run().settings, guess_only=1, masked_start=4), MIXED, "cpu")
    batches = Batches(run.settings, MIXED, Slices())
    kinds = [batches[step].coils == 1 for step in range(60)]
    assert all(kinds[1:4])  # prior, decoder and q learn from one coil alone
    assert 15 < sum(kinds[4:]) < 41
    without = Batches(run.settings, MIXED, Slices(), guesses=False)  # of no U-Nets the prior trains from the start
    assert all(without[step].coils == 1 for step in range(4))
    coils = {batches[step].coils for step in range(60)} - {1}
    assert coils == {2, 3, 4}


def test_one_run_trains_on_both(tmp_path: Path) -> None:
    """The prior learns from one coil alone; r from both; a run that is resumed does the same."""
    settings = dataclasses.replace(coil_run().settings, guess_only=0, masked_start=0, prior_every=1, steps=6)
    run = Run.new(MODEL, settings, MIXED, "cpu")
    batches = Batches(settings, MIXED, Slices())
    for step in range(6):
        before, batch = parameters_of(run), batches[step]
        masked, prior = train_step(run, batch)
        assert masked is not None and prior is not None
        moved = {name.startswith("r."): [] for name, _ in run.model.named_parameters()}
        for name, parameter in run.model.named_parameters():
            moved[name.startswith("r.")].append(not torch.equal(before[name], parameter))
        assert any(moved[True]) and any(moved[False]) == (batch.coils == 1)


def test_first_guess_of_several_coils_trains_by_itself() -> None:
    run = coil_run(guess_only=2)
    before = parameters_of(run)
    masked, prior = train_step(run, coil_batch(run, 0))
    assert masked is not None and prior is None and float(masked.error) == float(masked.guess)
    for name, parameter in run.model.named_parameters():
        assert torch.equal(before[name], parameter) != name.startswith("r.guess."), name


def test_the_first_guess_is_computed_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    run, calls = new_run(**{**TOGETHER, "prior_every": 1}), []
    guesses = run.model.r.guesses

    def counted(*given: Any) -> Any:
        calls.append(None)
        return guesses(*given)

    monkeypatch.setattr(run.model.r, "guesses", counted)
    train_step(run, Batches(run.settings, run.simulation, Slices())[0])
    assert len(calls) == 1


def test_learning_rate_may_stay_at_its_peak() -> None:
    settings = dataclasses.replace(new_run().settings, steps=1100, warmup=100, learning_rate=1.0, decay=0.2)
    rates = [learning_rate(settings, step) for step in (0, 99, 100, 899, 900, 1000, 1100)]
    assert rates == pytest.approx([0.01, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0], abs=1e-4)
    longer = dataclasses.replace(settings, steps=5000)  # the same steps, taken again: a run may be made longer
    assert [learning_rate(longer, step) for step in (0, 50, 100, 899)] == [
        learning_rate(settings, step) for step in (0, 50, 100, 899)
    ]


def test_one_file_of_weights_reconstructs_one_coil_and_several(tmp_path: Path) -> None:
    settings = dataclasses.replace(coil_run().settings, guess_only=0, masked_start=0, prior_every=1, steps=4)
    train(Run.new(MODEL, settings, MIXED, "cpu"), Slices(), tmp_path)
    logged = [json.loads(line)["coils"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(logged) == 4 and set(logged) <= {1, 2, 3, 4}
    model = load_model(str(tmp_path / "weights.safetensors"))
    kspace, maps, _ = coil_scans(2, 3, 32, 32)
    mask = calibrated(32)
    one = reconstruct(model, torch.where(mask, kspace[:, 0], 0), mask)
    several = reconstruct(model, torch.where(mask, kspace, 0), mask, maps[None])
    assert one.shape == several.shape == (2, 32, 32)
    assert bool(one.abs().isfinite().all()) and bool(several.abs().isfinite().all())
