"""The benchmark of image restoration on small images and an untrained network."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import RandomState

from benchmarks.peers.joint import Joint, JointSettings
from benchmarks.peers.restoration_peers import (
    DenoiserSettings,
    TVSettings,
    WaveletSettings,
    norm_of,
    pnp,
    run,
    total_variation,
    wavelet,
)
from benchmarks.pnp import degraded_images
from benchmarks.pnp.degraded_images import TASKS, Picture, Problem, TaskSettings, degrade, holes, read_pictures
from benchmarks.restoration import run as restoration
from benchmarks.restoration import tables as restoration_tables
from benchmarks.restoration import tuning as restoration_tuning
from benchmarks.restoration import ways as restoration_ways
from mrihvae.model.hvae import HVAE
from mrihvae.model.weights import save_weights
from mrihvae.pnp.restore import restore_images
from mrihvae.pnp.settings import PnPSettings
from tests.support import REPOSITORY
from tests.support.small import SMALL, phantom, small_model

PROTOCOL = REPOSITORY / "protocols" / "restoration.toml"
SMALL_TASK = TaskSettings(noise=(0.05,), width=1.2, factor=2, hole=6)
CHANGES = {
    "deblurring": "noise = [0.02, 0.05]\nwidth = 1.2",
    "inpainting": "noise = [0.05]\nhole = 6",
}


@pytest.fixture(scope="module")
def model() -> HVAE:
    return small_model(settings=dataclasses.replace(SMALL, degraded=True)).eval().requires_grad_(False)


def problem_of(task: str, size: int = 32, noise: float = 0.05) -> Problem:
    image = torch.from_numpy(phantom(size, size))
    return degrade(Picture("phantoms", "a", image), task, noise, SMALL_TASK)


def last(way: Any, problem: Problem, settings: Any, network: Any = None) -> torch.Tensor:
    return [one.image for one in run(way, network, problem, settings)][-1]


# --- images and what is left of them ---------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    from PIL import Image

    for part in ("train", "val"):
        folder = tmp_path / "data" / "pictures" / part
        folder.mkdir(parents=True)
        for k in range(3):
            picture = 200 * phantom(64, 48, seed=k + (10 if part == "val" else 0))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{k}.png")
    return tmp_path / "data"


def test_pictures_are_spread_and_fit(data: Path) -> None:
    found = read_pictures(data, "pictures/val", 2, 32)
    assert [one.name for one in found] == ["0.png, 0", "2.png, 0"]
    for one in found:
        assert one.image.shape == (32, 32) and float(one.image.min()) >= 0
        assert float(torch.quantile(one.image, 0.99)) == pytest.approx(1)
        assert float(one.image[:, :4].abs().max()) == 0  # 64 x 48 becomes 32 x 24, with zeros beside it
    assert len(read_pictures(data, "pictures/val", 5, 32)) == 5


def test_problems_are_always_the_same_and_as_noisy_as_told() -> None:
    for task in TASKS:
        first, second = problem_of(task, 64), problem_of(task, 64)
        assert torch.equal(first.data, second.data)
        error = first.data - first.operator.forward(first.truth)
        kept = error[first.data != 0] if task == "inpainting" else error
        assert float(kept.std()) == pytest.approx(0.05, rel=0.1)
        assert not torch.equal(error, degrade(first.picture, task, 0.1, SMALL_TASK).data)
    known = holes((64, 64), SMALL_TASK, RandomState(1))
    assert 0.4 < float(known.float().mean()) <= 0.5
    assert problem_of("super-resolution").data.shape == (1, 16, 16)


# --- TV and wavelets -------------------------------------------------------------------------------------------------


def variation(image: torch.Tensor) -> torch.Tensor:
    return torch.sqrt(sum((image - image.roll(1, axis)) ** 2 for axis in (-2, -1)) + 1e-14).sum()


def objective(image: torch.Tensor, problem: Problem, strength: float) -> float:
    norm = norm_of(problem.operator, image.shape[1:])
    misfit = (problem.operator.forward(image) - problem.data).square().sum() / norm**2
    return float(0.5 * misfit + strength * variation(image))


@pytest.mark.parametrize("task", TASKS)
def test_total_variation_is_minimal(task: str) -> None:
    problem, strength = problem_of(task), 0.05
    found = last(total_variation, problem, TVSettings(strength, iterations=2000))
    least = objective(found, problem, strength)
    assert least < objective(problem.term.first_image(), problem, strength)
    generator = torch.Generator().manual_seed(0)
    for size in (0.1, 0.01, 0.001):
        for _ in range(5):
            moved = found + size * torch.randn(found.shape, generator=generator)
            assert objective(moved, problem, strength) > least
    for toward in (problem.truth, problem.term.first_image(), torch.ones_like(found)):
        assert objective(found + 0.01 * (toward - found), problem, strength) > least - 1e-4


def test_total_variation_is_that_of_another_method() -> None:
    """A long run of plain projected gradients on the dual problem has the same minimizer."""
    problem, strength = problem_of("denoising"), 0.1
    y, dual = problem.data[0].double(), torch.zeros(2, 32, 32, dtype=torch.float64)

    def back(u: torch.Tensor) -> torch.Tensor:
        return sum((u[axis] - u[axis].roll(-1, axis)) for axis in (0, 1))

    for _ in range(4000):
        x = y - back(dual)
        dual = dual + 0.24 * torch.stack([x - x.roll(1, axis) for axis in (0, 1)])
        dual = dual / (dual.norm(dim=0) / strength).clamp_min(1)
    found = last(total_variation, problem, TVSettings(strength, iterations=1000))
    torch.testing.assert_close(found[0].double(), y - back(dual), rtol=0, atol=2e-3)


def test_wavelets_lower_their_objective() -> None:
    import sigpy

    transform, strength = sigpy.linop.Wavelet((32, 32)), 0.05
    for task in TASKS:
        problem = problem_of(task)
        norm = norm_of(problem.operator, (32, 32))

        def value(image: torch.Tensor, of: Problem = problem, over: float = norm) -> float:
            misfit = (of.operator.forward(image) - of.data).square().sum() / over**2
            return float(0.5 * misfit + strength * np.abs(transform(image[0].numpy())).sum())

        first = problem.term.first_image()
        some, more = (last(wavelet, problem, WaveletSettings(strength, n)) for n in (20, 300))
        assert value(more) <= value(some) + 1e-5 and value(some) < value(first)
    # given complex numbers once, sigpy gives complex ones of real input, too: the peer must not mind
    coefficients = transform(problem_of("denoising").data[0].numpy()).astype(np.complex64)
    thresholded = transform.H(sigpy.thresh.soft_thresh(strength, coefficients)).real
    found = last(wavelet, problem_of("denoising"), WaveletSettings(strength, 1))
    np.testing.assert_allclose(found[0], thresholded, atol=1e-5)


def test_norm_is_that_of_the_largest_singular_value() -> None:
    for task in TASKS:
        operator = problem_of(task, 16).operator
        matrix = operator.forward(torch.eye(256).reshape(256, 16, 16)).flatten(1)
        assert norm_of(operator, (16, 16)) == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-3)


# --- PnP-HVAE and joint descent --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["data", "complete"])
def test_pnp_is_what_the_package_does(model: HVAE, encoder: str) -> None:
    problem = problem_of("deblurring")
    settings = PnPSettings(encoder=encoder, iterations=2, gamma=0.1, tau=0.9, views=2)
    expected = restore_images(model, problem.operator, problem.data, problem.noise, settings)
    found = {tuple(one.settings.values()): one.image for one in run(pnp, model, problem, settings)}
    torch.testing.assert_close(found[2, "decoded"], expected.decoded)
    torch.testing.assert_close(found[2, "image"], expected.image)


def test_joint_descent_reaches_image_and_latents(model: HVAE) -> None:
    problem = problem_of("deblurring")
    descent = Joint(model, problem.term, JointSettings(gamma=0.3))
    _, value = descent.decoded()
    value.sum().backward()
    latents = [z for level in descent.z for z in level]
    assert len(latents) == SMALL.levels * SMALL.layers
    for one in (descent.x, *latents):
        assert one.grad is not None and float(one.grad.abs().max()) > 0
    values = []
    optimizer = torch.optim.Adam([descent.x, *latents], lr=0.003)
    for _ in range(20):
        optimizer.zero_grad()
        _, value = descent.decoded()
        values.append(float(value.detach().sum()))
        value.sum().backward()
        optimizer.step()
    assert values[-1] < values[0]


def test_joint_objective_is_that_of_the_loop(model: HVAE) -> None:
    problem = problem_of("denoising")
    settings = PnPSettings(encoder="complete", iterations=1, gamma=0.2)
    expected = restore_images(model, problem.operator, problem.data, problem.noise, settings)
    scale = degraded_images.image_scale(problem.term.first_image())
    _, value = Joint(model, problem.term.scaled(scale), JointSettings(gamma=0.2)).decoded()
    torch.testing.assert_close(value, expected.objective[0], rtol=1e-4, atol=1e-2)


# --- the benchmark ---------------------------------------------------------------------------------------------------


def test_protocol_is_read() -> None:
    found = restoration_ways.read_protocol(PROTOCOL)
    assert list(found.tasks) == list(TASKS) and list(found.ways) == list(restoration_ways.WAYS)
    assert found.tasks["denoising"].noise == (0.03, 0.05, 0.1) and found.tasks["deblurring"].middle == 0.03
    assert found.ways["joint"].images == 1 and found.ways["joint"].tuned_at(0.01, found.tasks["deblurring"]) == 0.03
    assert found.ways["r"].settings("denoising").encoder == "data"
    assert not set(found.settings.sets) & set(found.settings.tuning)


def test_search_goes_on_where_the_best_is_at_an_end() -> None:
    def score(values: dict[str, float]) -> tuple[float, dict[str, Any]]:
        return -sum((np.log10(value) + 3) ** 2 for value in values.values()), {"iterations": 2}

    grid = {"strength": (0.01, 0.1, 1.0), "h": (0.001, 0.01)}
    best, tried = restoration_tuning.search(grid, score, grows=True)
    assert best == {"strength": pytest.approx(0.001), "h": 0.001}
    assert tried[tuple(best.items())][1] == {"iterations": 2}
    best, _ = restoration_tuning.search(grid, score, grows=False)
    assert best == {"strength": 0.01, "h": 0.001}


def test_tasks_are_tuned_each_for_itself() -> None:
    """Also where all else that results depend on is alike."""
    protocol = restoration_ways.read_protocol(PROTOCOL)
    tasks = dict.fromkeys(protocol.tasks, TaskSettings())
    alike = dataclasses.replace(protocol, tasks=tasks)
    of = {restoration_tuning.tuned_identity(alike, alike.ways["wavelet"], task, 0.03, {"": ""}) for task in tasks}
    assert len(of) == len(tasks) == 4


def test_ways_depend_on_the_part_of_the_network_that_they_have(tmp_path: Path, model: HVAE) -> None:
    found = []
    for part in ("", "r", "q"):
        changed = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in changed.named_parameters():
                parameter += float(part != "" and name.startswith(f"{part}."))
        save_weights(tmp_path / "a.safetensors", changed, {})
        found.append(restoration_ways.fingerprints(changed, tmp_path / "a.safetensors"))
    same, other_r, other_q = found
    assert same["prior"] == other_r["prior"] != other_q["prior"] and len({one["all"] for one in found}) == 3
    kinds = restoration_ways.WAYS
    assert {name for name, kind in kinds.items() if kind.network == "prior"} == {"complete", "joint"}
    assert {name for name, kind in kinds.items() if not kind.network} == {"first", "tv", "wavelet", "denoiser"}


def write_protocol(path: Path, changed: str = "") -> Path:
    tasks = "".join(f"[tasks.{name}]\n{text}\n" for name, text in CHANGES.items())
    path.write_text(
        'sets = ["pictures/val"]\ntuning = ["pictures/train"]\nimages = 2\ntuned_on = 1\nmatrix = 32\n' + tasks +
        "[ways.first]\n"
        "[ways.tv]\niterations = 60\ntuned = { strength = [0.02, 0.05, 0.1] }\n"
        "[ways.wavelet]\niterations = 30\ntuned = { strength = [0.01, 0.03] }\n"
        "[ways.denoiser]\niterations = 2\ntuned = { h = [0.03, 0.06], gamma = [0.05, 0.1] }\n"
        '[ways.pnp]\nencoder = "data"\niterations = 2\ntuned = { gamma = [0.05, 0.1], tau = [0.9, 1.0] }\n'
        '[ways.complete]\nencoder = "complete"\niterations = 2\ntuned = { gamma = [0.05, 0.1] }\n'
        '[ways.r]\niterations = 1\n[ways.unets]\nviews = 2\n'
        "[ways.joint]\nimages = 1\nmiddle = true\nsteps = 4\nevery = 2\ntuned = { step = [0.001, 0.01] }\n" + changed
    )  # fmt: skip
    return path


def test_benchmark_runs_and_resumes(
    tmp_path: Path, data: Path, model: HVAE, capsys: pytest.CaptureFixture[str]
) -> None:
    save_weights(tmp_path / "a.safetensors", model, {})
    call = [str(write_protocol(tmp_path / "small.toml")), "--data", str(data), "--threads", "1"]
    call += ["--checkpoint", str(tmp_path / "a.safetensors"), "--results", str(tmp_path)]
    assert restoration.main(call) == 2
    assert "run with --tune" in capsys.readouterr().err
    assert restoration.main([*call, "--tune", "--tasks", "inpainting"]) == 0
    tuned = tmp_path / "small_tuned.json"
    before = json.loads(tuned.read_text())["rows"]
    assert len(before) == 6 and "dB_to_go" in before[0]
    kept = json.dumps(before[0]).replace(f'"PSNR": {before[0]["PSNR"]}', '"PSNR": 1.25')
    tuned.write_text(tuned.read_text().replace(json.dumps(before[0]), kept))
    assert restoration.main([*call, "--tune"]) == 0
    rows = json.loads(tuned.read_text())["rows"]
    assert rows[0]["PSNR"] == 1.25 and len(rows) == 5 * 3 + 2  # found again, and not measured a second time

    assert restoration.main([*call, "--tasks", "inpainting", "--ways", "tv", "pnp", "--limit", "1"]) == 0
    output = tmp_path / "small.json"
    assert len(json.loads(output.read_text())["rows"]) == 2
    outdated = json.loads(output.read_text())["rows"][1] | {"of": "other settings"}
    text = output.read_text().replace('"way": "tv", "PSNR": ', '"way": "tv", "PSNR": 1')
    output.write_text(text.replace('"rows": [', f'"rows": [\n  {json.dumps(outdated)},'))
    assert restoration.main([*call, "--resume"]) == 0
    found = json.loads(output.read_text())["rows"]
    assert len(found) == 2 * 3 * 8 + 3 and found[0]["PSNR"] > 100
    assert all(np.isfinite(row[key]) for row in found for key in ("PSNR", "SSIM", "seconds"))
    assert {row["way"] for row in found} == set(restoration_ways.WAYS)
    assert len(next(row for row in found if row["way"] == "joint")["trace"]) == 2
    text = (tmp_path / "small.md").read_text()
    assert text.count("joint gradient descent (images: 1)") == 2 and "PnP-HVAE over TV, dB" in text
    for name in ("small.png", "small_psnr.png"):
        assert (tmp_path / name).stat().st_size > 10000


def test_mistakes(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, message in (
        ("[ways.other]\n", "unknown way 'other'"),
        ("[tasks.other]\n", "unknown task 'other'"),
        ("[ways.tv]\nstrenth = 3.0\n", "the nearest known one is 'strength'"),
        ("[ways.tv]\nstrength = 1.0\ntuned = { strength = [1.0, 2.0] }\n", "strength is chosen by the benchmark"),
        ("[ways.tv]\ntuned = { strength = [1.0, -2.0] }\n", "must be above 0"),
        ('sets = ["a"]\ntuning = ["a"]\n', "must not be tuned on"),
        ("[tasks.denoising]\nnoise = [0.0]\n", "must be above 0"),
        ("", "needs [tasks.NAME] and [ways.NAME]"),
    ):
        (tmp_path / "wrong.toml").write_text(text)
        assert restoration.main([str(tmp_path / "wrong.toml"), "--data", str(data)]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="h and gamma must be above 0"):
        DenoiserSettings(h=0)


def test_tables_count_by_hand() -> None:
    def row(way: str, image: str, psnr: float, noise: float = 0.1, **more: Any) -> dict[str, Any]:
        place = {"set": "s", "image": image, "task": "denoising", "noise": noise, "way": way}
        return {**place, "PSNR": psnr, "SSIM": 0.5, "seconds": 2.0, **more}

    rows = [row("tv", "a", 30.0), row("tv", "b", 32.0), row("tv", "a", 28.0, 0.2), row("tv", "b", 30.0, 0.2)]
    rows += [
        row("pnp", "a", 33.0, trace=[[1.0, 32.0], [2.0, 33.0]]),
        row("pnp", "b", 34.0, trace=[[1.0, 33.0], [2.0, 34.0]]),
    ]
    rows += [row("joint", "a", 32.5, trace=[[5.0, 31.0], [20.0, 32.5], [30.0, 32.0]])]
    assert restoration_tables.margin(rows, "denoising", "pnp", "tv") == pytest.approx(2.5)
    found = restoration_tables.race(rows, "denoising", "pnp")
    assert found == {"ratio": 10.0, "reached": 0.0, "margin": 0.5, "problems": 1}  # 32.5 dB after 20 s and after 2 s
    alone = restoration_tables.race([*rows, row("r", "a", 31.5)], "denoising", "r")
    assert alone == {"ratio": 10.0, "reached": 1.0, "margin": -1.0, "problems": 1}  # after 20 s and after all 2 s
    text = restoration_tables.markdown({"rows": rows})
    assert "| TV | 31.00 | 29.00 | **30.00** | 2.00 |" in text and "| PnP-HVAE over TV, dB | +2.50 |" in text
    assert "| seconds of joint descent over those of PnP-HVAE at equal PSNR | 10.0 |" in text
    short = restoration_tables.overview({"rows": rows, "threads": 2})
    assert "| way | denoising: PSNR, SSIM | s / image |" in short and "| TV | 30.00, 0.500 | 2.00 |" in short
    assert "PnP-HVAE" not in short  # has not all of the problems
