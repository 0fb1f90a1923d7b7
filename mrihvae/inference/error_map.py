"""The expected error of each pixel, from what goes with errors.

Its variance is that of the noise of what was not acquired, n, and of the reconstruction itself, whose logarithm is
linear in the logarithms of powers:

    v = n + exp(b + sum_k w_k log p_k + w_n log n + w_m log m + w_R log R + w_e log e),    sum_k w_k + w_n + w_m = 1,

with the local powers p of `mrihvae.inference.evidence`, noise among them, the power m that the held-out misfit
predicts, the acceleration R, and the share e of the energy of held-out samples that is not predicted. As powers have
weights of sum 1, the variance has the scale of the scan, at any brightness and noise. It is a gamma regression of
squared errors on training scans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrihvae.inference.evidence import LEAST, LOCAL, HeldOutMisfit

RIDGE = 0.2  # per scan, on weights beside that of the samples; the best of five across training persons
STEPS = 100
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
        """Return what is the same in all pixels: log n, log m, log R, log e."""
        noise, misfit = self.noise**2 / self.peak**2, self.misfit.power / self.peak**2
        return np.log([noise + LEAST, misfit + LEAST, self.acceleration, max(self.misfit.relative, LEAST)])

    def logarithms(self, local: np.ndarray | None = None) -> np.ndarray:
        """Return the regressors (1 + features + 4, ...) of all pixels, or of other powers `local` (features, ...)."""
        powers = (self.local if local is None else local) / self.peak**2 + (self.noise / self.peak) ** 2
        constant = [np.full(powers.shape[1:], value) for value in self.of_scan()]
        return np.stack([np.ones(powers.shape[1:]), *np.log(powers + LEAST), *constant])


NAMES = ("1", *LOCAL, "noise", "held-out misfit", "acceleration", "share of held-out energy")
ANCHOR, NOISE, MISFIT = NAMES.index("samples"), NAMES.index("noise"), NAMES.index("held-out misfit")
POWERS = range(1, MISFIT + 1)  # regressors whose weights have the sum 1


def error_variance(evidence: Evidence, coefficients: Sequence[float]) -> np.ndarray:
    """Compute the expected squared error of each pixel, float32 (slice, h, w), in units of the squared peak."""
    slices = [variance_of(evidence.logarithms(one), coefficients) for one in np.moveaxis(evidence.local, 1, 0)]
    return np.stack(slices).astype(np.float32)


def variance_of(regressors: np.ndarray, coefficients: Sequence[float] | np.ndarray) -> np.ndarray:
    """Compute v of regressors (regressors, ...), as `Evidence.logarithms` returns them."""
    linear = np.tensordot(np.asarray(coefficients), regressors, axes=1)
    found: np.ndarray = np.exp(regressors[NOISE]) + np.exp(np.clip(linear, np.log(LEAST), 0))
    return found


def fit_error(regressors: Sequence[np.ndarray], errors: Sequence[np.ndarray]) -> np.ndarray:
    """Fit the coefficients by gamma regression (Fisher scoring); every scan counts alike.

    Parameters
    ----------
    regressors : of each scan, (regressors, blocks)
    errors : of each scan, mean squared errors of the same blocks, (blocks,), in units of the squared peak

    Returns
    -------
    (regressors,)

    References
    ----------
    * McCullagh and Nelder 1989, "Generalized Linear Models", chapter 8
    """
    weights = np.concatenate([np.full(len(error), 1 / len(error)) for error in errors])
    joined, error = np.concatenate(regressors, axis=1).astype(float), np.maximum(np.concatenate(errors), LEAST)
    noise, offset = np.exp(joined[NOISE]), joined[ANCHOR]
    free = [k for k in range(len(NAMES)) if k != ANCHOR]
    x = np.stack([joined[k] - offset if k in POWERS else joined[k] for k in free])  # weights then have the sum 1
    center = np.array([0.0, *(x[1:] @ weights / weights.sum())])
    x = x - center[:, None]  # the ridge holds slopes alone
    ridge = RIDGE * len(errors) * np.diag([0.0, *np.ones(len(x) - 1)])
    found = np.zeros(len(x))
    found[0] = np.log(weights @ error / (weights @ np.exp(offset)))
    for _ in range(STEPS):
        own = np.exp(np.clip(offset + found @ x, np.log(LEAST), 0))
        variance = noise + own
        share = own / variance
        ratio = np.minimum(error / variance, 100)  # a bound keeps the first steps from leaping
        curvature = (x * weights * share**2) @ x.T + ridge + 1e-9 * np.eye(len(x))
        step = np.linalg.solve(curvature, x @ (weights * share * (ratio - 1)) - ridge @ found)
        found = found + step / max(1.0, 2 * float(np.abs(step).max()))
        if np.abs(step).max() < TOLERANCE:
            break
    full = np.zeros(len(NAMES))
    full[free] = found
    full[0] -= found @ center
    full[ANCHOR] = 1 - sum(full[k] for k in POWERS if k != ANCHOR)
    return full
