"""The network: shapes, bands, distributions, and which output depends on which latent."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mrihvae.model.bands import band_mask, grids, merge, split
from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import band_coverage, band_images, fold_image, grid_scale
from mrihvae.model.settings import ModelSettings
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.total_variation import first_guess
from mrihvae.training.objective import decode_means
from tests.support.files import complex_normal
from tests.support.small import SMALL, every_third, small_kspace, small_model, small_scans


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(complex_normal(shape, seed))


def decode(model: HVAE, shape: tuple[int, int], latents: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """Decode given latents, a list per level: hhat of every band."""
    state = model.begin(len(latents[0][0]), shape)
    bands = []
    for j in range(model.settings.levels):
        state = model.upsample_state(j, state)
        for layer, z in zip(model.layers(j), latents[j], strict=True):
            _, state = layer.prior_step(state)
            state = layer(state, z)
        bands.append(model.head(j, state, shape))
    return bands


def draw_latents(settings: ModelSettings, shape: tuple[int, int], slices: int = 1) -> list[list[torch.Tensor]]:
    """Draw standard normal latents of all layers."""
    fold = settings.fold
    return [
        [torch.randn(slices, settings.latents * fold**2, h // fold, w // fold) for _ in range(settings.layers)]
        for h, w in grids(shape, settings.levels)
    ]


@pytest.mark.parametrize(
    "settings", [SMALL, ModelSettings(widths=(32, 16), layers=1, latents=2, fold=3, cascades=0, guess_widths=(16,))]
)
def test_one_set_of_weights_takes_every_multiple(settings: ModelSettings) -> None:
    model = small_model(settings=settings)
    m = settings.multiple
    assert m == settings.fold * 2 ** (settings.levels - 1)
    for shape in ((m, m), (m, 3 * m), (5 * m, 2 * m), (4 * m, 4 * m)):
        kspace = small_kspace(2, *shape)
        mask = every_third(shape[1]).expand(kspace.shape)
        with torch.no_grad():
            bands = decode_means(model, torch.where(mask, kspace, 0), mask, kspace)
        assert [tuple(band.shape) for band in bands] == [(2, *grid) for grid in grids(shape, settings.levels)]
        assert all(band.dtype == torch.complex64 and bool(torch.isfinite(band.abs()).all()) for band in bands)
        assert bool((merge(bands).abs() > 0).all())


@pytest.mark.parametrize("shape", [(16, 20), (20, 16), (4, 8), (17, 16)])
def test_other_shapes_raise(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="is not a multiple of 8 on both axes"):
        small_model().begin(1, shape)


@pytest.mark.parametrize("shape", [(16, 24), (40, 8)])
def test_heads_vanish_outside_of_their_band(shape: tuple[int, int]) -> None:
    model = small_model()
    bands = decode(model, shape, draw_latents(SMALL, shape))
    for j, band in enumerate(bands):
        keep = band_mask(shape, SMALL.levels, j)
        assert not band[:, ~keep].any()
        assert bool((band[:, keep].abs() > 0).all())
    for ours, again in zip(bands, split(merge(bands), SMALL.levels), strict=True):
        assert torch.equal(ours, again)


def test_a_band_depends_on_the_latents_of_its_level_and_the_coarser_ones_alone() -> None:
    """The gradient of band j's data term by latents of levels above j is exactly zero (IA-HVAE, eq. 6)."""
    shape = (16, 24)
    model = small_model()
    latents = draw_latents(SMALL, shape)
    for level in latents:
        for z in level:
            z.requires_grad_(True)
    hhat = merge(decode(model, shape, latents))
    y = draw(1, *shape)
    for j, misfit in enumerate(split(y - hhat, SMALL.levels)):
        gradients = torch.autograd.grad(
            (misfit.abs() ** 2).sum(), [z for level in latents for z in level], retain_graph=True, allow_unused=True
        )
        for i, gradient in enumerate(gradients):
            if i // SMALL.layers > j:
                assert gradient is None or not gradient.any(), (i, j)
            else:
                assert gradient is not None and bool(gradient.any()), (i, j)


