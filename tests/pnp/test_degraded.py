"""Where degraded images meet the network: frames and their reflections, shares, first guesses."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from mrihvae.inference.encoders import MeasurementEncoder
from mrihvae.inference.latents import infer
from mrihvae.inference.settings import RefinementSettings
from mrihvae.model.hvae import HVAE
from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.degradations import Blur, Inpainting, SuperResolution, denoising
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.kernels import gaussian_kernel, transfer_of
from mrihvae.physics.mri import MaskedFourier
from mrihvae.physics.operators import Linear, Operator
from mrihvae.pnp.degraded import AFTER, BEGINNING, DETAIL, VIEWS, DegradedPosterior, ReflectionPadding, data_coverage
from tests.support.files import complex_normal
from tests.support.small import SMALL, phantom, small_model

DEGRADED = dataclasses.replace(SMALL, degraded=True)
SHAPES = [(1, 1), (1, 9), (2, 3), (5, 7), (3, 17), (8, 16), (30, 27), (9, 1)]
LEVELS, FOLD = 3, 2


@pytest.fixture(scope="module")
def model() -> HVAE:
    return small_model(settings=DEGRADED)


def images(shape: tuple[int, int], real: bool) -> torch.Tensor:
    values = torch.from_numpy(complex_normal((2, *shape)))
    return values.real.contiguous() if real else values


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip_in_every_view(model: HVAE, shape: tuple[int, int], real: bool) -> None:
    x = images(shape, real)
    for view in VIEWS:
        frame = ReflectionPadding(model, shape, real, view)
        kspace = frame.kspace(x)
        assert kspace.dtype == torch.complex64 and all(size % 8 == 0 for size in kspace.shape[-2:])
        assert all(0 <= want - size < 8 for want, size in zip(kspace.shape[-2:], shape, strict=True))
        found = frame.image(kspace)
        assert found.dtype == x.dtype
        torch.testing.assert_close(found, x, rtol=0, atol=2e-6)


@pytest.mark.parametrize("multiple", [8, 32])
@pytest.mark.parametrize("shape", SHAPES)
def test_surroundings_are_the_reflection(shape: tuple[int, int], multiple: int) -> None:
    """Numpy reflects again and again where the margin is wider than the image; one pixel is repeated."""
    model = small_model(settings=dataclasses.replace(DEGRADED, widths=(16,) * (3 if multiple == 8 else 5)))
    assert model.settings.multiple == multiple
    frame, x = ReflectionPadding(model, shape, real=False), images(shape, False)
    margins = []
    for size in shape:
        total = -size % multiple
        margins.append((total // 2, total - total // 2))
    theirs = np.pad(x.numpy(), [(0, 0), *margins], mode="reflect")
    np.testing.assert_array_equal(frame.pad_and_mirror(x).numpy(), theirs)
    torch.testing.assert_close(frame.kspace(x), fft2c(torch.from_numpy(theirs)))


def test_views_are_their_own_inverse_and_differ(model: HVAE) -> None:
    x = images((8, 16), False)
    assert sorted(VIEWS) == list(range(8)) and VIEWS[0] == 0
    turned = [ReflectionPadding(model, (8, 16), False, view).mirror(x) for view in VIEWS]
    for view, one in zip(VIEWS, turned, strict=True):
        assert torch.equal(ReflectionPadding(model, (8, 16), False, view).mirror(one), x)
        same = x.flip([axis for bit, axis in ((2, -1), (4, -2)) if view & bit])
        assert torch.equal(one, same.conj() if view & 1 else same)
    assert len({one.numpy().tobytes() for one in turned}) == 8
    of_real = {ReflectionPadding(model, (8, 16), True, view).mirror(x.real).numpy().tobytes() for view in VIEWS[:4]}
    assert len(of_real) == 4  # the first four views of real images


def test_image_of_a_real_frame_is_the_real_part(model: HVAE) -> None:
    kspace = torch.from_numpy(complex_normal((2, 8, 16)))
    assert torch.equal(ReflectionPadding(model, (8, 16), True).image(kspace), ifft2c(kspace).real)
    torch.testing.assert_close(
        ReflectionPadding(model, (8, 16), True, 6).image(kspace), ifft2c(kspace).real.flip(-1, -2)
    )


def term_of(operator: Operator, shape: tuple[int, int], noise: float | list[float], real: bool = True) -> LeastSquares:
    x = images(shape, real)
    return LeastSquares(operator, operator.forward(x), torch.as_tensor(noise).expand(2), real)


def known(shape: tuple[int, int]) -> torch.Tensor:
    mask = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) < 0.8
    mask[:, :6, 4:12] = False
    return mask


@pytest.mark.parametrize("shape", [(16, 24), (13, 22), (30, 27)])
def test_shares_of_every_operator_are_in_0_to_1(model: HVAE, shape: tuple[int, int]) -> None:
    kernel = gaussian_kernel(1.2, size=min(shape))
    operators: list[Operator] = [
        denoising(),
        Inpainting(known(shape)),
        Inpainting(torch.arange(shape[0])[:, None] % 3 > 0),
        Inpainting(torch.arange(shape[1])[None] % 3 > 0),
        Linear(lambda x: 0.5 * x, lambda y: 0.5 * y),
        Blur(transfer_of(kernel, shape)),
        Blur(torch.cat([transfer_of(kernel, shape), transfer_of(kernel.flip(0), shape)])),
        MaskedFourier(torch.arange(shape[1]) % 2 == 0),
    ]
    if shape == (16, 24):
        operators.append(SuperResolution(transfer_of(kernel, shape), 4))
    for operator in operators:
        for noise in (0.0, 0.03, [0.01, 5.0]):
            real = not isinstance(operator, MaskedFourier)
            x = images(shape, real)
            term = LeastSquares(operator, operator.forward(x), torch.as_tensor(noise).expand(2), real)
            frame = ReflectionPadding(model, shape, real)
            found = data_coverage(term, frame, LEVELS, FOLD)
            assert found.shape[:2] == (2, LEVELS) and bool((found >= 0).all()) and bool((found <= 1 + 1e-6).all())
            folded = [size // FOLD for size in frame.padded]
            assert list(found.shape[2:]) in ([1, 1], folded)
            assert DegradedPosterior(model, term).data_coverage.shape == found.shape


def test_shares_of_noise(model: HVAE) -> None:
    frame = ReflectionPadding(model, (16, 24), True)
    for noise, share in ((0.0, 1.0), (DETAIL, 0.5), (3 * DETAIL, 0.1), (100.0, 0.0)):
        found = data_coverage(term_of(denoising(), (16, 24), noise), frame, LEVELS, FOLD)
        torch.testing.assert_close(found, torch.full((2, LEVELS, 1, 1), share), rtol=0, atol=1e-6)
    each = data_coverage(term_of(denoising(), (16, 24), [0.0, DETAIL]), frame, LEVELS, FOLD)
    torch.testing.assert_close(each[:, 0, 0, 0], torch.tensor([1.0, 0.5]))


def test_shares_of_holes(model: HVAE) -> None:
    mask = torch.ones(16, 24, dtype=torch.bool)
    mask[4:8, 6:12] = False
    mask[10, 20] = False
    found = data_coverage(
        term_of(Inpainting(mask), (16, 24), 0.0), ReflectionPadding(model, (16, 24), True), LEVELS, FOLD
    )
    assert found.shape == (2, LEVELS, 8, 12)
    expected = torch.ones(8, 12)
    expected[2:4, 3:6] = 0
    expected[5, 10] = 0.75  # of a folded pixel, one of four
    torch.testing.assert_close(found, expected.expand(2, LEVELS, 8, 12))
    half = data_coverage(
        term_of(Inpainting(mask), (16, 24), DETAIL), ReflectionPadding(model, (16, 24), True), LEVELS, FOLD
    )
    torch.testing.assert_close(half, 0.5 * found)


def test_shares_fall_over_bands_where_blur_takes_detail(model: HVAE) -> None:
    frame = ReflectionPadding(model, (32, 32), True)
    last = torch.ones(LEVELS)
    for width in (0.5, 1.0, 2.0, 3.0):
        blur = Blur(transfer_of(gaussian_kernel(width, size=31), (32, 32)))
        found = data_coverage(term_of(blur, (32, 32), 0.02), frame, LEVELS, FOLD)[0, :, 0, 0]
        assert bool((found[1:] < found[:-1]).all()) and bool((found < last).all())
        last = found
    coarse = SuperResolution(transfer_of(gaussian_kernel(1.6, size=31), (32, 32)), 4)
    found = data_coverage(term_of(coarse, (32, 32), 0.0), frame, LEVELS, FOLD)[0, :, 0, 0]
    assert float(found[0]) > 0.8 and bool((found[1:] < found[:-1]).all())


@pytest.mark.parametrize("shape", [(16, 24), (13, 22)])
def test_shares_are_mirrored_with_the_view(model: HVAE, shape: tuple[int, int]) -> None:
    term = term_of(Inpainting(known(shape)), shape, 0.02)
    plain = data_coverage(term, ReflectionPadding(model, shape, True), LEVELS, FOLD)
    for view in VIEWS:
        found = data_coverage(term, ReflectionPadding(model, shape, True, view), LEVELS, FOLD)
        assert torch.equal(found, plain.flip([axis for bit, axis in ((2, -1), (4, -2)) if view & bit]))
    assert not torch.equal(plain, plain.flip(-1))


def holes(shape: tuple[int, int], real: bool) -> LeastSquares:
    truth = torch.from_numpy(np.stack([phantom(*shape), phantom(*shape, 1)]))
    phase = torch.linspace(0, 1, shape[0])[:, None].expand_as(truth)
    x = truth if real else torch.polar(truth, phase)
    A = Inpainting(known(shape))
    return LeastSquares(A, A.forward(x + 0.02 * images(shape, real)), torch.tensor([0.02, 0.02]), real)


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("view", [0, 7])
def test_guesses_begin_at_the_data_and_are_consistent_with_them(real: bool, view: int) -> None:
    model = small_model(settings=dataclasses.replace(DEGRADED, cascades=3))
    term = holes((21, 30), real)
    posterior = DegradedPosterior(model, term, view)
    with torch.no_grad():
        guesses = posterior.guesses()
    assert len(guesses) == 4 and len(AFTER) == 2
    torch.testing.assert_close(posterior.image(posterior.data_kspace), term.first_image(), rtol=0, atol=2e-6)
    torch.testing.assert_close(posterior.image(guesses[0]), term.prox(term.first_image(), BEGINNING), rtol=0, atol=2e-6)
    misfit = [float(term.value(posterior.image(guess)).sum()) for guess in guesses]
    size = float(term.value(torch.zeros_like(term.first_image())).sum())
    assert max(misfit) < 0.1 * size
    changed = [float((a - b).abs().max()) for a, b in pairwise(guesses)]
    assert min(changed) > 1e-4


def test_gamma_after_each_u_net(model: HVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second and all further ones are followed by the same, smaller one."""
    deep, asked = small_model(settings=dataclasses.replace(DEGRADED, cascades=4)), []
    plain = LeastSquares.prox

    def prox(self: LeastSquares, v: torch.Tensor, gamma: torch.Tensor | float) -> torch.Tensor:
        asked.append(gamma)
        return plain(self, v, gamma)

    monkeypatch.setattr(LeastSquares, "prox", prox)
    with torch.no_grad():
        DegradedPosterior(deep, holes((16, 16), True)).guesses()
    assert asked == [BEGINNING, AFTER[0], *[AFTER[1]] * 3]


