"""Scans to volumes: which lines count, coils, the delivered size, and independence of the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mrihvae.coils.combine import root_sum_of_squares
from mrihvae.coils.maps import estimate_maps
from mrihvae.coils.settings import CoilSettings
from mrihvae.data.scan import Scan, delivered_shape
from mrihvae.errors import InputError
from mrihvae.inference.held_out import BOUNDS, TYPICAL, error_ratio, held_out_ratio
from mrihvae.inference.preparation import prepare
from mrihvae.inference.reconstruct import draw, reconstruct, sample
from mrihvae.inference.settings import InferenceSettings, RefinementSettings
from mrihvae.io.fastmri import read_scan
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fastmri_masks import sampling_mask, seed_of
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.noise import missing_noise
from mrihvae.physics.sampling import PATTERNS, Undersampling, sampling_pattern
from mrihvae.pnp.reconstruct import reconstruct_scans
from mrihvae.pnp.settings import PnPSettings
from mrihvae.recon import classical
from mrihvae.recon.catalog import make_method
from mrihvae.recon.classical import conjugate_gradient_sense
from mrihvae.recon.settings import METHODS, MODEL_METHODS
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume, sample_volume
from mrihvae.utils.config import with_settings
from tests.support.files import complex_normal, write_scan
from tests.support.small import every_third, small_kspace, small_model
from tests.support.small_coils import calibrated, coil_scans, distance, some_bins

RANDOM = Undersampling("random", 4, 0.1)
SHORT = InferenceSettings(tv_blend=False, views=2, refinement=RefinementSettings(sweeps=1))
DRAWS = InferenceSettings(views=2, refinement=RefinementSettings(sweeps=0))


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


def bins_of(height: int = 24, width: int = 20) -> np.ndarray:
    """Mark single bins and the center: bool (H, W)."""
    mask = np.random.default_rng(0).random((height, width)) < 0.4
    mask[height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2] = True
    return mask


def zero_filled(kspace: np.ndarray, lines: np.ndarray) -> np.ndarray:
    return ifft2c(torch.from_numpy(np.where(lines, kspace, 0))).abs().numpy()


# --- which lines were measured ---------------------------------------------------------------------------------------


def test_lines_from_the_file() -> None:
    mask = every_third(20).numpy()
    assert np.array_equal(mask_of(scan_of(mask=mask), None), mask)


def test_lines_from_a_fastmri_mask_seeded_by_the_file_name() -> None:
    expected = sampling_mask("random", 20, 4, 0.1, seed_of("file1.h5"))
    assert np.array_equal(mask_of(scan_of(), RANDOM), expected)
    other = mask_of(dataclasses.replace(scan_of((1, 4, 200)), name="file2.h5"), RANDOM)
    assert not np.array_equal(other, sampling_mask("random", 200, 4, 0.1, seed_of("file1.h5")))


@pytest.mark.parametrize("shape", [(3, 24, 20), (2, 3, 24, 20)])
def test_lines_that_are_zero_are_not_measured(shape: tuple[int, ...]) -> None:
    scan, mask = scan_of(shape), every_third(20).numpy()
    scan = dataclasses.replace(scan, kspace=np.where(mask, scan.kspace, 0))
    assert np.array_equal(mask_of(scan, None), mask)
    scan.kspace[0, ..., 1] = 1e-9  # something on a line, however little
    assert mask_of(scan, None)[1]


def test_mask_and_undersampling_together_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        mask_of(scan_of(mask=every_third(20).numpy()), RANDOM)
    assert str(caught.value) == "file1.h5: is already undersampled (it has a mask); leave out --mask-type"


@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 3, 8, 1)])
def test_kspace_of_a_single_row_or_column_is_refused(shape: tuple[int, ...]) -> None:
    scan = Scan("a.h5", np.ones(shape, np.complex64))
    with pytest.raises(InputError, match=r"a.h5: k-space of \d x \d samples; H and W must be at least 2"):
        reconstruct_volume(scan, np.ones(shape[-1], bool), make_method("zero-filled"))


def test_complete_scan_without_a_mask_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        mask_of(scan_of(), None)
    assert (
        str(caught.value)
        == "file1.h5: k-space is fully sampled and has no mask; add --mask-type to undersample it, or store its mask"
    )


def test_scan_of_nothing_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        mask_of(scan_of(kspace=np.zeros((2, 24, 20), np.complex64)), None)
    assert str(caught.value) == "file1.h5: k-space is zero everywhere; there is nothing to reconstruct from"


def test_lines_that_were_not_encoded_do_not_make_a_scan_undersampled() -> None:
    scan = scan_of(padding=(3, 18))
    scan.kspace[..., :3] = scan.kspace[..., 18:] = 0
    with pytest.raises(InputError, match="k-space is fully sampled"):
        mask_of(scan, None)
    lines = mask_of(scan, RANDOM)
    assert not lines[:3].any() and not lines[18:].any()
    assert np.array_equal(lines[3:18], sampling_mask("random", 20, 4, 0.1, seed_of("file1.h5"))[3:18])


@pytest.mark.parametrize(
    ("undersampling", "message"),
    [
        (Undersampling("circus", 4, 0.1), "mask type 'circus' is unknown"),
        (Undersampling("random", 0, 0.1), "acceleration 0 is not"),
        (Undersampling("random", 2.5, 0.1), "acceleration 2.5 is not a whole number"),
        (Undersampling("radial", 0.5, 0.1), "acceleration 0.5 is not"),
        (Undersampling("partial_fourier", 2, 0.1), "partial Fourier at 2x acquires 10 of 20 lines"),
        (Undersampling("spiral", 1.1, 0.1), "the corners of k-space: "),
        (Undersampling("random", 4, 0.1, axis=0), "axis 0 is not one of"),
    ],
)
def test_impossible_mask_is_refused(undersampling: Undersampling, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mask_of(scan_of(), undersampling)


@pytest.mark.parametrize("mask_type", sorted(set(PATTERNS) - {"poisson"}))
def test_pattern_seeded_by_the_file_name(mask_type: str) -> None:
    acceleration = 1.5 if mask_type == "partial_fourier" else 4
    seed = seed_of("file1.h5")
    for shape in ((3, 24, 20), (2, 3, 24, 20)):
        for axis in (-1, -2):
            expected = sampling_pattern(mask_type, (24, 20), acceleration, 0.1, seed, axis)
            found = mask_of(scan_of(shape), Undersampling(mask_type, acceleration, 0.1, axis))
            lines = axis == -1 and mask_type not in ("radial", "spiral")
            assert found.shape == ((20,) if lines else (24, 20)) and found.dtype == bool
            assert (found == expected).all()


def test_two_dimensional_pattern_leaves_out_lines_that_were_not_encoded() -> None:
    scan = scan_of(padding=(3, 18))
    scan.kspace[..., :3] = scan.kspace[..., 18:] = 0
    for axis in (-1, -2):
        mask = mask_of(scan, Undersampling("radial", 2, 0.1, axis))
        whole = sampling_pattern("radial", (24, 20), 2, 0.1, seed_of("file1.h5"))
        assert whole[:, :3].any() and not mask[:, :3].any() and not mask[:, 18:].any()
        assert np.array_equal(mask[:, 3:18], whole[:, 3:18])


def test_two_dimensional_mask_of_the_file() -> None:
    for mask in (bins_of(), np.broadcast_to(every_third(24).numpy()[:, None], (24, 20))):
        assert np.array_equal(mask_of(scan_of(mask=mask), None), mask)
        with pytest.raises(InputError, match=r"is already undersampled \(it has a mask\)"):
            mask_of(scan_of(mask=mask), RANDOM)


@pytest.mark.parametrize("shape", [(3, 24, 20), (2, 3, 24, 20)])
def test_two_dimensional_pattern_of_a_file_without_a_mask(shape: tuple[int, ...]) -> None:
    rows = every_third(24).numpy()[:, None] & np.ones(20, dtype=bool)
    both = rows & every_third(20).numpy()
    for mask in (bins_of(), rows, both):
        scan = scan_of(shape)
        scan = dataclasses.replace(scan, kspace=np.where(mask, scan.kspace, 0))
        assert np.array_equal(mask_of(scan, None), mask)
        with pytest.raises(InputError, match=r"is already undersampled \(samples are missing\); leave out --mask-type"):
            mask_of(scan, RANDOM)


def test_padded_rows_count_as_measured() -> None:
    """Scans are interpolated by padding k-space with zeros: empty rows at either end are no pattern."""
    scan, lines = scan_of(), every_third(20).numpy()
    scan.kspace[:, :4] = scan.kspace[:, -3:] = 0
    with pytest.raises(InputError, match="k-space is fully sampled and has no mask"):
        mask_of(scan, None)
    assert mask_of(scan, RANDOM).shape == (20,)
    undersampled = dataclasses.replace(scan, kspace=np.where(lines, scan.kspace, 0))
    assert np.array_equal(mask_of(undersampled, None), lines)


def test_single_bins_that_happen_to_be_zero_make_no_pattern() -> None:
    scan, lines = scan_of((1, 64, 60)), every_third(60).numpy()
    scan.kspace[0, 5, 7] = 0
    with pytest.raises(InputError, match="k-space is fully sampled"):
        mask_of(scan, None)
    undersampled = dataclasses.replace(scan, kspace=np.where(lines, scan.kspace, 0))
    undersampled.kspace[0, 20, 9] = 0
    assert np.array_equal(mask_of(undersampled, None), lines)


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
    volume = reconstruct_volume(scan, every_third(20).numpy(), make_method("zero-filled"))
    assert volume.shape == (3, *expected) and volume.flags.c_contiguous
    whole = zero_filled(scan.kspace, every_third(20).numpy())
    top, left = 12 - expected[0] // 2, 10 - expected[1] // 2  # the middle of it
    np.testing.assert_allclose(volume, whole[:, top : top + expected[0], left : left + expected[1]], atol=1e-6)


# --- volumes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_float32_magnitudes_in_the_scans_scale(name: str, model: HVAE) -> None:
    scan, lines = scan_of(), every_third(20).numpy()
    method = make_method(name, model, SHORT)
    volume = reconstruct_volume(scan, lines, method)
    assert volume.shape == (3, 24, 20) and volume.dtype == np.float32
    assert np.isfinite(volume).all() and (volume >= 0).all()
    scaled = reconstruct_volume(dataclasses.replace(scan, kspace=np.float32(2.0**-20) * scan.kspace), lines, method)
    np.testing.assert_allclose(scaled * 2.0**20, volume, rtol=0, atol=1e-3 * volume.max())


@pytest.mark.parametrize("shape", [(5, 24, 20), (3, 2, 24, 20)])
@pytest.mark.parametrize("name", ["hybrid", "amortized", "samples", "pnp", "zero-filled", "tv"])
def test_batch_size_changes_nothing(name: str, shape: tuple[int, ...], model: HVAE) -> None:
    scan, lines = scan_of(shape), every_third(20).numpy()
    method = make_method(name, model, SHORT, samples=2)
    whole = reconstruct_volume(scan, lines, method, 100)
    tolerance = 1e-3 if name == "tv" else 1e-5  # sigpy draws the start of its power iteration at random
    for size in (1, 3, 4):
        volume = reconstruct_volume(scan, lines, method, size)
        np.testing.assert_allclose(volume, whole, atol=tolerance * whole.max(), rtol=0)


def test_unmeasured_lines_that_the_scan_holds_are_ignored(model: HVAE) -> None:
    scan, lines = scan_of(), every_third(20).numpy()
    spoiled = dataclasses.replace(scan, kspace=np.where(lines, scan.kspace, 1e6 * complex_normal((3, 24, 20))))
    for name in ("hybrid", "pnp", "zero-filled", "tv"):
        method = make_method(name, model, SHORT)
        volume = reconstruct_volume(scan, lines, method)
        np.testing.assert_allclose(reconstruct_volume(spoiled, lines, method), volume, atol=1e-3 * volume.max())
    assert np.array_equal(scan.kspace, scan_of().kspace)  # and are left in it


def test_zero_filled_coils_are_combined_by_root_sum_of_squares() -> None:
    scan, lines, method = scan_of((2, 3, 24, 20)), every_third(20).numpy(), make_method("zero-filled")
    coils = [reconstruct_volume(dataclasses.replace(scan, kspace=scan.kspace[:, c]), lines, method) for c in range(3)]
    expected = np.sqrt(np.sum(np.square(coils), axis=0))
    np.testing.assert_allclose(reconstruct_volume(scan, lines, method), expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("wavelet", "tv")])
def test_one_coil_on_an_axis_of_its_own_is_single_coil(name: str, model: HVAE) -> None:
    scan, lines = scan_of(), every_third(20).numpy()
    with_axis = dataclasses.replace(scan, kspace=scan.kspace[:, None])
    method = make_method(name, model, SHORT, samples=2)
    assert np.array_equal(reconstruct_volume(with_axis, lines, method), reconstruct_volume(scan, lines, method))


def test_complete_scan_gives_its_root_sum_of_squares() -> None:
    import fastmri

    scan = scan_of((2, 3, 24, 20))
    volume = reconstruct_volume(scan, np.ones(20, bool), make_method("zero-filled"))
    images = fastmri.complex_abs(fastmri.ifft2c(torch.view_as_real(torch.from_numpy(scan.kspace))))
    np.testing.assert_allclose(volume, fastmri.rss(images, dim=1).numpy(), atol=1e-5)


def test_hybrid_and_amortized_are_the_reconstruction_with_and_without_sweeps(model: HVAE) -> None:
    scan, lines = scan_of(), every_third(20)
    kspace = torch.from_numpy(scan.kspace)
    for name, settings in (
        ("hybrid", SHORT),
        ("amortized", InferenceSettings(views=1, rounds=1, refinement=RefinementSettings(sweeps=0))),
    ):
        expected = reconstruct(model, kspace, lines, None, settings).abs().numpy()
        volume = reconstruct_volume(scan, lines.numpy(), make_method(name, model, SHORT))
        np.testing.assert_allclose(volume, expected, atol=1e-5 * expected.max())


def test_pnp_is_the_loop_on_the_scan(model: HVAE) -> None:
    scan, lines = scan_of(), every_third(20)
    settings = PnPSettings(iterations=2, gamma=0.1, sweeps=1, result="image")
    expected, found = reconstruct_scans(model, torch.from_numpy(scan.kspace), lines, None, settings)
    volume = reconstruct_volume(scan, lines.numpy(), make_method("pnp", model, pnp=settings))
    np.testing.assert_allclose(volume, expected.abs().numpy(), atol=1e-5 * volume.max())
    assert found.iterations.tolist() == [2, 2, 2] and len(found.objective) == 2


def test_lines_that_were_not_encoded_are_known_to_be_zero(model: HVAE) -> None:
    scan = scan_of(padding=(3, 18))
    scan.kspace[..., :3] = scan.kspace[..., 18:] = 0
    lines = mask_of(scan, RANDOM)
    known = torch.from_numpy(lines.copy())
    known[:3] = known[18:] = True
    measured = torch.from_numpy(np.where(lines, scan.kspace, 0))
    expected = reconstruct(model, measured, known, None, SHORT)
    volume = reconstruct_volume(scan, lines, make_method("hybrid", model, SHORT))
    np.testing.assert_allclose(volume, expected.abs().numpy(), atol=1e-5 * float(expected.abs().max()))
    assert not fft2c(expected)[..., :3].abs().max() > 1e-5  # nothing was put there


def test_progress_counts_slices() -> None:
    for shape, size, expected in (
        ((5, 24, 20), 2, [2, 2, 1]),
        ((5, 3, 24, 20), 6, [2, 2, 1]),
        ((2, 3, 24, 20), 1, [1, 1]),
    ):
        told: list[int] = []
        reconstruct_volume(scan_of(shape), every_third(20).numpy(), make_method("zero-filled"), size, told.append)
        assert told == expected
        told.clear()
        reconstruct_volume(scan_of(shape), every_third(20).numpy(), make_method("sense"), size, told.append)
        assert told == expected


def test_strength_is_passed_on() -> None:
    scan, lines = scan_of((1, 24, 20)), every_third(20).numpy()
    for name in ("wavelet", "tv"):
        weak, tuned, strong = (
            reconstruct_volume(scan, lines, make_method(name, strength=strength)) for strength in (1e-6, None, 0.1)
        )
        assert not np.allclose(weak, tuned, atol=1e-3) and not np.allclose(tuned, strong, atol=1e-3)


def test_refused_methods(model: HVAE) -> None:
    with pytest.raises(
        InputError, match="method 'magic' is unknown; choose one of hybrid, amortized, samples, pnp, zero-filled"
    ):
        make_method("magic")
    for name in MODEL_METHODS:
        with pytest.raises(InputError, match=f"method '{name}' needs a model"):
            make_method(name)


def test_undersampled_files_without_a_mask_are_not_taken_for_complete() -> None:
    rows, columns = scan_of(), scan_of()
    rows.kspace[:, 5:9] = 0
    columns.kspace[..., 5:9] = 0
    for scan in (rows, columns):
        with pytest.raises(InputError, match="is already undersampled"):
            mask_of(scan, RANDOM)
    assert mask_of(columns, None).shape == (20,) and mask_of(columns, None).sum() == 16
    found = mask_of(rows, None)
    assert found.shape == (24, 20) and found.all(axis=1).sum() == 20 and not found[5:9].any()


# --- several coils ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("output", "mask"), [("rss", calibrated(37)), ("combined", some_bins(45, 37))])
def test_coils_are_reconstructed_together(model: HVAE, output: str, mask: torch.Tensor) -> None:
    """With the maps of the calibration lines, and delivered as `CoilSettings.output` says."""
    scan = Scan("file1.h5", coil_scans(2, 4, 45, 37)[0].numpy())
    kspace = torch.where(mask, torch.from_numpy(scan.kspace), 0)
    maps = estimate_maps(kspace, mask, CoilSettings())
    pnp = PnPSettings(iterations=2, gamma=0.1, sweeps=1, result="image")
    images = {
        "hybrid": reconstruct(model, kspace, mask, maps, SHORT),
        "amortized": reconstruct(
            model, kspace, mask, maps, InferenceSettings(views=1, rounds=1, refinement=RefinementSettings(sweeps=0))
        ),
        "samples": draw(model, prepare(model, kspace, mask, maps), 2, DRAWS).mean(dim=0),
        "pnp": reconstruct_scans(model, kspace, mask, maps, pnp)[0],
        "sense": conjugate_gradient_sense(kspace, mask, maps, classical.COIL_STRENGTH["sense"]),
    }
    name, solve = ("tv", classical.total_variation) if output == "rss" else ("wavelet", classical.wavelet)
    pattern, strength = mask.expand(45, 37).numpy(), classical.COIL_STRENGTH[name]
    solved = [solve(y, pattern, strength, maps=s) for y, s in zip(kspace.numpy(), maps.numpy())]
    images[name] = torch.from_numpy(np.stack(solved))
    for name, image in images.items():
        method = make_method(name, model, SHORT, 2, pnp=pnp, coils=CoilSettings(output=output))
        volume = reconstruct_volume(scan, mask.numpy(), method)
        expected = root_sum_of_squares(image, maps, kspace, mask) if output == "rss" else image.abs()
        tolerance = 1e-3 if name in ("wavelet", "tv") else 1e-4
        np.testing.assert_allclose(volume, expected.numpy(), atol=tolerance * volume.max(), err_msg=name)
        assert volume.dtype == np.float32 and volume.shape == (2, 45, 37)


@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, (24, 20)) for name in ("hybrid", "samples", "pnp", "sense")] + [("hybrid", (61, 45)), ("sense", (61, 45))],
)
@pytest.mark.parametrize("output", ["rss", "combined"])
def test_doubled_kspace_doubles_the_image(model: HVAE, name: str, output: str, shape: tuple[int, int]) -> None:
    scan, lines = Scan("file1.h5", coil_scans(1, 3, *shape)[0].numpy()), calibrated(shape[1]).numpy()
    method = make_method(name, model, SHORT, samples=2, coils=CoilSettings(output=output))
    volume = reconstruct_volume(scan, lines, method)
    assert np.array_equal(reconstruct_volume(scan, lines, method), volume)  # not left to chance

    def of(factor: float) -> np.ndarray:
        kspace = (factor * scan.kspace.astype(np.complex128)).astype(np.complex64)
        return reconstruct_volume(dataclasses.replace(scan, kspace=kspace), lines, method) / factor

    np.testing.assert_allclose(of(2), volume, rtol=0, atol=1e-5 * volume.max())
    tolerance = 5e-5 if name == "sense" else 1e-5  # which has no prior where maps are of noise
    for power in (-8, 4):  # where the data, and so the maps, are rounded anew
        assert np.linalg.norm(of(10.0**power) - volume) < tolerance * np.linalg.norm(volume)


@pytest.mark.parametrize("coils", [CoilSettings(whiten=True), CoilSettings(compress=3), CoilSettings(maps="espirit")])
def test_what_is_done_with_coils_keeps_the_scale(coils: CoilSettings) -> None:
    """Root-sum-of-squares of the original coils: near to the target, not to that of whitened or virtual coils."""
    kspace = coil_scans(2, 6, 48, 40, noise=0.01)[0]
    scan, lines = Scan("file1.h5", kspace.numpy()), calibrated(40, 12).numpy()
    target = ifft2c(kspace).abs().square().sum(dim=1).sqrt()
    plain = torch.from_numpy(reconstruct_volume(scan, lines, make_method("sense")))
    found = torch.from_numpy(reconstruct_volume(scan, lines, make_method("sense", coils=coils)))
    assert distance(plain, target) < 0.005 and distance(found, target) < 0.01


def test_maps_in_the_file(tmp_path: Path, model: HVAE) -> None:
    """Are used as they are, in place of estimated ones; without calibration lines, too."""
    kspace, maps, _ = coil_scans(2, 4, 24, 20)
    lines = torch.arange(20) % 2 == 0
    undersampled = {"mask": lines.numpy(), "reconstruction_rss": None}
    arrays = {"kspace": torch.where(lines, kspace, 0).numpy(), "sensitivity_maps": 3 * maps.numpy(), **undersampled}
    scan = read_scan(write_scan(tmp_path / "file1.h5", (2, 4, 24, 20), **arrays))
    mask = mask_of(scan, None)
    for name, image in (
        ("hybrid", reconstruct(model, kspace, lines, maps[None], SHORT)),
        ("sense", conjugate_gradient_sense(kspace, lines, maps[None], classical.COIL_STRENGTH["sense"])),
    ):
        volume = reconstruct_volume(scan, mask, make_method(name, model, SHORT))
        expected = root_sum_of_squares(image, maps[None], kspace, lines).numpy()
        np.testing.assert_allclose(volume, expected, atol=1e-4 * volume.max())
    without = dataclasses.replace(scan, maps=None)
    with pytest.raises(
        InputError, match="file1.h5, slice 0: the fully acquired region around the center of k-space is only 24 x 1"
    ):
        reconstruct_volume(without, mask, make_method("sense"))
    assert reconstruct_volume(without, mask, make_method("zero-filled")).shape == (2, 24, 20)  # which needs none
    wrong = dataclasses.replace(scan, maps=np.repeat(scan.maps, 3, axis=0))
    for use in (reconstruct_volume, sample_volume):
        with pytest.raises(InputError, match=r"file1.h5: sensitivity maps of shape \(3, 4, 24, 20\) do not fit"):
            use(wrong, mask, make_method("samples", model))


def test_lines_of_coils_that_were_not_encoded_are_known_to_be_zero(model: HVAE) -> None:
    scan = scan_of((2, 3, 24, 20), padding=(3, 18))
    scan.kspace[..., :3] = scan.kspace[..., 18:] = 0
    lines = calibrated(20).numpy()
    lines[:3] = lines[18:] = False
    known = torch.from_numpy(lines.copy())
    known[:3] = known[18:] = True
    kspace = torch.from_numpy(np.where(lines, scan.kspace, 0))
    maps = estimate_maps(kspace, torch.from_numpy(lines), CoilSettings())
    image = reconstruct(model, kspace, known, maps, SHORT)
    expected = root_sum_of_squares(image, maps, kspace, known)
    volume = reconstruct_volume(scan, lines, make_method("hybrid", model, SHORT))
    np.testing.assert_allclose(volume, expected.numpy(), atol=1e-4 * volume.max())


def test_empty_slices_and_silent_coils(model: HVAE) -> None:
    scan, lines = scan_of((2, 3, 24, 20)), calibrated(20).numpy()
    scan.kspace[:, 1] = 0
    for name in ("hybrid", "sense", "pnp"):
        assert np.isfinite(reconstruct_volume(scan, lines, make_method(name, model, SHORT))).all()
    scan.kspace[1] = 0
    for name in ("hybrid", "sense", "pnp"):
        volume = reconstruct_volume(scan, lines, make_method(name, model, SHORT))
        assert np.isfinite(volume).all() and volume[0].max() > 0.1 and volume[1].max() < 1e-20


# --- patterns other than lines along H -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 24, 20), (1, 2, 24, 20)])
@pytest.mark.parametrize("name", ["hybrid", "samples", "zero-filled", "tv"])
def test_any_pattern(name: str, shape: tuple[int, ...], model: HVAE) -> None:
    scan, mask = scan_of(shape), bins_of()
    method = make_method(name, model, SHORT, samples=2)
    volume = reconstruct_volume(scan, mask, method)
    assert volume.shape == (shape[0], 24, 20) and np.isfinite(volume).all()
    kept = dataclasses.replace(scan, kspace=np.where(mask, scan.kspace, 0), mask=mask)
    tolerance = 1e-3 if name == "tv" else 1e-5
    found = reconstruct_volume(kept, mask_of(kept, None), method, 3)
    np.testing.assert_allclose(found, volume, atol=tolerance * volume.max())
    if name == "zero-filled" and len(shape) == 3:
        np.testing.assert_allclose(volume, zero_filled(scan.kspace, mask), atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 24, 20), (2, 3, 24, 20), (1, 2, 24, 24)])
def test_lines_along_the_height_are_the_transposed_scan(model: HVAE, shape: tuple[int, ...]) -> None:
    scan, lines = scan_of(shape), calibrated(24).numpy()
    turned = dataclasses.replace(scan, kspace=np.ascontiguousarray(scan.kspace.swapaxes(-2, -1)))
    for name in ("hybrid", "samples", "zero-filled", *(("sense", "pnp") if len(shape) == 4 else ())):
        method = make_method(name, model, SHORT, samples=2)
        volume = reconstruct_volume(scan, lines[:, None] & np.ones(shape[-1], dtype=bool), method)
        expected = reconstruct_volume(turned, lines, method).swapaxes(-2, -1)
        tolerance = 1e-5 if len(shape) == 3 else 1e-4  # maps are estimated in another order of sums
        np.testing.assert_allclose(volume, expected, atol=tolerance * volume.max())


# --- posterior samples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("pattern", ["lines", "bins"])
def test_samples_of_a_volume_by_hand(count: int, pattern: str, model: HVAE) -> None:
    scan, mask = scan_of(), every_third(20).numpy() if pattern == "lines" else bins_of()
    kspace = torch.from_numpy(np.where(mask, scan.kspace, 0))
    found = sample_volume(scan, mask, make_method("samples", model, SHORT, samples=count), seed=3)
    images = sample(model, kspace, torch.from_numpy(mask), count, None, DRAWS, 3).numpy()
    drawn = np.abs(images)
    assert found.samples.shape == (3, count, 24, 20) and found.magnitude.shape == found.std.shape == (3, 24, 20)
    assert {array.dtype for array in (found.magnitude, found.std, found.samples)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(found.samples, drawn.swapaxes(0, 1), atol=1e-5)
    np.testing.assert_allclose(found.magnitude, np.abs(images.mean(axis=0)), atol=1e-5)
    variance = ((drawn - drawn.mean(axis=0)) ** 2).sum(axis=0) / max(count - 1, 1)
    noise = missing_noise(kspace, torch.from_numpy(np.broadcast_to(mask, (24, 20)).copy()))
    assert noise > 0
    assert found.factor == (TYPICAL if count > 1 else 1.0)  # these scans have too few lines to say it themselves
    np.testing.assert_allclose(found.std**2, found.factor**2 * variance + noise**2, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("pattern", ["every third", "center"])
def test_noise_part_of_the_deviation(model: HVAE, pattern: str, axis: int) -> None:
    """Where samples agree, what is left is how much the noise of missing bins moves a bright pixel's magnitude."""
    bright = np.full((20, 64, 64), 5.0, np.complex64)
    lines = every_third(64).numpy() if pattern == "every third" else np.abs(np.arange(64) - 32) < 12
    lines = np.broadcast_to(lines if axis == -1 else lines[:, None], (64, 64)).copy()
    noise = np.float32(0.05) * complex_normal(bright.shape)
    scan = Scan("file1.h5", fft2c(torch.from_numpy(bright)).numpy() + noise)
    settings = InferenceSettings(views=1, temperature=0.0, refinement=RefinementSettings(sweeps=0))
    found = sample_volume(scan, lines, make_method("samples", model, settings, samples=2))
    missing = ifft2c(torch.from_numpy(np.where(lines, 0, noise))).numpy()
    assert float(found.std.std()) < 1e-5
    assert float(found.std.mean()) == pytest.approx(float(np.abs(bright + missing).std()), rel=0.1)


