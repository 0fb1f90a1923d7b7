"""Restoration by PnP-HVAE in the user's units, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mrihvae.errors import InputError
from mrihvae.model.hvae import HVAE
from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.degradations import Blur, Inpainting, PaddedBlur, SuperResolution, denoising
from mrihvae.physics.kernels import gaussian_kernel, transfer_of
from mrihvae.physics.mri import MaskedFourier
from mrihvae.physics.noise import MIN_NOISE
from mrihvae.physics.operators import Linear, Operator
from mrihvae.physics.scaling import image_scale
from mrihvae.pnp.degraded import BEGINNING, VIEWS, DegradedPosterior
from mrihvae.pnp.loop import CompletePosterior, restore
from mrihvae.pnp.reconstruct import reconstruct_scans
from mrihvae.pnp.restore import make_posteriors, restore_images
from mrihvae.pnp.settings import PnPSettings
from mrihvae.utils.config import with_settings
from tests.support.small import SMALL, every_third, phantom, small_kspace, small_model

SHAPE = (28, 24)
KERNEL = gaussian_kernel(1.0)
KNOWN = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.6
OPERATORS: dict[str, Operator] = {
    "noise": denoising(),
    "holes": Inpainting(KNOWN),
    "blur": Blur(transfer_of(KERNEL, SHAPE)),
    "padded": PaddedBlur(KERNEL),
    "coarse": SuperResolution(transfer_of(KERNEL, SHAPE), 2),
    "fourier": MaskedFourier(every_third(SHAPE[1])),
}


@pytest.fixture(scope="module")
def scans() -> HVAE:
    return small_model()


@pytest.fixture(scope="module")
def degraded() -> HVAE:
    return small_model(settings=dataclasses.replace(SMALL, degraded=True))


def exactly(**values: Any) -> PnPSettings:
    return PnPSettings(**{"precision": "float32", **values})


COMPLETE = exactly(encoder="complete", tau=0.9, gamma=0.1)


def truths(real: bool, size: float = 1.0) -> torch.Tensor:
    images = size * torch.from_numpy(np.stack([phantom(*SHAPE), phantom(*SHAPE, 1)]))
    return images if real else torch.polar(images, torch.linspace(0, 1, SHAPE[0])[:, None].expand_as(images))


def white(like: torch.Tensor, seed: int = 5) -> torch.Tensor:
    return torch.randn(like.shape, dtype=like.dtype, generator=torch.Generator().manual_seed(seed))


def degrade(name: str, real: bool, noise: float = 0.03) -> torch.Tensor:
    clean = OPERATORS[name].forward(truths(real))
    data = clean + noise * white(clean)
    return data * KNOWN if name == "holes" else data


CASES = [(name, real) for name in OPERATORS for real in (True, False) if (name, real) != ("fourier", True)]


@pytest.mark.parametrize(("name", "real"), CASES)
def test_result_follows_the_unit_of_the_data(scans: HVAE, degraded: HVAE, name: str, real: bool) -> None:
    data, A = degrade(name, real), OPERATORS[name]
    for model, settings in ((scans, COMPLETE), (degraded, exactly(tau=0.9))):
        one = restore_images(model, A, data, 0.03, settings)
        assert one.image.shape == one.decoded.shape == (2, *SHAPE)
        assert one.image.dtype == one.decoded.dtype == (torch.float32 if real else torch.complex64)
        for factor in (2.0, 1e-6):
            other = restore_images(model, A, factor * data, factor * 0.03, settings)
            size = float(one.image.abs().max())
            torch.testing.assert_close(other.image / factor, one.image, rtol=0, atol=1e-5 * size)
            torch.testing.assert_close(other.decoded / factor, one.decoded, rtol=0, atol=1e-5 * size)
            torch.testing.assert_close(other.objective[-1], one.objective[-1], rtol=1e-4, atol=0)


def test_slices_have_units_and_noise_of_their_own(degraded: HVAE) -> None:
    data = degrade("noise", True)
    together = restore_images(
        degraded, denoising(), data * torch.tensor([1.0, 300.0])[:, None, None], torch.tensor([0.03, 60.0]), exactly()
    )
    first = restore_images(degraded, denoising(), data[:1], 0.03, exactly())
    second = restore_images(degraded, denoising(), data[1:] * 300, 60.0, exactly())
    torch.testing.assert_close(together.image[:1], first.image, rtol=0, atol=1e-5)
    torch.testing.assert_close(together.image[1:], second.image, rtol=0, atol=3e-3)
    louder = restore_images(degraded, denoising(), data[1:] * 300, 9.0, exactly())
    assert float((louder.image - second.image).abs().max()) > 1


@pytest.mark.parametrize("real", [True, False])
def test_restore_images_by_hand(degraded: HVAE, real: bool) -> None:
    """Divide by the 99th percentile of the first image, begin at the mean of the views' guesses, loop, multiply."""
    data, A = degrade("coarse", real), OPERATORS["coarse"]
    settings = exactly(views=3, tau=0.8, iterations=2)
    scale = image_scale(A.first_image(data))
    term = LeastSquares(A, data / scale[:, None, None], 0.03 / scale, real)
    with torch.no_grad():
        posteriors = [DegradedPosterior(degraded, term, number) for number in (0, 6, 2)]
        assert VIEWS[:3] == (0, 6, 2)
        begun = sum((posterior.image(posterior.guesses()[-1]) for posterior in posteriors), torch.zeros(())) / 3
        theirs = restore(degraded, term, posteriors, begun, settings)
    ours = restore_images(degraded, A, data, 0.03, settings)
    torch.testing.assert_close(ours.image, theirs.image * scale[:, None, None], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.decoded, theirs.decoded * scale[:, None, None], rtol=0, atol=1e-5)


