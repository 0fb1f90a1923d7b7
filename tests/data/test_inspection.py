"""A look at k-space: what is wrong is refused, what is doubtful is said, and good scans are left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mrihvae
from mrihvae.data.inspection import Inspection, inspect_kspace
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.recon.normalization import Normalization
from tests.support.files import complex_normal
from tests.support.small import small_kspace
from tests.support.small_coils import calibrated, coil_scans

SHAPE = (48, 40)


def coils(count: int = 4) -> np.ndarray:
    return coil_scans(2, count, *SHAPE)[0].numpy()


def test_good_scans_and_noise_are_left_alone() -> None:
    for kspace in (coils(), small_kspace(2, *SHAPE).numpy(), complex_normal((2, 3, *SHAPE)), 0 * coils()):
        found = inspect_kspace(Scan("a.h5", kspace.astype(np.complex64)))
        assert found.refusal == "" and found.warnings == () and max(map(abs, found.shift)) <= 1
    undersampled = np.where(calibrated(40).numpy(), coils(), 0)
    assert inspect_kspace(Scan("a.h5", undersampled)).refusal == ""


@pytest.mark.parametrize("shift", [(0, 0), (5, 0), (-7, 3), (0, -4)])
def test_shift_of_the_peak(shift: tuple[int, int]) -> None:
    still = inspect_kspace(Scan("a.h5", coils())).shift
    found = inspect_kspace(Scan("a.h5", np.roll(coils(), shift, (-2, -1)))).shift
    assert (found[0] - still[0], found[1] - still[1]) == shift


def test_what_cannot_be_right_is_refused() -> None:
    kspace = coils()
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (-2, -1))), (-2, -1)).astype(np.complex64)
    last = np.moveaxis(coil_scans(1, 4, 96, 80)[0].numpy(), 1, 3)
    cases = {
        "not centered: the strongest sample is at a corner": np.fft.ifftshift(kspace, (-2, -1)),
        "holds images, not k-space": image,
        r"axes look like \(slice, H, W, coil\), with 4 coils last": last,
    }
    for message, wrong in cases.items():
        with pytest.raises(InputError, match=f"k-space: .*{message}"):
            mrihvae.reconstruct(np.ascontiguousarray(wrong), method="zero-filled")


def test_what_is_doubtful_is_said() -> None:
    dead, real, clipped = coils(), coils(), coils()
    dead[:, 2] = 0
    real = real.real.astype(np.complex64)
    limit = 0.2 * np.abs(clipped.real).max()
    clipped = (np.clip(clipped.real, -limit, limit) + 1j * np.clip(clipped.imag, -limit, limit)).astype(np.complex64)
    for kspace, text in ((dead, "coils without signal: 2"), (real, "no imaginary part"), (clipped, "saturated")):
        (warning,) = inspect_kspace(Scan("a.h5", kspace)).warnings
        assert text in warning


@pytest.mark.parametrize("order", ["slice H W coil", "coil H W slice", "H W coil"])
def test_axes_that_a_small_scan_shows(order: str) -> None:
    """What looks like coils has the peak of H."""
    kspace = coil_scans(3, 4, *SHAPE)[0].numpy()
    if order == "H W coil":
        last = kspace[0].transpose(1, 2, 0)
    else:
        last = kspace.transpose((0, 2, 3, 1) if order == "slice H W coil" else (1, 2, 3, 0))
    assert inspect_kspace(Scan("a.h5", np.ascontiguousarray(last))).refusal.startswith("axes look like")


def test_images_are_found_whatever_the_mask_leaves_of_them() -> None:
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(coils(), (-2, -1))), (-2, -1)).astype(np.complex64)
    assert "holds images" in inspect_kspace(Scan("a.h5", image), calibrated(40).numpy()).refusal


@pytest.mark.parametrize(("axis", "name"), [(-2, "H"), (-1, "W")])
def test_a_transform_along_one_axis_is_said(axis: int, name: str) -> None:
    mixed = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(coils(), axis), axis=axis), axis).astype(np.complex64)
    (warning,) = inspect_kspace(Scan("a.h5", mixed)).warnings
    assert warning.startswith(f"samples look like an image along {name}")


def test_saturation_of_one_coil_and_of_magnitudes_is_said() -> None:
    coil, all_coils = coils(), coils()
    limit = 0.1 * np.abs(coil[:, 1].real).max()
    part = coil[:, 1]
    coil[:, 1] = np.clip(part.real, -limit, limit) + 1j * np.clip(part.imag, -limit, limit)
    size = np.abs(all_coils)
    all_coils = (all_coils * np.minimum(1, 0.1 * size.max() / np.maximum(size, 1e-9))).astype(np.complex64)
    for kspace in (coil, all_coils):
        (warning,) = inspect_kspace(Scan("a.h5", kspace)).warnings
        assert "saturated" in warning


@pytest.mark.parametrize("factor", [3, 1e6])
def test_a_spike_is_no_peak(factor: float) -> None:
    kspace = coils()
    expected = inspect_kspace(Scan("a.h5", kspace)).shift
    kspace[0, 0, 3, 5] = factor * np.abs(kspace).max()
    found = inspect_kspace(Scan("a.h5", kspace))
    assert found.shift == expected
    assert any(text.startswith("the sample at H = 3, W = 5 is far stronger") for text in found.warnings)


def test_numbers_without_digits_are_refused() -> None:
    tiny = (coils().astype(np.complex128) * 1e-42).astype(np.complex64)
    assert "too little for single precision" in inspect_kspace(Scan("a.h5", tiny)).refusal


def test_masks_of_other_scans_are_said() -> None:
    lines = calibrated(40).numpy()
    points = np.random.default_rng(0).random(SHAPE) < 0.5
    for mask, what in ((lines, "lines"), (points, "samples")):
        kspace = np.where(mask, coils(), 0)
        assert inspect_kspace(Scan("a.h5", kspace), mask).warnings == ()
        assert inspect_kspace(Scan("a.h5", coils()), mask).warnings == ()  # the rest may be there
        (warning,) = inspect_kspace(Scan("a.h5", kspace), np.roll(mask, 1, -1)).warnings
        assert f"of the {what} that the mask marks as acquired are zero" in warning


def test_swapped_axes_below_a_mask_of_lines_are_said() -> None:
    square = coil_scans(1, 4, 48, 48)[0].numpy()
    lines = calibrated(48).numpy()
    (warning,) = inspect_kspace(Scan("a.h5", np.where(lines[:, None], square, 0)), lines).warnings
    assert "whole rows inside k-space are zero" in warning and "transpose k-space" in warning
    padded = np.where(lines, square, 0)
    padded[..., :6, :] = padded[..., 40:, :] = 0  # rows at the ends may be zero
    assert inspect_kspace(Scan("a.h5", padded), lines).warnings == ()


@pytest.mark.parametrize("factor", [1e-30, 1e-12, 1e12, 1e30])
def test_scale_does_not_matter(factor: float) -> None:
    expected = inspect_kspace(Scan("a.h5", coils()))
    assert inspect_kspace(Scan("a.h5", (factor * coils()).astype(np.complex64))) == expected
    assert inspect_kspace(Scan("a.h5", np.full((1, 8, 8), np.nan, np.complex64))) == Inspection()


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("method", ["zero-filled", "amortized"])
def test_a_peak_off_the_center_along_h_changes_no_image(method: str, several: bool) -> None:
    """It is moved to the center and back: magnitudes are the same, complex images have their linear phase."""
    if method == "amortized" and several:
        method = "sense"
    kspace = coils() if several else small_kspace(2, *SHAPE).numpy()
    axes, lines = None if several else "slice H W", calibrated(40).numpy()
    expected = mrihvae.reconstruct(kspace, lines, axes=axes, method=method)
    found = mrihvae.reconstruct(np.roll(kspace, 6, -2), lines, axes=axes, method=method)
    np.testing.assert_allclose(found.magnitude, expected.magnitude, atol=2e-4 * expected.magnitude.max())
    (warning,) = found.warnings
    assert "samples from the center of k-space along H; it was moved" in warning and expected.warnings == ()
    ramp = np.exp(2j * np.pi * 6 * (np.arange(48) - 24) / 48)[:, None]
    bound = 1e-3 * np.abs(expected.image).max()
    np.testing.assert_allclose(found.image, expected.image * ramp, atol=bound)


@pytest.mark.parametrize("several", [False, True])
def test_a_peak_off_the_center_along_w_changes_no_image(several: bool) -> None:
    """K-space and mask are moved together."""
    kspace = coils() if several else small_kspace(1, *SHAPE).numpy()[0]
    lines = calibrated(40, 16).numpy()
    method = "sense" if several else "amortized"
    expected = mrihvae.reconstruct(kspace, lines, method=method)
    found = mrihvae.reconstruct(np.roll(kspace, 5, -1), np.roll(lines, 5), method=method)
    np.testing.assert_allclose(found.magnitude, expected.magnitude, atol=2e-4 * expected.magnitude.max())
    (warning,) = found.warnings
    assert "5 samples from the center of k-space along W; it was moved" in warning
    ramp = np.exp(2j * np.pi * 5 * (np.arange(40) - 20) / 40)
    np.testing.assert_allclose(found.image, expected.image * ramp, atol=1e-3 * np.abs(expected.image).max())


@pytest.mark.parametrize("every", [4, 12])
def test_white_k_space_has_no_peak(every: int) -> None:
    """However few samples were acquired: zeros between them make no sample stand out."""
    rng = np.random.default_rng(0)
    kspace = rng.standard_normal((1, 120, 120, 2)).astype(np.float32).view(np.complex64)[..., 0]
    lines = np.arange(120) % every == 0
    lines[58:62] = True
    assert inspect_kspace(Scan("a.h5", kspace), lines).shift == (0, 0)


def test_without_the_center_another_sample_is_no_peak() -> None:
    lines = (np.arange(40) % 3 == 0) & (np.abs(np.arange(40) - 20) > 6)
    (warning,) = mrihvae.reconstruct(np.roll(coils(), 6, -2), lines, method="zero-filled").warnings
    assert warning == "the center of k-space was not acquired: contrast is not reliable"


@pytest.mark.parametrize("points", [1, 20, 60])
def test_sparse_objects_are_no_images(points: int) -> None:
    """Their k-space is as flat as an image, but its Fourier transform is not at low frequencies alone."""
    rng = np.random.default_rng(points)
    image = np.zeros((128, 128), np.complex64)
    for y, x in rng.integers(8, 120, (points, 2)) if points > 1 else [(70, 40)]:
        image[y : y + 2, x : x + 2] = 1
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image), norm="ortho")).astype(np.complex64)
    assert inspect_kspace(Scan("a.h5", kspace[None])).refusal == ""


def test_a_pattern_of_bins_is_moved_with_k_space() -> None:
    bins = np.random.default_rng(0).random(SHAPE) < 0.6
    bins[18:30, 16:24] = True
    kspace = small_kspace(1, *SHAPE).numpy()[0]
    expected = mrihvae.reconstruct(kspace, bins, method="tv")
    found = mrihvae.reconstruct(np.roll(kspace, 6, -2), np.roll(bins, 6, -2), method="tv")
    np.testing.assert_allclose(found.magnitude, expected.magnitude, atol=1e-3 * expected.magnitude.max())
    (warning,) = found.warnings
    assert "along H; it was moved" in warning


@pytest.mark.parametrize("factor", [1e-30, 1e20])
@pytest.mark.parametrize("several", [False, True])
def test_units_far_from_single_precision_change_nothing(factor: float, several: bool) -> None:
    kspace = coils() if several else small_kspace(1, *SHAPE).numpy()[0]
    scaled = (kspace.astype(np.complex128) * factor).astype(np.complex64)
    method, samples = ("tv", 0) if several else ("hybrid", 2)
    expected, found = (
        mrihvae.reconstruct(each, calibrated(40).numpy(), method=method, samples=samples) for each in (kspace, scaled)
    )
    assert found.warnings == expected.warnings
    for name in ("magnitude", "image") if several else ("magnitude", "image", "std", "samples"):
        want = getattr(expected, name)
        np.testing.assert_allclose(getattr(found, name) / factor, want, atol=2e-3 * np.abs(want).max(), err_msg=name)


@pytest.mark.parametrize("exponent", [-100, 0, 1, 100])
def test_a_unit_changes_no_digit(exponent: int) -> None:
    """A complex division, of torch 2.6, rounds, even that by 1."""
    kspace, unit = complex_normal((2, 3, *SHAPE), seed=5), 2.0**exponent
    found = Normalization(unit, (0, 0), SHAPE).apply(torch.from_numpy(kspace * np.float32(unit)))
    np.testing.assert_array_equal(found.numpy(), kspace)


def test_a_global_phase_changes_no_image() -> None:
    kspace = small_kspace(2, *SHAPE).numpy()
    expected, found = (
        mrihvae.reconstruct(each, calibrated(40).numpy(), axes="slice H W")
        for each in (kspace, (kspace * np.exp(2j)).astype(np.complex64))
    )
    bound = 1e-4 * np.abs(expected.image).max()
    np.testing.assert_allclose(found.magnitude, expected.magnitude, atol=bound)
    np.testing.assert_allclose(found.image, expected.image * np.exp(2j), atol=bound)


@pytest.mark.parametrize("shift", [(24, 0), (9, -13), (0, 20)])
def test_a_pattern_that_was_moved_with_the_peak_need_not_have_the_center(shift: tuple[int, int]) -> None:
    points = np.random.default_rng(1).random(SHAPE) < 0.5
    points[18:30, 14:26] = True
    points[0, :] = points[:, 0] = points[15, 33] = False  # where the center of the array then is
    expected = mrihvae.reconstruct(coils(), points, method="zero-filled")
    moved = np.roll(points, shift, (0, 1))
    assert not moved[24, 20]
    found = mrihvae.reconstruct(np.roll(coils(), shift, (-2, -1)), moved, method="zero-filled")
    np.testing.assert_allclose(found.magnitude, expected.magnitude, atol=1e-5 * expected.magnitude.max())
    assert found.warnings and all("it was moved to the center" in warning for warning in found.warnings)
