"""How well a calibration does on scans that it was not made with: coverage, bounds, and whether maps say where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mrihvae.evaluation.calibration import CalibrationScan, regress_volume
from mrihvae.inference.calibration import Calibration, volume_bounds
from mrihvae.inference.error_map import NAMES, variance_of

REMOVED = np.linspace(0, 0.95, 20)  # shares of pixels, the most uncertain first
MAPS = ("calibrated", "samples", "gradient", "total variation")
FEWEST = 20  # blocks inside the object, below which a correlation says nothing


@dataclass(frozen=True)
class Judgment:
    """How well a calibration did on a scan.

    Attributes
    ----------
    covered : share of pixels inside the object whose error lies in the interval
    psnr_spare, ssim_spare : by how much the scan is better than its bounds; negative where they do not hold
    p_value : of the held-out misfit
    correlation : Spearman's, of RMSE and expected error of blocks, by map; NaN with too few blocks
    sparsification : of blocks, the area between the curves of the map and of the errors themselves, over that of a
        constant map
    pixel_sparsification : the same of pixels; the standard deviation of each pixel itself would not come to 0, as it
        says nothing of the error that is drawn with it
    curves : RMSE of the blocks that are left when shares `REMOVED` are taken off, over that of all, by map; "error" is
        that of the errors themselves
    """

    covered: float
    psnr_spare: float
    ssim_spare: float
    p_value: float
    correlation: Mapping[str, float]
    sparsification: Mapping[str, float]
    pixel_sparsification: Mapping[str, float]
    curves: Mapping[str, np.ndarray]


def judge_scan(calibration: Calibration, scan: CalibrationScan) -> Judgment:
    """Compare what a calibration says of a scan with its errors.

    Examples
    --------
    >>> from mrihvae.evaluation.judgment import spearman
    >>> spearman([1, 2, 3], [10, 20, 15])
    0.5

    References
    ----------
    * Ilg et al. 2018 (sparsification), https://doi.org/10.48550/arXiv.1802.07095
    """
    error = np.asarray(calibration.error)
    bounds = volume_bounds(calibration, regress_volume(scan, error), scan.effective, scan.relative)
    factor, variance = calibration.at(scan.effective).factor, variance_of(scan.inside, error)
    rows = {name: NAMES.index(name) for name in MAPS[1:]}
    by_block = {"calibrated": variance_of(scan.blocks, error), **{name: scan.blocks[row] for name, row in rows.items()}}
    by_pixel = {"calibrated": variance, **{name: scan.inside[row] for name, row in rows.items()}}
    enough = len(scan.block_errors) >= FEWEST
    pixels, curves = _curves(scan.errors, by_pixel), _curves(np.sqrt(scan.block_errors), by_block)
    return Judgment(
        float(np.mean(scan.errors <= factor * np.sqrt(variance))),
        scan.psnr - bounds.psnr_at_least,
        scan.ssim - bounds.ssim_at_least,
        bounds.p_value,
        {name: spearman(values, scan.block_errors) if enough else np.nan for name, values in by_block.items()},
        _areas(curves),
        _areas(pixels),
        curves,
    )


def _curves(errors: np.ndarray, maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute the sparsification curves of maps, and that of the errors themselves."""
    return {name: sparsification_curve(errors, values) for name, values in {**maps, "error": errors}.items()}


def _areas(curves: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Compute the areas between curves and that of the errors, over that of a constant map."""
    constant = float(np.mean(1 - curves["error"]))
    return {name: float(np.mean(curve - curves["error"])) / max(constant, 1e-9) for name, curve in curves.items()}


def spearman(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Compute Spearman's rank correlation; 0 where one of the two does not vary."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (first, second)]
    return (
        float(round(np.corrcoef(ranks[0], ranks[1])[0, 1], 12))
        if all(np.ptp(values) > 0 for values in (first, second))
        else 0.0
    )


def sparsification_curve(errors: np.ndarray, uncertainty: np.ndarray) -> np.ndarray:
    """Compute the RMSE that is left when shares `REMOVED` of the most uncertain pixels are left out, over all."""
    squares = np.square(errors.astype(float))[np.argsort(uncertainty)]
    kept = np.maximum(1, np.round((1 - REMOVED) * len(squares))).astype(int)
    return np.asarray(np.sqrt(np.cumsum(squares)[kept - 1] / kept / max(float(squares.mean()), 1e-30)))
