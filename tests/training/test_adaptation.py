"""Adapting to undersampled scans: the prior's bits, never worse by its own check, exact resume, the card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mrihvae.errors import InputError
from mrihvae.model.hvae import HVAE
from mrihvae.model.weights import load_card, load_model, save_weights
from mrihvae.training.adapt_settings import AdaptSettings
from mrihvae.training.adaptation import Adaptation, adapt, check, draw_splits, load_adaptation
from mrihvae.training.self_supervised import UndersampledSlice
from tests.support.small import small_kspace, small_model
from tests.support.small_coils import calibrated, coil_scans

SETTINGS = AdaptSettings(steps=6, held_out=0.4, check_every=2, learning_rate=3e-3, warmup=0, ema=0.5, second_every=2)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> HVAE:
    """Weights as they are on disk, in half precision."""
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_weights(path, small_model(), {})
    return load_model(str(path))


@pytest.fixture(scope="module")
def slices() -> list[UndersampledSlice]:
    """Slices of one coil and of several."""
    lines = calibrated(48)
    one = [torch.where(lines, k, 0) for k in small_kspace(5, 32, 48)]
    found = [UndersampledSlice.of(k, lines, lines, torch.tensor(0.01), None, "one") for k in one]
    kspace, maps, _ = coil_scans(1, 3, 32, 48)
    coils = torch.where(lines, kspace[0], 0)
    return [*found, UndersampledSlice.of(coils, lines, lines, torch.tensor(0.005), maps, "several")]


def stop_after(steps: int) -> Callable[[], bool]:
    calls = iter(range(1, 1000))
    return lambda: next(calls) >= steps


def test_prior_stays_bit_for_bit_and_the_check_is_never_worse(
    start: HVAE, slices: list[UndersampledSlice], tmp_path: Path
) -> None:
    run = Adaptation.new(start, SETTINGS)
    adapt(run, slices, tmp_path, provenance={"begun": {"all": "small"}})
    found = load_model(str(tmp_path / "weights.safetensors"))
    before, after = start.state_dict(), found.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"r"} and run.progress.best_step > 0
    splits = draw_splits(slices, SETTINGS)
    scores = [check(model, slices, splits, SETTINGS) for model in (start, found)]
    assert scores[0] == run.progress.start and scores[1] == pytest.approx(run.progress.best) and scores[1] < scores[0]
    card = load_card(tmp_path / "weights.safetensors")
    assert card["begun"] == {"all": "small"} and card["adapt"]["steps"] == 6
    assert card["check"]["before"] == scores[0] and card["check"]["after"] == run.progress.best
    assert card["counters"]["step"] == run.progress.best_step and card["counters"]["steps"] == 6
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(7)) and ["check" in line for line in log] == [
        True,
        False,
    ] * 3 + [True]


def test_the_start_is_kept_where_nothing_helps(start: HVAE, slices: list[UndersampledSlice], tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, learning_rate=10.0, patience=2)
    run = Adaptation.new(start, settings)
    adapt(run, slices, tmp_path)
    assert run.progress.best_step == 0 and run.progress.best == run.progress.start
    assert run.finished and run.progress.step == 4  # after two checks that were worse
    before, after = start.state_dict(), load_model(str(tmp_path / "weights.safetensors")).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("part", [1, 2, 5])
def test_resumed_run_is_bitwise_the_uninterrupted_one(
    start: HVAE, slices: list[UndersampledSlice], tmp_path: Path, part: int
) -> None:
    whole = Adaptation.new(start, SETTINGS)
    adapt(whole, slices, tmp_path / "whole", provenance={"torch": "x"})
    first = Adaptation.new(start, SETTINGS)
    adapt(first, slices, tmp_path / "parts", stop=stop_after(part), provenance={"torch": "x"})
    assert first.progress.step == part and not first.finished
    second, provenance = load_adaptation(tmp_path / "parts", start)
    assert provenance == {"torch": "x"}
    torch.manual_seed(1234)
    adapt(second, slices, tmp_path / "parts", provenance=provenance)
    assert dataclasses.replace(second.progress, seconds=0) == dataclasses.replace(whole.progress, seconds=0)
    for name in ("checkpoint.safetensors", "weights.safetensors"):
        ours, theirs = load_file(tmp_path / "parts" / name), load_file(tmp_path / "whole" / name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    lines = [[{**json.loads(line), "seconds": 0} for line in log] for log in logs]
    assert lines[0] == lines[1]


def test_seed_decides_everything(start: HVAE, slices: list[UndersampledSlice], tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = Adaptation.new(start, dataclasses.replace(SETTINGS, steps=2, seed=seed))
        adapt(run, slices, tmp_path / name)
        found.append(torch.cat([p.detach().flatten() for p in run.model.masked_parameters()]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_checkpoint_of_another_kind(start: HVAE, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        load_adaptation(tmp_path, start)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "checkpoint.safetensors", {"state": "{}"})
    with pytest.raises(InputError, match="not a checkpoint of 'mrihvae adapt'"):
        load_adaptation(tmp_path, start)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps, check_every, patience and most_checked must be at least 1"),
        ({"seed": -1}, "warmup, second_every and seed must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate and clip must be above 0"),
        ({"held_out": 1.0}, "held_out and check_share must be in"),
    ],
)
def test_bad_settings(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SETTINGS, **change)