def test_complete_encoder_begins_at_a_proximal_step(scans: HVAE) -> None:
    term = LeastSquares(OPERATORS["holes"], degrade("holes", True), torch.tensor([0.03, 0.03]), real=True)
    posteriors, begun = make_posteriors(scans, term, exactly(encoder="complete", views=4))
    assert len(posteriors) == 4 and all(isinstance(posterior, CompletePosterior) for posterior in posteriors)
    torch.testing.assert_close(begun, term.prox(term.first_image(), BEGINNING))


@pytest.mark.parametrize("real", [True, False])
def test_start(scans: HVAE, real: bool) -> None:
    """One iteration from an image is one of the loop from there, in the unit of the image."""
    data, start = 50 * degrade("blur", real), 50 * truths(real).flip(-1)
    A, settings = OPERATORS["blur"], with_settings(COMPLETE, iterations=1)
    found = restore_images(scans, A, data, 1.5, settings, start)
    scale = image_scale(data)
    term = LeastSquares(A, data / scale[:, None, None], 1.5 / scale, real)
    posteriors, begun = make_posteriors(scans, term, settings)
    by_hand = restore(scans, term, posteriors, start / scale[:, None, None], settings)
    torch.testing.assert_close(found.image, by_hand.image * scale[:, None, None], rtol=0, atol=1e-3)
    without = restore_images(scans, A, data, 1.5, settings)
    theirs = restore(scans, term, posteriors, begun, settings)
    torch.testing.assert_close(without.image, theirs.image * scale[:, None, None], rtol=0, atol=1e-3)
    assert float((found.image - without.image).abs().max()) > 0.5


def test_data_without_noise(degraded: HVAE) -> None:
    data = degrade("holes", True, 0.0)
    found = restore_images(degraded, OPERATORS["holes"], data, 0.0, exactly())
    torch.testing.assert_close(found.image * KNOWN, data, rtol=0, atol=1e-3)
    same = restore_images(degraded, OPERATORS["holes"], data, MIN_NOISE * image_scale(data).min() / 2, exactly())
    torch.testing.assert_close(same.image, found.image, rtol=0, atol=1e-5)


def test_progress_is_told(degraded: HVAE) -> None:
    told: list[int] = []
    restore_images(degraded, denoising(), degrade("noise", True), 0.03, exactly(iterations=3), progress=told.append)
    assert told == [0, 1, 2]


@pytest.mark.parametrize("shape", [(17, 13), (1, 9), (5, 40)])
def test_any_size(degraded: HVAE, scans: HVAE, shape: tuple[int, int]) -> None:
    data = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    for model, settings in ((degraded, exactly(views=4)), (scans, COMPLETE)):
        found = restore_images(model, denoising(), data, 0.1, settings)
        assert found.image.shape == data.shape and bool(torch.isfinite(found.image).all())


def spoiled(value: float) -> torch.Tensor:
    data = degrade("noise", True)
    data[1, 3, 4] = value
    return data


REFUSED: list[tuple[Callable[[], torch.Tensor], Any, str]] = [
    (lambda: spoiled(math.nan), 0.1, "data hold NaN or infinite values; give finite ones"),
    (lambda: spoiled(-math.inf), 0.1, "data hold NaN or infinite values; give finite ones"),
    (
        lambda: degrade("noise", True) * torch.tensor([1.0, 0.0])[:, None, None],
        0.1,
        "an image of the data is zero everywhere",
    ),
    (lambda: degrade("noise", True), -0.1, "must be at least 0"),
    (lambda: degrade("noise", True), math.nan, "must be at least 0"),
    (lambda: degrade("noise", True), math.inf, "must be at least 0"),
    (lambda: degrade("noise", True), torch.tensor([0.1, -1.0]), "must be at least 0"),
    (lambda: degrade("noise", True), torch.full((3,), 0.1), r"noise has shape \(3,\) for 2 images; give one number"),
    (lambda: degrade("noise", True), torch.full((2, 1), 0.1), r"noise has shape \(2, 1\) for 2 images"),
]


