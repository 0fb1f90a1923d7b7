"""Self-supervised losses: phase-encoding lines that were acquired, held out of the input, and predicted (SSDU).

The acquired samples Omega of a slice are split at random into Theta, Lambda and samples that are set aside. The network
is given Theta, and its answer khat is compared with the data on Lambda alone (Yaman et al. 2020). Many patterns are
denser at low frequencies, so that samples count by

    w = (1 - pt p) / p,

with p the density of Omega, and pt that of Theta in Omega: then the expected loss is, but for a factor, that of all
samples that the network is not given (Millard and Chiew 2023, K-weighted SSDU). The calibration region stays in the
input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from mrihvae.inference.held_out import FEWEST, acquired_outside
from mrihvae.inference.latents import likelihood_std
from mrihvae.inference.preparation import prepare
from mrihvae.inference.problem import MultiCoilProblem, Problem
from mrihvae.inference.views import view
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fourier import center_pad, fft2c, resize_kspace
from mrihvae.physics.kernels import abs2
from mrihvae.physics.sampling import lines_differ_along_h
from mrihvae.training.batches import Scans

VIEWS = 8
WINDOW = 16  # a density is that of an axis over this many samples to either side


@dataclass(frozen=True)
class UndersampledSlice:
    """A slice y = M F S x + n as it was acquired, its lines along H.

    Attributes
    ----------
    kspace : complex64 (H, W) of one coil, or with maps (coils, H, W), 0 where not acquired
    measured : bool (H, W), True where acquired
    known : the same, with samples that are known to be 0
    noise : (), standard deviation of the noise per complex sample of a coil
    maps : complex64 (coils, H, W), or None
    name : of its scan
    """

    kspace: Tensor
    measured: Tensor
    known: Tensor
    noise: Tensor
    maps: Tensor | None = None
    name: str = ""

    @classmethod
    def of(
        cls, kspace: Tensor, measured: Tensor, known: Tensor, noise: Tensor, maps: Tensor | None = None, name: str = ""
    ) -> UndersampledSlice:
        """Return a slice with masks that broadcast to (H, W), transposed if its lines are along W."""
        shape = (kspace.shape[-2], kspace.shape[-1])
        measured, known = measured.expand(shape), known.expand(shape)
        if lines_differ_along_h(known):
            kspace, measured, known, maps = kspace.mT, measured.T, known.T, None if maps is None else maps.mT
        return cls(kspace.contiguous(), measured, known, noise, maps, name)

    @property
    def lines(self) -> bool:
        """Whether whole lines were acquired."""
        return bool((self.measured == self.measured[:1]).all())

    @property
    def outside(self) -> Tensor:
        """Mark acquired samples that may be held out, bool (H, W): those outside of the calibration region."""
        return acquired_outside(self.measured)

    @property
    def learnable(self) -> bool:
        """Whether enough was acquired to hold some out, and not everything."""
        groups = self.outside.any(dim=0) if self.lines else self.outside.any(dim=1)
        fewest = FEWEST if self.lines else FEWEST * self.measured.shape[0] // 8
        return int(groups.sum()) >= fewest and not bool(self.known.all())


def take(outside: Tensor, share: float, rng: Generator, lines: bool) -> Tensor:
    """Take a share of samples (H, W) at random, at least one: whole lines along H, or samples by themselves."""
    if not lines:
        return outside & torch.from_numpy(rng.random(outside.shape) < share)
    places = np.flatnonzero(outside.any(dim=0).numpy())
    chosen = rng.choice(places, min(len(places), max(1, round(share * len(places)))), replace=False)
    columns = torch.zeros(outside.shape[1], dtype=torch.bool)
    columns[torch.from_numpy(chosen)] = True
    return outside & columns


def density(measured: Tensor, outside: Tensor) -> Tensor:
    """Estimate the density of acquired samples along W, outside of the calibration region: (W,), in (0, 1].

    It is that of `WINDOW` columns to either side, at equal distances on both sides of DC alike.
    """
    calibration = (measured & ~outside).double().mean(dim=0)
    there, possible = outside.double().mean(dim=0), 1 - calibration
    half = len(there) // 2
    mirrored = (2 * half - torch.arange(len(there))).clamp(0, len(there) - 1)
    kernel = torch.ones(1, 1, 2 * WINDOW + 1, dtype=torch.float64)
    sums = [
        torch.nn.functional.conv1d((values + values[mirrored])[None, None], kernel, padding=WINDOW)[0, 0]
        for values in (there, possible)
    ]
    return (sums[0] / sums[1].clamp_min(1e-9)).clamp(1e-3, 1).float()


def weights(measured: Tensor, outside: Tensor, kept: float) -> Tensor:
    """Compute w of the samples of each column, (W,), when a share `kept` of those outside is given to the network."""
    p = density(measured, outside)
    return (1 - kept * p) / p


@dataclass
class HeldOut(Scans):
    """Undersampled slices, compared where samples were held out.

    Attributes
    ----------
    kspace : y, complex (slices, H, W) on the network's grid, or (slices, coils, H, W) on the scan's, in model units
    problem : without the samples that are held out
    noise : (slices,), standard deviation per complex sample
    weight : of each sample, real (slices, H, W) like `kspace`, 0 where it is not compared
    """

    weight: Tensor

    def predicted(self, estimate: Tensor) -> Tensor:
        """Compute what the network's k-space (slices, H', W') says of the data, like `kspace`."""
        if isinstance(self.problem, MultiCoilProblem):
            return fft2c(self.problem.sense.maps * self.problem.image(estimate)[:, None])
        return view(estimate, self.problem.number)

    def errors(self, estimate: Tensor) -> Tensor:
        """Compute the weighted mean squared error of each slice where samples were held out, (slices,)."""
        error = abs2(self.kspace - self.predicted(estimate))
        if self.kspace.ndim == 4:
            error = error.sum(dim=1)
        return (self.weight * error).sum(dim=(-2, -1)) / self.weight.sum(dim=(-2, -1))


def hold_out(
    model: HVAE, scan: UndersampledSlice, without: Tensor, compared: Tensor, kept: float, number: int = 0
) -> HeldOut:
    """Return a slice without some of its samples, in view `number` of the network, and the samples to predict.

    Parameters
    ----------
    without : acquired samples that the network is not given, bool (H, W)
    compared : those of them that are predicted
    kept : share of the samples outside of the calibration region that is given to it on average, for the weights
    """
    rest = torch.where(without, torch.zeros((), dtype=scan.kspace.dtype), scan.kspace)
    maps = None if scan.maps is None else scan.maps[None]
    problem: Problem = prepare(model, rest[None], scan.known & ~without, maps, scan.noise[None])
    weight = compared * weights(scan.measured, scan.outside, kept)
    unit = problem.unit.view(-1, *[1] * scan.kspace.ndim)
    target = scan.kspace[None].to(unit.device) / unit
    weight = weight[None].to(unit.device)
    if maps is None:
        target = resize_kspace(target, problem.padded)
        weight = center_pad(weight, problem.padded)
    return HeldOut(target, problem.view(number), problem.noise, weight)


def normalized_error(model: HVAE, scans: HeldOut, estimate: Tensor) -> Tensor:
    """Compute the errors of slices over the variance that the likelihood has for them, in dB: (slices,)."""
    return 10 * torch.log10(scans.errors(estimate) / likelihood_std(model, scans.noise) ** 2 + 1e-12)
