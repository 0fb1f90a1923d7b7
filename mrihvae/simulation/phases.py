"""Phase of simulated scans, from what makes it: field inhomogeneity, fat, coils, and the placing of k-space.

A scan is of one of three kinds, drawn by `KIND_SHARES`:

- low field, where the phase is smooth and weak: a linear ramp, for the peak of k-space lies some samples off its
  center, and a smooth field. Their sizes are fitted to raw scans of 0.055 T (`benchmarks/training/phase.py`);
- spin echo at 1.5 or 3 T: refocused, so that the phase of coils and of the ramp is left;
- gradient echo at 1.5 or 3 T: off-resonance f, in ppm of the field B0, adds 2 pi gamma B0 TE f. It is made by the
  susceptibility of air against tissue (the field of a magnetic dipole, as convolution in the plane and in closed form
  for cavities outside of it), after a shim of first or second order. Fat is 3.5 ppm off water, so that the two cancel
  where they share a pixel and are out of phase. Steep phase within a voxel lowers its magnitude.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

KIND_SHARES = {"low field": 0.3, "spin echo": 0.25, "gradient echo": 0.45}

# low field, fitted: offset of k-space's peak in samples, standard deviation along an axis; and the median over the
# object of what else the phase changes, in radians per 1/128 of the field of view: median and log-deviation over scans
LOW_FIELD_OFFSET = 1.77
LOW_FIELD_CHANGE = (0.048, 0.59)

PHASE_OFFSET = 1.5  # as LOW_FIELD_OFFSET, for other scanners
GYROMAGNETIC = 42.577  # MHz / T, of hydrogen
FIELD_STRENGTHS = (1.5, 3.0)  # T
ECHO_TIMES = (2.0, 30.0)  # ms, of gradient echoes; drawn evenly in their logarithm
AIR_SUSCEPTIBILITY = 9.4  # ppm, of air against tissue
FAT_SHIFT = -3.5  # ppm, of fat against water
COIL_PHASE_SIZES = (0.2, 2.0)  # size of the smooth phase that coils add: that of one receiving loop is about 0.7
INHOMOGENEITY = (0.12, 0.9)  # ppm, what a shim leaves: median and log-deviation of a smooth field's size
DEPHASING_GRADIENT = 1.1  # radians per pixel at which a voxel, thicker than wide, keeps exp(-1/2) of its signal
MAX_FIELD_GRID = 96  # pixels, at most, of the grid on which fields are computed; they are smooth


def add_phase(image: Tensor, rng: Generator, kind: str | None = None) -> Tensor:
    """Add to a magnitude image the phase of a scan drawn at random.

    Parameters
    ----------
    image : real (h, w), at least 0, in any unit
    rng : every random choice comes from it
    kind : of scan, one of `KIND_SHARES`; drawn by these, if left out

    Returns
    -------
    complex64 (h, w); its magnitude is that of the image, but lower where phase is steep or fat and water cancel
    """
    kind = kind or str(rng.choice(list(KIND_SHARES), p=list(KIND_SHARES.values())))
    top = float(image.max())
    tone = image / top if top > 0 else image
    if kind == "low field":
        phase = _low_field(tone, rng)
        return torch.polar(image, phase)
    phase = rng.uniform(*COIL_PHASE_SIZES) * smooth_field(image.shape, rng) + _ramp(image.shape, PHASE_OFFSET, rng)
    phase = phase + _tissue_term(tone, rng)
    if kind == "spin echo":
        return torch.polar(image, phase)
    megahertz = GYROMAGNETIC * float(rng.choice(FIELD_STRENGTHS))
    echo = 1e-3 * math.exp(rng.uniform(*np.log(ECHO_TIMES)))
    radians = 2 * math.pi * megahertz * echo  # of 1 ppm
    phase = phase + radians * off_resonance(tone, rng)
    image = torch.polar(image * torch.exp(-0.5 * _steepness(phase).square() / DEPHASING_GRADIENT**2), phase)
    if rng.random() < 0.7:
        fat = fat_fraction(tone, rng)
        angle = radians * FAT_SHIFT
        image = image * torch.complex(1 + fat * (math.cos(angle) - 1), fat * math.sin(angle))
    return image


def smooth_field(shape: tuple[int, ...] | torch.Size, rng: Generator) -> Tensor:
    """Draw a smooth random field of variance about 1/2 from its lowest spatial frequencies, (h, w)."""
    order = int(rng.integers(1, 4))
    coefficients = rng.standard_normal((2 * order + 1, 2 * order + 1)) / math.sqrt((2 * order + 1) ** 2 / 2)
    frequencies = np.pi * np.arange(2 * order + 1) / 2
    offset = rng.uniform(0, 2 * np.pi, 2)
    vertical = np.cos(np.outer(np.linspace(0, 1, shape[0]), frequencies) + offset[0])
    horizontal = np.cos(np.outer(np.linspace(0, 1, shape[1]), frequencies) + offset[1])
    return torch.from_numpy((vertical @ coefficients @ horizontal.T).astype(np.float32))


def off_resonance(tone: Tensor, rng: Generator) -> Tensor:
    """Draw the off-resonance of an object that a scanner has shimmed.

    Parameters
    ----------
    tone : magnitude (h, w) in 0..1
    rng : directions of B0, cavities beside the slice, and what the shim leaves

    Returns
    -------
    real (h, w), ppm
    """
    coarse = _coarse(tone)
    inside = _close_gaps(tissue_map(coarse), int(rng.integers(1, 9)))
    b0 = _direction(rng)
    field = dipole_field(-AIR_SUSCEPTIBILITY * inside, b0) + _cavities(inside, b0, rng)
    field = _shim(field, inside, second_order=rng.random() < 0.5)
    size = INHOMOGENEITY[0] * math.exp(INHOMOGENEITY[1] * rng.standard_normal())
    return _fine(field, tone.shape) + size * smooth_field(tone.shape, rng)


def dipole_field(susceptibility: Tensor, b0: tuple[float, float, float]) -> Tensor:
    """Compute the field of an object that is the same in all slices.

    The field is the convolution of susceptibility with that of a magnetic dipole, without its mean, and in k-space
    the product with 1/3 - (k b)^2 / |k|^2 (Marques and Bowtell 2005), where b is the direction of B0.

    Parameters
    ----------
    susceptibility : real (h, w), 0 outside of the object
    b0 : unit vector (down, right, through the slice)

    Returns
    -------
    real (h, w), in the unit of the susceptibility
    """
    size = (2 * susceptibility.shape[0], 2 * susceptibility.shape[1])
    down, right = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])
    square = (down**2 + right**2).clamp_min(1e-12)
    kernel = 1 / 3 - (down * b0[0] + right * b0[1]) ** 2 / square
    kernel[0, 0] = 0
    field: Tensor = torch.fft.irfft2(torch.fft.rfft2(susceptibility, size) * kernel, size)
    return field[: susceptibility.shape[0], : susceptibility.shape[1]]


def tissue_map(coarse: Tensor) -> Tensor:
    """Compute a map of tissue, not air: (h, w) from 0 to 1, blurred so that thin dark structures count as tissue."""
    blurred = torch.nn.functional.avg_pool2d(coarse[None, None], 5, 1, 2, count_include_pad=False)[0, 0]
    bright = float(torch.quantile(blurred, 0.98))
    return torch.sigmoid((blurred - 0.12 * bright) / max(0.03 * bright, 1e-6)) * (bright > 0)


def fat_fraction(tone: Tensor, rng: Generator) -> Tensor:
    """Draw which part of the signal fat gives: bright tissue, tissue of some brightness, or the rim: (h, w) in 0..1."""
    which, width = rng.random(), rng.uniform(0.02, 0.1)
    level = rng.uniform(0.15, 0.8)
    bright = torch.sigmoid((tone - level) / width)
    if which < 0.55:
        return bright
    if which < 0.75:
        return bright * torch.sigmoid((level + rng.uniform(0.1, 0.4) - tone) / width)
    inside = tissue_map(_coarse(tone))
    reach = 2 * int(rng.integers(2, 7)) + 1
    around = torch.nn.functional.avg_pool2d(inside[None, None], reach, 1, reach // 2)[0, 0]
    return _fine((2.5 * (1 - around)).clamp(0, 1) * inside, tone.shape) * torch.sigmoid((tone - 0.1) / 0.03)


def _close_gaps(inside: Tensor, reach: int) -> Tensor:
    """Close gaps of up to 2 `reach` pixels: bone and fluid are as dark as air, and skull-stripped brains have folds."""
    grown = torch.nn.functional.max_pool2d(inside[None, None], 2 * reach + 1, 1, reach)
    shrunk: Tensor = -torch.nn.functional.max_pool2d(-grown, 2 * reach + 1, 1, reach)[0, 0]
    return shrunk


def _low_field(tone: Tensor, rng: Generator) -> Tensor:
    """Draw the phase of a scan at low field: a ramp, and a smooth field of a drawn rate of change."""
    field = smooth_field(tone.shape, rng)
    if min(tone.shape) < 2:
        return _ramp(tone.shape, LOW_FIELD_OFFSET, rng)
    inside = tone[:-1:2, :-1:2] > 0.15
    if not inside.any():
        inside = torch.ones_like(inside)
    down, right = torch.diff(field, dim=0)[::2, :-1:2][inside], torch.diff(field, dim=1)[:-1:2, ::2][inside]
    middle = float(down.mean()), float(right.mean())  # that is the ramp's
    rows, columns = (torch.arange(n) * rate for n, rate in zip(tone.shape, middle))
    field = field - rows[:, None] - columns
    rate = float(torch.hypot(down - middle[0], right - middle[1]).median()) * max(tone.shape) / 128
    change = LOW_FIELD_CHANGE[0] * math.exp(LOW_FIELD_CHANGE[1] * rng.standard_normal())
    return field * min(change / max(rate, 1e-6), 10.0) + _ramp(tone.shape, LOW_FIELD_OFFSET, rng)


def _ramp(shape: torch.Size, offset: float, rng: Generator) -> Tensor:
    """Draw the phase of k-space that lies off its center by a normal number of samples, and a constant."""
    down, right = (2 * math.pi * offset * float(rng.standard_normal()) for _ in shape)
    rows, columns = (torch.linspace(-0.5, 0.5, n) for n in shape)
    return down * rows[:, None] + right * columns + rng.uniform(-math.pi, math.pi)


def _tissue_term(tone: Tensor, rng: Generator) -> Tensor:
    """Draw a small phase of tissue of some brightness, as by eddy currents, flow and conductivity."""
    level = rng.uniform(0.1, 0.9)
    return 0.15 * float(rng.standard_normal()) * torch.sigmoid((tone - level) / rng.uniform(0.03, 0.2))


def _direction(rng: Generator) -> tuple[float, float, float]:
    """Draw the direction of B0: through the slice, or along one of its axes, up to some tilt."""
    vector = 0.2 * rng.standard_normal(3)
    vector[int(rng.integers(3))] += 1
    vector /= np.linalg.norm(vector)
    return float(vector[0]), float(vector[1]), float(vector[2])


def _cavities(inside: Tensor, b0: tuple[float, float, float], rng: Generator) -> Tensor:
    """Add the fields of up to three spheres of air beside the slice, as of sinuses, ears, lungs and bowels: ppm."""
    total = torch.zeros_like(inside)
    side = max(inside.shape)
    rows, columns = torch.nonzero(inside > 0.5, as_tuple=True)
    if not len(rows):
        return total
    for _ in range(int(rng.integers(4))):
        place = int(rng.integers(len(rows)))
        radius = side * rng.uniform(0.03, 0.12)
        away = radius * rng.uniform(1.05, 3.0)
        down = torch.arange(inside.shape[0], dtype=torch.float32)[:, None] - float(rows[place])
        right = torch.arange(inside.shape[1], dtype=torch.float32) - float(columns[place])
        square = down**2 + right**2 + away**2
        cosine = (down * b0[0] + right * b0[1] + away * b0[2]).square() / square
        total += AIR_SUSCEPTIBILITY / 3 * radius**3 * (3 * cosine - 1) / square**1.5
    return total


def _shim(field: Tensor, inside: Tensor, second_order: bool) -> Tensor:
    """Subtract from a field the polynomials of first or second order that fit it within the object."""
    rows, columns = (torch.linspace(-1, 1, n) for n in field.shape)
    down, right = rows[:, None].expand_as(field), columns.expand_as(field)
    terms = [torch.ones_like(field), down, right]
    if second_order:
        terms += [down * right, down**2 - right**2, down**2 + right**2]
    basis = torch.stack(terms).flatten(1)
    weighted = basis * (inside.flatten() + 1e-3)
    normal = weighted @ basis.T
    normal += 1e-5 * normal.trace() * torch.eye(len(normal))  # a single row has no slope
    amounts = torch.linalg.solve(normal, weighted @ field.flatten())
    shimmed: Tensor = field - (amounts @ basis).view_as(field)
    return shimmed


def _steepness(phase: Tensor) -> Tensor:
    """Compute the gradient's magnitude, radians per pixel, (h, w); phase is not wrapped."""
    down = torch.diff(phase, dim=0, append=phase[-1:])
    right = torch.diff(phase, dim=1, append=phase[:, -1:])
    return torch.hypot(down, right)


def _coarse(image: Tensor) -> Tensor:
    """Average an image onto a grid of at most `MAX_FIELD_GRID` pixels on a side."""
    factor = min(1.0, MAX_FIELD_GRID / max(image.shape))
    if factor == 1:
        return image
    size = [max(2, round(n * factor)) for n in image.shape]
    coarse: Tensor = torch.nn.functional.interpolate(image[None, None], size, mode="area")[0, 0]
    return coarse


def _fine(field: Tensor, shape: torch.Size) -> Tensor:
    """Interpolate a field onto (h, w)."""
    if field.shape == shape:
        return field
    fine: Tensor = torch.nn.functional.interpolate(field[None, None], list(shape), mode="bilinear")[0, 0]
    return fine