@pytest.mark.parametrize("shape", [(5, 24, 20), (3, 2, 24, 20)])
def test_samples_do_not_depend_on_the_batch_size(shape: tuple[int, ...], model: HVAE) -> None:
    scan, method = scan_of(shape), make_method("hybrid", model, SHORT, samples=2)
    whole = sample_volume(scan, bins_of(), method, batch_size=100)
    for size in (1, 3):
        found = sample_volume(scan, bins_of(), method, batch_size=size)
        for name in ("magnitude", "std", "samples"):
            expected = getattr(whole, name)
            np.testing.assert_allclose(getattr(found, name), expected, atol=1e-4 * expected.max(), rtol=0)


def test_seed_of_samples(model: HVAE) -> None:
    scan, lines, method = scan_of(), every_third(20).numpy(), make_method("samples", model, DRAWS, samples=2)
    first = sample_volume(scan, lines, method)
    assert np.array_equal(first.samples, sample_volume(scan, lines, method, seed=0).samples)
    assert not np.allclose(first.samples, sample_volume(scan, lines, method, seed=1).samples, atol=1e-4)


def test_spread_widens_the_deviation_of_samples_alone(model: HVAE) -> None:
    scan, lines = scan_of(), every_third(20).numpy()
    one, two = (
        sample_volume(scan, lines, make_method("samples", model, dataclasses.replace(DRAWS, spread=spread), samples=3))
        for spread in (1.0, 2.0)
    )
    assert np.array_equal(one.samples, two.samples) and one.noise == two.noise > 0
    np.testing.assert_allclose(two.std**2 - one.noise**2, 4 * (one.std**2 - one.noise**2), rtol=1e-3, atol=1e-7)


