"""Inference of latents, group by group, with small untrained networks: modes, orders, separable and vanilla."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.inference.encoders import CompleteEncoder, Encoder, MeasurementEncoder, PriorEncoder, TruncatedEncoder
from mrihvae.inference.latents import Inferred, compile_layers, infer
from mrihvae.inference.settings import RULES, RefinementSettings
from mrihvae.model.bands import band_mask, merge, split
from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import band_coverage
from mrihvae.model.settings import ModelSettings
from mrihvae.physics.fourier import center_crop, fft2c, ifft2c
from mrihvae.training.batches import Scans
from mrihvae.training.objective import prior_terms
from mrihvae.utils.config import with_settings
from tests.support.small import SMALL, every_third, small_kspace, small_model

SHAPE = (32, 24)
NONE = RefinementSettings(sweeps=0)
SEPARABLE, VANILLA = SMALL, dataclasses.replace(SMALL, separable=False)
MODELS = {"separable": SEPARABLE, "vanilla": VANILLA}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest) -> HVAE:
    return small_model(settings=MODELS[request.param]).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def separable() -> HVAE:
    return small_model(settings=SEPARABLE).eval().requires_grad_(False)


def problem(slices: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Make complete scans, where they count, and s."""
    kspace = small_kspace(slices, *SHAPE)
    return kspace, torch.ones(kspace.shape, dtype=torch.bool), torch.full((slices,), 0.1)


def decoded(model: HVAE, latents: list[list[Tensor]]) -> list[Tensor]:
    """Decode latents by hand: hhat of every group."""
    state, bands = model.begin(len(latents[0][0]), SHAPE), []
    for group in model.groups:
        for j in group:
            state = model.upsample_state(j, state)
            for layer, z in zip(model.layers(j), latents[j], strict=True):
                _, state = layer.prior_step(state)
                state = layer(state, z)
        bands.append(model.head(group[-1], state, SHAPE))
    return bands


def means(model: HVAE, encoder: Encoder | None, latents: list[list[Tensor]], first: tuple[int, int]) -> list[Tensor]:
    """Compute by hand where the latents of a group start from a layer on, after given ones."""
    state, found = model.begin(len(latents[0][0]), SHAPE), []
    last = next(group[-1] for group in model.groups if first[0] in group)
    for j in range(last + 1):
        state = model.upsample_state(j, state)
        for k, layer in enumerate(model.layers(j)):
            prior, ahead = layer.prior_step(state)
            anchor = prior if encoder is None else encoder(j, k, state, prior)
            z = latents[j][k] if (j, k) < first else anchor.mu
            if (j, k) >= first:
                found.append(z)
            state = layer(ahead, z)
    return found


@pytest.mark.parametrize("start", ["encoder", "prior"])
def test_no_sweeps_is_amortized_inference_or_the_priors_mean(model: HVAE, start: str) -> None:
    kspace, mask, s = problem()
    q = CompleteEncoder(model, kspace)
    found = infer(model, q, kspace, mask, s, with_settings(NONE, start=start))
    assert [len(level) for level in found.latents] == [SMALL.layers] * SMALL.levels
    for group in model.groups:
        expected = means(model, q if start == "encoder" else None, found.latents, (group[0], 0))
        for z, mu in zip([z for j in group for z in found.latents[j]], expected, strict=True):
            torch.testing.assert_close(z, mu)
    for band, expected in zip(found.bands, decoded(model, found.latents), strict=True):
        torch.testing.assert_close(band, expected)
    torch.testing.assert_close(found.kspace, merge(found.bands))
    other = infer(
        model, CompleteEncoder(model, kspace.flip(0)), kspace.flip(0), mask, s, with_settings(NONE, start=start)
    )
    same = float((other.kspace - found.kspace).abs().max()) == 0
    assert same is (start == "prior")  # which does not look at the data


