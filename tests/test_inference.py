"""Reconstruction with a small untrained network: what must hold for any weights."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from conftest import complex_normal
from small import SMALL, every_third, small_kspace, small_model

from mrihvae import inference
from mrihvae.bands import band_mask, grids, merge, split
from mrihvae.fourier import centre_crop, fft2c, ifft2c
from mrihvae.inference import InferenceSettings, infer, padded_shape, reconstruct
from mrihvae.model import HVAE, Gaussian, ModelSettings
from mrihvae.objective import masked_means
from mrihvae.units import noise_std, scale_of

AMORTISED = InferenceSettings(sweeps=0)
SHORT = InferenceSettings(sweeps=2)


@pytest.fixture(scope="module")
def model() -> HVAE:
    return small_model().eval().requires_grad_(False)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Compute the largest difference over the largest magnitude."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("shape", [(640, 372), (320, 320), (196, 128), (128, 126), (97, 131), (5, 7), (8, 8)])
def test_any_size(model: HVAE, shape: tuple[int, int]) -> None:
    kspace, mask = small_kspace(1, *shape), every_third(shape[1])
    images = reconstruct(model, kspace, mask, InferenceSettings(sweeps=1))
    assert images.shape == (1, *shape) and images.dtype == torch.complex64
    assert bool(torch.isfinite(images.abs()).all())
    zero_filled = ifft2c(torch.where(mask, kspace, 0))
    assert relative(fft2c(images)[..., mask], kspace[..., mask]) < 1e-5  # measured bins are kept
    assert relative(images, zero_filled) > 1e-3  # and the others are filled


@pytest.mark.parametrize("settings", [AMORTISED, SHORT, InferenceSettings(sweeps=2, loss="l1", combine="variance")])
def test_result_does_not_depend_on_the_batch(model: HVAE, settings: InferenceSettings) -> None:
    kspace, mask = small_kspace(4, 36, 30, noise=0.05), every_third(30)
    kspace[1] *= 1e3
    kspace[2] = 0
    together = reconstruct(model, kspace, mask, settings)
    for k in (0, 1, 3):
        alone = reconstruct(model, kspace[k, None], mask, settings)[0]
        assert relative(together[k], alone) < 1e-5, k
    assert not together[2].any() or float(together[2].abs().max()) < 1e-30
    assert relative(reconstruct(model, kspace.flip(0), mask, settings).flip(0)[3], together[3]) < 1e-5


@pytest.mark.parametrize(("factor", "tolerance"), [(2.0**-20, 1e-6), (2.0**14, 1e-6), (1e-6, 1e-3), (1e4, 1e-3)])
@pytest.mark.parametrize("combine", ["measured", "variance"])
def test_scale_equivariance(model: HVAE, factor: float, tolerance: float, combine: str) -> None:
    settings = InferenceSettings(sweeps=2, combine=combine)
    kspace, mask = small_kspace(2, 36, 30, noise=0.05), every_third(30)
    images = reconstruct(model, kspace, mask, settings)
    assert relative(reconstruct(model, factor * kspace, mask, settings) / factor, images) < tolerance


def test_amortised_result_is_scale_equivariant_to_rounding(model: HVAE) -> None:
    kspace, mask = small_kspace(2, 36, 30), every_third(30)
    images = reconstruct(model, kspace, mask, AMORTISED)
    for factor in (1e-6, 1e4, 3.0):
        assert relative(reconstruct(model, factor * kspace, mask, AMORTISED) / factor, images) < 1e-5


@pytest.mark.parametrize("settings", [AMORTISED, InferenceSettings(sweeps=3, step=0.5, beta=0.1)])
def test_measured_bins_are_kept(model: HVAE, settings: InferenceSettings) -> None:
    kspace, mask = small_kspace(2, 36, 30, noise=0.2), every_third(30)
    found = fft2c(reconstruct(model, kspace, mask, settings))
    assert relative(found[..., mask], kspace[..., mask]) < 1e-5
    assert float(found[..., ~mask].abs().max()) > 0


@pytest.mark.parametrize("shape", [(32, 24), (37, 30)])
def test_fully_sampled_input_returns_the_image(model: HVAE, shape: tuple[int, int]) -> None:
    kspace = small_kspace(2, *shape)
    for mask in (torch.ones(shape[1], dtype=torch.bool), torch.ones(shape, dtype=torch.bool)):
        assert relative(reconstruct(model, kspace, mask, SHORT), ifft2c(kspace)) < 1e-5


def test_lines_along_the_other_axis_are_the_transposed_problem(model: HVAE) -> None:
    kspace, mask = small_kspace(2, 36, 30), every_third(36)
    images = reconstruct(model, kspace, mask[:, None], SHORT)
    assert images.shape == (2, 36, 30)
    assert torch.equal(images, reconstruct(model, kspace.mT, mask, SHORT).mT)


def test_mask_shapes_are_equivalent(model: HVAE) -> None:
    kspace, mask = small_kspace(2, 36, 30), every_third(30)
    images = reconstruct(model, kspace, mask, AMORTISED)
    for same in (mask[None], mask.expand(36, 30), mask.to(torch.uint8), mask.float()):
        assert torch.equal(reconstruct(model, kspace, same, AMORTISED), images)


def test_what_is_not_measured_is_ignored(model: HVAE) -> None:
    kspace, mask = small_kspace(2, 36, 30), every_third(30)
    images = reconstruct(model, kspace, mask, SHORT)
    spoilt = torch.where(mask, kspace, 1e6 * torch.from_numpy(complex_normal((2, 36, 30))))
    assert torch.equal(reconstruct(model, spoilt, mask, SHORT), images)
    spoilt = torch.where(mask, kspace, complex("nan"))
    assert torch.equal(reconstruct(model, spoilt, mask, SHORT), images)


@pytest.mark.parametrize("combine", ["measured", "variance"])
def test_nothing_measured_and_nothing_there_give_nothing(model: HVAE, combine: str) -> None:
    settings = InferenceSettings(sweeps=1, combine=combine)
    kspace = small_kspace(1, 16, 16)
    for y, mask in ((kspace, torch.zeros(16, dtype=torch.bool)), (0 * kspace, every_third(16))):
        images = reconstruct(model, y, mask, settings)
        assert bool(torch.isfinite(images.abs()).all()) and float(images.abs().max()) < 1e-30


def test_input_is_left_as_it_is(model: HVAE) -> None:
    kspace, mask = small_kspace(2, 36, 30), every_third(30)
    copy, mask_copy = kspace.clone(), mask.clone()
    reconstruct(model, kspace, mask, SHORT)
    assert torch.equal(kspace, copy) and torch.equal(mask, mask_copy)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_random_generators_play_no_part(model: HVAE) -> None:
    kspace, mask = small_kspace(1, 36, 30), every_third(30)
    torch.manual_seed(1)
    images = reconstruct(model, kspace, mask, SHORT)
    torch.manual_seed(2)
    assert torch.equal(reconstruct(model, kspace, mask, SHORT), images)


def test_no_sweeps_is_the_mean_of_the_masked_posterior(model: HVAE) -> None:
    kspace, mask = small_kspace(2, 32, 24, noise=0.05), every_third(24)
    measured = torch.where(mask, kspace, 0)
    scale = scale_of(measured)[:, None, None]
    hhat = scale * merge(masked_means(model, measured / scale, mask.expand(kspace.shape)))
    found = fft2c(reconstruct(model, kspace, mask, AMORTISED))
    assert relative(found, torch.where(mask, kspace, hhat)) < 1e-5


def objective_of(
    model: HVAE,
    j: int,
    state: torch.Tensor,
    guess: list[Gaussian],
    latents: list[torch.Tensor],
    residual_of: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    shape: tuple[int, int],
    settings: InferenceSettings,
) -> float:
    """Compute -sum log anchor(z_l) + beta Loss of one level, by hand; the anchor is `guess`, or the prior."""
    y, band, s = residual_of
    total = 0.0
    for layer, r, z in zip(model.layers(j), guess, latents, strict=True):
        prior, state = layer.look_ahead(state)
        anchor = prior if settings.anchor == "prior" else r
        total -= float(torch.distributions.Normal(anchor.mu, anchor.sigma).log_prob(z).double().sum())
        state = layer(state, z)
    misfit = ((y - model.head(j, state, shape)).abs() / s)[band]
    loss = misfit.square() if settings.loss == "l2" else misfit
    return total + settings.beta * float(loss.double().sum())


@pytest.mark.parametrize("anchor", ["posterior", "prior"])
@pytest.mark.parametrize("loss", ["l2", "l1"])
def test_sweeps_lower_the_objective_of_every_level(model: HVAE, loss: str, anchor: str) -> None:
    shape = (32, 24)
    kspace = small_kspace(2, *shape)
    mask = every_third(24).expand(kspace.shape)
    measured = torch.where(mask, kspace, 0)
    y = split(measured, SMALL.levels)
    s = torch.full((2, 1, 1), 0.1)
    state = model.begin(2, shape)
    features = model.r.features(measured, mask)
    for j, grid in enumerate(grids(shape, SMALL.levels)):
        state = model.enter(j, state)
        looked = model.r.look(j, state, features[j], model.known_image(j, measured))
        guess = inference._guess(model, j, state, looked)
        band = band_mask(shape, SMALL.levels, j) & centre_crop(mask, grid)
        values = []
        for sweeps in (0, 3, 30):
            settings = InferenceSettings(sweeps=max(sweeps, 1), step=0.02, loss=loss, anchor=anchor)
            latents = [r.mu for r in guess]
            if sweeps:
                latents = inference._refine(model, j, state, guess, y[j], band, s, shape, settings)
            values.append(objective_of(model, j, state, guess, latents, (y[j], band, s), shape, settings))
        assert values[0] > values[1] > values[2], (j, values)
        state = inference._decode(model, j, state, [r.mu for r in guess])


def test_refinement_without_measured_bins_goes_towards_the_prior(model: HVAE) -> None:
    """With beta = 0 and one layer the latents end at the prior's means."""
    one = small_model(settings=ModelSettings(widths=(16,), layers=1)).requires_grad_(False)
    shape = (8, 8)
    state = one.enter(0, one.begin(1, shape))
    prior, _ = one.layers(0)[0].look_ahead(state)
    first = [Gaussian(prior.mu + 0.5 * prior.sigma, prior.sigma)]
    nothing = torch.zeros(1, *shape, dtype=torch.bool)
    settings = InferenceSettings(sweeps=60, step=0.05, beta=0.0, anchor="prior")
    y, s = torch.zeros(1, *shape, dtype=torch.complex64), torch.ones(1, 1, 1)
    (z,) = inference._refine(one, 0, state, first, y, nothing, s, shape, settings)
    assert float(((z - prior.mu) / prior.sigma).abs().max()) < 0.1


