"""Batches to train on, in model units: scans of one coil, scans of several, and degraded images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrihvae.inference.coil_problem import CoilProblem
from mrihvae.model.hvae import HVAE
from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.kernels import squared


@dataclass(frozen=True)
class DegradedImages:
    """A batch of images and what is left of them, in model units.

    Attributes
    ----------
    images : complex (slices, H, W), the truth; of real images the imaginary part is 0
    term : the data
    """

    images: Tensor
    term: LeastSquares


MEASURED_WEIGHT = 0.02  # measured bins are put back after reconstruction; a little weight keeps the states right


@dataclass
class Scans:
    """A batch of fully sampled single-coil scans and what an accelerated acquisition measures of them, in model units.

    Attributes
    ----------
    kspace : complex (slices, H, W), the fully sampled scan k; of real images (slices, channels, H, W)
    measured : complex (slices, H, W), y: noisy, zero where `mask` is False
    mask : bool (slices, H, W)
    noise : (slices,), standard deviation per complex bin of the noise in `kspace`
    """

    kspace: Tensor
    measured: Tensor
    mask: Tensor
    noise: Tensor

    @property
    def zero_filled(self) -> Tensor:
        """The data alone, complex (slices, H, W)."""
        return self.measured

    def guesses(self, model: HVAE) -> list[Tensor]:
        """Complete k-space by total variation and by each U-Net, complex (slices, H, W)."""
        return model.r.guesses(self.measured, self.mask)

    def measured_bins(self, guess: Tensor) -> Tensor:
        """Give the acquired samples, whatever the guess."""
        return self.measured

    def consistent(self, decoded: Tensor, guess: Tensor) -> Tensor:
        """Put the acquired samples back."""
        return torch.where(self.mask, self.measured, decoded)

    def scored(self, decoded: Tensor, guess: Tensor) -> Tensor:
        """Give what counts as the answer of r: the decoder's bins, also where samples were acquired."""
        return decoded

    def errors(self, estimate: Tensor) -> Tensor:
        """Compute the mean squared error of each slice, (slices,); acquired samples count by `MEASURED_WEIGHT`."""
        weight = torch.where(self.mask, MEASURED_WEIGHT, 1.0)
        return (weight * squared(self.kspace - estimate)).mean(dim=(-2, -1))


@dataclass
class CoilScans:
    """A batch of fully sampled multi-coil scans and what an accelerated acquisition measures of them, in model units.

    Attributes
    ----------
    kspace : complex (slices, H, W), of the fully sampled coils combined by the maps
    problem : the data; the network's grid is that of the scan
    noise : (slices,), standard deviation per complex bin of the noise in `kspace`
    """

    kspace: Tensor
    problem: CoilProblem
    noise: Tensor

    @property
    def mask(self) -> Tensor:
        """Mark the bins that count as acquired, bool (slices, H, W)."""
        return self.problem.mask

    @property
    def zero_filled(self) -> Tensor:
        """The data alone, combined by the maps: complex (slices, H, W)."""
        return self.problem.kspace(self.problem.combined)

    def guesses(self, model: HVAE) -> list[Tensor]:
        """Complete k-space by total variation and by each U-Net, complex (slices, H, W)."""
        return self.problem.guesses(model)

    def measured_bins(self, guess: Tensor) -> Tensor:
        """Give the bins of a guess on the acquired lines."""
        return self.problem.measured_bins(guess)

    def consistent(self, decoded: Tensor, guess: Tensor) -> Tensor:
        """Take the guess on the acquired lines, the decoder's bins elsewhere, and a proximal step of the data."""
        return self.problem.settle(torch.where(self.mask, guess, decoded))

    def scored(self, decoded: Tensor, guess: Tensor) -> Tensor:
        """Give what counts as the answer of r: the decoder's bins made consistent with the data."""
        return self.consistent(decoded, guess)

    def errors(self, estimate: Tensor) -> Tensor:
        """Compute the mean squared error of each slice, (slices,)."""
        return _mean_squared(self.kspace - estimate)


def _mean_squared(values: Tensor) -> Tensor:
    return squared(values).mean(dim=(-2, -1))
