"""Reconstruction with a small untrained network: what must hold for any weights."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch

from mrihvae.errors import InputError
from mrihvae.inference import reconstruct as inference
from mrihvae.inference.latents import mixed_seed
from mrihvae.inference.preparation import padded_shape, prepare
from mrihvae.inference.problem import Problem, SingleCoilProblem
from mrihvae.inference.reconstruct import first_estimate, infer, reconstruct, sample, view
from mrihvae.inference.settings import InferenceSettings
from mrihvae.model.bands import merge
from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import Gaussian, band_coverage
from mrihvae.model.settings import ModelSettings
from mrihvae.physics.fourier import center_pad, fft2c, ifft2c
from mrihvae.physics.noise import noise_std
from mrihvae.physics.scaling import kspace_scale, peak_phase
from mrihvae.training.objective import decode_means
from mrihvae.utils.config import with_settings
from tests.support.files import complex_normal
from tests.support.small import SMALL, every_third, small_kspace, small_model


def exactly(**values: Any) -> InferenceSettings:
    """Settings in single precision, in which what should be equal is equal."""
    return with_settings(InferenceSettings(precision="float32"), **values)


AMORTIZED = exactly(views=1, rounds=1, sweeps=0)
SHORT = exactly(views=2, sweeps=2)  # in a second round


@pytest.fixture(scope="module")
def model() -> HVAE:
    return small_model().eval().requires_grad_(False)


def problem_of(kspace: torch.Tensor, mask: torch.Tensor, noise: torch.Tensor) -> Problem:
    """Pose a problem that is in model units already, and on sizes that the network takes."""
    mask = mask.expand(kspace.shape)
    shape = (kspace.shape[-2], kspace.shape[-1])
    measured, scale = torch.where(mask, kspace, 0), torch.ones(len(kspace))
    return SingleCoilProblem(mask=mask, noise=noise, scale=scale, padded=shape, measured=measured, shape=shape)


def bins_of(height: int, width: int, share: float = 0.4) -> torch.Tensor:
    """Mark single bins and the center: bool (H, W)."""
    mask = torch.rand(height, width, generator=torch.Generator().manual_seed(0)) < share
    mask[height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2] = True
    return mask


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Compute the largest difference over the largest magnitude."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("shape", [(640, 372), (320, 320), (196, 128), (128, 126), (97, 131), (5, 7), (8, 8)])
def test_any_size(model: HVAE, shape: tuple[int, int]) -> None:
    kspace, mask = small_kspace(1, *shape), every_third(shape[1])
    images = reconstruct(model, kspace, mask, None, exactly(views=2, sweeps=1))
    assert images.shape == (1, *shape) and images.dtype == torch.complex64
    assert bool(torch.isfinite(images.abs()).all())
    zero_filled = ifft2c(torch.where(mask, kspace, 0))
    assert relative(fft2c(images)[..., mask], kspace[..., mask]) < 1e-5  # measured bins are kept
    assert relative(images, zero_filled) > 1e-3  # and the others are filled


@pytest.mark.parametrize(
    "settings",
    [
        AMORTIZED,
        SHORT,
        exactly(views=1, sweeps=2, rule="adam", loss="l1", combine="variance"),
        exactly(views=1, rounds=1, sweeps=2, rule="gradient", step=1e-3),
    ],
)
def test_result_does_not_depend_on_the_batch(model: HVAE, settings: InferenceSettings) -> None:
    kspace, mask = small_kspace(4, 36, 30, noise=0.05), every_third(30)
    kspace[1] *= 1e3
    kspace[2] = 0
    together = reconstruct(model, kspace, mask, None, settings)
    for k in (0, 1, 3):
        alone = reconstruct(model, kspace[k, None], mask, None, settings)[0]
        assert relative(together[k], alone) < 1e-5, k
    assert not together[2].any() or float(together[2].abs().max()) < 1e-30
    assert relative(reconstruct(model, kspace.flip(0), mask, None, settings).flip(0)[3], together[3]) < 1e-5


@pytest.mark.parametrize(("factor", "tolerance"), [(2.0**-20, 1e-6), (2.0**14, 1e-6), (1e-6, 1e-3), (1e4, 1e-3)])
@pytest.mark.parametrize("combine", ["measured", "variance"])
def test_scale_equivariance(model: HVAE, factor: float, tolerance: float, combine: str) -> None:
    settings = exactly(views=2, sweeps=2, combine=combine)
    kspace, mask = small_kspace(2, 36, 30, noise=0.05), every_third(30)
    images = reconstruct(model, kspace, mask, None, settings)
    assert relative(reconstruct(model, factor * kspace, mask, None, settings) / factor, images) < tolerance


def test_amortized_result_is_scale_equivariant_to_rounding(model: HVAE) -> None:
    kspace, mask = small_kspace(2, 36, 30), every_third(30)
    images = reconstruct(model, kspace, mask, None, AMORTIZED)
    for factor in (1e-6, 1e4, 3.0):
        assert relative(reconstruct(model, factor * kspace, mask, None, AMORTIZED) / factor, images) < 1e-5


@pytest.mark.parametrize(
    "settings",
    [AMORTIZED, SHORT, exactly(sweeps=3, rule="adam", step=0.5, beta=0.1), exactly(sweeps=1, precision="bfloat16")],
)
def test_measured_bins_are_kept(model: HVAE, settings: InferenceSettings) -> None:
    kspace, mask = small_kspace(2, 36, 30, noise=0.2), every_third(30)
    found = fft2c(reconstruct(model, kspace, mask, None, settings))
    assert relative(found[..., mask], kspace[..., mask]) < 1e-5
    assert float(found[..., ~mask].abs().max()) > 0


@pytest.mark.parametrize("shape", [(32, 24), (37, 30)])
def test_fully_sampled_input_returns_the_image(model: HVAE, shape: tuple[int, int]) -> None:
    kspace = small_kspace(2, *shape)
    for mask in (torch.ones(shape[1], dtype=torch.bool), torch.ones(shape, dtype=torch.bool)):
        assert relative(reconstruct(model, kspace, mask, None, SHORT), ifft2c(kspace)) < 1e-5


def test_lines_along_the_other_axis_are_the_transposed_problem(model: HVAE) -> None:
    kspace, mask = small_kspace(2, 36, 30), every_third(36)
    images = reconstruct(model, kspace, mask[:, None], None, SHORT)
    assert images.shape == (2, 36, 30)
    assert torch.equal(images, reconstruct(model, kspace.mT, mask, None, SHORT).mT)
    drawn = sample(model, kspace, mask[:, None], 2, None, AMORTIZED)
    assert drawn.shape == (2, 2, 36, 30)
    assert torch.equal(drawn, sample(model, kspace.mT, mask, 2, None, AMORTIZED).mT)


@pytest.mark.parametrize("settings", [AMORTIZED, SHORT, exactly(views=3, rounds=1, combine="variance")])
def test_any_pattern(model: HVAE, settings: InferenceSettings) -> None:
    kspace, mask = small_kspace(3, 37, 30, noise=0.05), bins_of(37, 30)
    images = reconstruct(model, kspace, mask, None, settings)
    assert images.shape == (3, 37, 30) and bool(torch.isfinite(images.abs()).all())
    found = fft2c(images)
    assert float(found[:, ~mask].abs().mean()) > 1e-2
    if settings.combine == "measured":
        assert relative(found[:, mask], kspace[:, mask]) < 1e-5
    for k in range(3):
        assert relative(images[k], reconstruct(model, kspace[k, None], mask, None, settings)[0]) < 1e-5
    assert torch.equal(reconstruct(model, torch.where(mask, kspace, complex("nan")), mask, None, settings), images)


def test_problem_in_the_networks_units_and_sizes(model: HVAE) -> None:
    kspace, mask = 50 * small_kspace(2, 36, 30, noise=0.05), bins_of(36, 30)
    kspace[1] *= 10
    problem = prepare(model, kspace, mask)
    assert problem.measured.shape == problem.mask.shape == (2, 40, 32) and problem.shape == (36, 30)
    inner = (..., slice(2, 38), slice(1, 31))
    assert torch.equal(problem.mask[inner], mask.expand(2, 36, 30))
    outside = torch.ones(40, 32, dtype=torch.bool)
    outside[inner] = False
    assert bool(problem.mask[:, outside].all()) and not problem.measured[:, outside].any()  # known to be 0
    assert not problem.measured[inner][:, ~mask].any()
    assert kspace_scale(problem.measured).tolist() == pytest.approx([1.0, 1.0], rel=1e-5)
    found = problem.measured[inner] * problem.unit[:, None, None]
    torch.testing.assert_close(found, torch.where(mask, kspace, 0), rtol=1e-5, atol=0)
    estimate = noise_std(torch.where(mask, kspace, 0)) / problem.scale
    assert problem.noise.tolist() == pytest.approx(estimate.tolist(), rel=1e-5)
    assert relative(problem.images(problem.measured), ifft2c(torch.where(mask, kspace, 0))) < 1e-5
    pair = torch.stack((problem.measured, 2 * problem.measured))
    assert torch.equal(problem.images(pair)[0], problem.images(problem.measured))


def test_only_lines_along_the_height_are_turned(model: HVAE) -> None:
    kspace = small_kspace(1, 24, 16)
    along_width, along_height = every_third(16), every_third(24)[:, None]
    for mask, turned in (
        (along_width, False),
        (along_width.expand(24, 16), False),
        (along_height, True),
        (along_height.expand(24, 16), True),
        (bins_of(24, 16), False),
        (along_width & along_height, False),
        (torch.ones(16, dtype=torch.bool), False),
        (torch.zeros(24, 16, dtype=torch.bool), False),
    ):
        problem = prepare(model, kspace, mask)
        assert problem.transposed is turned
        assert problem.measured.shape == ((1, 16, 24) if turned else (1, 24, 16))
        assert problem.images(problem.measured).shape == (1, 24, 16)


@pytest.mark.parametrize(
    ("kspace", "mask", "message"),
    [
        (torch.zeros(24, 16, dtype=torch.complex64), torch.ones(16), "k-space is torch.complex64 of shape (24, 16)"),
        (torch.zeros(1, 24, 16), torch.ones(16), "k-space is torch.float32 of shape (1, 24, 16); give complex"),
        (torch.zeros(1, 24, 16, dtype=torch.complex64), torch.ones(24), "mask of shape (24,) does not fit"),
        (torch.zeros(1, 24, 16, dtype=torch.complex64), torch.ones(16, 24), "mask of shape (16, 24) does not fit"),
        (torch.zeros(1, 24, 16, dtype=torch.complex64), torch.ones(1, 24, 16), "give (W,) or (H, W)"),
    ],
)
def test_refused_inputs(model: HVAE, kspace: torch.Tensor, mask: torch.Tensor, message: str) -> None:
    for call in (lambda: reconstruct(model, kspace, mask), lambda: sample(model, kspace, mask, 2)):
        with pytest.raises(InputError) as caught:
            call()
        assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("start", ["prior", "sample"])
def test_iterative_inference(model: HVAE, start: str) -> None:
    """It starts without a look at the scan, and comes near to what was measured by refinement alone."""
    kspace, mask = small_kspace(2, 32, 24), every_third(24)
    settings = exactly(views=1, rounds=1, start=start, anchor="prior", combine="variance")
    found = {n: fft2c(reconstruct(model, kspace, mask, None, with_settings(settings, sweeps=n))) for n in (0, 1, 4)}
    assert relative(found[0][..., ~mask][0], found[0][..., ~mask][1]) < 1  # of the two slices
    assert relative(found[4], found[0]) > 1e-3 and bool(torch.isfinite(found[4].abs()).all())


@pytest.mark.parametrize("real", [False, True])
def test_weights_without_a_masked_posterior_are_refused(real: bool) -> None:
    settings = dataclasses.replace(SMALL, masked=False, real=real, cascades=0)
    other = small_model(settings=settings)
    for call in (reconstruct, lambda *a: sample(*a, 2)):
        with pytest.raises(InputError, match="these weights have no posterior for undersampled scans"):
            call(other, small_kspace(1, 16, 16), every_third(16))  # type: ignore[operator]


# --- samples ---------------------------------------------------------------------------------------------------------

DRAWS = exactly(sweeps=0)
REFINED = exactly(views=2, sweeps=1)


@pytest.mark.parametrize("settings", [DRAWS, REFINED])
def test_equal_seeds_give_equal_samples(model: HVAE, settings: InferenceSettings) -> None:
    kspace, mask = small_kspace(2, 36, 30, noise=0.05), every_third(30)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    drawn = sample(model, kspace, mask, 3, None, settings, seed=5)
    assert drawn.shape == (3, 2, 36, 30) and drawn.dtype == torch.complex64
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(sample(model, kspace, mask, 3, None, settings, seed=5), drawn)
    assert torch.equal(
        sample(model, kspace, mask, 2, None, settings, seed=5), drawn[:2]
    )  # more samples go on from these
    other = sample(model, kspace, mask, 3, None, settings, seed=6)
    everything = torch.cat((drawn, other))
    for one, two in itertools.combinations(everything, 2):
        assert relative(one, two) > 1e-3
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("settings", [DRAWS, REFINED])
@pytest.mark.parametrize("pattern", ["lines", "bins"])
def test_samples_do_not_depend_on_the_batch(model: HVAE, settings: InferenceSettings, pattern: str) -> None:
    kspace, mask = small_kspace(3, 36, 30, noise=0.05), every_third(30) if pattern == "lines" else bins_of(36, 30)
    kspace[1] *= 1e3
    together = sample(model, kspace, mask, 2, None, settings, seed=3)
    for k in range(3):
        alone = sample(model, kspace[k, None], mask, 2, None, settings, seed=3, first=k)[:, 0]
        assert relative(together[:, k], alone) < 1e-4, k


def test_temperature_0_is_the_mean_path(model: HVAE) -> None:
    """The samples are then the first round of each view in turn."""
    kspace, mask = small_kspace(2, 36, 30, noise=0.05), every_third(30)
    for views in (1, 3):
        settings = exactly(views=views, rounds=1, sweeps=0, temperature=0.0)
        drawn = sample(model, kspace, mask, 2 * views, None, settings)
        assert relative(drawn.mean(dim=0), reconstruct(model, kspace, mask, None, settings)) < 1e-5
        assert torch.equal(drawn[:views], drawn[views:])
        assert torch.equal(sample(model, kspace, mask, 1, None, settings)[0], drawn[0])
    assert relative(drawn[0], drawn[1]) > 1e-3


def test_spread_grows_with_the_temperature(model: HVAE) -> None:
    kspace, mask = small_kspace(1, 36, 30, noise=0.05), every_third(30)
    spreads = []
    for temperature in (0.0, 0.01, 0.1, 0.5, 1.0):
        settings = exactly(views=1, sweeps=0, temperature=temperature)
        drawn = sample(model, kspace, mask, 6, None, settings)
        spreads.append(float((drawn - drawn.mean(dim=0)).abs().square().mean().sqrt()))
    assert spreads[0] < 1e-6 and all(a < b for a, b in itertools.pairwise(spreads))
    assert spreads[2] == pytest.approx(10 * spreads[1], rel=0.1)  # in proportion where the decoder is about linear


@pytest.mark.parametrize("settings", [DRAWS, REFINED, exactly(sweeps=1, temperature=0.3, rule="adam")])
@pytest.mark.parametrize("pattern", ["lines", "bins", "along the height"])
def test_every_sample_keeps_measured_bins(model: HVAE, settings: InferenceSettings, pattern: str) -> None:
    kspace = small_kspace(2, 37, 30, noise=0.2)
    mask = {"lines": every_third(30), "bins": bins_of(37, 30), "along the height": every_third(37)[:, None]}[pattern]
    drawn = fft2c(sample(model, kspace, mask, 3, None, settings))
    mask = mask.expand(37, 30)
    for one in drawn:
        assert relative(one[:, mask], kspace[:, mask]) < 1e-5
    spread = drawn.std(dim=0)
    assert float(spread[:, ~mask].min()) > 0 and float(spread[:, mask].max()) < 1e-3 * float(spread.max())


def test_samples_of_a_complete_scan_are_the_scan(model: HVAE) -> None:
    kspace = small_kspace(1, 24, 16)
    drawn = sample(model, kspace, torch.ones(16, dtype=torch.bool), 2, None, DRAWS)
    assert relative(drawn, ifft2c(kspace).expand(2, -1, -1, -1)) < 1e-5


@pytest.mark.parametrize(("number", "which"), [(1, 1), (2, 2), (4, 1)])
def test_sample_by_hand(model: HVAE, number: int, which: int) -> None:
    """In the sample's view latents of every layer are drawn from r on the way down, beginning at the first guess."""
    kspace, mask = small_kspace(1, 32, 24, noise=0.05), every_third(24)
    settings = exactly(views=3, sweeps=0, temperature=0.7)
    problem = prepare(model, kspace, mask)
    seen = problem.view(which)
    guess = model.r.guesses(seen.measured, seen.mask)[-1]
    generator = torch.Generator().manual_seed(mixed_seed(4, number, 0))
    features = model.r.features(guess, seen.measured, band_coverage(seen.mask, SMALL.levels))
    state, known, bands = model.begin(1, (32, 24)), seen.measured, []
    for j in range(SMALL.levels):
        state = model.upsample_state(j, state)
        context = model.r.level_features(j, state, features[j], model.known_image(j, known))
        for k, layer in enumerate(model.layers(j)):
            r = model.r(j, k, state, context)
            z = r.mu + 0.7 * r.sigma * torch.randn(r.mu.shape[1:], generator=generator)
            _, state = layer.prior_step(state)
            state = layer(state, z)
        hhat = model.head(j, state, (32, 24))
        known = torch.where(seen.mask, known, known + center_pad(hhat, (32, 24)))
        bands.append(hhat)
    expected = view(torch.where(seen.mask, seen.measured, merge(bands)), which)
    drawn = fft2c(sample(model, kspace, mask, 5, None, settings, seed=4))[number]
    assert relative(drawn / problem.unit, expected) < 1e-5


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("rule", ["adam", "gauss-newton"])
@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_refined_samples_of_a_linear_model_follow_its_posterior(
    noise: float, rule: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Randomize-then-optimize is exact for a linear decoder and normal latents (Bardsley et al. 2014).

    Here hhat = z, with real and imaginary part as latent channels, z ~ N(mu, (T sigma)^2), noise s^2 / 2 in each part.
    """
    settings = ModelSettings(
        widths=(16,), layers=1, latents=2, fold=1, cascades=0, guess_widths=(16,), noise_floor=1e-3
    )
    model, shape = small_model(settings=settings).requires_grad_(False), (80, 80)
    mu, sigma, s = 0.3, 0.7, math.sqrt(noise**2 + 1e-6)
    r = Gaussian(torch.full((1, 2, *shape), mu), torch.full((1, 2, *shape), sigma))
    layer = model.layers(0)[0]
    monkeypatch.setattr(model.r, "forward", lambda *_: r)
    monkeypatch.setattr(layer, "prior_step", lambda state: (r, state))
    monkeypatch.setattr(layer, "forward", lambda state, z: z)
    monkeypatch.setattr(model, "head", lambda j, state, shape: torch.complex(state[:, 0], state[:, 1]))
    monkeypatch.setattr(inference, "_combine", lambda y, hhat, *_: hhat)
    y = torch.full((1, *shape), complex(1.5, -0.5))
    mask = bins_of(*shape, share=0.7).expand(y.shape)
    problem = problem_of(y, mask, torch.tensor([noise]))
    generators = [torch.Generator().manual_seed(7)]
    settled = exactly(
        rule=rule, step=0.05 if rule == "adam" else None, iterations=2, temperature=temperature
    )  # two, for bins that are measured or are not
    found = infer(model, problem, problem.measured, settled, 1 if rule == "gauss-newton" else 300, generators)
    sigma = temperature * sigma
    precision = 1 / sigma**2 + 2 / s**2
    for part, value in ((found.real, 1.5), (found.imag, -0.5)):
        inside, outside = part[mask], part[~mask]
        mean, deviation = (mu / sigma**2 + 2 * value / s**2) / precision, precision**-0.5
        assert float(inside.mean()) == pytest.approx(mean, abs=0.1 * deviation)
        assert float(inside.std()) == pytest.approx(deviation, rel=0.06)
        assert float(outside.mean()) == pytest.approx(mu, abs=0.1 * sigma)
        assert float(outside.std()) == pytest.approx(sigma, rel=0.06)


def test_samples_refined_towards_the_prior_are_refused(model: HVAE) -> None:
    """Nothing would hold the draws, and the spread be lost."""
    with pytest.raises(InputError, match="refined with anchor 'posterior'"):
        sample(model, small_kspace(1, 32, 24), every_third(24), 2, None, exactly(sweeps=1, anchor="prior"))
    sample(model, small_kspace(1, 32, 24), every_third(24), 2, None, exactly(sweeps=0, anchor="prior"))


def test_slices_have_draws_of_their_own(model: HVAE) -> None:
    kspace = small_kspace(1, 32, 24).expand(2, -1, -1)
    drawn = sample(model, kspace, every_third(24), 2, None, exactly(sweeps=0))
    assert relative(drawn[:, 0], drawn[:, 1]) > 1e-3


@pytest.mark.parametrize("samples", [0, -1])
def test_no_samples_are_refused(model: HVAE, samples: int) -> None:
    with pytest.raises(InputError, match=f"{samples} samples: draw at least 1"):
        sample(model, small_kspace(1, 16, 16), every_third(16), samples)


# --- reconstruction, further -----------------------------------------------------------------------------------------


def test_mask_shapes_are_equivalent(model: HVAE) -> None:
    kspace, mask = small_kspace(2, 36, 30), every_third(30)
    images = reconstruct(model, kspace, mask, None, AMORTIZED)
    for same in (mask[None], mask.expand(36, 30), mask.to(torch.uint8), mask.float()):
        assert torch.equal(reconstruct(model, kspace, same, None, AMORTIZED), images)


def test_what_is_not_measured_is_ignored(model: HVAE) -> None:
    kspace, mask = small_kspace(2, 36, 30), every_third(30)
    images = reconstruct(model, kspace, mask, None, SHORT)
    spoiled = torch.where(mask, kspace, 1e6 * torch.from_numpy(complex_normal((2, 36, 30))))
    assert torch.equal(reconstruct(model, spoiled, mask, None, SHORT), images)
    spoiled = torch.where(mask, kspace, complex("nan"))
    assert torch.equal(reconstruct(model, spoiled, mask, None, SHORT), images)


@pytest.mark.parametrize("combine", ["measured", "variance"])
def test_nothing_measured_and_nothing_there_give_nothing(model: HVAE, combine: str) -> None:
    settings = exactly(sweeps=1, combine=combine)
    kspace = small_kspace(1, 16, 16)
    for y, mask in ((kspace, torch.zeros(16, dtype=torch.bool)), (0 * kspace, every_third(16))):
        images = reconstruct(model, y, mask, None, settings)
        assert bool(torch.isfinite(images.abs()).all()) and float(images.abs().max()) < 1e-30


def test_input_is_left_as_it_is(model: HVAE) -> None:
    kspace, mask = small_kspace(2, 36, 30), every_third(30)
    copy, mask_copy = kspace.clone(), mask.clone()
    reconstruct(model, kspace, mask, None, SHORT)
    assert torch.equal(kspace, copy) and torch.equal(mask, mask_copy)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_random_generators_play_no_part(model: HVAE) -> None:
    kspace, mask = small_kspace(1, 36, 30), every_third(30)
    torch.manual_seed(1)
    images = reconstruct(model, kspace, mask, None, SHORT)
    torch.manual_seed(2)
    assert torch.equal(reconstruct(model, kspace, mask, None, SHORT), images)


def test_no_sweeps_is_the_mean_of_the_masked_posterior(model: HVAE) -> None:
    kspace, mask = small_kspace(2, 32, 24, noise=0.05), every_third(24)
    measured = torch.where(mask, kspace, 0)
    scale = (kspace_scale(measured) * peak_phase(measured))[:, None, None]
    guess = model.r.guesses(measured / scale, mask.expand(kspace.shape))[-1]
    hhat = scale * merge(decode_means(model, measured / scale, mask.expand(kspace.shape), guess))
    found = fft2c(reconstruct(model, kspace, mask, None, AMORTIZED))
    assert relative(found, torch.where(mask, kspace, hhat)) < 1e-5


def one_round(model: HVAE, problem: Problem, guess: torch.Tensor) -> torch.Tensor:
    """Decode r's means, and keep measured bins."""
    hhat = merge(decode_means(model, problem.measured, problem.mask, guess))
    return torch.where(problem.mask, problem.measured, hhat)


@pytest.mark.parametrize("combine", ["measured", "variance"])
@pytest.mark.parametrize(("rounds", "blend"), [(1, 0.5), (2, 1.0), (2, 0.3), (3, 0.5), (2, 0.0)])
def test_rounds_by_hand(model: HVAE, rounds: int, blend: float, combine: str) -> None:
    """Each round is given the last one's reconstruction, and moves it by the blend where nothing was measured."""
    settings = exactly(views=1, rounds=rounds, blend=blend, sweeps=0, combine=combine)
    kspace, mask = small_kspace(2, 32, 24, noise=0.05), every_third(24).expand(2, 32, 24)
    problem = prepare(model, kspace, mask[0])
    estimate = one_round(model, problem, model.r.guesses(problem.measured, problem.mask)[-1])
    for k in range(rounds - 1):
        if k == rounds - 2:
            assert relative(first_estimate(model, problem, settings), estimate) < 1e-5
        estimate = estimate + blend * (one_round(model, problem, estimate) - estimate)
    estimate = estimate * problem.unit[:, None, None]
    found = fft2c(reconstruct(model, kspace, mask[0], None, settings))
    assert relative(found[~mask], estimate[~mask]) < 1e-5
    if combine == "measured":
        assert relative(found[mask], kspace[mask]) < 1e-5


def test_without_a_second_round_the_estimate_is_the_first_guess(model: HVAE) -> None:
    problem = prepare(model, small_kspace(2, 32, 24), every_third(24))
    guess = model.r.guesses(problem.measured, problem.mask)[-1]
    assert torch.equal(first_estimate(model, problem, exactly(rounds=1)), guess)


def test_sweeps_are_those_of_the_last_round(model: HVAE) -> None:
    kspace, mask = small_kspace(2, 32, 24, noise=0.05), every_third(24)
    problem = prepare(model, kspace, mask)
    for rounds in (2, 3):
        settings = exactly(views=2, rounds=rounds, blend=1.0, sweeps=2)
        guess = first_estimate(model, problem, settings)
        assert torch.equal(guess, first_estimate(model, problem, with_settings(settings, sweeps=0)))
        expected = problem.images(infer(model, problem, guess, settings, 2))
        assert relative(reconstruct(model, kspace, mask, None, settings), expected) < 1e-5
    settings = exactly(views=1, rounds=1, sweeps=2)
    guess = model.r.guesses(problem.measured, problem.mask)[-1]
    expected = problem.images(infer(model, problem, guess, settings, 2))
    assert relative(reconstruct(model, kspace, mask, None, settings), expected) < 1e-5
    one, two = (reconstruct(model, kspace, mask, None, exactly(rounds=k, sweeps=0)) for k in (1, 2))
    assert relative(one, two) > 1e-3


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("shape", [(16, 24), (8, 2), (15, 24), (9, 7)])
def test_views_are_mirrored_images(number: int, shape: tuple[int, int]) -> None:
    image = torch.from_numpy(complex_normal((2, *shape)))
    center = (shape[0] // 2, shape[1] // 2)
    mirrored = image
    if number & 1:  # the conjugate of k-space: the conjugate image, turned by 180 degrees
        mirrored = mirrored.conj().flip(-2, -1).roll((1 - shape[0] % 2, 1 - shape[1] % 2), (-2, -1))
    if number & 2:
        mirrored = mirrored.flip(-1).roll(1 - shape[1] % 2, -1)
    if number & 4:
        mirrored = mirrored.flip(-2).roll(1 - shape[0] % 2, -2)
    seen = view(fft2c(image), number)
    torch.testing.assert_close(ifft2c(seen), mirrored, rtol=0, atol=1e-5)
    assert torch.equal(view(seen, number), fft2c(image))  # its own inverse
    assert torch.equal(seen[:, center[0], center[1]].abs(), fft2c(image)[:, center[0], center[1]].abs())  # DC
    mask = bins_of(*shape)
    assert torch.equal(view(mask, number), view(mask.to(torch.complex64), number).real > 0)
    assert torch.equal(
        view(every_third(shape[1]).expand(shape), number)[0], view(every_third(shape[1])[None], number)[0]
    )


def test_the_eight_views_differ() -> None:
    kspace = torch.from_numpy(complex_normal((1, 16, 24)))
    for one, two in itertools.combinations([view(kspace, number) for number in range(8)], 2):
        assert not torch.equal(one, two)
    assert torch.equal(view(kspace, 0), kspace)


def test_problem_in_a_view(model: HVAE) -> None:
    problem = prepare(model, small_kspace(2, 32, 24), bins_of(32, 24))
    for number in range(8):
        seen = problem.view(number)
        assert torch.equal(seen.measured, view(problem.measured, number))
        assert torch.equal(seen.mask, view(problem.mask, number)) and not seen.measured[~seen.mask].any()
        assert seen.noise is problem.noise and seen.scale is problem.scale
        assert torch.equal(view(view(problem.mask, number), number), problem.mask)


@pytest.mark.parametrize("views", [1, 3, 8])
def test_first_round_is_the_mean_over_views(model: HVAE, views: int) -> None:
    """Each in its own view, from its own first guess."""
    kspace, mask = small_kspace(2, 30, 22, noise=0.05), bins_of(30, 22)
    problem = prepare(model, kspace, mask)
    found = []
    for number in range(views):
        seen = problem.view(number)
        found.append(view(one_round(model, seen, model.r.guesses(seen.measured, seen.mask)[-1]), number))
    for one, two in itertools.combinations(found, 2):
        assert relative(one, two) > 1e-3  # an untrained network prefers an orientation
    expected = problem.images(torch.stack(found).mean(dim=0))
    settings = exactly(views=views, rounds=1, sweeps=0)
    assert relative(reconstruct(model, kspace, mask, None, settings), expected) < 1e-5


def test_with_all_views_the_orientation_of_a_scan_does_not_matter(model: HVAE) -> None:
    """Mirrored scans give mirrored reconstructions."""
    kspace, mask = small_kspace(1, 32, 24, noise=0.05), bins_of(32, 24)
    settings = exactly(views=8, rounds=1, sweeps=1, rule="adam")
    images = fft2c(reconstruct(model, kspace, mask, None, settings))
    for number in range(1, 8):
        found = fft2c(reconstruct(model, view(kspace, number), view(mask, number), None, settings))
        assert relative(view(found, number), images) < 1e-3


def test_gauss_newton_goes_further_in_a_step(model: HVAE) -> None:
    """Where the data count most, one such step fits them better than some of Adam."""
    kspace, mask = small_kspace(1, 32, 24), every_third(24).expand(1, 32, 24)
    problem = problem_of(kspace, mask, torch.full((1,), 1e3))
    misfits = {}
    for rule, sweeps in (("adam", 3), ("gauss-newton", 3)):
        settings = exactly(rule=rule, beta=1e8, iterations=10, combine="variance")
        found = infer(model, problem, problem.measured, settings, sweeps)
        misfits[rule] = float((found - kspace).abs()[mask].square().sum())
    assert misfits["gauss-newton"] < misfits["adam"]


def test_more_sweeps_fit_the_measured_bins_better(model: HVAE) -> None:
    """The decoder's own bins, seen through combine="variance", come nearer to what was measured."""
    shape = (32, 24)
    kspace = small_kspace(1, *shape)
    mask = every_third(24).expand(kspace.shape)
    noise = torch.full((1,), 1e3)  # so large that measured bins count for nothing in the combination
    problem = problem_of(kspace, mask, noise)
    misfits = []
    for sweeps in (0, 5, 40):
        settings = exactly(rule="adam", step=0.1, beta=1e8, combine="variance")
        found = infer(model, problem, problem.measured, settings, sweeps)
        misfits.append(float((found - kspace).abs()[mask].square().sum()))
    assert misfits[0] > misfits[1] > misfits[2]


def test_variance_keeps_measured_bins_without_noise(model: HVAE) -> None:
    kspace, mask = small_kspace(1, 32, 24), every_third(24)
    problem = problem_of(kspace.expand(2, -1, -1).clone(), mask, torch.tensor([0.0, 0.3]))
    measured, mask = problem.measured, problem.mask
    quiet, noisy = infer(model, problem, measured, exactly(combine="variance"), 0)
    hhat = merge(decode_means(model, measured, mask, measured))[0]
    assert torch.equal(quiet[mask[0]], measured[0][mask[0]])
    assert relative(noisy[~mask[0]], hhat[~mask[0]]) < 1e-5
    # on measured bins: between measurement and model, on the straight line
    y, h, x = measured[1][mask[1]], hhat[mask[1]], noisy[mask[1]]
    weight = ((x - h) / (y - h))[(y - h).abs() > 1e-3]
    assert float(weight.imag.abs().max()) < 1e-3
    assert float(weight.real.min()) > 0 and float(weight.real.max()) < 1
    assert float((x - h).abs().mean()) < 0.9 * float((y - h).abs().mean())


def test_more_noise_moves_measured_bins_further_towards_the_model(model: HVAE) -> None:
    kspace, mask = small_kspace(1, 32, 24), every_third(24)
    settings = exactly(combine="variance")
    distances = []
    for noise in (0.0, 0.01, 0.1, 1.0, 100.0):
        problem = problem_of(kspace, mask, torch.tensor([noise]))
        hhat = merge(decode_means(model, problem.measured, problem.mask, problem.measured))
        found = infer(model, problem, problem.measured, settings, 0)
        distances.append(float((found - hhat).abs()[problem.mask].mean()))
    assert all(later < earlier for earlier, later in itertools.pairwise(distances))
    assert distances[-1] < 0.02 * distances[0]


def test_variance_in_the_physical_scale(model: HVAE) -> None:
    """Through `reconstruct`, the noise is that of `noise_std`: scans without any keep their bins, noisy ones do not."""
    settings = exactly(views=1, rounds=1, sweeps=0, combine="variance")
    mask = every_third(48)
    y, x = torch.linspace(-1, 1, 48)[:, None], torch.linspace(-1, 1, 48)
    smooth = fft2c(torch.exp(-8 * (y**2 + x**2)).to(torch.complex64))[None]
    corners = torch.zeros(48, 48, dtype=torch.bool)
    corners[8:40, 12:36] = True
    quiet = torch.where(corners, smooth, 0)
    assert float(noise_std(quiet * mask)) == 0
    assert relative(fft2c(reconstruct(model, quiet, mask, None, settings))[..., mask], quiet[..., mask]) < 1e-5
    noisy = smooth + 0.3 * torch.from_numpy(complex_normal((1, 48, 48)))
    assert relative(fft2c(reconstruct(model, noisy, mask, None, settings))[..., mask], noisy[..., mask]) > 1e-3


@pytest.mark.parametrize(
    "values",
    [
        {"views": 0},
        {"views": 9},
        {"rounds": 0},
        {"start": "prior"},
        {"start": "sample", "views": 1},
        {"blend": -0.1},
        {"blend": 1.1},
        {"blend": math.nan},
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"combine": "mean"},
        {"precision": "float16"},
    ],
)
def test_refused_settings(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be|unknown; choose one of"):
        with_settings(InferenceSettings(), **values)


def test_padded_shape() -> None:
    assert padded_shape((128, 126), 32) == (128, 128)
    assert padded_shape((1, 33), 32) == (32, 64)
    assert padded_shape((64, 96), 8) == (64, 96)
