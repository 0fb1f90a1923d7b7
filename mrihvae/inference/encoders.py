"""What says where latents lie: q, which sees complete k-space, r, which sees data, and the prior."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import Gaussian, band_coverage


class Encoder(Protocol):
    """A distribution that the latents of a layer start from."""

    def enter(self, j: int, state: Tensor, known: Tensor) -> None:
        """Look at level j before its first layer: its state, and k-space as far as it is known, (slices, H, W)."""

    def __call__(self, j: int, k: int, state: Tensor, prior: Gaussian) -> Gaussian:
        """Give the distribution of the latents of layer k of level j, whose prior is `prior`."""


class CompleteEncoder:
    """The full-data posterior q(z_l | z_<l, x), of fully sampled k-space (slices, H, W) in model units."""

    def __init__(self, model: HVAE, kspace: Tensor) -> None:
        self.model, self.features = model, model.q.features(kspace)

    def enter(self, j: int, state: Tensor, known: Tensor) -> None:
        """Nothing to look at beside the features."""

    def __call__(self, j: int, k: int, state: Tensor, prior: Gaussian) -> Gaussian:
        q: Gaussian = self.model.q(j, k, state, self.features[j])
        return q


class MeasurementEncoder:
    """The measurement-conditioned posterior r(z_l | z_<l, y, A).

    It sees a guess, the data, and how much they determine; see `MeasurementPosterior.features`.
    """

    def __init__(self, model: HVAE, guess: Tensor, seen: Tensor, shares: Tensor) -> None:
        self.model, self.features = model, model.r.features(guess, seen, shares)
        self.looked: dict[int, Tensor] = {}

    def enter(self, j: int, state: Tensor, known: Tensor) -> None:
        """Look at state, features and the image as it is known so far."""
        self.looked[j] = self.model.r.look(j, state, self.features[j], self.model.known_image(j, known))

    def __call__(self, j: int, k: int, state: Tensor, prior: Gaussian) -> Gaussian:
        r: Gaussian = self.model.r(j, k, state, self.looked[j])
        return r


class PriorEncoder:
    """The prior p(z_l | z_<l).

    With it, iterative inference starts independently of the data, and no sweeps generate images.
    """

    def enter(self, j: int, state: Tensor, known: Tensor) -> None:
        """Nothing to look at."""

    def __call__(self, j: int, k: int, state: Tensor, prior: Gaussian) -> Gaussian:
        return prior


class TruncatedEncoder:
    """Another encoder up to a level; beyond it the prior generates what is missing (IA-HVAE, section 3.4)."""

    def __init__(self, encoder: Encoder, last: int) -> None:
        self.encoder, self.last = encoder, last

    def enter(self, j: int, state: Tensor, known: Tensor) -> None:
        """Let the encoder look, if it is still asked."""
        if j <= self.last:
            self.encoder.enter(j, state, known)

    def __call__(self, j: int, k: int, state: Tensor, prior: Gaussian) -> Gaussian:
        return self.encoder(j, k, state, prior) if j <= self.last else prior


def from_measured(model: HVAE, guess: Tensor, measured: Tensor, mask: Tensor) -> MeasurementEncoder:
    """Make r look at undersampled k-space, its mask and a guess of the complete one, (slices, H, W) each."""
    return MeasurementEncoder(model, guess, measured, band_coverage(mask, model.settings.levels))
