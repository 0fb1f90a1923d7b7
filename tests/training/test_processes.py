"""Several processes train as one does: the same losses and decisions, and after a kill from the last checkpoint."""

from __future__ import annotations

import dataclasses
import itertools
import math
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from benchmarks.training import processes as benchmark
from benchmarks.training.processes import MODEL, SETTINGS, Blobs, compare, kill_worker, together
from mrihvae.errors import InputError
from mrihvae.training import loop, processes
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.loop import Batches, train
from mrihvae.training.objective import PriorTerms, Rollout
from mrihvae.training.processes import any_process, average_terms, check_agreement, join, rank, share_of, world
from mrihvae.training.run import Run, TrainSettings

FORK = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
ALL = dataclasses.replace(SETTINGS, steps=4, warmup=1, guess_only=0, masked_start=0, prior_every=1, second_every=0)
SEVERAL = SimulationSettings(coils=(1, 2))


@pytest.fixture(autouse=True)
def single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute Muon's matrices in single precision: bfloat16 turns rounding into differences of 1e-4."""
    monkeypatch.setenv("MRIHVAE_PRECISION", "float32")


@FORK
def test_losses_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    """Nor do runs that are stopped, and resumed by another number."""
    rows = compare(tmp_path, dataclasses.replace(SETTINGS, steps=12, guess_only=1, masked_start=4), (1, 2))
    assert [row["processes"] for row in rows] == ["1", "2", "1, 2, 1"]
    for row in rows:
        assert row["steps"] == 12
        assert row["losses"] < 1e-5 and row["weights"] < 1e-4


def test_one_process_with_accumulation_takes_the_mean_gradient() -> None:
    """Against gradients of its micro-batches, each by itself."""
    two = Run.new(MODEL, dataclasses.replace(ALL, accumulate=2), SimulationSettings(), "cpu")
    batches = Batches(two.settings, two.simulation, Blobs())
    gradients = []
    for index in range(2):
        one = Run.new(MODEL, dataclasses.replace(ALL, accumulate=2), SimulationSettings(), "cpu")
        loop._add_gradient(one, loop.StepLosses(one), batches[index], index, 1)
        gradients.append([parameter.grad for parameter in one.model.parameters()])
    loop.train_step(two, batches[0], batches[1])
    for parameter, first, second in zip(two.model.parameters(), *gradients):
        assert parameter.grad is not None and first is not None and second is not None
        torch.testing.assert_close(parameter.grad, (first + second) / 2, rtol=1e-4, atol=1e-6)
    assert two.counters.slices == sum(loop._slices(batches[index]) for index in range(2))


def finish(directory: Path, settings: TrainSettings, simulation: SimulationSettings, degraded: bool = False) -> None:
    """Train by all steps; the processes must have the same weights, averages and counters."""
    run = Run.new(dataclasses.replace(MODEL, degraded=degraded), settings, simulation, "cpu")
    train(run, Blobs(), directory)
    state = [float(p.detach().double().sum()) for p in (*run.model.parameters(), *run.average.parameters())]
    check_agreement({"state": state, "counters": dataclasses.replace(run.counters, seconds=0.0)}, "run")


@FORK
@pytest.mark.parametrize("kind", ["coils", "degraded", "bf16"])
def test_every_kind_of_step(kind: str, tmp_path: Path) -> None:
    """Micro-batches of one coil and of two in one step, of which the former alone train the prior, among them."""
    settings, simulation = ALL, SimulationSettings()
    if kind == "coils":
        simulation = SEVERAL
        batches = Batches(settings, simulation, Blobs())
        coils = [[batches[4 * step + k].coils for k in range(4)] for step in range(4)]
        assert any(len(set(step)) == 2 for step in coils)
    if kind == "degraded":
        settings = dataclasses.replace(settings, shapes=((32, 32),), second_every=2)
    if kind == "bf16":
        settings = dataclasses.replace(settings, bf16=True)
    for count in (1, 2):
        together(count, finish, tmp_path / str(count), settings, simulation, kind == "degraded")
    if kind != "bf16":
        one, two = (load_file(tmp_path / str(count) / "checkpoint.safetensors") for count in (1, 2))
        assert one.keys() == two.keys()  # parameters that no process trains have no momentum
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)


