"""The learned first guess: what it keeps, what it begins with, and what it depends on."""

from __future__ import annotations

import itertools

import pytest
import torch

from mrihvae.model.layers import Residual, band_coverage, fold_image, unfold_image
from mrihvae.model.unrolled import STEP, UNet, Unrolled
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.total_variation import first_guess
from mrihvae.training.batches import Scans
from tests.support.small import small_scans

FOLD, LEVELS = 2, 3


def cascade(cascades: int = 2, widths: tuple[int, ...] = (16, 32), memory: int = 2, seed: int = 0) -> Unrolled:
    torch.manual_seed(seed)
    return Unrolled(cascades, widths, memory, FOLD, LEVELS).requires_grad_(False)


def completed(unrolled: Unrolled, measured: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """Complete k-space as `MaskedPosterior.guesses` does."""
    coverage = band_coverage(mask, LEVELS)
    return unrolled(first_guess(measured, mask), measured, coverage, lambda k, _: torch.where(mask, measured, k))


def pattern_scans(slices: int = 3) -> Scans:
    """Make scans of which single bins are measured, other ones in each slice."""
    scans = small_scans(slices, 16, 24)
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(scans.kspace.shape, generator=generator) < 0.4
    mask[:, 6:10, 10:14] = True
    return Scans.of_one_coil(scans.kspace, torch.where(mask, scans.kspace, 0), mask, scans.noise)


@pytest.mark.parametrize("scans", [small_scans(), pattern_scans()], ids=["lines", "bins"])
def test_measured_bins_are_exactly_kept(scans: Scans) -> None:
    guesses = completed(cascade(3), scans.measured, scans.mask)
    assert len(guesses) == 4
    for guess in guesses:
        assert guess.shape == scans.kspace.shape and guess.dtype == torch.complex64
        assert torch.equal(guess[scans.mask], scans.measured[scans.mask])
        assert bool((guess[~scans.mask].abs() > 0).all())
    for before, after in itertools.pairwise(guesses):
        assert not torch.equal(before, after)


def test_complete_scans_stay_as_they_are() -> None:
    scans = small_scans(2, 16, 24, torch.ones(24, dtype=torch.bool))
    assert all(torch.equal(guess, scans.kspace) for guess in completed(cascade(), scans.measured, scans.mask))


def test_without_cascades_it_is_the_total_variation_guess() -> None:
    scans, unrolled = pattern_scans(), cascade(0)
    (guess,) = completed(unrolled, scans.measured, scans.mask)
    assert torch.equal(guess, first_guess(scans.measured, scans.mask))
    assert not list(unrolled.parameters())


def test_it_starts_near_the_total_variation_guess() -> None:
    """Its networks begin with heads near zero; with heads that are zero nothing is changed at all."""
    scans = pattern_scans()
    start = first_guess(scans.measured, scans.mask)
    unrolled = cascade()
    for guess in completed(unrolled, scans.measured, scans.mask):
        assert float((guess - start).norm() / start.norm()) < 0.1
    for name, parameter in unrolled.named_parameters():
        if ".head." in name:
            parameter.zero_()
    for guess in completed(unrolled, scans.measured, scans.mask):
        torch.testing.assert_close(guess, start, rtol=0, atol=1e-6)


@pytest.mark.parametrize("memory", [0, 2])
def test_slices_do_not_see_each_other(memory: int) -> None:
    scans, unrolled = pattern_scans(), cascade(memory=memory)
    together = completed(unrolled, scans.measured, scans.mask)[-1]
    for k in range(3):
        alone = completed(unrolled, scans.measured[k, None], scans.mask[k, None])[-1][0]
        torch.testing.assert_close(together[k], alone, rtol=1e-4, atol=1e-5)
    turned = completed(unrolled, scans.measured.flip(0), scans.mask.flip(0))[-1].flip(0)
    torch.testing.assert_close(turned, together, rtol=1e-4, atol=1e-5)


def test_one_step_by_hand() -> None:
    """Beside the image: the zero-filled one, each band's measured fraction, and memory, empty at first."""
    scans, unrolled = pattern_scans(), cascade(2)
    start, first, second = completed(unrolled, scans.measured, scans.mask)
    zero_filled = fold_image(ifft2c(scans.measured), FOLD)
    planes = band_coverage(scans.mask, LEVELS).expand(3, LEVELS, 8, 12)
    memory = torch.zeros(3, 2, 8, 12)
    for net, before, after in zip(unrolled.nets, (start, first), (first, second), strict=True):
        output = net(torch.cat((fold_image(ifft2c(before), FOLD), zero_filled, planes, memory), dim=1))
        assert output.shape == (3, 8 + 2, 8, 12)
        changed = before + STEP * fft2c(unfold_image(output[:, :8], FOLD))
        torch.testing.assert_close(after, torch.where(scans.mask, scans.measured, changed), rtol=1e-4, atol=1e-5)
        memory = output[:, 8:]
    assert bool(memory.any())


def test_memory_reaches_the_next_network() -> None:
    scans, unrolled = pattern_scans(), cascade(2)
    _, first, second = completed(unrolled, scans.measured, scans.mask)
    for name, parameter in unrolled.nets[0].named_parameters():
        if name == "head.bias":
            parameter[8:] += 1
    _, same, other = completed(unrolled, scans.measured, scans.mask)
    assert torch.equal(same, first) and not torch.equal(other, second)


def test_gradients_reach_every_network() -> None:
    scans, unrolled = pattern_scans(), cascade(3).requires_grad_(True)
    guess = completed(unrolled, scans.measured, scans.mask)[-1]
    (guess - scans.kspace).abs().square().sum().backward()
    for name, parameter in unrolled.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name


@pytest.mark.parametrize("widths", [(16,), (16, 32), (16, 32, 48)])
def test_any_number_of_scales(widths: tuple[int, ...]) -> None:
    net = UNet(5, 3, widths)
    smallest = 2 ** (len(widths) - 1)
    for height, width in ((smallest, smallest), (3 * smallest, 5 * smallest), (24, 8)):
        assert net(torch.randn(2, 5, height, width)).shape == (2, 3, height, width)


def test_coarse_scales_see_far() -> None:
    """What one corner holds reaches pixels that the four convolutions of the finest scale do not."""
    spot = torch.zeros(1, 5, 64, 64)
    spot[..., 0, 0] = 1
    reach = []
    for widths in ((16,), (16, 16, 16)):
        torch.manual_seed(0)
        net = UNet(5, 3, widths).requires_grad_(False)
        for block in [module for module in net.modules() if isinstance(module, Residual)]:
            block.norm = torch.nn.Identity()  # normalization would let all pixels see each other
        changed = (net(spot) - net(0 * spot)).abs().amax(dim=1)[0]
        reach.append(int(changed.nonzero().amax()))
    assert reach[0] == 4 and 16 <= reach[1] < 63
