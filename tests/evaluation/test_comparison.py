"""The picture that compares methods: one gray scale, errors on a fifth of it."""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from mrihvae.evaluation import comparison
from mrihvae.evaluation.comparison import ERROR_GAIN, draw_comparison
from tests.support.small import phantom

SCORES = {"PSNR": 30.0, "SSIM": 0.9}


def drawn(
    monkeypatch: pytest.MonkeyPatch, images: dict[str, np.ndarray], target: np.ndarray, mask: np.ndarray
) -> Figure:
    """Draw a comparison without writing it."""
    figures: list[Figure] = []
    monkeypatch.setattr(comparison, "save_figure", lambda figure, path: figures.append(figure))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_comparison(Path("x.png"), "a_$1$", images, target, dict.fromkeys(images, SCORES), mask)
        figures[0].canvas.draw()
    return figures[0]


def test_gray_scales_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    target = np.stack([phantom(40, 30, k) for k in range(3)])
    images = {"zero-filled": target + np.float32(0.1), "mrihvae": target + np.float32(0.01)}
    figure = drawn(monkeypatch, images, target, np.arange(30) % 2 == 0)
    axes = figure.axes[:6]
    upper, lower = [[axis.images[0] for axis in row] for row in (axes[:3], axes[3:])]
    assert len({image.get_clim() for image in upper}) == 1 and len({image.get_clim() for image in lower[:2]}) == 1
    assert upper[0].get_clim()[1] == pytest.approx(ERROR_GAIN * lower[0].get_clim()[1])
    for one, added in zip(lower, (0.1, 0.01)):
        np.testing.assert_allclose(one.get_array(), added / target.max(), rtol=1e-3)
    assert [axis.get_title() for axis in axes] == [
        "zero-filled\nPSNR 30.00 dB, SSIM 0.900", "mrihvae\nPSNR 30.00 dB, SSIM 0.900", "target\nfully sampled",
        "error x 5", "error x 5", "acquired k-space, 50 %",
    ]  # fmt: skip
    assert [axis.get_ylabel() for axis in figure.axes[6:]] == ["image / maximum of target", "error / maximum of target"]


def test_texts_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    target = phantom(40, 40)[None]
    names = ("zero-filled", "L1-wavelet (sigpy)", "mrihvae (hybrid)")
    figure = drawn(monkeypatch, dict.fromkeys(names, target), target, np.ones((40, 40), dtype=bool))
    boxes = [axis.title.get_window_extent() for axis in figure.axes[:4]]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert boxes[0].x0 >= 0 and boxes[-1].x1 <= figure.bbox.width


def test_empty_margins_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    target = np.zeros((1, 60, 60), dtype=np.float32)
    target[:, 20:40, 25:35] = 1
    figure = drawn(monkeypatch, {"x": target}, target, np.ones(60, dtype=bool))
    assert figure.axes[1].images[0].get_array().shape == (20 + 2 * comparison.MARGIN, 10 + 2 * comparison.MARGIN)
    empty = np.zeros((1, 20, 20), dtype=np.float32)
    assert drawn(monkeypatch, {"x": empty}, empty, np.ones(20, dtype=bool)).axes[1].images[0].get_array().shape == (
        20,
        20,
    )


def test_picture_is_written(tmp_path: Path) -> None:
    target = phantom(40, 40)[None]
    draw_comparison(tmp_path / "a.png", "t", {"x": target}, target, {"x": SCORES}, np.ones(40, dtype=bool))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
