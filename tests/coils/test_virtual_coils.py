"""Virtual coils by the noise level: how many, what they lose, and that slices stay problems of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mrihvae.coils.settings import CoilSettings
from mrihvae.coils.virtual_coils import (
    MAX_LOST_ENERGY,
    compress,
    compress_maps,
    expand_maps,
    stack_coils,
    virtual_coils,
)
from mrihvae.data.scan import Scan
from mrihvae.inference.settings import InferenceSettings, RefinementSettings
from mrihvae.physics.fourier import ifft2c
from mrihvae.recon.catalog import make_method
from mrihvae.recon.sliced_scan import SlicedScan
from mrihvae.recon.volumes import reconstruct_volume, sample_volume
from mrihvae.reconstructor import Reconstructor
from tests.support.files import complex_normal
from tests.support.small import small_model
from tests.support.small_coils import calibrated, coil_scans

SHORT = InferenceSettings(views=1, rounds=1, precision="float32", refinement=RefinementSettings(sweeps=0))
NOISE = 0.02


def mixture(sources: int, coils: int, seed: int = 0, noise: float = NOISE) -> Tensor:
    """Make k-space (coils, 64, 64) of so many independent sources, each in all coils, and white noise."""
    mixing = np.linalg.qr(complex_normal((coils, sources), seed))[0]
    signal = np.einsum("cs,shw->chw", mixing, complex_normal((sources, 64, 64), seed + 1))
    return torch.from_numpy((signal + noise * complex_normal((coils, 64, 64), seed + 2)).astype(np.complex64))


@pytest.mark.parametrize("sources", [1, 3, 7])
def test_as_many_as_hold_signal(sources: int) -> None:
    kspace = mixture(sources, 8)
    for noise in (NOISE, 10 * NOISE):  # a noise that is too high is seen by the weakest coil
        matrix = virtual_coils(kspace, noise)
        assert matrix is not None and matrix.shape == (sources, 8)
        torch.testing.assert_close(matrix @ matrix.mH, torch.eye(sources, dtype=matrix.dtype), rtol=0, atol=1e-5)
    rest = kspace.flatten(1) - matrix.mH @ (matrix @ kspace.flatten(1))
    signal = float(rest.abs().square().sum()) - (8 - sources) * NOISE**2 * 64 * 64
    assert signal < MAX_LOST_ENERGY * 8 * NOISE**2 * 64 * 64


def test_where_all_coils_are_needed() -> None:
    assert virtual_coils(mixture(8, 8), NOISE) is None
    assert virtual_coils(mixture(3, 8, noise=0.0)[:1], 0.0) is None  # a single coil
    few = torch.zeros(8, 64, 64, dtype=torch.complex64)
    few[:, 30:34] = mixture(3, 8)[:, 30:34]
    assert virtual_coils(few, NOISE) is None  # too few samples to tell
    assert virtual_coils(torch.zeros_like(few), 0.0) is None


def test_equal_scans_of_another_scale() -> None:
    kspace = mixture(3, 6)
    first, other = virtual_coils(kspace, NOISE), virtual_coils(1e-6 * kspace, 1e-6 * NOISE)
    assert first is not None and other is not None
    torch.testing.assert_close(first, other, rtol=0, atol=1e-4)


def test_silent_coils_are_dropped() -> None:
    kspace = mixture(4, 4)
    with_silent = torch.cat((kspace, torch.zeros(2, 64, 64)))
    matrix = virtual_coils(with_silent, NOISE)
    assert matrix is not None and len(matrix) == 4 and float(matrix[:, 4:].abs().max()) < 1e-6


def test_slices_are_padded_with_coils_of_zeros() -> None:
    first, second = mixture(2, 3), mixture(2, 5)
    stacked = stack_coils([first, second])
    assert stacked.shape == (2, 5, 64, 64) and torch.equal(stacked[0, :3], first) and not stacked[0, 3:].any()
    back = expand_maps(stack_coils([first[:2], first]), [torch.eye(3, dtype=torch.complex64)[:2], None])
    assert torch.equal(back[0, :2], first[:2]) and not back[0, 2].any() and torch.equal(back[1], first)


def test_compressed_slices_and_back() -> None:
    kspace = mixture(2, 6)
    maps = kspace / kspace.abs().square().sum(dim=0).sqrt()
    found = compress(kspace, kspace, False, True)
    assert found.matrix is not None and found.kspace.shape == (2, 64, 64)
    kept = compress_maps(maps[None], [found.matrix])
    torch.testing.assert_close(kept.abs().square().sum(dim=1), torch.ones(1, 64, 64))
    torch.testing.assert_close(found.kspace, (found.matrix @ kspace.flatten(1)).view(2, 64, 64))
    back = expand_maps(kept, [found.matrix])[0]
    assert float((back - maps).abs().square().mean()) < 2e-3
    as_it_is = compress(kspace, kspace, False, False)
    assert torch.equal(compress_maps(maps[None], [None])[0], maps)
    assert as_it_is.matrix is None and as_it_is.kspace is kspace and float(as_it_is.noise) > 0


def many_coils(slices: int = 2, noise: float = 0.01) -> Scan:
    """Make 12 coils that see three fields: nine of their combinations hold noise alone."""
    few = coil_scans(slices, 3, 96, 60, 0.0)[0].numpy()
    few[1:] *= np.array([1, 1, 1e-4], dtype=np.float32)[:, None, None]  # the second slice has less
    mixing = np.linalg.qr(complex_normal((12, 3), 1))[0]
    kspace = np.einsum("cf,sfhw->schw", mixing, few) + noise * complex_normal((slices, 12, 96, 60), 4)
    return Scan("file1.h5", kspace.astype(np.complex64))


def test_each_slice_has_its_own_number() -> None:
    """And no slice depends on those beside it, nor on the batch."""
    scan, lines = many_coils(), calibrated(60, 14).numpy()
    volume = SlicedScan(scan, lines, CoilSettings())
    batch = volume.batch(0, 2)
    assert [len(one) for one in batch.mixing if one is not None] == [3, 2]
    assert batch.kspace.shape == (2, 3, 96, 60) and not batch.kspace[1, 2].any()
    chosen = make_method("hybrid", small_model(), SHORT)
    together = reconstruct_volume(scan, lines, chosen, batch_size=24)
    for k in range(2):
        alone = reconstruct_volume(scan.single_slice(k), lines, chosen, batch_size=1)
        np.testing.assert_allclose(together[k], alone[0], atol=1e-4 * alone.max())
    samples = sample_volume(scan, lines, make_method("samples", small_model(), SHORT, 2), batch_size=24)
    assert samples.samples.shape == (2, 2, 96, 60) and np.isfinite(samples.std).all()


def test_root_sum_of_squares_is_that_of_all_coils() -> None:
    """Acquired samples of dropped coils are put back, and the rest is nearly what all coils give."""
    scan, lines = many_coils(1), calibrated(60, 14).numpy()
    target = ifft2c(torch.from_numpy(np.asarray(scan.kspace))).abs().square().sum(dim=1).sqrt().numpy()
    found, every = (
        reconstruct_volume(scan, lines, make_method("sense", coils=CoilSettings(compress=number)))
        for number in (None, 0)
    )
    errors = [np.linalg.norm(one - target) for one in (found, every)]
    assert 20 * np.log10(errors[0] / errors[1]) < 0.02  # dB; here it is less, for noise is left out


def test_the_module_does_the_same() -> None:
    scan, lines = many_coils(), calibrated(60, 14)
    model = small_model()
    module = Reconstructor(make_method("hybrid", model, InferenceSettings(tv_blend=False)))  # which is of scans alone
    kspace = torch.where(lines, torch.from_numpy(np.asarray(scan.kspace)), 0)
    mask = lines.view(1, 1, 1, 60, 1).expand(2, -1, -1, -1, -1)
    found = module(torch.view_as_real(kspace), mask)
    expected = reconstruct_volume(scan, lines.numpy(), module.method)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3 * expected.max())
    alone = module(torch.view_as_real(kspace[1:]), mask[1:])
    torch.testing.assert_close(alone[0], found[1], rtol=0, atol=1e-4 * float(found.max()))
