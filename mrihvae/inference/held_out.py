"""Calibration of uncertainty by the scan itself: held-out k-space samples against the posterior samples' spread.

The ratio of true errors to the spread of posterior samples differs between scans, by contrast and noise, and a factor
fitted on other scans cannot know it. So a few acquired lines are held out in turn, as in cross-validation (Yaman et al.
2020 train by such a split), predicted from the rest, and compared. Like the missing lines they lie between acquired
ones.
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

FOLDS, SAMPLES_PER_FOLD, SLICES = 4, 4, 4
SHARE = 8  # every n-th line, or k-space sample, is held out in a fold
FEWEST = 8  # lines outside of the calibration region, below which there are too few to estimate from
TYPICAL = 0.9  # where a scan has too few; on training scans the mean is 0.8, so this is on the safe side
BOUNDS = (0.3, 3.0)


Draw = Callable[[Tensor, Tensor, int], Tensor]


def spread_slices(slices: int) -> np.ndarray:
    """Return the numbers of at most `SLICES` slices, evenly spread."""
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
    """Estimate the error of the samples' mean over their standard deviation, root mean square, on held-out k-space.

    Parameters
    ----------
    kspace : complex (slices, H, W) on the CPU, or with maps (slices, coils, H, W), 0 where not acquired; at most
        `SLICES` of them are used
    measured : bool, broadcast to (H, W), True where acquired
    known : the same, with samples that are known to be 0
    settings : how samples are drawn
    seed : of the held-out lines and of the posterior samples
    maps : complex (slices, coils, H, W), of the whole calibration region; None for one coil

    Returns
    -------
    a factor on the samples' standard deviation, within `BOUNDS`; `TYPICAL` if too few samples lie outside the fully
    sampled center
    """

    chosen = torch.from_numpy(spread_slices(len(kspace)))
    kspace, maps = kspace[chosen], None if maps is None else maps[chosen]
    drawn = replace(settings, refinement=replace(settings.refinement, sweeps=0))

    def draw(kept: Tensor, mask: Tensor, number: int) -> Tensor:
        coils = kept if maps is None else kept.unflatten(0, maps.shape[:2])
        images = sample(model, coils, mask, SAMPLES_PER_FOLD, maps, drawn, number).cpu()
        return fft2c(images if maps is None else (maps * images[:, :, None]).flatten(1, 2))

    return held_out_ratio(draw, kspace if maps is None else kspace.flatten(0, 1), measured, known, seed)


def held_out_ratio(draw: Draw, kspace: Tensor, measured: Tensor, known: Tensor, seed: int = 0) -> float:
    """Estimate the ratio as `error_ratio` does, with any function that draws samples.

    Parameters
    ----------
    draw : from k-space like `kspace`, a mask of what is known, and a seed to full k-space, (`SAMPLES_PER_FOLD`, slices,
        H, W)
    kspace : complex (slices, H, W) on the CPU, 0 where not measured; slices may be coils'

    Returns
    -------
    a factor on the samples' standard deviation, within `BOUNDS`; `TYPICAL` if too few samples lie outside the fully
    sampled center
    """
    shape = (kspace.shape[-2], kspace.shape[-1])
    measured, known = measured.expand(shape), known.expand(shape)
    lines = bool((measured == measured[:1]).all())
    if not lines and bool((measured == measured[:, :1]).all()):
        return held_out_ratio(
            lambda *arguments: draw(arguments[0].mT, arguments[1].T, arguments[2]).mT,
            kspace.mT,
            measured.T,
            known.T,
            seed,
        )
    noise = line_noise(kspace).expand(shape) if lines else noise_std(kspace)[:, None, None] ** 2
    groups = torch.arange(shape[1]).expand(shape) if lines else _rings(shape)
    errors, variances = [], []
    for number, out in enumerate(held_out(measured, np.random.default_rng(seed))):
        kept = torch.where(out, torch.zeros((), dtype=kspace.dtype), kspace)
        found = draw(kept, known & ~out, seed + number)
        error_power = (kspace - found.mean(dim=0)).abs().square() - noise
        spread = (1 + 1 / SAMPLES_PER_FOLD) * found.var(dim=0)
        parts = [_sums(values, groups, out) for values in (error_power, spread, noise.expand(kspace.shape))]
        there = parts[1] > 0
        weight = 1 / (parts[1] + parts[2])[there]  # lines count alike, but for those in which noise is all
        errors.append((weight * parts[0][there]).sum())
        variances.append((weight * parts[1][there]).sum())
    total = float(sum(variances))
    if total <= 0:
        return TYPICAL
    return float(np.clip(math.sqrt(max(float(sum(errors)), 0.0) / total), *BOUNDS))


def _sums(values: Tensor, groups: Tensor, where: Tensor) -> Tensor:
    """Add up values (slices, H, W) by group (H, W) of k-space samples: (slices, groups)."""
    totals = torch.zeros(len(values), int(groups.max()) + 1, dtype=torch.float64)
    return totals.index_add(1, groups[where], values[:, where].double())


def _rings(shape: tuple[int, int]) -> Tensor:
    """Number k-space samples by their distance from DC, in 32 rings on the shorter side: (H, W)."""
    return (32 * torch.sqrt(squared_distance(shape))).long()


def squared_distance(shape: tuple[int, int]) -> Tensor:
    """Compute the squared distance of k-space samples from DC, 1 at the middle of each side: float32 (H, W)."""
    y, x = ((torch.arange(n) - n // 2) / (n / 2) for n in shape)
    return y[:, None] ** 2 + x**2


def held_out(measured: Tensor, rng: np.random.Generator, share: int = SHARE, fewest: int = FEWEST) -> list[Tensor]:
    """Choose what is held out in each fold: whole lines along H if such were acquired, else samples; bool (H, W) each.

    Every `share`-th is held out in a fold. The calibration region is never held out; there are no folds where too
    little lies outside of it.
    """
    height, width = measured.shape
    if bool((measured == measured[:1]).all()):
        outer = _outside(measured[0].numpy())
        if len(outer) < fewest:
            return []
        count = max(1, len(outer) // share)
        order = rng.permutation(outer)
        folds = [np.isin(np.arange(width), order[k * count : (k + 1) * count]) for k in range(FOLDS)]
        return [torch.from_numpy(fold).expand(height, width) for fold in folds]
    bins = acquired_outside(measured)
    if int(bins.sum()) < fewest * height or bool(measured.all()):
        return []
    parts = torch.from_numpy(rng.integers(share, size=(height, width)))
    return [bins & (parts == k) for k in range(FOLDS)]


def acquired_outside(measured: Tensor) -> Tensor:
    """Mark the acquired samples that may be held out: those outside of the calibration region; bool (H, W)."""
    if bool((measured == measured[:1]).all()):
        outer = np.isin(np.arange(measured.shape[1]), _outside(measured[0].numpy()))
        return torch.from_numpy(outer).expand(measured.shape)
    return measured & (_rings((measured.shape[0], measured.shape[1])) >= 2)


def _outside(lines: np.ndarray) -> np.ndarray:
    """List the acquired lines outside of the fully sampled block around DC."""
    first = last = len(lines) // 2
    while first > 0 and lines[first - 1]:
        first -= 1
    while last < len(lines) - 1 and lines[last + 1]:
        last += 1
    places = np.flatnonzero(lines)
    return places[(places < first) | (places > last)]
