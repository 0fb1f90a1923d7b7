"""A run on disk and back: weights, averages, the optimizer's state, counters; and what cannot be gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mrihvae.errors import InputError
from mrihvae.model.weights import load_card, load_model, save_weights
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.run import Counters, Run, TrainSettings, continue_weights, load_checkpoint, save_checkpoint
from mrihvae.utils.notices import collect_notices
from tests.support.small import SMALL, small_model

SETTINGS = TrainSettings(steps=9, shapes=((16, 24), (8, 8)), seed=3)
SIMULATION = SimulationSettings(rotation=7.0)


@pytest.fixture(scope="module")
def run() -> Run:
    """A run after one step, whose averaged weights are others."""
    run = Run.new(SMALL, SETTINGS, SIMULATION, "cpu")
    for parameter in run.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    run.optimizer.param_groups[0]["lr"] = 0.01
    run.optimizer.step()
    run.counters = Counters(step=4, slices=31, seconds=2.5, skipped_masked=2, norm_prior=0.25)
    return run


def test_checkpoint_comes_back_to_the_bit(run: Run, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, run, {"data": ["a"]})
    found = load_checkpoint(tmp_path, "cpu")
    assert (found.settings, found.simulation, found.counters) == (SETTINGS, SIMULATION, run.counters)
    assert found.model.settings == SMALL
    for ours, theirs in ((run.model, found.model), (run.average, found.average)):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    for a, b in zip(run.model.parameters(), found.model.parameters(), strict=True):
        kept, read = run.optimizer.state[a], found.optimizer.state[b]
        assert kept.keys() == read.keys() and all(torch.equal(kept[name], read[name]) for name in kept)
    assert load_checkpoint(tmp_path, "cpu", steps=20).settings == replace(SETTINGS, steps=20)


def test_weights_beside_the_checkpoint_are_the_averaged_ones(run: Run, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, run, {"data": ["a"]})
    weights, card = load_model(str(tmp_path / "weights.safetensors")), load_card(tmp_path / "weights.safetensors")
    for exported, averaged in zip(weights.parameters(), run.average.parameters(), strict=True):
        assert torch.equal(exported, averaged.half().float())
    assert card["data"] == ["a"] and card["counters"]["slices"] == 31 and card["training"]["seed"] == 3


def test_weights_go_on_by_their_card(run: Run, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, run, {})
    found = continue_weights(tmp_path / "weights.safetensors", "cpu", steps=12)
    assert (found.settings, found.simulation) == (replace(SETTINGS, steps=12), SIMULATION)
    assert found.counters == run.counters and not found.optimizer.state  # a fresh optimizer
    for ours, theirs in zip(found.model.parameters(), run.average.parameters(), strict=True):
        assert torch.equal(ours, theirs.half().float())


def test_damaged_weights_beside_a_checkpoint_are_written_again(run: Run, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, run, {"data": ["a"]})
    path = tmp_path / "weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with collect_notices() as notices:
        load_checkpoint(tmp_path, "cpu")
    assert len(notices) == 1 and notices[0].startswith(f"{path}: damaged, ")
    assert notices[0].endswith("; they are written again from the checkpoint")
    with collect_notices() as notices:
        load_checkpoint(tmp_path, "cpu")
    assert not notices and load_card(path)["data"] == ["a"] and load_card(path)["counters"]["slices"] == 31


def test_older_checkpoint_is_resumed_where_the_newest_is_truncated(run: Run, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, run, {})
    later = replace(run, counters=Counters(step=6))
    save_checkpoint(tmp_path, later, {})
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with collect_notices() as notices:
        found = load_checkpoint(tmp_path, "cpu")
    assert found.counters.step == 4 and len(notices) == 1
    assert "checkpoint.previous.safetensors of step 4 is resumed instead" in notices[0]
    for ours, theirs in zip(run.model.parameters(), found.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert load_card(tmp_path / "weights.safetensors")["counters"]["step"] == 6  # those are whole


@pytest.mark.parametrize("name", ["training", "simulation", "counters"])
def test_card_that_does_not_say_how_weights_were_trained(name: str, run: Run, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, run, {})
    path = tmp_path / "weights.safetensors"
    card: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    del card[name]
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=f"its card has no '{name}', so its run is unknown; use --weights"):
        continue_weights(path, "cpu")


def test_new_runs_of_one_seed_are_alike() -> None:
    first, same, other = (Run.new(SMALL, replace(SETTINGS, seed=seed), SIMULATION, "cpu") for seed in (3, 3, 4))
    pairs = list(zip(first.model.parameters(), same.model.parameters(), other.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs) and not all(torch.equal(a, c) for a, _, c in pairs)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), first.average.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in first.average.parameters())


def test_posteriors_of_degraded_images_and_of_coils_start_from_weights(tmp_path: Path) -> None:
    degraded = replace(SMALL, degraded=True)
    for model, simulation in ((degraded, SIMULATION), (SMALL, replace(SIMULATION, coils=(2, 4)))):
        with pytest.raises(InputError, match="of several coils alone, starts from weights: set masked_start 0"):
            Run.new(model, SETTINGS, simulation, "cpu")
    run = Run.new(degraded, replace(SETTINGS, masked_start=0), SIMULATION, "cpu", small_model(settings=degraded))
    trained = {id(p) for p in run.model.parameters() if p.requires_grad}
    assert trained and not trained & {id(p) for p in run.model.prior_parameters()}  # r alone


def test_weights_without_what_training_needs(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", small_model(), {})
    with pytest.raises(InputError, match="a.safetensors: its card has no 'training'"):
        continue_weights(tmp_path / "a.safetensors", "cpu")
