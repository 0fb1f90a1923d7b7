"""Batches to train on, in model units: scans, of one coil or several, and degraded images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mrihvae.inference.problem import MultiCoilProblem, Problem, SingleCoilProblem
from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.kernels import abs2


@dataclass(frozen=True)
class DegradedImages:
    """A batch of images and their degraded data, in model units.

    Attributes
    ----------
    images : complex (slices, H, W), the truth; of real images the imaginary part is 0
    term : the data
    """

    images: Tensor
    term: LeastSquares


MEASURED_WEIGHT = 0.02  # acquired samples are put back after reconstruction; a little weight keeps the states right


@dataclass
class Scans:
    """A batch of fully sampled scans and their accelerated acquisition, in model units.

    Attributes
    ----------
    kspace : complex (slices, H, W), the fully sampled scan k, of several coils combined by the maps; of real images
        (slices, channels, H, W)
    problem : the acquired data; the network's grid is that of the scan
    noise : (slices,), standard deviation per complex k-space sample of the noise in `kspace`
    """

    kspace: Tensor
    problem: Problem
    noise: Tensor

    @classmethod
    def of_one_coil(cls, kspace: Tensor, measured: Tensor, mask: Tensor, noise: Tensor) -> Scans:
        """Return a batch of single-coil scans; `measured` is noisy, 0 where `mask` is False, all (slices, H, W)."""
        shape = (kspace.shape[-2], kspace.shape[-1])
        problem = SingleCoilProblem(
            mask=mask, noise=noise, scale=torch.ones_like(noise), padded=shape, measured=measured, shape=shape
        )
        return cls(kspace, problem, noise)

    @property
    def mask(self) -> Tensor:
        """Mark the k-space samples that count as acquired, bool (slices, H, W)."""
        return self.problem.mask

    @property
    def measured(self) -> Tensor:
        """The data alone, of several coils combined by the maps: complex (slices, H, W)."""
        return self.problem.zero_filled

    @property
    def coils(self) -> int:
        """Number of coils."""
        return self.problem.sense.maps.shape[-3] if isinstance(self.problem, MultiCoilProblem) else 1

    def with_tv_initialization(self, share: float) -> Scans:
        """Start multi-coil scans from a share of total variation (`ModelSettings.start_share`)."""
        if isinstance(self.problem, MultiCoilProblem):
            return replace(self, problem=self.problem.with_tv_initialization(share))
        return self

    def make_consistent(self, decoded: Tensor, guess: Tensor) -> Tensor:
        """Combine the guess on acquired lines with decoded k-space elsewhere, made consistent with the data."""
        return self.problem.make_consistent(torch.where(self.mask, guess, decoded))

    def answer(self, decoded: Tensor, guess: Tensor) -> Tensor:
        """Return the k-space by which r is scored.

        It is decoded k-space for one coil, also where samples were acquired, and consistent k-space for several.
        """
        return decoded if self.coils == 1 else self.make_consistent(decoded, guess)

    def errors(self, estimate: Tensor) -> Tensor:
        """Compute the mean squared error of each slice, (slices,); acquired samples count by `MEASURED_WEIGHT`."""
        error = abs2(self.kspace - estimate)
        if self.coils == 1:
            error = torch.where(self.mask, MEASURED_WEIGHT, 1.0) * error
        return error.mean(dim=(-2, -1))


def mean_squared(values: Tensor) -> Tensor:
    """Compute the mean of |values|^2 over each slice."""
    return abs2(values).mean(dim=(-2, -1))
