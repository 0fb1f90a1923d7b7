"""What restoration is given where its user gives nothing: settings of the loop by task and noise, and the noise."""

from __future__ import annotations

import math

import numpy as np

from mrihvae.pnp import PnPSettings

TASKS = ("deblur", "superresolve", "inpaint", "denoise")

FIRST = PnPSettings(iterations=2, gamma=0.05, views=4)  # for all, as long as nothing better was measured
RECOMMENDED = {  # by the noise's deviation over the 99th percentile of the image's magnitude
    **{task: dict.fromkeys((0.01, 0.03, 0.05), FIRST) for task in TASKS[:-1]},
    "denoise": dict.fromkeys((0.01, 0.03, 0.05, 0.1), FIRST),
}

NORMAL_MEDIAN = 0.6745  # of the magnitude of a normal variable of deviation 1
ESTIMATE = "median magnitude of the finest diagonal Haar detail over 0.6745"


def recommended(task: str, noise: float) -> PnPSettings:
    """Look up the settings of the nearest noise, in the logarithm.

    Parameters
    ----------
    task : one of `TASKS`
    noise : its standard deviation in model units, from 0
    """
    levels = RECOMMENDED[task]
    return levels[min(levels, key=lambda level: abs(math.log(max(noise, 1e-12) / level)))]


def estimate_noise(images: np.ndarray, known: np.ndarray) -> float | None:
    """Estimate the standard deviation of white noise in images, robustly (Donoho and Johnstone 1994).

    The detail (a - b - c + d) / 2 of four pixels has the noise's deviation and little of the image; the median of its
    magnitude hardly feels edges. Four zeros do not count: there, noise was masked away.

    Parameters
    ----------
    images : real (slices, H, W); what is not known may be anything
    known : bool, the same shape

    Returns
    -------
    in the images' own unit; None if there are no four known pixels that count
    """
    a, b, c, d = (images[:, i : images.shape[1] - 1 + i, j : images.shape[2] - 1 + j] for i in (0, 1) for j in (0, 1))
    counted = known[:, :-1, :-1] & known[:, :-1, 1:] & known[:, 1:, :-1] & known[:, 1:, 1:]
    counted &= (a != 0) | (b != 0) | (c != 0) | (d != 0)
    if not counted.any():
        return None
    a, b, c, d = (part[counted].astype(np.float64) for part in (a, b, c, d))
    return float(np.median(np.abs(a - b - c + d) / 2)) / NORMAL_MEDIAN
