"""Data terms f(x) = -log p(y | x), and their proximal steps, for Gaussian, Rician and phase-free data.

PnP-HVAE takes any data term f with a minimizer of f(x) + |x - v|^2 / gamma^2 (the x-step), or with a gradient. Noise of
standard deviation sigma has E|n|^2 = sigma^2 in every number: for complex images |.|^2 stands where real
ones have |.|^2 / 2 in the logarithms of densities, which the proximal step does not feel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from mrihvae.physics.kernels import abs2
from mrihvae.physics.operators import Operator

MIN_PROX_WEIGHT = 1e-6  # of v against the data, so that data without noise have a proximal step, too


class DataTerm(Protocol):
    """A data term f(x) = -log p(y | x) of images (slices, H, W), up to a constant."""

    @property
    def real(self) -> bool:
        """Whether images are real."""

    def value(self, image: Tensor) -> Tensor:
        """Compute f(x), -log p(y | x) up to a constant, (slices,)."""

    def prox(self, v: Tensor, gamma: Tensor | float) -> Tensor:
        """Compute argmin_x f(x) + |x - v|^2 / gamma^2 (half of it for real images)."""


@dataclass(frozen=True)
class LeastSquares:
    """The data term of Gaussian noise, y = A x + n: f(x) = |A x - y|^2 / sigma^2, half of it for real images.

    Attributes
    ----------
    operator : A
    data : y, real or complex (slices, ...)
    noise : sigma, (slices,)
    real : whether images are real, and their noise

    Examples
    --------
    >>> import torch
    >>> from mrihvae.physics import LeastSquares, denoising
    >>> term = LeastSquares(denoising(), torch.ones(1, 2, 2), noise=torch.tensor([0.5]), real=True)
    >>> term.value(torch.zeros(1, 2, 2))
    tensor([8.])
    >>> term.prox(torch.zeros(1, 2, 2), gamma=0.5)[0, 0]  # as far from the data as from 0
    tensor([0.5000, 0.5000])
    """

    operator: Operator
    data: Tensor
    noise: Tensor
    real: bool = False

    def value(self, image: Tensor) -> Tensor:
        """Compute f(x), (slices,)."""
        misfit = abs2(self.operator.forward(image) - self.data).flatten(1).sum(dim=1)
        return misfit / self.noise.clamp_min(1e-12) ** 2 * (0.5 if self.real else 1.0)

    def prox(self, v: Tensor, gamma: Tensor | float) -> Tensor:
        """Solve (A^H A + r I) x = A^H y + r v with r = (sigma / gamma)^2 (PnP-HVAE, x-step)."""
        r = ((self.noise[:, None, None] / gamma) ** 2).clamp_min(MIN_PROX_WEIGHT)
        remainder = self.data - self.operator.forward(v)  # of v: rounding is divided by r, so let it be of little
        return v + self.operator.solve(self.operator.adjoint(remainder), r)

    def first_image(self) -> Tensor:
        """Compute an image of the data alone, to begin with."""
        return self.operator.first_image(self.data)

    def scaled(self, scale: Tensor) -> LeastSquares:
        """Divide data and noise by `scale` (slices,)."""
        shape = (-1,) + (1,) * (self.data.ndim - 1)
        return replace(self, data=self.data / scale.view(shape), noise=self.noise / scale)


@dataclass(frozen=True)
class Rician:
    """The data term of magnitudes y = |A x + n| of noisy complex images, x real and not negative.

    f(x) = |A x|^2 / sigma^2 - sum log I_0(2 y A x / sigma^2), with E|n|^2 = sigma^2. As -log I_0 is concave, its
    tangent is above it; with it f is majorized by least squares with data y I_1 / I_0, which is solved anew at its
    solution.

    Attributes
    ----------
    operator, data : A, and y (slices, ...), not negative
    noise : sigma (slices,) of the complex noise
    rounds : majorizations in a proximal step
    """

    operator: Operator
    data: Tensor
    noise: Tensor
    rounds: int = 5
    real: ClassVar[bool] = True

    def value(self, image: Tensor) -> Tensor:
        """Compute f(x), (slices,)."""
        shown, argument = self._argument(image)
        power = self._over_noise(shown**2)
        log_bessel = torch.log(torch.special.i0e(argument)) + argument.abs()
        return (power - log_bessel).flatten(1).sum(dim=1)

    def prox(self, v: Tensor, gamma: Tensor | float) -> Tensor:
        """Minimize f(x) + |x - v|^2 / 2 gamma^2 by majorisation, from v on."""
        part = self.noise / 2**0.5  # of one component, as of a real image's noise
        x = v
        for _ in range(self.rounds):
            _, argument = self._argument(x)
            ratio = torch.special.i1e(argument) / torch.special.i0e(argument)
            x = LeastSquares(self.operator, self.data * ratio, part, real=True).prox(v, gamma)
        return x

    def first_image(self) -> Tensor:
        """Compute an image of the data as if noise were Gaussian."""
        return self.operator.first_image(self.data)

    def _argument(self, image: Tensor) -> tuple[Tensor, Tensor]:
        shown = self.operator.forward(image)
        return shown, self._over_noise(2 * self.data * shown)

    def _over_noise(self, values: Tensor) -> Tensor:
        return values / self.noise.clamp_min(1e-12).view((-1,) + (1,) * (values.ndim - 1)) ** 2


@dataclass(frozen=True)
class PhaseFree:
    """The data term of magnitudes y of a complex image of unknown phase: f(x) = |abs(x) - y|^2 / sigma^2, not convex.

    Attributes
    ----------
    data : y, real (slices, H, W)
    noise : sigma, (slices,)
    """

    data: Tensor
    noise: Tensor
    real: ClassVar[bool] = False

    def value(self, image: Tensor) -> Tensor:
        """Compute f(x), (slices,)."""
        return ((image.abs() - self.data) ** 2).flatten(1).sum(dim=1) / self.noise.clamp_min(1e-12) ** 2

    def prox(self, v: Tensor, gamma: Tensor | float) -> Tensor:
        """Keep the phase of v; the magnitude is the mean of both, weighted."""
        r = ((self.noise[:, None, None] / gamma) ** 2).clamp_min(MIN_PROX_WEIGHT)
        return torch.polar((self.data + r * v.abs()) / (1 + r), v.angle())


@dataclass(frozen=True)
class Differentiable:
    """Any data term that torch can differentiate; its proximal step is a number of Adam's steps.

    Attributes
    ----------
    function : f, from images (slices, H, W) to (slices,)
    real : whether images are real
    steps, step : number of steps, and their size in the unit of images
    """

    function: Callable[[Tensor], Tensor]
    real: bool = False
    steps: int = 50
    step: float = 0.01

    def value(self, image: Tensor) -> Tensor:
        """Compute f(x), (slices,)."""
        return self.function(image)

    def prox(self, v: Tensor, gamma: Tensor | float) -> Tensor:
        """Minimize f(x) + |x - v|^2 / gamma^2, half of it for real images, from v on."""
        half = 0.5 if self.real else 1.0
        with torch.enable_grad():
            x = v.detach().clone().requires_grad_()
            optimizer = torch.optim.Adam([x], lr=self.step)
            for _ in range(self.steps):
                optimizer.zero_grad()
                near = half * (abs2(x - v) / gamma**2).flatten(1).sum(dim=1)
                (self.function(x) + near).sum().backward()
                optimizer.step()
        return x.detach()