def test_scan_with_enough_lines_says_itself_how_wide(model: HVAE) -> None:
    scan, lines = scan_of((2, 24, 72)), every_third(72).numpy()
    method = make_method("samples", model, dataclasses.replace(DRAWS, spread=1.5), samples=3)
    found = sample_volume(scan, lines, method, seed=4)
    kspace, measured = torch.from_numpy(np.where(lines, scan.kspace, 0)), torch.from_numpy(lines)
    ratio = error_ratio(model, kspace, measured, measured, method.inference, 4)
    assert ratio != TYPICAL and found.factor == pytest.approx(1.5 * ratio, rel=1e-6)
    variance = found.factor**2 * found.samples.var(axis=1, ddof=1)
    np.testing.assert_allclose(found.std**2, variance + found.noise**2, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("output", ["rss", "combined"])
def test_samples_of_several_coils(model: HVAE, output: str) -> None:
    """They are of the combined image, delivered as a reconstruction is; the noise part is the coils' mean power."""
    scan, lines = scan_of((2, 3, 24, 20)), calibrated(20).numpy()
    scan.kspace[:, 1] += 0.05 * complex_normal((2, 24, 20))
    method = make_method("samples", model, DRAWS, samples=3, coils=CoilSettings(output=output))
    found = sample_volume(scan, lines, method, seed=2)
    kspace, measured = torch.from_numpy(np.where(lines, scan.kspace, 0)), torch.from_numpy(lines)
    maps = estimate_maps(kspace, measured, CoilSettings())
    images = draw(model, prepare(model, kspace, measured, maps), 3, DRAWS, 2)

    def delivered(image: torch.Tensor) -> np.ndarray:
        return (root_sum_of_squares(image, maps, kspace, measured) if output == "rss" else image.abs()).numpy()

    expected = np.stack([delivered(image) for image in images], axis=1)
    np.testing.assert_allclose(found.samples, expected, atol=1e-4 * expected.max())
    np.testing.assert_allclose(found.magnitude, delivered(images.mean(dim=0)), atol=1e-4 * expected.max())
    assert np.array_equal(reconstruct_volume(scan, lines, method), sample_volume(scan, lines, method).magnitude)
    powers = [missing_noise(kspace[:, c], measured.expand(24, 20)) ** 2 for c in range(3)]
    assert powers[1] > 2 * powers[0] and found.noise == pytest.approx(np.sqrt(np.mean(powers)), rel=1e-5)
    variance = found.factor**2 * found.samples.var(axis=1, ddof=1) + found.noise**2
    np.testing.assert_allclose(found.std**2, variance, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 24, 72), (2, 3, 72, 72), (1, 2, 40, 72)])
