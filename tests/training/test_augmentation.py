"""Changes to images before they become scans: contrast, size, place and decay, and the settings that ask for them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.physics.fourier import ifft2c
from mrihvae.training import draw as simulate
from mrihvae.training.augmentation import BACKGROUND, cut_out, decay, random_tone, reorient, resampled_size, rotate
from mrihvae.training.draw import SimulationSettings, draw_batch
from mrihvae.utils.config import from_dict
from tests.support import REPOSITORY
from tests.support.small import phantom

BENCHMARKS = REPOSITORY / "benchmarks"
QUIET = SimulationSettings(noise=(1e-5, 1e-5), extra_noise=0.0, rotation=0.0, partial_resolution=0.0)


def rng_of(seed: int = 0) -> Generator:
    return np.random.default_rng(seed)


def ramp() -> Tensor:
    """Give an image of all tones, in order: (64, 64)."""
    return torch.linspace(0, 1, 4096).view(64, 64)


# --- contrast --------------------------------------------------------------------------------------------------------


def test_tones_keep_their_order_and_zero() -> None:
    curves = []
    for seed in range(20):
        changed = random_tone(ramp(), rng_of(seed), inverted=False).flatten()
        assert changed.dtype == torch.float32 and float(changed[0]) == 0
        assert bool((torch.diff(changed) >= -1e-7).all())
        curves.append(changed)
    middle = torch.stack(curves)[:, 2048]
    assert float(middle.std()) > 0.08  # they differ


def test_inverted_tones_fall_beyond_the_background() -> None:
    for seed in range(20):
        changed = random_tone(ramp(), rng_of(seed), inverted=True).flatten()
        assert float(changed[0]) == 0 and bool((changed >= 0).all())
        assert float(changed[: int(4096 * BACKGROUND[0] / 3)].max()) < 0.1  # of 1
        tissue = changed[int(4096 * 0.25) :]
        assert bool((torch.diff(tissue) <= 1e-6).all()) and float(tissue[0]) > float(tissue[-1])


def test_inversion_leaves_the_background_dark() -> None:
    image = torch.from_numpy(phantom(96, 96))
    image = image / image.max()
    for seed in range(10):
        changed = random_tone(image, rng_of(seed), inverted=True)
        assert float(changed[image < 0.01].max()) < 0.05
        assert float(torch.corrcoef(torch.stack([changed[image > 0.3], image[image > 0.3]]))[0, 1]) < -0.5


@pytest.mark.parametrize("inverted", [False, True])
def test_tones_of_odd_images(inverted: bool) -> None:
    for image in (torch.zeros(4, 5), torch.ones(1, 1), torch.full((3, 3), 1e-30)):
        assert bool(torch.isfinite(random_tone(image, rng_of(), inverted)).all())


# --- size and place --------------------------------------------------------------------------------------------------


def boxed(height: int, width: int, rows: slice, columns: slice) -> Tensor:
    bright = torch.zeros(height, width, dtype=torch.bool)
    bright[rows, columns] = True
    return bright


def test_object_fills_the_share_that_is_asked_for() -> None:
    bright = boxed(400, 400, slice(100, 300), slice(150, 250))
    for filled in ((0.5, 0.5), (0.9, 0.9), (1.2, 1.2)):
        for seed in range(5):
            sizes, _ = resampled_size(bright, (128, 128), 1.0, filled, 0.0, rng_of(seed))
            assert sizes[0] == sizes[1] and 200 * sizes[0] / 400 == pytest.approx(filled[0] * 128, abs=0.5)


def test_anisotropy_stretches_one_axis_and_shrinks_the_other() -> None:
    bright = boxed(400, 400, slice(100, 300), slice(100, 300))
    ratios = []
    for seed in range(200):
        (down, right), _ = resampled_size(bright, (96, 96), 1.0, (0.8, 0.8), 0.3, rng_of(seed))
        assert down * right == pytest.approx((0.8 * 96 / 200 * 400) ** 2, rel=0.02)
        ratios.append(np.log(down / right))
    assert 0.5 < max(ratios) <= 0.61 and -0.61 <= min(ratios) < -0.5


def test_resolution_is_never_finer_than_the_image() -> None:
    bright = boxed(60, 60, slice(20, 40), slice(20, 40))
    for seed in range(20):
        sizes, _ = resampled_size(bright, (256, 256), 0.9, (0.6, 1.2), 0.3, rng_of(seed))
        assert max(sizes) <= 54


def test_what_the_image_cuts_off_stays_cut_off_by_the_field_of_view() -> None:
    """A neck that ends at the lower edge: no gap is between it and the edge of the scan."""
    image = torch.zeros(200, 200)
    image[40:, 60:140] = 1
    for seed in range(40):
        sizes, center = resampled_size(image > 0, (64, 64), 1.0, (0.5, 1.1), 0.3, rng_of(seed))
        small = torch.nn.functional.interpolate(image[None, None], list(sizes))[0, 0]
        found = cut_out(small, (64, 64), center)
        assert found[-1].any() and sizes[0] >= 64
        if seed < 5:  # the other axis is as free as before
            assert float(found.any(dim=0).float().mean()) < 1


def test_rotation_and_orientation_keep_the_object() -> None:
    image = torch.from_numpy(phantom(80, 80))
    turned = rotate(image, np.radians(30))
    assert float(turned.sum() / image.sum()) == pytest.approx(1, rel=0.03)
    seen = {tuple(reorient(np.arange(6).reshape(2, 3), rng_of(seed)).ravel().tolist()) for seed in range(60)}
    assert len(seen) == 8


def test_decay_is_one_at_the_center_and_falls() -> None:
    lowest = []
    for seed in range(40):
        window = decay((32, 48), rng_of(seed))
        assert window.shape == (32, 48) and float(window.max()) == float(window[16, 24]) == 1
        assert bool((torch.diff(window[16:], dim=0) <= 0).all() and (torch.diff(window[:, 24:], dim=1) <= 0).all())
        lowest.append(float(window.min()))
    assert min(lowest) < 0.1 and max(lowest) > 0.4


# --- settings --------------------------------------------------------------------------------------------------------


def scans(changes: dict[str, Any], count: int = 40, shape: tuple[int, int] = (64, 64)) -> Tensor:
    settings = dataclasses.replace(QUIET, **changes)
    images = [(phantom(160, 160, k), False) for k in range(count)]
    return draw_batch(images, shape, settings, rng_of()).kspace


def test_slices_without_signal_are_noise() -> None:
    settings = dataclasses.replace(QUIET, noise=(0.05, 0.05), empty=1.0, max_acceleration=1.3)
    found = draw_batch([(phantom(160, 160, k), False) for k in range(20)], (64, 64), settings, rng_of())
    power = found.kspace.abs().square().mean(dim=(1, 2)).sqrt()
    assert bool((found.noise > 0.25 * power).all())  # of a bright image it is a twentieth
    assert int((found.noise > 0.95 * power).sum()) >= 5
    settings = dataclasses.replace(settings, empty=0.1)
    images = [(phantom(64, 64), False)] * 300
    levels = draw_batch(images, (16, 16), settings, rng_of()).noise
    assert 0.04 < float((levels > 0.2).float().mean()) < 0.2


def test_every_change_is_drawn_as_often_as_its_probability_says(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("random_tone", "decay", "add_phase"):
        real = getattr(simulate, name)

        def counted(*words: Any, name: str = name, real: Any = real, **more: Any) -> Any:
            calls.append(name + ("-inverted" if more.get("inverted") else ""))
            return real(*words, **more)

        monkeypatch.setattr(simulate, name, counted)
    scans({}, 20)
    assert not calls
    scans({"tone": 0.5, "inversion": 0.4, "blur": 0.25, "physical_phase": 0.75}, 400, (16, 16))
    shares = {name: calls.count(name) / 400 for name in set(calls)}
    expected = {"random_tone": 0.3, "random_tone-inverted": 0.2, "decay": 0.25, "add_phase": 0.75}
    assert shares == pytest.approx(expected, abs=0.07)


def test_objects_may_be_larger_than_the_field_of_view() -> None:
    def edges(filled: tuple[float, float]) -> float:
        images = ifft2c(scans({"fill": filled}, 20)).abs()
        edge = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], dim=1)
        return float((edge > 0.2).float().mean())

    assert edges((0.6, 0.7)) < 0.01 < 0.1 < edges((1.2, 1.3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tone": 1.5}, "must be in \\[0, 1\\]"),
        ({"empty": -0.1}, "must be in \\[0, 1\\]"),
        ({"physical_phase": 2.0}, "must be in \\[0, 1\\]"),
        ({"anisotropy": -0.1}, "must be at least 0"),
        ({"fill": [1.0, 0.5]}, "fill .* must be two numbers above 0, the smaller one first"),
        ({"fill": [0.0, 0.5]}, "fill .* must be two numbers above 0"),
        ({"inverson": 0.1}, "unknown setting 'inverson'; the nearest known one is 'inversion'"),
    ],
)
def test_mistakes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_dict(SimulationSettings, changes, "settings.json")


def test_older_settings_mean_what_they_did() -> None:
    """Settings files of before load, and ask for none of the changes that came later."""
    files = sorted((BENCHMARKS / "training").glob("train_*.json"))
    assert len(files) >= 7
    for file in files:
        if "model2" in file.name:
            continue
        settings = from_dict(SimulationSettings, json.loads(file.read_text()).get("simulation", {}), str(file))
        assert (settings.fill, settings.anisotropy) == ((0.6, 1.0), 0.12)
        assert not any(getattr(settings, name) for name in ("physical_phase", "tone", "inversion", "blur", "empty"))
