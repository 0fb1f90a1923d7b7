"""Undersampled slices made ready for the network: `prepare` brings them to its units, sizes, phase and orientation."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.inference.problem import MultiCoilProblem, Problem, SingleCoilProblem
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fourier import apply_mask, center_pad, fft2c, resize_kspace
from mrihvae.physics.mri import Sense
from mrihvae.physics.noise import background_noise, noise_std
from mrihvae.physics.sampling import lines_differ_along_h
from mrihvae.physics.scaling import kspace_scale, peak_phase


def prepare(
    model: HVAE, kspace: Tensor, mask: Tensor, maps: Tensor | None = None, noise: Tensor | None = None
) -> Problem:
    """Return undersampled slices y = M F S x + n in the network's units, sizes and orientation.

    The global phase of k-space is arbitrary. It is removed, so results do not depend on it.

    Parameters
    ----------
    model : with r for undersampled scans
    kspace : complex (slices, H, W) of one coil, or with maps (slices, coils, H, W)
    mask : bool, broadcast to (H, W), True where acquired; the rest of k-space is ignored
    maps : complex (slices or 1, coils, H, W), of root-sum-of-squares 1 or 0; None for one coil of sensitivity 1
    noise : (slices,), standard deviation of the noise per complex sample of a coil in the scale of `kspace`; None to
        estimate it (`mrihvae.physics.noise_std`)

    Raises
    ------
    InputError
        Weights of another kind, or k-space, mask or maps that do not fit each other.

    Examples
    --------
    >>> import torch
    >>> from mrihvae.inference import prepare
    >>> from mrihvae.model import HVAE, ModelSettings
    >>> _ = torch.manual_seed(0)
    >>> model = HVAE(ModelSettings(widths=(16, 16), layers=1, cascades=0, guess_widths=(16,)))
    >>> kspace = torch.randn(1, 15, 15, dtype=torch.complex64)
    >>> prepare(model, kspace, torch.arange(15) % 2 == 1).padded
    (16, 16)
    """
    shape = _check_shape(model, kspace, mask, maps)
    device = model.start.device
    kspace, mask = kspace.to(device, torch.complex64), mask.to(device, torch.bool).expand(shape)
    if lines_differ_along_h(mask):  # the network has learned lines along H
        transposed = prepare(model, kspace.mT, mask.mT, None if maps is None else maps.mT, noise)
        return replace(transposed, transposed=True)
    padded = padded_shape(shape, model.settings.multiple)
    # padding k-space, not the image, keeps acquired bins on the grid; the bins beyond are known to be 0
    known = center_pad(mask, padded, value=True).expand(len(kspace), *padded)
    if maps is None:
        kept = apply_mask(kspace, mask)
        measured = resize_kspace(kept, padded)
        scale = kspace_scale(measured)
        noise = (noise_std(kept) if noise is None else noise.to(scale)) / scale
        phase = peak_phase(measured)
        measured = measured / (scale * phase)[:, None, None]
        return SingleCoilProblem(
            mask=known, noise=noise, scale=scale, padded=padded, measured=measured, shape=shape, phase=phase
        )
    sense = Sense(maps.to(device, torch.complex64), mask.expand(len(kspace), *shape))
    kept = sense.masked(kspace)
    combined = sense.adjoint(kept)
    spectrum = fft2c(combined)
    scale, phase = kspace_scale(resize_kspace(spectrum, padded)), peak_phase(spectrum)
    noise = (background_noise(kept) if noise is None else noise.to(scale)) / scale
    combined = combined / (scale * phase)[:, None, None]
    problem = MultiCoilProblem(
        mask=known, noise=noise, scale=scale, padded=padded, sense=sense, combined=combined, first=combined, phase=phase
    )
    return problem.with_tv_initialization(model.settings.start_share)


def _check_shape(model: HVAE, kspace: Tensor, mask: Tensor, maps: Tensor | None) -> tuple[int, int]:
    """Check that weights are for undersampled scans, and k-space, mask and maps for each other; return (H, W)."""
    if not model.settings.masked or model.settings.degraded:
        raise InputError("these weights have no posterior for undersampled scans; choose others, such as default")
    axes = "(slices, H, W)" if maps is None else "(slices, coils, H, W)"
    if kspace.ndim != len(axes.split(",")) or not kspace.is_complex():
        raise InputError(f"k-space is {kspace.dtype} of shape {tuple(kspace.shape)}; give complex {axes}")
    shape = (kspace.shape[-2], kspace.shape[-1])
    if mask.ndim > 2 or any(have not in (1, want) for have, want in zip(mask.shape[::-1], shape[::-1])):
        raise InputError(f"mask of shape {tuple(mask.shape)} does not fit k-space of {shape}; give (W,) or (H, W)")
    if maps is not None and (maps.shape[1:] != kspace.shape[1:] or maps.shape[0] not in (1, len(kspace))):
        raise InputError(
            f"maps of shape {tuple(maps.shape)} do not fit k-space of {tuple(kspace.shape)}; give (slices or 1, coils, "
            "H, W)"
        )
    return shape


def padded_shape(shape: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Compute the least shape whose sides are multiples of `multiple` and at least `shape`."""
    return (math.ceil(shape[0] / multiple) * multiple, math.ceil(shape[1] / multiple) * multiple)