def test_coils_say_themselves_how_wide_along_either_axis(model: HVAE, shape: tuple[int, ...]) -> None:
    """Bins of all coils are held out and predicted through the maps; a turned scan says the same."""
    scan, lines = scan_of(shape), calibrated(72).numpy()
    scan.kspace[...] += 0.02 * complex_normal(shape)
    method = make_method("samples", model, DRAWS, samples=2, coils=CoilSettings(compress=0))
    found = sample_volume(scan, lines, method, seed=1)
    assert found.factor != TYPICAL and BOUNDS[0] < found.factor < BOUNDS[1]
    turned = dataclasses.replace(scan, kspace=np.ascontiguousarray(scan.kspace.swapaxes(-2, -1)))
    other = sample_volume(turned, lines[:, None] & np.ones(shape[-2], dtype=bool), method, seed=1)
    assert other.ratio == pytest.approx(found.ratio, rel=1e-3) and found.factor == found.ratio
    tolerance = 1e-3 * found.samples.max()
    np.testing.assert_allclose(other.samples, found.samples.swapaxes(-2, -1), atol=tolerance)
    np.testing.assert_allclose(other.std, found.std.swapaxes(-2, -1), atol=tolerance)

    kspace, measured = torch.from_numpy(np.where(lines, scan.kspace, 0)), torch.from_numpy(lines)
    maps = estimate_maps(kspace, measured, CoilSettings())

    def draws(shown: torch.Tensor, mask: torch.Tensor, number: int) -> torch.Tensor:
        images = draw(model, prepare(model, shown.view(kspace.shape), mask, maps), 4, DRAWS, number)
        return fft2c(maps * images[:, :, None]).flatten(1, 2)

    expected = held_out_ratio(draws, kspace.flatten(0, 1), measured, measured, 1)
    assert found.ratio == pytest.approx(expected, rel=1e-4)