@pytest.mark.parametrize("order", ["together", "layer"])
@pytest.mark.parametrize("start", ["encoder", "prior", "sample"])
@pytest.mark.parametrize("rule", RULES)
def test_refined_latents_decode_nearer_to_the_data(model: HVAE, order: str, start: str, rule: str) -> None:
    kspace, mask, s = problem()
    q = CompleteEncoder(model, kspace)
    step = {"adam": 0.03, "gradient": 1e-4}.get(rule)
    settings = RefinementSettings(start=start, order=order, rule=rule, step=step, sweeps=3, anchor="prior", beta=1.0)

    def errors(refinement: RefinementSettings) -> tuple[Tensor, Inferred]:
        generator = torch.Generator().manual_seed(0)
        draw = (lambda like: torch.randn(like.shape, generator=generator)) if start == "sample" else None
        found = infer(model, q, kspace, mask, s, refinement, draw, traced=True)
        return (found.kspace - kspace).abs().square().sum(dim=(1, 2)), found

    before, _ = errors(with_settings(settings, sweeps=0))
    after, found = errors(settings)
    if order == "together" or model.settings.separable:  # else an encoder without training may undo it further down
        assert bool((after < before).all())
    firsts = [(group[0], 0) for group in model.groups]
    if order == "layer":
        firsts = [(j, k) for j in range(SMALL.levels) for k in range(SMALL.layers)]
    assert list(found.traces) == firsts
    for trace in found.traces.values():
        assert len(trace.objective) == 4 and bool((trace.objective[-1] <= trace.objective[0]).all())


@pytest.mark.parametrize("loss", ["l2", "l1"])
@pytest.mark.parametrize("anchor", ["posterior", "prior"])
def test_objective_by_hand(model: HVAE, loss: str, anchor: str) -> None:
    """It is -log anchor(z) + beta Loss of the group's latents and bins, up to a constant."""
    kspace, mask, s = problem()
    mask = every_third(SHAPE[1]).expand(kspace.shape)
    kspace = torch.where(mask, kspace, 0)
    q = CompleteEncoder(model, kspace)
    settings = RefinementSettings(rule="adam", step=0.03, sweeps=3, loss=loss, anchor=anchor, beta=0.7)
    found = infer(model, q, kspace, mask, s, settings, traced=True)

    def objective(latents: list[list[Tensor]], group: tuple[int, ...], encoded: list[Any]) -> Tensor:
        total: Any = 0
        state, own = model.begin(2, SHAPE), iter(encoded)
        for j in range(group[-1] + 1):
            state = model.upsample_state(j, state)
            for k, layer in enumerate(model.layers(j)):
                prior, ahead = layer.prior_step(state)
                if j in group:
                    a = prior if anchor == "prior" else next(own)
                    total = total - torch.distributions.Normal(a.mu, a.sigma).log_prob(latents[j][k]).sum(dim=(1, 2, 3))
                state = layer(ahead, latents[j][k])
        hhat = model.head(group[-1], state, SHAPE)
        band = model.band(group[-1], SHAPE)
        grid = (hhat.shape[-2], hhat.shape[-1])
        misfit = (center_crop(kspace, grid) - hhat).abs() / 0.1 * (band & center_crop(mask, grid))
        return total + 0.7 * (misfit.square() if loss == "l2" else misfit).sum(dim=(1, 2))

    for group in model.groups:
        state, encoded = model.begin(2, SHAPE), []
        start = means(model, q, found.latents, (group[0], 0))
        begun = [list(level) for level in found.latents]
        for j in group:
            for k in range(SMALL.layers):
                begun[j][k] = start.pop(0)
        for j in range(group[-1] + 1):
            state = model.upsample_state(j, state)
            for k, layer in enumerate(model.layers(j)):
                prior, ahead = layer.prior_step(state)
                encoded.append(q(j, k, state, prior))
                state = layer(ahead, begun[j][k])
        encoded = encoded[group[0] * SMALL.layers :]
        trace = found.traces[group[0], 0]
        expected = objective(found.latents, group, encoded) - objective(begun, group, encoded)
        assert bool((expected < 0).all())
        torch.testing.assert_close(trace.objective[-1] - trace.objective[0], expected, rtol=1e-3, atol=0.05)


