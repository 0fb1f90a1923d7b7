"""Distributions that latents start from: q of full data, r of measurements, and the prior."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import Gaussian, band_coverage


class Encoder(Protocol):
    """The distribution from which the latents of a layer start."""

    def begin_level(self, j: int, state: Tensor, known: Tensor) -> None:
        """Process level j before its first layer: its state, and k-space as far as it is known, (slices, H, W)."""

    def __call__(self, j: int, k: int, state: Tensor, prior: Gaussian) -> Gaussian:
        """Return the distribution of the latents of layer k of level j, whose prior is `prior`."""


class CompleteEncoder:
    """The full-data posterior q(z_l | z_<l, x), of fully sampled k-space (slices, H, W) in model units."""

    def __init__(self, model: HVAE, kspace: Tensor) -> None:
        self.model, self.features = model, model.q.features(kspace)

    def begin_level(self, j: int, state: Tensor, known: Tensor) -> None:
        """Do nothing: the features are all that q needs."""

    def __call__(self, j: int, k: int, state: Tensor, prior: Gaussian) -> Gaussian:
        q: Gaussian = self.model.q(j, k, state, self.features[j])
        return q


class MeasurementEncoder:
    """The measurement-conditioned posterior r(z_l | z_<l, y, A).

    Its inputs are a guess, the data, and how much the data determine; see `MeasurementPosterior.features`.
    """

    def __init__(self, model: HVAE, guess: Tensor, data: Tensor, coverage: Tensor) -> None:
        self.model, self.features = model, model.r.features(guess, data, coverage)
        self.context: dict[int, Tensor] = {}

    def begin_level(self, j: int, state: Tensor, known: Tensor) -> None:
        """Combine the state, the features and the image known so far."""
        self.context[j] = self.model.r.level_features(j, state, self.features[j], self.model.known_image(j, known))

    def __call__(self, j: int, k: int, state: Tensor, prior: Gaussian) -> Gaussian:
        r: Gaussian = self.model.r(j, k, state, self.context[j])
        return r


class PriorEncoder:
    """The prior p(z_l | z_<l).

    With it, iterative inference starts independently of the data; without sweeps, it generates images.
    """

    def begin_level(self, j: int, state: Tensor, known: Tensor) -> None:
        """Do nothing: the prior needs no data."""

    def __call__(self, j: int, k: int, state: Tensor, prior: Gaussian) -> Gaussian:
        return prior


class TruncatedEncoder:
    """Another encoder up to a level; beyond it the prior generates what is missing (IA-HVAE, section 3.4)."""

    def __init__(self, encoder: Encoder, last: int) -> None:
        self.encoder, self.last = encoder, last

    def begin_level(self, j: int, state: Tensor, known: Tensor) -> None:
        """Let the encoder process the level, up to the last one that it is used for."""
        if j <= self.last:
            self.encoder.begin_level(j, state, known)

    def __call__(self, j: int, k: int, state: Tensor, prior: Gaussian) -> Gaussian:
        return self.encoder(j, k, state, prior) if j <= self.last else prior


def measurement_encoder(model: HVAE, guess: Tensor, measured: Tensor, mask: Tensor) -> MeasurementEncoder:
    """Return r of undersampled k-space, its mask and a guess of the fully sampled one, (slices, H, W) each."""
    return MeasurementEncoder(model, guess, measured, band_coverage(mask, model.settings.levels))
