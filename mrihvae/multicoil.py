"""Reconstruction from several coils: what is done to them before, maps, inference, and the image to deliver."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mrihvae.coil_problem import CoilProblem
from mrihvae.errors import InputError
from mrihvae.fourier import fft2c, ifft2c, resize_kspace
from mrihvae.inference import InferenceSettings, check_scans, is_turned, padded_shape, solve
from mrihvae.map_refinement import refined_maps
from mrihvae.model import HVAE
from mrihvae.sense import Sense
from mrihvae.sensitivities import espirit_maps, fast_maps
from mrihvae.units import background_noise, scale_of

MAPS = ("fast", "espirit")
OUTPUTS = ("rss", "combined")
MOST_REPETITIONS = 10  # of refined maps; from the third on they hardly change


@dataclass(frozen=True)
class CoilSettings:
    """What is done with the coils of a scan.

    Attributes
    ----------
    maps : how sensitivities are estimated from calibration lines: "fast" (ESPIRiT on a coarse grid) or "espirit"
        (sigpy's, pixel by pixel, which takes many times as long)
    refine_maps : how often maps are estimated again from the k-space that a quick reconstruction completed, at most,
        where the calibration region is small for the coils (`mrihvae.map_refinement`); elsewhere, and with 0, never
    crop : eigenvalue of ESPIRiT below which maps are 0; 0 keeps them everywhere
    compress : number of virtual coils, which are found by singular value decomposition; None for as many in each slice
        as keep all but the noise (`mrihvae.virtual_coils`), 0 for the coils as they are
    whiten : whether noise is made white, and alike in all coils; its covariance comes from a noise scan, where there is
        one, or else from the corners of k-space; None for scans with a noise scan alone
    output : "rss", root-sum-of-squares of the coil images with measured k-space put back, as fastMRI's targets, or
        "combined", the magnitude of the image that the maps combine
    """

    maps: str = "fast"
    refine_maps: int = 2
    crop: float = 0.0
    compress: int | None = None
    whiten: bool | None = None
    output: str = "rss"

    def __post_init__(self) -> None:
        for name, known in (("maps", MAPS), ("output", OUTPUTS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} '{getattr(self, name)}' is unknown; choose one of {', '.join(known)}")
        if (self.compress or 0) < 0 or not 0 <= self.crop < 1:
            raise ValueError(f"compress {self.compress} must be at least 0, and crop {self.crop} in [0, 1)")
        if not 0 <= self.refine_maps <= MOST_REPETITIONS:
            raise ValueError(f"refine_maps {self.refine_maps} must be 0 to {MOST_REPETITIONS}")


def estimate_maps(kspace: Tensor, mask: Tensor, settings: CoilSettings, sampled: Tensor | None = None) -> Tensor:
    """Estimate the sensitivity maps of slices from their calibration region, each slice by itself.

    Parameters
    ----------
    kspace : complex (slices, coils, H, W)
    mask : bool, broadcast to (H, W), of the samples among which the calibration region is looked for
    settings : see `CoilSettings`
    sampled : the same, of all samples that are known, which refined maps are to agree with; None for `mask`

    Returns
    -------
    complex64 (slices, coils, H, W), of root-sum-of-squares 1, or 0 where `settings.crop` says

    Raises
    ------
    InputError
        Too few calibration lines, or coils that are all zero.
    """
    shape = (kspace.shape[-2], kspace.shape[-1])
    mask = mask.to(kspace.device, torch.bool).expand(shape)
    known = mask if sampled is None else mask | sampled.to(kspace.device, torch.bool).expand(shape)
    estimate = espirit_maps if settings.maps == "espirit" else fast_maps
    return torch.stack(
        [refined_maps(one, mask, known, estimate, settings.refine_maps, settings.crop) for one in kspace]
    )


def reconstruct_coils(
    model: HVAE,
    kspace: Tensor,
    mask: Tensor,
    maps: Tensor,
    settings: InferenceSettings | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Reconstruct slices of undersampled multi-coil k-space (methods: together, with coils).

    Parameters
    ----------
    model : trained weights, such as "multicoil"
    kspace : complex64 (slices, coils, H, W), any H and W, any physical scale; what is not measured is ignored
    mask : bool, broadcast to (H, W), True where measured
    maps : complex (slices or 1, coils, H, W), of root-sum-of-squares 1 or 0
    settings : see `InferenceSettings`
    noise : standard deviation of the noise per complex sample of a coil in the scale of `kspace`, (slices,); left out,
        it is estimated (`mrihvae.units.background_noise`)

    Returns
    -------
    complex64 coil-combined images (slices, H, W), in the physical scale of `kspace`, on the model's device

    Raises
    ------
    InputError
        K-space, mask or maps of another shape.
    """
    return solve(model, pose_coils(model, kspace, mask, maps, noise), settings or InferenceSettings())


def pose_coils(model: HVAE, kspace: Tensor, mask: Tensor, maps: Tensor, noise: Tensor | None = None) -> CoilProblem:
    """Bring k-space (slices, coils, H, W), mask, maps and noise (slices,) to the network's units and orientation."""
    shape = check_scans(model, kspace, mask, "(slices, coils, H, W)")
    if maps.shape[1:] != kspace.shape[1:] or maps.shape[0] not in (1, len(kspace)):
        raise InputError(
            f"maps of shape {tuple(maps.shape)} do not fit k-space of {tuple(kspace.shape)}; give (slices or 1, coils, "
            "H, W)"
        )
    device = model.start.device
    kspace, maps = kspace.to(device, torch.complex64), maps.to(device, torch.complex64)
    mask = mask.to(device, torch.bool).expand(shape)
    if is_turned(mask):
        return replace(pose_coils(model, kspace.mT, mask.mT, maps.mT, noise), turned=True)
    padded = padded_shape(shape, model.settings.multiple)
    sense = Sense(maps, mask.expand(len(kspace), *shape))
    kept = sense.masked(kspace)
    combined = sense.adjoint(kept)
    scale = scale_of(resize_kspace(fft2c(combined), padded))
    noise = (background_noise(kept) if noise is None else noise.to(scale)) / scale
    combined = combined / scale[:, None, None]
    return CoilProblem(sense, combined, combined, noise, scale, padded).begun(model.settings.start_share)


def conjugate_gradient_sense(kspace: Tensor, mask: Tensor, maps: Tensor, strength: float) -> Tensor:
    """Compute argmin_x |A x - y|^2 + strength |x|^2 (CG-SENSE, Pruessmann et al. 2001).

    Parameters
    ----------
    kspace : complex (slices, coils, H, W)
    mask : bool, broadcast to (H, W)
    maps : complex (slices or 1, coils, H, W)
    strength : above 0

    Returns
    -------
    complex (slices, H, W), in the scale of `kspace`
    """
    if not strength > 0:
        raise InputError(f"strength {strength} must be above 0")
    sense = Sense(maps, mask.expand(len(kspace), *kspace.shape[-2:]))
    return sense.solve(sense.adjoint(kspace), strength)


def root_sum_of_squares(image: Tensor, maps: Tensor, kspace: Tensor, mask: Tensor) -> Tensor:
    """Compute what fastMRI's multi-coil targets hold: the coils' images, with measured k-space put in, combined.

    Parameters
    ----------
    image : complex (slices, H, W), coil-combined
    maps : complex (slices or 1, coils, H, W)
    kspace : complex (slices, coils, H, W)
    mask : bool, broadcast to (H, W)

    Returns
    -------
    real (slices, H, W)
    """
    completed = torch.where(mask, kspace, fft2c(maps * image[:, None]))
    return ifft2c(completed).abs().square().sum(dim=1).sqrt()