def test_gradient_of_a_level_is_that_through_the_whole_decoder(separable: HVAE) -> None:
    """Of the misfit in a level's band, computed from the complete image: no other level has to be run (eq. 6)."""
    kspace, mask, s = problem(1)
    q = CompleteEncoder(separable, kspace)
    found = infer(separable, q, kspace, mask, s, NONE)
    for j in range(SMALL.levels):
        settings = RefinementSettings(
            sweeps=tuple(int(i == j) for i in range(SMALL.levels)), rule="gradient", step=1e-6
        )
        settings = with_settings(settings, anchor="posterior")  # begins at its mean, where it has no gradient
        moved = infer(separable, q, kspace, mask, s, settings).latents[j]
        latents = [[z.clone().requires_grad_() for z in level] for level in found.latents]
        image = ifft2c(merge(decoded(separable, latents)))
        difference = split(fft2c(image - ifft2c(kspace)), SMALL.levels)[j]
        gradients = torch.autograd.grad((difference / 0.1).abs().square().sum(), latents[j])
        trace = infer(separable, q, kspace, mask, s, settings, traced=True).traces[j, 0]
        # in units of the anchor's deviation for the trace's norm, in z for the step
        norm = torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros(())))
        assert float(trace.gradient[0]) == pytest.approx(float(norm), rel=1e-5)
        for z, start, gradient in zip(moved, found.latents[j], gradients, strict=True):
            step = (start - z) / 1e-6
            assert float((step - gradient).norm() / gradient.norm()) < 0.05  # z is rounded
        for other in range(SMALL.levels):
            whole = split(merge(decoded(separable, latents)), SMALL.levels)[other]
            lower = torch.autograd.grad(whole.abs().sum(), latents[j], allow_unused=True, retain_graph=True)
            assert (other < j) == all(g is None or not g.any() for g in lower)


@pytest.mark.parametrize("rule", ["gradient", "gauss-newton"])
def test_layers_in_turn_by_hand(model: HVAE, rule: str) -> None:
    """Algorithm 1: every layer starts after those before it, and later ones complete the group where they start."""
    kspace, mask, s = problem(1)
    q = CompleteEncoder(model, kspace)
    step = 1e-4 if rule == "gradient" else None
    settings = RefinementSettings(order="layer", rule=rule, step=step, sweeps=1, anchor="prior", iterations=1)
    found = infer(model, q, kspace, mask, s, settings)
    positions = [(j, k) for j in range(SMALL.levels) for k in range(SMALL.layers)]
    for j, k in positions:
        start = means(model, q, found.latents, (j, k))
        group = next(group for group in model.groups if j in group)
        z = start[0].clone().requires_grad_()
        rest = iter([z, *start[1:]])
        latents = [[next(rest) if (i, n) >= (j, k) and i in group else found.latents[i][n]
                    for n in range(SMALL.layers)] for i in range(group[-1] + 1)]  # fmt: skip
        state = model.begin(1, SHAPE)
        for i in range(group[-1] + 1):
            state = model.upsample_state(i, state)
            for n, layer in enumerate(model.layers(i)):
                prior, ahead = layer.prior_step(state)
                if (i, n) == (j, k):
                    density = torch.distributions.Normal(prior.mu.detach(), prior.sigma.detach()).log_prob(z).sum()
                state = layer(ahead, latents[i][n])
        hhat = model.head(group[-1], state, SHAPE)
        grid = (hhat.shape[-2], hhat.shape[-1])
        misfit = ((center_crop(kspace, grid) - hhat) / 0.1) * model.band(group[-1], SHAPE)
        (gradient,) = torch.autograd.grad(-density + misfit.abs().square().sum(), z)
        moved = found.latents[j][k] - z.detach()
        if rule == "gradient":
            torch.testing.assert_close(moved, -1e-4 * gradient, rtol=2e-2, atol=2e-6)
        else:
            assert float((moved * gradient).sum()) < 0


def test_one_layer_a_level_makes_both_orders_one() -> None:
    model = small_model(settings=dataclasses.replace(SEPARABLE, layers=1)).requires_grad_(False)
    kspace, mask, s = problem()
    for rule in RULES:
        settings = RefinementSettings(rule=rule, sweeps=2)
        one, two = (
            infer(model, CompleteEncoder(model, kspace), kspace, mask, s, with_settings(settings, order=order)).kspace
            for order in ("together", "layer")
        )
        assert torch.equal(one, two)


def test_sweeps_per_level(separable: HVAE) -> None:
    kspace, mask, s = problem()
    q = CompleteEncoder(separable, kspace)
    plain = infer(separable, q, kspace, mask, s, NONE)
    found = infer(separable, q, kspace, mask, s, RefinementSettings(sweeps=(0, 2, 0)), traced=True)
    assert list(found.traces) == [(1, 0)] and len(found.traces[1, 0].gradient) == 2
    assert torch.equal(found.bands[0], plain.bands[0])
    assert not torch.equal(found.bands[1], plain.bands[1])
    expected = means(separable, q, found.latents, (2, 0))
    assert all(torch.equal(z, mu) for z, mu in zip(found.latents[2], expected, strict=True))


