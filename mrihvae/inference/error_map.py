"""The expected error of each pixel, from what goes with errors: log variance is linear in the logarithms of powers.

log v = b . (1, log p_1, ..., log p_K, log n, log m, log R), with the local powers p of `mrihvae.inference.evidence`,
the power n of the noise of what was not acquired, the power m that the held-out misfit predicts, and the acceleration
R. It is a gamma regression with a log link of squared errors on training scans; powers are shares of the peak's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrihvae.inference.evidence import LEAST, LOCAL, HeldOutMisfit

RIDGE = 1e-3  # on coefficients other than the first, per scan
STEPS = 50
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Evidence:
    """What a scan says of its error.

    Attributes
    ----------
    local : float32 (feature, slice, h, w), as `mrihvae.inference.evidence.LOCAL`, in squared normalized units
    noise : standard deviation of the noise of what was not acquired, in a bright pixel, in these units
    misfit : of held-out samples, in these units
    acceleration : the effective one, of all k-space samples over acquired ones
    peak : the largest magnitude of the volume, in these units
    unit : of the image, over these units
    """

    local: np.ndarray
    noise: float
    misfit: HeldOutMisfit
    acceleration: float
    peak: float
    unit: float = 1.0

    def of_scan(self) -> np.ndarray:
        """Return what is the same in all pixels: log n, log m, log R."""
        noise, misfit = self.noise**2 / self.peak**2, self.misfit.power / self.peak**2
        return np.log([noise + LEAST, misfit + LEAST, self.acceleration])

    def logarithms(self, local: np.ndarray | None = None) -> np.ndarray:
        """Return the regressors (1 + features + 3, ...) of all pixels, or of other powers `local` (features, ...)."""
        powers = (self.local if local is None else local) / self.peak**2 + (self.noise / self.peak) ** 2
        constant = [np.full(powers.shape[1:], value) for value in self.of_scan()]
        return np.stack([np.ones(powers.shape[1:]), *np.log(powers + LEAST), *constant])


NAMES = ("1", *LOCAL, "noise", "held-out misfit", "acceleration")


def error_variance(evidence: Evidence, coefficients: Sequence[float]) -> np.ndarray:
    """Compute the expected squared error of each pixel, float32 (slice, h, w), in units of the squared peak."""
    slices = [np.tensordot(coefficients, evidence.logarithms(one), axes=1) for one in np.moveaxis(evidence.local, 1, 0)]
    return np.exp(np.clip(np.stack(slices), np.log(LEAST), 0)).astype(np.float32)


def fit_error(regressors: Sequence[np.ndarray], errors: Sequence[np.ndarray]) -> np.ndarray:
    """Fit the coefficients of log v by gamma regression (Fisher scoring); every scan counts alike.

    Parameters
    ----------
    regressors : of each scan, (regressors, blocks), the first of which is 1
    errors : of each scan, mean squared errors of the same blocks, (blocks,), in units of the squared peak

    Returns
    -------
    (regressors,)

    References
    ----------
    * McCullagh and Nelder 1989, "Generalized Linear Models", chapter 8
    """
    weights = np.concatenate([np.full(len(error), 1 / len(error)) for error in errors])
    x, error = np.concatenate(regressors, axis=1), np.maximum(np.concatenate(errors), LEAST)
    center = x[1:] @ weights / weights.sum()
    x = np.concatenate([x[:1], x[1:] - center[:, None]])  # the ridge holds slopes alone
    ridge = RIDGE * len(errors) * np.diag([0.0, *np.ones(len(x) - 1)])
    curvature = (x * weights) @ x.T + ridge
    found = np.zeros(len(x))
    found[0] = np.log(weights @ error / weights.sum())
    for _ in range(STEPS):
        ratio = np.minimum(error * np.exp(-found @ x), 1e3)  # a bound keeps the first steps from leaping
        step = np.linalg.solve(curvature, x @ (weights * (ratio - 1)) - ridge @ found)
        found = found + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < TOLERANCE:
            break
    return np.concatenate([[found[0] - found[1:] @ center], found[1:]])