def test_decoded_are_the_means_of_r(model: HVAE) -> None:
    term = holes((16, 24), True)
    posterior = DegradedPosterior(model, term)
    with torch.no_grad():
        guess = posterior.guesses()[-1]
        nothing = torch.zeros_like(guess)
        encoder = MeasurementEncoder(model, guess, posterior.data_kspace, posterior.data_coverage)
        by_hand = infer(model, encoder, nothing, nothing.bool(), torch.ones(2), RefinementSettings(sweeps=0)).kspace
        assert torch.equal(posterior.decode_means(guess), by_hand)
        bins, where, _ = posterior.known_bins(guess)
        assert not bins.any() and not where.any()
        louder = DegradedPosterior(model, dataclasses.replace(term, noise=term.noise * 10))
        assert not torch.allclose(louder.decode_means(guess), by_hand)  # r is told of the noise


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_of_an_image_is_the_mirrored_image(model: HVAE, view: int) -> None:
    """On sizes that need no margins: looking in a view is looking at the mirrored, conjugated image."""
    term = holes((16, 24), False)
    axes = [axis for bit, axis in ((2, -1), (4, -2)) if view & bit]
    assert isinstance(term.operator, Inpainting)
    data = term.data.flip(axes).conj().resolve_conj() if view & 1 else term.data.flip(axes)
    mirrored = LeastSquares(Inpainting(term.operator.mask.flip(axes)), data, term.noise)
    with torch.no_grad():
        in_view, plain = DegradedPosterior(model, term, view), DegradedPosterior(model, mirrored)
        ours, theirs = (posterior.decode_means(posterior.guesses()[-1]) for posterior in (in_view, plain))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
