"""Ways to restore degraded images: TV and wavelets through sigpy, a denoiser and PnP-HVAE plugged into a loop.

Each way is a function of network, problem and settings that gives candidates as they come: images, and the settings
that would have ended with them. All have the very same operator, data and noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import sigpy
import torch
from skimage.restoration import denoise_nl_means
from torch import Tensor

from benchmarks.pnp.degraded_images import Problem
from mrihvae.model.hvae import HVAE
from mrihvae.physics.operators import Operator
from mrihvae.pnp.degraded import BEGINNING
from mrihvae.pnp.loop import restore
from mrihvae.pnp.restore import in_model_units, make_posteriors
from mrihvae.pnp.settings import RESULTS, PnPSettings
from mrihvae.utils.config import with_settings

POWERS = 20  # iterations of the power method for |A|
Candidates = Iterator[tuple[dict[str, Any], Tensor]]
Restore = Callable[[HVAE, Problem, Any], Candidates]


@dataclass(frozen=True)
class PlainSettings:
    """Of a way that has nothing to set."""


@dataclass(frozen=True)
class TVSettings:
    """Of total variation.

    Attributes
    ----------
    strength : lambda, for |A| = 1
    iterations : of the primal-dual hybrid gradient
    dual_step : over lambda; the primal one follows, since |G|^2 = 8
    """

    strength: float = 0.01
    iterations: int = 300
    dual_step: float = 2.0

    def __post_init__(self) -> None:
        if not (self.strength > 0 and self.dual_step > 0) or self.iterations < 1:
            raise ValueError("strength and dual_step must be above 0, and iterations at least 1")


@dataclass(frozen=True)
class WaveletSettings:
    """Of L1-wavelets: lambda, for |A| = 1, and how many iterations of the accelerated proximal gradient method."""

    strength: float = 0.01
    iterations: int = 200

    def __post_init__(self) -> None:
        if not self.strength > 0 or self.iterations < 1:
            raise ValueError("strength must be above 0, and iterations at least 1")


@dataclass(frozen=True)
class DenoiserSettings:
    """Of non-local means in the loop.

    Attributes
    ----------
    h : how different patches may be that are averaged
    gamma : deviation of x about the denoised image
    iterations : at most
    result : "decoded", the denoised image, or "image", x
    """

    h: float = 0.03
    gamma: float = 0.05
    iterations: int = 10
    result: str = "image"

    def __post_init__(self) -> None:
        if not (self.h > 0 and self.gamma > 0) or self.iterations < 1 or self.result not in RESULTS:
            raise ValueError(f"h and gamma must be above 0, iterations at least 1, result one of {', '.join(RESULTS)}")


@dataclass(frozen=True)
class Candidate:
    """An image (1, H, W), what of the settings led to it, and after how many seconds it was there."""

    settings: dict[str, Any]
    image: Tensor
    seconds: float


def run(way: Restore, model: HVAE, problem: Problem, settings: Any) -> Iterator[Candidate]:
    """Run a way; what is done with a candidate before the next is asked for does not count as time."""
    found, seconds = way(model, problem, settings), 0.0
    while True:
        began = time.perf_counter()
        one = next(found, None)
        seconds += time.perf_counter() - began
        if one is None:
            return
        yield Candidate(one[0], one[1], seconds)


def first_image(model: HVAE, problem: Problem, settings: PlainSettings) -> Candidates:
    """Take the image that the operator makes of data alone."""
    yield {}, problem.term.first_image()


# --- through sigpy ---------------------------------------------------------------------------------------------------


class Degradation(sigpy.linop.Linop):  # type: ignore[misc]
    """An operator of real images, over its norm, as sigpy's: of arrays (H, W).

    Parameters
    ----------
    operator, shape : A, and (H, W)
    norm : by which A is divided
    adjoint : whether it is A^H
    """

    def __init__(self, operator: Operator, shape: tuple[int, ...], norm: float = 1.0, adjoint: bool = False) -> None:
        self.operator, self.shape, self.norm, self.is_adjoint = operator, shape, norm, adjoint
        image, data = tuple(shape), tuple(operator.forward(torch.zeros(1, *shape)).shape[1:])
        super().__init__(*((image, data) if adjoint else (data, image)), repr_str="A^H" if adjoint else "A")

    def _apply(self, values: np.ndarray) -> np.ndarray:
        apply = self.operator.adjoint if self.is_adjoint else self.operator.forward
        return (apply(torch.from_numpy(np.ascontiguousarray(values))[None])[0] / self.norm).numpy()

    def _adjoint_linop(self) -> Degradation:
        return Degradation(self.operator, self.shape, self.norm, not self.is_adjoint)


class Consistency(sigpy.prox.Prox):  # type: ignore[misc]
    """The exact proximal step of 1/2 |A x - y|^2 / |A|^2.

    Parameters
    ----------
    operator, data, norm : A, y (1, h, w) and |A|
    shape : (H, W)
    """

    def __init__(self, operator: Operator, data: Tensor, norm: float, shape: tuple[int, ...]) -> None:
        self.operator, self.norm = operator, norm
        self.back = operator.adjoint(data)
        super().__init__(shape)

    def _prox(self, alpha: float, values: np.ndarray) -> np.ndarray:
        r = self.norm**2 / alpha
        return self.operator.solve(self.back + r * torch.from_numpy(values)[None], r)[0].numpy()


class SoftThreshold(sigpy.prox.Prox):  # type: ignore[misc]
    """The proximal step of lambda |.|_1 of real numbers: sigpy's own gives complex ones once it was given such."""

    def __init__(self, shape: tuple[int, ...], strength: float) -> None:
        self.strength = strength
        super().__init__(shape)

    def _prox(self, alpha: float, values: np.ndarray) -> np.ndarray:
        return np.sign(values) * np.maximum(np.abs(values) - np.float32(alpha * self.strength), 0)


