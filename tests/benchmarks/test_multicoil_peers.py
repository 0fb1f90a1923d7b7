"""Classical peers for several coils: exact on complete data, of the data's scale, on any size, in agreement."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.peers import bart, multicoil_peers
from benchmarks.peers.multicoil_peers import BART, METHODS, arguments, kernel_for, reconstruct, to_rss
from mrihvae.errors import InputError
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.sampling import sampling_pattern
from mrihvae.simulation.coil_fields import birdcage_fields
from tests.support.files import complex_normal
from tests.support.small import phantom

needs_bart = pytest.mark.skipif(bart.version() is None, reason="bart is not installed")
ALL = [pytest.param(method, marks=needs_bart if method in BART else ()) for method in METHODS]


def scan(shape: tuple[int, int] = (48, 48), coils: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make k-space and maps (coils, H, W) of a phantom with phase, and the image (H, W) that they combine to."""
    image = phantom(*shape) * np.exp(1j * np.linspace(0, 1, shape[1]))
    fields = birdcage_fields(shape, coils).numpy()
    length = np.sqrt((np.abs(fields) ** 2).sum(axis=0))
    image = 1e-4 * (length * image).astype(np.complex64)
    maps = (fields / length).astype(np.complex64)
    return fft2c(torch.from_numpy(maps * image)).numpy(), maps, image


def strength_of(method: str, strength: float) -> float | None:
    return None if method in ("zero-filled", "nlinv") else strength


