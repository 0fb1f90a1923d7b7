"""Degraded images for training: their numbers, their noise, and that one generator gives one batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mrihvae.physics.degradations import Blur, Inpainting, SuperResolution
from mrihvae.physics.scaling import image_scale
from mrihvae.training import draw_degraded as degradations
from mrihvae.training.batches import DegradedImages
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.draw_degraded import FACTORS, KINDS, NOISE, REAL_SHARE, draw_degraded
from mrihvae.training.loop import to_device
from tests.support.small import phantom

SHAPE = (48, 40)
SETTINGS = SimulationSettings()


def draw(seed: int, slices: int = 2, shape: tuple[int, int] = SHAPE) -> DegradedImages:
    rng = np.random.default_rng(seed)
    return draw_degraded([(phantom(60, 52, k), False) for k in range(slices)], shape, SETTINGS, rng)


def only(kind: str, monkeypatch: pytest.MonkeyPatch, real: bool | None = None) -> None:
    monkeypatch.setattr(degradations, "KINDS", {kind: 1.0})
    if real is not None:
        monkeypatch.setattr(degradations, "REAL_SHARE", float(real))


def kind_of(batch: DegradedImages) -> str:
    operator = batch.term.operator
    if isinstance(operator, Inpainting):
        return "noise" if operator.mask.all() else "holes"
    return "coarse" if isinstance(operator, SuperResolution) else "blur"


@pytest.fixture(scope="module")
def many() -> list[DegradedImages]:
    return [draw(seed) for seed in range(60)]


def test_every_kind_occurs_and_half_of_the_images_are_real(many: list[DegradedImages]) -> None:
    kinds = [kind_of(batch) for batch in many]
    assert sum(KINDS.values()) == pytest.approx(1) and KINDS.keys() == NOISE.keys()
    for kind, share in KINDS.items():
        assert abs(kinds.count(kind) / 60 - share) < 0.2
    assert abs(np.mean([batch.term.real for batch in many]) - REAL_SHARE) < 0.2
    factors = {batch.term.operator.factor for batch in many if isinstance(batch.term.operator, SuperResolution)}
    assert factors == set(FACTORS)


def test_units_and_types(many: list[DegradedImages]) -> None:
    for batch in many:
        term = batch.term
        assert batch.images.shape == (2, *SHAPE) and batch.images.dtype == torch.complex64
        torch.testing.assert_close(image_scale(term.first_image()), torch.ones(2))
        assert term.data.dtype == (torch.float32 if term.real else torch.complex64)
        assert batch.images.imag.any() != term.real
        if term.real:
            assert bool((batch.images.real >= 0).all())
        low, high = NOISE[kind_of(batch)]
        relative = term.noise / image_scale(batch.images)
        assert bool((relative > 0.999 * low).all()) and bool((relative < 1.001 * high).all())
        assert bool(torch.isfinite(torch.view_as_real(batch.images)).all()) and bool(torch.isfinite(term.data).all())
        if isinstance(term.operator, Inpainting):
            holes = ~term.operator.mask
            assert not term.data[holes].any()
        if isinstance(term.operator, SuperResolution):
            assert term.data.shape[-1] == SHAPE[1] // term.operator.factor


def test_operators_keep_the_mean_of_images(many: list[DegradedImages]) -> None:
    for batch in many:
        if isinstance(batch.term.operator, Blur | SuperResolution):
            transfer = batch.term.operator.transfer
            assert transfer.shape == (2, *SHAPE)
            torch.testing.assert_close(transfer[:, 0, 0], torch.ones(2).to(torch.complex64), rtol=0, atol=1e-5)
            assert float(transfer.abs().max()) < 1 + 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("real", [True, False])
def test_noise_has_its_deviation(kind: str, real: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data less A x are white, of E|n|^2 = sigma^2 in every number that is known."""
    only(kind, monkeypatch, real)
    misfits, count = [], 0
    for seed in range(12):
        batch = draw(seed, 2, (64, 48))
        term = batch.term
        assert term.real == real
        truth = batch.images.real if real else batch.images
        remainder = (term.data - term.operator.forward(truth)) / term.noise[:, None, None]
        known = term.operator.mask if isinstance(term.operator, Inpainting) else torch.ones(remainder.shape).bool()
        misfits.append(remainder[known.expand(remainder.shape)])
        count += int(known.sum())
    noise = torch.cat(misfits)
    assert float(noise.abs().square().mean()) == pytest.approx(1, abs=5 / count**0.5)
    assert abs(complex(noise.mean())) < 5 / count**0.5
    if not real:
        assert float(noise.real.square().mean()) == pytest.approx(0.5, abs=5 / count**0.5)


def tensors(batch: DegradedImages) -> list[torch.Tensor]:
    term = batch.term
    of_operator = [value for value in vars(term.operator).values() if isinstance(value, torch.Tensor)]
    return [batch.images, term.data, term.noise, *of_operator]


def test_equal_generators_give_equal_batches() -> None:
    for seed in range(8):
        ours, theirs = draw(seed), draw(seed)
        assert type(ours.term.operator) is type(theirs.term.operator) and ours.term.real == theirs.term.real
        assert all(torch.equal(a, b) for a, b in zip(tensors(ours), tensors(theirs), strict=True))
    assert not torch.equal(draw(0).images, draw(1).images)


def test_slices_of_a_batch_differ() -> None:
    rng = np.random.default_rng(0)
    batch = draw_degraded([(phantom(60, 52), False)] * 2, SHAPE, SETTINGS, rng)
    assert not torch.equal(batch.images[0], batch.images[1]) and batch.term.noise[0] != batch.term.noise[1]


@pytest.mark.parametrize("shape", [(64, 64), (36, 44)])
def test_holes_are_neither_none_nor_everything(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    only("holes", monkeypatch)
    known = torch.cat([draw(seed, 4, shape).term.operator.mask for seed in range(30)])  # type: ignore[attr-defined]
    shares = known.float().mean(dim=(-2, -1))
    assert bool((shares > 0).all()) and float((shares < 1).float().mean()) > 0.97  # stripes may miss a small image
    assert float(shares.mean()) == pytest.approx(0.55, abs=0.15)


def test_raw_kspace_is_refused() -> None:
    raw = np.zeros((8, 8), dtype=np.complex64)
    with pytest.raises(ValueError, match="raw k-space is already noisy"):
        draw_degraded([(raw, True)], SHAPE, SETTINGS, np.random.default_rng(0))


def test_batches_are_brought_to_a_device_whole() -> None:
    for seed in range(4):
        batch = draw(seed)
        there = to_device(batch, torch.device("meta"))
        assert all(tensor.device.type == "meta" for tensor in tensors(there))
        assert dataclasses.fields(there) == dataclasses.fields(batch) and there.term.real == batch.term.real