@pytest.mark.parametrize("name", ["sweeps", "beta"])
def test_numbers_for_other_levels_are_refused(separable: HVAE, name: str) -> None:
    kspace, mask, s = problem()
    with pytest.raises(InputError, match=f"{name} .*: 2 numbers for 3 levels; give one, or one per level"):
        infer(separable, PriorEncoder(), kspace, mask, s, RefinementSettings(**{name: (1, 1)}))  # type: ignore[arg-type]


def test_numbers_per_level_need_a_head_for_each() -> None:
    model, (kspace, mask, s) = small_model(settings=VANILLA).requires_grad_(False), problem()
    for values in ({"sweeps": (0, 2, 2)}, {"beta": (1.0, 2.0, 3.0)}, {"beta": (1.0, 2.0, 3.0), "order": "layer"}):
        with pytest.raises(InputError, match="the vanilla decoder has one head for all levels; give one number"):
            infer(model, CompleteEncoder(model, kspace), kspace, mask, s, RefinementSettings(**values))  # type: ignore[arg-type]
    settings = RefinementSettings(sweeps=(0, 1, 0), order="layer")
    found = infer(model, CompleteEncoder(model, kspace), kspace, mask, s, settings, traced=True)
    assert [position for position, trace in found.traces.items() if trace.gradient] == [(1, 0), (1, 1)]


@pytest.mark.parametrize("order", ["together", "layer"])
def test_masked_encoder_looks_at_every_level(model: HVAE, order: str) -> None:
    """Also where one group is all levels, and each layer in turn is completed by all that follow."""
    kspace, mask, s = problem()
    mask = every_third(SHAPE[1]).expand(kspace.shape)
    measured = torch.where(mask, kspace, 0)
    r = MeasurementEncoder(model, measured, measured, band_coverage(mask, 3))
    found = infer(model, r, measured, mask, s, RefinementSettings(order=order), traced=True)
    assert all(bool((trace.objective[-1] <= trace.objective[0]).all()) for trace in found.traces.values())
    plain = infer(model, r, measured, mask, s, with_settings(NONE, order=order))
    assert not torch.equal(found.kspace, plain.kspace)


@pytest.mark.parametrize("order", ["together", "layer"])
def test_draws_stay_when_earlier_latents_move(separable: HVAE, order: str) -> None:
    kspace, mask, s = problem(1)
    generator, drawn = torch.Generator().manual_seed(0), []

    def draw(like: Tensor) -> Tensor:
        drawn.append(torch.randn(like.shape, generator=generator))
        return drawn[-1]

    settings = RefinementSettings(order=order, sweeps=1, anchor="prior")
    infer(separable, CompleteEncoder(separable, kspace), kspace, mask, s, settings, draw)
    assert len(drawn) == SMALL.levels * SMALL.layers


def test_encoder_up_to_a_level(separable: HVAE) -> None:
    kspace, mask, s = problem()
    q = CompleteEncoder(separable, kspace)
    whole, part = (infer(separable, one, kspace, mask, s, NONE) for one in (q, TruncatedEncoder(q, 1)))
    assert all(torch.equal(a, b) for j in (0, 1) for a, b in zip(whole.latents[j], part.latents[j], strict=True))
    for z, mu in zip(part.latents[2], means(separable, None, part.latents, (2, 0)), strict=True):
        torch.testing.assert_close(z, mu)


def test_gauss_newton_never_goes_up(model: HVAE) -> None:
    kspace, mask, s = problem(3)
    kspace[1] *= 30
    for anchor, beta in itertools.product(("posterior", "prior"), (1.0, 100.0)):
        settings = RefinementSettings(sweeps=5, anchor=anchor, beta=beta)
        found = infer(model, CompleteEncoder(model, kspace), kspace, mask, s, settings, traced=True)
        for trace in found.traces.values():
            values = torch.stack(trace.objective)
            assert bool((values[1:] <= values[:-1]).all())
            assert bool((values[-1] < values[0]).all())


def test_masked_encoder_sees_what_is_known_of_the_image(separable: HVAE) -> None:
    """Measured bins, and the decoder's below the level where nothing was measured."""
    kspace, mask, s = problem()
    mask = every_third(SHAPE[1]).expand(kspace.shape)
    measured = torch.where(mask, kspace, 0)
    seen: list[Tensor] = []

    class Watched(MeasurementEncoder):
        def begin_level(self, j: int, state: Tensor, known: Tensor) -> None:
            seen.append(known)
            super().begin_level(j, state, known)

    found = infer(separable, Watched(separable, measured, measured, band_coverage(mask, 3)), measured, mask, s, NONE)
    assert torch.equal(seen[0], measured)
    for j in (1, 2):
        lower = [
            torch.where(band_mask(SHAPE, 3, i), found.bands[i], 0) if i < j else 0 * found.bands[i] for i in range(3)
        ]
        torch.testing.assert_close(seen[j], torch.where(mask, measured, merge(lower)))


