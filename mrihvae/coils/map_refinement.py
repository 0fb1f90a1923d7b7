"""Sensitivity maps where the calibration region is small for the coils, by alternation with a quick reconstruction.

ESPIRiT on 4 to 10 lines of many coils leaves errors that no prior can mend. So maps are estimated in turn with the
image x (block-coordinate descent on |M F S x - y|^2, with ESPIRiT's subspace as the constraint on the maps S, as JSENSE
(Ying and Sheng 2007) has polynomials):

    S from the calibration region, with a kernel that its size allows
    repeat:  x = total variation with S;  k-space completed, M y + (1 - M) F S x;  S from its center

A larger kernel, although it fits noise, may still be the better one: where there is no object its maps do not agree
from pixel to pixel, so that aliasing finds no place there. Held-out samples decide which kernel is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from mrihvae.coils.espirit import MAX_ACS_SIZE, MAX_KERNEL_SIZE, calibration_data, kernel_size
from mrihvae.physics.fourier import apply_mask, center_crop, center_pad, fft2c
from mrihvae.physics.mri import Sense
from mrihvae.physics.noise import background_noise
from mrihvae.physics.sampling import lines_differ_along_h
from mrihvae.physics.scaling import kspace_scale
from mrihvae.physics.total_variation import TV_STRENGTH, total_variation

TV_ITERATIONS = (8, 3)  # of total variation; 20 give maps that are no better
MIN_IMAGE_CHANGE = 0.02  # of coil images over themselves, below which maps have arrived
HELD_OUT_OFFSETS = (0, 2)  # every fourth line outside the calibration region, from these on: two times a quarter
MIN_HELD_OUT_LINES = 2  # lines in each time, below which nothing is compared
# Lead in dB by which the usual kernel must predict better than the region's own, for its maps to be kept. On
# training images (benchmarks/multicoil/tune_maps.py) 0 is the largest margin with which hardly any slice loses more
# than 0.1 dB.
MARGIN_DB = 0.0


class Estimate(Protocol):
    """Estimates maps (coils, H, W) of calibration data, such as `mrihvae.coils.espirit.fast_maps`."""

    def __call__(
        self, calibration: Tensor, shape: tuple[int, int], crop: float = ..., kernel: int | None = ...
    ) -> Tensor: ...


def refined_maps(
    kspace: Tensor,
    mask: Tensor,
    sampled: Tensor,
    estimate: Estimate,
    repetitions: int,
    crop: float = 0.0,
    margin: float = MARGIN_DB,
) -> Tensor:
    """Estimate the sensitivity maps of one slice, by alternation where its calibration region is small for its coils.

    Where it is large enough for the usual kernel, and where that kernel predicts held-out samples better, maps
    are those of the calibration region alone.

    Parameters
    ----------
    kspace : complex (coils, H, W); what is not sampled is ignored
    mask : bool (H, W), of the samples in which the calibration region is searched
    sampled : bool (H, W), all samples that are known
    estimate : how maps are made of calibration data
    repetitions : largest number of repetitions; fewer if maps no longer change; 0 for maps of the calibration region
        alone
    crop : eigenvalue of ESPIRiT below which maps are 0
    margin : lead of the usual kernel, in dB, above which its maps are kept

    Returns
    -------
    complex64 (coils, H, W), of root-sum-of-squares 1, or 0 where cropped

    Raises
    ------
    InputError
        Too few calibration lines, or coils that are zero all over, or not finite.
    """
    if lines_differ_along_h(sampled):

        def estimate_transposed(
            calibration: Tensor, shape: tuple[int, int], crop: float = 0.0, kernel: int | None = None
        ) -> Tensor:
            return estimate(calibration.mT, shape[::-1], crop, kernel).mT

        return refined_maps(kspace.mT, mask.mT, sampled.mT, estimate_transposed, repetitions, crop, margin).mT
    shape = (kspace.shape[-2], kspace.shape[-1])
    calibration = calibration_data(kspace, mask)
    box = (calibration.shape[-2], calibration.shape[-1])
    kernel = kernel_size(box, len(kspace))
    maps = estimate(calibration, shape, crop, kernel)
    folds = list(_held_out_masks(sampled, box))
    if kernel == MAX_KERNEL_SIZE or not folds:  # nothing to learn from, without samples outside the calibration region
        return maps
    kspace = apply_mask(kspace, sampled)
    if math.isfinite(margin):
        usual = estimate(calibration, shape, crop, MAX_KERNEL_SIZE)
        if _prediction(kspace, sampled, usual, folds) > _prediction(kspace, sampled, maps, folds) + margin:
            return usual
    return _alternate(kspace, sampled, maps, estimate, repetitions, crop)


def _alternate(
    kspace: Tensor, sampled: Tensor, maps: Tensor, estimate: Estimate, repetitions: int, crop: float
) -> Tensor:
    """Estimate maps again and again from k-space that a quick reconstruction with the last ones completes."""
    shape = (kspace.shape[-2], kspace.shape[-1])
    for _ in range(repetitions):
        images = maps * _quick_reconstruction(kspace, sampled, maps)
        center = center_crop(
            torch.where(sampled, kspace, fft2c(images)), (min(MAX_ACS_SIZE, shape[0]), min(MAX_ACS_SIZE, shape[1]))
        )
        last, maps = maps, estimate(center, shape, crop)
        if _change(last, maps, images) < MIN_IMAGE_CHANGE:
            break
    return maps


def lead_of_usual_kernel(kspace: Tensor, mask: Tensor, sampled: Tensor, estimate: Estimate, crop: float = 0.0) -> float:
    """Compute by how many dB maps of the usual kernel predict held-out samples better than those of a smaller kernel.

    The smaller one is that which the calibration region allows. Parameters are those of `refined_maps`.
    """
    shape = (kspace.shape[-2], kspace.shape[-1])
    calibration = calibration_data(kspace, mask)
    box = (calibration.shape[-2], calibration.shape[-1])
    kspace = apply_mask(kspace, sampled)
    folds = list(_held_out_masks(sampled, box))
    usual, smaller = (
        _prediction(kspace, sampled, estimate(calibration, shape, crop, kernel), folds)
        for kernel in (MAX_KERNEL_SIZE, kernel_size(box, len(kspace)))
    )
    return usual - smaller


def _quick_reconstruction(kspace: Tensor, sampled: Tensor, maps: Tensor) -> Tensor:
    """Reconstruct a slice by a few iterations of total variation: complex (H, W), in the scale of k-space."""
    sense = Sense(maps[None], sampled[None])
    combined = sense.adjoint(kspace[None])
    scale = kspace_scale(fft2c(combined))
    still, noisy = TV_STRENGTH
    strength = still + noisy * background_noise(kspace[None]) / scale
    units = scale[:, None, None]
    return (total_variation(sense, combined / units, strength[:, None, None], TV_ITERATIONS) * units)[0]


def _held_out_masks(sampled: Tensor, box: tuple[int, int]) -> Iterator[Tensor]:
    """Choose samples outside the calibration region to hold out, twice: bool (H, W).

    Whole lines, where the pattern is of lines; else single samples. They are taken from the center outwards.
    """
    shape = (sampled.shape[0], sampled.shape[1])
    inside = center_pad(torch.ones(box, device=sampled.device), shape) > 0
    if bool((sampled == sampled[:1]).all()):
        pattern, inside = sampled[:1], inside.any(dim=0, keepdim=True)
    elif bool((sampled == sampled[:, :1]).all()):
        pattern, inside = sampled[:, :1], inside.any(dim=1, keepdim=True)
    else:
        pattern = sampled
    outside = torch.nonzero(pattern & ~inside)
    middle = torch.tensor([size // 2 for size in pattern.shape], device=sampled.device)
    outside = outside[(outside - middle).square().sum(dim=1).argsort(stable=True)]
    for first in HELD_OUT_OFFSETS:
        chosen = outside[first :: 2 * len(HELD_OUT_OFFSETS)]
        if len(chosen) >= MIN_HELD_OUT_LINES:
            held = torch.zeros_like(pattern)
            held[chosen[:, 0], chosen[:, 1]] = True
            yield held.expand(shape)


def _prediction(kspace: Tensor, sampled: Tensor, maps: Tensor, folds: list[Tensor]) -> float:
    """Compute how well a reconstruction from the other samples predicts held-out ones: signal over error, dB."""
    share = 0.0
    for held in folds:
        kept_mask = sampled & ~held
        kept = apply_mask(kspace, kept_mask)
        error = fft2c(maps * _quick_reconstruction(kept, kept_mask, maps)) - kspace
        share += float(error[:, held].abs().square().sum() / kspace[:, held].abs().square().sum().clamp_min(1e-30))
    return -10 * math.log10(max(share / len(folds), 1e-30))


def _change(first: Tensor, second: Tensor, images: Tensor) -> float:
    """Compute by how much maps differ but for their phase, where the coil images (coils, H, W) have their energy."""
    energy = images.abs().square().sum(dim=0)
    similarity = (first.conj() * second).sum(dim=0).abs().clamp_max(1)
    return math.sqrt(float((energy * (1 - similarity.square())).sum() / energy.sum().clamp_min(1e-30)))
