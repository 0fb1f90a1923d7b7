"""Maps by alternation: the kernel, better maps from few lines, what stays as it is, when it stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mrihvae.coils import map_refinement
from mrihvae.coils.espirit import (
    MAX_KERNEL_SIZE,
    MIN_KERNEL_SIZE,
    calibration_box,
    calibration_data,
    fast_maps,
    kernel_size,
)
from mrihvae.coils.map_refinement import HELD_OUT_OFFSETS, refined_maps
from mrihvae.coils.maps import estimate_maps
from mrihvae.coils.settings import CoilSettings
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.fastmri import read_scan
from mrihvae.physics.fourier import fft2c
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.sliced_scan import SlicedScan
from mrihvae.recon.undersampling import mask_of
from tests.support.small_coils import calibrated, coil_scans, some_bins

SHAPE = (64, 60)


def few_lines(lines: int = 6, coils: int = 12, slices: int = 1, noise: float = 0.01) -> tuple[Tensor, Tensor, Tensor]:
    """Make undersampled k-space (slices, coils, H, W), its mask (H, W), and the object's coil images."""
    complete, maps, images = coil_scans(slices, coils, *SHAPE, noise, seed=3)
    mask = calibrated(SHAPE[1], lines).expand(SHAPE).contiguous()
    return torch.where(mask, complete, torch.zeros(())), mask, maps * images[:, None]


def unexplained(maps: Tensor, coil_images: Tensor) -> float:
    """Compute the share of coil images (coils, H, W) that no image explains with these maps."""
    combined = (maps.conj() * coil_images).sum(dim=0)
    return float((coil_images - maps * combined).abs().square().sum() / coil_images.abs().square().sum())


# --- the kernel ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "coils", "kernel"),
    [
        ((24, 24), 16, 6),
        ((24, 20), 16, 6),
        ((24, 16), 16, 4),
        ((24, 10), 16, 3),
        ((24, 5), 16, 2),
        ((24, 10), 8, 4),
        ((24, 10), 4, 6),
        ((4, 4), 64, 2),
    ],
)
def test_kernel_of_a_region(box: tuple[int, int], coils: int, kernel: int) -> None:
    assert kernel_size(box, coils) == kernel == kernel_size(box[::-1], coils)


def test_kernel_grows_with_lines_and_falls_with_coils() -> None:
    for coils in (1, 4, 8, 15, 32):
        sizes = [kernel_size((24, lines), coils) for lines in range(4, 25)]
        assert sizes == sorted(sizes) and sizes[0] >= MIN_KERNEL_SIZE and sizes[-1] <= MAX_KERNEL_SIZE
    assert [kernel_size((24, 10), coils) for coils in (4, 8, 16, 32)] == [6, 4, 3, 2]


def test_kernel_is_that_of_the_region_if_none_is_given() -> None:
    kspace, mask, _ = few_lines()
    data = calibration_data(kspace, mask)[0]
    chosen = fast_maps(data, SHAPE)
    assert torch.equal(chosen, fast_maps(data, SHAPE, kernel=kernel_size((24, 6), 12)))
    assert not torch.equal(chosen, fast_maps(data, SHAPE, kernel=MAX_KERNEL_SIZE))
    assert torch.equal(fast_maps(data, SHAPE, kernel=6), fast_maps(data, SHAPE, kernel=60))  # at most the region's


# --- alternation -----------------------------------------------------------------------------------------------------


def test_maps_of_few_lines_get_better() -> None:
    kspace, mask, truth = few_lines()
    usual = unexplained(fast_maps(calibration_data(kspace, mask)[0], SHAPE, kernel=MAX_KERNEL_SIZE), truth[0])
    chosen, refined = (
        unexplained(refined_maps(kspace[0], mask, mask, fast_maps, number), truth[0]) for number in (0, 2)
    )
    assert refined < 0.7 * chosen and refined < 0.4 * usual


def test_a_head_of_few_lines_gets_better(data_dir: Path) -> None:
    scan = read_scan(data_dir / "multicoil" / "pulseq_brain16.h5")
    mask = torch.from_numpy(mask_of(scan, Undersampling("equispaced_fraction", 4, 0.08))).expand(128, 128)
    complete = torch.from_numpy(scan.kspace[0])
    truth = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(complete, dim=(-2, -1)), norm="ortho"), dim=(-2, -1))
    kspace = torch.where(mask, complete, torch.zeros(()))
    usual = fast_maps(calibration_data(kspace, mask), (128, 128), kernel=MAX_KERNEL_SIZE)
    assert unexplained(refined_maps(kspace, mask, mask, fast_maps, 2), truth) < 0.95 * unexplained(usual, truth)


