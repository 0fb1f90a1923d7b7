"""What a scan says of the error of its own reconstruction, pixel by pixel and as a whole.

Errors are large where posterior samples differ, where the reconstruction differs from total variation or from the data
alone, and where the image is bright or has edges, whose energy undersampling spreads. None of these is the error, but a
regression on training scans (`mrihvae.inference.error_map`) weighs them. As a whole, acquired lines that are held out
in turn are predicted from the rest, and their misfit is carried over to the lines that are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mrihvae.inference.held_out import held_out, spread_slices, squared_distance
from mrihvae.inference.preparation import prepare
from mrihvae.inference.reconstruct import solve
from mrihvae.inference.settings import InferenceSettings
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fourier import fft2c
from mrihvae.physics.noise import line_noise
from mrihvae.physics.sampling import lines_differ_along_h
from mrihvae.utils.config import with_settings

LOCAL = (
    "samples", "sample mean", "total variation", "zero-filled", "gradient", "gradient along missing samples",
    "edges on the way of aliasing", "brightness",
)  # fmt: skip
WINDOW = 9  # pixels on a side over which squares are averaged
RINGS = 16  # of k-space, by distance from DC, over which held-out misfits are carried to missing samples
FOLDS, FEWEST = 2, 3  # sets of lines that are held out, and lines below which there are none
LEAST = 1e-9  # of a power, in units of the peak's, so that its logarithm exists


@dataclass(frozen=True)
class HeldOutMisfit:
    """How well k-space samples that were held out are predicted from the rest.

    Attributes
    ----------
    power : mean squared error of a pixel that this misfit predicts, noise among it, in squared units of k-space
    relative : misfit over the energy of these samples
    noise : their noise over their misfit
    """

    power: float
    relative: float
    noise: float


def local_powers(
    model: HVAE, kspace: Tensor, known: Tensor, maps: Tensor | None, noise: Tensor, image: Tensor, samples: Tensor
) -> Tensor:
    """Compute local means of squares that go with errors, in the order of `LOCAL`.

    Parameters
    ----------
    kspace, known, maps, noise : of slices, as for `mrihvae.inference.reconstruct.reconstruct`
    image : the reconstruction, complex (slices, H, W)
    samples : posterior samples, complex (samples, slices, H, W); at least 2

    Returns
    -------
    float32 (features, slices, H, W) on the CPU, in squared units of the image
    """
    problem = prepare(model, kspace, known, maps, noise)
    with torch.no_grad():
        smooth = problem.images(problem.total_variation()).cpu()
        alone = problem.images(problem.zero_filled).cpu()
    pattern = known.cpu().expand(kspace.shape[-2:])
    along = [axis for axis in (-2, -1) if not bool((pattern == pattern.narrow(axis, 0, 1)).all())]
    return powers_of(image.cpu(), samples.cpu(), smooth, alone, along or [-1])


def powers_of(image: Tensor, samples: Tensor, smooth: Tensor, alone: Tensor, along: Sequence[int]) -> Tensor:
    """Compute local powers from a reconstruction (slices, H, W), samples, total variation and the data alone.

    Parameters
    ----------
    along : axes along which k-space samples are missing: -1 for lines along H, both for other patterns. There lie the
        edges whose energy aliases, and where it goes
    """
    mean, magnitude = samples.mean(dim=0), image.abs()
    slopes = {axis: _slope(magnitude, axis) for axis in (-2, -1)}
    edges = torch.stack([slopes[axis] for axis in along]).mean(dim=0)
    found = (
        (samples - mean).abs().square().sum(dim=0) / (len(samples) - 1),
        (image - mean).abs().square(),
        (image - smooth).abs().square(),
        (image - alone).abs().square(),
        slopes[-2] + slopes[-1],
        edges,
        edges.mean(dim=tuple(along), keepdim=True).expand_as(edges),
        magnitude.square(),
    )
    return torch.stack([local_mean(values) for values in found])


def _slope(magnitude: Tensor, axis: int) -> Tensor:
    """Compute the squared central difference of images (slices, H, W) along an axis; 0 at the border."""
    slope = torch.zeros_like(magnitude)
    size = magnitude.shape[axis]
    inner = (magnitude.narrow(axis, 2, size - 2) - magnitude.narrow(axis, 0, size - 2)) / 2
    slope.narrow(axis, 1, size - 2).copy_(inner.square())
    return slope


def local_mean(values: Tensor) -> Tensor:
    """Average values (slices, H, W) over a window around each pixel."""
    return functional.avg_pool2d(values[:, None], WINDOW, 1, WINDOW // 2, count_include_pad=False)[:, 0]


def held_out_misfit(
    model: HVAE,
    kspace: Tensor,
    measured: Tensor,
    known: Tensor,
    settings: InferenceSettings,
    maps: Tensor | None = None,
    seed: int = 0,
) -> HeldOutMisfit | None:
    """Predict k-space samples that are held out from the rest, by a single encoder pass each time.

    Parameters
    ----------
    kspace : complex (slices, H, W) on the CPU, or with maps (slices, coils, H, W), 0 where not acquired; at most
        `mrihvae.inference.held_out.SLICES` of them are used
    measured : bool, broadcast to (H, W), True where acquired
    known : the same, with samples that are known to be 0
    settings : of inference, which is shortened to an encoder pass
    maps : complex (slices, coils, H, W); None for one coil
    seed : of what is held out

    Returns
    -------
    None where too little lies outside of a fully sampled center
    """
    shape = (kspace.shape[-2], kspace.shape[-1])
    measured, known = measured.expand(shape), known.expand(shape)
    if lines_differ_along_h(known):
        turned = None if maps is None else maps.mT
        return held_out_misfit(model, kspace.mT, measured.T, known.T, settings, turned, seed)
    chosen = torch.from_numpy(spread_slices(len(kspace)))
    kspace, maps = kspace[chosen], None if maps is None else maps[chosen]
    single = with_settings(settings, views=1, rounds=1, sweeps=0, tv_blend=False)
    rings = _rings(shape)
    sums = np.zeros((4, RINGS))
    noise = line_noise(kspace if maps is None else kspace.flatten(0, 1)).expand(shape)
    coils = 1 if maps is None else kspace.shape[1]
    for out in held_out(measured, np.random.default_rng(seed), fewest=FEWEST)[:FOLDS]:
        kept = torch.where(out, torch.zeros((), dtype=kspace.dtype), kspace)
        image = solve(model, prepare(model, kept, known & ~out, maps, None), single).cpu()
        predicted = fft2c(image if maps is None else maps * image[:, None])
        misfit, energy = _power(kspace - predicted), _power(kspace)
        ones = torch.full(shape, float(len(kspace)))
        for row, values in enumerate((misfit, energy, coils * len(kspace) * noise, ones)):
            sums[row] += np.bincount(rings[out].numpy(), values[out].double().numpy(), RINGS)
    return _carry_over(sums, np.bincount(rings[~known].numpy(), minlength=RINGS) / known.numel())


def _power(kspace: Tensor) -> Tensor:
    """Add up squares over slices, and coils, of k-space (slices, ..., H, W): (H, W)."""
    return kspace.abs().square().flatten(0, -3).sum(dim=0)


def _rings(shape: tuple[int, int]) -> Tensor:
    """Number k-space samples by their distance from DC: (H, W)."""
    return (RINGS * torch.sqrt(squared_distance(shape) / 2)).long().clamp_max(RINGS - 1)


def _carry_over(sums: np.ndarray, missing: np.ndarray) -> HeldOutMisfit | None:
    """Carry misfits of held-out samples over to missing ones, ring by ring; rings without any lie between others.

    Parameters
    ----------
    sums : misfit, energy, noise and number of held-out samples, (4, rings)
    missing : missing samples of each ring, as a share of k-space
    """
    misfit, energy, noise, count = sums
    there = np.flatnonzero(count)
    if len(there) == 0 or misfit.sum() <= 0 or energy.sum() <= 0:
        return None
    density = np.interp(np.arange(RINGS), there, misfit[there] / count[there])
    power = 0.5 * float(density @ missing)  # half of it changes the magnitude
    return HeldOutMisfit(power, float(misfit.sum() / energy.sum()), float(noise.sum() / misfit.sum()))
