"""The studies of PnP-HVAE on small untrained networks: what they measure, checked by hand, and that they run."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.pnp import contraction, magnitudes, temperatures
from benchmarks.pnp.degraded_images import TASKS, TaskSettings
from mrihvae.model.weights import save_weights
from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.degradations import Inpainting, denoising
from mrihvae.physics.scaling import image_scale
from mrihvae.pnp.loop import Restored
from tests.support import REPOSITORY
from tests.support.small import SMALL, phantom, small_model

PROTOCOLS = REPOSITORY / "protocols"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    from PIL import Image

    for part in ("train", "val"):
        folder = tmp_path / "data/pictures" / part
        folder.mkdir(parents=True)
        for k in range(3):
            picture = (200 * phantom(64, 48, k)).clip(0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / f"{k}.png")
    return tmp_path / "data"


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    settings = dataclasses.replace(SMALL, widths=(16, 16), layers=1, degraded=True)
    save_weights(tmp_path / "a.safetensors", small_model(settings=settings), {})
    return str(tmp_path / "a.safetensors")


def call(tmp_path: Path, data: Path, checkpoint: str, protocol: str) -> list[str]:
    (tmp_path / "study.toml").write_text(protocol)
    options = ["--data", str(data), "--checkpoint", checkpoint, "--threads", "1", "--results", str(tmp_path)]
    return [str(tmp_path / "study.toml"), *options]


def results_of(tmp_path: Path) -> dict[str, Any]:
    assert (tmp_path / "study.md").stat().st_size > 300 and (tmp_path / "study.png").stat().st_size > 10000
    return dict(json.loads((tmp_path / "study.json").read_text()))


def test_protocols_are_read() -> None:
    settings, degradation = contraction.read_settings(PROTOCOLS / "pnp_contraction.toml")
    assert settings.taus == (1.0, 0.95, 0.9, 0.8, 0.6, 0.3) and settings.loop_iterations >= 50
    assert (degradation.factor, degradation.hole) == (4, 8)
    settings, degradation = temperatures.read_settings(PROTOCOLS / "pnp_temperature.toml")
    assert len(settings.temperatures) == 8 and settings.temperatures[-1] == (1.0, 0.6)
    settings, loops = magnitudes.read_settings(PROTOCOLS / "pnp_magnitudes.toml")
    assert {name: loop.encoder for name, loop in loops.items()} == {"data": "data", "complete": "complete"}
    assert settings.noises == (0.05, 0.1, 0.2) and len(loops) == 2


# --- contraction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_degraded_images_have_the_noise_asked_for(task: str, data: Path) -> None:
    pictures = contraction.read_images(data, ["pictures/val", "pictures/train"], 1, 64)
    settings = TaskSettings(hole=8)
    term = contraction.degraded(pictures, task, 0.1, settings)
    images = contraction.stacked(pictures)
    torch.testing.assert_close(image_scale(images), torch.ones(2))
    torch.testing.assert_close(temperatures.consistency(images, term), torch.ones(2), rtol=0.1, atol=0)
    assert torch.equal(term.data[:1], contraction.degraded(pictures[:1], task, 0.1, settings).data)
    scaled, scale = contraction.in_model_units(term)
    torch.testing.assert_close(image_scale(scaled.first_image()), torch.ones(2))
    torch.testing.assert_close(scaled.noise * scale, torch.full((2,), 0.1))


def test_runs_are_summed_up() -> None:
    """Two starts that come nearer by half at each iteration, and two that stay apart."""
    halves = [torch.tensor([2.0**-k, -(2.0**-k)])[:, None, None] + torch.ones(1, 2, 2) for k in range(1, 13)]

    def found(ratio: float, objective: list[float]) -> Restored:
        steps = [torch.full((2,), ratio**k) for k in range(1, 13)]
        values = [torch.full((2,), value) for value in objective]
        ratios = [torch.full((2,), ratio)] * 11
        return Restored(halves[-1], halves[-1], values, values, steps, ratios, diverged=torch.zeros(2).bool())

    falling = [10.0 + 2.0**-k for k in range(12)]
    away = dataclasses.replace(found(0.5, falling), diverged=torch.tensor([True, False, False]))
    assert not contraction.summary(away, halves)["contracts"]
    near = contraction.summary(found(0.5, falling), halves)
    assert near["late_ratio"] == pytest.approx(0.5) and near["contracts"] and near["held"] and near["monotone"]
    assert near["distance"] == pytest.approx(2 * 2**-12 / (1 + 2**-12)) and near["rise"] == 0
    assert near["reach"] == pytest.approx(2 * 2**-12) and len(near["curves"]["distance"]) == 12
    far = contraction.summary(found(0.9, [*falling[:-1], 10.5]), [halves[0]] * 12)
    assert far["contracts"] and not far["held"] and not far["monotone"]
    assert far["rise"] == pytest.approx(0.5, abs=2e-3)
    uneven = found(0.5, falling)
    uneven.ratio[-2:] = [torch.tensor([1.0, 1.0]), torch.tensor([0.25, 1.0])]  # one start's shrink on average
    uneven.residual[-1] = torch.tensor([0.5**12, 1e-7])  # a step that is rounding does not count
    assert contraction.summary(uneven, halves)["late_ratio"] == pytest.approx(0.5 ** (4 / 5))
    apart = contraction.summary(found(1.1, falling), [halves[0]] * 12)
    assert not apart["contracts"] and apart["held"] and apart["reach"] is None


def test_contraction_runs(tmp_path: Path, data: Path, checkpoint: str) -> None:
    protocol = (
        'sets = ["pictures/val"]\nmatrix = 16\ntaus = [1.0, 0.5]\nnoises = [0.05]\npairs = 1\n'
        "first_steps = 2\nsteps = 1\nloop_tau = [0.5]\nloop_iterations = 4\n[task]\nhole = 4\n"
    )
    assert contraction.main(call(tmp_path, data, checkpoint, protocol)) == 0
    results = results_of(tmp_path)
    assert (tmp_path / "pnp_convergence.png").stat().st_size > 10000
    tasks = len(TASKS)
    assert len(results["ratios"]) == 2 * (2 * tasks + 1 + tasks) and len(results["norms"]) == 2 * (1 + 3 * tasks)
    assert all(row["mean"] <= row["max"] * 1.000001 for row in results["ratios"])
    assert len(results["runs"]) == 2 * tasks
    assert all(len(run["curves"]["residual"]) == 4 and len(run["diverged"]) == 3 for run in results["runs"])
    (tmp_path / "bad.toml").write_text("taus = [1.5]\n")
    assert contraction.main([str(tmp_path / "bad.toml"), "--data", str(data), "--checkpoint", checkpoint]) == 2
    assert contraction.main(call(tmp_path, data, "default", protocol)) == 2


# --- temperatures ----------------------------------------------------------------------------------------------------


def test_psnr_and_consistency() -> None:
    truth = torch.zeros(1, 4, 4)
    truth[0, 0, 0] = 2
    assert float(temperatures.psnr(truth + 0.2, truth)) == pytest.approx(20)
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 0] = True  # 4 of 16 pixels are known
    for operator in (Inpainting(mask), denoising()):
        term = LeastSquares(operator, operator.forward(truth), torch.tensor([0.1]), real=True)
        assert float(temperatures.consistency(truth + 0.2, term)) == pytest.approx(2)


def test_best_temperature_is_recommended() -> None:
    names = ("tau", "tau_finest", "decoded_PSNR", "image_PSNR", "image_consistency")
    numbers = ((1.0, 1.0, 32.0, 29.0, 1.0), (0.8, 0.8, 29.0, 31.0, 1.1), (1.0, 0.6, 32.5, 28.0, 1.2))
    cell = {"encoder": "data", "task": "denoising", "noise": 0.1, "result": "image"}
    (best,) = temperatures.best_of([{**cell, **dict(zip(names, row))} for row in numbers])
    assert (best["tau"], best["tau_finest"], best["result"], best["train_gain_dB"]) == (0.8, 0.8, "image", 2.0)
    val = [{**cell, **dict(zip(names, row))} for row in ((1.0, 1.0, 0.0, 20.0, 1.0), (0.8, 0.8, 0.0, 19.5, 1.3))]
    found = temperatures.gains(best, val)
    assert (found["val_PSNR"], found["val_gain_dB"], found["val_consistency"]) == (19.5, -0.5, 1.3)


def test_temperatures_run(tmp_path: Path, data: Path, checkpoint: str) -> None:
    protocol = (
        'sets = ["pictures"]\nmatrix = 16\nnoises = [0.1]\nconstant = [1.0, 0.5]\nfinest = [0.8]\n[task]\nhole = 4\n'
    )
    assert temperatures.main(call(tmp_path, data, checkpoint, protocol)) == 0
    results = results_of(tmp_path)
    assert len(results["train"]) == 2 * len(TASKS) * 3 and len(results["recommended"]) == 8
    assert all(row["train_gain_dB"] >= 0 for row in results["recommended"])
    assert (tmp_path / "study.md").read_text().count("\n| data") == 3 * len(TASKS)
    for text in ("constant = [0.5]\n", "[data]\ntau = 0.5\n", "[task]\nnoise = [0.1]\n"):  # not 1; chosen; chosen
        assert temperatures.main(call(tmp_path, data, checkpoint, text)) == 2


# --- magnitudes ------------------------------------------------------------------------------------------------------


def test_magnitudes_are_in_model_units() -> None:
    images = torch.from_numpy(np.stack([phantom(64, 64, seed) for seed in range(2)]))
    truth, given = magnitudes.magnitudes(images, 0.2, seed=1)
    torch.testing.assert_close(image_scale(given), torch.ones(2), rtol=2e-3, atol=0)
    power = (given**2 - truth**2).mean(dim=(1, 2))  # of |x + n|^2 it is that of x and n
    torch.testing.assert_close(power, torch.full((2,), 0.04), rtol=0.2, atol=0)
    dark = magnitudes.scores(given, truth, 0.2)["bias"]
    assert dark == pytest.approx(math.sqrt(math.pi) / 2, abs=0.05)  # Rayleigh's mean


def test_adam_finds_the_phase_free_step() -> None:
    settings = magnitudes.MagnitudeSettings(steps=200)
    given = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    found = magnitudes.methods("unknown phase", "data", given, 0.1, settings)
    v = given * torch.exp(torch.tensor(0.7j)) + 0.1
    exact, adam = (found[name][0].prox(v, 0.1) for name in ("phase-free", "phase-free, by Adam"))
    torch.testing.assert_close(adam, exact, rtol=0, atol=2e-3)
    assert "Rician, r sees corrected data" not in magnitudes.methods("real images", "complete", given, 0.1, settings)


def test_magnitudes_run(tmp_path: Path, data: Path, checkpoint: str) -> None:
    protocol = (
        'sets = ["pictures/val"]\nmatrix = 16\nslices = 1\nnoises = [0.1, 0.2]\nsteps = 3\n'
        "[data]\niterations = 1\n[complete]\niterations = 2\n"
    )
    assert magnitudes.main(call(tmp_path, data, checkpoint, protocol)) == 0
    rows = results_of(tmp_path)["rows"]
    assert len(rows) == 2 * (1 + 3 + 2 + 1 + 4 + 4)
    assert all(math.isfinite(row["PSNR"]) for row in rows)
