"""The classical parts of a reconstruction in single precision against the same, or NumPy, in double precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrihvae.coils.espirit import fast_maps
from mrihvae.model.bands import merge, split
from mrihvae.physics.degradations import PaddedBlur, SuperResolution
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.kernels import gaussian_kernel, transfer_of
from mrihvae.physics.mri import MaskedFourier, Sense
from mrihvae.physics.total_variation import first_guess
from mrihvae.simulation.coil_fields import birdcage_fields

Row = dict[str, Any]
SHAPE = (96, 80)
COILS = 6
LIMIT = 1e-5  # relative, of single precision
SOLVER_LIMIT = 1e-4  # of what iterates until a residual
REGULARIZATION = 1e-2


def reference_rows(seed: int = 0) -> Iterator[Row]:
    """Compute what double precision changes, part by part: the error's norm over that of the result."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((2, *SHAPE)) + 1j * rng.standard_normal((2, *SHAPE))
    lines = torch.arange(SHAPE[1]) % 3 == 0
    lines[SHAPE[1] // 2 - 10 : SHAPE[1] // 2 + 10] = True
    yield _row("Fourier transform, against NumPy", _distance(fft2c(_single(image)), _numpy_fft(image)), LIMIT)
    double = torch.from_numpy(image)
    for name, (work, limit) in _parts(lines).items():
        yield _row(name, _distance(work(_single(image)), work(double)), limit)


def _parts(lines: Tensor) -> dict[str, tuple[Callable[[Tensor], Tensor], float]]:
    """List functions of complex images (2, H, W), which compute in their precision."""
    fields = birdcage_fields(SHAPE, COILS)
    maps = (fields / fields.abs().square().sum(dim=0).sqrt())[None]
    mask, kernel = lines.expand(2, *SHAPE), gaussian_kernel(1.2)
    fourier = MaskedFourier(mask)

    def sense(like: Tensor) -> Sense:
        return Sense(maps.to(like.dtype), mask, tolerance=1e-8)

    def superresolution(like: Tensor) -> SuperResolution:
        return SuperResolution(transfer_of(kernel.to(like.real.dtype), SHAPE).to(like.dtype), 2)

    def calibrate(image: Tensor) -> Tensor:
        low = fft2c(maps[0].to(image.dtype) * image[:1].abs())
        return fast_maps(low[:, 36:60, 28:52], SHAPE)

    return {
        "Fourier transform, there and back": (lambda x: ifft2c(fft2c(x)), LIMIT),
        "masked Fourier": (lambda x: fourier.adjoint(fourier.forward(x)), LIMIT),
        "SENSE, forward": (lambda x: sense(x).forward(x), LIMIT),
        "SENSE, adjoint": (lambda x: sense(x).adjoint(sense(x).forward(x)), LIMIT),
        "SENSE, normal": (lambda x: sense(x).normal(x), LIMIT),
        "SENSE, solved": (lambda x: sense(x).solve(x, REGULARIZATION), SOLVER_LIMIT),
        "blur beyond the border": (lambda x: PaddedBlur(kernel.to(x.real.dtype)).forward(x), LIMIT),
        "super-resolution, forward": (lambda x: superresolution(x).forward(x), LIMIT),
        "super-resolution, solved": (
            lambda x: superresolution(x).solve(superresolution(x).adjoint(superresolution(x).forward(x)), 1e-2),
            SOLVER_LIMIT,
        ),
        "bands, split and merged": (lambda x: merge(split(x, 3)), LIMIT),
        "total variation": (lambda x: first_guess(fft2c(x) * mask, mask), SOLVER_LIMIT),
        "ESPIRiT": (calibrate, SOLVER_LIMIT),
        "root-sum-of-squares": (lambda x: (maps.to(x.dtype) * x[:, None]).abs().square().sum(dim=1).sqrt(), LIMIT),
    }


def _single(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.astype(np.complex64))


def _numpy_fft(image: np.ndarray) -> Tensor:
    axes = (-2, -1)
    spectrum = np.fft.fft2(np.fft.ifftshift(image, axes), norm="ortho")
    return torch.from_numpy(np.fft.fftshift(spectrum, axes))


def _distance(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).abs().square().sum().sqrt() / truth.abs().square().sum().sqrt())


def _row(what: str, difference: float, limit: float) -> Row:
    return {"check": "double precision", "what": what, "difference": difference, "limit": limit}
