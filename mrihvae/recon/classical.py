"""Compressed sensing through sigpy: the classical methods to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.physics.fourier import ifft2c
from mrihvae.physics.mri import Sense
from mrihvae.physics.scaling import image_scale

# Tuned with benchmarks/singlecoil/tune_classical.py on training scans, random mask at 4x.
DEFAULT_STRENGTH = {"wavelet": 0.0003, "tv": 0.01}
COIL_STRENGTH = {"sense": 0.003, "wavelet": 0.001, "tv": 0.001}  # the same for several coils, by tune_multicoil.py
DUAL_STEP = 0.1  # the primal one follows: |F|^2 + |G|^2 = 9
ITERATIONS = {"wavelet": 100, "tv": 300}  # what more of them add is in that benchmark's results
# At 8x with 8 coils 300 iterations of the primal-dual method are still 2 dB from converged total variation. ADMM of
# these settings is within 0.1 dB in the same time.
COIL_ITERATIONS = {"wavelet": 200, "tv": 60}
INNER = 5  # iterations of conjugate gradients in one of ADMM
EDGE = 0.1  # gradients that it thresholds at, in model units: rho = strength / EDGE


def wavelet(
    kspace: np.ndarray,
    mask: np.ndarray,
    strength: float,
    iterations: int | None = None,
    maps: np.ndarray | None = None,
) -> np.ndarray:
    """Compute argmin_x 1/2 |M F S x - y|^2 + strength |W x|_1, W of Daubechies 4, by sigpy's `L1WaveletRecon`.

    Parameters
    ----------
    kspace : y, complex (H, W), or (coils, H, W) with maps; centered, in any physical scale
    mask : M, bool, broadcast to (H, W), True where acquired; the rest of `kspace` is ignored
    strength : weight of the penalty in model units
    iterations : of the accelerated proximal gradient method; None for `ITERATIONS`, with maps `COIL_ITERATIONS`
    maps : S, complex (coils, H, W); None for k-space of one coil of sensitivity 1

    Returns
    -------
    complex64 (H, W), in the scale of the input; of one coil acquired k-space is put back at the end, which raised its
    PSNR

    Raises
    ------
    InputError
        The shapes do not fit, or the strength is not above 0.

    References
    ----------
    * Lustig et al. 2007 (l1-wavelet), https://doi.org/10.1002/mrm.21391
    """
    usual = ITERATIONS if maps is None else COIL_ITERATIONS
    return _solve("L1WaveletRecon", kspace, mask, strength, iterations or usual["wavelet"], maps)


def total_variation(
    kspace: np.ndarray,
    mask: np.ndarray,
    strength: float,
    iterations: int | None = None,
    maps: np.ndarray | None = None,
) -> np.ndarray:
    """Compute argmin_x 1/2 |M F S x - y|^2 + strength |G x|_1, G the gradient, by sigpy's `TotalVariationRecon`.

    Parameters, result and errors are those of `wavelet`; the method is the primal-dual hybrid gradient, or with maps
    ADMM. The dual step of the first is set for images of size 1: with sigpy's own steps it is far from converged after
    300 iterations, and 1 dB worse.

    References
    ----------
    * Block et al. 2007 (total variation), https://doi.org/10.1002/mrm.21236
    """
    usual = ITERATIONS if maps is None else COIL_ITERATIONS
    steps = {"sigma": DUAL_STEP, "tau": 1 / (9 * DUAL_STEP)} if maps is None else admm_steps(strength)
    return _solve("TotalVariationRecon", kspace, mask, strength, iterations or usual["tv"], maps, **steps)


def admm_steps(strength: float) -> dict[str, Any]:
    """Return the options of sigpy's ADMM for total variation of this strength."""
    return {"solver": "ADMM", "rho": round(strength / EDGE, 12), "max_cg_iter": INNER}


def _solve(
    app: str,
    kspace: np.ndarray,
    mask: np.ndarray,
    strength: float,
    iterations: int,
    maps: np.ndarray | None,
    **options: Any,
) -> np.ndarray:
    """Run a sigpy application on one slice in model units; without maps, with one coil of sensitivity 1."""
    import sigpy.mri.app

    shape = kspace.shape[-2:]
    if kspace.shape != (shape if maps is None else maps.shape) or np.broadcast_shapes(mask.shape, shape) != shape:
        raise InputError(f"k-space {kspace.shape} is not one slice (H, W) that the mask {mask.shape} fits")
    if not 0 < strength < np.inf:
        raise InputError(f"strength {strength} is not a number above 0")
    lines = np.broadcast_to(mask, shape)
    measured = np.where(lines, kspace, 0).astype(np.complex64)
    sensitivities = np.ones((1, *shape), dtype=np.complex64) if maps is None else maps.astype(np.complex64)
    zero_filled = (sensitivities.conj() * ifft2c(torch.from_numpy(measured)).numpy()).sum(axis=0)
    scale = float(image_scale(torch.from_numpy(zero_filled)))
    solver = getattr(sigpy.mri.app, app)(
        measured.reshape(sensitivities.shape) / scale,
        sensitivities,
        strength,
        weights=lines[None].astype(np.float32),
        max_iter=iterations,
        show_pbar=False,
        **options,
    )
    image = np.asarray(solver.run(), dtype=np.complex64) * np.float32(scale)
    if maps is not None:
        return image
    complete = np.where(lines, measured, sigpy.fft(image))
    return ifft2c(torch.from_numpy(complete.astype(np.complex64))).numpy()


def conjugate_gradient_sense(kspace: Tensor, mask: Tensor, maps: Tensor, strength: float) -> Tensor:
    """Compute argmin_x |M F S x - y|^2 + strength |x|^2 (CG-SENSE).

    Parameters
    ----------
    kspace : y, complex (slices, coils, H, W)
    mask : M, bool, broadcast to (H, W), True where acquired
    maps : S, complex (slices or 1, coils, H, W)
    strength : above 0

    Returns
    -------
    complex (slices, H, W), in the scale of `kspace`

    References
    ----------
    * Pruessmann et al. 2001 (CG-SENSE), https://doi.org/10.1002/mrm.1241
    """
    if not strength > 0:
        raise InputError(f"strength {strength} must be above 0")
    sense = Sense(maps, mask.expand(len(kspace), *kspace.shape[-2:]))
    return sense.solve(sense.adjoint(kspace), strength)
