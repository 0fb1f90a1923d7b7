"""Scores on fixed scans while a model trains."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mrihvae.cli.main import main
from mrihvae.datasets.mixture import Dataset, WeightedDatasets
from mrihvae.physics.fourier import fft2c
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.validation import ValidationSettings, draw_cases, mean_psnr, psnr, validate
from tests.support.small import phantom, small_model

SETTINGS = ValidationSettings(slices=2, shape=(48, 48), coils=(1, 3), accelerations=(2, 4))


def source() -> WeightedDatasets:
    return WeightedDatasets([Dataset(Path("phantoms"), [phantom(64, 64), phantom(60, 70)], False, 1.0)])


def test_cases_are_fixed_and_alike() -> None:
    first, again = (draw_cases({"phantom": source()}, SETTINGS, SimulationSettings()) for _ in range(2))
    assert [case.key for case in first] == [
        "phantom, 1 coil, 2x", "phantom, 1 coil, 4x", "phantom, 3 coils, 2x", "phantom, 3 coils, 4x"
    ]  # fmt: skip
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.scans.kspace, other.scans.kspace) and torch.equal(one.scans.mask, other.scans.mask)
    assert [case.scans.coils for case in first] == [1, 1, 3, 3]
    # the same images at every acceleration, with masks that measure so much
    peaks = [case.scans.kspace.abs().amax(dim=(-2, -1), keepdim=True) for case in first[:2]]
    scale = peaks[0] / peaks[1]  # that of the zero-filled image differs
    torch.testing.assert_close(first[0].scans.kspace, scale * first[1].scans.kspace, rtol=1e-3, atol=1e-3)
    for case in first:
        assert float(case.scans.mask.float().mean()) == pytest.approx(1 / case.acceleration, rel=0.5)
        inner = case.scans.mask[:, 16:32]  # beyond what some scans measure, bins are known to be 0
        assert bool((inner == inner[:, :1]).all())  # whole lines


def test_scores() -> None:
    cases = draw_cases({"phantom": source()}, SETTINGS, SimulationSettings())
    scores = validate(small_model(), cases)
    assert list(scores) == [case.key for case in cases]
    for key, row in scores.items():
        assert {"psnr", "guess", "zero_filled"} <= set(row) and ("elbo" in row) == (", 1 coil," in key)
        assert all(math.isfinite(value) for value in row.values())
    assert scores == validate(small_model(), cases)
    assert mean_psnr(scores, "1 coil") == pytest.approx(
        (scores["phantom, 1 coil, 2x"]["psnr"] + scores["phantom, 1 coil, 4x"]["psnr"]) / 2
    )
    assert math.isnan(mean_psnr(scores, "liver"))


def test_psnr_by_hand() -> None:
    truth = torch.zeros(1, 8, 8, dtype=torch.complex64)
    truth[0, 2, 3] = 2.0
    assert psnr(fft2c(truth + 0.02j), fft2c(truth)) == pytest.approx(20 * math.log10(2 / 0.02), abs=0.1)


def test_a_run_scores_itself(tmp_path: Path) -> None:
    from PIL import Image

    for folder, seed in (("train", 0), ("val", 1)):
        (tmp_path / "heads" / folder).mkdir(parents=True)
        Image.fromarray((phantom(64, 64 + seed) * 200).astype("uint8")).save(tmp_path / "heads" / folder / "a.png")
    model = {"widths": [16, 16], "layers": 1, "cascades": 1, "guess_widths": [16, 16]}
    training = {
        "steps": 3,
        "guess_only": 0,
        "masked_start": 0,
        "validate_every": 2,
        "shapes": [[32, 32]],
        "pixels": 2048,
    }
    (tmp_path / "settings.json").write_text(json.dumps({"model": model, "training": training}))
    arguments = ["train", str(tmp_path / "heads/train"), "--output", str(tmp_path / "run")]
    arguments += ["--settings", str(tmp_path / "settings.json"), "--validation", str(tmp_path / "heads/val")]
    assert main(arguments) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3]
    assert list(lines[0]["scores"]) == ["heads, 1 coil, 4x", "heads, 1 coil, 8x"] and lines[0]["slices"] > 0
    assert lines[1]["seconds"] > lines[0]["seconds"]


def test_empty_slices_and_further_noise_are_left_aside() -> None:
    loud = replace(SimulationSettings(), empty=1.0, extra_noise=3.0)
    quiet = draw_cases({"phantom": source()}, SETTINGS, SimulationSettings(extra_noise=0.0))
    for one, other in zip(draw_cases({"phantom": source()}, SETTINGS, loud), quiet, strict=True):
        assert torch.equal(one.scans.kspace, other.scans.kspace)
