"""Calibration of the uncertainty on fully sampled scans: coefficients on some persons, quantiles on the others.

Split conformal prediction: a third of the persons fits the regressions of `mrihvae.inference.error_map` and
`mrihvae.inference.calibration`; scores of the others are exchangeable with that of a new person, and their quantiles
make the guarantee. A person has one score at each acceleration: the mean share of pixels outside of intervals, and the
worst of bounds and shift, over their scans.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import ndimage

from mrihvae.errors import InputError
from mrihvae.evaluation.scores import score_volume
from mrihvae.inference.calibration import SHIFT, Calibration, Quantiles, score_regressors, shift_score
from mrihvae.inference.conformal import conformal_quantile, risk_controlling_factor
from mrihvae.inference.error_map import NAMES, Evidence, fit_error, variance_of

LEVEL = 0.9
BLOCK = 8  # pixels on a side
PIXELS, BLOCKS = 2000, 500  # kept of a scan, evenly
SHARE_FITTED = 3  # one of so many persons fits coefficients
RIDGE = 0.5  # on coefficients of a volume's scores, in units of one scan
INSIDE = 0.1  # of the 99th percentile: darker is outside the object
SPREAD = 0.02  # of the longer side: gaps in the object that are closed
FEWEST = 14  # persons: at least 9 for quantiles of 90 %, and some for coefficients


@dataclass(frozen=True)
class CalibrationScan:
    """What is kept of a fully sampled scan that was undersampled and reconstructed.

    Attributes
    ----------
    person : who was scanned
    acceleration, effective : nominal and effective one
    blocks : regressors (names, block) of blocks of `BLOCK` x `BLOCK` pixels inside the object
    block_errors : mean squared errors of these, as shares of the squared peak
    inside : regressors (names, pixel) of pixels inside the object
    errors : absolute errors of these, as shares of the peak
    everywhere : regressors (names, pixel) of pixels inside and outside
    scan : the same for all pixels: log n, log m, log R, log e of `mrihvae.inference.error_map`
    psnr, ssim : of the volume
    relative : held-out misfit over the energy of held-out samples
    """

    person: str
    acceleration: float
    effective: float
    blocks: np.ndarray
    block_errors: np.ndarray
    inside: np.ndarray
    errors: np.ndarray
    everywhere: np.ndarray
    scan: np.ndarray
    psnr: float
    ssim: float
    relative: float


def measure_scan(
    person: str, acceleration: float, evidence: Evidence, magnitude: np.ndarray, target: np.ndarray
) -> CalibrationScan:
    """Compare a reconstruction with its target, and keep what a calibration is made of.

    Parameters
    ----------
    acceleration : nominal
    evidence : of the reconstruction
    magnitude, target : (slice, h, w), in the units of the image
    """
    error, rng = np.abs(magnitude - target) / (evidence.unit * evidence.peak), np.random.default_rng(0)
    inside = np.stack([object_mask(one) for one in target])
    pixels, errors, blocks, block_errors, everywhere = [], [], [], [], []
    for k, held in enumerate(inside):
        values = evidence.logarithms(evidence.local[:, k])
        found = values[:, held]
        chosen = rng.permutation(found.shape[1])[: PIXELS // len(inside) + 1]
        pixels.append(found[:, chosen])
        errors.append(error[k][held][chosen])
        whole = values.reshape(len(values), -1)
        everywhere.append(whole[:, rng.permutation(whole.shape[1])[: PIXELS // len(inside) + 1]])
        powers, squares = block_means(evidence.local[:, k], held), block_means(error[None, k] ** 2, held)[0]
        few = rng.permutation(len(squares))[: BLOCKS // len(inside) + 1]
        blocks.append(evidence.logarithms(powers[:, few]))
        block_errors.append(squares[few])
    wide = target.shape[-2] < target.shape[-1]  # fastMRI scores tall images alone
    scores = score_volume(*((image.swapaxes(-2, -1) for image in (target, magnitude)) if wide else (target, magnitude)))
    return CalibrationScan(
        person, acceleration, evidence.acceleration, _join(blocks), _join(block_errors), _join(pixels), _join(errors),
        _join(everywhere), evidence.of_scan(), scores["PSNR"], scores["SSIM"], evidence.misfit.relative,
    )  # fmt: skip


def _join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join what was kept of slices, in single precision."""
    return np.concatenate(parts, axis=-1).astype(np.float32)


def object_mask(target: np.ndarray) -> np.ndarray:
    """Mark the pixels of a magnitude image (h, w) inside the object: bool (h, w).

    These are brighter than a tenth of the 99th percentile, and than twice the median at the border of the image, where
    there is noise alone; gaps are closed, holes filled, and the largest part is kept.
    """
    smooth = ndimage.uniform_filter(target.astype(float), 7)
    border = np.concatenate([smooth[:4].ravel(), smooth[-4:].ravel(), smooth[:, :4].ravel(), smooth[:, -4:].ravel()])
    floor = 2 * float(np.median(border)) if np.median(border) < 0.2 * np.percentile(target, 99) else 0.0
    bright = smooth > max(INSIDE * float(np.percentile(target, 99)), floor)
    size = max(1, round(SPREAD * max(target.shape)))
    closed = ndimage.binary_closing(np.pad(bright, 2 * size), iterations=size)
    filled = ndimage.binary_opening(ndimage.binary_fill_holes(closed), iterations=size)
    parts, count = ndimage.label(filled)
    if count == 0:
        return np.zeros(target.shape, dtype=bool)
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    found: np.ndarray = ndimage.binary_erosion(largest, iterations=3)[2 * size : -2 * size, 2 * size : -2 * size]
    return found


