"""How much of total variation a scan asks for: where the network is worse, by k-space samples that were held out.

No prior fits every scan: phase that winds steeply, or an anatomy that no training image had, makes total variation the
better answer. The scan itself says which: some acquired lines are held out, both are computed from the rest, and the
blend of the two that predicts these lines best is taken, band by band. Where k-space is as flat as noise, phase changes
from pixel to pixel, no line says anything of another, and total variation is taken alone.

The constants were chosen on training scans with their own, steep and white phases, at 4x and 8x: of one to three sets
of held-out lines, shares by band or for all, one encoder pass or all of `InferenceSettings`, and 1 to 2 standard
errors, this is the cheapest by which none of them lost more than 0.005 dB.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mrihvae.inference.held_out import held_out
from mrihvae.inference.preparation import prepare
from mrihvae.inference.reconstruct import infer_kspace
from mrihvae.inference.settings import InferenceSettings
from mrihvae.model.bands import band_on_grid
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fourier import center_crop, fft2c
from mrihvae.physics.sampling import lines_differ_along_h
from mrihvae.utils.precision import arithmetic

SHARE = 5  # every n-th line outside of the calibration region is held out
FEWEST_GROUPS = 3  # lines with samples in a band, below which nothing can be said of it
CAUTION = 2.0  # standard errors by which a share is lowered, so that weak evidence changes nothing
LEAST = 0.1  # a share below which it is not worth the trouble
STRONGEST = 0.01  # share of the acquired samples whose energy is compared with all
FLAT = 0.1  # of the energy in these: that of noise is 0.056, that of training scans at least 0.82


def tv_shares(
    model: HVAE,
    kspace: Tensor,
    measured: Tensor,
    known: Tensor,
    settings: InferenceSettings | None = None,
    noise: Tensor | None = None,
) -> tuple[float, ...]:
    """Estimate, for each band, the share of total variation in its best blend with the network's image, for single-coil
    scans.

    Parameters
    ----------
    kspace : complex (slices, H, W), 0 where not acquired; a slice is enough
    measured : bool, broadcast to (H, W), True where acquired
    known : the same, with samples that are known to be 0
    settings, noise : as for `mrihvae.inference.reconstruct.reconstruct`

    Returns
    -------
    0 to 1 for each band, coarsest first; empty if too few lines lie outside the calibration region, or if no share is
    large enough

    Examples
    --------
    >>> import torch
    >>> import mrihvae
    >>> from mrihvae.inference import tv_shares
    >>> kspace, lines = torch.zeros(1, 32, 32, dtype=torch.complex64), torch.arange(32) % 32 > 26
    >>> tv_shares(mrihvae.load_model("default"), kspace, lines, lines)
    ()
    """
    shape = (kspace.shape[-2], kspace.shape[-1])
    measured, known = measured.cpu().expand(shape), known.cpu().expand(shape)
    if lines_differ_along_h(known):
        return tv_shares(model, kspace.mT, measured.T, known.T, settings, noise)
    if _concentration(kspace) < FLAT:
        return (1.0,) * model.settings.levels
    folds = held_out(measured, np.random.default_rng(0), SHARE)
    if not folds:
        return ()
    out = folds[0]
    kept = torch.where(out.to(kspace.device), torch.zeros((), dtype=kspace.dtype, device=kspace.device), kspace)
    problem = prepare(model, kept, known & ~out, None, noise)
    settings = replace(settings or InferenceSettings(), views=1, rounds=1, tv_blend=False)  # a third of the time
    with torch.no_grad(), arithmetic(model.start.device, settings.precision):
        answers = [infer_kspace(model, problem, settings), problem.total_variation()]
        network, tv = (fft2c(problem.images(problem.finish(answer))) for answer in answers)
    sums = _sums(kspace.to(network.device) - network, tv - network, out, problem.padded, model.settings.levels)
    shares = tuple(_best_share(*band) for band in sums)
    return shares if any(shares) else ()


def _concentration(kspace: Tensor) -> float:
    """Compute the share of the energy of acquired samples in the strongest of them; 1 without any."""
    power = kspace.abs().square().flatten()
    power = power[power > 0]
    if len(power) == 0:
        return 1.0
    strongest = power.topk(max(1, round(STRONGEST * len(power)))).values
    return float(strongest.sum() / power.sum())


def _sums(
    error: Tensor, difference: Tensor, out: Tensor, padded: tuple[int, int], levels: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Compute, for each band, Re <d, e> and |d|^2 of each line (column) of the samples that were held out."""
    along = (difference.conj() * error).real.sum(dim=0).double().cpu()
    power = difference.abs().square().sum(dim=0).double().cpu()
    found = []
    for j in range(levels):
        there = out & center_crop(band_on_grid(padded, levels, j), (out.shape[0], out.shape[1]))
        columns = there.any(dim=0)
        pair = ((values * there).sum(dim=0)[columns].numpy() for values in (along, power))
        found.append((next(pair), next(pair)))
    return found


def _best_share(along: np.ndarray, power: np.ndarray) -> float:
    """Compute argmin_w sum |e - w d|^2, lowered by its standard error from line to line, within 0 and 1."""
    count, whole = len(power), power.sum()
    if count < FEWEST_GROUPS or whole <= 0:
        return 0.0
    share = along.sum() / whole
    spread = math.sqrt(np.square(along - share * power).sum() * count / (count - 1)) / whole
    cautious = float(np.clip(share - CAUTION * spread, 0, 1))
    return round(cautious, 3) if cautious >= LEAST else 0.0