def test_samples_are_cropped_as_the_volume_is(model: HVAE) -> None:
    scan, lines, method = scan_of(), every_third(20).numpy(), make_method("samples", model, DRAWS, samples=2)
    whole = sample_volume(scan, lines, method)
    cropped = sample_volume(dataclasses.replace(scan, matrix=(24, 10)), lines, method)
    assert cropped.samples.shape == (3, 2, 24, 10) and cropped.magnitude.shape == cropped.std.shape == (3, 24, 10)
    for name in ("magnitude", "std", "samples"):
        assert np.array_equal(getattr(cropped, name), getattr(whole, name)[..., 5:15])
    fewer = sample_volume(dataclasses.replace(scan, matrix=(12, 10)), lines, method)  # without readout oversampling
    assert fewer.samples.shape == (3, 2, 12, 10) and fewer.noise == pytest.approx(whole.noise)


def test_samples_tell_their_progress(model: HVAE) -> None:
    told: list[int] = []
    method = make_method("samples", model, DRAWS, samples=2)
    sample_volume(scan_of((3, 2, 24, 20)), every_third(20).numpy(), method, batch_size=4, progress=told.append)
    assert told == [2, 1]
    told.clear()
    reconstruct_volume(scan_of(), every_third(20).numpy(), method, 2, told.append)
    assert told == [2, 1]