def poison(directory: Path) -> None:
    """Train, with a gradient of one process alone that is not finite; all must leave the step out."""
    run, prior_terms = Run.new(MODEL, ALL, SimulationSettings(), "cpu"), loop.prior_terms

    def infinite(*given: Any) -> PriorTerms:
        terms = prior_terms(*given)
        if rank() == 1 and run.counters.step == 2:
            terms.distortion = math.inf * terms.distortion
        return terms

    loop.prior_terms = infinite  # of this process alone, which ends with it
    train(run, Blobs(), directory)
    assert run.counters.skipped_prior == 1 and run.counters.skipped_masked == 0
    assert all(bool(torch.isfinite(parameter).all()) for parameter in run.model.parameters())
    state = [float(parameter.detach().double().sum()) for parameter in run.model.parameters()]
    check_agreement({"state": state}, "run")


@FORK
def test_step_is_left_out_by_all_processes(tmp_path: Path) -> None:
    together(2, poison, tmp_path)


def agree() -> None:
    """Ask the other process."""
    assert world() == 2 and any_process(rank() == 1) and not any_process(False)
    check_agreement({"step": 3}, "run")
    with pytest.raises(
        InputError, match=r"^run: process 1 has a run at step 1, and process 0 has 0; give all the same"
    ):
        check_agreement({"a run at step": rank()}, "run")
    value = torch.tensor(float(rank()))
    mean = average_terms([Rollout(value, value, 2 * value, value, (value, value + 1), torch.ones(2))])
    assert float(mean.loss) == 0.5 and float(mean.guess) == 1.0 and mean.completed is None
    assert [float(stage) for stage in mean.stages] == [0.5, 1.5]
    dist.barrier()


@FORK
def test_processes_ask_each_other() -> None:
    together(2, agree)


def test_one_process_is_by_itself() -> None:
    assert (world(), rank(), join("cpu"), share_of(3)) == (1, 0, "cpu", 3)
    assert any_process(True) and not any_process(False)
    check_agreement({"step": 3}, "run")


def test_micro_batches_that_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "world", lambda: 4)
    assert share_of(8) == 2
    for accumulate in (1, 6):
        with pytest.raises(InputError) as caught:
            share_of(accumulate)
        assert str(caught.value) == (
            f"accumulate {accumulate}: 4 processes cannot share {accumulate} micro-batches per step evenly; start a "
            "number of processes that divides it, or give a multiple of theirs with --accumulate"
        )


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "--device cuda: more processes than the 1 GPUs here; set --nproc-per-node 1"),
        ("cuda:0", "--device cuda:0: is one GPU for all processes; give cuda, and each takes one"),
    ],
)
def test_gpus_that_processes_cannot_take(device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError) as caught:
        join(device)
    assert str(caught.value) == message


def test_restarts_find_no_addresses_of_dead_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents of torchrun may keep one store over restarts."""
    for name in ("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert processes._prefix_of_attempt() == "0"
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert processes._prefix_of_attempt() == "2"
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    with pytest.raises(InputError, match="set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before it and --rdzv-backend c10d"):
        join("cpu")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert processes._prefix_of_attempt() == "2"


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_processes_share_each_step(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each micro-batch is drawn once, and by the same process in every step."""
    run = Run.new(MODEL, dataclasses.replace(ALL, accumulate=6), SimulationSettings(), "cpu")
    run.counters.step = 2
    monkeypatch.setattr(Batches, "__getitem__", lambda self, number: number)
    monkeypatch.setattr(loop, "world", lambda: count)
    drawn = []
    for place in range(count):
        monkeypatch.setattr(loop, "rank", lambda place=place: place)
        numbers: Callable[..., Any] = loop._draw_batches
        drawn.append(list(numbers(run, Blobs(), 0)))
        assert {number % 6 % count for number in drawn[-1]} == {place}
    assert sorted(itertools.chain(*drawn)) == list(range(12, 24))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by /proc")
def test_killed_worker_costs_one_interval_between_checkpoints(tmp_path: Path) -> None:
    killed = kill_worker(tmp_path, steps=45)
    assert 15 < killed["killed after step"] < 45 and killed["resumed from step"] > 0
    assert killed["seconds lost"] <= benchmark.INTERVAL + killed["longest step, seconds"]
