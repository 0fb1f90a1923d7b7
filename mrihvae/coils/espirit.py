"""Coil sensitivity maps from the calibration region of k-space: ESPIRiT (Uecker et al. 2014).

Small patches of calibration data lie in a subspace; what it says in k-space becomes, at each pixel, a matrix over the
coils whose eigenvector of eigenvalue 1 is the map there. These matrices hold few spatial frequencies, so `fast_maps`
takes eigenvectors on a coarse grid and interpolates them; `espirit_maps` is sigpy's, pixel by pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.physics.fourier import center_crop, center_pad, fft2c, ifft2c, resize_kspace

MAX_KERNEL_SIZE = 6  # k-space samples on a side of a patch, where the calibration region is large enough for the coils
MIN_KERNEL_SIZE = 2
# Patches per unknown of a kernel (coils times its samples), from which on the largest kernel is the best on simulated
# scans of training images; below it, the largest kernel that has at least as many patches as unknowns.
MIN_PATCHES_PER_UNKNOWN = 0.45
MAX_ACS_SIZE = 24  # samples on either axis of the calibration region that are used
MIN_ACS_SIZE = 4  # samples on either axis, below which maps cannot be estimated
SINGULAR_VALUE_THRESHOLD = 0.02  # singular value, over the greatest, from which on a direction belongs to the subspace
COARSE_GRID_SIZE = 64  # points on either axis of the coarse grid


def calibration_box(mask: Tensor) -> tuple[int, int]:
    """Find the largest fully sampled box around DC, the calibration region (ACS).

    Parameters
    ----------
    mask : bool (H, W)

    Returns
    -------
    (h, w) as `center_crop` cuts it; (0, 0) if DC was not acquired
    """

    def is_sampled(h: int, w: int) -> bool:
        return h <= mask.shape[0] and w <= mask.shape[1] and bool(center_crop(mask, (h, w)).all())

    h = w = 0
    while is_sampled(h + 1, w + 1):
        h, w = h + 1, w + 1
    while h and is_sampled(h + 1, w):
        h += 1
    while w and is_sampled(h, w + 1):
        w += 1
    return h, w


def calibration_data(kspace: Tensor, mask: Tensor) -> Tensor:
    """Crop k-space (..., H, W) to the calibration region: at most `MAX_ACS_SIZE` samples on either axis.

    Raises
    ------
    InputError
        A calibration region of fewer than `MIN_ACS_SIZE` samples on an axis.
    """
    box = calibration_box(mask.expand(kspace.shape[-2:]))
    if min(box) < MIN_ACS_SIZE:
        raise InputError(
            f"the fully acquired region around the center of k-space is only {box[0]} x {box[1]}; sensitivity "
            f"maps need at least {MIN_ACS_SIZE} x {MIN_ACS_SIZE}: acquire more central lines, or give maps"
        )
    return center_crop(kspace, (min(box[0], MAX_ACS_SIZE), min(box[1], MAX_ACS_SIZE)))


def kernel_size(box: tuple[int, int], coils: int) -> int:
    """Choose the side of ESPIRiT's patches for a calibration region.

    A large patch resolves maps better; one with more unknowns than the region has patches fits noise instead.

    Parameters
    ----------
    box : (h, w) of the calibration region, in k-space samples
    coils : number of coils

    Returns
    -------
    `MAX_KERNEL_SIZE` where that has enough patches; else the largest size with as many patches as unknowns, at least
    `MIN_KERNEL_SIZE`
    """

    def patches_per_unknown(kernel: int) -> float:
        return max(box[0] - kernel + 1, 0) * max(box[1] - kernel + 1, 0) / (coils * kernel**2)

    if patches_per_unknown(MAX_KERNEL_SIZE) >= MIN_PATCHES_PER_UNKNOWN:
        return MAX_KERNEL_SIZE
    smaller = range(MAX_KERNEL_SIZE - 1, MIN_KERNEL_SIZE, -1)
    return next((k for k in smaller if patches_per_unknown(k) >= 1), MIN_KERNEL_SIZE)


def fast_maps(calibration: Tensor, shape: tuple[int, int], crop: float = 0.0, kernel: int | None = None) -> Tensor:
    """Compute sensitivity maps of one slice by ESPIRiT on a coarse grid, and interpolate them.

    A map S(r) is the eigenvector of eigenvalue 1 of G(r), the projection on the patches of the calibration region, at
    pixel r: G(r) S(r) = S(r).

    Parameters
    ----------
    calibration : complex (coils, h, w), the central samples of k-space, all acquired
    shape : (H, W) of the maps
    crop : eigenvalue (1 where coils agree on an image, 0 where they hold noise) below which maps are 0
    kernel : size of a patch in k-space samples, at most that of the region; None for `kernel_size`

    Returns
    -------
    complex64 (coils, H, W), of root-sum-of-squares 1, or 0 where cropped. The phase is relative to the strongest
    virtual coil of the calibration data.

    Raises
    ------
    InputError
        No coil, or coils that are zero everywhere or not finite.

    Examples
    --------
    >>> import torch
    >>> from mrihvae.coils import fast_maps
    >>> from mrihvae.physics import fft2c
    >>> from mrihvae.simulation import birdcage_fields
    >>> fields = birdcage_fields((32, 32), coils=4)
    >>> maps = fast_maps(fft2c(fields)[:, 4:28, 4:28], (32, 32))
    >>> bool((maps.conj() * fields).sum(dim=0).abs().allclose(fields.abs().square().sum(dim=0).sqrt(), rtol=0.05))
    True

    References
    ----------
    * Uecker et al. 2014 (ESPIRiT), https://doi.org/10.1002/mrm.24751
    """
    coils = len(calibration)
    _check(calibration)
    calibration = calibration.to(torch.complex128)  # or rounding of the data moves maps where there is little signal
    kernel = _kernel(calibration, kernel)
    subspace = _subspace(calibration, kernel).reshape(-1, coils, kernel, kernel)
    # lags are shorter than a patch, so a grid of twice its side holds the matrices exactly
    images = ifft2c(center_pad(subspace, (2 * kernel, 2 * kernel))) * 2
    matrices = fft2c(torch.einsum("nchw,ndhw->cdhw", images, images.conj()))
    grid = (min(COARSE_GRID_SIZE, shape[0]), min(COARSE_GRID_SIZE, shape[1]))
    coarse = ifft2c(resize_kspace(matrices, grid)) * ((grid[0] * grid[1]) ** 0.5 / (2 * kernel))
    agreed, eigenvectors = torch.linalg.eigh(coarse.permute(2, 3, 0, 1))
    maps = _fix_phase(eigenvectors[..., -1].permute(2, 0, 1), calibration)
    fine = _interpolate(torch.cat((maps, agreed[None, ..., -1])).to(torch.complex64), shape)
    maps = fine[:-1] / fine[:-1].abs().square().sum(dim=0).sqrt().clamp_min(1e-12)
    return maps * (fine[-1].real >= crop)


def espirit_maps(calibration: Tensor, shape: tuple[int, int], crop: float = 0.0, kernel: int | None = None) -> Tensor:
    """Compute sensitivity maps of one slice by sigpy's ESPIRiT; parameters, result and errors as for `fast_maps`.

    sigpy takes a square calibration region, which is cropped from the given samples.

    References
    ----------
    * Uecker et al. 2014 (ESPIRiT), https://doi.org/10.1002/mrm.24751
    """
    import sigpy.mri.app

    _check(calibration)
    width = min(calibration.shape[-2:])
    kernel = _kernel(calibration, kernel)
    kspace = center_pad(calibration, (max(shape[0], width), max(shape[1], width))).cpu().numpy()
    found = sigpy.mri.app.EspiritCalib(
        kspace, calib_width=width, kernel_width=kernel, thresh=SINGULAR_VALUE_THRESHOLD, crop=crop, show_pbar=False
    ).run()
    return _fix_phase(torch.from_numpy(found).to(calibration.device), calibration)


def _kernel(calibration: Tensor, kernel: int | None) -> int:
    """Choose the kernel for calibration data (coils, h, w) where none is given, and keep it within them."""
    height, width = calibration.shape[-2:]
    chosen = kernel_size((height, width), len(calibration)) if kernel is None else kernel
    return min(chosen, height, width)


def _subspace(calibration: Tensor, kernel: int) -> Tensor:
    """Compute an orthonormal basis of what all patches of calibration data have in common.

    Returns
    -------
    complex (directions, coils kernel^2), of the singular values above `SINGULAR_VALUE_THRESHOLD`
    """
    patches = calibration.unfold(1, kernel, 1).unfold(2, kernel, 1)  # (coils, y, x, kernel, kernel)
    rows = patches.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
    few = rows.shape[0] < rows.shape[1]  # the smaller of both Gram matrices has all singular values above 0
    values, vectors = torch.linalg.eigh(rows @ rows.mH if few else rows.mT @ rows.conj())
    kept = values > SINGULAR_VALUE_THRESHOLD**2 * values[-1]
    basis: Tensor = (vectors[:, kept].mH @ rows) / values[kept].sqrt()[:, None] if few else vectors[:, kept].mT
    return basis


def _fix_phase(maps: Tensor, calibration: Tensor) -> Tensor:
    """Set the phase of maps (coils, h, w) to that against the combination of coils of most energy."""
    data = calibration.flatten(1)
    strongest = torch.linalg.eigh(data @ data.mH)[1][:, -1]
    # eigenvectors are known but for a phase: that of their sum is taken to be 0
    angle = torch.einsum("c,chw->hw", strongest.conj(), maps).angle() + strongest.sum().angle()
    fixed: Tensor = maps * torch.polar(torch.ones_like(angle), -angle)
    return fixed


def _interpolate(coarse: Tensor, shape: tuple[int, int]) -> Tensor:
    """Interpolate periodic images (..., h, w), complex, to (..., H, W) by cubic convolution (Keys 1981)."""
    rows, columns = (_weights(have, want).to(coarse) for have, want in zip(coarse.shape[-2:], shape))
    return rows @ coarse @ columns.mT


def _weights(have: int, want: int) -> Tensor:
    """Return the matrix (want, have) that interpolates along an axis; the center stays the center."""
    at = (torch.arange(want, dtype=torch.float64) - want // 2) * (have / want) + have // 2
    first = at.floor()
    matrix = torch.zeros(want, have, dtype=torch.float64)
    for offset in (-1, 0, 1, 2):
        distance = (at - first - offset).abs()
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        index = (first.long() + offset).remainder(have)
        matrix[torch.arange(want), index] += torch.where(distance <= 1, near, far)
    return matrix


def _check(calibration: Tensor) -> None:
    if calibration.ndim != 3 or not calibration.is_complex():
        raise InputError(
            f"calibration data are {calibration.dtype} of shape {tuple(calibration.shape)}; give complex (coils, h, w)"
        )
    if not torch.isfinite(torch.view_as_real(calibration)).all():
        raise InputError("calibration data hold NaN or infinite values; export the scan again")
    if not calibration.any():
        raise InputError("all coils are zero at the center of k-space; there is nothing to estimate maps from")
