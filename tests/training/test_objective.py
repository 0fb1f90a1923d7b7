"""The terms of training: their numbers, and which parameters they move."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch.distributions import Normal

from mrihvae.inference.latents import likelihood_std
from mrihvae.inference.problem import MultiCoilProblem
from mrihvae.model.bands import merge, split
from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import band_coverage
from mrihvae.model.settings import ModelSettings
from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.degradations import Blur, Inpainting
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.kernels import gaussian_kernel, transfer_of
from mrihvae.physics.mri import Sense
from mrihvae.physics.operators import Operator
from mrihvae.physics.total_variation import first_guess
from mrihvae.pnp.degraded import DegradedPosterior
from mrihvae.training.batches import MEASURED_WEIGHT, DegradedImages, Scans
from mrihvae.training.objective import (
    DEGRADED_FLOOR,
    ERROR_FLOOR,
    GAMMAS,
    GUESS_WEIGHTS,
    PriorTerms,
    decode_means,
    first_guess_step,
    guess_loss,
    match_degraded,
    prior_terms,
    rollout,
    rollout_degraded,
)
from tests.support.files import complex_normal
from tests.support.small import SMALL, every_third, small_model, small_scans
from tests.support.small_coils import calibrated, coil_scans

THREE_CASCADES = dataclasses.replace(SMALL, cascades=3)
ONE_LEVEL = ModelSettings(widths=(16,), layers=1, cascades=1, guess_widths=(16,))


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
    state = model.upsample_state(0, model.begin(2, (16, 24)))
    q = model.q(0, 0, state, model.q.features(scans.kspace)[0])
    prior, _ = model.layers(0)[0].prior_step(state)
    guess = model.r.guesses(scans.measured, scans.mask)[-1]
    features = model.r.features(guess, scans.measured, band_coverage(scans.mask, 1))
    looked = model.r.level_features(0, state, features[0], ifft2c(scans.measured))
    r = model.r(0, 0, state, looked)
    assert terms.kl.tolist() == pytest.approx([number(q.kl(prior).sum()) / (2 * 2 * 16 * 24)], rel=1e-5)
    assert terms.matching.tolist() == pytest.approx([number(q.kl(r).sum()) / (2 * 2 * 16 * 24)], rel=1e-5)


def noisy_scans() -> Scans:
    """Make three scans of different noise, and of different error."""
    scans = small_scans(3)
    kspace = scans.kspace + 0.05 * torch.arange(3)[:, None, None] * torch.from_numpy(complex_normal((3, 16, 24)))
    noise = torch.tensor([0.0, 0.02, 0.04])
    return Scans.of_one_coil(kspace, torch.where(scans.mask, kspace, 0), scans.mask, noise)


def log_error(scans: Scans, estimate: torch.Tensor) -> float:
    """Compute by hand the mean over slices of the logarithm of the weighted squared error."""
    logarithms = []
    for k, khat, mask in zip(scans.kspace, estimate.detach(), scans.mask, strict=True):
        squared = (k - khat).abs().double() ** 2
        total = float(squared[~mask].sum()) + MEASURED_WEIGHT * float(squared[mask].sum())
        logarithms.append(math.log(total / k.numel() + ERROR_FLOOR))
    return sum(logarithms) / len(logarithms)


def in_nats(scans: Scans, estimate: torch.Tensor) -> float:
    """Compute by hand the weighted squared error over s^2, per real dimension."""
    weight = torch.where(scans.mask, MEASURED_WEIGHT, 1.0)
    variance = (0.03**2 + scans.noise**2)[:, None, None]
    return float(0.5 * (weight * (scans.kspace - estimate.detach()).abs() ** 2 / variance).mean())


def test_rollout_by_hand() -> None:
    model, scans = small_model(settings=THREE_CASCADES), noisy_scans()
    found = rollout(model, scans)
    guesses = model.r.guesses(scans.measured, scans.mask)
    khat = merge(decode_means(model, scans.measured, scans.mask, guesses[-1]))
    assert number(found.error) == pytest.approx(in_nats(scans, khat), rel=1e-4)
    assert number(found.guess) == pytest.approx(in_nats(scans, guesses[-1]), rel=1e-4)
    assert number(found.zero_filled) == pytest.approx(in_nats(scans, scans.measured), rel=1e-4)
    assert not any(value.requires_grad for value in (found.error, found.guess, found.zero_filled))

    assert GUESS_WEIGHTS == (0.1, 0.5) and len(guesses) == 4
    first, second, third = (log_error(scans, guess) for guess in guesses[1:])
    of_guess = 0.1 * first + 0.1 * second + 0.5 * third
    assert number(guess_loss(scans, guesses)) == pytest.approx(of_guess, rel=1e-4)
    assert number(found.loss) == pytest.approx(log_error(scans, khat) + of_guess, rel=1e-4)


def test_every_scan_counts_alike() -> None:
    """Halving the error of one of three scans takes off a third of log 4, however large its error is."""
    scans = noisy_scans()
    nowhere = torch.zeros_like(scans.mask)
    scans = Scans.of_one_coil(scans.kspace, torch.zeros_like(scans.kspace), nowhere, scans.noise)
    error = torch.from_numpy(complex_normal((3, 16, 24), 1)) * torch.tensor([0.1, 1.0, 10.0])[:, None, None]
    guesses = [scans.kspace, scans.kspace + error]
    before = number(guess_loss(scans, guesses))
    for k in (1, 2):  # the error of the first one comes near the floor
        halved = error.clone()
        halved[k] /= 2
        gain = before - number(guess_loss(scans, [scans.kspace, scans.kspace + halved]))
        assert gain == pytest.approx(0.5 * math.log(4) / 3, rel=1e-3)
    perfect = number(guess_loss(scans, [scans.kspace, scans.kspace.clone()]))
    assert perfect == pytest.approx(0.5 * math.log(ERROR_FLOOR), rel=1e-5)


def test_without_cascades_the_guess_adds_nothing() -> None:
    model, scans = small_model(settings=dataclasses.replace(SMALL, cascades=0)), noisy_scans()
    khat = merge(decode_means(model, scans.measured, scans.mask, first_guess(scans.measured, scans.mask)))
    found = rollout(model, scans)
    assert number(found.loss) == pytest.approx(log_error(scans, khat), rel=1e-4)
    assert number(found.guess) == pytest.approx(in_nats(scans, first_guess(scans.measured, scans.mask)), rel=1e-4)


def test_errors_after_each_u_net_tell_of_dead_ones() -> None:
    model, scans = small_model(settings=dataclasses.replace(SMALL, cascades=2)), noisy_scans()
    with torch.no_grad():
        for parameter in model.r.guess.nets[1].get_submodule("head").parameters():
            parameter.zero_()
    expected = [in_nats(scans, k) for k in model.r.guesses(scans.measured, scans.mask)]
    for found in (rollout(model, scans), first_guess_step(model, scans)):
        assert [number(stage) for stage in found.stages] == pytest.approx(expected, rel=1e-4)
        assert found.stages[0] != found.stages[1] and number(found.stages[2] - found.stages[1]) == pytest.approx(
            0, abs=1e-5
        )
        assert found.guess == found.stages[-1]


def test_second_round_starts_from_its_own_reconstruction() -> None:
    model, scans = small_model(), noisy_scans()
    guess = model.r.guesses(scans.measured, scans.mask)[-1]
    own = merge(decode_means(model, scans.measured, scans.mask, guess))
    assert float((own - scans.measured)[scans.mask].abs().max().detach()) > 0.01  # measured bins are put back
    khat = merge(decode_means(model, scans.measured, scans.mask, torch.where(scans.mask, scans.measured, own)))
    found = rollout(model, scans, second_round=True)
    assert number(found.loss) == pytest.approx(log_error(scans, khat), rel=1e-4)  # of r alone
    assert number(found.error) == pytest.approx(in_nats(scans, khat), rel=1e-4)
    assert number(found.guess) == pytest.approx(in_nats(scans, guess), rel=1e-4)
    assert number(found.error) != pytest.approx(number(rollout(model, scans).error), rel=1e-4)


def test_guess_by_itself() -> None:
    model, scans = small_model(settings=THREE_CASCADES), noisy_scans()
    found, whole = first_guess_step(model, scans), rollout(model, scans)
    guesses = model.r.guesses(scans.measured, scans.mask)
    assert number(found.loss) == pytest.approx(number(guess_loss(scans, guesses)), rel=1e-5)
    assert number(found.error) == number(found.guess) == pytest.approx(number(whole.guess), rel=1e-5)
    assert number(found.zero_filled) == pytest.approx(number(whole.zero_filled), rel=1e-5)


def test_terms_without_matching() -> None:
    model, scans = small_model(), small_scans()
    torch.manual_seed(0)
    without = prior_terms(model, scans, matched=False)
    terms = terms_of(model, scans)
    assert not without.matching.any() and bool(terms.matching.all())
    assert torch.equal(without.kl, terms.kl) and torch.equal(without.distortion, terms.distortion)


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
    return terms_of(model, scans).loss() + rollout(model, scans).loss


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
    """And, of the masked posterior, the first guess is moved by rollouts of the first round and by itself alone."""
    model = small_model(settings=THREE_CASCADES)
    losses: list[tuple[Loss, bool, bool]] = [
        (lambda model, scans: terms_of(model, scans).matching.sum(), True, False),
        (lambda model, scans: rollout(model, scans).loss, True, True),
        (lambda model, scans: rollout(model, scans, second_round=True).loss, True, False),
        (lambda model, scans: first_guess_step(model, scans).loss, False, True),
    ]
    for loss, moves_rest, moves_guess in losses:
        found = gradients(model, loss, small_scans())
        for name, gradient in found.items():
            if name.startswith("r.") and (moves_guess if name.startswith("r.guess.") else moves_rest):
                assert gradient is not None and bool(gradient.any()), name
            else:
                assert gradient is None or not gradient.any(), name
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_rollout_without_gradients() -> None:
    model, scans = small_model(), small_scans()
    for second_round in (False, True):
        with torch.no_grad():
            found = rollout(model, scans, second_round)
        assert not found.loss.requires_grad
        assert number(found.loss) == pytest.approx(number(rollout(model, scans, second_round).loss), rel=1e-5)


def test_rollout_that_fails_leaves_the_prior_trainable(monkeypatch: pytest.MonkeyPatch) -> None:
    model, scans = small_model(), small_scans()

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("mrihvae.training.objective.decode_means", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        rollout(model, scans)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_terms_per_dimension_do_not_depend_on_the_number_of_slices() -> None:
    model, one = small_model(settings=ONE_LEVEL), small_scans(1)
    twice = Scans.of_one_coil(
        *(torch.cat((values, values)) for values in (one.kspace, one.measured, one.mask, one.noise))
    )
    a, b = terms_of(model, one), terms_of(model, twice)
    torch.testing.assert_close(a.kl, b.kl, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(a.matching, b.matching, rtol=1e-5, atol=1e-6)
    for second_round in (False, True):
        first, second = rollout(model, one, second_round), rollout(model, twice, second_round)
        for name in ("loss", "error", "guess", "zero_filled"):
            assert number(getattr(first, name)) == pytest.approx(number(getattr(second, name)), rel=1e-5, abs=1e-6)


DEGRADED = dataclasses.replace(THREE_CASCADES, degraded=True)


def degraded_images(blurred: bool = False, real: bool = True) -> DegradedImages:
    """Make two noisy images with holes, or blurred, on a size that needs margins."""
    truth = ifft2c(small_scans(2, 15, 22).kspace)
    truth = truth.abs() if real else truth
    operator: Operator = Inpainting(torch.rand(2, 15, 22, generator=torch.Generator().manual_seed(0)) < 0.7)
    if blurred:
        operator = Blur(transfer_of(gaussian_kernel(1.0), (15, 22)))
    noise = torch.from_numpy(complex_normal((2, 15, 22), 3)) * torch.tensor([0.02, 0.05])[:, None, None]
    data = operator.forward(truth + (noise.real * 2**0.5 if real else noise))
    return DegradedImages(truth.to(torch.complex64), LeastSquares(operator, data, torch.tensor([0.02, 0.05]), real))


def by_hand(values: torch.Tensor) -> tuple[float, float]:
    """Compute the mean log-error of k-space, and its error in nats, of two slices with noise of 0.02 and 0.05."""
    squared = values.detach().abs().double().square().mean(dim=(-2, -1))
    variance = 0.03**2 + torch.tensor([0.02, 0.05]).double() ** 2
    return float(torch.log(squared + DEGRADED_FLOOR).mean()), float(0.5 * (squared / variance).mean())


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize(("start", "seed"), [("guess", 0), ("beginning", 0), *(("round", seed) for seed in (0, 3, 4))])
def test_rollout_of_degraded_images_by_hand(start: str, seed: int, real: bool) -> None:
    model, batch = small_model(settings=DEGRADED), degraded_images(real=real)
    posterior = DegradedPosterior(model, batch.term)
    truth, guesses = posterior.kspace(batch.images), posterior.guesses()
    looked_at = guesses[0] if start == "beginning" else guesses[-1]
    torch.manual_seed(seed)
    if start == "round":
        gamma = GAMMAS[0] * (GAMMAS[1] / GAMMAS[0]) ** float(torch.rand(()))
        assert GAMMAS[0] < gamma < GAMMAS[1]
        rounds = (1, 1, 2, 5)[int(torch.randint(4, ()))]
        assert rounds == {0: 5, 3: 1, 4: 2}[seed]
        for _ in range(rounds):
            looked_at = posterior.kspace(batch.term.prox(posterior.image(posterior.decode_means(looked_at)), gamma))
    of_r, error = by_hand(posterior.decode_means(looked_at) - truth)
    of_guesses = [by_hand(guess - truth)[0] for guess in guesses[1:]]
    weighed = 0.1 * of_guesses[0] + 0.1 * of_guesses[1] + 0.5 * of_guesses[2]
    torch.manual_seed(seed)
    found = rollout_degraded(model, batch, start)
    assert number(found.loss) == pytest.approx(of_r + (0 if start == "round" else weighed), rel=1e-4)
    assert number(found.error) == pytest.approx(error, rel=1e-4)
    assert number(found.guess) == pytest.approx(by_hand(guesses[-1] - truth)[1], rel=1e-4)
    assert number(found.zero_filled) == pytest.approx(by_hand(posterior.data_kspace - truth)[1], rel=1e-4)
    alone = rollout_degraded(model, batch, guess_only=True)
    assert number(alone.loss) == pytest.approx(weighed, rel=1e-4)
    assert number(alone.error) == number(alone.guess) == number(found.guess)


def test_match_degraded_is_the_prior_on_true_images_and_r_on_degraded_ones() -> None:
    model, batch = small_model(settings=DEGRADED), degraded_images()
    posterior = DegradedPosterior(model, batch.term)
    kspace = posterior.kspace(batch.images)
    torch.manual_seed(0)
    found = match_degraded(model, batch)
    nothing = torch.zeros_like(kspace)
    scans = Scans.of_one_coil(kspace, nothing, torch.zeros_like(kspace, dtype=torch.bool), torch.zeros(2))
    torch.manual_seed(0)
    prior = prior_terms(model, scans, matched=False)  # images count as free of noise
    assert torch.equal(found.kl, prior.kl) and torch.equal(found.distortion, prior.distortion)
    assert bool((found.matching > 0).all())
    louder = DegradedImages(batch.images, dataclasses.replace(batch.term, noise=20 * batch.term.noise))
    torch.manual_seed(0)
    other = match_degraded(model, louder)
    assert torch.equal(other.kl, found.kl) and not torch.allclose(other.matching, found.matching)


def test_match_degraded_by_hand_on_one_level() -> None:
    model, batch = small_model(settings=dataclasses.replace(ONE_LEVEL, degraded=True)), degraded_images(blurred=True)
    posterior = DegradedPosterior(model, batch.term)
    kspace, guess = posterior.kspace(batch.images), posterior.guesses()[-1]
    shape = (kspace.shape[-2], kspace.shape[-1])
    state = model.upsample_state(0, model.begin(2, shape))
    q = model.q(0, 0, state, model.q.features(kspace)[0])
    looked = model.r.level_features(
        0, state, model.r.features(guess, posterior.data_kspace, posterior.data_coverage)[0], torch.zeros_like(kspace)
    )
    r = model.r(0, 0, state, looked)
    torch.manual_seed(0)
    terms = match_degraded(model, batch)
    assert terms.matching.tolist() == pytest.approx([number(q.kl(r).sum()) / (2 * kspace.numel())], rel=1e-4)


def test_what_degraded_images_move() -> None:
    """With the prior held, as runs hold it: r, and the first guess where it is not a second round's."""
    model, batch = small_model(settings=DEGRADED), degraded_images(blurred=True)
    for parameter in model.prior_parameters():
        parameter.requires_grad_(False)
    losses: list[tuple[Callable[[], torch.Tensor], bool, bool]] = [
        (lambda: rollout_degraded(model, batch).loss, True, True),
        (lambda: rollout_degraded(model, batch, "beginning").loss, True, True),
        (lambda: rollout_degraded(model, batch, "round").loss, True, False),
        (lambda: rollout_degraded(model, batch, guess_only=True).loss, False, True),
        (lambda: match_degraded(model, batch).loss(), True, False),
    ]
    for loss, moves_rest, moves_guess in losses:
        model.zero_grad(set_to_none=True)
        loss().backward()
        for name, parameter in model.named_parameters():
            moves = name.startswith("r.") and (moves_guess if name.startswith("r.guess.") else moves_rest)
            if name == "r.known.0.weight":  # nothing is known before the first level
                continue
            if moves:
                assert parameter.grad is not None and bool(parameter.grad.any()), name
            else:
                assert parameter.grad is None or not parameter.grad.any(), name
        for start in ("guess", "round"):
            with torch.no_grad():
                assert not rollout_degraded(model, batch, start).loss.requires_grad


