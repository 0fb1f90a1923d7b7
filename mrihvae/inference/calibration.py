"""The calibration of uncertainty that belongs to weights: NAME.calibration.json beside NAME.safetensors.

It holds how evidence in a scan becomes an expected error, and the conformal quantiles with which that becomes intervals
and bounds that hold for new persons. It was made with fully sampled scans of calibration persons
(`mrihvae.evaluation.calibration`), and promises nothing for scans that are unlike theirs: the misfit of lines that are
held out says when a scan is.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from mrihvae.errors import InputError
from mrihvae.inference.conformal import p_value
from mrihvae.inference.error_map import NAMES, Evidence, error_variance
from mrihvae.model.shipped import CALIBRATION
from mrihvae.utils.config import from_dict
from mrihvae.utils.files import atomic_write

ONE_COIL, SEVERAL_COILS = "one coil", "several coils"
UNUSUAL = 0.05  # p-value of the held-out misfit, up to which a scan is said to be unlike those of the calibration
SHIFT = (0, 4)  # of the regressors of scores, those of the held-out misfit: 1 and the acceleration
REACH = 1.5  # times beyond the calibrated accelerations that one may be


@dataclass(frozen=True)
class Quantiles:
    """What was found at one acceleration.

    Attributes
    ----------
    acceleration : nominal
    effective : geometric mean of the effective one
    persons : number of persons whose scores these are
    factor : on the square root of the expected squared error, for intervals of the level
    psnr_margin : of a bound, below the expected PSNR, in dB
    ssim_margin : of a bound, in log10 (1 - SSIM) above the expected one
    shift_scores : of each person, sorted; see `shift_score`
    """

    acceleration: float
    effective: float
    persons: int
    factor: float
    psnr_margin: float
    ssim_margin: float
    shift_scores: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """How evidence becomes intervals and bounds, for scans of one coil or of several.

    Attributes
    ----------
    level : of intervals and bounds
    settings : of inference, with which it was made; it holds for these alone
    names : of the regressors of `error`
    error : coefficients of the log variance, by `mrihvae.inference.error_map`
    psnr, ssim : coefficients of the expected PSNR and log10 (1 - SSIM), by `volume_regressors`
    shift : coefficients of the expected held-out misfit, by `SHIFT`
    quantiles : at each acceleration
    persons, scans : number of those that were used, for coefficients and quantiles together
    """

    level: float
    settings: Mapping[str, Any]
    names: tuple[str, ...]
    error: tuple[float, ...]
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    shift: tuple[float, ...]
    quantiles: tuple[Quantiles, ...]
    persons: int
    scans: int

    def at(self, acceleration: float) -> Quantiles:
        """Return the quantiles of the nearest effective acceleration."""
        return min(self.quantiles, key=lambda one: abs(math.log(one.effective / acceleration)))

    def reaches(self, acceleration: float) -> bool:
        """Return whether an effective acceleration lies near those of the calibration."""
        least, most = (end(one.effective for one in self.quantiles) for end in (min, max))
        return bool(least / REACH <= acceleration <= most * REACH)


@dataclass(frozen=True)
class Bounds:
    """What a calibration promises of a volume, with probability `level` over persons like those of the calibration.

    Attributes
    ----------
    level : of intervals and bounds
    psnr_at_least, ssim_at_least : of the volume, in dB and as a number
    p_value : of the held-out misfit among those of the calibration: a small one says that this scan is unlike them
    persons : of the calibration, at this acceleration
    """

    level: float
    psnr_at_least: float
    ssim_at_least: float
    p_value: float
    persons: int

    @property
    def is_unusual(self) -> bool:
        """Whether the scan is unlike those of the calibration, so that intervals and bounds may not hold."""
        return self.p_value <= UNUSUAL


def volume_regressors(evidence: Evidence, variance: np.ndarray) -> np.ndarray:
    """Return what PSNR and SSIM of a volume are predicted from, as `score_regressors`."""
    return score_regressors(float(variance.mean()), evidence.of_scan())


def score_regressors(variance: float, scan: np.ndarray) -> np.ndarray:
    """Return 1, log10 of the mean variance v, of n / v, of m / v, of R and of e.

    Parameters
    ----------
    variance : v, a mean over the volume, as a share of the squared peak
    scan : log n, log m, log R, log e, as `Evidence.of_scan` returns them
    """
    mean = math.log10(variance)
    noise, misfit, acceleration, relative = scan / math.log(10)
    return np.array([1.0, mean, noise - mean, misfit - mean, acceleration, relative])


def apply_calibration(calibration: Calibration, evidence: Evidence) -> tuple[np.ndarray, Bounds]:
    """Compute the standard deviation of each pixel, and bounds of the volume's PSNR and SSIM.

    PSNR and SSIM are those of `mrihvae.evaluation`, against a fully sampled scan of the same noise.

    Returns
    -------
    float32 (slice, h, w) in the units of the image, of which the interval of the level is as many on either side as
    those of a normal distribution; and the bounds
    """
    variance = error_variance(evidence, calibration.error)
    factor = calibration.at(evidence.acceleration).factor / NormalDist().inv_cdf((1 + calibration.level) / 2)
    std = np.float32(evidence.unit * evidence.peak * factor) * np.sqrt(variance)
    known = volume_regressors(evidence, variance)
    return std, volume_bounds(calibration, known, evidence.acceleration, evidence.misfit.relative)


def volume_bounds(calibration: Calibration, known: np.ndarray, acceleration: float, relative: float) -> Bounds:
    """Compute bounds of a volume's PSNR and SSIM, and how usual its misfit is.

    Parameters
    ----------
    known : as `volume_regressors` returns it
    acceleration : effective
    relative : held-out misfit, over the energy of what was held out
    """
    found = calibration.at(acceleration)
    psnr = float(known @ calibration.psnr) - found.psnr_margin
    ssim = 1 - 10 ** min(float(known @ calibration.ssim) + found.ssim_margin, math.log10(2))
    p = p_value(shift_score(calibration.shift, known, relative), found.shift_scores)
    return Bounds(calibration.level, psnr, ssim, p, found.persons)


def shift_score(coefficients: Sequence[float] | np.ndarray, known: np.ndarray, relative: float) -> float:
    """Compute by how much held-out lines are predicted worse than in the calibration's scans, in log10 of power.

    Parameters
    ----------
    coefficients : of the expected relative misfit
    known, relative : as for `volume_bounds`
    """
    return math.log10(relative) - float(known[[*SHIFT]] @ np.asarray(coefficients))


def calibration_path(weights: Path) -> Path:
    """Return where the calibration of weights lies."""
    return weights.with_suffix(CALIBRATION)


def save_calibration(path: Path, weights: str, calibrations: Mapping[str, Calibration]) -> None:
    """Write calibrations, by number of coils, with the fingerprint of the weights to which they belong."""
    parts = {name: dataclasses.asdict(one) for name, one in calibrations.items()}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"weights": weights, **parts}, indent=1) + "\n")


def load_calibration(path: Path, weights: str) -> dict[str, Calibration]:
    """Read the calibrations beside weights, by number of coils; none where there are none, or of other weights.

    Parameters
    ----------
    path : of the calibration
    weights : fingerprint of the weights

    Raises
    ------
    InputError
        A file that is damaged.
    """
    try:
        values = json.loads(path.read_text())
        if values.pop("weights") != weights:
            return {}
        found = {name: _parse(part, f"{path}, {name}") for name, part in values.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}); make it again with 'mrihvae calibrate'") from error
    return {name: one for name, one in found.items() if one.names == NAMES}


def _parse(values: dict[str, Any], where: str) -> Calibration:
    settings = values.pop("settings")
    quantiles = tuple(from_dict(Quantiles, one, where) for one in values.pop("quantiles"))
    numbers: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return Calibration(settings=settings, quantiles=quantiles, **numbers)
