"""Coil sensitivity maps: calibration regions, and ESPIRiT against sigpy's and against what scans were made with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mrihvae.coils.espirit import MAX_ACS_SIZE, MIN_ACS_SIZE, calibration_box, calibration_data, espirit_maps, fast_maps
from mrihvae.errors import InputError
from mrihvae.physics.fastmri_masks import MASK_TYPES, sampling_mask
from mrihvae.physics.fourier import center_crop, fft2c, ifft2c
from tests.support.small_coils import calibrated, coil_scans, some_bins

SHAPE = (64, 56)


def disagreement(one: Tensor, other: Tensor, where: Tensor) -> Tensor:
    """Compute 1 - |<a, b>| of maps (coils, H, W), pixel by pixel where bool (H, W): what no phase can mend."""
    return 1 - (one.conj() * other).sum(dim=0).abs()[where]


def lengths(maps: Tensor) -> Tensor:
    return maps.abs().square().sum(dim=0).sqrt()


def calibration(coils: int = 8, bins: int = 24, noise: float = 0.002, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Make calibration data (coils, h, w), the true maps, and where the object is."""
    kspace, maps, images = coil_scans(1, coils, *SHAPE, noise, seed)
    return center_crop(kspace[0], (bins, bins)), maps, images[0].abs() > 0.1


# --- calibration regions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_type", MASK_TYPES)
@pytest.mark.parametrize("width", [320, 368, 372, 321, 369])
@pytest.mark.parametrize(("acceleration", "fraction"), [(4, 0.08), (8, 0.04)])
def test_box_of_fastmris_masks(mask_type: str, width: int, acceleration: int, fraction: float) -> None:
    """The central lines, and neighbors that were measured by chance, as far as that is the same on both sides."""
    low = round(width * fraction)
    if mask_type == "magic_fraction":
        low = max(min(low, round(width / acceleration)), 1)
    odd = width % 2 and not low % 2  # fastMRI's center then lies one line to the right of what `center_crop` cuts
    for seed in range(4):
        mask = sampling_mask(mask_type, width, acceleration, fraction, seed)
        height, lines = calibration_box(torch.from_numpy(mask).expand(30, width))
        assert height == 30 and lines >= (low - 1 if odd else low)
        center = np.zeros(width, dtype=bool)
        start = (width - low + 1) // 2
        center[start : start + low] = True
        assert mask[center].all()
        assert calibration_box(torch.from_numpy(center).expand(30, width)) == (30, low - 1 if odd else low)
        first = width // 2 - lines // 2
        assert mask[first : first + lines].all()
        first = width // 2 - (lines + 1) // 2
        assert not mask[first : first + lines + 1].all()


@pytest.mark.parametrize("low", range(1, 9))
@pytest.mark.parametrize("shape", [(20, 20), (21, 20), (20, 21), (9, 31)])
def test_box_of_central_bins(low: int, shape: tuple[int, int]) -> None:
    mask = torch.zeros(shape, dtype=torch.bool)
    center_crop(mask, (low, low + 1))[...] = True
    assert calibration_box(mask) == (low, low + 1)
    assert calibration_box(mask | (torch.arange(shape[1]) == 0)) == (low, low + 1)
    assert calibration_box(mask.T) == (low + 1, low)


def test_box_of_patterns() -> None:
    assert calibration_box(torch.ones(7, 12, dtype=torch.bool)) == (7, 12)
    assert calibration_box(calibrated(24, 6)[:, None].expand(24, 20)) == (6, 20)  # lines along H
    assert calibration_box(some_bins(40, 36, 8)) in {(8, 8), (8, 9), (9, 8), (9, 9)}
    both = calibrated(30, 8)[:, None] & calibrated(24, 6)
    assert calibration_box(both) == (8, 6)
    without = torch.ones(12, 12, dtype=torch.bool)
    without[6, 6] = False
    assert calibration_box(without) == (0, 0)
    assert calibration_box(torch.zeros(12, 12, dtype=torch.bool)) == (0, 0)