def norm_of(operator: Operator, shape: tuple[int, ...]) -> float:
    """Compute |A| by the power method from a constant image on: kernels and masks are not negative."""
    image, size = torch.ones(1, *shape), 1.0
    for _ in range(POWERS):
        image = operator.adjoint(operator.forward(image / image.norm()))
        size = float(image.norm())
    return size**0.5


def total_variation(model: HVAE, problem: Problem, settings: TVSettings) -> Candidates:
    """Minimize 1/2 |A x - y|^2 / |A|^2 + lambda sum |(G x)_i|, G x the differences to two neighbors (isotropic TV).

    By sigpy's primal-dual hybrid gradient with the exact proximal step of the data.
    """
    shape = problem.picture.image.shape
    norm = norm_of(problem.operator, shape)
    gradient = sigpy.linop.FiniteDifference(shape)
    dual = settings.dual_step * settings.strength
    method = sigpy.alg.PrimalDualHybridGradient(
        sigpy.prox.L2Proj(gradient.oshape, settings.strength, axes=(0,)),  # of the conjugate of lambda |.|
        Consistency(problem.operator, problem.data, norm, shape),
        gradient,
        gradient.H,
        problem.term.first_image()[0].numpy().copy(),
        np.zeros(gradient.oshape, dtype=np.float32),
        tau=1 / (8 * dual),
        sigma=dual,
        max_iter=settings.iterations,
    )
    while not method.done():
        method.update()
    yield {}, torch.from_numpy(method.x)[None]


def wavelet(model: HVAE, problem: Problem, settings: WaveletSettings) -> Candidates:
    """Minimize 1/2 |A x - y|^2 / |A|^2 + lambda |W x|_1 by sigpy's `LinearLeastSquares`, W of Daubechies 4."""
    shape = problem.picture.image.shape
    norm = norm_of(problem.operator, shape)
    transform = sigpy.linop.Wavelet(shape)
    application = sigpy.app.LinearLeastSquares(
        Degradation(problem.operator, shape, norm),
        (problem.data[0] / norm).numpy(),
        x=problem.term.first_image()[0].numpy().copy(),
        proxg=sigpy.prox.UnitaryTransform(SoftThreshold(transform.oshape, settings.strength), transform),
        solver="GradientMethod",
        accelerate=True,
        alpha=1,
        max_iter=settings.iterations,
        show_pbar=False,
    )
    yield {}, torch.from_numpy(np.asarray(application.run(), dtype=np.float32))[None]


# --- plugged in ------------------------------------------------------------------------------------------------------


def denoiser(model: HVAE, problem: Problem, settings: DenoiserSettings) -> Candidates:
    """Let non-local means and exact proximal steps take turns, x = prox(denoised x): PnP-HVAE's loop."""
    term = problem.term
    x = term.prox(term.first_image(), BEGINNING)
    for number in range(settings.iterations):
        cleaned = denoise_nl_means(x[0].numpy(), patch_size=5, patch_distance=6, h=settings.h, fast_mode=True)
        v = torch.from_numpy(np.asarray(cleaned, dtype=np.float32))[None]
        x = term.prox(v, settings.gamma)
        yield {"iterations": number + 1, "result": "decoded"}, v
        yield {"iterations": number + 1, "result": "image"}, x


def pnp(model: HVAE, problem: Problem, settings: PnPSettings) -> Candidates:
    """Restore by PnP-HVAE: as `mrihvae.pnp.restore.restore_images` does, iteration by iteration, all of them alike."""
    term, scale = in_model_units(problem.term)
    with torch.no_grad():
        posteriors, x = make_posteriors(model, term, settings)
    for number in range(settings.iterations):
        found = restore(model, term, posteriors, x, with_settings(settings, iterations=1))
        x = found.image
        yield {"iterations": number + 1, "result": "decoded"}, found.decoded * scale
        yield {"iterations": number + 1, "result": "image"}, x * scale


def unets(model: HVAE, problem: Problem, settings: PnPSettings) -> Candidates:
    """Take the first guess of r's U-Nets, a mean over the views, without latents."""
    term, scale = in_model_units(problem.term)
    with torch.no_grad():
        image = make_posteriors(model, term, settings)[1] * scale
    yield {}, image
