"""Reconstruction from several coils: what is done to them before, maps, inference, and the image to deliver."""

from __future__ import annotations

import torch
from torch import Tensor

from mrihvae.coils.espirit import espirit_maps, fast_maps
from mrihvae.coils.map_refinement import refined_maps
from mrihvae.coils.settings import CoilSettings


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