@pytest.mark.parametrize(("lines", "coils"), [(24, 12), (20, 8), (10, 4)])
def test_maps_of_many_lines_are_those_of_the_calibration_region(lines: int, coils: int) -> None:
    kspace, mask, _ = few_lines(lines, coils)
    expected = fast_maps(calibration_data(kspace, mask)[0], SHAPE, kernel=MAX_KERNEL_SIZE)
    assert torch.equal(estimate_maps(kspace, mask, CoilSettings(refine_maps=3))[0], expected)


def test_without_other_samples_maps_are_those_of_the_calibration_region() -> None:
    kspace, mask, _ = few_lines()
    box = calibration_box(mask)
    only = torch.zeros_like(mask)
    first = SHAPE[1] // 2 - box[1] // 2
    only[:, first : first + box[1]] = True
    expected = fast_maps(calibration_data(kspace, mask)[0], SHAPE)
    assert torch.equal(refined_maps(kspace[0], only, only, fast_maps, 2), expected)
    assert not torch.equal(refined_maps(kspace[0], only, mask, fast_maps, 2), expected)


def test_the_kernel_that_predicts_better_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    kspace, mask, _ = few_lines()
    usual = fast_maps(calibration_data(kspace, mask)[0], SHAPE, kernel=MAX_KERNEL_SIZE)
    for ahead, margin, taken in ((0.01, 0, True), (-0.01, 0, False), (0.29, 0.3, False), (0.31, 0.3, True)):
        answers = iter((5 + ahead, 5.0))
        monkeypatch.setattr(map_refinement, "_prediction", lambda *_: next(answers))  # noqa: B023
        assert torch.equal(refined_maps(kspace[0], mask, mask, fast_maps, 0, margin=margin), usual) == taken
    assert map_refinement.MARGIN_DB == 0


def test_true_maps_predict_better_than_wrong_ones() -> None:
    kspace, mask, _ = few_lines()
    _, truth, _ = coil_scans(1, 12, *SHAPE, seed=3)
    folds = list(map_refinement._held_out_masks(mask, calibration_box(mask)))
    good, bad = (
        map_refinement._prediction(kspace[0], mask, maps.to(torch.complex64), folds) for maps in (truth, truth.flip(0))
    )
    assert good > bad + 3


def test_alternation_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    kspace, mask, _ = few_lines()
    counted: list[int] = []

    def counting(calibration: Tensor, shape: tuple[int, int], crop: float = 0.0, kernel: int | None = None) -> Tensor:
        counted.append(len(calibration))
        return fast_maps(calibration, shape, crop, kernel)

    def estimates(repetitions: int) -> int:
        counted.clear()
        refined_maps(kspace[0], mask, mask, counting, repetitions)
        return len(counted) - 2  # of the two kernels

    assert estimates(0) == 0 and estimates(1) == 1
    assert estimates(100) < 20  # maps have arrived
    monkeypatch.setattr(map_refinement, "MIN_IMAGE_CHANGE", 2.0)
    assert estimates(10) == 1
    monkeypatch.setattr(map_refinement, "MIN_IMAGE_CHANGE", 0.0)
    assert estimates(4) == 4


@pytest.mark.parametrize("maps", ["fast", "espirit"])
def test_slices_by_themselves(maps: str) -> None:
    kspace, mask, _ = few_lines(5, 6, slices=2)
    settings = CoilSettings(maps=maps, refine_maps=1)
    together = estimate_maps(kspace, mask, settings)
    assert torch.equal(together, estimate_maps(kspace, mask, settings))
    for number in range(2):
        assert torch.equal(estimate_maps(kspace[number : number + 1], mask, settings)[0], together[number])
    lengths = together.abs().square().sum(dim=1).sqrt()
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_what_is_not_sampled_is_ignored_and_scale_does_not_matter() -> None:
    kspace, mask, _ = few_lines()
    expected = refined_maps(kspace[0], mask, mask, fast_maps, 2)
    spoiled = torch.where(mask, kspace[0], torch.full((), 100.0 + 0j))
    assert torch.equal(refined_maps(spoiled, mask, mask, fast_maps, 2), expected)
    assert torch.equal(refined_maps(kspace[0] * 2.0**-20, mask, mask, fast_maps, 2), expected)