def test_more_sweeps_fit_the_measured_bins_better(model: HVAE) -> None:
    """The decoder's own bins, seen through combine="variance", come nearer to what was measured."""
    shape = (32, 24)
    kspace = small_kspace(1, *shape)
    mask = every_third(24).expand(kspace.shape)
    measured = torch.where(mask, kspace, 0)
    noise = torch.full((1,), 1e3)  # so large that measured bins count for nothing in the combination
    misfits = []
    for sweeps in (0, 5, 40):
        settings = InferenceSettings(sweeps=sweeps, step=0.1, beta=1e8, combine="variance")
        found = infer(model, measured, mask, noise, settings)
        misfits.append(float((found - kspace).abs()[mask].square().sum()))
    assert misfits[0] > misfits[1] > misfits[2]


def test_variance_keeps_measured_bins_without_noise(model: HVAE) -> None:
    kspace, mask = small_kspace(1, 32, 24), every_third(24)
    measured = torch.where(mask, kspace, 0).expand(2, -1, -1).clone()
    mask = mask.expand(measured.shape)
    noise = torch.tensor([0.0, 0.3])
    settings = InferenceSettings(sweeps=0, combine="variance")
    quiet, noisy = infer(model, measured, mask, noise, settings)
    hhat = merge(masked_means(model, measured, mask))[0]
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
    measured, mask = torch.where(mask, kspace, 0), mask.expand(kspace.shape)
    settings = InferenceSettings(sweeps=0, combine="variance")
    hhat = merge(masked_means(model, measured, mask))
    distances = [
        float((infer(model, measured, mask, torch.tensor([noise]), settings) - hhat).abs()[mask].mean())
        for noise in (0.0, 0.01, 0.1, 1.0, 100.0)
    ]
    assert all(later < earlier for earlier, later in itertools.pairwise(distances))
    assert distances[-1] < 0.02 * distances[0]


