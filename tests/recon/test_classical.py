"""Classical baselines: convergence, scale, sizes, errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.random import RandomState

from mrihvae.errors import InputError
from mrihvae.physics.fastmri_masks import sampling_mask
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.recon import classical
from mrihvae.recon.classical import COIL_ITERATIONS, ITERATIONS, total_variation, wavelet
from tests.support.small_coils import true_maps

METHODS = [total_variation, wavelet]
Method = Callable[..., np.ndarray]


def phantom(height: int, width: int, seed: int = 0, noise: float = 0.01) -> np.ndarray:
    """Draw k-space of a complex image of ellipses with smooth phase and white noise, complex64 (H, W)."""
    rng = RandomState(seed)
    v, u = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    image = np.zeros((height, width), dtype=np.complex128)
    for size, level in ((0.85, 1.0), (0.7, -0.4), (0.3, 0.5), (0.15, -0.7)):
        b, a = rng.uniform(-0.2, 0.2, 2)
        image += level * (((v - b) / size) ** 2 + ((u - a) / (0.8 * size)) ** 2 < 1)
    image *= np.exp(1j * (u - 0.5 * v**2))
    kspace = fft2c(torch.from_numpy(image)).numpy()
    return (kspace + noise * (rng.randn(height, width) + 1j * rng.randn(height, width))).astype(np.complex64)


def zero_filled(kspace: np.ndarray) -> np.ndarray:
    """Compute F^H y, complex (..., H, W)."""
    return ifft2c(torch.from_numpy(kspace)).numpy()


def undersampled(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Give complete k-space (H, W) and a mask (W,)."""
    return phantom(height, width), sampling_mask("random", width, 4, 0.08, 1)


def psnr(target: np.ndarray, image: np.ndarray) -> float:
    error = np.mean((np.abs(target) - np.abs(image)) ** 2)
    return float(10 * np.log10(np.abs(target).max() ** 2 / error))


@pytest.mark.parametrize("method", METHODS)
def test_twice_the_iterations_change_nothing(method: Method) -> None:
    kspace, mask = undersampled(64, 64)
    strength = 0.01
    once, twice = (psnr(zero_filled(kspace), method(kspace, mask, strength, n)) for n in (300, 600))
    assert abs(twice - once) < 0.02


@pytest.mark.parametrize("method", METHODS)
def test_complete_kspace_gives_the_image(method: Method) -> None:
    kspace = phantom(31, 24)
    image = method(kspace, np.ones(24, dtype=bool), 0.01, 20)
    np.testing.assert_allclose(image, zero_filled(kspace), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_scale_of_the_input_is_the_scale_of_the_image(method: Method) -> None:
    kspace, mask = undersampled(32, 32)
    image = method(kspace, mask, 0.01, 20)
    np.testing.assert_allclose(method(kspace * np.float32(2e-7), mask, 0.01, 20) / 2e-7, image, atol=2e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(33, 27), (16, 45)])
def test_any_size_keeps_what_was_measured(method: Method, shape: tuple[int, int]) -> None:
    kspace = phantom(*shape)
    mask = np.isin(np.arange(shape[1]) - shape[1] // 2, (-7, -4, -1, 0, 1, 3, 8))
    image = method(kspace, mask, 0.01, 20)
    assert image.shape == shape and image.dtype == np.complex64
    found = fft2c(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(found[:, mask], kspace[:, mask], atol=1e-4)
    assert np.abs(found[:, ~mask]).max() > 0.01


def test_bad_input_is_named() -> None:
    kspace, mask = undersampled(16, 16)
    with pytest.raises(InputError, match=r"k-space \(2, 16, 16\) is not one slice"):
        total_variation(np.stack([kspace] * 2), mask, 0.01)
    for strength in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="strength"):
            wavelet(kspace, mask, strength)


# --- several coils ---------------------------------------------------------------------------------------------------


def coils(height: int, width: int, number: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make k-space (coils, H, W), maps, and the combined image of all of it."""
    maps = true_maps((height, width), number)
    received = fft2c(maps * torch.from_numpy(zero_filled(phantom(height, width, noise=0.0))))
    rng = RandomState(1)
    noise = 0.01 * (rng.randn(*received.shape) + 1j * rng.randn(*received.shape))
    kspace = (received.numpy() + noise).astype(np.complex64)
    return kspace, maps.numpy(), (maps.conj() * ifft2c(torch.from_numpy(kspace))).sum(dim=0).numpy()


@pytest.mark.parametrize("method", METHODS)
def test_one_coil_of_sensitivity_1_is_a_single_coil(method: Method) -> None:
    """But that measured bins are put back in a single coil's image at the end.

    Total variation has another algorithm with maps, so both are taken to where they stand still.
    """
    kspace, mask = undersampled(32, 40)
    single = fft2c(torch.from_numpy(method(kspace, mask, 0.01, 600))).numpy()
    with_maps = fft2c(torch.from_numpy(method(kspace[None], mask, 0.01, 600, np.ones((1, 32, 40))))).numpy()
    np.testing.assert_allclose(with_maps[:, ~mask], single[:, ~mask], atol=0.01)
    assert 0 < np.abs(with_maps[:, mask] - single[:, mask]).max() < 0.3


@pytest.mark.parametrize(("method", "name"), [(wavelet, "wavelet"), (total_variation, "tv")])
def test_iterations_left_out_are_the_usual_ones(method: Method, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen by what sigpy is told, which draws at random where it starts to look for its step."""
    told: list[int] = []
    monkeypatch.setattr(
        classical, "_solve", lambda app, y, mask, strength, iterations, *_, **__: told.append(iterations)
    )
    kspace, mask = undersampled(16, 20)
    method(kspace, mask, 0.01)
    method(kspace[None], mask, 0.01, None, np.ones((1, 16, 20)))
    method(kspace, mask, 0.01, 7)
    assert told == [ITERATIONS[name], COIL_ITERATIONS[name], 7]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", ["lines", "along the height", "bins"])
def test_coils_are_reconstructed_with_their_maps(method: Method, pattern: str) -> None:
    kspace, maps, complete = coils(48, 40)
    lines = np.isin(np.arange(40) % 3, (0,)) | (np.abs(np.arange(40) - 20) < 4)
    rows = np.isin(np.arange(48) % 3, (0,))[:, None] | (np.abs(np.arange(48) - 24) < 4)[:, None]
    bins = rows & lines | (RandomState(0).rand(48, 40) < 0.3)
    mask = {"lines": lines, "along the height": rows, "bins": bins}[pattern]
    image = method(kspace, mask, 0.003, 100, maps)
    assert image.shape == (48, 40) and image.dtype == np.complex64
    kept = np.where(mask, kspace, 0)
    aliased = (maps.conj() * zero_filled(kept)).sum(axis=0)
    assert psnr(complete, image) > psnr(complete, aliased) + 5
    spoiled = np.where(mask, kspace, 100)
    np.testing.assert_allclose(method(spoiled, mask, 0.003, 100, maps), image, atol=2e-3)
    for factor in (2e-7, 1e4):
        np.testing.assert_allclose(
            method(kspace * np.float32(factor), mask, 0.003, 100, maps) / factor, image, atol=2e-3
        )


def test_bad_coils_are_named() -> None:
    kspace, maps, _ = coils(24, 20)
    for given, sensitivities in ((kspace, maps[1:]), (kspace[0], maps), (kspace, maps[:, 1:])):
        with pytest.raises(InputError, match=r"is not one slice"):
            total_variation(given, np.ones(20, dtype=bool), 0.01, 5, sensitivities)
