"""The first guess: it solves the total variation problem that sigpy solves, and keeps what was measured."""

from __future__ import annotations

import torch

from mrihvae.physics.fastmri_masks import sampling_mask
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.scaling import kspace_scale
from mrihvae.physics.total_variation import first_guess
from mrihvae.recon.classical import total_variation


def ellipses(slices: int, height: int, width: int) -> torch.Tensor:
    """Make k-space of piecewise smooth complex images with noise, in model units of their complete scan."""
    torch.manual_seed(0)
    v, u = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    images = []
    for k in range(slices):
        image = ((v / 0.8) ** 2 + (u / 0.7) ** 2 < 1).float() - 0.5 * (
            (v / 0.3) ** 2 + ((u - 0.1 * k) / 0.2) ** 2 < 1
        ).float()
        images.append(torch.polar(image, u - 0.5 * v**2))
    kspace = fft2c(torch.stack(images))
    return kspace + 0.01 * torch.randn_like(kspace)


def test_solves_the_problem_of_sigpy() -> None:
    kspace = ellipses(1, 48, 40)
    lines = sampling_mask("random", 40, 3, 0.12, 1)
    mask = torch.from_numpy(lines).expand(kspace.shape)
    y = torch.where(mask, kspace, 0)
    y = y / kspace_scale(y)[:, None, None]
    ours = ifft2c(first_guess(y, mask, strength=0.02, iterations=500))[0]
    theirs = torch.from_numpy(total_variation(y[0].numpy(), lines, 0.02, 3000))
    assert (ours - theirs).norm() / theirs.norm() < 5e-3


def test_keeps_measured_bins_and_improves_on_zero_filling() -> None:
    kspace = ellipses(2, 64, 64)
    mask = torch.from_numpy(sampling_mask("random", 64, 4, 0.08, 3)).expand(kspace.shape)
    y = torch.where(mask, kspace, 0)
    guess = first_guess(y, mask)
    assert torch.equal(guess[mask], y[mask])
    assert (guess - kspace).norm() < 0.6 * (y - kspace).norm()


def test_slices_are_solved_by_themselves() -> None:
    kspace = ellipses(3, 32, 48)
    mask = torch.from_numpy(sampling_mask("random", 48, 4, 0.08, 3)).expand(kspace.shape)
    y = torch.where(mask, kspace, 0)
    torch.testing.assert_close(first_guess(y[1:2], mask[1:2]), first_guess(y, mask)[1:2])


def test_complete_and_empty_kspace() -> None:
    kspace = ellipses(1, 16, 17)
    everything = torch.ones(kspace.shape, dtype=torch.bool)
    torch.testing.assert_close(first_guess(kspace, everything), kspace)
    assert not first_guess(torch.zeros_like(kspace), ~everything).abs().any()


def test_center_line_that_was_not_measured() -> None:
    """The denominator vanishes at DC: what rounding leaves there must not be blown up."""
    kspace = ellipses(1, 64, 64)
    mask = torch.from_numpy(sampling_mask("random", 64, 4, 0.08, 3)).clone()
    mask[32] = False
    mask = mask.expand(kspace.shape)
    guess = first_guess(torch.where(mask, kspace, 0), mask, iterations=60)
    assert guess.abs().max() <= 1.5 * kspace.abs().max()
