"""What a scan says of its own uncertainty: measured bins that samples are not shown, against the samples' spread.

How much wider than the samples' the true errors are differs between scans, by contrast and noise, and a factor fitted
on other scans cannot know it. So a few lines are held out in turn, as in cross-validation (Yaman et al. 2020 train by
such a split), sampled from the rest, and compared. What is missing lies between lines that were measured, as they do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mrihvae.inference.reconstruct import sample
from mrihvae.inference.settings import InferenceSettings
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fourier import fft2c
from mrihvae.physics.noise import line_noise, noise_std

FOLDS, DRAWS, SLICES = 4, 4, 4
SHARE = 8  # every so manieth line, or bin, is held out in a fold
FEWEST = 8  # lines outside of the center, below which they say too little
TYPICAL = 0.9  # the ratio of scans that cannot say it; on training scans it is 0.8 in the mean, so on the safe side
BOUNDS = (0.3, 3.0)


Draws = Callable[[Tensor, Tensor, int], Tensor]


def chosen_slices(slices: int) -> np.ndarray:
    """Choose at most `SLICES` of them, evenly spread."""
    return np.unique(np.linspace(0, slices - 1, min(SLICES, slices)).round().astype(int))


def error_ratio(
    model: HVAE,
    kspace: Tensor,
    measured: Tensor,
    known: Tensor,
    settings: InferenceSettings,
    seed: int = 0,
    maps: Tensor | None = None,
) -> float:
    """Estimate the error of samples' means over the samples' standard deviation, root mean square, on held-out k-space.

    Parameters
    ----------
    kspace : complex (slices, H, W) on the CPU, or with maps (slices, coils, H, W), 0 where not acquired; at most
        `SLICES` of them are used
    measured : bool, broadcast to (H, W), True where acquired
    known : the same, with samples that are known to be 0
    settings : how samples are drawn
    seed : of the choice and of the draws
    maps : complex (slices, coils, H, W), of all acquired calibration lines; None for one coil

    Returns
    -------
    a factor on the samples' standard deviation, in `BOUNDS`; `TYPICAL` where too little lies outside of a fully sampled
    center
    """

    chosen = torch.from_numpy(chosen_slices(len(kspace)))
    kspace, maps = kspace[chosen], None if maps is None else maps[chosen]
    drawn = replace(settings, refinement=replace(settings.refinement, sweeps=0))

    def draws(shown: Tensor, mask: Tensor, number: int) -> Tensor:
        coils = shown if maps is None else shown.unflatten(0, maps.shape[:2])
        images = sample(model, coils, mask, DRAWS, maps, drawn, number).cpu()
        return fft2c(images if maps is None else (maps * images[:, :, None]).flatten(1, 2))

    return ratio_of(draws, kspace if maps is None else kspace.flatten(0, 1), measured, known, seed)


def ratio_of(draws: Draws, kspace: Tensor, measured: Tensor, known: Tensor, seed: int = 0) -> float:
    """Do as `error_ratio` does, with any way to draw.

    Parameters
    ----------
    draws : of k-space like `kspace`, what of it is known and a seed makes complete k-space, (`DRAWS`, slices, H, W)
    kspace : complex (slices, H, W) on the CPU, 0 where not measured; slices may be coils'

    Returns
    -------
    a factor on the samples' deviation, in `BOUNDS`; `TYPICAL` where too little lies outside of a fully sampled center
    """
    shape = (kspace.shape[-2], kspace.shape[-1])
    measured, known = measured.expand(shape), known.expand(shape)
    lines = bool((measured == measured[:1]).all())
    if not lines and bool((measured == measured[:, :1]).all()):
        return ratio_of(
            lambda *given: draws(given[0].mT, given[1].T, given[2]).mT, kspace.mT, measured.T, known.T, seed
        )
    noise = line_noise(kspace).expand(shape) if lines else noise_std(kspace)[:, None, None] ** 2
    groups = torch.arange(shape[1]).expand(shape) if lines else _rings(shape)
    errors, variances = [], []
    for number, out in enumerate(held_out(measured, np.random.default_rng(seed))):
        shown = torch.where(out, torch.zeros((), dtype=kspace.dtype), kspace)
        found = draws(shown, known & ~out, seed + number)
        squared = (kspace - found.mean(dim=0)).abs().square() - noise
        spread = (1 + 1 / DRAWS) * found.var(dim=0)
        parts = [_sums(values, groups, out) for values in (squared, spread, noise.expand(kspace.shape))]
        there = parts[1] > 0
        weight = 1 / (parts[1] + parts[2])[there]  # lines count alike, but for those in which noise is all
        errors.append((weight * parts[0][there]).sum())
        variances.append((weight * parts[1][there]).sum())
    total = float(sum(variances))
    if total <= 0:
        return TYPICAL
    return float(np.clip(math.sqrt(max(float(sum(errors)), 0.0) / total), *BOUNDS))


def _sums(values: Tensor, groups: Tensor, where: Tensor) -> Tensor:
    """Add up values (slices, H, W) by group (H, W) of bins: (slices, groups)."""
    totals = torch.zeros(len(values), int(groups.max()) + 1, dtype=torch.float64)
    return totals.index_add(1, groups[where], values[:, where].double())


def _rings(shape: tuple[int, int]) -> Tensor:
    """Number the bins by their distance from DC, in 32 rings on the shorter side: (H, W)."""
    y, x = ((torch.arange(n) - n // 2) / (n / 2) for n in shape)
    return (32 * torch.sqrt(y[:, None] ** 2 + x**2)).long()


def held_out(measured: Tensor, rng: np.random.Generator) -> list[Tensor]:
    """Choose what is held out in each fold: whole lines along H if such were measured, else bins; bool (H, W) each.

    Nothing of the block of lines around DC, or of the bins there; no folds where too little lies outside of it.
    """
    height, width = measured.shape
    if bool((measured == measured[:1]).all()):
        outer = _outside(measured[0].numpy())
        if len(outer) < FEWEST:
            return []
        count = max(1, len(outer) // SHARE)
        order = rng.permutation(outer)
        folds = [np.isin(np.arange(width), order[k * count : (k + 1) * count]) for k in range(FOLDS)]
        return [torch.from_numpy(fold).expand(height, width) for fold in folds]
    bins = measured & (_rings((height, width)) >= 2)
    if int(bins.sum()) < FEWEST * height or bool(measured.all()):
        return []
    parts = torch.from_numpy(rng.integers(SHARE, size=(height, width)))
    return [bins & (parts == k) for k in range(FOLDS)]


def _outside(lines: np.ndarray) -> np.ndarray:
    """List the measured lines outside of the block of measured ones around DC."""
    first = last = len(lines) // 2
    while first > 0 and lines[first - 1]:
        first -= 1
    while last < len(lines) - 1 and lines[last + 1]:
        last += 1
    places = np.flatnonzero(lines)
    return places[(places < first) | (places > last)]
