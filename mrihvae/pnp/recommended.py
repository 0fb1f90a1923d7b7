"""Recommended settings of the loop for image restoration, by encoder, task and noise."""

from __future__ import annotations

import math

from mrihvae.pnp.settings import PnPSettings

TASKS = ("deblur", "superresolve", "inpaint", "denoise")

# What benchmarks/restoration/run.py --tune found on training images of 256 x 256, but for tau, which
# benchmarks/pnp/temperatures.py found on such of 128 x 128. By encoder and task, then by the noise over the 99th
# percentile of the image: iterations, gamma, relaxation, tau, result. A noise that was not tuned has the settings of
# the nearest that was, and the result, mu or x, that was best in the study of temperatures.
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


def recommended(task: str, noise: float, encoder: str = "data") -> PnPSettings:
    """Return the settings tuned for the nearest noise, in the logarithm.

    Parameters
    ----------
    task : one of `TASKS`
    noise : its standard deviation in model units, from 0
    encoder : see `mrihvae.pnp.settings.PnPSettings`
    """
    levels = RECOMMENDED[encoder][task]
    return levels[min(levels, key=lambda level: abs(math.log(max(noise, 1e-12) / level)))]
