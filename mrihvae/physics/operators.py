"""Degradation and acquisition operators A, with their adjoints and exact proximal steps.

An operator maps images (slices, H, W), real or complex, to data. What PnP-HVAE asks of it beside A x and A^H y is
the minimizer of |A x - y|^2 + r |x - v|^2 (PnP-HVAE, algorithm 1, x-step), the solution of

    (A^H A + r I) x = A^H y + r v.

It is in closed form where A^H A is diagonal, in k-space or in the image, by Woodbury's identity for super-resolution,
and by conjugate gradients else. Real images stay real.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mrihvae.physics.conjugate_gradients import conjugate_gradients, image_or_warning

FIRST_IMAGE_WEIGHT = 1e-2  # weight of |x|^2 in the first image of an operator that is known by its products alone


class Operator(Protocol):
    """A linear operator A on images (slices, H, W), such as `Sense` or `Blur`."""

    def forward(self, image: Tensor) -> Tensor:
        """Compute A x."""

    def adjoint(self, data: Tensor) -> Tensor:
        """Compute A^H y, an image."""

    def solve(self, right: Tensor, r: Tensor | float) -> Tensor:
        """Solve (A^H A + r I) x = `right`, an image; r > 0, a number or (slices, 1, 1)."""

    def first_image(self, data: Tensor) -> Tensor:
        """Compute an image of data alone, to begin with."""

    def gains(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return about |A|^2: by pixel and by centered frequency, both (slices or 1, H or 1, W or 1)."""


@dataclass(frozen=True)
class Linear:
    """Any linear operator A, given A x and A^H y.

    Its norm should be about 1: `PnPSettings.gamma` and the noise are in units of images.

    Attributes
    ----------
    apply, apply_adjoint : from images (slices, H, W) to data (slices, ...), and back
    tolerance, cap : relative residual of `solve`, and its largest number of iterations

    Examples
    --------
    >>> import torch
    >>> from mrihvae.physics import Linear
    >>> mean = Linear(lambda x: (x + x.roll(1, -1)) / 2, lambda y: (y + y.roll(-1, -1)) / 2)
    >>> mean.forward(torch.tensor([[[0.0, 2.0, 4.0]]]))
    tensor([[[2., 1., 3.]]])
    """

    apply: Callable[[Tensor], Tensor]
    apply_adjoint: Callable[[Tensor], Tensor]
    tolerance: float = 3e-7
    cap: int = 500

    def forward(self, image: Tensor) -> Tensor:
        """Compute A x."""
        return self.apply(image)

    def adjoint(self, data: Tensor) -> Tensor:
        """Compute A^H y."""
        return self.apply_adjoint(data)

    def solve(self, right: Tensor, r: Tensor | float) -> Tensor:
        """Solve by conjugate gradients."""
        found = conjugate_gradients(
            lambda x: self.adjoint(self.forward(x)), right, r, tolerance=self.tolerance, cap=self.cap
        )
        return image_or_warning(found)

    def first_image(self, data: Tensor) -> Tensor:
        """Solve with little weight on images that are small."""
        return self.solve(self.adjoint(data), FIRST_IMAGE_WEIGHT)

    def gains(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return 1: nothing is known of what A keeps."""
        return torch.ones(1, 1, 1), torch.ones(1, 1, 1)


def to_device(value: Any, device: torch.device) -> Any:
    """Move a dataclass of tensors, and of such dataclasses, to a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    return dataclasses.replace(
        value, **{f.name: to_device(getattr(value, f.name), device) for f in dataclasses.fields(value)}
    )
