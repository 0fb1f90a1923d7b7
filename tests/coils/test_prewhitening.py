"""Whitening, the noise found at the corners of k-space, equality with sigpy, refusals."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mrihvae.coils.compression import compression_matrix, mix_coils
from mrihvae.coils.prewhitening import corner_covariance, noise_covariance, whitening_matrix
from mrihvae.errors import InputError
from mrihvae.io.fastmri import read_noise_scan
from mrihvae.physics.fastmri_masks import sampling_mask
from mrihvae.physics.noise import noise_std
from tests.support.coil_noise import COILS, covariance_of, error, mixing, phantom_kspace, white
from tests.support.files import complex_normal, write_h5


def colored(*shape: int, seed: int = 0) -> torch.Tensor:
    """Draw noise of `covariance_of(mixing())`: (..., coils, H, W)."""
    return mix_coils(white(*shape, seed=seed), mixing(shape[-3]))


def correlations(covariance: torch.Tensor) -> torch.Tensor:
    std = covariance.diagonal().real.sqrt()
    return (covariance / std[:, None] / std).abs() - torch.eye(len(std))


def mprage(data_dir: Path) -> torch.Tensor:
    with h5py.File(data_dir / "multicoil" / "usc_mprage.h5") as file:
        return torch.from_numpy(file["kspace"][()])


@pytest.mark.parametrize("power", [1e-12, 1.0, 1e6])
def test_whitening_leaves_one_power_for_all_coils(power: float) -> None:
    covariance = power * covariance_of(mixing())
    whitened = [w @ covariance @ w.mH for w in (whitening_matrix(covariance), whitening_matrix(covariance, unit=True))]
    torch.testing.assert_close(whitened[0] / power, torch.eye(COILS) + 0j, rtol=0, atol=1e-5)
    torch.testing.assert_close(whitened[1], torch.eye(COILS) + 0j, rtol=0, atol=1e-5)


def test_whitening_keeps_the_scale_of_data() -> None:
    """Noise that is white already is left as it is, and it makes no difference how loud the noise scan was."""
    torch.testing.assert_close(whitening_matrix(0.3 * torch.eye(COILS)), torch.eye(COILS) + 0j)
    matrix = whitening_matrix(covariance_of(mixing()))
    torch.testing.assert_close(whitening_matrix(77 * covariance_of(mixing())), matrix)
    assert torch.equal(matrix, matrix.tril())
    whitened = noise_covariance(mix_coils(colored(COILS, 300, 200), matrix))
    assert float(whitened.diagonal().real.mean()) == pytest.approx(1, rel=0.02)


def test_noise_scan_is_whitened_by_its_own_covariance() -> None:
    noise = 3e-5 * colored(COILS, 100, 200)
    covariance = noise_covariance(noise)
    assert error(covariance / 3e-5**2, covariance_of(mixing())) < 0.02
    whitened = noise_covariance(mix_coils(noise, whitening_matrix(covariance, unit=True)))
    torch.testing.assert_close(whitened, torch.eye(COILS) + 0j, rtol=0, atol=1e-5)
    torch.testing.assert_close(noise_covariance(noise.flatten(1)), covariance)


def test_another_scan_is_whitened_by_a_large_noise_scan() -> None:
    matrix = whitening_matrix(noise_covariance(colored(COILS, 1000, 500, seed=2)), unit=True)
    whitened = matrix @ covariance_of(mixing()) @ matrix.mH
    torch.testing.assert_close(whitened, torch.eye(COILS) + 0j, rtol=0, atol=0.007)  # 5 / sqrt(samples)


def test_equals_sigpy() -> None:
    from sigpy.mri import get_cov, whiten

    noise = colored(COILS, 40, 50)
    noise = noise - noise.mean(dim=(-2, -1), keepdim=True)  # which sigpy removes, and it sums over samples
    covariance = noise_covariance(noise)
    torch.testing.assert_close(torch.from_numpy(get_cov(noise.numpy().copy())) / 2000, covariance, rtol=1e-4, atol=1e-5)
    kspace = white(COILS, 24, 20, seed=3)
    theirs = torch.from_numpy(whiten(kspace.numpy(), covariance.numpy()))
    torch.testing.assert_close(mix_coils(kspace, whitening_matrix(covariance, unit=True)), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("std", [1e-6, 1.0, 300.0])
def test_corners_of_white_noise_agree_with_its_deviation(std: float) -> None:
    kspace = std * white(6, 4, 128, 120)
    covariance = corner_covariance(kspace)
    found = covariance.diagonal().real.sqrt()
    assert found.tolist() == pytest.approx([std] * 4, rel=0.05)
    assert found.tolist() == pytest.approx(noise_std(kspace).square().mean(dim=0).sqrt().tolist(), rel=0.05)
    assert float(correlations(covariance).max()) < 0.08


def test_corners_of_one_coil() -> None:
    assert float(corner_covariance(2.5 * white(3, 1, 128, 128)).real) == pytest.approx(6.25, rel=0.08)


def test_corners_of_noise() -> None:
    covariance = corner_covariance(colored(8, COILS, 256, 128))
    assert covariance.dtype == torch.complex64
    assert error(covariance, covariance_of(mixing())) < 0.06
    matrix = whitening_matrix(covariance)
    left = correlations(matrix @ covariance_of(mixing()) @ matrix.mH)
    assert float(left.max()) < 0.06 < 0.3 < float(correlations(covariance_of(mixing())).max())


@pytest.mark.parametrize(
    ("slices", "signal", "greatest"),
    [(1, 10.0, 0.09), (1, 30.0, 0.1), (4, 30.0, 0.07), (4, 100.0, 0.2)],
)
def test_corners_of_a_phantom(slices: int, signal: float, greatest: float) -> None:
    """Signal at the corners adds to noise; the quietest bins have less of it than the median of all."""
    kspace = signal * phantom_kspace(256, 256) + colored(slices, COILS, 256, 256)
    covariance, truth = corner_covariance(kspace), covariance_of(mixing())
    assert error(covariance, truth) < greatest
    if signal == 100:
        power = float(covariance.diagonal().real.mean())
        assert 1 < power < 1.2 < 1.6 < float(noise_std(kspace).square().mean())


def test_corners_of_an_undersampled_phantom() -> None:
    mask = torch.from_numpy(sampling_mask("random", 256, 4, 0.08, 3))
    complete = 30 * phantom_kspace(256, 256) + colored(4, COILS, 256, 256)
    covariance = corner_covariance(complete * mask)
    assert error(covariance, covariance_of(mixing())) < 0.12
    assert torch.equal(corner_covariance(complete, mask), covariance)


def test_corners_where_only_the_center_is_measured() -> None:
    kspace = colored(4, COILS, 256, 128)
    kspace[..., :48] = 0
    kspace[..., 80:] = 0
    assert error(corner_covariance(kspace), covariance_of(mixing())) < 0.1


def test_corners_with_spikes() -> None:
    """A bin counts as one, however loud: a thousandth of spikes changes nothing to speak of."""
    kspace = colored(4, COILS, 256, 128)
    spikes = torch.from_numpy(np.random.default_rng(4).random((4, 1, 256, 128)) < 1e-3)
    assert error(corner_covariance(kspace + 1e3 * spikes), covariance_of(mixing())) < 0.09


def test_corners_follow_a_change_of_coils() -> None:
    """Mixed coils have the mixed covariance."""
    kspace = white(4, COILS, 64, 64)
    unitary = compression_matrix(white(COILS, 20, 20, seed=5), COILS)
    mixed = corner_covariance(mix_coils(kspace, unitary))
    assert error(mixed, unitary @ corner_covariance(kspace) @ unitary.mH) < 0.05


def test_dead_and_dependent_coils_are_found_at_the_corners() -> None:
    kspace = white(4, 4, 128, 96)
    kspace[:, 1] = 0
    covariance = corner_covariance(kspace)
    assert torch.equal(covariance[1], torch.zeros(4) + 0j)
    assert covariance.diagonal().real[[0, 2, 3]].tolist() == pytest.approx([1, 1, 1], rel=0.1)
    with pytest.raises(InputError, match="coil 1, counted from 0, has no noise at all"):
        whitening_matrix(covariance)
    kspace[:, 1] = 0.5 * kspace[:, 0] - 2j * kspace[:, 3]
    covariance = corner_covariance(kspace)
    assert covariance.diagonal().real.tolist() == pytest.approx([1, 4.25, 1, 1], rel=0.1)
    with pytest.raises(InputError, match="coil 3, counted from 0, is a linear combination of those before it"):
        whitening_matrix(covariance)


def test_real_corners_are_white_after_whitening(data_dir: Path) -> None:
    """Half of the columns give the covariance, in stripes of four; the corners of the others are looked at."""
    kspace, stripes = mprage(data_dir), torch.arange(256) // 4 % 2 == 0
    for shown, others in ((stripes, ~stripes), (~stripes, stripes)):
        before = corner_covariance(kspace, others)
        matrix = whitening_matrix(corner_covariance(kspace, shown), unit=True)
        after = corner_covariance(mix_coils(kspace, matrix), others)
        assert float(correlations(before).max()) > 0.18
        assert after.diagonal().real.tolist() == pytest.approx([1] * 4, abs=0.15)
        assert float(correlations(after).max()) < 0.07


def test_real_corners_have_less_noise_than_their_median_tells(data_dir: Path) -> None:
    """Signal reaches into the corners of this scan; its last rows, after the echo, are the quietest."""
    kspace = mprage(data_dir)
    median = corner_covariance(kspace).diagonal().real.sqrt() / noise_std(kspace)[0]
    assert median.tolist() == pytest.approx([0.67] * 4, abs=0.05)


def test_noise_scan_is_read(tmp_path: Path) -> None:
    noise = complex_normal((4, 60))
    assert torch.equal(read_noise_scan(write_h5(tmp_path / "a.h5", noise=noise), 4), torch.from_numpy(noise))
    double = read_noise_scan(write_h5(tmp_path / "b.h5", noise=noise.astype(np.complex128)), 4)
    assert torch.equal(double, torch.from_numpy(noise))


def _with(array: np.ndarray, value: complex, where: object) -> np.ndarray:
    array[where] = value  # type: ignore[call-overload]
    return array


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (np.ones((4, 60), np.float32), "'noise' is float32, not complex"),
        (complex_normal((4, 6, 60)), r"has shape \(4, 6, 60\), not \(coils, samples\) with 4 coils; give"),
        (complex_normal((60, 4)), r"has shape \(60, 4\), not \(coils, samples\) with 4 coils; transpose it"),
        (complex_normal((6, 90)), "with 4 coils; give the noise scan of these data"),
        (complex_normal((4, 39)), "'noise' has 39 samples for 4 coils"),
        (_with(complex_normal((4, 60)), 0, 2), "'noise': coil 2, counted from 0, has no noise at all; leave this"),
        (_with(complex_normal((4, 60)), np.nan, (1, 3)), "dataset 'noise' holds NaN"),
    ],
)
def test_bad_noise_scans(tmp_path: Path, noise: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        read_noise_scan(write_h5(tmp_path / "noise.h5", noise=noise), 4)
    assert str(raised.value).startswith(str(tmp_path / "noise.h5")) and "\n" not in str(raised.value)


def test_no_noise_scan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no dataset 'noise'"):
        read_noise_scan(write_h5(tmp_path / "scan.h5", kspace=complex_normal((2, 4, 8, 8))), 4)
    with pytest.raises(InputError, match="file not found"):
        read_noise_scan(tmp_path / "nothing.h5", 4)


def test_bad_noise() -> None:
    with pytest.raises(InputError, match="noise scan holds NaN"):
        noise_covariance(torch.full((2, 50), torch.nan + 0j))
    with pytest.raises(InputError, match="noise scan has 19 samples for 2 coils"):
        noise_covariance(white(2, 19))
    with pytest.raises(InputError, match="noise scan: coil 1, counted from 0"):
        noise_covariance(torch.stack((white(50), torch.zeros(50) + 0j)))
    with pytest.raises(InputError, match=r"shape \(50,\); it must be \(coils, samples\)"):
        noise_covariance(white(50))


def test_bad_kspace_for_its_corners() -> None:
    with pytest.raises(InputError, match=r"must be \(slices, coils, H, W\)"):
        corner_covariance(white(4, 64, 64))
    with pytest.raises(InputError, match="k-space holds NaN"):
        corner_covariance(white(1, 2, 64, 64) * torch.inf)
    with pytest.raises(
        InputError, match="has 0 acquired samples at its corners, but 40 are needed .* give a noise scan"
    ):
        corner_covariance(torch.zeros(2, 4, 64, 64) + 0j)
    with pytest.raises(InputError, match="has 20 acquired samples at its corners, but 40 are needed"):
        corner_covariance(white(1, 4, 16, 16), torch.arange(16) % 4 == 0)


def test_bad_covariances() -> None:
    with pytest.raises(InputError, match=r"shape \(2, 3\); it must be \(coils, coils\)"):
        whitening_matrix(white(2, 3))
    with pytest.raises(InputError, match="holds NaN"):
        whitening_matrix(torch.full((2, 2), torch.nan + 0j))
    with pytest.raises(InputError, match="not Hermitian"):
        whitening_matrix(white(3, 3))
    with pytest.raises(InputError, match="coil 2, counted from 0, has no noise"):
        whitening_matrix(torch.diag(torch.tensor([1.0, 2, 0, 0])))
    for own in (0.0, 1e-7, -1e-7):  # rounding of a coil that is the mean of the first two
        singular = torch.tensor([[1.0, 0, 0.5, 0], [0, 1, 0.5, 0], [0.5, 0.5, 0.5 + own, 0], [0, 0, 0, 1]])
        with pytest.raises(InputError, match="coil 2, counted from 0, is a linear combination"):
            whitening_matrix(singular)
    with pytest.raises(InputError, match="coil 1, counted from 0, is a linear combination"):
        whitening_matrix(torch.tensor([[1.0, 2], [2, 1]]))
