"""Maps that do not fit: wrong size, sign of phase, or orientation are said, right ones are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mrihvae
from mrihvae.coils.fit import describe_misfit, unexplained_share
from mrihvae.physics.fourier import fft2c
from tests.support.small_coils import calibrated

SHAPE = (48, 48)


def scan_of(coils: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return k-space (coils, H, W) of a disk with detail, and its true maps."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    image = (x**2 + y**2 < 0.6).float() * (1 + 0.3 * torch.sin(9 * x) * torch.cos(7 * y))
    angles = torch.arange(coils) * 2 * np.pi / coils
    far = [(x - 1.2 * torch.cos(a)) ** 2 + (y - 1.2 * torch.sin(a)) ** 2 for a in angles]
    phases = [a + 0.4 * x * torch.cos(a) + 0.5 * y for a in angles]
    fields = torch.stack([torch.polar(torch.exp(-d / 2), phase) for d, phase in zip(far, phases, strict=True)])
    maps = fields / fields.abs().square().sum(dim=0).sqrt()
    generator = torch.Generator().manual_seed(0)
    noise = 1e-3 * torch.randn(coils, *SHAPE, dtype=torch.complex64, generator=generator)
    return fft2c(fields * image) + noise, maps


@pytest.mark.parametrize("coils", [2, 4, 8])
def test_wrong_maps_are_said(coils: int) -> None:
    kspace, maps = scan_of(coils)
    y, x = np.mgrid[0:48, 0:48] - 24
    small = torch.from_numpy(x**2 + y**2 < 14**2)
    lines = calibrated(48, 12)
    wrong = {"conjugated": maps.conj(), "small": maps * small, "other coils": maps.roll(1, 0)}
    assert describe_misfit(kspace, maps, lines) == "" == describe_misfit(kspace, 37 * maps, lines)
    assert unexplained_share(kspace, maps, lines) < 0.01
    for name, given in wrong.items():
        assert "given sensitivity maps" in describe_misfit(kspace, given, lines), name


def test_without_a_calibration_region_nothing_is_said() -> None:
    kspace, maps = scan_of(4)
    assert describe_misfit(kspace, maps.conj(), torch.arange(48) % 3 == 0) == ""


def test_a_reconstruction_warns() -> None:
    kspace, maps = scan_of(4)
    given = {"right": maps, "wrong": maps.conj()}
    found = {
        name: mrihvae.reconstruct(
            kspace.numpy(), calibrated(48, 12).numpy(), axes="coil H W", maps=each, method="sense"
        )
        for name, each in given.items()
    }
    assert found["right"].warnings == ()
    (warning,) = found["wrong"].warnings
    assert warning.startswith("the given sensitivity maps and maps estimated")
