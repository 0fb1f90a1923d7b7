"""Coil arrays: the noise that coils share, prewhitening, and compression to fewer, virtual coils.

Receive coils pick up correlated noise of unequal power. Multiplied along the coil axis by a whitening matrix, their
data have white noise of one level, as least squares over the coils takes for granted (Pruessmann et al. 2001).
Compression afterwards has orthonormal rows, so that the noise stays white.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mrihvae.coils.checks import MIN_NOISE_SAMPLES, _check_coils_are_live, _check_finite, _check_noise
from mrihvae.errors import InputError
from mrihvae.physics.noise import EDGE_FRACTION

QUIET_FRACTION = 0.1  # share of the corner samples that are used: signal reaches into corners, so only the quietest
MIN_QUIET_BINS = 200  # samples a coil that are used even if they are more than that share
NEIGHBORHOOD_SIZE = 9  # side of the square around a bin by which it is called quiet
FIXED_POINT_ITERATIONS = 20  # of the fixed point, which by then has converged to rounding errors
MIN_OWN_NOISE = 1e-5  # share of a coil's noise, below which whitening would only blow up rounding errors


def noise_covariance(noise: Tensor) -> Tensor:
    """Compute the sample covariance C = E n n^H of a noise scan; its mean is not removed, since noise has none.

    Parameters
    ----------
    noise : complex (coils, samples) or (coils, ...), in the units of k-space

    Returns
    -------
    complex64 (coils, coils)

    Raises
    ------
    InputError
        NaN or infinite values, fewer than 10 samples per coil, or a coil of zeros.

    Examples
    --------
    >>> import torch
    >>> from mrihvae.coils import noise_covariance, whitening_matrix
    >>> _ = torch.manual_seed(0)
    >>> covariance = noise_covariance(torch.randn(2, 1000, dtype=torch.complex64))
    >>> whitener = whitening_matrix(covariance, unit=True)
    >>> (whitener @ covariance @ whitener.mH).allclose(torch.eye(2, dtype=torch.complex64), atol=1e-5)
    True
    """
    noise = _check_noise(noise, "noise scan")
    return (noise @ noise.mH / noise.shape[1]).to(torch.complex64)


def corner_covariance(kspace: Tensor, mask: Tensor | None = None) -> Tensor:
    """Estimate the covariance of the noise from the corners of k-space, where little but noise is.

    Of the corners of `mrihvae.physics.noise.noise_std`, all slices together, the bins are taken whose neighbors have
    the least power: the bin itself has no say in this, so noise is not chosen by its size. Of these, Tyler's
    estimate (1987), in which every bin counts alike however bright; its scale is such that the median of the
    whitened power is that of white complex noise. For white noise its diagonal so is the square of `noise_std`,
    up to chance. Signal at the corners makes it too high, if less so: on one 256 x 256 slice of a phantom 30 and 100
    times the noise by 4 and 23 %, against 7 and 73 % of the square of `noise_std`. A noise scan has none.

    Parameters
    ----------
    kspace : complex (slices, coils, H, W)
    mask : bool, broadcast to `kspace`, the same for all coils; bins that are 0 in all coils never count

    Returns
    -------
    complex64 (coils, coils); singular if coils are zero or depend on each other

    Raises
    ------
    InputError
        Another shape, NaN or infinite values, or fewer than 10 acquired samples a coil.
    """
    if kspace.ndim != 4:
        raise InputError(f"k-space has shape {tuple(kspace.shape)}; it must be (slices, coils, H, W)")
    _check_finite(kspace, "k-space")
    measured = (kspace != 0) if mask is None else (kspace != 0) & mask
    bins = _corner_bins(measured.any(dim=1), MIN_NOISE_SAMPLES * kspace.shape[1])
    noise = kspace.movedim(1, 0)[:, bins]
    median = noise.abs().median(dim=1).values[:, None]
    noise = torch.where(median > 0, noise / median, 0)
    noise = noise[:, _quietest_bins(noise, bins)].to(torch.complex128)
    values, vectors = torch.linalg.eigh(noise @ noise.mH)
    vectors = vectors[:, values > MIN_OWN_NOISE * values[-1]]  # what coils of zeros and dependent ones leave
    back = median * vectors
    covariance: Tensor = back @ _tyler(vectors.mH @ noise) @ back.mH
    return covariance.to(torch.complex64)


def whitening_matrix(covariance: Tensor, unit: bool = False) -> Tensor:
    """Compute W of W C W^H = s I from the Cholesky factor of the covariance C = L L^H: W = sqrt(s) L^-1.

    The scale of the data does not change: s is the mean noise power of the coils, the mean of the diagonal of C. W is I
    for noise that is already white, and the same for C and c C, so the bandwidth of a noise scan does not matter.
    Pruessmann et al. 2001; Kellman and McVeigh 2005 (Magn Reson Med 54:1439) reconstruct in units of noise, as with
    `unit`.

    Parameters
    ----------
    covariance : C, complex (coils, coils)
    unit : s = 1

    Returns
    -------
    complex64 (coils, coils), lower triangular: coil k is a combination of itself and those before it

    Raises
    ------
    InputError
        Not a covariance, or singular: a coil without noise, or one that those before it determine.

    References
    ----------
    * Pruessmann et al. 2001 (CG-SENSE), https://doi.org/10.1002/mrm.1241
    """
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise InputError(f"noise covariance has shape {tuple(covariance.shape)}; it must be (coils, coils)")
    _check_finite(covariance, "noise covariance")
    covariance = covariance.to(torch.complex128)
    power = covariance.diagonal().real
    if not torch.allclose(covariance, covariance.mH, rtol=1e-3, atol=1e-5 * float(power.abs().max())):
        raise InputError("noise covariance is not Hermitian; it must be E n n^H")
    _check_coils_are_live(power, "noise covariance")
    std = power.sqrt()
    factor, failed = torch.linalg.cholesky_ex(covariance / std[:, None] / std)
    own = factor.diagonal().real ** 2  # of each coil's noise, what those before it do not determine
    if int(failed):
        own[int(failed) - 1 :] = 0
    if bool((own < MIN_OWN_NOISE).any()):
        coil = int((own < MIN_OWN_NOISE).nonzero()[0])
        raise InputError(
            f"noise covariance: coil {coil}, counted from 0, is a linear combination of those before it; leave it out"
        )
    identity = torch.eye(len(std), dtype=covariance.dtype, device=covariance.device)
    inverse: Tensor = torch.linalg.solve_triangular(std[:, None] * factor, identity, upper=False)
    return (inverse if unit else power.mean().sqrt() * inverse).to(torch.complex64)


def _corner_bins(measured: Tensor, fewest: int) -> Tensor:
    """Mark the acquired samples of (slices, H, W) at the corners; of all columns where the corners have too few."""
    height, width = measured.shape[-2:]
    rows = torch.arange(height, device=measured.device) - height // 2
    columns = torch.arange(width, device=measured.device) - width // 2
    outer = measured & (rows.abs() >= (0.5 - EDGE_FRACTION) * height)[:, None]
    corners = outer & (columns.abs() >= width / 4)
    bins = corners if int(corners.sum()) >= fewest else outer
    if int(bins.sum()) < fewest:
        raise InputError(
            f"k-space has {int(bins.sum())} acquired samples at its corners, but {fewest} are needed to estimate "
            "the noise of its coils; give a noise scan"
        )
    return bins


def _quietest_bins(noise: Tensor, bins: Tensor) -> Tensor:
    """Return the indices of the samples (coils, n), marked in (slices, H, W), that have the quietest neighbors."""
    grids = noise.new_zeros((2, *bins.shape), dtype=torch.float64)  # their power, and one for each
    grids[0, bins], grids[1, bins] = noise.abs().square().sum(dim=0).double(), 1.0
    size = NEIGHBORHOOD_SIZE
    square = functional.avg_pool2d(grids, size, stride=1, padding=size // 2) * size**2
    power, count = square - grids  # without the bin itself
    around = torch.where(count > 0.5, power / count, torch.inf)[bins]
    return around.argsort(stable=True)[: max(round(QUIET_FRACTION * len(around)), MIN_QUIET_BINS * len(noise))]


def _tyler(noise: Tensor) -> Tensor:
    """Estimate the covariance of samples (coils, n) that span all of their coils: the fixed point of Tyler 1987."""
    coils, samples = noise.shape
    shape = torch.eye(coils, dtype=noise.dtype, device=noise.device)
    for _ in range(FIXED_POINT_ITERATIONS):
        shape = coils / samples * (noise / _squared_lengths(noise, shape)) @ noise.mH
        shape = shape * (coils / shape.trace().real)
    scale = float(_squared_lengths(noise, shape).median()) / _median_power(coils)
    return scale * shape


def _squared_lengths(noise: Tensor, covariance: Tensor) -> Tensor:
    """Compute n^H C^-1 n of samples (coils, n), always above 0."""
    white: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), noise, upper=False)
    return white.abs().square().sum(dim=0).clamp_min(torch.finfo(torch.float64).tiny)


def _median_power(coils: int) -> float:
    """Compute the median of the summed power of white complex noise of variance 1: that of a gamma distribution."""
    low, high = torch.tensor([coils - 1 / 3, coils], dtype=torch.float64)
    for _ in range(50):
        middle = (low + high) / 2
        below = bool(torch.special.gammainc(middle.new_tensor(coils), middle) < 0.5)
        low, high = (middle, high) if below else (low, middle)
    return float(low)
