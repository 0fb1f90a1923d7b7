"""Held-out lines: what is taken, how it is weighted, and that errors are those of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mrihvae.inference.held_out import acquired_outside
from mrihvae.inference.preparation import prepare
from mrihvae.physics.fourier import fft2c
from mrihvae.training.adapt_settings import AdaptSettings
from mrihvae.training.adaptation import draw_splits, draw_step
from mrihvae.training.self_supervised import UndersampledSlice, density, hold_out, take, weights
from tests.support.small import small_kspace, small_model
from tests.support.small_coils import calibrated, coil_scans, some_bins


def one_coil(mask: Tensor, height: int = 32, seed: int = 0) -> UndersampledSlice:
    """Make a slice that was acquired on a mask, bool (W,) or (H, W)."""
    kspace = small_kspace(1, height, mask.shape[-1], seed=seed)[0]
    return UndersampledSlice.of(torch.where(mask, kspace, 0), mask, mask, torch.tensor(0.01))


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**16), low=st.integers(2, 12), share=st.floats(0.05, 0.95), points=st.booleans(),
    step=st.integers(0, 50),
)  # fmt: skip
def test_splits_are_disjoint_and_of_what_was_acquired(
    seed: int, low: int, share: float, points: bool, step: int
) -> None:
    """Input, held-out and reserved samples are disjoint, and together all of what was acquired."""
    mask = some_bins(32, 64, low, seed) if points else calibrated(64, low)
    chosen = AdaptSettings(seed=seed, held_out=share, check_share=share / 2)
    slices = [one_coil(mask, seed=k) for k in range(6)]
    splits = draw_splits(slices, chosen)
    assert not set(splits.trained) & {k for k in splits.checked if k not in splits.trained}
    for scan, reserved in zip(slices, splits.reserved):
        assert bool((reserved <= scan.outside).all()) and bool((scan.outside <= scan.measured).all())
        compared = take(scan.outside & ~reserved, share, np.random.default_rng(step), scan.lines)
        assert not bool((compared & reserved).any()) and bool((compared <= scan.measured).all())
        assert points or bool((compared == compared[:1]).all())  # whole lines
    model = small_model()
    drawn = draw_step(model, slices, splits, chosen, step)
    back = drawn.problem.view(drawn.problem.number).mask[0]  # a view is its own inverse
    given_lines = back & slices[0].measured
    assert not bool((given_lines & (drawn.weight[0] > 0)).any())
    center = slices[0].measured & ~slices[0].outside
    assert bool((center <= given_lines).all())


def test_weights_are_those_of_k_weighted_ssdu() -> None:
    """With p the density of lines and kept the share of the input, w = (1 - kept p) / p."""
    lines = torch.arange(256) % 4 == 0
    scan = one_coil(lines, height=8)
    outside = scan.outside
    inner = slice(40, 90)
    assert density(scan.measured, outside)[inner].numpy() == pytest.approx(0.25, abs=0.03)
    assert weights(scan.measured, outside, 0.6)[inner].numpy() == pytest.approx((1 - 0.6 * 0.25) / 0.25, rel=0.15)


def test_expected_loss_is_that_of_all_samples_without_input() -> None:
    """Averaged over masks and splits, the weighted errors add up to those of all samples that are not given."""
    rng = np.random.default_rng(0)
    p, kept, size = rng.uniform(0.2, 0.9, 40), 0.6, 20_000
    error = rng.uniform(1, 2, 40)
    acquired = rng.random((size, 40)) < p
    given = acquired & (rng.random((size, 40)) < kept)
    weight = (1 - kept * p) / (p * (1 - kept))
    estimated = (weight * error * (acquired & ~given)).mean(axis=0)
    assert estimated == pytest.approx((error * ~given).mean(axis=0), rel=0.1)


@pytest.mark.parametrize("number", [0, 3, 6])
def test_errors_are_zero_for_the_scan_itself_in_every_view(number: int) -> None:
    mask = calibrated(48)
    scan = one_coil(mask)
    out = take(scan.outside, 0.4, np.random.default_rng(1), True)
    model = small_model()
    held = hold_out(model, scan, out, out, 0.4, number)
    truth = scan.kspace[None] / held.problem.unit[:, None, None]
    from mrihvae.inference.views import view

    estimate = view(truth, number)
    assert float(held.errors(estimate)) == pytest.approx(0, abs=1e-10)
    other = estimate + view(torch.where(out, 0, torch.ones(())).to(truth.dtype), number)
    assert float(held.errors(other)) == pytest.approx(0, abs=1e-10)  # what was given counts nothing
    assert float(held.errors(torch.zeros_like(truth))) > 0


def test_errors_of_several_coils_compare_every_coil() -> None:
    kspace, maps, images = coil_scans(1, 4, 32, 48, noise=0.0)
    mask = calibrated(48).expand(32, 48)
    scan = UndersampledSlice.of(torch.where(mask, kspace[0], 0), mask, mask, torch.tensor(0.01), maps)
    out = take(scan.outside, 0.4, np.random.default_rng(1), True)
    held = hold_out(small_model(), scan, out, out, 0.4, 5)
    estimate = held.problem.kspace(images / held.problem.unit[:, None, None])
    assert float(held.errors(estimate)) == pytest.approx(0, abs=1e-6)
    assert float(held.errors(0 * estimate)) > 1e-3
    assert held.kspace.shape == (1, 4, 32, 48)


def test_lines_along_w_are_transposed() -> None:
    mask = calibrated(48)[:, None].expand(48, 32)
    kspace = torch.where(mask, fft2c(torch.randn(48, 32, dtype=torch.complex64)), 0)
    scan = UndersampledSlice.of(kspace, mask, mask, torch.tensor(0.01))
    assert scan.lines and scan.kspace.shape == (32, 48) and scan.learnable
    assert prepare(small_model(), scan.kspace[None], scan.known).transposed is False


@pytest.mark.parametrize("mask", [torch.ones(64).bool(), (torch.arange(64) - 32).abs() < 8])
def test_nothing_to_learn(mask: Tensor) -> None:
    assert not one_coil(mask).learnable
    assert int(acquired_outside(mask.expand(8, 64)).sum()) == 0
