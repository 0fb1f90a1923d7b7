"""Scans to volumes: which lines count, coils, the delivered size, and independence of the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from conftest import complex_normal
from small import every_third, small_kspace, small_model

from mrihvae.errors import InputError
from mrihvae.fastmri_files import Scan
from mrihvae.fourier import fft2c, ifft2c
from mrihvae.inference import InferenceSettings, reconstruct
from mrihvae.masks import sampling_mask, seed_of
from mrihvae.model import HVAE
from mrihvae.volumes import METHODS, Method, Undersampling, delivered_shape, lines_of, reconstruct_volume

RANDOM = Undersampling("random", 4, 0.1)
SHORT = InferenceSettings(sweeps=1)


@pytest.fixture(scope="module")
def model() -> Iterator[HVAE]:
    yield small_model().eval().requires_grad_(False)


def scan_of(shape: tuple[int, ...] = (3, 24, 20), **changes: object) -> Scan:
    """Make a complete scan of phantoms; with four axes, coils see it weighted."""
    if len(shape) == 3:
        kspace = small_kspace(*shape).numpy()
    else:
        images = ifft2c(small_kspace(shape[0], *shape[-2:]))[:, None]
        weights = torch.linspace(0.5, 1.5, shape[1])[:, None, None] * torch.linspace(1, 2, shape[-1])
        kspace = fft2c(images * weights).numpy()
    return dataclasses.replace(Scan("file1.h5", kspace), **changes)  # type: ignore[arg-type]


def zero_filled(kspace: np.ndarray, lines: np.ndarray) -> np.ndarray:
    return ifft2c(torch.from_numpy(np.where(lines, kspace, 0))).abs().numpy()


# --- which lines were measured ---------------------------------------------------------------------------------------


def test_lines_from_the_file() -> None:
    mask = every_third(20).numpy()
    assert np.array_equal(lines_of(scan_of(mask=mask), None), mask)


def test_lines_from_a_fastmri_mask_seeded_by_the_file_name() -> None:
    expected = sampling_mask("random", 20, 4, 0.1, seed_of("file1.h5"))
    assert np.array_equal(lines_of(scan_of(), RANDOM), expected)
    other = lines_of(dataclasses.replace(scan_of((1, 4, 200)), name="file2.h5"), RANDOM)
    assert not np.array_equal(other, sampling_mask("random", 200, 4, 0.1, seed_of("file1.h5")))


@pytest.mark.parametrize("shape", [(3, 24, 20), (2, 3, 24, 20)])
def test_lines_that_are_zero_are_not_measured(shape: tuple[int, ...]) -> None:
    scan, mask = scan_of(shape), every_third(20).numpy()
    scan = dataclasses.replace(scan, kspace=np.where(mask, scan.kspace, 0))
    assert np.array_equal(lines_of(scan, None), mask)
    scan.kspace[0, ..., 1] = 1e-9  # something on a line, however little
    assert lines_of(scan, None)[1]


def test_mask_and_undersampling_together_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        lines_of(scan_of(mask=every_third(20).numpy()), RANDOM)
    assert str(caught.value) == "file1.h5: is undersampled already (it has a mask); leave out --mask-type"


def test_complete_scan_without_a_mask_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        lines_of(scan_of(), None)
    assert str(caught.value) == "file1.h5: k-space is complete and has no mask; add --mask-type to undersample it"


def test_scan_of_nothing_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        lines_of(scan_of(kspace=np.zeros((2, 24, 20), np.complex64)), None)
    assert str(caught.value) == "file1.h5: k-space is zero everywhere; there is nothing to reconstruct from"


def test_lines_that_were_not_encoded_do_not_make_a_scan_undersampled() -> None:
    scan = scan_of(padding=(3, 18))
    scan.kspace[..., :3] = scan.kspace[..., 18:] = 0
    with pytest.raises(InputError, match="k-space is complete"):
        lines_of(scan, None)
    lines = lines_of(scan, RANDOM)
    assert not lines[:3].any() and not lines[18:].any()
    assert np.array_equal(lines[3:18], sampling_mask("random", 20, 4, 0.1, seed_of("file1.h5"))[3:18])


@pytest.mark.parametrize("undersampling", [Undersampling("radial", 4, 0.1), Undersampling("random", 0, 0.1)])
def test_impossible_mask_is_refused(undersampling: Undersampling) -> None:
    with pytest.raises(InputError):
        lines_of(scan_of(), undersampling)


# --- the size to deliver ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "matrix", "expected"),
    [
        (None, None, (24, 20)),
        ((16, 14), None, (16, 14)),
        (None, (12, 10), (12, 10)),
        ((16, 14), (12, 10), (16, 14)),
        ((30, 14), None, (24, 14)),
        (None, (24, 40), (20, 20)),  # as fastMRI's transforms crop
    ],
)
def test_delivered_shape(
    target: tuple[int, int] | None, matrix: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    scan = scan_of(target=None if target is None else np.ones((3, *target), np.float32), matrix=matrix)
    assert delivered_shape(scan) == expected
    volume = reconstruct_volume(scan, every_third(20).numpy(), Method("zero-filled"))
    assert volume.shape == (3, *expected) and volume.flags.c_contiguous
    whole = zero_filled(scan.kspace, every_third(20).numpy())
    top, left = 12 - expected[0] // 2, 10 - expected[1] // 2  # the middle of it
    np.testing.assert_allclose(volume, whole[:, top : top + expected[0], left : left + expected[1]], atol=1e-6)


# --- volumes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_float32_magnitudes_in_the_scans_scale(name: str, model: HVAE) -> None:
    scan, lines = scan_of(), every_third(20).numpy()
    method = Method(name, model, SHORT)
    volume = reconstruct_volume(scan, lines, method)
    assert volume.shape == (3, 24, 20) and volume.dtype == np.float32
    assert np.isfinite(volume).all() and (volume >= 0).all()
    scaled = reconstruct_volume(dataclasses.replace(scan, kspace=np.float32(2.0**-20) * scan.kspace), lines, method)
    np.testing.assert_allclose(scaled * 2.0**20, volume, rtol=0, atol=1e-3 * volume.max())


@pytest.mark.parametrize("shape", [(5, 24, 20), (3, 2, 24, 20)])
@pytest.mark.parametrize("name", ["hybrid", "amortised", "zero-filled", "tv"])
def test_batch_size_changes_nothing(name: str, shape: tuple[int, ...], model: HVAE) -> None:
    scan, lines = scan_of(shape), every_third(20).numpy()
    method = Method(name, model, SHORT)
    whole = reconstruct_volume(scan, lines, method, 100)
    tolerance = 1e-3 if name == "tv" else 1e-5  # sigpy draws the start of its power iteration at random
    for size in (1, 3, 4):
        volume = reconstruct_volume(scan, lines, method, size)
        np.testing.assert_allclose(volume, whole, atol=tolerance * whole.max(), rtol=0)


def test_unmeasured_lines_that_the_scan_holds_are_ignored(model: HVAE) -> None:
    scan, lines = scan_of(), every_third(20).numpy()
    spoilt = dataclasses.replace(scan, kspace=np.where(lines, scan.kspace, 1e6 * complex_normal((3, 24, 20))))
    for name in ("hybrid", "zero-filled", "tv"):
        method = Method(name, model, SHORT)
        volume = reconstruct_volume(scan, lines, method)
        np.testing.assert_allclose(reconstruct_volume(spoilt, lines, method), volume, atol=1e-3 * volume.max())
    assert np.array_equal(scan.kspace, scan_of().kspace)  # and are left in it


def test_coils_are_combined_by_root_sum_of_squares(model: HVAE) -> None:
    scan, lines = scan_of((2, 3, 24, 20)), every_third(20).numpy()
    for name in ("zero-filled", "amortised"):
        method = Method(name, model)
        coils = [
            reconstruct_volume(dataclasses.replace(scan, kspace=scan.kspace[:, c]), lines, method) for c in range(3)
        ]
        expected = np.sqrt(np.sum(np.square(coils), axis=0))
        np.testing.assert_allclose(reconstruct_volume(scan, lines, method), expected, atol=1e-5 * expected.max())


def test_one_coil_on_an_axis_of_its_own_is_single_coil() -> None:
    scan, lines = scan_of(), every_third(20).numpy()
    with_axis = dataclasses.replace(scan, kspace=scan.kspace[:, None])
    method = Method("zero-filled")
    assert np.array_equal(reconstruct_volume(with_axis, lines, method), reconstruct_volume(scan, lines, method))


def test_complete_scan_gives_its_root_sum_of_squares() -> None:
    import fastmri

    scan = scan_of((2, 3, 24, 20))
    volume = reconstruct_volume(scan, np.ones(20, bool), Method("zero-filled"))
    images = fastmri.complex_abs(fastmri.ifft2c(torch.view_as_real(torch.from_numpy(scan.kspace))))
    np.testing.assert_allclose(volume, fastmri.rss(images, dim=1).numpy(), atol=1e-5)


def test_hybrid_and_amortised_are_the_reconstruction_with_and_without_sweeps(model: HVAE) -> None:
    scan, lines = scan_of(), every_third(20)
    kspace = torch.from_numpy(scan.kspace)
    for name, settings in (("hybrid", SHORT), ("amortised", InferenceSettings(sweeps=0))):
        expected = reconstruct(model, kspace, lines, settings).abs().numpy()
        volume = reconstruct_volume(scan, lines.numpy(), Method(name, model, SHORT))
        np.testing.assert_allclose(volume, expected, atol=1e-5 * expected.max())


def test_lines_that_were_not_encoded_are_known_to_be_zero(model: HVAE) -> None:
    scan = scan_of(padding=(3, 18))
    scan.kspace[..., :3] = scan.kspace[..., 18:] = 0
    lines = lines_of(scan, RANDOM)
    known = torch.from_numpy(lines.copy())
    known[:3] = known[18:] = True
    measured = torch.from_numpy(np.where(lines, scan.kspace, 0))
    expected = reconstruct(model, measured, known, SHORT)
    volume = reconstruct_volume(scan, lines, Method("hybrid", model, SHORT))
    np.testing.assert_allclose(volume, expected.abs().numpy(), atol=1e-5 * float(expected.abs().max()))
    assert not fft2c(expected)[..., :3].abs().max() > 1e-5  # nothing was put there


def test_progress_counts_slices() -> None:
    for shape, size, expected in (
        ((5, 24, 20), 2, [2, 2, 1]),
        ((5, 3, 24, 20), 6, [2, 2, 1]),
        ((2, 3, 24, 20), 1, [1, 1]),
    ):
        told: list[int] = []
        reconstruct_volume(scan_of(shape), every_third(20).numpy(), Method("zero-filled"), size, told.append)
        assert told == expected


def test_strength_is_passed_on() -> None:
    scan, lines = scan_of((1, 24, 20)), every_third(20).numpy()
    for name in ("wavelet", "tv"):
        weak, tuned, strong = (
            reconstruct_volume(scan, lines, Method(name, strength=strength)) for strength in (1e-6, None, 0.1)
        )
        assert not np.allclose(weak, tuned, atol=1e-3) and not np.allclose(tuned, strong, atol=1e-3)


def test_refused_methods(model: HVAE) -> None:
    with pytest.raises(InputError, match="method 'magic' is unknown; choose one of hybrid, amortised, zero-filled"):
        Method("magic")
    for name in ("hybrid", "amortised"):
        with pytest.raises(InputError, match=f"method '{name}' needs a model"):
            Method(name)


def test_undersampled_files_without_a_mask_are_not_taken_for_complete() -> None:
    rows, columns = scan_of(), scan_of()
    rows.kspace[:, 5:9] = 0
    columns.kspace[..., 5:9] = 0
    for undersampling in (None, RANDOM):
        with pytest.raises(InputError, match="rows of k-space are empty; W must be the phase-encoding axis"):
            lines_of(rows, undersampling)
    with pytest.raises(InputError, match="is undersampled already"):
        lines_of(columns, RANDOM)
    assert lines_of(columns, None).sum() == 16
