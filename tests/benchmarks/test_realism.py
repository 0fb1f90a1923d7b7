"""Whether samples look like scans: power over frequency, what is scored, draws of the prior, tables and figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.common.spectra import BANDS, band_power, decibels
from benchmarks.singlecoil import prior_draws, realism
from mrihvae.data.scan import Scan
from mrihvae.inference.latents import generate
from mrihvae.model.hvae import HVAE
from mrihvae.model.weights import save_weights
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.catalog import make_method
from mrihvae.recon.methods import HybridMethod
from mrihvae.recon.undersampling import mask_of
from tests.support.files import write_scan
from tests.support.small import phantom, small_kspace, small_model

PROTOCOL = """
methods = ["samples"]
[[patterns]]
mask_type = "random"
acceleration = 2
center_fraction = 0.2
[[scans]]
name = "small"
path = "scans"
"""
TUNED = {"best": [{"method": "tv", "acceleration": 4, "kind": "raw", "strength": 0.01}]}


@pytest.fixture(scope="module")
def model() -> HVAE:
    """Make a small network."""
    return small_model().eval().requires_grad_(False)


@pytest.fixture
def folder(tmp_path: Path, model: HVAE) -> Path:
    """Write a scan, a protocol, strengths and weights."""
    kspace = small_kspace(4, 32, 32).numpy()
    target = ifft2c(torch.from_numpy(kspace)).abs().numpy()
    write_scan(tmp_path / "data" / "scans" / "a.h5", kspace.shape, kspace=kspace, reconstruction_esc=target)
    (tmp_path / "small.toml").write_text(PROTOCOL)
    (tmp_path / "tuned.json").write_text(json.dumps(TUNED))
    save_weights(tmp_path / "weights.safetensors", model, {})
    return tmp_path


def test_power_of_white_noise_is_flat_and_that_of_half_the_amplitude_6_dB_lower() -> None:
    noise = np.random.default_rng(0).standard_normal((128, 96))
    power = band_power(noise)
    np.testing.assert_allclose(power[2:], 1, rtol=0.15)
    np.testing.assert_allclose(decibels((band_power(noise / 2) / power)[None]), -6.021, atol=1e-3)
    wave = np.cos(2 * np.pi * 0.3 * np.arange(60))[:, None].repeat(64, axis=1)
    assert abs(BANDS[band_power(wave).argmax()] - 0.3) < 0.03


def test_noisier_samples_score_worse() -> None:
    rows = []
    for noise in (0.02, 0.2):
        rng, slices = np.random.default_rng(0), []
        for number in range(6):
            truth = phantom(32, 32, number)
            drawn = [truth + noise * rng.standard_normal(truth.shape).astype(np.float32) for _ in range(2)]
            slices.append(realism.Slice("one", "random 4x", truth, {"sample, 1": drawn}))
        rows.append(realism.score("random 4x", slices))
    (low, halves), (high, _) = rows
    assert low["PSNR"] == pytest.approx(high["PSNR"] + 20, abs=0.01)
    assert low["frechet"] < high["frechet"] and high["power_dB"]["one"][-1] > low["power_dB"]["one"][-1] + 10
    assert halves["images"] == "truth" and "PSNR" not in halves


def test_samples_with_noise_have_that_of_what_was_not_acquired(model: HVAE) -> None:
    deviation = 0.2
    scan = Scan("a", small_kspace(1, 32, 32, deviation).numpy())
    mask = mask_of(scan, Undersampling("random", 2, 0.2))
    sampler = make_method("samples", model, samples=2)
    assert isinstance(sampler, HybridMethod)
    plain, noisy = realism.draw_samples(scan, mask, sampler)
    assert len(plain) == 3 and len(noisy) == 2
    difference = np.sqrt(np.mean((np.array(noisy) - np.array(plain[:2])) ** 2))
    expected = deviation * np.sqrt(0.5 * (~mask).mean())  # of a bright pixel, whose magnitude takes half of the power
    assert 0.7 * expected < difference < 1.4 * expected


def test_the_benchmark_writes_results_that_say_what_made_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, model: HVAE
) -> None:
    def drawn(model: HVAE, options: object, paths: object) -> tuple[torch.Tensor, dict[float, torch.Tensor]]:
        images = {t: ifft2c(generate(model, 4, (32, 32), t).kspace).abs() for t in realism.TEMPERATURES}
        return ifft2c(small_kspace(4, 32, 32)).abs(), images

    monkeypatch.setattr(realism, "draws_of_prior", drawn)
    words = [str(folder / "small.toml"), "--data", str(folder / "data"), "--strengths", str(folder / "tuned.json")]
    words += ["--checkpoint", str(folder / "weights.safetensors"), "--results", str(folder), "--name", "small"]
    words += ["--work", str(folder / "work")]
    assert realism.main([*words, "--slices", "4", "--samples", "2", "--threads", "1"]) == 0
    found = json.loads((folder / "small.json").read_text())
    assert found["protocol"] == "small.toml" and len(found["weights"]) == len(found["protocol_sha256"]) == 12
    images = [row["images"] for row in found["rows"]]
    assert images[0] == "sample, 0" and images[-3:] == ["hybrid", "tv", "truth"]
    by_name = {row["images"]: row for row in found["rows"]}
    assert by_name["sample, 0"]["PSNR"] == pytest.approx(by_name["mean, 0"]["PSNR"], abs=1e-3)
    assert [row["temperature"] for row in found["prior"]] == [*realism.TEMPERATURES, None]
    table = (folder / "small.md").read_text()
    assert "| a sample, temperature 0.5 |" in table and "| mrihvae (hybrid) |" in table
    assert Image.open(folder / "small.png").size[0] > 1000
    before = (folder / "small.json").read_text()
    monkeypatch.setattr(realism, "reconstruct_slice", lambda *_: pytest.fail("made again"))
    assert realism.main([*words, "--slices", "4", "--samples", "2", "--threads", "1"]) == 0
    assert (folder / "small.json").read_text() == before
    assert realism.main([*words, "--slices", "0"]) == 2


def test_ways_of_drawing(model: HVAE) -> None:
    real = small_kspace(8, *prior_draws.SHAPE)
    with torch.no_grad():
        ways = prior_draws.ways(model, real)
        names = list(ways)
        assert names[0] == "temperature 1" and f"coarsest {model.settings.levels - 1} of a real slice" in names
        for name in (names[0], "truncated at 1 SD", "encoded and decoded once", "coarsest 1 fitted to real slices"):
            images = ways[name](0)
            assert images.shape == (prior_draws.BATCH, *prior_draws.SHAPE) and bool(images.isfinite().all())
        assert torch.equal(ways[names[0]](8), ways[names[0]](8))
        assert not torch.equal(ways[names[0]](0), ways[names[0]](8))
        inferred = prior_draws.encode(model, real)
        means, factor = prior_draws.fitted(inferred, 1)[0, 0]
    flat = torch.cat([z.flatten(1) for z in inferred.latents[0]], dim=1).double()
    torch.testing.assert_close(means, flat.mean(dim=0))
    variances = torch.diagonal(factor @ factor.T) - 1e-6
    torch.testing.assert_close(variances, flat.var(dim=0), rtol=1e-5, atol=1e-7)


def test_latents_of_all_levels_of_a_real_slice_decode_to_it_as_q_does(model: HVAE) -> None:
    real = small_kspace(8, *prior_draws.SHAPE)
    with torch.no_grad():
        inferred = prior_draws.encode(model, real)
        choose = prior_draws._from_real(lambda *_: pytest.fail("drawn"), inferred, 0, model.settings.levels)
        again = prior_draws.top_down(model, 8, prior_draws.SHAPE, choose).kspace
        once = prior_draws.decode_again(model, prior_draws.top_down(model, 8, prior_draws.SHAPE, choose)).kspace
    assert again.shape == once.shape == real.shape
    assert not torch.allclose(again, fft2c(ifft2c(once)), atol=1e-4)
