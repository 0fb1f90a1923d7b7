"""The terms of training: their numbers, and which parameters they move."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import complex_normal
from small import SMALL, every_third, small_model, small_scans
from torch.distributions import Normal

from mrihvae.bands import merge, split
from mrihvae.fourier import ifft2c
from mrihvae.model import HVAE, ModelSettings
from mrihvae.objective import (
    MEASURED_WEIGHT,
    PriorTerms,
    Scans,
    likelihood_std,
    masked_means,
    prior_terms,
    rollout,
)

ONE_LEVEL = ModelSettings(widths=(16,), layers=1)


def terms_of(model: HVAE, scans: Scans) -> PriorTerms:
    torch.manual_seed(0)
    return prior_terms(model, scans)


def number(value: torch.Tensor) -> float:
    return float(value.detach())


def fix_decoder(model: HVAE, kspace: torch.Tensor, patch: pytest.MonkeyPatch) -> None:
    """Make the decoder give these bins for any latents."""
    bands = split(kspace, model.settings.levels)
    patch.setattr(model, "head", lambda j, state, shape: bands[j][: len(state)])


@pytest.mark.parametrize("settings", [SMALL, ONE_LEVEL])
@pytest.mark.parametrize("noise", [0.0, 0.02, 3.0])
def test_distortion_is_the_complex_normal_density(
    settings: ModelSettings, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: -log N_C(k; khat, s^2), with variance s^2 / 2 for real and imaginary part, per real dimension."""
    model = small_model(settings=settings)
    scans = small_scans(3, 16, 24)
    scans.noise = torch.tensor([noise, 2 * noise, 0.5])
    khat = scans.kspace + 0.1 * torch.from_numpy(complex_normal((3, 16, 24), 5))
    fix_decoder(model, khat, monkeypatch)
    expected = 0.0
    for k in range(3):
        s = math.sqrt(settings.noise_floor**2 + float(scans.noise[k]) ** 2)
        parts = torch.view_as_real(scans.kspace[k]).double()
        density = Normal(torch.view_as_real(khat[k]).double(), s / math.sqrt(2)).log_prob(parts)
        expected += -float(density.sum()) / (2 * 16 * 24) / 3
    terms = terms_of(model, scans)
    assert number(terms.distortion) == pytest.approx(expected, rel=1e-5)
    assert number(terms.elbo) == pytest.approx(expected + number(terms.kl.sum()), rel=1e-5)


def test_likelihood_std() -> None:
    s = likelihood_std(small_model(), torch.tensor([0.0, 0.04]))
    assert s.tolist() == pytest.approx([0.03, 0.05])


def test_kl_by_hand_on_one_level() -> None:
    """One layer on one level: q and p do not depend on the noise."""
    model, scans = small_model(settings=ONE_LEVEL), small_scans()
    terms = terms_of(model, scans)
    state = model.enter(0, model.begin(2, (16, 24)))
    q = model.q(0, 0, state, model.q.features(scans.kspace)[0])
    prior, _ = model.layers(0)[0].look_ahead(state)
    looked = model.r.look(0, state, model.r.features(scans.measured, scans.mask)[0], ifft2c(scans.measured))
    r = model.r(0, 0, state, looked)
    assert terms.kl.tolist() == pytest.approx([number(q.kl(prior).sum()) / (2 * 2 * 16 * 24)], rel=1e-5)
    assert terms.matching.tolist() == pytest.approx([number(q.kl(r).sum()) / (2 * 2 * 16 * 24)], rel=1e-5)


def test_rollout_and_zero_filled_by_hand() -> None:
    model, scans = small_model(), small_scans(3)
    scans.noise = torch.tensor([0.0, 0.02, 0.04])
    found = rollout(model, scans)
    khat = merge(masked_means(model, scans.measured, scans.mask)).detach()
    weight = torch.where(scans.mask, MEASURED_WEIGHT, 1.0)
    variance = (0.03**2 + scans.noise**2)[:, None, None]
    error = 0.5 * (weight * (scans.kspace - khat).abs() ** 2 / variance).mean()
    zero_filled = 0.5 * ((scans.kspace - scans.measured).abs() ** 2 / variance).mean()
    assert number(found.error) == pytest.approx(number(error), rel=1e-4)
    assert number(found.zero_filled) == pytest.approx(number(zero_filled), rel=1e-4)


