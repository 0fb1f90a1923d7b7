"""A scan's own word on its uncertainty: what is held out, and the ratio for samples made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mrihvae.inference import held_out as heldout
from mrihvae.inference.held_out import BOUNDS, FOLDS, SAMPLES_PER_FOLD, TYPICAL, error_ratio, held_out, held_out_ratio
from mrihvae.inference.reconstruct import sample
from mrihvae.inference.settings import InferenceSettings, RefinementSettings
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fourier import fft2c, ifft2c
from tests.support.files import complex_normal
from tests.support.small import small_kspace, small_model

SETTINGS = InferenceSettings(refinement=RefinementSettings(sweeps=0))


@pytest.fixture(scope="module")
def model() -> HVAE:
    return small_model().eval().requires_grad_(False)


def lines(width: int = 96) -> Tensor:
    """Mark every third line and 8 in the center."""
    mask = torch.arange(width) % 3 == 0
    mask[width // 2 - 4 : width // 2 + 4] = True
    return mask


def bins(height: int, width: int) -> Tensor:
    """Mark 40 % of all bins."""
    return torch.rand(height, width, generator=torch.Generator().manual_seed(0)) < 0.4


def folds_of(measured: Tensor, seed: int = 0) -> list[Tensor]:
    return held_out(measured, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(3))
def test_lines_that_are_held_out(seed: int) -> None:
    measured = lines().expand(64, 96)
    folds = folds_of(measured, seed)
    assert len(folds) == FOLDS and all(fold.shape == (64, 96) for fold in folds)
    whole = torch.stack(folds)
    assert bool((whole == whole[:, :1]).all()) and int(whole.sum(dim=0).max()) == 1  # whole lines, each held out once
    assert bool(measured[whole.any(dim=0)].all())
    assert not whole[:, :, 44:52].any()  # the block in the center stays
    outer = int(lines().sum()) - 8 - 1  # and a line that touches it
    assert [int(fold[0].sum()) for fold in folds] == [outer // 8] * FOLDS


def test_bins_that_are_held_out() -> None:
    measured = bins(64, 48)
    whole = torch.stack(folds_of(measured))
    assert int(whole.sum(dim=0).max()) == 1 and bool(measured[whole.any(dim=0)].all())
    assert not whole[:, 31:34, 23:26].any()
    for fold in whole:
        assert int(fold.sum()) == pytest.approx(int(measured.sum()) / 8, rel=0.2)


@pytest.mark.parametrize(
    "measured",
    [
        torch.ones(64, 96, dtype=torch.bool),
        (torch.arange(96) < 60).expand(64, 96),  # partial Fourier
        ((torch.arange(96) - 48).abs() < 12).expand(64, 96),  # the center alone
        lines(24).expand(64, 24),  # few lines
        torch.zeros(64, 96, dtype=torch.bool),
        torch.rand(64, 96) < 0.02,
    ],
)
def test_too_little_to_hold_out(model: HVAE, measured: Tensor) -> None:
    assert folds_of(measured) == []
    kspace = torch.where(measured, small_kspace(1, *measured.shape), 0)
    assert error_ratio(model, kspace, measured, measured, SETTINGS) == TYPICAL


def drawn_around(truth: Tensor, deviation: float, spread: float) -> object:
    """Make a stand-in for `sample`: draws from around a center that is itself a draw from around the truth."""
    rng = np.random.default_rng(1)

    def white(count: int) -> Tensor:
        shape = (count, *truth.shape, 2)
        return torch.view_as_complex(torch.from_numpy(rng.standard_normal(shape).astype(np.float32))) / 2**0.5

    def sample(
        model: HVAE, kspace: Tensor, mask: Tensor, samples: int, maps: None, settings: object, seed: int
    ) -> Tensor:
        shown = torch.where(mask, 0, kspace)
        assert not shown.any()  # what is held out is not shown
        center = truth + deviation * white(1)
        return ifft2c(center + spread * white(samples))

    return sample


@pytest.mark.parametrize("pattern", ["lines", "along the height", "bins"])
@pytest.mark.parametrize(("deviation", "spread"), [(0.1, 0.1), (0.2, 0.1), (0.1, 0.2), (0.1, 1.0), (1.0, 0.1)])
def test_ratio_is_that_of_error_and_spread(
    model: HVAE, monkeypatch: pytest.MonkeyPatch, pattern: str, deviation: float, spread: float
) -> None:
    """The mean of 4 draws is off by the center's error and by a quarter of the draws' variance; noise is taken off."""
    shape = (96, 64) if pattern == "along the height" else (64, 96)
    measured = {"lines": lines(), "along the height": lines()[:, None], "bins": bins(64, 96)}[pattern].expand(shape)
    truth = small_kspace(3, *shape, noise=0.0)
    kspace = torch.where(measured, truth + 0.05 * torch.from_numpy(complex_normal((3, *shape))), 0)
    monkeypatch.setattr(heldout, "sample", drawn_around(truth, deviation, spread))
    found = error_ratio(model, kspace, measured, measured, SETTINGS)
    expected = np.sqrt((deviation**2 + spread**2 / 4) / (1.25 * spread**2))
    assert found == pytest.approx(float(np.clip(expected, *BOUNDS)), rel=0.12)


def test_few_slices_are_looked_at_and_units_do_not_matter(model: HVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    kspace = torch.where(lines(), small_kspace(9, 32, 96, noise=0.05), 0)
    measured = lines().expand(32, 96)
    first = error_ratio(model, kspace, measured, measured, SETTINGS)
    assert BOUNDS[0] <= first <= BOUNDS[1]
    assert error_ratio(model, kspace, measured, measured, SETTINGS) == first
    changed = kspace.clone()
    changed[[1, 2, 4, 6, 7]] = 0
    assert error_ratio(model, changed, measured, measured, SETTINGS) == first  # of 9: the first, 3rd, 5th and last
    assert error_ratio(model, 4096 * kspace, measured, measured, SETTINGS) == pytest.approx(first, rel=1e-4)


@pytest.mark.parametrize("pattern", ["lines", "along the height", "along the height of a square", "bins"])
def test_ratio_of_any_draws(model: HVAE, pattern: str) -> None:
    """They are asked for k-space as it was given, with what is held out missing; by `sample` it is `error_ratio`."""
    shape = {"along the height": (72, 32), "along the height of a square": (72, 72)}.get(pattern, (32, 72))
    masks = {"lines": lines(72), "bins": bins(32, 72)}
    settings = InferenceSettings(views=1, rounds=1, refinement=RefinementSettings(sweeps=0))
    measured = masks.get(pattern, lines(72)[:, None]).expand(shape)
    kspace = torch.where(measured, small_kspace(2, *shape, noise=0.05), 0)
    asked = []

    def draws(shown: Tensor, mask: Tensor, seed: int) -> Tensor:
        assert shown.shape == kspace.shape and mask.shape == shape
        assert torch.equal(shown, torch.where(mask, kspace, 0)) and bool((measured | ~mask).all())
        asked.append((seed, int(mask.sum())))
        return fft2c(sample(model, shown, mask, SAMPLES_PER_FOLD, None, settings, seed))

    found = held_out_ratio(draws, kspace, measured, measured, seed=2)
    assert found == error_ratio(model, kspace, measured, measured, settings, 2)
    assert [seed for seed, _ in asked] == [2, 3, 4, 5] and all(left < int(measured.sum()) for _, left in asked)


@pytest.mark.parametrize(("deviation", "spread"), [(0.1, 0.1), (0.2, 0.1), (0.1, 0.2)])
def test_ratio_of_coils_is_that_of_error_and_spread(deviation: float, spread: float) -> None:
    """Slices may be those of coils, whatever their sensitivities: errors and spread weigh alike."""
    gains = torch.tensor([0.6, 1.0, 1.5]).repeat(3)[:, None, None]
    truth = gains * small_kspace(3, 64, 96, noise=0.0).repeat_interleave(3, 0)
    kspace = torch.where(lines(), truth + 0.05 * torch.from_numpy(complex_normal((9, 64, 96))), 0)
    rng = np.random.default_rng(1)

    def white(count: int) -> Tensor:
        shape = (count, 9, 64, 96, 2)
        return gains * torch.view_as_complex(torch.from_numpy(rng.standard_normal(shape).astype(np.float32))) / 2**0.5

    def draws(shown: Tensor, mask: Tensor, seed: int) -> Tensor:
        return truth + deviation * white(1) + spread * white(SAMPLES_PER_FOLD)

    measured = lines().expand(64, 96)
    expected = np.sqrt((deviation**2 + spread**2 / 4) / (1.25 * spread**2))
    assert held_out_ratio(draws, kspace, measured, measured) == pytest.approx(expected, rel=0.12)
    few = torch.zeros(64, 96, dtype=torch.bool)
    assert held_out_ratio(draws, kspace, few, few) == TYPICAL