def test_data_are_the_central_bins() -> None:
    kspace = coil_scans(1, 3, 40, 36)[0][0]
    assert torch.equal(calibration_data(kspace, calibrated(36, 6)), center_crop(kspace, (MAX_ACS_SIZE, 6)))
    assert torch.equal(calibration_data(kspace, torch.ones(36, dtype=torch.bool)), center_crop(kspace, (24, 24)))
    many = coil_scans(2, 3, 16, 36)[0]  # of several slices at once
    assert calibration_data(many, calibrated(36, 6)).shape == (2, 3, 16, 6)


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (torch.arange(36) == 18, "40 x 1"),
        (torch.arange(36) == 3, "0 x 0"),
        (torch.zeros(36, dtype=torch.bool), "0 x 0"),
        ((torch.arange(36) - 18).abs() < 2, "40 x 3"),
        ((torch.arange(40) - 20).abs()[:, None] < 2, "3 x 36"),
    ],
)
def test_too_few_calibration_lines(mask: Tensor, told: str) -> None:
    with pytest.raises(InputError) as caught:
        calibration_data(coil_scans(1, 3, 40, 36)[0][0], mask)
    assert str(caught.value) == (
        f"the fully acquired region around the center of k-space is only {told}; sensitivity maps need at least 4 x 4: "
        "acquire more central lines, or give maps"
    )
    assert MIN_ACS_SIZE == 4


# --- maps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("coils", "bins", "seed"), [(8, 24, 0), (4, 20, 1), (12, 21, 2), (2, 24, 3)])
def test_fast_maps_are_those_of_the_scan(coils: int, bins: int, seed: int) -> None:
    data, truth, where = calibration(coils, bins, seed=seed)
    found = fast_maps(data, SHAPE)
    assert found.shape == truth.shape and found.dtype == torch.complex64
    assert float(disagreement(found, truth, where).mean()) < 1e-3
    torch.testing.assert_close(lengths(found), torch.ones(SHAPE), rtol=0, atol=1e-5)


def test_rounding_does_not_move_fast_maps() -> None:
    """Neither where there is little signal, for which single precision was not enough."""
    data = calibration_data(coil_scans(1, 3, 61, 45)[0], calibrated(45))[0]
    rounded = (1e-8 * data.to(torch.complex128)).to(torch.complex64)
    found, again = fast_maps(data, (61, 45)), fast_maps(rounded, (61, 45))
    assert found.dtype == torch.complex64 and float((found - again).abs().max()) < 1e-5


def test_fast_maps_are_sigpys() -> None:
    import sigpy.mri.app

    data, truth, where = calibration()
    theirs = espirit_maps(data, SHAPE)
    found = fast_maps(data, SHAPE)
    assert float(disagreement(found, theirs, where).mean()) < 1e-4  # far nearer to each other than to the truth
    assert float(disagreement(theirs, truth, where).mean()) < 1e-3
    torch.testing.assert_close(found[:, where], theirs[:, where], rtol=0, atol=0.02)  # the phase, too
    kspace = coil_scans(1, 8, *SHAPE, 0.002)[0][0]
    app = sigpy.mri.app.EspiritCalib(kspace.numpy(), calib_width=24, crop=0, show_pbar=False)  # of all else its own
    assert float(disagreement(found, torch.from_numpy(app.run()), where).mean()) < 1e-3


def test_fast_maps_are_sigpys_on_a_head(data_dir: Path) -> None:
    from mrihvae.io.fastmri import read_scan

    kspace = torch.from_numpy(read_scan(data_dir / "multicoil" / "usc_mprage.h5").kspace[0])
    image = ifft2c(center_crop(kspace, (96, 96))).abs().square().sum(dim=0).sqrt()
    where = image > 0.2 * image.max()
    data = center_crop(kspace, (24, 24))
    found, theirs = fast_maps(data, (96, 96)), espirit_maps(data, (96, 96))
    assert 0.2 < float(where.float().mean()) < 0.8
    assert float(disagreement(found, theirs, where).mean()) < 1e-3


