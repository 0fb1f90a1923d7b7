"""What training minimizes: the ELBO of the prior, and posterior matching for the measurement-conditioned posterior.

All terms are in nats per real dimension, so that sizes compare: a complex image has 2 H W of them, a real one as many
as pixels in all channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mrihvae.inference.encoders import Encoder, measurement_encoder
from mrihvae.inference.latents import infer, likelihood_std
from mrihvae.inference.settings import RefinementSettings
from mrihvae.model.bands import merge
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fourier import center_crop, center_pad
from mrihvae.pnp.degraded import DegradedPosterior
from mrihvae.training.batches import DegradedImages, Scans, mean_squared

ACTIVE_VARIANCE = 0.01  # Burda et al. 2016: a unit is active if its posterior mean varies more over the data
ERROR_FLOOR = 1e-4  # squared error per bin, in model units, below which less error counts nothing
GUESS_WEIGHTS = (0.1, 0.5)  # of the log-errors of a first guess on its way, and at its end, beside r's own
DEGRADED_FLOOR = 1e-5  # as ERROR_FLOOR, per pixel of degraded images, which have little noise
GAMMAS = (0.01, 0.1)  # of proximal steps between rounds of r on degraded images, drawn evenly in the logarithm
ROUNDS = (1, 1, 2, 5)  # how many such rounds there were before, drawn evenly: with more than one, loops drift less


@dataclass
class PriorTerms:
    """What trains prior, decoder and q, and matches r to q; averaged over slices, in nats per real dimension.

    Attributes
    ----------
    distortion : -E_q log p(k | z)
    kl : KL(q || p) of each level, (J + 1,)
    matching : KL(stopgrad q || r) of each level, (J + 1,)
    active : share of latent channels whose means vary by more than `ACTIVE_VARIANCE`, per layer (L,)
    """

    distortion: Tensor
    kl: Tensor
    matching: Tensor
    active: Tensor

    @property
    def elbo(self) -> Tensor:
        """The negative evidence lower bound, distortion + KL."""
        return self.distortion + self.kl.sum()

    def loss(self, kl_weight: float = 1.0, matching_weight: float = 1.0) -> Tensor:
        """The part of the training loss; prior and r share no gradient, so the sum trains both at once."""
        return self.distortion + kl_weight * self.kl.sum() + matching_weight * self.matching.sum()


@dataclass
class Rollout:
    """What trains r alone.

    Attributes
    ----------
    loss : mean over slices of the logarithm of the squared error, so that every scan's PSNR counts alike: that of
        what the decoder makes of r's means, and, by `GUESS_WEIGHTS`, of the first guess
    error : squared error over s^2 of what the decoder makes of r's means, in nats per real dimension
    guess : the same of the first guess
    zero_filled : the same of zero-filling
    stages : the same before the first U-Net of the first guess and after each; one that is dead changes nothing
    completed : k-space of the first guess, complex (slices, H, W), without gradient
    """

    loss: Tensor
    error: Tensor
    guess: Tensor
    zero_filled: Tensor
    stages: tuple[Tensor, ...] = ()
    completed: Tensor | None = None


def dimensions(model: HVAE, kspace: Tensor) -> int:
    """Count the real numbers that are free in one image, given k-space of some."""
    return (1 if model.settings.real else 2) * kspace[0].numel()


def prior_terms(model: HVAE, scans: Scans, matched: bool = True, guess: Tensor | None = None) -> PriorTerms:
    """Compute -E_q log p(k|z) with z ~ q, KL(q || p), and, if `matched`, KL(stopgrad q || r).

    `guess` is the first guess, complex (slices, H, W), where it is at hand; else it is computed.
    """
    problem = scans.problem
    if not matched:
        return matching_terms(model, scans.kspace, scans.noise, problem.zero_filled, problem.mask)
    if guess is None:
        with torch.no_grad():
            guess = problem.guess(model)
    measured = problem.measured_bins(guess)
    r = measurement_encoder(model, guess, measured, problem.mask)
    return matching_terms(model, scans.kspace, scans.noise, measured, problem.mask, r)


def matching_terms(
    model: HVAE, kspace: Tensor, noise: Tensor, measured: Tensor, mask: Tensor, r: Encoder | None = None
) -> PriorTerms:
    """Compute the terms as `prior_terms` does, with any encoder as the one that is matched to q.

    Parameters
    ----------
    kspace : of fully sampled scans, complex (slices, H, W); of real images (slices, channels, H, W)
    noise : (slices,), its standard deviation per complex bin
    measured, mask : what r is given as acquired, and where, like `kspace`
    r : the encoder, or None
    """
    slices, shape = len(kspace), (kspace.shape[-2], kspace.shape[-1])
    s = likelihood_std(model, noise)
    count = dimensions(model, kspace)
    features_q = model.q.features(kspace)
    state = model.begin(slices, shape)
    known = measured
    error = kspace.real.new_zeros(slices)
    kl, matching, active = [], [], []
    ends = {group[-1] for group in model.groups}
    for j in range(model.settings.levels):
        state = model.upsample_state(j, state, shape)
        if r is not None:
            r.begin_level(j, state.detach(), known)
        kl_level = matching_level = error.new_zeros(())
        for k, layer in enumerate(model.layers(j)):
            q = model.q(j, k, state, features_q[j])
            prior, ahead = layer.prior_step(state)
            if r is not None:
                matching_level = matching_level + q.detach().kl(r(j, k, state.detach(), prior)).sum() / (slices * count)
            state = layer(ahead, q.sample())
            kl_level = kl_level + q.kl(prior).sum() / (slices * count)
            active.append((q.mu.detach().var(dim=(0, 2, 3)) > ACTIVE_VARIANCE).float().mean())
        kl.append(kl_level)
        matching.append(matching_level)
        if j in ends:
            hhat = model.head(j, state, shape)
            grid = (hhat.shape[-2], hhat.shape[-1])
            target = torch.where(model.band(j, shape).to(hhat.device), center_crop(kspace, grid), 0)
            error = error + (target - hhat).abs().square().flatten(1).sum(dim=1) / s**2
            known = known + torch.where(mask, 0, center_pad(hhat.detach(), shape))
    distortion = (error / count + torch.log(s) + 0.5 * math.log(math.pi)).mean()
    return PriorTerms(distortion, torch.stack(kl), torch.stack(matching), torch.stack(active))


def rollout(model: HVAE, scans: Scans, second_round: bool = False) -> Rollout:
    """Decode r's own means by the fixed decoder, as inference does; gradients reach r alone.

    In the second round r is given its own reconstruction as the guess, and the first guess is not trained.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and not second_round):
        guesses = scans.problem.guesses(model)
        guess = guesses[-1]
        if second_round:
            guess = scans.make_consistent(_decode(model, scans, guess), guess)
    frozen = [parameter for parameter in model.prior_parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        estimate = scans.answer(_decode(model, scans, guess), guess)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    errors = scans.errors(estimate)
    loss = torch.log(errors + ERROR_FLOOR).mean()
    if not second_round:
        loss = loss + guess_loss(scans, guesses)
    return _rollout(model, scans, loss, errors, guesses)


def _decode(model: HVAE, scans: Scans, guess: Tensor) -> Tensor:
    """Decode r's means of scans and a guess: complex (slices, H, W)."""
    problem = scans.problem
    return merge(decode_means(model, problem.measured_bins(guess), problem.mask, guess))


def _rollout(model: HVAE, scans: Scans, loss: Tensor, errors: Tensor | None, guesses: list[Tensor]) -> Rollout:
    """Assemble the result of a rollout; without `errors` of r, those of the last guess stand for them."""
    with torch.no_grad():
        variance = likelihood_std(model, scans.noise) ** 2
        zero_filled, *stages = (
            (0.5 * scans.errors(k) / variance).mean() for k in (scans.problem.zero_filled, *guesses)
        )
        error = stages[-1] if errors is None else (0.5 * errors / variance).mean()
    return Rollout(loss, error, stages[-1], zero_filled, tuple(stages), guesses[-1].detach())


def log_errors(errors: list[Tensor], floor: float) -> Tensor:
    """Weigh the logarithms of the errors (slices,) after each U-Net by `GUESS_WEIGHTS`."""
    on_the_way, end = GUESS_WEIGHTS
    total = errors[0].new_zeros(()) if errors else torch.zeros(())
    for error in errors:
        total = total + (end if error is errors[-1] else on_the_way) * torch.log(error + floor).mean()
    return total


def rollout_degraded(model: HVAE, batch: DegradedImages, start: str = "guess", guess_only: bool = False) -> Rollout:
    """Decode r's means of degraded images, as `rollout` does of scans; the guess is one that occurs in the loop.

    Parameters
    ----------
    start : the guess that r is given: "guess", that of the U-Nets; "beginning", what these begin with; "round", its own
        answer after some rounds of proximal steps. With the last the first guess is not trained
    guess_only : whether to do the U-Nets alone, whose error stands for r's
    """
    posterior, second = DegradedPosterior(model, batch.term), start == "round"
    with torch.set_grad_enabled(torch.is_grad_enabled() and not second):
        guesses = posterior.guesses()
        guess = guesses[0] if start == "beginning" else guesses[-1]
        if second:
            gamma = GAMMAS[0] * (GAMMAS[1] / GAMMAS[0]) ** float(torch.rand(()))
            for _ in range(ROUNDS[int(torch.randint(len(ROUNDS), ()))]):
                guess = posterior.kspace(batch.term.prox(posterior.image(posterior.decode_means(guess)), gamma))
    truth = posterior.kspace(batch.images)
    errors = [mean_squared(k - truth) for k in guesses]
    first = mean_squared(posterior.data_kspace - truth)
    loss = log_errors(errors[1:], DEGRADED_FLOOR)
    found = errors[-1]
    if not guess_only:
        found = mean_squared(posterior.decode_means(guess) - truth)
        loss = torch.log(found + DEGRADED_FLOOR).mean() + (0 if second else loss)
    s = likelihood_std(model, batch.term.noise)
    answer, zero_filled, *stages = ((0.5 * e / s**2).mean().detach() for e in (found, first, *errors))
    return Rollout(loss, answer, stages[-1], zero_filled, tuple(stages))


def match_degraded(model: HVAE, batch: DegradedImages) -> PriorTerms:
    """Compute the terms with z ~ q of the true images, and match r of the degraded ones to q."""
    posterior = DegradedPosterior(model, batch.term)
    with torch.no_grad():
        guess = posterior.guesses()[-1]
    kspace = posterior.kspace(batch.images)
    nothing, nowhere = torch.zeros_like(kspace), torch.zeros_like(kspace, dtype=torch.bool)
    noise = torch.zeros_like(batch.term.noise)
    return matching_terms(model, kspace, noise, nothing, nowhere, posterior.encoder(guess))


def first_guess_step(model: HVAE, scans: Scans) -> Rollout:
    """Compute the first guess alone; its error stands for r's."""
    guesses = scans.problem.guesses(model)
    return _rollout(model, scans, guess_loss(scans, guesses), None, guesses)


def guess_loss(scans: Scans, guesses: list[Tensor]) -> Tensor:
    """Weigh the log-errors of the guesses after each U-Net."""
    return log_errors([scans.errors(guess) for guess in guesses[1:]], ERROR_FLOOR)


def decode_means(model: HVAE, measured: Tensor, mask: Tensor, guess: Tensor) -> list[Tensor]:
    """Decode r's means: the amortized reconstruction hhat of every band, complex (slices, h_j, w_j).

    Parameters
    ----------
    measured, mask : y and M, (slices, H, W)
    guess : full k-space for r to start from, complex (slices, H, W)
    """
    s = measured.real.new_ones(len(measured))
    encoder = measurement_encoder(model, guess, measured, mask)
    return infer(model, encoder, measured, mask, s, RefinementSettings(sweeps=0)).bands
