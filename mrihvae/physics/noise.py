"""Estimates of the noise in k-space and in images."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mrihvae.physics.sampling import lines_differ_along_h

EDGE_FRACTION = 0.125  # the outermost eighth of the readout on either side, off the axes, holds little but noise
NEIGHBOR_LINES = 7  # neighbors over whose noise a line's is averaged
EMPTY_ROW_FRACTION, MIN_EMPTY_ROWS = 0.03, 4  # share of the rows of an image, and least number, that count as empty
FAINT_ROW_FRACTION = 0.3  # of the rows are searched for them
SIMILARITY_FACTOR = 2.0  # times what the most alike of them differ by, up to which others are alike, too
ROUNDING_POWER = 1e-9  # of the greatest power, up to which a row holds no noise either
WHOLE_LINE_FRACTION = 0.999  # of the samples of a line that were acquired, for it to count as whole


def line_noise(kspace: Tensor) -> Tensor:
    """Estimate E|n|^2 per sample of each line along H, since scanners filter lines: noise may differ between them.

    The median power of a line's bins in the outermost rows of all slices, over ln 2, averaged over neighboring lines.

    Parameters
    ----------
    kspace : complex (slices, H, W), zeros where nothing was acquired

    Returns
    -------
    real (W,); 0 for lines that were not acquired
    """
    rows = torch.nonzero((kspace != 0).any(dim=-1).any(dim=0))[:, 0]
    if len(rows) == 0:
        return kspace.abs().new_zeros(kspace.shape[-1])
    edge = max(1, round(EDGE_FRACTION * len(rows)))
    outer = (kspace[:, torch.cat((rows[:edge], rows[-edge:]))].abs() ** 2).flatten(0, 1)
    median = torch.nanmedian(torch.where(outer > 0, outer, torch.nan), dim=0).values
    power = torch.nan_to_num(median)[None, None] / math.log(2)
    near, reach = torch.ones(1, 1, NEIGHBOR_LINES, dtype=power.dtype, device=power.device), NEIGHBOR_LINES // 2
    total, count = (functional.conv1d(values, near, padding=reach) for values in (power, (power > 0).to(power)))
    return torch.where(power > 0, total / count.clamp_min(1), 0)[0, 0]


def missing_noise(kspace: Tensor, known: Tensor) -> float:
    """Estimate the standard deviation in a magnitude image of the noise of k-space samples that were not acquired.

    Parameters
    ----------
    kspace : complex (slices, H, W), zeros where nothing was acquired
    known : bool (H, W), acquired or known to be 0

    Returns
    -------
    in the units of the image: half of these samples' noise power, as of a pixel where signal dominates. Lines that were
    not measured are taken to have the noise of those between which they lie.
    """
    if lines_differ_along_h(known):
        kspace, known = kspace.mT, known.T
    power = line_noise(kspace).double().cpu().numpy()
    measured = np.flatnonzero(power)
    if len(measured) == 0:
        return 0.0
    filled = (kspace != 0).any(dim=-1).any(dim=0)  # rows at the ends are empty in scans that were interpolated
    missing = (filled[:, None] & ~known).double().sum(dim=0).cpu().numpy()
    at_missing = np.interp(np.arange(len(power)), measured, power[measured])
    return math.sqrt(0.5 * float(at_missing @ missing) / known.numel())


def noise_std(kspace: Tensor, mask: Tensor | None = None) -> Tensor:
    """Estimate the standard deviation of the noise per complex k-space sample, sqrt(E|n|^2), in the units of `kspace`.

    It is the root of the median power of the acquired samples at the corners of k-space, over ln 2: the power of white
    complex noise is exponentially distributed. Signal at the corners makes it too high.

    Parameters
    ----------
    kspace : complex (..., H, W)
    mask : bool, broadcast to `kspace`, True where acquired; None for all samples that are not exactly 0

    Returns
    -------
    real (...)

    Examples
    --------
    >>> import torch
    >>> from mrihvae.physics import noise_std
    >>> _ = torch.manual_seed(0)
    >>> bool(abs(noise_std(0.1 * torch.randn(64, 64, dtype=torch.complex64)) - 0.1) < 0.01)
    True
    """
    height, width = kspace.shape[-2:]
    rows = torch.arange(height, device=kspace.device)
    columns = torch.arange(width, device=kspace.device)
    outer = torch.nonzero((rows - height // 2).abs() >= (0.5 - EDGE_FRACTION) * height)[:, 0]
    power = kspace[..., outer, :].abs() ** 2
    counted = (power > 0) if mask is None else mask.expand(kspace.shape)[..., outer, :]
    corners = counted & ((columns - width // 2).abs() >= width / 4)
    counted = torch.where(corners.any(dim=-1).any(dim=-1)[..., None, None], corners, counted)
    median = torch.nanmedian(torch.where(counted, power, torch.nan).flatten(-2), dim=-1).values
    return torch.sqrt(torch.nan_to_num(median) / math.log(2))


def background_noise(kspace: Tensor) -> Tensor:
    """Estimate the noise of all coils together from image rows beside the object, as standard deviation per sample.

    Lines along H that were measured whole give images whose rows are free of aliasing, so that rows beside the object
    hold noise alone, however far signal reaches in k-space, and are alike. Of the rows of least power, the share
    `EMPTY_ROW_FRACTION` is taken that are alike, the faintest such: rows that are fainter still have passed a filter of
    the readout. Where the object fills all rows, signal makes the estimate too high, as it does with `noise_std` where
    signal reaches the corners, so the lower one of both counts. Bins that are no whole lines leave the corners alone.

    Parameters
    ----------
    kspace : complex (..., coils, H, W), 0 where not acquired

    Returns
    -------
    real (...), the root of the coils' mean power
    """
    corners = noise_std(kspace).square().mean(dim=-1).sqrt()
    present = (kspace != 0).any(dim=-3)
    lines, rows = present.any(dim=-2).sum(dim=-1), present.any(dim=-1).sum(dim=-1)
    there = torch.nonzero(present.flatten(0, -2).any(dim=0))[:, 0]  # other lines add nothing to the image's power
    if len(there) == 0:
        return corners
    power = torch.fft.ifft(kspace[..., there], dim=-2, norm="ortho").abs().square().sum(dim=(-3, -1))
    masked = power <= ROUNDING_POWER * power.amax(dim=-1, keepdim=True)  # in the image, so that they show no noise
    power = torch.where(masked, torch.inf, power).sort(dim=-1).values
    height = power.shape[-1]
    taken = min(height, max(MIN_EMPTY_ROWS, round(EMPTY_ROW_FRACTION * height)))
    candidates = max(1, round(FAINT_ROW_FRACTION * height))
    windows = power.unfold(-1, taken, 1)[..., :candidates, :]
    steepness = torch.nan_to_num(windows[..., -1] / windows[..., 0], nan=torch.inf)
    flat = steepness - 1 <= SIMILARITY_FACTOR * (steepness.amin(dim=-1, keepdim=True) - 1)
    faintest = flat.to(torch.uint8).argmax(dim=-1, keepdim=True)  # the first of those
    empty = windows.mean(dim=-1).gather(-1, faintest)[..., 0]
    samples = lines * kspace.shape[-3] * rows / kspace.shape[-2]  # rows of k-space that are empty hold no noise
    found = (empty / samples.clamp_min(1)).sqrt()
    whole = present.sum(dim=(-2, -1)) >= WHOLE_LINE_FRACTION * lines * rows
    usable = whole & (found > 0) & torch.isfinite(found)
    return torch.where(usable & ((found < corners) | (corners == 0)), found, corners)


MIN_NOISE = 1e-4  # sigma in model units, below which images count as free of noise

NORMAL_MEDIAN = 0.6745  # of the magnitude of a normal variable of deviation 1
NOISE_ESTIMATOR = "median magnitude of the finest diagonal Haar detail over 0.6745"


def estimate_noise(images: np.ndarray, known: np.ndarray) -> float | None:
    """Estimate the standard deviation (SD) of white noise in images, robustly (Donoho and Johnstone 1994).

    The detail (a - b - c + d) / 2 of four pixels has the noise's SD and little of the image; the median of its
    magnitude is little affected by edges. Four zeros do not count: there, noise was masked away.

    Parameters
    ----------
    images : real (slices, H, W); unknown pixels may be anything
    known : bool, the same shape

    Returns
    -------
    in the images' own unit; None if there are no four known pixels that count

    Examples
    --------
    >>> import numpy as np
    >>> from mrihvae.physics import estimate_noise
    >>> images = 1 + 0.1 * np.random.default_rng(0).standard_normal((1, 64, 64))
    >>> bool(abs(estimate_noise(images, np.ones_like(images, dtype=bool)) - 0.1) < 0.01)
    True
    """
    a, b, c, d = (images[:, i : images.shape[1] - 1 + i, j : images.shape[2] - 1 + j] for i in (0, 1) for j in (0, 1))
    counted = known[:, :-1, :-1] & known[:, :-1, 1:] & known[:, 1:, :-1] & known[:, 1:, 1:]
    counted &= (a != 0) | (b != 0) | (c != 0) | (d != 0)
    if not counted.any():
        return None
    a, b, c, d = (part[counted].astype(np.float64) for part in (a, b, c, d))
    return float(np.median(np.abs(a - b - c + d) / 2)) / NORMAL_MEDIAN
