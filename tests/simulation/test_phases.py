"""Phase of simulated scans: the field of a dipole, what a shim takes, fat against water, and the fit to raw scans."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import Generator
from torch import Tensor

from benchmarks.training import phase
from mrihvae.physics.fourier import fft2c
from mrihvae.simulation import phases
from mrihvae.simulation.phases import (
    KIND_SHARES,
    add_phase,
    dipole_field,
    fat_fraction,
    off_resonance,
    smooth_field,
    tissue_map,
)
from tests.support.small import phantom


def rng_of(seed: int = 0) -> Generator:
    return np.random.default_rng(seed)


def image_of(height: int = 96, width: int = 80) -> Tensor:
    return torch.from_numpy(phantom(height, width))


def disc(size: int, radius: float) -> Tensor:
    axis = torch.arange(size) - size // 2
    return ((axis[:, None] ** 2 + axis**2) < radius**2).float()


# --- physics ---------------------------------------------------------------------------------------------------------


def test_field_of_a_cylinder_across_b0() -> None:
    """Inside it is -1/6 of the susceptibility, and outside (a / r)^2 / 2 cos(2 angle to B0), but for a constant."""
    size, radius = 257, 20.0
    field = dipole_field(disc(size, radius), (1.0, 0.0, 0.0))
    middle = size // 2
    inside = disc(size, radius - 3) > 0
    assert float(field[inside].std()) < 0.02
    step = float(field[middle, middle])
    for away in (40, 60):
        along, across = float(field[middle + away, middle]), float(field[middle, middle + away])
        assert along - across == pytest.approx(radius**2 / away**2, rel=0.1)
    far = 0.5 * float(field[middle + 60, middle] + field[middle, middle + 60])
    assert step - far == pytest.approx(-1 / 6, abs=0.02)


def test_field_of_a_cylinder_along_b0_stays_inside() -> None:
    field = dipole_field(disc(129, 20.0), (0.0, 0.0, 1.0))
    outside, inside = field[disc(129, 24) == 0], field[disc(129, 16) > 0]
    assert float(outside.std()) < 1e-3 and float(inside.std()) < 1e-3
    assert float(inside.mean() - outside.mean()) == pytest.approx(1 / 3, rel=1e-3)


def test_field_is_linear_and_zero_without_susceptibility() -> None:
    direction = (0.6, 0.8, 0.0)
    one, other = disc(64, 10.0), torch.roll(disc(64, 5.0), 20, 0)
    together = dipole_field(2 * one - other, direction)
    torch.testing.assert_close(together, 2 * dipole_field(one, direction) - dipole_field(other, direction))
    assert not dipole_field(torch.zeros(32, 32), direction).any()


def test_shim_takes_polynomials() -> None:
    rows, columns = torch.linspace(-1, 1, 40)[:, None], torch.linspace(-1, 1, 30)
    inside = torch.ones(40, 30)
    first, second = 3 + rows - 2 * columns, rows**2 - columns**2 + rows * columns
    for field, order, left in ((first, False, 0.0), (first + second, True, 0.0), (first + second, False, 1.0)):
        rest = phases._shim(field, inside, order)
        assert (float(rest.abs().max()) > 0.1) == (left > 0)
        assert float(rest.abs().max()) < 2


def test_off_resonance_is_some_ppm_within_the_object_and_smooth() -> None:
    image = image_of(128, 128)
    sizes = []
    for seed in range(30):
        field = off_resonance(image, rng_of(seed))
        assert field.shape == image.shape
        inside = field[tissue_map(image) > 0.9]
        sizes.append(float(inside.abs().median()))
        assert float(inside.abs().max()) < 20
    assert 0.03 < float(np.median(sizes)) < 1.0 and max(sizes) < 3


def test_fat_is_a_part_of_the_signal() -> None:
    image = image_of()
    for seed in range(30):
        fat = fat_fraction(image / image.max(), rng_of(seed))
        assert fat.shape == image.shape and float(fat.min()) >= 0 and float(fat.max()) <= 1


def test_tissue_is_where_signal_is_and_thin_gaps_are_filled() -> None:
    image = disc(96, 30.0)
    assert float(tissue_map(image)[48, 48]) > 0.95 and float(tissue_map(image)[2, 2]) < 0.05
    image[:, 47:49] = 0  # a gap of two pixels
    filled = phases._close_gaps(tissue_map(image), 3)
    assert float(filled[48, 48]) > 0.9
    assert not tissue_map(torch.zeros(20, 20)).any()


# --- scans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KIND_SHARES)
def test_magnitude_stays_but_where_signal_is_lost(kind: str) -> None:
    image = image_of()
    kept = []
    for seed in range(20):
        scan = add_phase(image, rng_of(seed), kind)
        assert scan.dtype == torch.complex64 and scan.shape == image.shape
        assert bool((scan.abs() <= image * (1 + 1e-5) + 1e-6).all())
        kept.append(float(scan.abs().sum() / image.sum()))
    if kind == "gradient echo":
        assert 0.3 < min(kept) < 0.99 and float(np.median(kept)) > 0.7
    else:
        assert min(kept) == pytest.approx(1, abs=1e-5)


def test_fat_cancels_water_out_of_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """At an echo of half a turn, a pixel of equal parts has no signal, and pure fat is reversed."""
    megahertz = phases.GYROMAGNETIC * 3.0
    echo = 0.5e3 / (3.5 * megahertz)  # ms
    zeros = lambda tone, rng: torch.zeros_like(tone)  # noqa: E731
    monkeypatch.setattr(phases, "FIELD_STRENGTHS", (3.0,))
    monkeypatch.setattr(phases, "ECHO_TIMES", (echo, echo))
    monkeypatch.setattr(phases, "COIL_PHASE_SIZES", (0.0, 0.0))
    monkeypatch.setattr(phases, "PHASE_OFFSET", 0.0)
    monkeypatch.setattr(phases, "off_resonance", zeros)
    monkeypatch.setattr(phases, "_tissue_term", zeros)
    fractions = torch.tensor([0.0, 0.5, 1.0]).expand(8, 3)
    monkeypatch.setattr(phases, "fat_fraction", lambda tone, rng: fractions)
    found = 0
    for seed in range(8):
        scan = add_phase(torch.ones(8, 3), rng_of(seed), "gradient echo")
        if float(scan[0, 1].abs()) < 1e-3:  # fat is drawn in most scans
            found += 1
            assert abs(complex(scan[0, 2] / scan[0, 0]) + 1) < 1e-3
    assert found >= 3


def test_kinds_come_as_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(KIND_SHARES.values()) == pytest.approx(1)
    image = torch.ones(8, 8)
    assert torch.equal(add_phase(image, rng_of(3), "spin echo"), add_phase(image, rng_of(3), "spin echo"))
    monkeypatch.setattr(phases, "off_resonance", lambda tone, rng: pytest.fail("no gradient echo has share 0"))
    monkeypatch.setattr(phases, "KIND_SHARES", {"low field": 0.5, "spin echo": 0.5, "gradient echo": 0.0})
    for seed in range(20):
        add_phase(image, rng_of(seed))


def test_peak_of_k_space_lies_off_its_center_by_some_samples() -> None:
    image = disc(64, 24.0)
    offsets = []
    for seed in range(200):
        power = fft2c(add_phase(image, rng_of(seed), "low field")).abs()
        row, column = divmod(int(power.argmax()), 64)
        offsets += [row - 32, column - 32]
    assert float(np.sqrt(np.mean(np.square(offsets)))) == pytest.approx(phases.LOW_FIELD_OFFSET, rel=0.15)


@pytest.mark.parametrize("shape", [(1, 50), (2, 2), (16, 1), (40, 50)])
def test_odd_images_stay_finite(shape: tuple[int, int]) -> None:
    for image in (torch.zeros(shape), torch.ones(shape), torch.full(shape, 1e-30), torch.full(shape, 1e30)):
        for kind in KIND_SHARES:
            for seed in range(5):
                assert bool(torch.isfinite(add_phase(image, rng_of(seed), kind).abs()).all())


def test_smooth_field_has_its_variance_and_low_frequencies() -> None:
    fields = torch.stack([smooth_field((64, 64), rng_of(seed)) for seed in range(200)])
    assert float(fields.square().mean()) == pytest.approx(0.5, rel=0.15)
    assert float(torch.diff(fields, dim=1).abs().max()) < 0.6


# --- the comparison with measured phase ------------------------------------------------------------------------------


def test_measures_find_a_ramp_and_a_curvature() -> None:
    rows, columns = torch.arange(128) / 128 - 0.5, torch.arange(128) / 128 - 0.5
    magnitude = disc(128, 50.0) + 0.01
    ramp = 2 * math.pi * (3.0 * rows[:, None] - 1.5 * columns)
    found = phase.measure(torch.polar(magnitude, ramp))
    assert found["offsets"] == pytest.approx([3.0, -1.5], abs=0.02)
    assert found["change"][1] < 1e-2 and found["curve"][8] < 0.06
    curved = phase.measure(torch.polar(magnitude, ramp + 20 * (rows[:, None] ** 2 + columns**2)))
    assert curved["offsets"] == pytest.approx([3.0, -1.5], abs=0.2)
    assert curved["change"][0] == pytest.approx(2 * 20 * 50 / 128 / 128 / math.sqrt(2), rel=0.1)  # at the median radius
    assert curved["curve"][4] > 2 * found["curve"][4]


def test_low_field_is_as_fitted(data_dir: Path) -> None:
    """The constants are those of the raw training scans, and simulated scans have their distribution."""
    measured = [phase.measure(image) for image in phase.raw_images(data_dir / phase.FITTED)]
    fitted = phase.fit(measured)
    assert fitted["LOW_FIELD_OFFSET"] == pytest.approx(phases.LOW_FIELD_OFFSET, rel=0.02)
    assert fitted["LOW_FIELD_CHANGE"] == pytest.approx(phases.LOW_FIELD_CHANGE, rel=0.03)
    simulated = [phase.measure(add_phase(image_of(128, 128), rng_of(seed), "low field")) for seed in range(60)]
    ours, theirs = (np.log([row["change"][0] for row in rows]) for rows in (simulated, measured))
    assert abs(np.median(ours) - np.median(theirs)) < 0.35 and abs(ours.std() - theirs.std()) < 0.25


def test_comparison_writes_its_results(data_dir: Path, tmp_path: Path) -> None:
    phase.compare(data_dir, 2, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"phase.json", "phase.md", "phase.png"}
    assert "| simulated: gradient echo | 2 |" in (tmp_path / "phase.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--slices", "1"), "--slices 1: must be at least 2"),
        (("--data", "none"), "ulf_singlecoil/train: file not found; check the path"),
    ],
)
def test_mistakes(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert phase.main(["--data", str(tmp_path), "--results", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