def block_means(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Average values (features, h, w) over blocks, of which at least half is inside: (features, blocks)."""
    height, width = (size // BLOCK * BLOCK for size in inside.shape)

    def split(array: np.ndarray) -> np.ndarray:
        cut = array[..., :height, :width]
        return cut.reshape(*cut.shape[:-2], height // BLOCK, BLOCK, width // BLOCK, BLOCK)

    weight = split(inside).astype(float)
    count = weight.sum(axis=(1, 3))
    total = (split(values) * weight).sum(axis=(-3, -1))
    kept = count >= BLOCK**2 / 2
    means: np.ndarray = total[:, kept] / count[kept]
    return means


def fit_calibration(scans: Sequence[CalibrationScan], settings: dict[str, Any], level: float = LEVEL) -> Calibration:
    """Fit a calibration.

    Parameters
    ----------
    scans : of at least `FEWEST` persons, each at every acceleration
    settings : of the method, for which alone it holds
    level : of intervals and bounds

    Raises
    ------
    InputError
        Too few persons.
    """
    persons = sorted({scan.person for scan in scans}, key=lambda name: (zlib.crc32(name.encode()), name))
    if len(persons) < FEWEST:
        raise InputError(f"scans of {len(persons)} subjects: a calibration needs at least {FEWEST}; give more")
    fitted = set(persons[::SHARE_FITTED])
    first = [scan for scan in scans if scan.person in fitted]
    error = fit_error([scan.blocks for scan in first], [scan.block_errors for scan in first])
    known = {id(scan): regress_volume(scan, error) for scan in scans}
    x = np.stack([known[id(scan)] for scan in first])
    psnr = _fit_line(x, np.array([scan.psnr for scan in first]), slope=-10.0)
    ssim = _fit_line(x, np.array([log_ssim(scan) for scan in first]))
    shift = _fit_line(x[:, SHIFT], np.array([np.log10(scan.relative) for scan in first]))
    quantiles = []
    for acceleration in sorted({scan.acceleration for scan in scans}):
        group = [scan for scan in scans if scan.acceleration == acceleration and scan.person not in fitted]
        by_person = [[scan for scan in group if scan.person == one] for one in sorted({scan.person for scan in group})]
        worst = {
            "psnr": [max(float(known[id(scan)] @ psnr) - scan.psnr for scan in own) for own in by_person],
            "ssim": [max(log_ssim(scan) - float(known[id(scan)] @ ssim) for scan in own) for own in by_person],
            "shift": [max(shift_score(shift, known[id(scan)], scan.relative) for scan in own) for own in by_person],
        }
        ratios = [[scan.errors / np.sqrt(variance_of(scan.inside, error)) for scan in own] for own in by_person]
        factor = risk_controlling_factor(partial(_risks, ratios), level)
        if not np.isfinite(factor):
            raise InputError(f"at {acceleration:g}x no factor holds {level:.0%} of pixels; check scans and targets")
        effective = float(np.exp(np.mean([np.log(scan.effective) for scan in group])))
        psnr_margin, ssim_margin = (conformal_quantile(worst[name], level) for name in ("psnr", "ssim"))
        scores = tuple(round(float(score), 4) for score in sorted(worst["shift"]))
        quantiles.append(Quantiles(acceleration, effective, len(by_person), factor, psnr_margin, ssim_margin, scores))
    lines = {"error": error, "psnr": psnr, "ssim": ssim, "shift": shift}
    plain: dict[str, Any] = {name: tuple(map(float, coefficients)) for name, coefficients in lines.items()}
    return Calibration(
        level, settings, NAMES, quantiles=tuple(quantiles), persons=len(persons), scans=len(scans), **plain
    )


def _risks(ratios: list[list[np.ndarray]], factor: float) -> np.ndarray:
    """Compute the share of pixels outside of intervals, a mean over the scans of each person."""
    return np.array([np.mean([(ratio > factor).mean() for ratio in own]) for own in ratios])


def regress_volume(scan: CalibrationScan, error: np.ndarray) -> np.ndarray:
    """Return what scores are predicted from, as `mrihvae.inference.calibration.volume_regressors` does."""
    return score_regressors(float(variance_of(scan.everywhere, error).mean()), scan.scan)


def log_ssim(scan: CalibrationScan) -> float:
    """Compute log10 (1 - SSIM)."""
    return float(np.log10(max(1 - scan.ssim, 1e-6)))


def _fit_line(x: np.ndarray, y: np.ndarray, slope: float = 0.0) -> np.ndarray:
    """Fit y = x . b by least squares, with a ridge that holds all but the first at 0, and the second at `slope`.

    Parameters
    ----------
    x : regressors (scan, regressor), the first of which is 1
    y : (scan,)
    slope : of PSNR -10 with log10 of the mean squared error, as it is where the expected error is right
    """
    y = y - slope * x[:, 1]
    center = x[:, 1:].mean(axis=0)
    centered = x[:, 1:] - center
    slopes = np.linalg.solve(centered.T @ centered + RIDGE * np.eye(len(center)), centered.T @ (y - y.mean()))
    found = np.concatenate([[y.mean() - slopes @ center], slopes])
    found[1] += slope
    return found