def test_degraded_images_without_cascades() -> None:
    model, batch = small_model(settings=dataclasses.replace(DEGRADED, cascades=0)), degraded_images()
    posterior = DegradedPosterior(model, batch.term)
    (guess,) = posterior.guesses()
    found = rollout_degraded(model, batch)
    expected = by_hand(posterior.decode_means(guess) - posterior.kspace(batch.images))
    assert number(found.loss) == pytest.approx(expected[0], rel=1e-4)
    assert number(found.error) == pytest.approx(expected[1], rel=1e-4)


# --- several coils ---------------------------------------------------------------------------------------------------


def problem_of(
    sense: Sense, combined: torch.Tensor, noise: torch.Tensor, first: torch.Tensor | None = None
) -> MultiCoilProblem:
    return MultiCoilProblem(
        mask=sense.mask, noise=noise, scale=torch.ones(len(noise)), padded=(16, 24), sense=sense, combined=combined,
        first=combined if first is None else first,
    )  # fmt: skip


def scans_of_coils(slices: int = 2, coils: int = 3) -> Scans:
    """Make complete scans of coils, combined by their maps, and the problem that the network is given; model units."""
    kspace, maps, _ = coil_scans(slices, coils, 16, 24, noise=0.02)
    sense = Sense(maps.expand(slices, -1, -1, -1), calibrated(24).expand(slices, 16, 24))
    combined = sense.adjoint(kspace)
    noise = torch.full((slices,), 0.02)
    problem = problem_of(sense, combined, noise).with_tv_initialization()
    return Scans(fft2c((maps.conj() * ifft2c(kspace)).sum(dim=1)), problem, noise)