def test_vanilla_has_the_same_layers_and_one_head() -> None:
    separable, vanilla = (dict(HVAE(settings).named_parameters()) for settings in (SEPARABLE, VANILLA))
    assert {name for name in separable if name not in vanilla} == {
        name for name in separable if name.startswith(("levels.0.head", "levels.1.head"))
    }
    assert all(separable[name].shape == parameter.shape for name, parameter in vanilla.items())
    assert HVAE(SEPARABLE).groups == [(0,), (1,), (2,)] and HVAE(VANILLA).groups == [(0, 1, 2)]


def test_start_at_samples_needs_draws(separable: HVAE) -> None:
    kspace, mask, s = problem()
    with pytest.raises(ValueError, match="start 'sample' needs draws"):
        infer(separable, PriorEncoder(), kspace, mask, s, RefinementSettings(start="sample"))


def test_compiled_layers_refine_alike(separable: HVAE) -> None:
    compiled = compile_layers(copy.deepcopy(separable), "aot_eager")
    kspace, everywhere, s = problem()
    chosen = RefinementSettings(sweeps=2, rule="adam", anchor="prior")
    encoders = (CompleteEncoder(separable, kspace), CompleteEncoder(compiled, kspace))
    one, other = (infer(e.model, e, kspace, everywhere, s, chosen).kspace for e in encoders)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# --- real images -----------------------------------------------------------------------------------------------------

REAL = dataclasses.replace(SMALL, real=True, channels=3, masked=False, cascades=0)


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("fold", [1, 2])
def test_real_images_stay_real(separable: bool, fold: int) -> None:
    settings = dataclasses.replace(REAL, separable=separable, fold=fold)
    model = small_model(settings=settings).requires_grad_(False)
    images = torch.rand(2, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    kspace = fft2c(images.to(torch.complex64))
    mask, s = torch.ones(kspace.shape, dtype=torch.bool), torch.full((2,), 0.1)
    q = CompleteEncoder(model, kspace)
    errors = []
    for sweeps in (0, 2, 6):
        found = infer(model, q, kspace, mask, s, RefinementSettings(sweeps=sweeps, anchor="prior"), traced=True).kspace
        assert found.shape == kspace.shape
        image = ifft2c(found)
        assert float(image.imag.abs().max() / image.abs().max()) < 1e-6
        errors.append(float((image.real - images).square().mean()))
    assert errors[0] > errors[1] > errors[2]


def test_elbo_of_real_images_by_hand() -> None:
    """Per pixel: log N(x; mu, s^2 / 2), and KL over the number of pixels."""
    model = small_model(settings=REAL).requires_grad_(False)
    images = torch.rand(2, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    kspace = fft2c(images.to(torch.complex64))
    scans = Scans.of_one_coil(kspace, kspace, torch.ones(kspace.shape, dtype=torch.bool), torch.tensor([0.0, 0.2]))
    torch.manual_seed(3)
    terms = prior_terms(model, scans, matched=False)
    torch.manual_seed(3)
    found = infer(model, CompleteEncoder(model, kspace), kspace, scans.mask, torch.ones(2), NONE, torch.randn_like)
    mu, s = ifft2c(found.kspace).real, torch.sqrt(0.03**2 + 2 * scans.noise**2)[:, None, None, None]
    expected = -torch.distributions.Normal(mu, s / 2**0.5).log_prob(images).mean()
    assert float(terms.distortion) == pytest.approx(float(expected), rel=1e-4)
    total, state = torch.zeros(()), model.begin(2, SHAPE)
    q = CompleteEncoder(model, kspace)
    for j in range(SMALL.levels):
        state = model.upsample_state(j, state)
        for k, layer in enumerate(model.layers(j)):
            prior, ahead = layer.prior_step(state)
            total = total + q(j, k, state, prior).kl(prior).sum()
            state = layer(ahead, found.latents[j][k])
    assert float(terms.kl.sum()) == pytest.approx(float(total) / images.numel(), rel=1e-4)


@pytest.mark.parametrize("values", [{"channels": 0}, {"channels": 3}, {"real": True}])
def test_refused_shapes_of_models(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ModelSettings(**values)
