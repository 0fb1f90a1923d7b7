"""Multi-coil scans made ready: maps of the file and estimated ones, whitening, compression, what is delivered."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mrihvae.coils.combine import root_sum_of_squares
from mrihvae.coils.compression import compression_matrix, mix_coils
from mrihvae.coils.maps import estimate_maps
from mrihvae.coils.prewhitening import corner_covariance, noise_covariance, whitening_matrix
from mrihvae.coils.settings import CoilSettings
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.noise import noise_std
from mrihvae.recon import sliced_scan
from mrihvae.recon.sliced_scan import SlicedScan
from tests.support.files import complex_normal
from tests.support.small_coils import calibrated, coil_scans, distance, some_bins

LINES = calibrated(40, 12)
USUAL = CoilSettings()
WHITE = CoilSettings(whiten=True, compress=0)
AS_THEY_ARE = CoilSettings(compress=0)


def scan_of(slices: int = 3, coils: int = 4, noise: float = 0.005, **changes: Any) -> Scan:
    kspace = coil_scans(slices, coils, 48, 40, noise)[0].numpy()
    return dataclasses.replace(Scan("file1.h5", kspace), **changes)


def volume_of(scan: Scan, settings: CoilSettings = USUAL, lines: Tensor = LINES) -> Any:
    return SlicedScan(scan, lines.numpy(), settings)


def colored(coils: int = 4, samples: int = 4096, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Make a matrix that mixes noise over coils, and a noise scan of it."""
    mixing = np.eye(coils) * np.linspace(0.5, 3, coils) + 0.3 * complex_normal((coils, coils), seed)
    return mixing, (mixing @ complex_normal((coils, samples), seed + 1)).astype(np.complex64)


def rss(kspace: Tensor) -> Tensor:
    return ifft2c(kspace).abs().square().sum(dim=1).sqrt()


@pytest.mark.parametrize("lines", [LINES, some_bins(48, 40, 12), calibrated(48, 12)[:, None].expand(48, 40)])
def test_batches_are_the_scan_slice_by_slice(lines: Tensor) -> None:
    scan = scan_of()
    kept = torch.where(lines, torch.from_numpy(scan.kspace), 0)
    expected = estimate_maps(kept, lines, USUAL)
    for size, firsts in ((1, [0, 1, 2]), (4, [0, 1, 2]), (8, [0, 2]), (100, [0])):
        batches = list(volume_of(scan, lines=lines).batches(size))  # coil images together
        assert [one.first for one in batches] == firsts
        assert torch.equal(torch.cat([one.kspace for one in batches]), kept)
        torch.testing.assert_close(torch.cat([one.maps for one in batches]), expected, rtol=0, atol=1e-6)
    assert len(volume_of(scan)) == 3 and volume_of(scan).mixing is None


def test_maps_are_estimated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counting(kspace: Tensor, mask: Tensor, settings: CoilSettings, known: Tensor) -> Tensor:
        asked.append(len(kspace))
        return estimate_maps(kspace, mask, settings, known)

    monkeypatch.setattr(sliced_scan, "estimate_maps", counting)
    volume = volume_of(scan_of())
    first = volume.batch(0, 3).maps
    assert torch.equal(volume.batch(1, 3).maps, first[1:]) and asked == [1, 1, 1]
    monkeypatch.setattr(sliced_scan, "KEPT", 2 * first[0].nbytes)  # room for two slices
    small = volume_of(scan_of())
    assert torch.equal(small.batch(0, 3).maps, first) and asked == [1] * 6
    assert torch.equal(small.batch(1, 3).maps, first[1:]) and asked == [1] * 6
    assert torch.equal(small.batch(0, 1).maps, first[:1]) and asked == [1] * 7
    assert len(small._maps) == 2