def test_lines_along_h_are_lines_along_w_turned() -> None:
    kspace, mask, truth = few_lines()
    upright = refined_maps(kspace[0], mask, mask, fast_maps, 2)
    turned = refined_maps(kspace[0].mT.contiguous(), mask.mT, mask.mT, fast_maps, 2).mT
    assert unexplained(turned, truth[0]) == pytest.approx(unexplained(upright, truth[0]), rel=1e-3)
    alike = (turned.conj() * upright).sum(dim=0).abs()[truth[0].abs().square().sum(dim=0) > 0.01]
    assert float(1 - alike.min()) < 1e-4  # sums are taken in another order


def test_patterns_of_single_samples() -> None:
    complete, maps, images = coil_scans(1, 12, *SHAPE, 0.01, seed=3)
    mask = some_bins(*SHAPE, low=7)
    kspace = torch.where(mask, complete[0], torch.zeros(()))
    usual = fast_maps(calibration_data(kspace, mask), SHAPE, kernel=MAX_KERNEL_SIZE)
    truth = maps * images[0]
    assert unexplained(refined_maps(kspace, mask, mask, fast_maps, 2), truth) < 0.7 * unexplained(usual, truth)


@pytest.mark.parametrize("pattern", ["lines", "turned", "samples"])
def test_held_out_samples(pattern: str) -> None:
    mask = some_bins(48, 40, low=7) if pattern == "samples" else calibrated(40, 6).expand(48, 40)
    mask = mask.mT if pattern == "turned" else mask
    box = calibration_box(mask)
    one, other = map_refinement._held_out_masks(mask, box)
    assert not (one & other).any() and not ((one | other) & ~mask).any()
    center = torch.zeros_like(mask)
    top, left = (n // 2 - b // 2 for n, b in zip(mask.shape, box))
    center[top : top + box[0], left : left + box[1]] = True
    assert not ((one | other) & center).any()
    outside = int((mask & ~center).sum())
    assert int((one | other).sum()) == pytest.approx(outside / len(HELD_OUT_OFFSETS), rel=0.2)
    if pattern != "samples":
        axis = 0 if pattern == "lines" else 1
        assert bool((one == one.narrow(axis, 0, 1)).all())


# --- where it is used, mistakes --------------------------------------------------------------------------------------


def test_volumes_refine_and_leave_given_maps_alone() -> None:
    kspace, mask, _ = few_lines(slices=2)
    lines = mask[0]
    scan = Scan("a.h5", kspace.numpy(), padding=(2, len(lines)))
    known = lines.clone()
    known[:2] = True  # not encoded
    found = SlicedScan(scan, lines.numpy(), CoilSettings()).batch(0, 2).maps
    assert torch.equal(found, estimate_maps(kspace, lines, CoilSettings(), known))
    assert not torch.equal(found, SlicedScan(scan, lines.numpy(), CoilSettings(refine_maps=0)).batch(0, 2).maps)
    given = fast_maps(fft2c(kspace[0])[:, :24, :24], SHAPE)[None]
    own = Scan("a.h5", kspace.numpy(), maps=given.numpy())
    torch.testing.assert_close(SlicedScan(own, lines.numpy(), CoilSettings()).batch(0, 1).maps, given)


@pytest.mark.parametrize("number", [-1, 11])
def test_number_of_repetitions_is_checked(number: int) -> None:
    with pytest.raises(ValueError, match=f"refine_maps {number} must be 0 to 10"):
        CoilSettings(refine_maps=number)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kspace, mask: (kspace, torch.zeros_like(mask)), "only 0 x 0;"),
        (lambda kspace, mask: (torch.zeros_like(kspace), mask), "all coils are zero"),
        (lambda kspace, mask: (kspace * np.nan, mask), "NaN or infinite"),
    ],
)
def test_mistakes_are_named(change: Any, message: str) -> None:
    kspace, mask = change(*few_lines()[:2])
    with pytest.raises(InputError, match=message):
        estimate_maps(kspace, mask, CoilSettings())