def decoded_by_hand(model: HVAE, problem: MultiCoilProblem, guess: torch.Tensor) -> torch.Tensor:
    """Decode r's means from a guess whose bins on measured lines count as measured, and let the data settle it."""
    measured = torch.where(problem.mask, guess, 0)
    means = merge(decode_means(model, measured, problem.mask, guess))
    return problem.make_consistent(torch.where(problem.mask, guess, means))


def errors_by_hand(scans: Scans, kspace: torch.Tensor) -> tuple[float, float]:
    """Compute the mean log-error, and the error in nats per real dimension."""
    squared = (kspace.detach() - scans.kspace).abs().double().square().mean(dim=(-2, -1))
    logarithm = torch.log(squared + ERROR_FLOOR).mean()
    return float(logarithm), float((0.5 * squared / (0.03**2 + scans.noise.double() ** 2)).mean())


@pytest.mark.parametrize("second", [False, True])
def test_rollout_of_coils_by_hand(second: bool) -> None:
    model, scans = small_model(settings=THREE_CASCADES), scans_of_coils()
    problem = scans.problem
    found = rollout(model, scans, second)
    guesses = problem.guesses(model)
    given = decoded_by_hand(model, problem, guesses[-1]) if second else guesses[-1]
    loss, error = errors_by_hand(scans, decoded_by_hand(model, problem, given))
    first, *ways = (errors_by_hand(scans, guess) for guess in guesses)
    if not second:
        loss += sum(weight * way[0] for weight, way in zip((0.1, 0.1, 0.5), ways, strict=True))
    assert number(found.loss) == pytest.approx(loss, rel=1e-4)
    assert number(found.error) == pytest.approx(error, rel=1e-4)
    assert [number(stage) for stage in found.stages] == pytest.approx([first[1], *(way[1] for way in ways)], rel=1e-4)
    assert number(found.guess) == number(found.stages[-1])
    zero_filled = errors_by_hand(scans, fft2c(problem.combined))[1]
    assert number(found.zero_filled) == pytest.approx(zero_filled, rel=1e-4)
    assert number(found.stages[0]) < number(found.zero_filled)  # total variation undoes some aliasing
    assert not any(value.requires_grad for value in (found.error, found.guess, found.zero_filled, *found.stages))
    with torch.no_grad():
        assert not rollout(model, scans, second).loss.requires_grad