def test_maps_of_the_file() -> None:
    """Are taken as they are, scaled to length 1; those of one slice are those of all."""
    scan, own = scan_of(), coil_scans(3, 4, 48, 40)[1].numpy()
    for maps in (own[None], np.stack([own, own[::-1], own * 2j])):
        volume = volume_of(dataclasses.replace(scan, maps=(3 * maps).astype(np.complex128)))
        found = torch.cat([one.maps for one in volume.batches(8)])
        expected = torch.from_numpy(maps).expand(3, -1, -1, -1)
        expected = expected / expected.abs().square().sum(dim=1, keepdim=True).sqrt()
        assert found.dtype == torch.complex64
        torch.testing.assert_close(found, expected.to(torch.complex64), rtol=0, atol=1e-5)
    own[:, :5] = 0  # where they are 0 they stay so
    maps = volume_of(dataclasses.replace(scan, maps=own[None])).batch(0, 1).maps
    assert not maps[..., :5, :].any() and bool(torch.isfinite(torch.view_as_real(maps)).all())


@pytest.mark.parametrize("shape", [(1, 3, 48, 40), (1, 4, 40, 48), (2, 4, 48, 40), (4, 48, 40)])
def test_maps_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        volume_of(scan_of(maps=complex_normal(shape)))
    assert str(caught.value) == (
        f"file1.h5: sensitivity maps of shape {shape} do not fit k-space of (3, 4, 48, 40); give (slices or 1, coils, "
        "H, W)"
    )


def test_one_coil_has_no_maps() -> None:
    scan = dataclasses.replace(scan_of(), kspace=scan_of().kspace[:, 0])
    batch = volume_of(scan).batch(1, 3)
    kept = torch.where(LINES, torch.from_numpy(scan.kspace[1:3]), 0)
    assert batch.maps is None and batch.mixing == [None, None] and batch.first == 1
    assert torch.equal(batch.kspace, kept) and torch.equal(batch.original, kept[:, None])
    assert torch.equal(batch.noise, noise_std(kept))
    assert torch.equal(volume_of(scan).magnitude(kept, batch), kept.abs())


def test_what_is_refused() -> None:
    for lines, told in ((torch.arange(40) == 20, "48 x 1"), (torch.arange(40) == 3, "0 x 0")):
        with pytest.raises(
            InputError,
            match=f"file1.h5, slice 1: the fully acquired region around the center of k-space is only {told}",
        ):
            volume_of(scan_of(), lines=lines).batch(1, 2)
    hollow = scan_of()
    hollow.kspace[2, ..., 10:38, 10:30] = 0  # but for bins far out
    volume = volume_of(hollow)
    volume.batch(0, 2)
    with pytest.raises(InputError, match="file1.h5, slice 2: all coils are zero at the center of k-space"):
        volume.batch(2, 3)
    silent = scan_of(noise=0.1)
    silent.kspace[:, 1] = 0
    with pytest.raises(InputError, match=r"file1.h5: noise covariance: coil 1, counted from 0, has no noise at all"):
        volume_of(silent, WHITE).batch(0, 1)
    twice = colored()[1]
    twice[2] = twice[0]
    with pytest.raises(InputError, match="file1.h5: noise covariance: coil 2, counted from 0, is a linear combination"):
        volume_of(scan_of(noise_scan=twice), WHITE).batch(0, 1)


def test_a_silent_coil_changes_nothing() -> None:
    scan = scan_of()
    with_silent = dataclasses.replace(scan, kspace=np.insert(scan.kspace, 2, 0, axis=1))
    without, volume = (volume_of(one, AS_THEY_ARE).batch(0, 3) for one in (scan, with_silent))
    assert float(volume.maps[:, 2].abs().max()) < 1e-3
    others = torch.tensor([0, 1, 3, 4])
    where = rss(without.kspace) > 0.1
    torch.testing.assert_close(
        (volume.maps[:, others] * where[:, None]), without.maps * where[:, None], rtol=0, atol=0.01
    )


# --- whitening and compression ---------------------------------------------------------------------------------------