def test_latents_of_finer_levels_leave_coarser_bands_bitwise_unchanged() -> None:
    shape = (16, 24)
    model = small_model()
    latents = draw_latents(SMALL, shape)
    with torch.no_grad():
        before = decode(model, shape, latents)
        latents[1][0] = latents[1][0] + 1
        after = decode(model, shape, latents)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1]) and not torch.equal(before[2], after[2])


def test_a_new_prior_is_the_standard_normal_and_new_posteriors_are_confident() -> None:
    torch.manual_seed(0)
    model = HVAE(SMALL)
    scans = small_scans()
    state = model.upsample_state(0, model.begin(2, (16, 24)))
    prior, _ = model.layers(0)[0].prior_step(state + 1)
    torch.testing.assert_close(prior.sigma, torch.ones_like(prior.sigma))
    assert not prior.mu.any()
    q = model.q(0, 0, state, model.q.features(scans.kspace)[0])
    assert float(q.sigma.detach().median()) == pytest.approx(0.17, abs=0.05)


def test_known_image_on_the_finest_level_is_the_image() -> None:
    kspace = draw(2, 16, 24)
    assert torch.equal(small_model().known_image(2, kspace), ifft2c(kspace))


def test_grids_keep_the_intensity() -> None:
    model = small_model()
    shape = (64, 48)
    flat = fft2c(torch.ones(1, *shape, dtype=torch.complex64))
    y, x = torch.meshgrid(torch.linspace(-1, 1, shape[0]), torch.linspace(-1, 1, shape[1]), indexing="ij")
    smooth = torch.exp(-8 * (y**2 + x**2)).to(torch.complex64)[None]
    for j, grid in enumerate(grids(shape, 3)):
        image = model.known_image(j, flat)
        assert image.shape == (1, *grid)
        torch.testing.assert_close(image, torch.ones_like(image), atol=1e-6, rtol=0)
        seen = model.known_image(j, fft2c(smooth))
        assert float(seen.real.mean()) == pytest.approx(float(smooth.real.mean()), rel=1e-4)
        assert float(seen.abs().max()) == pytest.approx(1.0, abs=0.02)
    assert grid_scale((16, 12), (64, 48)) == 0.25 and grid_scale(shape, shape) == 1.0


