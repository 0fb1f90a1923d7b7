"""The simulated scanner: what its coils receive, and the noise of one and of several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.physics.fourier import ifft2c
from mrihvae.simulation.scanner import fields_of, noise_covariance, simulate_slice
from mrihvae.simulation.settings import ScannerSettings
from tests.support.small import phantom


def scan_of(settings: ScannerSettings, mixing: Tensor | None = None, seed: int = 0) -> tuple[Tensor, float, Tensor]:
    """Simulate a phantom: k-space (coils, H, W), its noise's deviation, and that noise itself."""
    fields = fields_of(settings, np.random.default_rng(1))
    values = {**vars(settings), "noise": 0.0, "noise_correlation": None}
    magnitude = phantom(80, 64)
    kspace, deviation = simulate_slice(magnitude, RandomState(seed), settings, fields, mixing)
    silent, nothing = simulate_slice(magnitude, RandomState(seed), ScannerSettings(**values), fields, mixing)
    assert nothing == 0
    return kspace, deviation, kspace - silent


def covariance_of(noise: Tensor) -> Tensor:
    """Estimate E[n n^H] from (coils, H, W)."""
    flat = noise.flatten(start_dim=1)
    return (flat @ flat.mH) / flat.shape[1]


def test_single_coil_is_what_it_always_was() -> None:
    """Benchmarks stand on these numbers."""
    kspace, deviation = simulate_slice(phantom(200, 320), RandomState([97, 46, 112, 110, 103, 0]), ScannerSettings())
    assert kspace.shape == (1, 256, 256) and kspace.dtype == torch.complex64
    assert deviation == pytest.approx(0.009082854390144349, rel=1e-6)
    known = {
        (128, 128): -49.15325164794922 - 10.475481033325195j,
        (127, 130): 4.507741928100586 + 1.1531437635421753j,
        (3, 250): -0.025754289701581 - 0.0012325500138103962j,
        (100, 140): -0.23447756469249725 + 0.007061924785375595j,
    }
    for bin_, value in known.items():
        assert complex(kspace[0][bin_]) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("fields", ["birdcage", "random"])
def test_coils_receive_the_image_through_their_fields(fields: str) -> None:
    settings = ScannerSettings(coils=5, fields=fields, matrix=64, noise=0.0)
    kspace, _, _ = scan_of(settings)
    image = ifft2c(scan_of(ScannerSettings(matrix=64, noise=0.0))[0])  # of one coil: same phase
    made = fields_of(settings, np.random.default_rng(1))
    assert made is not None and kspace.shape == (5, 64, 64)
    torch.testing.assert_close(ifft2c(kspace), made * image, rtol=0, atol=2e-6)


@pytest.mark.parametrize("coils", [1, 8])
def test_noise_is_white_and_relative_to_the_combined_image(coils: int) -> None:
    settings = ScannerSettings(coils=coils, matrix=128, noise=0.02)
    kspace, deviation, noise = scan_of(settings)
    image = ifft2c(kspace - noise).abs().square().sum(dim=0).sqrt()
    assert deviation == pytest.approx(0.02 * float(torch.quantile(image, 0.99)), rel=1e-5)
    torch.testing.assert_close(
        covariance_of(noise) / deviation**2, torch.eye(coils, dtype=torch.complex64), rtol=0, atol=0.03
    )
    parts = torch.view_as_real(noise).std(dim=(0, 1, 2))
    np.testing.assert_allclose(parts.numpy(), deviation / np.sqrt(2), rtol=0.02)


def test_combined_noise_is_that_of_a_single_coil() -> None:
    levels = []
    for coils in (1, 8):
        settings = ScannerSettings(coils=coils, matrix=128)
        kspace, _, noise = scan_of(settings)
        fields = fields_of(settings, np.random.default_rng(1))
        maps = torch.ones(1, 1, 1) if fields is None else fields / fields.abs().square().sum(dim=0).sqrt()
        signal = (maps.conj() * ifft2c(kspace - noise)).sum(dim=0)
        combined = (maps.conj() * ifft2c(noise)).sum(dim=0)
        levels.append(float(combined.abs().square().mean().sqrt() / torch.quantile(signal.abs(), 0.99)))
    np.testing.assert_allclose(levels, 0.01, rtol=0.02)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_covariance_of_noise(correlation: float) -> None:
    fields = fields_of(ScannerSettings(coils=6, fields="random", matrix=48), np.random.default_rng(3))
    assert fields is not None
    covariance = noise_covariance(fields, correlation)
    assert covariance.dtype == torch.complex128
    torch.testing.assert_close(covariance, covariance.mH)
    torch.testing.assert_close(covariance.diagonal().real, torch.ones(6, dtype=torch.float64))
    assert float(torch.linalg.eigvalsh(covariance)[0]) >= 1 - correlation - 1e-9
    flat = fields.flatten(start_dim=1).numpy()
    between = np.vdot(flat[3], flat[2]) / np.linalg.norm(flat[2]) / np.linalg.norm(flat[3])
    assert complex(covariance[2, 3]) == pytest.approx(correlation * between, abs=1e-6)


def test_colored_noise_has_its_covariance() -> None:
    settings = ScannerSettings(coils=4, fields="random", matrix=128, noise_correlation=0.8)
    fields = fields_of(settings, np.random.default_rng(1))
    assert fields is not None
    wanted = noise_covariance(fields, 0.8).to(torch.complex64)
    _, deviation, noise = scan_of(settings, torch.linalg.cholesky(wanted))
    found = covariance_of(noise) / deviation**2
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.03)
    assert float((found - wanted.conj()).abs().max()) > 0.3  # and not the conjugate's
    assert deviation == scan_of(ScannerSettings(coils=4, fields="random", matrix=128))[1]


def test_images_that_are_lines() -> None:
    kspace, _ = simulate_slice(np.ones((1, 500)), RandomState(0), ScannerSettings(matrix=64, noise=0.0))
    assert np.count_nonzero(ifft2c(kspace)[0].abs().numpy() > 1e-3) == 64


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"coils": 0}, "coils 0: must be at least 1"),
        ({"fields": "planar"}, "fields 'planar' are unknown; choose one of birdcage, random"),
        ({"matrix": 8}, "matrix 8: must be 16 to 4096"),
        ({"matrix": 5000}, "matrix 5000: must be 16 to 4096"),
        ({"noise": -0.1}, "noise -0.1: must be a number of at least 0"),
        ({"noise": float("nan")}, "noise nan: must be"),
        ({"noise": float("inf")}, "noise inf: must be"),
        ({"seed": -1}, "seed -1: must be 0 to 4294967295"),
        ({"coils": 2, "noise_correlation": 1.0}, "noise correlation 1.0: must be at least 0 and below 1"),
        ({"coils": 2, "noise_correlation": float("nan")}, "noise correlation nan"),
        ({"noise_correlation": 0.5}, "noise correlation: takes several coils"),
        ({"coils": 2, "noise": 0.0, "noise_correlation": 0.5}, "noise correlation: takes noise above 0"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ScannerSettings(**values)
