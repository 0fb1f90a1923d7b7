"""Coil compression: energy, uncorrelated virtual coils, phases, masks, noise that stays white, refusals."""

from __future__ import annotations

import pytest
import torch

from mrihvae.coils.compression import compression_matrix, kept_energy, mix_coils
from mrihvae.coils.prewhitening import whitening_matrix
from mrihvae.errors import InputError
from mrihvae.physics.fourier import ifft2c
from tests.support.coil_noise import COILS, covariance_of, error, mixing, phantom_kspace, white


def test_compression_keeps_the_energy_of_a_birdcage() -> None:
    kspace = torch.stack([phantom_kspace(64, 64), 0.5 * phantom_kspace(64, 64).flip(-2)])
    kept = [kept_energy(kspace, compression_matrix(kspace, coils)) for coils in range(1, COILS + 1)]
    assert kept == sorted(kept)
    assert kept[3] > 0.95 and kept[5] > 0.995 and kept[7] == pytest.approx(1, abs=1e-6)
    singular = torch.linalg.svdvals(kspace.movedim(1, 0).flatten(1).to(torch.complex128)) ** 2
    assert kept == pytest.approx((singular.cumsum(0) / singular.sum()).tolist(), rel=1e-5)


def test_virtual_coils_are_uncorrelated_and_the_first_is_the_strongest() -> None:
    kspace = phantom_kspace(64, 48)
    matrix = compression_matrix(kspace, 5)
    torch.testing.assert_close(matrix @ matrix.mH, torch.eye(5) + 0j, rtol=0, atol=1e-5)
    virtual = mix_coils(kspace, matrix).flatten(1)
    gram = virtual @ virtual.mH
    energy = gram.diagonal().real
    assert torch.equal(energy, energy.sort(descending=True).values)
    torch.testing.assert_close(gram, torch.diag(energy) + 0j, rtol=0, atol=1e-5 * float(energy[0]))
    largest = matrix.gather(1, matrix.abs().argmax(dim=1, keepdim=True))
    assert bool((largest.real > 0.99 * largest.abs()).all())  # of entries that are alike, the first one is real


def test_compression_has_phases_of_its_own() -> None:
    """A common phase and scale of the data changes nothing; noise of rounding hardly."""
    kspace = mix_coils(phantom_kspace(64, 64), mixing())  # without a birdcage's symmetry, whose pairs may turn
    matrix = compression_matrix(kspace, 4)
    torch.testing.assert_close(compression_matrix(1e-5j * kspace, 4), matrix, rtol=0, atol=1e-4)
    torch.testing.assert_close(compression_matrix(kspace + 1e-5 * white(COILS, 64, 64), 4), matrix, rtol=0, atol=1e-3)


def test_compression_to_as_many_coils_or_more_is_unitary_and_leaves_root_sum_of_squares() -> None:
    kspace = white(2, COILS, 32, 24) + 10 * phantom_kspace(32, 24)
    matrix = compression_matrix(kspace, 12)
    assert matrix.shape == (COILS, COILS)
    torch.testing.assert_close(matrix.mH @ matrix, torch.eye(COILS) + 0j, rtol=0, atol=1e-6)
    before, after = (ifft2c(k).abs().square().sum(dim=1).sqrt() for k in (kspace, mix_coils(kspace, matrix)))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=0)
    assert error(mix_coils(mix_coils(kspace, matrix), matrix.mH), kspace) < 1e-6


def test_compression_looks_at_the_bins_of_a_mask() -> None:
    kspace = white(3, COILS, 20, 16)
    center = (torch.arange(16) - 8).abs() < 3
    matrix = compression_matrix(kspace, 4, center)
    assert torch.equal(matrix, compression_matrix(kspace * center, 4))
    assert kept_energy(kspace[..., center], matrix) > kept_energy(kspace[..., center], compression_matrix(kspace, 4))


def test_compression_after_whitening_leaves_noise_white() -> None:
    covariance = covariance_of(mixing())
    matrix = whitening_matrix(covariance, unit=True)
    matrix = compression_matrix(mix_coils(phantom_kspace(64, 64), matrix), 5) @ matrix
    torch.testing.assert_close(matrix @ covariance @ matrix.mH, torch.eye(5) + 0j, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 3, 5, 7), (2, 2, 3, 5, 7)])
def test_coils_are_mixed_as_einsum_does(shape: tuple[int, ...]) -> None:
    kspace, matrix = white(*shape), white(2, 3, seed=1)
    kspace[..., 4] = 0
    mixed = mix_coils(kspace, matrix)
    torch.testing.assert_close(mixed, torch.einsum("nc,...chw->...nhw", matrix, kspace))
    assert torch.equal(mixed[..., 4], torch.zeros_like(mixed[..., 4]))
    assert mix_coils(kspace, matrix.to(torch.complex128)).dtype == torch.complex64


def test_bad_compression() -> None:
    kspace = white(4, 8, 8)
    with pytest.raises(InputError, match="coils 0 must be at least 1"):
        compression_matrix(kspace, 0)
    with pytest.raises(InputError, match=r"must be \(\.\.\., coils, H, W\)"):
        compression_matrix(kspace[0], 2)
    with pytest.raises(InputError, match="holds NaN"):
        compression_matrix(kspace * torch.nan, 2)
    with pytest.raises(InputError, match="zero in all acquired samples"):
        compression_matrix(kspace, 2, torch.zeros(8, dtype=torch.bool))
    with pytest.raises(InputError, match=r"shape \(2, 3\), not \(new, 4\)"):
        kept_energy(kspace, white(2, 3))
    for data, matrix in ((kspace, white(2, 3)), (kspace, white(4)), (kspace[0], white(8, 8))):
        with pytest.raises(InputError, match=r"they must be \(new, coils\) and \(\.\.\., coils, H, W\)"):
            mix_coils(data, matrix)