@pytest.mark.parametrize(("data", "noise", "message"), REFUSED)
def test_data_that_are_refused(scans: HVAE, data: Callable[[], torch.Tensor], noise: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        restore_images(scans, denoising(), data(), noise, COMPLETE)


def test_data_that_do_not_fit(scans: HVAE) -> None:
    data = degrade("noise", True)
    for operator, given in (
        (OPERATORS["blur"], data[:, :20]),
        (OPERATORS["coarse"], data),
        (denoising(), data[0]),
        (Inpainting(KNOWN), data[..., :-1]),
    ):
        with pytest.raises(InputError, match="are not what the operator gives|give .slices, h, w.|does not fit data"):
            restore_images(scans, operator, given, 0.03, COMPLETE)
    for start in (data[:1], torch.full_like(data, math.nan)):
        with pytest.raises(InputError, match="start is of shape"):
            restore_images(scans, denoising(), data, 0.03, COMPLETE, start)


def test_what_is_not_known_may_be_anything(scans: HVAE) -> None:
    data = degrade("holes", True)
    clean = restore_images(scans, OPERATORS["holes"], data, 0.03, COMPLETE)
    spoiled = restore_images(scans, OPERATORS["holes"], torch.where(KNOWN, data, math.nan), 0.03, COMPLETE)
    assert torch.equal(clean.image, spoiled.image) and torch.equal(clean.misfit[-1], spoiled.misfit[-1])


def test_any_operator_by_its_two_functions(scans: HVAE) -> None:
    """Conjugate gradients find what closed forms do."""
    blur, data = OPERATORS["blur"], degrade("blur", True)
    plain = Linear(blur.forward, blur.adjoint)
    r = torch.tensor([0.01, 1.0])[:, None, None]
    torch.testing.assert_close(plain.solve(data, r), blur.solve(data, r), rtol=1e-4, atol=1e-4)
    term = LeastSquares(plain, data, torch.full((2,), 0.03), True)
    exact = dataclasses.replace(term, operator=blur)
    posteriors, begun = make_posteriors(scans, exact, COMPLETE)
    one, other = (restore(scans, each, posteriors, begun, COMPLETE).image for each in (term, exact))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-3)
    found = restore_images(scans, plain, data, 0.03, COMPLETE)
    assert float((found.image - data).norm() / data.norm()) < 0.5


def test_draws_do_not_depend_on_the_batch(scans: HVAE) -> None:
    data, drawn = degrade("noise", True), dataclasses.replace(COMPLETE, draw=True)
    both = restore_images(scans, denoising(), data, 0.03, drawn)
    second = restore_images(scans, denoising(), data[1:], 0.03, drawn, first=1)
    torch.testing.assert_close(second.decoded[0], both.decoded[1], rtol=1e-4, atol=1e-4)


def test_refinement_needs_something_to_refine_against(degraded: HVAE) -> None:
    with pytest.raises(InputError, match="sweeps: need encoder complete"):
        restore_images(degraded, denoising(), degrade("noise", True), 0.03, exactly(sweeps=1))


def test_conjugates_of_real_images_are_not_views(degraded: HVAE) -> None:
    for real, views in ((True, 4), (False, 8)):
        data = degrade("noise", real)
        term = LeastSquares(denoising(), data, torch.full((2,), 0.05), real)
        assert len(make_posteriors(degraded, term, exactly(views=8))[0]) == views


def test_weights_that_are_refused(scans: HVAE, degraded: HVAE) -> None:
    data, without = degrade("noise", True), dataclasses.replace(SMALL, masked=False)
    for model in (scans, small_model(settings=without)):
        with pytest.raises(InputError, match="no posterior for degraded images; choose restoration, or encoder comp"):
            restore_images(model, denoising(), data, 0.03)
    pictures = small_model(settings=dataclasses.replace(without, real=True))
    with pytest.raises(InputError, match="are for pictures, not for scans; choose others, such as default"):
        restore_images(pictures, denoising(), data, 0.03, COMPLETE)
    restore_images(small_model(settings=without), denoising(), data, 0.03, COMPLETE)  # q is enough
    restore_images(degraded, denoising(), data, 0.03, COMPLETE)
    with pytest.raises(InputError, match="no posterior for undersampled scans"):
        reconstruct_scans(degraded, small_kspace(1, 16, 24), every_third(24))
    with pytest.raises(InputError, match="2 numbers for 3 levels"):
        restore_images(degraded, denoising(), data, 0.03, exactly(tau=(0.5, 1.0)))


def test_model_is_left_as_it_was(degraded: HVAE) -> None:
    before = {name: p.clone() for name, p in degraded.named_parameters()}
    found = restore_images(degraded, denoising(), degrade("noise", True), 0.03, exactly())
    assert not found.image.requires_grad and not found.decoded.requires_grad
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in degraded.named_parameters())