@pytest.mark.parametrize("shape", [(32, 24), (8, 64)])
def test_head_and_band_images_have_the_same_units(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that gives the images which the posteriors see gives the bins of the scan."""
    model, kspace = small_model(), small_kspace(2, *shape)
    images = [fold_image(image, SMALL.fold) for image in band_images(kspace, SMALL.levels)]
    for j, band in enumerate(split(kspace, SMALL.levels)):
        monkeypatch.setattr(model.levels[j].head, "forward", lambda state, j=j: images[j])
        hhat = model.head(j, torch.zeros(2, 16, *images[j].shape[-2:]), shape)
        torch.testing.assert_close(hhat, band, atol=1e-4, rtol=1e-5)


def test_parameters_are_partitioned() -> None:
    model = small_model()
    prior, masked = model.prior_parameters(), model.masked_parameters()
    ids = [id(parameter) for parameter in prior + masked]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters()) and len(set(ids)) == len(ids)
    assert {id(parameter) for parameter in masked} == {id(parameter) for parameter in model.r.parameters()}
    assert prior and masked


def test_slices_do_not_see_each_other() -> None:
    model = small_model()
    scans = small_scans(3, 16, 24)
    with torch.no_grad():
        together = merge(decode_means(model, scans.measured, scans.mask, scans.measured))
        alone = [
            merge(decode_means(model, scans.measured[k, None], scans.mask[k, None], scans.measured[k, None]))[0]
            for k in range(3)
        ]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-5)


def test_masked_posterior_starts_as_q_of_the_first_guess() -> None:
    model, scans = small_model(), small_scans()
    with torch.no_grad():
        for j in range(SMALL.levels):
            model.get_parameter(f"r.mix.{j}.second.bias").zero_()  # as in any network that was not trained
    model.r.start_from(model.q)
    guess = first_guess(scans.measured, scans.mask)
    of_q, of_r = (
        model.q.features(guess),
        model.r.features(guess, scans.measured, band_coverage(scans.mask, SMALL.levels)),
    )
    state = model.begin(2, (16, 24))
    for j in range(SMALL.levels):
        state = model.upsample_state(j, state)
        context = model.r.level_features(j, state, of_r[j], model.known_image(j, scans.measured))
        for k in range(SMALL.layers):
            q, r = model.q(j, k, state, of_q[j]), model.r(j, k, state, context)
            torch.testing.assert_close(r.mu, q.mu, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(r.sigma, q.sigma, rtol=1e-4, atol=1e-4)


def test_same_seed_makes_the_same_weights() -> None:
    def state(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return HVAE(SMALL).state_dict()

    assert all(torch.equal(a, b) for a, b in zip(state(0).values(), state(0).values(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(state(0).values(), state(1).values(), strict=True))


ANY_SIZE = ModelSettings(
    widths=(32, 32, 16, 16), layers=(3, 2, 1, 1), fold=1, any_size=True, guess_fold=2, cascades=2,
    guess_widths=(16, 32, 32),
)  # fmt: skip


@pytest.mark.parametrize("shape", [(16, 16), (22, 34), (18, 50), (14, 46)])
def test_images_of_any_size_need_no_padding(shape: tuple[int, int]) -> None:
    model = small_model(settings=ANY_SIZE)
    assert ANY_SIZE.multiple == 2 and ANY_SIZE.depth == 7
    kspace = small_kspace(2, *shape)
    mask = every_third(shape[1]).expand(kspace.shape)
    measured = torch.where(mask, kspace, 0)
    with torch.no_grad():
        guesses = model.r.guesses(measured, mask)
        bands = decode_means(model, measured, mask, guesses[-1])
    assert [guess.shape for guess in guesses] == [kspace.shape] * 3
    assert [tuple(band.shape) for band in bands] == [(2, *grid) for grid in grids(shape, 4)]
    assert bool((merge(bands).abs() > 0).all())


def test_odd_sizes_take_a_network_without_u_nets() -> None:
    model = small_model(settings=dataclasses.replace(ANY_SIZE, cascades=0))
    assert model.settings.multiple == 1
    kspace = small_kspace(1, 17, 23)
    mask = torch.ones(kspace.shape, dtype=torch.bool)
    with torch.no_grad():
        assert merge(decode_means(model, kspace, mask, kspace)).shape == (1, 17, 23)


def test_grids_that_halve_evenly_give_the_same_without_any_size() -> None:
    model = small_model(settings=ANY_SIZE)
    fixed = HVAE(dataclasses.replace(ANY_SIZE, any_size=False))
    fixed.load_state_dict(model.state_dict())
    kspace = small_kspace(1, 24, 32)
    mask = every_third(32).expand(kspace.shape)
    with torch.no_grad():
        one, other = (merge(decode_means(each, kspace * mask, mask, kspace)) for each in (model, fixed))
    assert torch.equal(one, other)


def test_shared_u_nets_are_one() -> None:
    shared = small_model(settings=dataclasses.replace(ANY_SIZE, guess_shared=True))
    assert len(shared.r.guess.nets) == 1
    kspace = small_kspace(1, 16, 16)
    mask = every_third(16).expand(kspace.shape)
    with torch.no_grad():
        assert len(shared.r.guesses(kspace * mask, mask)) == 3


def test_a_lighter_start_takes_fewer_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def noted(measured: torch.Tensor, mask: torch.Tensor, iterations: int) -> torch.Tensor:
        taken.append(iterations)
        return measured

    monkeypatch.setattr("mrihvae.model.hvae.first_guess", noted)
    kspace = small_kspace(1, 16, 16)
    mask = torch.ones(kspace.shape, dtype=torch.bool)
    for share in (1.0, 0.25, 0.01):
        with torch.no_grad():
            small_model(settings=dataclasses.replace(ANY_SIZE, start_share=share)).r.guesses(kspace, mask)
    assert taken == [15, 4, 1]