def test_whitening_by_the_noise_scan_or_by_corners() -> None:
    mixing, noise = colored()
    kspace = coil_scans(3, 4, 48, 40, 0.0)[0].numpy() + 0.3 * (
        mixing @ complex_normal((3, 4, 48 * 40), 5).reshape(3, 4, -1)
    ).reshape(3, 4, 48, 40)
    scan = Scan("file1.h5", kspace.astype(np.complex64), noise_scan=noise)
    expected = whitening_matrix(noise_covariance(torch.from_numpy(noise)))
    volume = volume_of(scan, WHITE)
    torch.testing.assert_close(volume.mixing, expected)
    batch = volume.batch(0, 3)
    torch.testing.assert_close(batch.kspace, mix_coils(torch.where(LINES, torch.from_numpy(scan.kspace), 0), expected))
    covariance = noise_covariance(mix_coils(torch.from_numpy(noise)[..., None], expected)[..., 0])
    off = covariance - torch.diag(covariance.diagonal())
    assert float(off.abs().max() / covariance.diagonal().real.mean()) < 1e-3
    of_itself = volume_of(dataclasses.replace(scan, noise_scan=None), WHITE)
    corners = whitening_matrix(corner_covariance(torch.from_numpy(scan.kspace), LINES))
    torch.testing.assert_close(of_itself.mixing, corners)
    assert float((of_itself.mixing - expected).norm() / expected.norm()) < 0.3


def test_compression_keeps_the_strongest() -> None:
    scan = scan_of(coils=6)
    kept = torch.where(LINES, torch.from_numpy(scan.kspace), 0)
    volume = volume_of(scan, CoilSettings(compress=3))
    expected = compression_matrix(torch.from_numpy(scan.kspace), 3, LINES)
    torch.testing.assert_close(volume.mixing, expected)
    batch = volume.batch(0, 3)
    assert batch.kspace.shape == batch.maps.shape == (3, 3, 48, 40)
    torch.testing.assert_close(batch.kspace, mix_coils(kept, expected))
    assert float(batch.kspace.norm() / kept.norm()) > 0.95
    for compress in (0, 6, 20):  # as many as there are, or more: left as they are
        assert volume_of(scan, CoilSettings(compress=compress)).mixing is None


def test_whitening_and_compression_together() -> None:
    scan = scan_of(coils=6, noise_scan=colored(6)[1])
    volume = volume_of(scan, CoilSettings(whiten=True, compress=3))
    white = whitening_matrix(noise_covariance(torch.from_numpy(scan.noise_scan)))
    rows = compression_matrix(mix_coils(torch.from_numpy(scan.kspace), white), 3, LINES)
    torch.testing.assert_close(volume.mixing, rows @ white)
    noise = mix_coils(torch.from_numpy(scan.noise_scan)[..., None], volume.mixing)[..., 0]
    covariance = noise_covariance(noise)
    expected = torch.eye(3) * covariance.diagonal().real.mean()
    torch.testing.assert_close(covariance, expected.to(covariance), rtol=0, atol=1e-3 * float(expected.max()))


@pytest.mark.parametrize("changes", [{}, {"whiten": True}, {"compress": 3}, {"whiten": True, "compress": 3}])
def test_own_maps_follow_the_coils(changes: dict[str, Any]) -> None:
    """Virtual coils are those of the mixed maps: with all of k-space the true image explains them."""
    kspace, maps, images = coil_scans(2, 4, 48, 40, 0.0)
    scan = Scan("file1.h5", kspace.numpy(), maps=maps[None].numpy(), noise_scan=colored()[1])
    every = torch.ones(40, dtype=torch.bool)
    volume = volume_of(scan, CoilSettings(**changes), every)
    batch = volume.batch(0, 2)
    torch.testing.assert_close(batch.maps.abs().square().sum(dim=1), torch.ones(2, 48, 40), rtol=0, atol=1e-5)
    combined = (batch.maps.conj() * ifft2c(batch.kspace)).sum(dim=1)
    back = fft2c(batch.maps * combined[:, None])
    assert distance(back, batch.kspace) < (1e-9 if not changes.get("compress") else 1e-3)
    shown = volume.magnitude(combined, batch)
    torch.testing.assert_close(shown, images.abs(), rtol=0, atol=1e-4)  # in the coils' own scale


