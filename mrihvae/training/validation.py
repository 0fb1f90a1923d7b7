"""Scores on fixed scans while a model trains: how good it is at reconstruction, set by set, by coils and acceleration.

The scans are drawn once, by the simulation that training uses but with seeds of their own, from people that are in no
training data; masks are fastMRI's random ones. One encoder pass is scored, which is what training improves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrihvae.model.bands import merge
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fourier import ifft2c
from mrihvae.physics.operators import to_device
from mrihvae.training.batches import Scans
from mrihvae.training.draw import SimulationSettings, draw_batch
from mrihvae.training.draw_coils import draw_coils
from mrihvae.training.loop import SliceSource
from mrihvae.training.objective import decode_means, prior_terms


@dataclass(frozen=True)
class ValidationSettings:
    """Settings of the scans that a model is scored on, for each set.

    Attributes
    ----------
    slices : number of slices for each number of coils and acceleration
    shape : (H, W)
    coils : numbers of coils
    accelerations : R, of fastMRI's random masks, with a calibration region (ACS) of about 0.32 / R of the lines
    seed : seed of all random choices
    """

    slices: int = 4
    shape: tuple[int, int] = (192, 192)
    coils: tuple[int, ...] = (1, 8)
    accelerations: tuple[int, ...] = (4, 8)
    seed: int = 0


@dataclass(frozen=True)
class ValidationCase:
    """Scans to score a model on, and what they are: the name of their set, number of coils, acceleration."""

    name: str
    coils: int
    acceleration: int
    scans: Scans

    def with_tv_initialization(self, share: float) -> ValidationCase:
        """Return the case with scans that start from a share of total variation (`ModelSettings.start_share`)."""
        return replace(self, scans=self.scans.with_tv_initialization(share))

    @property
    def key(self) -> str:
        """The case in one string."""
        return f"{self.name}, {self.coils} {'coil' if self.coils == 1 else 'coils'}, {self.acceleration}x"


def draw_cases(
    sources: Mapping[str, SliceSource],
    settings: ValidationSettings,
    simulation: SimulationSettings,
    start_share: float = 1.0,
) -> list[ValidationCase]:
    """Draw the scans of all cases; equal arguments give equal scans.

    Parameters
    ----------
    sources : slices of each set, by name
    settings : see `ValidationSettings`
    simulation : of images, phase and noise; its masks, coils and share of empty slices are left aside
    start_share : of the model, see `mrihvae.model.settings.ModelSettings`
    """
    cases = []
    for name, source in sources.items():
        for coils in settings.coils:
            for acceleration in settings.accelerations:
                # the same slices at every acceleration and number of coils
                images = source.draw(settings.slices, np.random.default_rng((settings.seed, 1)))
                rng = np.random.default_rng((settings.seed, 2))
                fixed = replace(
                    simulation,
                    masks=("random",),
                    least_acceleration=float(acceleration),
                    max_acceleration=float(acceleration),
                    extra_noise=0.0,
                    empty=0.0,
                    coils=(coils, coils),
                    one_coil=0.0,
                )
                draw = draw_batch if coils == 1 else draw_coils
                scans = draw(images, settings.shape, fixed, rng).with_tv_initialization(start_share)
                cases.append(ValidationCase(name, coils, acceleration, scans))
    return cases


def validate(
    model: HVAE, cases: Sequence[ValidationCase], precision: AbstractContextManager[Any] | None = None
) -> dict[str, dict[str, float]]:
    """Compute the scores of a model on every case.

    Returns
    -------
    by the key of the case: mean PSNR in dB over the slices' maximum, of the magnitude of an encoder pass ("psnr"), of
    the first guess ("guess") and of the data alone ("zero_filled"); of one coil also the negative evidence lower bound
    of the fully sampled scans, in nats per real dimension ("elbo")
    """
    found: dict[str, dict[str, float]] = {}
    device = model.start.device
    for case in cases:
        scans: Scans = to_device(case.scans, device)
        with torch.no_grad(), precision or nullcontext():
            problem = scans.problem
            guess = problem.guess(model)
            decoded = merge(decode_means(model, problem.measured_bins(guess), problem.mask, guess))
            answers = {
                "psnr": scans.make_consistent(decoded, guess),
                "guess": guess,
                "zero_filled": problem.zero_filled,
            }
            row = {name: round(psnr(kspace, scans.kspace), 3) for name, kspace in answers.items()}
            if scans.coils == 1:
                torch.manual_seed(0)
                row["elbo"] = round(float(prior_terms(model, scans, matched=False).elbo), 4)
        found[case.key] = row
    return found


def psnr(kspace: Tensor, truth: Tensor) -> float:
    """Compute the mean PSNR in dB of the magnitude images of k-space (slices, H, W), over each slice's maximum."""
    image, wanted = ifft2c(kspace).abs(), ifft2c(truth).abs()
    error = (image - wanted).square().mean(dim=(-2, -1)).clamp_min(1e-20)
    return float((20 * torch.log10(wanted.amax(dim=(-2, -1))) - 10 * torch.log10(error)).mean())


def mean_psnr(scores: Mapping[str, Mapping[str, float]], containing: str = "") -> float:
    """Average the PSNR of the cases in whose key a text stands; NaN without any."""
    values = [row["psnr"] for key, row in scores.items() if containing in key]
    return sum(values) / len(values) if values else math.nan