def test_what_each_method_draws(model: HVAE) -> None:
    """Samples are drawn without sweeps, unless they are asked for; the volume of "samples" is their mean."""
    scan, lines = scan_of(), every_third(20).numpy()
    kspace = torch.from_numpy(np.where(lines, scan.kspace, 0))
    settings = InferenceSettings(views=2, rounds=3, refinement=RefinementSettings(sweeps=2))
    for name, sweeps, expected in (
        ("samples", 0, with_settings(settings, sweeps=0)),
        ("hybrid", 0, with_settings(settings, sweeps=0)),
        ("hybrid", 2, settings),
        ("amortized", 0, with_settings(settings, views=1, rounds=1, sweeps=0)),
    ):
        method = make_method(name, model, settings, samples=2, sample_sweeps=sweeps)
        drawn = sample(model, kspace, torch.from_numpy(lines), 2, None, expected).abs().numpy()
        found = sample_volume(scan, lines, method)
        np.testing.assert_allclose(found.samples, drawn.swapaxes(0, 1), atol=1e-5, err_msg=name)
    method = make_method("samples", model, settings, samples=2)
    assert np.array_equal(reconstruct_volume(scan, lines, method), sample_volume(scan, lines, method).magnitude)


def test_methods_that_draw_no_samples(model: HVAE) -> None:
    scan, lines = scan_of(), every_third(20).numpy()
    with pytest.raises(
        InputError, match="method 'tv' does not support posterior sampling; choose one of hybrid, amortized, samples"
    ):
        sample_volume(scan, lines, make_method("tv"))
    with pytest.raises(InputError, match="0 samples: draw at least 1"):
        sample_volume(scan, lines, make_method("samples", model, samples=0))