@pytest.mark.parametrize("shape", [(96, 96), (61, 45), (130, 57), (45, 200)])
def test_maps_of_any_size_are_samples_of_the_same_fields(shape: tuple[int, int]) -> None:
    """A finer or coarser grid over the same field of view: interpolation must not show."""
    data, _, where = calibration()
    direct = fast_maps(data, shape)
    rows, columns = (
        ((torch.arange(n) - n // 2) * have / n + have // 2).round().long().clamp_max(have - 1)
        for n, have in zip(shape, SHAPE)
    )
    coarse = fast_maps(data, SHAPE)[:, rows[:, None], columns]
    inside = where[rows[:, None], columns]
    assert direct.shape == (8, *shape)
    assert float(disagreement(direct, coarse, inside).mean()) < 2e-3  # half a pixel of SHAPE


def test_interpolation_is_near_to_the_whole_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    data, _, where = calibration()
    shape = (128, 112)
    where = where.repeat_interleave(2, 0).repeat_interleave(2, 1)
    found = fast_maps(data, shape)
    monkeypatch.setattr("mrihvae.coils.espirit.COARSE_GRID_SIZE", 128)
    whole = fast_maps(data, shape)
    assert 0 < float(disagreement(found, whole, where).max()) < 1e-4


def test_phase_is_that_against_the_strongest_virtual_coil() -> None:
    data, _, where = calibration()
    vectors = torch.linalg.eigh(data.flatten(1) @ data.flatten(1).mH)[1][:, -1]
    found = fast_maps(data, SHAPE)
    received = torch.einsum("c,chw->hw", vectors.conj(), found)[where]
    turn = received.sum() / received.sum().abs()
    assert float((received / turn).angle().abs().max()) < 0.05
    # maps have no jumps in phase: a combined image is as smooth as the object's
    steps = (found[:, 1:] - found[:, :-1]).abs().square().sum(dim=0).sqrt()[where[1:] & where[:-1]]
    assert float(steps.max()) < 0.25


@pytest.mark.parametrize("estimate", [fast_maps, espirit_maps])
def test_scale_does_not_matter(estimate: Callable[[Tensor, tuple[int, int]], Tensor]) -> None:
    data, _, where = calibration(4)
    shape = SHAPE if estimate is fast_maps else (32, 28)
    where = where if estimate is fast_maps else where[::2, ::2]
    whole = estimate(data, shape)
    powers = (2.0**-24, 4096.0) if estimate is espirit_maps else (2.0**-24, 2.0, 4096.0)
    for factor in powers:
        torch.testing.assert_close(estimate(factor * data, shape), whole, rtol=0, atol=1e-5)
    for power in (-8, 4):
        found = estimate(10.0**power * data, shape)
        assert float(disagreement(found, whole, where).max()) < 1e-5


def test_crop_keeps_the_object_alone() -> None:
    kspace, _, images = coil_scans(1, 8, *SHAPE, 0.02)
    data, where = center_crop(kspace[0], (24, 24)), images[0].abs() > 0.1
    kept = fast_maps(data, SHAPE)
    cropped = fast_maps(data, SHAPE, crop=0.9)
    there = lengths(cropped) > 0
    torch.testing.assert_close(cropped, kept * there, rtol=0, atol=1e-6)
    assert float(there[where].float().mean()) > 0.98  # eigenvalues are 1 there
    assert float(there.float().mean()) < 0.95
    theirs = lengths(espirit_maps(data, SHAPE, crop=0.9)) > 0
    assert float((there == theirs).float().mean()) > 0.98
    assert not fast_maps(data, SHAPE, crop=0.999999).any(dim=0).all()


def test_few_calibration_lines() -> None:
    """Lines of 8 and of 4 bins, of any number of rows; and a region that is as large as the maps."""
    kspace, truth, images = coil_scans(1, 4, *SHAPE, 0.002)
    where = images[0].abs() > 0.1
    for lines, most in ((12, 0.005), (8, 0.02), (5, 0.05), (4, 0.1)):
        found = fast_maps(center_crop(kspace[0], (24, lines)), SHAPE)
        assert float(disagreement(found, truth, where).mean()) < most, lines
        turned = fast_maps(center_crop(kspace[0].mT, (lines, 24)), SHAPE[::-1])
        assert float(disagreement(turned.mT, found, where).max()) < 1e-4
    small, truth, images = coil_scans(1, 4, 20, 16, 0.002)
    found = fast_maps(small[0], (20, 16))
    assert float(disagreement(found, truth, images[0].abs() > 0.1).mean()) < 0.01


@pytest.mark.parametrize("estimate", [fast_maps, espirit_maps])
def test_a_coil_of_zeros_has_no_sensitivity(estimate: Callable[[Tensor, tuple[int, int]], Tensor]) -> None:
    data, truth, where = calibration(5)
    data[2] = 0
    shape = SHAPE if estimate is fast_maps else (32, 28)
    truth, where = (truth, where) if estimate is fast_maps else (truth[:, ::2, ::2], where[::2, ::2])
    truth = torch.where((torch.arange(5) == 2)[:, None, None], 0, truth)
    found = estimate(data, shape)
    assert bool(torch.isfinite(torch.view_as_real(found)).all())
    assert float(found[2].abs().max()) < 1e-4
    assert float(disagreement(found, truth / lengths(truth), where).mean()) < 1e-3
    torch.testing.assert_close(lengths(found)[where], torch.ones(int(where.sum())), rtol=0, atol=1e-4)


def test_one_coil_is_1() -> None:
    data, _, _ = calibration(1)
    found = fast_maps(data, SHAPE)
    torch.testing.assert_close(found.abs(), torch.ones(1, *SHAPE), rtol=0, atol=1e-5)


SPOILED: list[tuple[Callable[[Tensor], Tensor], str]] = [
    (lambda data: data * float("nan"), "calibration data hold NaN or infinite values; export the scan again"),
    (lambda data: torch.where(torch.arange(24) == 3, torch.inf, data.real).to(data), "hold NaN or infinite values"),
    (torch.zeros_like, "all coils are zero at the center of k-space; there is nothing to estimate maps from"),
    (lambda data: data[:0], "all coils are zero at the center of k-space"),
    (lambda data: data.real, r"calibration data are torch.float32 of shape \(8, 24, 24\); give complex \(coils, h, w"),
    (lambda data: data[0], r"calibration data are torch.complex64 of shape \(24, 24\); give complex"),
]


@pytest.mark.parametrize("estimate", [fast_maps, espirit_maps])
@pytest.mark.parametrize(("spoil", "message"), SPOILED)
def test_refused(
    estimate: Callable[[Tensor, tuple[int, int]], Tensor], spoil: Callable[[Tensor], Tensor], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        estimate(spoil(calibration()[0]), SHAPE)


def test_what_is_not_finite_elsewhere_does_not_matter() -> None:
    """Maps come from the center alone."""
    kspace, mask = coil_scans(1, 3, 40, 36)[0][0], calibrated(36, 8)
    spoiled = kspace.clone()
    spoiled[..., 0] = torch.nan
    one, other = (fast_maps(calibration_data(k, mask), (40, 36)) for k in (kspace, spoiled))
    assert torch.equal(one, other)


def test_combined_image_is_the_objects() -> None:
    """What maps are for: with them the complete coils combine to the object, up to phase, and expand to themselves."""
    kspace, _, images = coil_scans(1, 6, *SHAPE, 0.0)
    found = fast_maps(center_crop(kspace[0], (24, 24)), SHAPE)
    combined = (found.conj() * ifft2c(kspace[0])).sum(dim=0)
    where = images[0].abs() > 0.1
    torch.testing.assert_close(combined.abs()[where], images[0].abs()[where], rtol=0, atol=0.01)
    back = fft2c(found * combined)
    assert float((back - kspace[0]).norm() / kspace[0].norm()) < 0.02
