"""Receive fields of simulated coil arrays: birdcages, and random loops around the object.

A small loop receives in proportion to the field that it would make (reciprocity, Hoult and Richards 1976). On its axis
that falls as (1 + d^2 / a^2)^(-3/2) with the distance d over its radius a; off the axis this is an approximation, and
so is the phase, twice the angle under which a point behind the loop is seen. It is what maps look like: smooth,
brightest near the coil, and complex.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

LOOP_DISTANCES = (1.1, 1.6)  # of a random loop's center from that of the image, over half the image's side
LOOP_RADII = (0.5, 1.1)  # of a random loop, in the same unit
PHASE_DEPTH = 1.0  # how far behind the loop lies the point whose angle is the phase, outside of any corner
BIRDCAGE_RUNG = (1.3, 0.9)  # distance and radius of every rung of a birdcage


def birdcage_fields(shape: tuple[int, int], coils: int) -> Tensor:
    """Compute the receive fields of a birdcage: equal loops evenly on a circle.

    Parameters
    ----------
    shape : (H, W) of the image
    coils : number of coils, at least 1

    Returns
    -------
    complex64 (coils, H, W), scaled such that root-sum-of-squares is 1 at its mean over the image

    Examples
    --------
    >>> from mrihvae.simulation import birdcage_fields
    >>> fields = birdcage_fields((16, 16), coils=4)
    >>> fields.shape, round(float(fields.abs().square().sum(dim=0).sqrt().mean()), 3)
    (torch.Size([4, 16, 16]), 1.0)
    """
    angles = 2 * math.pi * np.arange(coils) / coils
    return _normalize(torch.stack([_loop(shape, angle, *BIRDCAGE_RUNG) * _phase_factor(angle) for angle in angles]))


def random_fields(shape: tuple[int, int], coils: int, rng: Generator) -> Tensor:
    """Return the fields of loops around the object, of random place, size, gain and phase.

    Parameters
    ----------
    shape : (H, W) of the image
    coils : number of coils, at least 1
    rng : every random choice comes from it

    Returns
    -------
    complex64 (coils, H, W), scaled as by `birdcage_fields`; a single coil may have any smooth field
    """
    angles = 2 * math.pi * (np.arange(coils) + rng.uniform(-0.3, 0.3, coils) + rng.random()) / coils
    fields = []
    for angle in angles:
        field = _loop(shape, angle, rng.uniform(*LOOP_DISTANCES), rng.uniform(*LOOP_RADII))
        gain = math.exp(rng.uniform(-0.3, 0.3))
        fields.append(field * gain * _phase_factor(rng.uniform(0, 2 * math.pi)))
    return _normalize(torch.stack(fields))


def _loop(shape: tuple[int, int], angle: float, distance: float, radius: float) -> Tensor:
    """Compute the field of a loop at an angle and a distance from the center, complex (H, W)."""
    rows, columns = (torch.linspace(-1, 1, n) for n in shape)

    def offset(away: float) -> tuple[Tensor, Tensor]:
        return (rows - away * math.sin(angle))[:, None], columns - away * math.cos(angle)

    down, right = offset(distance)
    magnitude = (1 + (down**2 + right**2) / radius**2) ** -1.5
    down, right = offset(distance + PHASE_DEPTH)
    return torch.polar(magnitude, 2 * torch.atan2(-down, -right))


def _phase_factor(angle: float) -> complex:
    return complex(math.cos(angle), math.sin(angle))


def _normalize(fields: Tensor) -> Tensor:
    return fields / fields.abs().square().sum(dim=0).sqrt().mean()
