"""What latents start from: q and r as the model has them, the prior, and an encoder up to a level."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mrihvae.inference.encoders import CompleteEncoder, Encoder, PriorEncoder, TruncatedEncoder, measurement_encoder
from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import Gaussian, band_coverage
from tests.support.small import every_third, small_kspace, small_model

SHAPE = (16, 24)
KSPACE, MASK = small_kspace(2, *SHAPE), every_third(SHAPE[1]).expand(2, *SHAPE)
MEASURED = torch.where(MASK, KSPACE, 0)


@pytest.fixture(scope="module")
def model() -> HVAE:
    return small_model().eval().requires_grad_(False)


def entered(model: HVAE, j: int) -> tuple[Tensor, Gaussian]:
    """Give a state of level j, and the prior of its first layer."""
    state = model.begin(2, SHAPE)
    for level in range(j + 1):
        state = model.upsample_state(level, state)
    prior, state = model.layers(j)[0].prior_step(state)
    return state, prior


def same(first: Gaussian, second: Gaussian) -> bool:
    return torch.equal(first.mu, second.mu) and torch.equal(first.sigma, second.sigma)


@pytest.mark.parametrize("j", [0, 2])
def test_q_is_that_of_complete_kspace(model: HVAE, j: int) -> None:
    state, prior = entered(model, j)
    encoder = CompleteEncoder(model, KSPACE)
    encoder.begin_level(j, state, MEASURED)  # what is known so far does not matter
    assert same(encoder(j, 0, state, prior), model.q(j, 0, state, model.q.features(KSPACE)[j]))


@pytest.mark.parametrize("j", [0, 2])
def test_r_is_that_of_a_guess_and_of_what_was_measured(model: HVAE, j: int) -> None:
    state, prior = entered(model, j)
    encoder = measurement_encoder(model, KSPACE, MEASURED, MASK)
    encoder.begin_level(j, state, MEASURED)
    features = model.r.features(KSPACE, MEASURED, band_coverage(MASK, 3))
    look = model.r.level_features(j, state, features[j], model.known_image(j, MEASURED))
    found = encoder(j, 1, state, prior)
    assert same(found, model.r(j, 1, state, look)) and not same(found, encoder(j, 0, state, prior))


def test_r_sees_what_is_known_so_far(model: HVAE) -> None:
    state, prior = entered(model, 1)
    encoder = measurement_encoder(model, KSPACE, MEASURED, MASK)
    found = []
    for known in (MEASURED, KSPACE):
        encoder.begin_level(1, state, known)
        found.append(encoder(1, 0, state, prior))
    assert not same(*found)


def test_a_level_must_be_entered_first(model: HVAE) -> None:
    state, prior = entered(model, 1)
    with pytest.raises(KeyError):
        measurement_encoder(model, KSPACE, MEASURED, MASK)(1, 0, state, prior)


def test_the_prior_is_itself(model: HVAE) -> None:
    state, prior = entered(model, 1)
    encoder = PriorEncoder()
    encoder.begin_level(1, state, KSPACE)
    assert encoder(1, 0, state, prior) is prior


def test_beyond_its_last_level_an_encoder_is_not_called(model: HVAE) -> None:
    calls: list[tuple[str, int]] = []

    class Noted:
        def begin_level(self, j: int, state: Tensor, known: Tensor) -> None:
            calls.append(("begin_level", j))

        def __call__(self, j: int, k: int, state: Tensor, prior: Gaussian) -> Gaussian:
            calls.append(("call", j))
            return Gaussian(prior.mu + 1, prior.sigma)

    noted: Encoder = Noted()
    truncated, (state, prior) = TruncatedEncoder(noted, 1), entered(model, 1)
    for j in range(3):
        truncated.begin_level(j, state, KSPACE)
        assert (truncated(j, 0, state, prior) is prior) is (j == 2)
    assert calls == [("begin_level", 0), ("call", 0), ("begin_level", 1), ("call", 1)]