def test_match_coils_is_the_prior_on_complete_scans_and_r_on_the_data() -> None:
    model, scans = small_model(), scans_of_coils()
    problem = scans.problem
    torch.manual_seed(0)
    found = prior_terms(model, scans)
    guess = problem.guesses(model)[-1].detach()
    complete = Scans.of_one_coil(scans.kspace, torch.where(problem.mask, guess, 0), problem.mask, scans.noise)
    torch.manual_seed(0)
    prior = prior_terms(model, complete, matched=False)
    assert torch.equal(found.kl, prior.kl) and torch.equal(found.distortion, prior.distortion)
    assert bool((found.matching > 0).all())


def test_match_coils_by_hand_on_one_level() -> None:
    model, scans = small_model(settings=ONE_LEVEL), scans_of_coils()
    problem = scans.problem
    terms = prior_terms(model, scans)
    state = model.upsample_state(0, model.begin(2, (16, 24)))
    q = model.q(0, 0, state, model.q.features(scans.kspace)[0])
    guess = problem.guesses(model)[-1].detach()
    measured = torch.where(problem.mask, guess, 0)
    features = model.r.features(guess, measured, band_coverage(problem.mask, 1))
    r = model.r(0, 0, state, model.r.level_features(0, state, features[0], ifft2c(measured)))
    assert terms.matching.tolist() == pytest.approx([number(q.kl(r).sum()) / (2 * 2 * 16 * 24)], rel=1e-4)


