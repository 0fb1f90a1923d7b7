"""Reconstruction from several coils: maps slice by slice, SENSE against other programs, inference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.peers import bart
from mrihvae.coils.combine import root_sum_of_squares
from mrihvae.coils.espirit import calibration_data, espirit_maps, fast_maps
from mrihvae.coils.maps import estimate_maps
from mrihvae.coils.settings import CoilSettings
from mrihvae.errors import InputError
from mrihvae.inference.preparation import prepare
from mrihvae.inference.reconstruct import draw, first_estimate, reconstruct
from mrihvae.inference.settings import InferenceSettings, RefinementSettings
from mrihvae.inference.views import view
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.recon.classical import conjugate_gradient_sense
from tests.support.files import complex_normal
from tests.support.small import SMALL, small_model
from tests.support.small_coils import calibrated, coil_scans, distance, some_bins, true_maps

EXACT = InferenceSettings(views=2, rounds=2, precision="float32", refinement=RefinementSettings(sweeps=1))
SHORT = InferenceSettings(views=1, rounds=1, precision="float32", refinement=RefinementSettings(sweeps=0))


@pytest.fixture(scope="module")
def model() -> HVAE:
    return small_model().eval().requires_grad_(False)


def white(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(complex_normal(shape, seed))


def test_maps_are_estimated_slice_by_slice() -> None:
    kspace = coil_scans(2, 3, 48, 40)[0]
    lines = calibrated(40, 12)
    for kind, estimate in (("fast", fast_maps), ("espirit", espirit_maps)):
        found = estimate_maps(kspace, lines, CoilSettings(maps=kind, crop=0.5))
        assert found.shape == kspace.shape and found.dtype == torch.complex64
        for one, maps in zip(calibration_data(kspace, lines), found):
            torch.testing.assert_close(maps, estimate(one, (48, 40), 0.5), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="around the center of k-space is only 48 x 1"):
        estimate_maps(kspace, torch.arange(40) == 20, CoilSettings())


# --- CG-SENSE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "pattern"),
    [((48, 40), calibrated(40)), ((45, 61), some_bins(45, 61)), ((40, 37), calibrated(40)[:, None])],
)
@pytest.mark.parametrize("strength", [0.01, 0.1])
def test_sense_is_sigpys(shape: tuple[int, int], pattern: Tensor, strength: float) -> None:
    import sigpy.mri.app

    kspace, maps, images = coil_scans(1, 4, *shape, noise=0.02)
    mask = pattern.expand(shape)
    found = conjugate_gradient_sense(kspace, mask, maps[None], strength)
    app = sigpy.mri.app.SenseRecon(
        torch.where(mask, kspace, 0)[0].numpy(),
        maps.numpy(),
        lamda=strength,
        weights=mask.numpy().astype(np.float32)[None],
        max_iter=100,
        show_pbar=False,
    )
    theirs = torch.from_numpy(app.run())[None]
    assert distance(found, theirs) < 1e-5
    assert distance(found, images) < 0.5 * distance(ifft2c(torch.where(mask, kspace, 0)).sum(dim=1), images)


@pytest.mark.parametrize("shape", [(48, 40), (46, 38), (45, 37)])  # BART centers some sizes in ways of its own
def test_sense_is_barts(shape: tuple[int, int]) -> None:
    if bart.version() is None:
        pytest.skip("BART is not installed")
    kspace, maps, _ = coil_scans(1, 4, *shape, noise=0.02)
    mask = calibrated(shape[1]).expand(shape)
    kept = torch.where(mask, kspace, 0)
    found = conjugate_gradient_sense(kspace, mask, maps[None], 0.05)
    options = ("-l2", "-r", "0.05", "-w", "1", "-i", "100", "-S")
    theirs = bart.pics(kept[0].numpy(), mask.numpy(), maps.numpy(), options)
    assert distance(found[0], torch.from_numpy(theirs)) < 1e-4


def test_sense_in_any_unit_and_batch() -> None:
    kspace, maps, _ = coil_scans(3, 4, 24, 20)
    whole = conjugate_gradient_sense(kspace, calibrated(20), maps[None], 0.01)
    for factor in (2.0, 1e-8, 1e4):
        found = conjugate_gradient_sense(factor * kspace, calibrated(20), maps[None], 0.01)
        torch.testing.assert_close(found / factor, whole, rtol=0, atol=1e-5)
    one = conjugate_gradient_sense(kspace[1:2], calibrated(20), maps[None], 0.01)
    torch.testing.assert_close(one[0], whole[1], rtol=0, atol=1e-5)
    ignored = torch.where(calibrated(20), kspace, 5.0)
    torch.testing.assert_close(conjugate_gradient_sense(ignored, calibrated(20), maps[None], 0.01), whole)


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_sense_needs_a_strength(strength: float) -> None:
    kspace, maps, _ = coil_scans(1, 2, 12, 10)
    with pytest.raises(InputError, match=r"strength .* must be above 0"):
        conjugate_gradient_sense(kspace, calibrated(10, 4), maps[None], strength)


# --- inference -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24, 40), (61, 45)])
def test_reconstruction_keeps_scale_and_shape(model: HVAE, shape: tuple[int, int]) -> None:
    kspace, maps, _ = coil_scans(2, 3, *shape)
    lines = calibrated(shape[1])
    found = reconstruct(model, kspace, lines, maps[None], EXACT)
    size = float(found.abs().max())
    assert found.shape == (2, *shape) and found.dtype == torch.complex64
    assert torch.equal(reconstruct(model, kspace, lines, maps[None], EXACT), found)  # not left to chance
    for factor in (2.0, 2.0**-27, 2.0**13):  # exact, so that nothing is rounded otherwise
        other = reconstruct(model, factor * kspace, lines, maps[None], EXACT)
        torch.testing.assert_close(other / factor, found, rtol=0, atol=1e-7 * size)
    for factor in (1e-8, 1e4):  # k-space itself is rounded otherwise, by 6e-8
        other = reconstruct(model, factor * kspace, lines, maps[None], EXACT)
        torch.testing.assert_close(other / factor, found, rtol=0, atol=2e-5 * size)
    turned = reconstruct(model, kspace.mT, lines[:, None], maps.mT[None], EXACT)
    torch.testing.assert_close(turned, found.mT, rtol=0, atol=1e-5 * size)
    other = reconstruct(model, torch.where(lines, kspace, 5.0), lines, maps[None], EXACT)
    assert torch.equal(other, found)  # what was not measured counts nothing
    each = reconstruct(model, kspace, lines, maps.expand(2, -1, -1, -1), EXACT)
    torch.testing.assert_close(each, found, rtol=0, atol=1e-5 * size)
    for k in range(2):
        alone = reconstruct(model, kspace[k : k + 1], lines, maps[None], EXACT)
        torch.testing.assert_close(alone[0], found[k], rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("mask", [calibrated(40), some_bins(24, 40), calibrated(24)[:, None]])
def test_reconstruction_agrees_with_the_data(model: HVAE, mask: Tensor) -> None:
    """However little the network knows, the last step settles its answer."""
    kspace, maps, _ = coil_scans(2, 4, 24, 40, noise=0.001)
    found = reconstruct(model, kspace, mask, maps[None])
    misfit = torch.where(mask, fft2c(maps * found[:, None]) - kspace, 0)
    assert float(misfit.norm() / torch.where(mask, kspace, 0).norm()) < 0.12


def test_complete_scans_come_back(model: HVAE) -> None:
    kspace, maps, images = coil_scans(2, 4, 19, 22, noise=0.0)
    found = reconstruct(model, kspace, torch.ones(22, dtype=torch.bool), maps[None], EXACT)
    assert distance(found, images) < 1e-4


def test_rounds_by_hand(model: HVAE) -> None:
    """Views are averaged in k-space, settled, and looked at again; the answer is settled once more."""
    kspace, maps, _ = coil_scans(1, 3, 19, 22)
    problem = prepare(model, kspace, calibrated(22), maps[None])
    one = dataclasses.replace(SHORT, views=3)
    singles = []
    for number in range(3):
        seen = problem.view(number)
        answer = reconstruct_of(model, seen)
        singles.append(view(answer, number))
    mean = torch.stack(singles).mean(dim=0)
    found = reconstruct(model, kspace, calibrated(22), maps[None], one)
    torch.testing.assert_close(found, problem.images(problem.make_consistent(mean)), rtol=0, atol=1e-5)
    two = dataclasses.replace(one, rounds=2)
    torch.testing.assert_close(first_estimate(model, problem, two), problem.make_consistent(mean), rtol=0, atol=1e-5)


def reconstruct_of(model: HVAE, seen: Any) -> Tensor:
    """Do one round in one view: the guess, r's means, the guess's bins where lines were measured."""
    from mrihvae.model.bands import merge
    from mrihvae.training.objective import decode_means

    guess = seen.guess(model)
    measured = torch.where(seen.mask, guess, 0)
    return torch.where(seen.mask, guess, merge(decode_means(model, measured, seen.mask, guess)))


def test_samples(model: HVAE) -> None:
    """Equal seeds give equal draws, whatever the batch; each agrees with the data."""
    kspace, maps, _ = coil_scans(2, 3, 19, 22)
    lines = calibrated(22)
    problem = prepare(model, kspace, lines, maps[None])
    found = draw(model, problem, 3, SHORT, seed=5)
    assert found.shape == (3, 2, 19, 22)
    assert torch.equal(draw(model, problem, 3, SHORT, seed=5), found)
    assert not torch.allclose(draw(model, problem, 3, SHORT, seed=6), found, atol=1e-3)
    assert float((found[0] - found[1]).abs().max()) > 1e-3
    alone = draw(model, prepare(model, kspace[1:], lines, maps[None]), 3, SHORT, seed=5, first=1)
    torch.testing.assert_close(alone[:, 0], found[:, 1], rtol=0, atol=1e-5)
    turned = draw(model, prepare(model, kspace.mT, lines[:, None], maps.mT[None]), 3, SHORT, seed=5)
    torch.testing.assert_close(turned, found.mT, rtol=0, atol=1e-5)
    for image in found:
        misfit = torch.where(lines, fft2c(maps * image[:, None]) - kspace, 0)
        assert float(misfit.norm() / torch.where(lines, kspace, 0).norm()) < 0.1


REFUSED: list[tuple[Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]], str]] = [
    (lambda k, m, s: (k[0], m, s), r"k-space is torch.complex64 of shape \(3, 24, 20\); give complex \(slices, coils"),
    (lambda k, m, s: (k.real, m, s), r"k-space is torch.float32 of shape \(2, 3, 24, 20\); give complex"),
    (lambda k, m, s: (k, m[1:], s), r"mask of shape \(19,\) does not fit k-space of \(24, 20\); give \(W,\) or \(H, W"),
    (lambda k, m, s: (k, m.expand(2, 24, 20), s), r"mask of shape \(2, 24, 20\) does not fit"),
    (lambda k, m, s: (k, m, s[0]), r"maps of shape \(3, 24, 20\) do not fit k-space of \(2, 3, 24, 20\); give"),
    (lambda k, m, s: (k, m, s[:, 1:]), r"maps of shape \(1, 2, 24, 20\) do not fit"),
    (lambda k, m, s: (k, m, s.mT), r"maps of shape \(1, 3, 20, 24\) do not fit"),
    (lambda k, m, s: (k, m, s.expand(3, -1, -1, -1)), r"maps of shape \(3, 3, 24, 20\) do not fit"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED)
def test_refused(model: HVAE, spoil: Callable[..., tuple[Tensor, Tensor, Tensor]], message: str) -> None:
    kspace, maps, _ = coil_scans(2, 3, 24, 20)
    with pytest.raises(InputError, match=message):
        reconstruct(model, *spoil(kspace, calibrated(20), maps[None]), SHORT)


@pytest.mark.parametrize("changes", [{"masked": False}, {"degraded": True}])
def test_weights_that_are_refused(changes: dict[str, bool]) -> None:
    kspace, maps, _ = coil_scans(1, 3, 24, 20)
    other = small_model(settings=dataclasses.replace(SMALL, **changes))
    with pytest.raises(InputError, match="no posterior for undersampled scans; choose others, such as default"):
        reconstruct(other, kspace, calibrated(20), maps[None])


def test_head_from_estimated_maps(data_dir: Path) -> None:
    """A scanner's own coils, 2x: with maps of its calibration lines SENSE takes off most of the aliasing."""
    from mrihvae.io.fastmri import read_scan

    kspace = torch.from_numpy(read_scan(data_dir / "multicoil" / "usc_mprage.h5").kspace)
    lines = (torch.arange(256) % 2 == 0) | ((torch.arange(256) - 128).abs() < 12)
    maps = estimate_maps(kspace, lines, CoilSettings())
    target = ifft2c(kspace).abs().square().sum(dim=1).sqrt()
    sense = conjugate_gradient_sense(kspace, lines, maps, 0.001)
    found = root_sum_of_squares(sense, maps, kspace, lines)
    zero_filled = ifft2c(torch.where(lines, kspace, 0)).abs().square().sum(dim=1).sqrt()
    assert distance(found, target) < 0.15 * distance(zero_filled, target)


def test_true_maps_have_length_1() -> None:
    torch.testing.assert_close(true_maps((24, 20)).abs().square().sum(dim=0), torch.ones(24, 20))
