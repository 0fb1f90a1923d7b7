"""Conjugate gradients for normal equations that have no closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mrihvae.utils.notices import warn

CG_TOLERANCE = 1e-6  # relative residual of the normal equations


@dataclass(frozen=True)
class Solution:
    """What conjugate gradients found.

    Attributes
    ----------
    image : x, (slices, H, W)
    residual : |b - (N + r I) x| over |b|, (slices,)
    iterations : how many it took
    remainder : b - (N + r I) x as the iterations update it, (slices, H, W)
    """

    image: Tensor
    residual: Tensor
    iterations: int
    remainder: Tensor


def conjugate_gradients(
    normal: Callable[[Tensor], Tensor],
    right: Tensor,
    r: Tensor | float,
    precondition: Callable[[Tensor], Tensor] = lambda x: x,
    tolerance: float = 1e-6,
    cap: int = 100,
    double: bool = True,
) -> Solution:
    """Solve (N + r I) x = b, slices as problems of their own (Hestenes and Stiefel 1952).

    Parameters
    ----------
    normal : N = A^H A, of images (slices, H, W)
    right : b
    r : above 0, a number or (slices, 1, 1)
    precondition : about the inverse of N + r I
    tolerance : of |b - (N + r I) x| over |b|; reached by all slices, or `cap` iterations done
    double : whether to compute in double precision, as residuals below 1e-5 need; else in that of b
    """
    b = right.to(torch.complex128 if right.is_complex() else torch.float64) if double else right

    def dot(a: Tensor, c: Tensor) -> Tensor:
        if a.is_complex():
            a, c = torch.view_as_real(a).flatten(-2), torch.view_as_real(c).flatten(-2)
        return (a * c).sum(dim=(-2, -1), keepdim=True)

    tiny = torch.finfo(b.dtype).tiny
    size = dot(b, b).sqrt().clamp_min(tiny)
    x = torch.zeros_like(b)
    remainder, number, done = b, 0, size <= tiny  # a slice that has arrived stays, whatever others in the batch need
    direction = z = precondition(remainder)
    power = dot(remainder, z)
    while number < cap:
        number += 1
        applied = normal(direction) + r * direction
        step = torch.where(done, 0.0, power / dot(direction, applied).clamp_min(tiny)).to(b.dtype)
        x, remainder = x.addcmul_(step, direction), torch.addcmul(remainder, step, applied, value=-1)
        done = dot(remainder, remainder).sqrt() <= tolerance * size
        if number == cap or bool(done.all()):
            break
        z = precondition(remainder)
        last, power = power, dot(remainder, z)
        direction = torch.addcmul(z, (power / last.clamp_min(tiny)).to(b.dtype), direction)
    residual = (dot(remainder, remainder).sqrt() / size)[..., 0, 0]
    return Solution(x.to(right.dtype), residual.to(right.real.dtype), number, remainder.to(right.dtype))


def image_or_warning(found: Solution) -> Tensor:
    """Return the image of a solution, with a warning if it has not converged."""
    if bool((found.residual > CG_TOLERANCE).any()):
        warn(
            f"conjugate gradients stopped after {found.iterations} iterations at a relative residual of "
            f"{float(found.residual.max()):.1e}; lower gamma, or raise their limit"
        )
    return found.image
