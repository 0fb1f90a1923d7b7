"""Pictures: that they are written, whole or not at all."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from mrihvae.errors import InputError
from mrihvae.evaluation.figures import image_grid, training_figure, volume_panel
from tests.support.small import phantom


@pytest.fixture(autouse=True)
def no_warnings_and_no_open_figures() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert not plt.get_fignums()


def volume(slices: int = 3) -> np.ndarray:
    return np.stack([phantom(30, 20, k) for k in range(slices)])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("L"))


@pytest.mark.parametrize("names", [["zero-filled"], ["zero-filled", "L1-wavelet (sigpy)", "mrihvae (hybrid)"]])
def test_panel_with_and_without_target(tmp_path: Path, names: list[str]) -> None:
    target = volume()
    images = {name: target + np.float32(0.05 * (k + 1)) for k, name in enumerate(names)}
    volume_panel(tmp_path / "new" / "with.png", "file1.h5, slice 1", images, target)
    volume_panel(tmp_path / "without.png", "file1.h5, slice 1", images, None)
    with_target, without = pixels(tmp_path / "new" / "with.png"), pixels(tmp_path / "without.png")
    assert with_target.shape[0] > 1.5 * without.shape[0] and with_target.shape[1] > without.shape[1]
    assert with_target.std() > 10 and without.std() > 10
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["with.png"]


@pytest.mark.parametrize("with_target", [True, False])
def test_panel_with_uncertainty(tmp_path: Path, with_target: bool) -> None:
    """Below the target where there is one, in a column of its own otherwise; as bright as the errors."""
    images = {"zero-filled": volume() + np.float32(0.1), "ours": volume()}
    target = volume() if with_target else None
    shown = {}
    for name, deviation in (("without", None), ("dark", 0 * volume()), ("bright", 0.1 * volume())):
        volume_panel(tmp_path / f"{name}.png", "", images, target, uncertainty=deviation)
        shown[name] = pixels(tmp_path / f"{name}.png")
    without, dark, bright = (shown[name].astype(float) for name in ("without", "dark", "bright"))
    if with_target:
        assert without.shape == dark.shape == bright.shape
    else:
        assert dark.shape[1] > 1.2 * without.shape[1]
    assert dark.shape == bright.shape
    rows, columns = np.nonzero(bright - dark)
    changed = (bright - dark)[rows, columns]
    assert changed.size and changed.min() >= 0  # a map of zeros is black
    height, width = dark.shape
    assert columns.min() > 0.45 * width and (rows.min() > 0.45 * height) == with_target
    black = dark[rows, columns].max()
    assert black < 60 and bright[rows, columns].max() - black > 0.35 * 255  # 0.1 of the image, shown 4 times


def test_uncertainty_is_of_the_slice_shown(tmp_path: Path) -> None:
    deviation = np.stack([k * np.ones((30, 20), np.float32) / 10 for k in range(3)])
    for index in (0, 2):
        images, maps = {"ours": volume()}, deviation if index else deviation[::-1]
        volume_panel(tmp_path / f"{index}.png", "", images, volume(), 1, uncertainty=maps)
    assert np.array_equal(pixels(tmp_path / "0.png"), pixels(tmp_path / "2.png"))
    volume_panel(tmp_path / "2.png", "", {"ours": volume()[[1, 1, 1]]}, volume()[[1, 1, 1]], 2, uncertainty=deviation)
    assert not np.array_equal(pixels(tmp_path / "0.png"), pixels(tmp_path / "2.png"))


def test_panel_shows_the_slice_asked_for(tmp_path: Path) -> None:
    images = {"ours": volume()}
    for index in (None, 0, 1, 2):
        volume_panel(tmp_path / f"{index}.png", "", images, volume(), index)
    assert np.array_equal(pixels(tmp_path / "None.png"), pixels(tmp_path / "1.png"))
    assert not np.array_equal(pixels(tmp_path / "0.png"), pixels(tmp_path / "2.png"))


@pytest.mark.parametrize("target", [None, 0 * volume(1), volume(1)])
def test_panel_of_nothing_and_of_a_perfect_reconstruction(tmp_path: Path, target: np.ndarray | None) -> None:
    images = 0 * volume(1) if target is None else target
    volume_panel(tmp_path / "panel.png", "", {"ours": images}, target)
    assert pixels(tmp_path / "panel.png").size


def test_names_above_a_grid_may_have_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr("mrihvae.evaluation.figures.save_figure", lambda figure, path: figures.append(figure))
    image_grid(tmp_path / "grid.png", "title", [[np.ones((8, 8))] * 2], ["one\ntwo", "bell\x07"])
    assert [axis.get_title() for axis in figures[0].axes] == ["one\ntwo", "bell\\x07"]


def test_panel_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"panel.png: cannot be written"):
        volume_panel(tmp_path / "file" / "panel.png", "", {"ours": volume()}, None)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def log(steps: int) -> str:
    """Write the log of a run with two levels, r from the third step on and then the prior on every second one."""
    levels = {"kl": [0.3, 0.2], "matching": [0.1, 0.05]}
    lines = [
        {
            "step": step + 1,
            **({"rollout": 3.0 / step, "zero_filled": 4.0} if step >= 2 else {}),
            **({"elbo": 2.0 - 0.01 * step, "distortion": 1.5, **levels} if step < 3 or step % 2 else {}),
        }
        for step in range(steps)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.mark.parametrize("steps", [1, 3, 120])
def test_training_figure(tmp_path: Path, steps: int) -> None:
    (tmp_path / "log.jsonl").write_text(log(steps))
    training_figure(tmp_path / "log.jsonl", tmp_path / "training.png")
    assert pixels(tmp_path / "training.png").std() > 5


@pytest.mark.parametrize("steps", [1, 120])
def test_training_figure_of_a_run_that_did_not_train_the_prior(tmp_path: Path, steps: int) -> None:
    line = {"rollout": 1.0, "guess": 1.0, "zero_filled": 2.0}
    lines = [json.dumps({"step": step + 1, **line}) for step in range(steps)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    training_figure(tmp_path / "log.jsonl", tmp_path / "training.png")
    assert pixels(tmp_path / "training.png").std() > 5


@pytest.mark.parametrize("content", ["", None, "{\n", log(2) + '{"step": 3, "el', '{"step": 1}\n', "[1]\n"])
def test_log_that_holds_no_run(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "log.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        training_figure(path, tmp_path / "training.png")
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value) and ";" in str(caught.value)
    assert not (tmp_path / "training.png").exists()