def test_what_coils_move() -> None:
    """With the prior held, as runs hold it: r, and the first guess where it is not a second round's."""
    model, scans = small_model(settings=THREE_CASCADES), scans_of_coils()
    for parameter in model.prior_parameters():
        parameter.requires_grad_(False)
    losses: list[tuple[Callable[[], torch.Tensor], bool]] = [
        (lambda: rollout(model, scans).loss, True),
        (lambda: rollout(model, scans, second_round=True).loss, False),
        (lambda: prior_terms(model, scans).loss(), False),
    ]
    for loss, moves_guess in losses:
        model.zero_grad(set_to_none=True)
        loss().backward()
        for name, parameter in model.named_parameters():
            if name.startswith("r.") and (moves_guess or not name.startswith("r.guess.")):
                assert parameter.grad is not None and bool(parameter.grad.any()), name
                assert bool(torch.isfinite(parameter.grad).all()), name
            else:
                assert parameter.grad is None or not parameter.grad.any(), name


def test_terms_of_coils_do_not_depend_on_the_number_of_slices() -> None:
    model, one, two = small_model(settings=ONE_LEVEL), scans_of_coils(1), scans_of_coils(2)
    problem = one.problem
    sense = Sense(problem.sense.maps.repeat(2, 1, 1, 1), problem.sense.mask.repeat(2, 1, 1))
    doubled = [value.repeat(2, *(1,) * (value.ndim - 1)) for value in (problem.combined, problem.noise, problem.first)]
    twice = Scans(one.kspace.repeat(2, 1, 1), problem_of(sense, *doubled), one.noise.repeat(2))
    for second in (False, True):
        first, other, different = (rollout(model, scans, second) for scans in (one, twice, two))
        for name in ("loss", "error", "guess", "zero_filled"):
            assert number(getattr(first, name)) == pytest.approx(number(getattr(other, name)), rel=1e-4)
        assert number(first.loss) != pytest.approx(number(different.loss), rel=1e-4)
