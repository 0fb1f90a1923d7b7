"""Coil sensitivity maps of all slices, by the method that the settings choose."""

from __future__ import annotations

import torch
from torch import Tensor

from mrihvae.coils.espirit import espirit_maps, fast_maps
from mrihvae.coils.map_refinement import refined_maps
from mrihvae.coils.settings import CoilSettings


def estimate_maps(kspace: Tensor, mask: Tensor, settings: CoilSettings, sampled: Tensor | None = None) -> Tensor:
    """Estimate the coil sensitivity maps S of y = M F S x + n from the calibration region (ACS), separately for each
    slice.

    Parameters
    ----------
    kspace : complex (slices, coils, H, W)
    mask : bool, broadcast to (H, W), True for the samples in which the calibration region is searched
    settings : see `mrihvae.coils.CoilSettings`
    sampled : the same for all known samples, which refined maps are fitted to; None for `mask`

    Returns
    -------
    complex64 (slices, coils, H, W), with a root-sum-of-squares of 1, or 0 where `settings.crop` removes them

    Raises
    ------
    InputError
        A calibration region that is too small, or coils that are all zero.

    Examples
    --------
    >>> import torch
    >>> import mrihvae
    >>> from mrihvae.coils import CoilSettings
    >>> from mrihvae.physics import fft2c
    >>> from mrihvae.simulation import birdcage_fields
    >>> fields = birdcage_fields((32, 32), coils=4)
    >>> kspace = fft2c(fields)[None]
    >>> maps = mrihvae.estimate_maps(kspace, torch.ones(32, 32, dtype=torch.bool), CoilSettings(refine_maps=0))
    >>> bool((maps[0].conj() * fields).sum(dim=0).abs().allclose(fields.abs().square().sum(dim=0).sqrt(), rtol=0.05))
    True

    References
    ----------
    * Uecker et al. 2014 (ESPIRiT), https://doi.org/10.1002/mrm.24751
    """
    shape = (kspace.shape[-2], kspace.shape[-1])
    mask = mask.to(kspace.device, torch.bool).expand(shape)
    known = mask if sampled is None else mask | sampled.to(kspace.device, torch.bool).expand(shape)
    estimate = espirit_maps if settings.maps == "espirit" else fast_maps
    return torch.stack(
        [
            refined_maps(slice_kspace, mask, known, estimate, settings.refine_maps, settings.crop)
            for slice_kspace in kspace
        ]
    )
