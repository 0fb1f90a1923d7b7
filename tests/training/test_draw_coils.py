"""Scans of several coils for training: what is drawn, that it is in model units, and that it repeats."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from mrihvae.coils.espirit import MIN_ACS_SIZE, calibration_box
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.training.batches import Scans
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.draw_coils import draw_coils
from tests.support.files import complex_normal
from tests.support.small import phantom, small_kspace
from tests.support.small_coils import coil_scans, distance

SHAPE = (48, 40)
FOUR = SimulationSettings(coils=(4, 4))
MAGNITUDES = [(phantom(60, 52, k), False) for k in range(3)]
RAW = [(kspace.numpy(), True) for kspace in small_kspace(2, 44, 56, noise=0.05)]


def drawn(seed: int = 0, images: list[tuple[np.ndarray, bool]] | None = None, **changes: object) -> Scans:
    settings = dataclasses.replace(FOUR, **changes)  # type: ignore[arg-type]
    return draw_coils(images or MAGNITUDES + RAW, SHAPE, settings, np.random.default_rng(seed))


def tensors(scans: Scans) -> list[Tensor]:
    problem = scans.problem
    return [
        *(scans.kspace, scans.noise, problem.combined, problem.first, problem.noise, problem.scale),
        *(problem.sense.maps, problem.sense.mask),
    ]


def test_shapes_and_units() -> None:
    scans = drawn()
    problem = scans.problem
    assert scans.kspace.shape == problem.combined.shape == problem.first.shape == (5, *SHAPE)
    assert problem.sense.maps.shape == (5, 4, *SHAPE) and problem.sense.mask.shape == (5, *SHAPE)
    assert problem.padded == SHAPE and not problem.transposed and problem.number == 0
    assert {one.dtype for one in (scans.kspace, problem.combined, problem.first, problem.sense.maps)} == {
        torch.complex64
    }
    assert scans.noise.dtype == problem.noise.dtype == torch.float32 and torch.equal(scans.noise, problem.noise)
    sizes = torch.quantile(problem.combined.abs().flatten(1), 0.99, dim=1)  # model units are those of what is measured
    torch.testing.assert_close(sizes, torch.ones(5), rtol=1e-4, atol=0)
    lengths = problem.sense.maps.abs().square().sum(dim=1)
    torch.testing.assert_close(lengths, torch.ones(5, *SHAPE), rtol=0, atol=1e-4)
    assert problem.first is problem.combined  # whoever trains begins
    assert all(min(calibration_box(mask)) >= MIN_ACS_SIZE for mask in problem.sense.mask)


@pytest.mark.parametrize("images", [MAGNITUDES, RAW, None])
def test_equal_generators_give_equal_scans(images: list[tuple[np.ndarray, bool]] | None) -> None:
    first, second, other = (tensors(drawn(seed, images)) for seed in (1, 1, 2))
    assert all(torch.equal(one, same) for one, same in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])


def test_measurement_is_of_the_scan() -> None:
    """Complete scans, combined by the maps, explain what was measured of them, to within what maps miss, and noise."""
    for seed in range(4):
        scans = drawn(seed, MAGNITUDES, noise=(1e-4, 1e-4), coils=(6, 6))
        sense = scans.problem.sense
        again = sense.normal(ifft2c(scans.kspace))
        many = sense.mask.float().mean(dim=(1, 2)) > 0.3
        for k in torch.nonzero(many).flatten().tolist():
            assert distance(again[k], scans.problem.combined[k]) < 0.02


def test_complete_scans_are_measured_as_they_are() -> None:
    """Without acceleration, what is measured is the complete scan, combined."""
    scans = None
    for seed in range(40):
        found = drawn(seed, MAGNITUDES[:1], max_acceleration=1.3)
        if bool(found.problem.sense.mask.all()):
            scans = found
            break
    assert scans is not None
    torch.testing.assert_close(fft2c(scans.problem.combined), scans.kspace, rtol=0, atol=1e-4)


@pytest.mark.parametrize("noise", [0.005, 0.05])
@pytest.mark.parametrize("coils", [2, 8])
def test_noise_is_what_is_told(noise: float, coils: int) -> None:
    """Where nothing is, the same scan with and without noise differ by it, whatever the number of coils."""
    quiet, loud = (drawn(0, MAGNITUDES[:1], coils=(coils, coils), noise=(level, level)) for level in (1e-6, noise))
    images = [ifft2c(scans.kspace * scans.problem.scale[:, None, None]) for scans in (quiet, loud)]
    dark = images[0].abs() < 0.03 * images[0].abs().max()
    assert int(dark.sum()) > 100
    found = float((images[1] - images[0])[dark].abs().square().mean().sqrt())
    assert found == pytest.approx(float(loud.noise[0] * loud.problem.scale[0]), rel=0.12)
    bright = torch.quantile(images[0].abs().flatten(), 0.99)  # before coils receive it the level is over this
    assert found == pytest.approx(noise * float(bright), rel=0.4)


def test_number_of_coils_is_that_of_the_batch() -> None:
    counts = {drawn(seed, MAGNITUDES[:1], coils=(1, 3)).problem.sense.maps.shape[1] for seed in range(12)}
    assert counts == {1, 2, 3}


def test_raw_scans_of_several_coils_keep_them() -> None:
    """More are compressed to as many as are drawn; of fewer the batch takes as many."""
    kspace, _, images = coil_scans(2, 6, 60, 52, noise=0.01)
    raw = [(one.numpy(), True) for one in kspace]
    scans = drawn(0, raw + MAGNITUDES[:1], coils=(4, 4))
    assert scans.problem.sense.maps.shape == (3, 4, *SHAPE)
    assert drawn(0, raw, coils=(9, 9)).problem.sense.maps.shape == (2, 6, *SHAPE)
    scans = drawn(3, raw, coils=(6, 6))
    sense = scans.problem.sense
    again = sense.normal(ifft2c(scans.kspace))
    for k in range(2):  # their own maps explain them
        assert distance(again[k], scans.problem.combined[k]) < 0.1
    assert scans.kspace.shape == (2, *SHAPE) and bool(torch.isfinite(torch.view_as_real(scans.kspace)).all())
    assert images.shape == (2, 60, 52)


def test_noise_alone_is_drawn_all_the_same() -> None:
    noise = [(complex_normal((4, 50, 50)), True), (np.abs(complex_normal((50, 50))), False)]
    for one in tensors(drawn(0, noise, coils=(4, 4))):
        assert bool(torch.isfinite(torch.view_as_real(one) if one.is_complex() else one.float()).all())
