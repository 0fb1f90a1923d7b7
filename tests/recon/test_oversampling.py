"""Readout oversampling: what is cropped, what stays, noise, and equality of images inside."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from mrihvae.coils.settings import CoilSettings
from mrihvae.data.scan import Scan
from mrihvae.inference.settings import InferenceSettings, RefinementSettings
from mrihvae.physics.fourier import center_crop, center_pad, fft2c, ifft2c
from mrihvae.physics.noise import background_noise
from mrihvae.recon.catalog import make_method
from mrihvae.recon.oversampling import kept_rows, remove_oversampling, restore_rows
from mrihvae.recon.sliced_scan import SlicedScan
from mrihvae.recon.volumes import reconstruct_volume, sample_volume
from mrihvae.reconstructor import Reconstructor
from tests.support.files import complex_normal
from tests.support.small import small_model
from tests.support.small_coils import calibrated, coil_scans, some_bins

SHORT = InferenceSettings(views=1, rounds=1, precision="float32", refinement=RefinementSettings(sweeps=0))
LINES = np.asarray(calibrated(40, 12).numpy())


def oversampled(coils: int = 3, slices: int = 2, height: int = 96, noise: float = 0.01) -> Scan:
    """Make a scan whose object fills the central half of the readout, with noise in all of it."""
    images = ifft2c(coil_scans(slices, coils, height // 2, 40, 0.0)[0])
    kspace = fft2c(center_pad(images, (height, 40))).numpy() + noise * complex_normal((slices, coils, height, 40), 3)
    shown = kspace.astype(np.complex64)
    return Scan("file1.h5", shown if coils > 1 else shown[:, 0], matrix=(height // 2, 40))


@pytest.mark.parametrize(("height", "rows"), [(96, 48), (97, 48), (96, 47), (65, 33), (20, 20)])
def test_the_image_inside_stays(height: int, rows: int) -> None:
    kspace = torch.from_numpy(complex_normal((2, 3, height, 40)) * LINES)
    found = remove_oversampling(kspace, rows)
    assert found.shape == (2, 3, rows, 40) and found.dtype == torch.complex64
    torch.testing.assert_close(ifft2c(found), center_crop(ifft2c(kspace), (rows, 40)), rtol=0, atol=1e-5)
    assert not found[..., ~LINES].any()
    assert (rows == height) == (found is kspace)


def test_white_noise_keeps_its_deviation() -> None:
    kspace = torch.from_numpy(complex_normal((1, 4, 512, 64)))
    assert float(remove_oversampling(kspace, 256).abs().square().mean()) == pytest.approx(1, rel=0.03)
    assert not remove_oversampling(torch.zeros(1, 8, 6, dtype=torch.complex64), 4).any()


def test_which_rows_are_kept() -> None:
    bins = np.asarray(some_bins(96, 40).numpy())
    assert kept_rows(96, 48, (48, 40), LINES) == 48
    assert kept_rows(96, 60, (48, 40), LINES) == 60  # what is delivered is kept
    assert kept_rows(96, 48, (48, 40), np.broadcast_to(LINES, (96, 40))) == 48
    assert kept_rows(96, 96, None, LINES) == kept_rows(96, 48, (120, 40), LINES) == 96
    assert kept_rows(96, 48, (48, 40), bins) == 96  # rows alias
    assert kept_rows(96, 48, (48, 40), np.broadcast_to((np.arange(96) % 3 == 0)[:, None], (96, 40))) == 96


def test_rows_are_put_back() -> None:
    image, inside = torch.arange(10.0)[:, None].expand(10, 3), torch.full((4, 3), -1.0)
    found = restore_rows(inside, image)
    assert found[:, 0].tolist() == [0, 1, 2, -1, -1, -1, -1, 7, 8, 9]
    assert torch.equal(center_crop(found, (4, 3)), inside) and image[4, 0] == 4


@pytest.mark.parametrize("method", ["zero-filled", "sense", "hybrid"])
@pytest.mark.parametrize("coils", [1, 3])
def test_volumes_are_those_of_the_smaller_scan(method: str, coils: int) -> None:
    """Delivered images are those of a scan without oversampling, but for noise, which is that of the whole readout."""
    scan = oversampled(coils)
    model = small_model() if method == "hybrid" else None
    chosen = make_method(method, model, SHORT, coils=CoilSettings(compress=0))
    whole = torch.from_numpy(np.where(LINES, scan.kspace, 0))
    smaller = dataclasses.replace(scan, kspace=remove_oversampling(whole, 48).numpy(), matrix=None)
    found, expected = reconstruct_volume(scan, LINES, chosen), reconstruct_volume(smaller, LINES, chosen)
    assert found.shape == expected.shape == (2, 48, 40)
    tolerance = 0.05 if method == "hybrid" else 1e-4
    assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)
    if method == "zero-filled":  # what a scan of its whole readout gives, cropped
        uncropped = reconstruct_volume(dataclasses.replace(scan, matrix=None), LINES, chosen)
        np.testing.assert_allclose(found, uncropped[:, 24:72], atol=1e-5 * found.max())


def test_noise_is_that_of_the_whole_readout() -> None:
    """Rows beside the object are gone after the crop: what is left would call signal noise."""
    scan = oversampled(4)
    kept = torch.from_numpy(np.where(LINES, scan.kspace, 0))
    volume = SlicedScan(scan, LINES, CoilSettings(compress=0))
    batch = volume.batch(0, 2)
    assert batch.kspace.shape == (2, 4, 48, 40) and volume.rows == 48
    assert torch.equal(batch.noise, background_noise(kept))
    assert batch.noise.numpy() == pytest.approx(0.01, rel=0.15)
    samples = sample_volume(scan, LINES, make_method("samples", small_model(), SHORT, samples=2))
    plain = sample_volume(
        dataclasses.replace(scan, matrix=None), LINES, make_method("samples", small_model(), SHORT, 2)
    )
    assert samples.noise == pytest.approx(plain.noise, rel=1e-6)
    assert samples.std.shape == (2, 48, 40)


@pytest.mark.parametrize("kind", ["bins", "partial", "calibration"])
def test_what_keeps_its_rows(kind: str) -> None:
    scan, mask = oversampled(), LINES
    if kind == "bins":
        mask = np.asarray(some_bins(96, 40, 12).numpy())
    elif kind == "partial":  # an asymmetric echo
        scan.kspace[:, :, :20] = 0
    else:
        from mrihvae.data.calibration import Calibration

        scan = dataclasses.replace(scan, calibration=[Calibration(one, LINES) for one in np.asarray(scan.kspace)])
    assert SlicedScan(scan, mask, CoilSettings()).rows == 96
    assert reconstruct_volume(scan, mask, make_method("zero-filled")).shape == (2, 48, 40)


def test_maps_of_the_file_are_cropped() -> None:
    maps = complex_normal((1, 3, 96, 40))
    volume = SlicedScan(dataclasses.replace(oversampled(), maps=maps), LINES, CoilSettings(compress=0))
    found, expected = volume.batch(0, 1).maps[0], torch.from_numpy(maps[0, :, 24:72])
    torch.testing.assert_close(found, expected / expected.abs().square().sum(dim=0).sqrt(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("coils", [1, 3])
def test_the_module_gives_the_full_size(coils: int) -> None:
    """Inside it is what a volume gives; outer rows are zero-filled, of noise alone here."""
    scan = oversampled(coils)
    model = small_model()
    module = Reconstructor(make_method("hybrid", model), matrix=(48, 40))
    kspace = torch.from_numpy(np.where(LINES, scan.kspace, 0)).reshape(2, coils, 96, 40)
    mask = torch.from_numpy(LINES).view(1, 1, 1, 40, 1).expand(2, -1, -1, -1, -1)
    found = module(torch.view_as_real(kspace), mask)
    assert found.shape == (2, 96, 40)
    expected = reconstruct_volume(scan, LINES, module.method)
    np.testing.assert_allclose(found[:, 24:72].numpy(), expected, atol=1e-3 * expected.max())
    outside: Tensor = ifft2c(kspace).abs().square().sum(dim=1).sqrt()
    torch.testing.assert_close(found[:, :24], outside[:, :24])
    kspace[:, :, :10] = 0  # no full readout: as without a matrix
    plain = Reconstructor(make_method("hybrid", model))(torch.view_as_real(kspace), mask)
    torch.testing.assert_close(module(torch.view_as_real(kspace), mask), plain)
