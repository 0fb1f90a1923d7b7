"""Undersampled scans of one coil and of several by PnP-HVAE: units, shapes, views, x-steps, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from mrihvae.errors import InputError
from mrihvae.inference.preparation import prepare
from mrihvae.inference.views import view
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.pnp.reconstruct import ScanPosterior, reconstruct_scans
from mrihvae.pnp.settings import PnPSettings
from tests.support.small import every_third, small_kspace, small_model
from tests.support.small_coils import calibrated, coil_scans, some_bins


@pytest.fixture(scope="module")
def scans() -> HVAE:
    return small_model()


def exactly(**values: Any) -> PnPSettings:
    return PnPSettings(**{"precision": "float32", **values})


@pytest.mark.parametrize("number", range(8))
def test_a_look_at_scans_is_a_view_of_them(scans: HVAE, number: int) -> None:
    problem = prepare(scans, small_kspace(2, 15, 21), every_third(21))
    posterior = ScanPosterior(scans, problem, number)
    image = ifft2c(problem.measured)
    assert torch.equal(posterior.kspace(image), view(fft2c(image), number))
    torch.testing.assert_close(posterior.image(posterior.kspace(image)), image, rtol=0, atol=1e-6)
    bins, where, s = posterior.known_bins(posterior.kspace(image), 0.05)
    assert torch.equal(bins, view(problem.measured, number)) and torch.equal(where, view(problem.mask, number))
    assert torch.equal(s, torch.sqrt(scans.settings.noise_floor**2 + problem.noise**2))


@pytest.mark.parametrize("shape", [(16, 24), (19, 22)])
@pytest.mark.parametrize("encoder", ["data", "complete"])
def test_scans_keep_their_scale_and_shape(scans: HVAE, shape: tuple[int, int], encoder: str) -> None:
    kspace, mask = small_kspace(2, *shape), every_third(shape[1])
    settings = exactly(encoder=encoder, tau=0.9, views=2, gamma=0.1)
    image, found = reconstruct_scans(scans, kspace, mask, None, settings)
    assert image.shape == (2, *shape) and image.dtype == torch.complex64 and len(found.residual) == 2
    large, _ = reconstruct_scans(scans, 1e5 * kspace, mask, None, settings)
    torch.testing.assert_close(large / 1e5, image, rtol=0, atol=1e-5)
    turned, _ = reconstruct_scans(scans, kspace.mT, mask[:, None], None, settings)
    torch.testing.assert_close(turned, image.mT, rtol=0, atol=1e-5)
    noisy = kspace + torch.where(mask, 0, 5.0)  # what was not measured counts nothing
    torch.testing.assert_close(reconstruct_scans(scans, noisy, mask, None, settings)[0], image)
    of_x, found = reconstruct_scans(scans, kspace, mask, None, dataclasses.replace(settings, result="image"))
    assert not torch.allclose(of_x, image, atol=1e-3)
    alone, _ = reconstruct_scans(scans, kspace[1:], mask, None, settings)
    torch.testing.assert_close(alone[0], image[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 24), (19, 22)])
@pytest.mark.parametrize("encoder", ["data", "complete"])
def test_complete_scans_come_back_where_the_decoder_counts_little(
    scans: HVAE, shape: tuple[int, int], encoder: str
) -> None:
    kspace = small_kspace(2, *shape, noise=0.0)
    settings = exactly(encoder=encoder, gamma=100.0, result="image")
    image, _ = reconstruct_scans(scans, kspace, torch.ones(shape[1], dtype=torch.bool), None, settings)
    torch.testing.assert_close(image, ifft2c(kspace), rtol=0, atol=1e-3)


def test_measured_bins_hold_the_image(scans: HVAE) -> None:
    """x on measured bins is (y + r F mu) / (1 + r), and F mu elsewhere (methods: the x-step for one coil)."""
    kspace, mask = small_kspace(1, 16, 24, noise=0.05), every_third(24)
    settings = exactly(iterations=1, gamma=0.1)
    _, found = reconstruct_scans(scans, kspace, mask, None, settings)
    problem = prepare(scans, kspace, mask)
    r = (problem.noise[:, None, None] / 0.1) ** 2
    mu = fft2c(found.decoded)
    expected = torch.where(mask, (problem.measured + r * mu) / (1 + r), mu)
    torch.testing.assert_close(fft2c(found.image), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 24), (19, 22)])
@pytest.mark.parametrize("encoder", ["data", "complete"])
def test_scans_of_coils_keep_their_scale_and_shape(scans: HVAE, shape: tuple[int, int], encoder: str) -> None:
    kspace, maps, _ = coil_scans(2, 3, *shape)
    mask, settings = calibrated(shape[1]), exactly(encoder=encoder, tau=0.9, views=2, gamma=0.1)
    image, found = reconstruct_scans(scans, kspace, mask, maps[None], settings)
    assert image.shape == (2, *shape) and image.dtype == torch.complex64 and len(found.residual) == 2
    for factor in (2.0, 1e-8, 1e4):
        other, _ = reconstruct_scans(scans, factor * kspace, mask, maps[None], settings)
        torch.testing.assert_close(other / factor, image, rtol=0, atol=2e-5)
    turned, _ = reconstruct_scans(scans, kspace.mT, mask[:, None], maps.mT[None], settings)
    torch.testing.assert_close(turned, image.mT, rtol=0, atol=2e-5)
    noisy = kspace + torch.where(mask, 0, 5.0)  # what was not measured counts nothing
    torch.testing.assert_close(reconstruct_scans(scans, noisy, mask, maps[None], settings)[0], image)
    each, _ = reconstruct_scans(scans, kspace, mask, maps.expand(2, -1, -1, -1), settings)
    torch.testing.assert_close(each, image, rtol=0, atol=1e-5)
    alone, _ = reconstruct_scans(scans, kspace[1:].to(torch.complex128), mask, maps[None], settings)
    torch.testing.assert_close(alone[0], image[1], rtol=0, atol=1e-5)
    of_x, _ = reconstruct_scans(scans, kspace, mask, maps[None], dataclasses.replace(settings, result="image"))
    assert not torch.allclose(of_x, image, atol=1e-3)


@pytest.mark.parametrize("mask", [calibrated(24), some_bins(19, 24), torch.ones(24, dtype=torch.bool)])
def test_coils_hold_the_image(scans: HVAE, mask: torch.Tensor) -> None:
    """x solves (A^H A + r) x = A^H y + r mu (methods: the x-step with coils)."""
    kspace, maps, _ = coil_scans(2, 3, 19, 24, noise=0.05)
    settings = exactly(iterations=1, gamma=0.1, result="image")
    image, found = reconstruct_scans(scans, kspace, mask, maps[None], settings)
    problem = prepare(scans, kspace, mask, maps[None])
    r = (problem.noise[:, None, None] / 0.1) ** 2
    left = problem.sense.normal(found.image) + r * found.image
    torch.testing.assert_close(left, problem.combined + r * found.decoded, rtol=0, atol=1e-4)
    torch.testing.assert_close(image, found.image * problem.unit[:, None, None], rtol=0, atol=1e-5)
    misfit = (problem.sense.forward(found.image) - problem.sense.masked(kspace) / problem.unit.view(2, 1, 1, 1)).abs()
    expected = misfit.square().flatten(1).sum(dim=1) / problem.noise**2
    torch.testing.assert_close(found.misfit[-1], expected, rtol=1e-3, atol=0)


def test_complete_scans_of_coils_come_back_where_the_decoder_counts_little(scans: HVAE) -> None:
    kspace, maps, images = coil_scans(2, 3, 19, 22, noise=0.0)
    settings = exactly(gamma=100.0, result="image")
    image, _ = reconstruct_scans(scans, kspace, torch.ones(22, dtype=torch.bool), maps[None], settings)
    torch.testing.assert_close(image, images, rtol=0, atol=1e-3)


@pytest.mark.parametrize("number", range(8))
def test_a_look_at_coils_is_a_view_of_them(scans: HVAE, number: int) -> None:
    kspace, maps, _ = coil_scans(2, 3, 15, 21)
    problem = prepare(scans, kspace, calibrated(21), maps[None])
    posterior, image = ScanPosterior(scans, problem, number), problem.combined
    torch.testing.assert_close(posterior.image(posterior.kspace(image)), image, rtol=0, atol=1e-6)
    guess = posterior.kspace(image)
    bins, where, s = posterior.known_bins(guess, 0.05)
    assert torch.equal(where, view(problem.mask, number)) and torch.equal(bins, torch.where(where, guess, 0))
    assert torch.equal(s, torch.sqrt(scans.settings.noise_floor**2 + problem.noise**2))


def test_maps_that_do_not_fit_scans(scans: HVAE) -> None:
    kspace, maps, _ = coil_scans(2, 3, 16, 24)
    for given, mask, sensitivities, message in (
        (kspace, calibrated(24), maps[None, 1:], "maps of shape"),
        (kspace, calibrated(24), maps, "maps of shape"),
        (kspace[:, 0], calibrated(24), maps[None], "give complex .slices, coils, H, W."),
        (kspace, calibrated(23), maps[None], "mask of shape .23,. does not fit"),
    ):
        with pytest.raises(InputError, match=message):
            reconstruct_scans(scans, given, mask, sensitivities, exactly())
