"""What restoration is given where its user gives nothing: settings of the loop by task and noise, and the noise."""

from __future__ import annotations

import math

import numpy as np

from mrihvae.pnp import PnPSettings

TASKS = ("deblur", "superresolve", "inpaint", "denoise")

# What benchmarks/restoration.py --tune found on training images of 256 x 256, but for tau, which
# benchmarks/temperatures.py found on such of 128 x 128. By encoder and task, then by the noise over the 99th percentile
# of the image: iterations, gamma, relaxation, tau, result. A noise that was not tuned has the settings of the nearest
# that was, and the result, mu or x, that was best in the study of temperatures.
TUNED = {
    "data": {
        "deblur": {
            0.01: (1, 0.01, 0.5, 1.0, "image"),
            0.03: (1, 0.05, 0.5, 1.0, "image"),
            0.05: (1, 0.05, 0.5, 1.0, "image"),
            0.1: (1, 0.05, 0.5, 1.0, "image"),
        },
        "superresolve": {
            0.01: (1, 0.05, 0.5, 1.0, "image"),
            0.03: (1, 0.05, 0.5, 1.0, "image"),
            0.05: (1, 0.003, 0.5, 1.0, "image"),
            0.1: (1, 0.003, 0.5, 0.95, "decoded"),
        },
        "inpaint": {
            0.01: (1, 0.003, 0.5, 1.0, "image"),
            0.03: (1, 0.003, 0.5, 1.0, "image"),
            0.05: (1, 0.003, 0.5, 1.0, "image"),
            0.1: (1, 0.003, 0.5, 1.0, "image"),
        },
        "denoise": {
            0.01: (1, 0.003, 0.5, 1.0, "image"),
            0.03: (1, 0.003, 0.5, 1.0, "image"),
            0.05: (1, 0.003, 0.5, 1.0, "image"),
            0.1: (1, 0.003, 0.5, 1.0, "image"),
        },
    },
    "complete": {
        "deblur": {
            0.01: (15, 0.05, 1.0, 0.95, "image"),
            0.03: (9, 0.1, 1.0, 1.0, "decoded"),
            0.05: (8, 0.1, 1.0, 1.0, "decoded"),
            0.1: (8, 0.1, 1.0, 0.8, "image"),
        },
        "superresolve": {
            0.01: (3, 0.05, 1.0, 1.0, "image"),
            0.03: (5, 0.1, 1.0, 0.6, "image"),
            0.05: (5, 0.1, 1.0, 0.6, "image"),
            0.1: (5, 0.1, 1.0, 0.3, "image"),
        },
        "inpaint": {
            0.01: (4, 0.05, 1.0, 0.6, "image"),
            0.03: (3, 0.2, 1.0, 0.95, "decoded"),
            0.05: (4, 0.2, 1.0, 0.8, "decoded"),
            0.1: (4, 0.2, 1.0, 0.6, "decoded"),
        },
        "denoise": {
            0.01: (1, 0.02, 1.0, 1.0, "image"),
            0.03: (1, 0.02, 1.0, 1.0, "decoded"),
            0.05: (2, 0.2, 1.0, 0.95, "decoded"),
            0.1: (10, 0.2, 1.0, 0.6, "decoded"),
        },
    },
}
VIEWS = {"data": 4, "complete": 1}
RECOMMENDED = {
    encoder: {
        task: {
            noise: PnPSettings(
                encoder=encoder, views=VIEWS[encoder], iterations=iterations, gamma=gamma, relaxation=relaxation,
                tau=tau, result=result,
            )
            for noise, (iterations, gamma, relaxation, tau, result) in levels.items()
        }
        for task, levels in tasks.items()
    }
    for encoder, tasks in TUNED.items()
}  # fmt: skip

NORMAL_MEDIAN = 0.6745  # of the magnitude of a normal variable of deviation 1
ESTIMATE = "median magnitude of the finest diagonal Haar detail over 0.6745"


def recommended(task: str, noise: float, encoder: str = "data") -> PnPSettings:
    """Look up the settings of the nearest noise, in the logarithm.

    Parameters
    ----------
    task : one of `TASKS`
    noise : its standard deviation in model units, from 0
    encoder : see `mrihvae.pnp.PnPSettings`
    """
    levels = RECOMMENDED[encoder][task]
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