def test_perfect_reconstruction_has_no_rollout_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model, scans = small_model(), small_scans()
    fix_decoder(model, scans.kspace, monkeypatch)
    assert number(rollout(model, scans).error) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("weights", [(0.0, 1.0), (0.3, 0.0), (1.0, 0.2)])
def test_loss_is_the_sum(weights: tuple[float, float]) -> None:
    terms = terms_of(small_model(), small_scans())
    parts = [terms.distortion, weights[0] * terms.kl.sum(), weights[1] * terms.matching.sum()]
    assert number(terms.loss(*weights)) == pytest.approx(sum(map(number, parts)), rel=1e-6)
    assert terms.kl.shape == terms.matching.shape == (3,) and terms.active.shape == (6,)
    assert bool((terms.kl > 0).all()) and bool((terms.matching > 0).all())
    assert bool(((terms.active >= 0) & (terms.active <= 1)).all())


Loss = Callable[[HVAE, Scans], torch.Tensor]


def whole_loss(model: HVAE, scans: Scans) -> torch.Tensor:
    return terms_of(model, scans).loss() + rollout(model, scans).error


def gradients(model: HVAE, loss: Loss, scans: Scans) -> dict[str, torch.Tensor | None]:
    model.zero_grad(set_to_none=True)
    loss(model, scans).backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def test_prior_never_sees_the_mask() -> None:
    """Decoder, prior and q get bitwise the same gradients from masks of 3x, of none and of all lines."""
    model = small_model()
    masks = [every_third(24), torch.ones(24, dtype=torch.bool), torch.zeros(24, dtype=torch.bool)]
    found = [gradients(model, whole_loss, small_scans(2, 16, 24, mask)) for mask in masks]
    names = {id(p): name for name, p in model.named_parameters()}
    for parameter in model.prior_parameters():
        name = names[id(parameter)]
        first, second, third = (one[name] for one in found)
        assert first is not None and second is not None and third is not None, name
        assert torch.equal(first, second) and torch.equal(first, third), name
    first, second, _ = (one["r.layers.0.0.expand.weight"] for one in found)
    assert first is not None and second is not None and not torch.equal(first, second)


def test_elbo_moves_the_prior_alone() -> None:
    model = small_model()
    found = gradients(model, lambda model, scans: terms_of(model, scans).elbo, small_scans())
    for name, gradient in found.items():
        if name.startswith("r."):
            assert gradient is None or not gradient.any(), name
        else:
            assert gradient is not None and bool(gradient.any()), name


def test_matching_and_rollout_move_the_masked_posterior_alone() -> None:
    model = small_model()
    losses: list[Loss] = [
        lambda model, scans: terms_of(model, scans).matching.sum(),
        lambda model, scans: rollout(model, scans).error,
    ]
    for loss in losses:
        found = gradients(model, loss, small_scans())
        for name, gradient in found.items():
            if name.startswith("r."):
                assert gradient is not None and bool(gradient.any()), name
            else:
                assert gradient is None or not gradient.any(), name
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_rollout_that_fails_leaves_the_prior_trainable(monkeypatch: pytest.MonkeyPatch) -> None:
    model, scans = small_model(), small_scans()

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("mrihvae.objective.masked_means", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        rollout(model, scans)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_terms_per_dimension_do_not_depend_on_the_number_of_slices() -> None:
    model, one = small_model(settings=ONE_LEVEL), small_scans(1)
    twice = Scans(*(torch.cat((values, values)) for values in (one.kspace, one.measured, one.mask, one.noise)))
    a, b = terms_of(model, one), terms_of(model, twice)
    torch.testing.assert_close(a.kl, b.kl, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(a.matching, b.matching, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rollout(model, one).error, rollout(model, twice).error, rtol=1e-5, atol=1e-6)
