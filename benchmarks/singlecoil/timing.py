"""Seconds per slice of every method, on slices that need no data: the median of repeated runs after a warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from tqdm import tqdm

from benchmarks.singlecoil.contestants import Contestant
from mrihvae.data.scan import Scan
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.undersampling import mask_of

SHAPES = ((320, 320), (256, 256))
REPEATS = 5
NOISE = 0.01


def median_seconds(contestants: list[Contestant], pattern: Undersampling) -> dict[str, dict[str, dict[str, float]]]:
    """Time methods on one slice of each of `SHAPES`: {"320x320": {method: {"median", "least", "most"}}}."""
    return {
        f"{shape[0]}x{shape[1]}": {
            contestant.name: _summary(_times(contestant, phantom_scan(shape), pattern))
            for contestant in tqdm(contestants, f"timing {shape[0]}x{shape[1]}")
        }
        for shape in SHAPES
    }


def phantom_scan(shape: tuple[int, int]) -> Scan:
    """Simulate one slice, always the same: sigpy's Shepp-Logan phantom with smooth phase and 1 % of noise."""
    from sigpy import shepp_logan

    rng = RandomState(0)
    magnitude = np.abs(shepp_logan(shape)).astype(np.float32)
    phase = np.add.outer(np.linspace(-1, 1, shape[0]) ** 2, np.linspace(-0.5, 0.5, shape[1])).astype(np.float32)
    white = (rng.randn(*shape) + 1j * rng.randn(*shape)) * NOISE / np.sqrt(2)
    image = torch.from_numpy((magnitude * np.exp(1j * phase) + white).astype(np.complex64))
    kspace = fft2c(image)[None]
    return Scan(f"phantom_{shape[0]}x{shape[1]}.h5", kspace.numpy(), target=ifft2c(kspace).abs().numpy())


def repeat(run: Callable[[], Any], repeats: int = REPEATS) -> list[float]:
    """Run once to warm up, then measure the seconds of each repeat."""
    run()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return seconds


def _times(contestant: Contestant, scan: Scan, pattern: Undersampling) -> list[float]:
    mask = mask_of(scan, pattern)
    return repeat(lambda: contestant.run(scan, mask))


def _summary(seconds: list[float]) -> dict[str, float]:
    return {
        "median": round(float(np.median(seconds)), 4),
        "least": round(min(seconds), 4),
        "most": round(max(seconds), 4),
    }