# --- what is delivered -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"whiten": True}, {"compress": 3}, {"whiten": True, "compress": 3}])
def test_rss_is_of_the_original_coils(changes: dict[str, Any]) -> None:
    """In their scale, with their own measured k-space: where all of it was, the image says nothing."""
    scan = scan_of(noise_scan=colored()[1])
    kspace = torch.from_numpy(scan.kspace)
    every = torch.ones(40, dtype=torch.bool)
    volume = volume_of(scan, CoilSettings(**changes), every)
    batch = volume.batch(1, 3)
    torch.testing.assert_close(volume.magnitude(7 * batch.kspace[:, 0], batch), rss(kspace[1:3]), rtol=0, atol=1e-5)
    undersampled = volume_of(scan, CoilSettings(**changes))
    batch = undersampled.batch(1, 3)
    solved = (batch.maps.conj() * ifft2c(mixed(undersampled, kspace[1:3]))).sum(dim=1)  # of the complete scan
    found = undersampled.magnitude(solved, batch)
    assert distance(found, rss(kspace[1:3])) < 3e-3
    halved = undersampled.magnitude(0.5 * solved, batch)  # measured bins stay
    assert distance(halved, rss(torch.where(LINES, kspace[1:3], 0.5 * kspace[1:3]))) < 3e-3


def mixed(volume: SlicedScan, kspace: Tensor) -> Tensor:
    return kspace if volume.mixing is None else mix_coils(kspace, volume.mixing)


def test_delivered_by_hand() -> None:
    volume = volume_of(scan_of())
    batch = volume.batch(0, 2)
    image = ifft2c(batch.kspace[:, 0])
    expected = root_sum_of_squares(image, batch.maps, batch.kspace, LINES)
    torch.testing.assert_close(volume.magnitude(image, batch), expected)
    combined = volume_of(scan_of(), CoilSettings(output="combined"))
    torch.testing.assert_close(combined.magnitude(image, batch), image.abs())


def test_lines_that_were_not_encoded_stay_empty() -> None:
    """They are known to be 0, as in the target, whatever maps make of the image."""
    scan = scan_of()
    scan.kspace[..., :3] = scan.kspace[..., 37:] = 0
    known = LINES.clone()
    known[:3] = known[37:] = True
    measured = LINES.clone()
    measured[:3] = measured[37:] = False
    volume = volume_of(dataclasses.replace(scan, padding=(3, 37)), USUAL, measured)
    assert torch.equal(volume.known, known)
    batch = volume.batch(0, 3)
    kspace = torch.from_numpy(scan.kspace)
    image = (batch.maps.conj() * ifft2c(kspace)).sum(dim=1)
    found = volume.magnitude(image, batch)
    completed = torch.where(known, kspace, fft2c(batch.maps * image[:, None]))
    torch.testing.assert_close(found, rss(completed), rtol=0, atol=1e-6)
    without = root_sum_of_squares(image, batch.maps, kspace, measured)
    assert distance(found, rss(kspace)) < distance(without, rss(kspace))


@pytest.mark.parametrize("changes", [{}, {"whiten": True}, {"compress": 3}])
@pytest.mark.parametrize("factor", [2.0, 1e-8, 1e4])
def test_scale(changes: dict[str, Any], factor: float) -> None:
    scan = scan_of(noise_scan=colored()[1])
    other = dataclasses.replace(scan, kspace=(factor * scan.kspace).astype(np.complex64))
    shown = []
    for one in (scan, other):
        volume = volume_of(one, CoilSettings(**changes))
        batch = volume.batch(0, 2)
        image = (batch.maps.conj() * ifft2c(batch.kspace)).sum(dim=1)
        shown.append(volume.magnitude(image, batch))
    torch.testing.assert_close(shown[1] / factor, shown[0], rtol=0, atol=1e-5 * float(shown[0].max()))