def off(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("method", ALL)
def test_complete_data_give_the_image(method: str) -> None:
    kspace, maps, image = scan(shape := (64, 64))
    complete = np.ones(shape, dtype=bool)
    answer = reconstruct(method, kspace, complete, maps, strength_of(method, 1e-5))
    assert answer.image.dtype == np.complex64 and answer.image.shape == shape
    assert off(np.abs(answer.image), np.abs(image)) < 0.01
    if method not in ("nlinv", "ecalib-sense", "ecalib-wavelet", "ecalib-tv"):
        assert off(answer.image, image) < 1e-3 and answer.maps is maps
    expanded = fft2c(torch.from_numpy(answer.maps * answer.image)).numpy()
    assert off(expanded, kspace) < (0.05 if method == "nlinv" else 0.01)
    np.testing.assert_allclose(to_rss(answer.image, answer.maps, kspace, complete), np.abs(image), atol=1e-9)


@pytest.mark.parametrize("method", ALL)
def test_undersampled_data_are_completed_in_their_scale(method: str) -> None:
    kspace, maps, image = scan()
    mask = sampling_pattern("equispaced_fraction", (48, 48), 2, 0.3, 0)
    strength = strength_of(method, 1e-4)
    answer = reconstruct(method, kspace, mask, maps, strength, None if method == "nlinv" else 20)
    found = to_rss(answer.image, answer.maps, kspace, mask)
    zero_filled = multicoil_peers.root_sum_of_squares(ifft2c(torch.from_numpy(kspace * mask)).numpy())
    assert found.dtype == np.float32
    share = {"zero-filled": 0.9, "nlinv": 0.6}.get(method, 0.3)
    assert off(found, np.abs(image)) < share * off(zero_filled, np.abs(image))
    twice = reconstruct(method, 2 * kspace, mask, maps, strength, None if method == "nlinv" else 20)
    np.testing.assert_allclose(twice.image, 2 * answer.image, atol=2e-3 * np.abs(image).max())


@needs_bart
@pytest.mark.parametrize("shape", [(64, 62), (63, 64), (61, 65)])
@pytest.mark.parametrize("method", ["bart-sense", "ecalib-sense", "nlinv"])
def test_bart_on_every_size(method: str, shape: tuple[int, int]) -> None:
    """Where BART's image is shifted or of the other sign, data that are put in next to it show it."""
    kspace, maps, image = scan(shape)
    complete = np.ones(shape, dtype=bool)
    answer = reconstruct(method, kspace, complete, maps, strength_of(method, 1e-5))
    expanded = fft2c(torch.from_numpy(answer.maps * answer.image)).numpy()
    assert off(expanded, kspace) < (0.05 if method == "nlinv" else 0.01)
    assert off(np.abs(answer.image), np.abs(image)) < 0.01


def test_modulation_is_nothing_on_multiples_of_4_and_a_sign_on_other_even_sizes() -> None:
    np.testing.assert_allclose(bart.modulation((32, 36)), 1, atol=1e-9)
    np.testing.assert_allclose(bart.modulation((32, 30)), -1, atol=1e-9)
    np.testing.assert_allclose(bart.modulation((30, 30)), 1, atol=1e-9)
    steps = bart.modulation((32, 29))[0, 1:] / bart.modulation((32, 29))[0, :-1]
    np.testing.assert_allclose(steps, np.exp(2j * np.pi / 29), atol=1e-9)


@needs_bart
def test_sense_of_sigpy_and_of_bart_agree() -> None:
    kspace, maps, image = scan()
    kspace = kspace + 0.02 * np.abs(image).max() * complex_normal(kspace.shape)
    mask = sampling_pattern("random", (48, 48), 3, 0.2, 0)
    for strength in (0.01, 0.1):
        ours, theirs = (reconstruct(m, kspace, mask, maps, strength, 100).image for m in ("sense", "bart-sense"))
        assert off(ours, theirs) < 1e-4


def test_sense_solves_its_normal_equations() -> None:
    kspace, maps, _ = scan()
    mask = sampling_pattern("random", (48, 48), 3, 0.2, 0)
    image = reconstruct("sense", kspace, mask, maps, 0.05, 100).image
    expanded = fft2c(torch.from_numpy(maps * image)).numpy()
    residual = (maps.conj() * ifft2c(torch.from_numpy(np.where(mask, kspace - expanded, 0))).numpy()).sum(axis=0)
    np.testing.assert_allclose(residual, 0.05 * image, atol=1e-4 * np.abs(image).max())


def test_arguments_tell_what_is_run() -> None:
    assert arguments("sense", 0.01) == "sigpy.mri.app.SenseRecon(lamda=0.01, max_iter=30)"
    variation = "sigpy.mri.app.TotalVariationRecon(lamda=0.02, max_iter=60, solver=ADMM, rho=0.2, max_cg_iter=5)"
    assert arguments("tv", 0.02) == variation
    assert arguments("bart-sense", 0.01, 7) == "bart pics -w 1 -l2 -r 0.01 -i 7"
    wavelet = "bart ecalib -m 1 -c 0 -k 5 && bart pics -w 1 --wavelet haar -i 100 -R W:3:0:0.001"
    assert arguments("ecalib-wavelet", 0.001) == wavelet
    assert arguments("ecalib-wavelet", 0.001, kernel=3) == wavelet.replace("-k 5", "-k 3")
    assert arguments("nlinv", iterations=8) == "bart nlinv -S -i 8"


def test_kernel_is_that_of_the_nearest_lines_and_acceleration() -> None:
    tuned = [
        {"lines": 5, "acceleration": 8, "kernel": 3},
        {"lines": 10, "acceleration": 4, "kernel": 4},
        {"lines": 20, "acceleration": 4, "kernel": 6},
    ]
    wanted = {(5, 8): 3, (9, 4): 4, (10, 5): 4, (24, 4): 6, (4, 8.3): 3}
    assert {key: kernel_for(tuned, *key) for key in wanted} == wanted
    assert kernel_for(tuned, 3, 8) == 2  # smaller than the region
    assert kernel_for([], 24, 4) == 5


def test_mistakes_are_named() -> None:
    kspace, maps, _ = scan((16, 16), 2)
    mask = np.ones((16, 16), dtype=bool)
    for change, message in (
        ({"method": "grappa"}, "method 'grappa' is unknown"),
        ({"kspace": kspace[0]}, "is not one slice"),
        ({"mask": mask[:8]}, "is not one slice"),
        ({"strength": None}, "needs its strength"),
        ({"strength": -1.0}, "not a number above 0"),
        ({"maps": None}, "takes maps of the shape"),
        ({"maps": maps[:1]}, "takes maps of the shape"),
        ({"maps": 2 * maps}, "root-sum-of-squares of up to 2; divide"),
    ):
        given = {"method": "sense", "kspace": kspace, "mask": mask, "maps": maps, "strength": 0.01, **change}
        with pytest.raises(InputError, match=message):
            reconstruct(**given)
