"""The benchmarks of IA-HVAE on small untrained networks: what they measure, checked by hand, and that they run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.common import complete_scans, frechet
from benchmarks.common.complete_scans import dimensions, draw_scans, evidence_bounds, log_prior, objective_of
from benchmarks.ia_hvae import inference_quality, inference_time, inverse_problems, objective_time
from benchmarks.training import publish
from mrihvae.model.weights import save_weights
from tests.support import REPOSITORY
from tests.support.small import SMALL, small_model

PROTOCOLS = REPOSITORY / "protocols"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    from PIL import Image

    folder = tmp_path / "data" / "pictures"
    folder.mkdir(parents=True)
    y, x = np.linspace(-1, 1, 64)[:, None], np.linspace(-1, 1, 64)
    for k in range(3):
        picture = 200 * (y**2 + (x / (0.6 + 0.1 * k)) ** 2 < 0.7) + 50 * (np.abs(x - 0.1 * k) < 0.2)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{k}.png")
    return tmp_path / "data"


def weights(path: Path, **changes: bool) -> str:
    model = small_model(settings=dataclasses.replace(SMALL, **changes))
    save_weights(path, model, {})
    return str(path)


def test_protocols_are_read() -> None:
    settings, refinement = inference_time.read_settings(PROTOCOLS / "ia_hvae_time.toml")
    assert settings.layers == (1, 2, 5, 10, 20) and refinement.loss == "l1" and refinement.rule == "gradient"
    assert len(settings.widths) == 8 and settings.shape == (128, 128)
    for name in ("ia_hvae_quality.toml", "ia_hvae_quality_real.toml"):
        assert inference_quality.read_settings(PROTOCOLS / name)[0].sweeps == (5, 10, 20, 25, 50)
    assert len(objective_time.read_settings(PROTOCOLS / "ia_hvae_objective.toml")[1]) == 10
    assert inverse_problems.read_settings(PROTOCOLS / "ia_hvae_inverse.toml")[0].measured == 8


def test_weights_of_benchmarks_are_published_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save_weights(run / "weights.safetensors", small_model(), {"data": [{"path": "t1ce/train"}], "steps": 3})
    numbers = {"skipped_prior": 0, "skipped_masked": 0, "distortion": 1.0, "matching": [0.0], "active": [1.0]}
    log = [json.dumps({"step": n, "elbo": 1.0 / n, "kl": [0.1], **numbers}) for n in (1, 2)]
    (run / "log.jsonl").write_text("\n".join(log) + "\n")
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(publish, "HERE", tmp_path)
    monkeypatch.setattr(publish, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(complete_scans, "HERE", tmp_path)
    publish.publish(run, "mine", "a note")
    card = json.loads((tmp_path / "weights/mine.json").read_text())
    assert card["note"] == "a note" and "CC BY" in card["data"][0]["license"] and card["steps"] == 3
    assert complete_scans.weights_of(None, "mine") == str(tmp_path / "weights/mine.safetensors")
    assert complete_scans.weights_of(None, "default") == "default"
    assert complete_scans.weights_of("other.safetensors", "mine") == "other.safetensors"
    assert (tmp_path / "results/train_mine.png").stat().st_size > 5000


# --- seconds over depth ----------------------------------------------------------------------------------------------


def test_predicted_costs_count_layers() -> None:
    """Methods 3, where all layers cost the same: L (L + 1) / 2, L, L (K + 1) / 2 and L."""
    settings = inference_time.TimeSettings(widths=(64, 32, 16))  # half the width at four times the pixels
    depth = 3 * 4
    found = [inference_time.predicted_cost(settings, 4, decoder, order) for decoder, order in inference_time.WAYS]
    assert found == [depth * (depth + 1) / 2, depth, depth * (4 + 1) / 2, depth]


def test_time_runs(tmp_path: Path) -> None:
    protocol = tmp_path / "time.toml"
    protocol.write_text(
        "shape = [16, 16]\nwidths = [16, 16, 16]\nlayers = [1, 2]\nsweeps = 3\ndeepest = 1\n"
        '[refinement]\nrule = "gradient"\nloss = "l1"\nstep = 1e-6\n'
    )
    assert inference_time.main([str(protocol), "--threads", "1", "--results", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "inference_time.json").read_text())
    assert [(row["depth"], row["decoder"], row["order"]) for row in results["rows"]] == [
        (3 * k, *way) for k in (1, 2) for way in inference_time.WAYS
    ]
    assert [row["steps_run"] for row in results["rows"]] == [3, 3, 3, 3, 2, 2, 2, 2]
    assert all(row["amortized_seconds"] > 0 for row in results["rows"])
    assert (tmp_path / "inference_time.png").stat().st_size > 5000
    assert (tmp_path / "inference_time.md").read_text().count("\n| ") == 8


# --- quality ---------------------------------------------------------------------------------------------------------


def test_as_many_scans_as_asked_for(data: Path) -> None:
    batches = draw_scans(small_model(), [data / "pictures"], (32, 32), slices=5, batch=2, seed=9)
    assert [len(scans.noise) for scans in batches] == [2, 2, 1] == [len(scans.kspace) for scans in batches]


def test_bound_of_amortized_inference_is_the_elbo(data: Path) -> None:
    """With one sample it is the one that training computes, of another draw; more samples weigh better ones more."""
    from mrihvae.inference.encoders import CompleteEncoder
    from mrihvae.inference.latents import infer, likelihood_std
    from mrihvae.inference.settings import RefinementSettings
    from mrihvae.training.objective import prior_terms

    model = small_model().requires_grad_(False)
    (scans,) = draw_scans(model, [data / "pictures"], (32, 32), slices=4, batch=4, seed=9)
    s, everywhere = likelihood_std(model, scans.noise), torch.ones(scans.kspace.shape, dtype=torch.bool)
    q = CompleteEncoder(model, scans.kspace)
    found = infer(model, q, scans.kspace, everywhere, s, RefinementSettings(sweeps=0))
    torch.manual_seed(0)
    single, many = evidence_bounds(model, q, found, scans, s, 40)
    elbos = []
    for seed in range(40):
        torch.manual_seed(seed)
        elbos.append(float(prior_terms(model, scans, matched=False).elbo))
    error = float(np.std(elbos)) / 40**0.5
    assert float(single.mean()) == pytest.approx(float(np.mean(elbos)), abs=8 * error + 1e-3)
    assert bool((many < single).all())
    found.latents[0][0] = found.latents[0][0] * 1e38  # the decoder's numbers overflow: no bound, and no error
    assert all(bool(torch.isposinf(bound).all()) for bound in evidence_bounds(model, q, found, scans, s, 2))


def test_results_have_no_infinity(tmp_path: Path) -> None:
    rows = [{"nll": float("inf"), "steps": [float("nan"), 1.5]}, {"nll": -1}]
    complete_scans.write_results(tmp_path / "a.json", {"rows": rows}, "table")
    assert json.loads((tmp_path / "a.json").read_text())["rows"] == [{"nll": None, "steps": [None, 1.5]}, {"nll": -1}]
    assert (tmp_path / "a.md").read_text() == "table"


def test_latents_of_the_prior_have_its_entropy() -> None:
    from mrihvae.inference.latents import generate

    model = small_model().requires_grad_(False)
    found = generate(model, 4, (32, 32), seed=1)
    entropy = []
    state = model.begin(4, (32, 32))
    for j in range(SMALL.levels):
        state = model.upsample_state(j, state)
        for layer, z in zip(model.layers(j), found.latents[j], strict=True):
            prior, state = layer.prior_step(state)
            entropy.append(0.5 * np.log(2 * np.pi * np.e) + torch.log(prior.sigma).flatten())
            state = layer(state, z)
    given = -log_prior(found) / (torch.cat(entropy).numel() / 4)
    assert float(given.mean()) == pytest.approx(float(torch.cat(entropy).mean()), abs=0.02)


@pytest.mark.parametrize("separable", [True, False])
def test_quality_runs(tmp_path: Path, data: Path, separable: bool) -> None:
    protocol = tmp_path / "quality.toml"
    protocol.write_text(
        'data = ["pictures"]\nshape = [32, 32]\nslices = 4\nbatch = 2\nsweeps = [2, 4]\nimportance = 2\n'
        '[refinement]\nrule = "adam"\nanchor = "prior"\nstep = 0.02\n'
        '[[variants]]\nname = "drawn"\nstart = "sample"\nsweeps = 1\n'
    )
    call = [
        str(protocol),
        "--data",
        str(data),
        "--checkpoint",
        weights(tmp_path / "a.safetensors", separable=separable),
    ]
    assert inference_quality.main([*call, "--threads", "1", "--results", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "quality.json").read_text())["rows"]
    assert [(row["mode"], row["sweeps"]) for row in rows] == [
        ("amortized", 0), ("iterative", 2), ("iterative", 4), ("hybrid", 2), ("hybrid", 4), ("drawn", 1),
    ]  # fmt: skip
    amortized, *_, hybrid, _ = rows
    assert hybrid["MSE"] < amortized["MSE"] and all(
        np.isfinite(value) for row in rows for value in list(row.values())[2:]
    )
    assert (tmp_path / "quality.md").read_text().count("\n| ") == 6 and (tmp_path / "quality.png").exists()
    assert (tmp_path / "quality_bands.png").stat().st_size > 5000


def test_mistakes(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["--data", str(data), "--checkpoint", weights(tmp_path / "a.safetensors")]
    assert inference_quality.main([str(tmp_path / "none.toml"), *call]) == 2
    assert "not readable as TOML" in capsys.readouterr().err
    (tmp_path / "bad.toml").write_text("slice = 3\n")
    assert inference_quality.main([str(tmp_path / "bad.toml"), *call]) == 2
    assert "unknown setting 'slice'; the nearest known one is 'slices'" in capsys.readouterr().err
    assert inference_time.main([str(tmp_path / "bad.toml")]) == 2
    for options in (["--layers", "0"], ["--device", "none"]):
        assert inference_time.main(options) == 2
    capsys.readouterr()
    for text, message in (
        ("shape = [30, 30]", "take multiples of 8"),
        ("data = []", "all numbers must be at least 1"),
        ("[refinement]\nstart = 'prior'", "start is chosen by the benchmark"),
        ("[[variants]]\nsweeps = 3", "variants[0]: needs a name"),
    ):
        (tmp_path / "wrong.toml").write_text(("" if "data" in text else "data = ['pictures']\n") + text + "\n")
        assert inference_quality.main([str(tmp_path / "wrong.toml"), *call]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "one.toml").write_text('data = ["pictures"]\nshape = [32, 32]\nslices = 1\nbatch = 1\n')
    assert inference_quality.main([str(tmp_path / "one.toml"), *call, "--limit", "0"]) == 2
    assert "--limit 0: must be at least 1" in capsys.readouterr().err
    assert inverse_problems.main([str(tmp_path / "bad.toml"), "--separable", "a", "--vanilla", "b", *call[:2]]) == 2
    (tmp_path / "bad.safetensors").write_bytes(b"none")
    call += ["--inception-weights", str(tmp_path / "bad.safetensors")]
    assert inference_quality.main([str(tmp_path / "one.toml"), *call]) == 2
    assert "not torchvision's inception_v3 as safetensors" in capsys.readouterr().err


# --- Frechet distance ------------------------------------------------------------------------------------------------


def test_frechet_distance_of_normal_distributions() -> None:
    rng = np.random.default_rng(0)
    first = rng.standard_normal((4000, 3))
    assert frechet.frechet_distance(first, first) == pytest.approx(0, abs=1e-6)
    assert frechet.frechet_distance(first, first + np.array([1, 2, 0])) == pytest.approx(5, abs=1e-6)
    assert frechet.frechet_distance(first, 3 * first) == pytest.approx(12, rel=0.1)  # sum of (3 - 1)^2
    scales = np.array([1.0, 2.0, 0.5])
    expected = float(((scales - 1) ** 2).sum())
    assert frechet.frechet_distance(first, scales * rng.standard_normal((4000, 3))) == pytest.approx(expected, rel=0.1)


def test_features_see_sharpness_and_not_place() -> None:
    image = torch.zeros(1, 64, 64)
    image[:, 20:40, 25:45] = 1
    moved = image.roll((5, -7), (-2, -1))
    blurred = torch.nn.functional.avg_pool2d(image[:, None], 5, 1, 2)[:, 0]
    features = [frechet.gabor_features(one) for one in (image, moved, blurred)]
    assert features[0].shape == (1, 50)
    torch.testing.assert_close(features[0], features[1], rtol=0, atol=1e-3)
    assert float((features[0] - features[2]).abs().max()) > 0.3


# --- inverse problems ------------------------------------------------------------------------------------------------


def test_degraded_scans(data: Path) -> None:
    model = small_model().requires_grad_(False)
    (scans,) = draw_scans(model, [data / "pictures"], (32, 32), slices=4, batch=4, seed=9)
    settings = inverse_problems.InverseSettings((32, 32), measured=8, noise=0.5)
    task = inverse_problems.degrade("deblurring", scans, settings, 0)
    assert task.mask[0].sum() == 64 and bool(task.mask[0, 12:20, 12:20].all())
    assert torch.equal(task.kspace != 0, task.mask & (task.kspace != 0))
    torch.testing.assert_close(torch.where(task.mask, task.truth, 0), task.kspace)
    task = inverse_problems.degrade("denoising", scans, settings, 0)
    assert bool(task.mask.all())
    added = (task.kspace - task.truth).abs().square().mean(dim=(1, 2)).sqrt()
    from mrihvae.physics.fourier import ifft2c

    image = ifft2c(task.truth)
    spread = (image - image.mean(dim=(1, 2), keepdim=True)).abs().square().mean(dim=(1, 2)).sqrt()
    torch.testing.assert_close(added / spread, torch.full((4,), 0.5), rtol=0.05, atol=0)
    assert bool((task.noise >= 0.95 * added).all())


def test_inverse_problems_run(tmp_path: Path, data: Path) -> None:
    protocol = tmp_path / "inverse.toml"
    protocol.write_text(
        'shape = [32, 32]\nmeasured = 16\nsweeps = 3\nslices = 2\nbatch = 2\nsets = ["pictures"]\n'
        '[refinement]\nrule = "adam"\nanchor = "prior"\nstep = 0.02\n'
    )
    call = [str(protocol), "--data", str(data), "--results", str(tmp_path), "--threads", "1"]
    separable, vanilla = (weights(tmp_path / f"{k}.safetensors", separable=k == "s") for k in ("s", "v"))
    assert inverse_problems.main([*call, "--separable", separable, "--vanilla", vanilla]) == 0
    rows = json.loads((tmp_path / "inverse.json").read_text())["rows"]
    assert [(row["set"], row["task"]) for row in rows] == [("pictures", "deblurring"), ("pictures", "denoising")]
    names = [one["method"] for one in rows[0]["methods"]]
    assert names == ["as given", "separable, amortized", "separable, hybrid", "separable, sample", "vanilla, amortized"]
    assert (tmp_path / "inverse.png").stat().st_size > 10000
    assert inverse_problems.main([*call, "--separable", vanilla, "--vanilla", vanilla]) == 2
    protocol.write_text('shape = [64, 64]\nmeasured = 8\nsets = ["pictures"]\n')
    assert inverse_problems.main([*call, "--separable", separable, "--vanilla", vanilla]) == 2


# --- seconds until an objective is reached ---------------------------------------------------------------------------


def test_times_to_a_goal() -> None:
    points = ((3.0, 1.0), (1.0, 2.0), (2.0, 3.0))
    runs = [{"objective": value + 9, "bound": value, "seconds": seconds} for value, seconds in points]
    assert objective_time.time_to("bound", 4.0, runs) == 1.0
    assert objective_time.time_to("bound", 1.5, runs) == pytest.approx(1.75)
    assert objective_time.time_to("objective", 9.5, runs) is None
    rows = [
        {"kind": "separable", "runs": runs},
        {"kind": "vanilla", "runs": [{"objective": 2 - n, "bound": 2 - n, "seconds": 4.0 * n} for n in range(2)]},
        {"kind": "vanilla", "runs": [{"objective": 2.0, "bound": 2.0, "seconds": 0.0}]},
        {"kind": "jointly", "runs": [{"objective": 12 - 2 * n, "bound": 2.0, "seconds": 9.0 * n} for n in range(3)]},
    ]
    found = objective_time.compare(rows, 0.5)
    assert found["vanilla_reaches"] == 1.0 and rows[2]["same_bound_seconds"] is None
    assert rows[0]["same_bound_seconds"] == 2.0 and rows[3]["same_bound_seconds"] is None
    assert found["same_part_ratio_vanilla"] == pytest.approx(2 / 1.5)  # to 11 of 12 .. 10, and to 1.5 of 2 .. 1
    assert found["same_part_ratio_jointly"] == pytest.approx(4.5 / 1.5)  # to 11, although it goes on to 8


def test_jointly_is_what_the_vanilla_decoder_does(data: Path) -> None:
    """And in the separable one, where nothing is refined, what inference a level at once does."""
    from mrihvae.inference.encoders import CompleteEncoder
    from mrihvae.inference.latents import infer, likelihood_std
    from mrihvae.inference.settings import RefinementSettings

    for separable in (False, True):
        model = small_model(settings=dataclasses.replace(SMALL, separable=separable)).requires_grad_(False)
        (scans,) = draw_scans(model, [data / "pictures"], (32, 32), slices=2, batch=2, seed=9)
        s, everywhere = likelihood_std(model, scans.noise), torch.ones(scans.kspace.shape, dtype=torch.bool)
        for sweeps in (0,) if separable else (0, 3):
            refinement = RefinementSettings(anchor="prior", rule="adam", sweeps=sweeps)
            q = CompleteEncoder(model, scans.kspace)
            expected = infer(model, q, scans.kspace, everywhere, s, refinement)
            found = objective_time.infer_jointly(model, q, scans.kspace, s, refinement)
            torch.testing.assert_close(found.kspace, expected.kspace, rtol=1e-5, atol=1e-5)
            for own, other in zip(found.latents, expected.latents, strict=True):
                torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)


def test_jointly_lowers_the_objective_of_the_separable_decoder(data: Path) -> None:
    from mrihvae.inference.encoders import CompleteEncoder
    from mrihvae.inference.latents import likelihood_std
    from mrihvae.inference.settings import RefinementSettings

    model = small_model().requires_grad_(False)
    (scans,) = draw_scans(model, [data / "pictures"], (32, 32), slices=2, batch=2, seed=9)
    s, q = likelihood_std(model, scans.noise), CompleteEncoder(model, scans.kspace)
    ways = [RefinementSettings(anchor="prior", sweeps=n) for n in (0, 2)]
    found = [objective_time.infer_jointly(model, q, scans.kspace, s, way) for way in ways]
    before, after = (objective_of(model, one, scans, s) for one in found)
    assert (after < before).all()


def test_objective_is_that_of_the_trace(data: Path) -> None:
    """What refinement of the vanilla decoder minimizes, but for the constants of its normal distributions."""
    from mrihvae.inference.encoders import CompleteEncoder
    from mrihvae.inference.latents import infer, likelihood_std
    from mrihvae.inference.settings import RefinementSettings

    model = small_model(settings=dataclasses.replace(SMALL, separable=False)).requires_grad_(False)
    (scans,) = draw_scans(model, [data / "pictures"], (32, 32), slices=2, batch=2, seed=9)
    s, everywhere = likelihood_std(model, scans.noise), torch.ones(scans.kspace.shape, dtype=torch.bool)
    found = infer(
        model,
        CompleteEncoder(model, scans.kspace),
        scans.kspace,
        everywhere,
        s,
        RefinementSettings(anchor="prior"),
        traced=True,
    )
    latents = sum(z[0].numel() for level in found.latents for z in level)
    count = dimensions(model, scans.kspace)
    constant = 0.5 * latents * np.log(2 * np.pi) + count * (torch.log(s) + 0.5 * np.log(np.pi))
    expected = (found.traces[0, 0].objective[-1] + constant) / count
    torch.testing.assert_close(objective_of(model, found, scans, s), expected, rtol=1e-4, atol=1e-4)


def test_objective_time_runs(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protocol = tmp_path / "objective.toml"
    head = 'data = ["pictures"]\nshape = [32, 32]\nslices = 3\nbatch = 2\n'
    ways = '[[ways]]\nname = "one"\ndecoder = "separable"\nanchor = "prior"\nsteps = [2, 1]\n'
    other = '[[ways]]\nname = "all"\ndecoder = "vanilla"\nanchor = "prior"\nrule = "adam"\nsteps = [2]\n'
    jointly = ways.replace("steps", "jointly = true\nsteps")
    files = {
        name: weights(tmp_path / f"{name}.safetensors", separable=name == "separable")
        for name in ("separable", "vanilla")
    }

    def run(text: str, **changed: str) -> int:
        protocol.write_text(text)
        words = [word for name, file in {**files, **changed}.items() for word in (f"--{name}", file)]
        options = ["--data", str(data), "--threads", "1", "--results", str(tmp_path)]
        return objective_time.main([str(protocol), *words, *options])

    assert run(head + ways + jointly + other) == 0
    results = json.loads((tmp_path / "objective.json").read_text())
    assert [[run["steps"] for run in row["runs"]] for row in results["rows"]] == [[0, 1, 2], [0, 1, 2], [0, 2]]
    assert [row["kind"] for row in results["rows"]] == ["separable", "jointly", "vanilla"]
    first = [run["objective"] for run in results["rows"][0]["runs"]]
    assert first[0] > first[1] > first[2]
    assert "Seconds to the part of the best way" in (tmp_path / "objective.md").read_text()
    assert (tmp_path / "objective.png").stat().st_size > 5000
    capsys.readouterr()
    for text, files_changed, message in (
        (head + ways, {}, "needs [[ways]] of both decoders"),
        (head + jointly + other, {}, "and of the separable one a level at once"),
        (head + ways + jointly + 'start = "prior"\n' + other, {}, "ways[1]: start is chosen by the benchmark"),
        (head + ways + other.replace("steps", "jointly = true\nsteps"), {}, "ways[1]: jointly is true or false"),
        (head + ways.replace("[2, 1]", "[0]") + other, {}, "ways[0]: needs a name, a decoder (separable or vanilla)"),
        (head + ways + other, {"vanilla": files["separable"]}, "--vanilla: these weights are of another kind of model"),
        (head.replace("slices = 3", "slices = 0") + ways + other, {}, "all numbers must be at least 1"),
    ):
        assert run(text, **files_changed) == 2
        assert message in capsys.readouterr().err
