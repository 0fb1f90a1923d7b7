"""Blending towards total variation by held-out samples: shares of what predicts them, cautious, and of scans alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import mrihvae
from mrihvae.inference import tv_blend
from mrihvae.inference.preparation import prepare
from mrihvae.inference.reconstruct import infer_kspace, reconstruct
from mrihvae.inference.settings import InferenceSettings
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.recon.catalog import load_method
from mrihvae.recon.methods import HybridMethod
from tests.support.small import small_kspace
from tests.support.small_coils import calibrated, coil_scans

SHORT = InferenceSettings(views=1, rounds=1)


@pytest.fixture(scope="module")
def model() -> HVAE:
    return mrihvae.load_model("default")


def test_best_share_is_that_of_the_lines() -> None:
    rng = np.random.default_rng(0)
    power = rng.uniform(1, 2, 8)
    assert tv_blend._best_share(0.7 * power, power) == pytest.approx(0.7, abs=1e-3)
    assert tv_blend._best_share(-0.7 * power, power) == 0.0
    assert tv_blend._best_share(3 * power, power) == 1.0
    noisy = 0.2 * power + rng.normal(0, 2, 8)
    assert tv_blend._best_share(noisy, power) == 0.0  # weak evidence
    assert tv_blend._best_share(0.7 * power[:2], power[:2]) == 0.0  # too few lines


def test_sums_are_of_held_out_samples_by_band() -> None:
    out = torch.zeros(32, 32, dtype=torch.bool)
    out[:, [3, 9, 20]] = True
    error = torch.randn(2, 32, 32, dtype=torch.complex64)
    difference = torch.randn(2, 32, 32, dtype=torch.complex64)
    found = tv_blend._sums(error, difference, out, (32, 32), 4)
    assert sum(float(along.sum()) for along, _ in found) == pytest.approx(
        float((difference.conj() * error).real[:, out].sum()), rel=1e-5
    )
    assert sum(float(power.sum()) for _, power in found) == pytest.approx(
        float(difference.abs().square()[:, out].sum()), rel=1e-5
    )
    assert len(found[-1][0]) == 3 and len(found[0][0]) == 0


@pytest.mark.parametrize("several", [False, True])
def test_all_of_total_variation_is_total_variation(model: HVAE, several: bool) -> None:
    lines = calibrated(40, 8)
    kspace, maps, _ = coil_scans(1, 4, 48, 40) if several else (small_kspace(1, 48, 40), None, None)
    given = None if maps is None else maps[None]
    problem = prepare(model, kspace, lines, given)
    share = (1.0,) * model.settings.levels
    found = reconstruct(model, kspace, lines, given, SHORT, tv_shares=share)
    own = infer_kspace(model, problem, SHORT)
    blended = torch.where(problem.mask, own, problem.total_variation())
    expected = problem.images(problem.finish(blended))
    assert (found - expected).norm() / expected.norm() < 1e-5
    without = reconstruct(model, kspace, lines, given, SHORT)
    assert torch.equal(without, reconstruct(model, kspace, lines, given, SHORT, tv_shares=(0.0,) * len(share)))


def test_a_network_that_is_wrong_is_left_for_total_variation(model: HVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    kspace, lines = small_kspace(1, 64, 64, noise=0.002), calibrated(64, 8)
    kept = torch.where(lines, kspace, 0)
    right = tv_blend.infer_kspace

    def wrong(*arguments: object) -> torch.Tensor:
        answer = right(*arguments)  # type: ignore[arg-type]
        return answer + 0.3 * torch.randn(answer.shape, dtype=answer.dtype, generator=torch.Generator().manual_seed(0))

    monkeypatch.setattr(tv_blend, "infer_kspace", wrong)
    shares = tv_blend.tv_shares(model, kept, lines, lines)
    assert shares[-1] > 0.8  # most lines that were held out are of the last band
    assert tv_blend.tv_shares(model, kept.mT, lines[:, None], lines[:, None]) == pytest.approx(shares, abs=0.05)


def test_too_little_says_nothing(model: HVAE) -> None:
    kspace = small_kspace(1, 32, 32)
    everything, few = torch.ones(32, dtype=torch.bool), torch.arange(32) // 8 % 3 == 1
    assert tv_blend.tv_shares(model, kspace, everything, everything) == ()
    assert tv_blend.tv_shares(model, torch.where(few, kspace, 0), few, few) == ()
    assert tv_blend.tv_shares(model, torch.zeros_like(kspace), calibrated(32), calibrated(32)) == ()


def test_a_scan_is_fitted_once_and_samples_and_single_passes_never() -> None:
    lines = calibrated(40, 8).numpy()
    scan = mrihvae.Scan("scan", small_kspace(3, 48, 40).numpy(), lines)
    hybrid = load_method("hybrid")
    assert isinstance(hybrid, HybridMethod) and hybrid.tv_shares is None
    share = (0.0,) * (hybrid.model.settings.levels - 1) + (1.0,)
    fitted = replace(hybrid, tv_shares=share)
    found = mrihvae.reconstruct_scan(scan, lines, fitted)
    assert found.tv_shares == share
    plain = mrihvae.reconstruct_scan(scan, lines, load_method("hybrid", tv_blend=False))
    assert plain.tv_shares == () and not np.array_equal(plain.magnitude, found.magnitude)
    for method in ("amortized", "samples"):
        assert mrihvae.reconstruct_scan(scan, lines, load_method(method)).tv_shares == ()
    assert mrihvae.reconstruct_scan(scan, lines, hybrid, samples=2).tv_shares == ()


def test_white_phase_ends_beside_total_variation(model: HVAE) -> None:
    image = ifft2c(small_kspace(1, 64, 64, noise=0.01))
    generator = torch.Generator().manual_seed(0)
    angle = 2 * torch.pi * torch.rand(image.shape, generator=generator)
    kspace, lines = fft2c(image * torch.polar(torch.ones_like(angle), angle)), calibrated(64, 8).numpy()
    scan = mrihvae.Scan("white", kspace.numpy(), lines)
    truth = image.abs().numpy()

    def psnr(method: str) -> float:
        error = mrihvae.reconstruct_scan(scan, lines, method).magnitude - truth
        return float(20 * np.log10(truth.max()) - 10 * np.log10(np.mean(error**2)))

    assert psnr("hybrid") > psnr("tv") - 0.1
    assert mrihvae.reconstruct_scan(scan, lines).tv_shares == (1.0,) * model.settings.levels
