"""What restoration is given where its user gives nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mrihvae.physics.noise import estimate_noise
from mrihvae.pnp.recommended import RECOMMENDED, TASKS, recommended
from mrihvae.pnp.settings import ENCODERS
from tests.support import REPOSITORY
from tests.support.small import phantom


def smooth(height: int, width: int) -> np.ndarray:
    """Draw a smooth image up to 1."""
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    return np.asarray(np.exp(-3 * (x**2 + y**2)) * (1 + 0.3 * np.cos(9 * x)))


def test_nearest_noise_in_the_logarithm() -> None:
    assert tuple(RECOMMENDED) == ENCODERS and all(tuple(tasks) == TASKS for tasks in RECOMMENDED.values())
    for encoder, tasks in RECOMMENDED.items():
        for task, levels in tasks.items():
            for noise, settings in levels.items():
                assert recommended(task, noise, encoder) is recommended(task, 1.1 * noise, encoder) is settings
                assert settings.encoder == encoder
            for noise, level in ((0.0, min(levels)), (9.0, max(levels)), (0.018, 0.03)):  # nearer to 0.01, but for log
                assert recommended(task, noise, encoder) is levels[level]
    assert recommended("deblur", 0.03) is recommended("deblur", 0.03, "data")


def test_what_is_recommended_is_what_was_tuned() -> None:
    names = dict(zip(("deblurring", "super-resolution", "inpainting", "denoising"), TASKS))
    results = REPOSITORY / "benchmarks/results"
    tuned = {(row["way"], names[row["task"]], row["noise"]): row["settings"]
             for row in json.loads((results / "restoration_tuned.json").read_text())["rows"]}  # fmt: skip
    study = json.loads((results / "pnp_temperature.json").read_text())
    ways = {"data": "pnp", "complete": "complete"}
    for best in study["recommended"]:
        encoder, task, noise = best["encoder"], names[best["task"]], best["noise"]
        settings = RECOMMENDED[encoder][task][noise]
        assert settings.views == {"data": 4, "complete": 1}[encoder]
        levels = {level: own for (way, name, level), own in tuned.items() if (way, name) == (ways[encoder], task)}
        own = levels[min(levels, key=lambda level: abs(np.log(level / noise)))]
        if noise in levels:
            own = own | {"tau": best["tau"]}
        else:
            cell = [row for row in study["train"] if [row[key] for key in ("encoder", "task", "noise")]
                    == [encoder, best["task"], noise]]  # fmt: skip
            _, result, tau = max((row[f"{one}_PSNR"], one, row["tau"]) for row in cell for one in ("decoded", "image"))
            own = own | {"tau": tau, "result": result}
        assert {name: getattr(settings, name) for name in own} == own and settings.tau_finest is None


@pytest.mark.parametrize("sigma", [0.005, 0.03, 0.2])
def test_noise_of_smooth_images(sigma: float) -> None:
    images = np.stack([smooth(96, 80)] * 3) * 300 - 50
    images += 300 * sigma * np.random.default_rng(0).standard_normal(images.shape)
    known = np.ones(images.shape, dtype=bool)
    assert estimate_noise(images, known) == pytest.approx(300 * sigma, rel=0.1)
    assert estimate_noise(images.astype(np.float32), known) == pytest.approx(300 * sigma, rel=0.1)


def test_noise_of_images_with_edges() -> None:
    images = np.stack([phantom(96, 96, k) for k in range(2)])
    images += 0.05 * np.random.default_rng(0).standard_normal(images.shape).astype(np.float32)
    assert estimate_noise(images, np.ones(images.shape, dtype=bool)) == pytest.approx(0.05, rel=0.1)


def test_noise_of_known_pixels_alone() -> None:
    rng = np.random.default_rng(0)
    images = np.stack([smooth(96, 80)] * 2)
    images += 0.02 * rng.standard_normal(images.shape)
    known = rng.random(images.shape) < 0.5
    assert estimate_noise(np.where(known, images, 1e6), known) == pytest.approx(0.02, rel=0.1)
    assert estimate_noise(np.where(known, images, np.nan), known) == pytest.approx(0.02, rel=0.1)


def test_noise_that_was_masked_away() -> None:
    images = np.stack([smooth(96, 80)] * 2)
    images += 0.02 * np.random.default_rng(0).standard_normal(images.shape)
    images[:, 40:] = 0
    assert estimate_noise(images, np.ones(images.shape, dtype=bool)) == pytest.approx(0.02, rel=0.1)


def test_nothing_to_estimate_noise_of() -> None:
    images = np.ones((1, 8, 8))
    assert estimate_noise(images, np.ones(images.shape, dtype=bool)) == 0
    lines = np.broadcast_to(np.arange(8) % 2 == 0, images.shape)
    assert estimate_noise(images, lines) is None
    assert estimate_noise(np.zeros((1, 8, 8)), np.ones(images.shape, dtype=bool)) is None
    assert estimate_noise(np.ones((1, 1, 1)), np.ones((1, 1, 1), dtype=bool)) is None