def test_variance_in_the_physical_scale(model: HVAE) -> None:
    """Through `reconstruct`, the noise is that of `noise_std`: scans without any keep their bins, noisy ones do not."""
    settings = InferenceSettings(sweeps=0, combine="variance")
    mask = every_third(48)
    y, x = torch.linspace(-1, 1, 48)[:, None], torch.linspace(-1, 1, 48)
    smooth = fft2c(torch.exp(-8 * (y**2 + x**2)).to(torch.complex64))[None]
    corners = torch.zeros(48, 48, dtype=torch.bool)
    corners[8:40, 12:36] = True
    quiet = torch.where(corners, smooth, 0)
    assert float(noise_std(quiet * mask)) == 0
    assert relative(fft2c(reconstruct(model, quiet, mask, settings))[..., mask], quiet[..., mask]) < 1e-5
    noisy = smooth + 0.3 * torch.from_numpy(complex_normal((1, 48, 48)))
    assert relative(fft2c(reconstruct(model, noisy, mask, settings))[..., mask], noisy[..., mask]) > 1e-3


@pytest.mark.parametrize(
    "values",
    [
        {"sweeps": -1},
        {"step": 0.0},
        {"step": -0.1},
        {"step": math.nan},
        {"step": math.inf},
        {"beta": -1.0},
        {"beta": math.nan},
        {"loss": "l3"},
        {"combine": "mean"},
    ],
)
def test_refused_settings(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be|unknown; choose one of"):
        InferenceSettings(**values)  # type: ignore[arg-type]


def test_padded_shape() -> None:
    assert padded_shape((128, 126), 32) == (128, 128)
    assert padded_shape((1, 33), 32) == (32, 64)
    assert padded_shape((64, 96), 8) == (64, 96)
