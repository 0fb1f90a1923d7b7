"""Reconstruction of k-space from arrays: `mrihvae.reconstruct`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrihvae.data.scan import Scan, acquired_samples
from mrihvae.errors import InputError
from mrihvae.inference.calibration import Bounds
from mrihvae.model.shipped import weights_for
from mrihvae.recon.catalog import load_method
from mrihvae.recon.methods import HybridMethod, Method, ModelMethod, SampleMeanMethod
from mrihvae.recon.reconstruction import Reconstruction
from mrihvae.recon.volumes import reconstruct_scan
from mrihvae.utils.config import as_dict
from mrihvae.utils.notices import collect_notices, warn

AXES = {"H W": 2, "slice H W": 3, "coil H W": 3, "slice coil H W": 4}
DEFAULT = "default"  # weights: the shipped ones for the number of coils
NAME = "k-space"  # of scans that come as arrays, in errors


@dataclass(frozen=True)
class ReconstructedImage:
    """The result of `mrihvae.reconstruct`: arrays of the same kind as the input, in the scale of the k-space.

    Attributes
    ----------
    magnitude : float32 (H, W), or (slice, H, W); for several coils the root-sum-of-squares with acquired k-space put
        back, as in fastMRI's targets
    image : complex64 of the same shape, combined by the maps for several coils; zero-filled coils are not combined,
        (coil, H, W) or (slice, coil, H, W)
    std : float32 like `magnitude`, the expected standard deviation of the error; None without samples. If `bounds` is
        not empty, it is calibrated: inside the object, a fully sampled image lies within `magnitude` plus or minus
        1.645 times it in 90 % of the pixels, on average over new subjects
    samples : float32 (sample, H, W) or (slice, sample, H, W), magnitudes of posterior samples; None without samples
    warnings : doubts about this result
    settings : method, its settings, fingerprint of the weights, samples, seed, and tv_shares if the image was blended
        towards total variation (`mrihvae.recon.volumes.Reconstruction`), of each group of slices with one mask
    bounds : of PSNR and SSIM, for each group of slices with one mask, if the uncertainty is calibrated

    Examples
    --------
    >>> import numpy as np
    >>> import mrihvae
    >>> kspace = np.random.default_rng(0).standard_normal((32, 32)) + 0j
    >>> found = mrihvae.reconstruct(kspace, method="zero-filled")
    >>> found.image.dtype, found.std, found.settings["method"]
    (dtype('complex64'), None, 'zero-filled')
    """

    magnitude: Any
    image: Any
    std: Any
    samples: Any
    warnings: tuple[str, ...]
    settings: dict[str, Any]
    bounds: tuple[Bounds, ...] = ()


def reconstruct(
    kspace: np.ndarray | Tensor,
    mask: np.ndarray | Tensor | None = None,
    *,
    axes: str | None = None,
    maps: np.ndarray | Tensor | None = None,
    method: str | Method = "hybrid",
    weights: str = DEFAULT,
    samples: int = 0,
    seed: int = 0,
    device: str = "auto",
) -> ReconstructedImage:
    """Reconstruct undersampled k-space y = M F S x + n.

    x is the image, S the coil sensitivities, F the Fourier transform, M the sampling mask and n white Gaussian noise.

    Parameters
    ----------
    kspace : complex, NumPy or torch; centered, DC at [H // 2, W // 2], orthonormal Fourier transform, in any physical
        scale: (H, W), (slice, coil, H, W), or three axes with `axes`
    mask : True or 1 where acquired, of any shape that broadcasts to `kspace`, or fastMRI's (1, 1, W, 1); the rest of
        k-space is ignored. None: samples count as acquired unless they are exactly 0 in all slices and coils
    axes : "slice H W" or "coil H W" of k-space with three axes
    maps : complex sensitivity maps, (coil, H, W) or (slice or 1, coil, H, W); None: estimated by ESPIRiT from the
        calibration region (ACS)
    method : one of `mrihvae.recon.settings.METHODS`, or a method from `mrihvae.load_method`, which avoids loading it in
        every call
    weights : name of shipped weights, or a .safetensors file; "default" chooses by the number of coils
    samples : number of posterior samples, for the samples and the uncertainty of the image; 0 for none, else at least 2
    seed : random seed of the samples
    device : "cpu", "cuda", ..., or "auto", a GPU if there is one

    Returns
    -------
    see `ReconstructedImage`

    Raises
    ------
    InputError
        Shapes, types, or names that do not fit; NaN; k-space of zeros; a calibration region (ACS) that is too small; a
        method that does not support posterior sampling.

    Examples
    --------
    >>> import numpy as np
    >>> import mrihvae
    >>> image = np.zeros((64, 64), dtype=complex)
    >>> image[16:48, 20:44] = 1
    >>> kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image), norm="ortho"))
    >>> lines = (np.arange(64) % 2 == 0) | (abs(np.arange(64) - 32) < 5)
    >>> error = {}
    >>> for method in ("zero-filled", "hybrid"):
    ...     found = mrihvae.reconstruct(kspace, lines, method=method)
    ...     error[method] = np.linalg.norm(found.image - image)
    >>> found.magnitude.shape
    (64, 64)
    >>> bool(error["hybrid"] < 0.2 * error["zero-filled"])
    True

    References
    ----------
    * "Iterative Amortized Hierarchical VAE" (IA-HVAE), https://doi.org/10.48550/arXiv.2601.15894
    * Prost et al. 2023 (PnP-HVAE), https://doi.org/10.48550/arXiv.2303.11217
    * Pruessmann et al. 1999 (SENSE), https://doi.org/10.1002/(SICI)1522-2594(199911)42:5<952::AID-MRM16>3.0.CO;2-S
    * Uecker et al. 2014 (ESPIRiT), https://doi.org/10.1002/mrm.24751
    """
    array, axes = _as_array(kspace, axes)
    volume, own = _as_volume(array, axes), None if maps is None else _as_maps(maps, array, axes)
    scan = Scan(NAME, volume if "coil" in axes else volume[:, 0], maps=own)
    if type(seed) is not int or seed < 0:
        raise InputError(f"seed is {seed}; give a whole number of at least 0")
    chosen = _method(method, weights, scan.coils, samples, device)
    if isinstance(chosen, SampleMeanMethod):
        samples = samples or chosen.samples
    with collect_notices() as notices:
        parts = []
        for where, lines in _by_mask(_masks(mask, array, axes)):
            part = replace(scan, kspace=scan.kspace[where], maps=_part(own, where))
            found = reconstruct_scan(
                part, lines, chosen, samples=samples, seed=seed, complex_image=True, first=where.start
            )
            parts.append((where, found))
    made: dict[str, Any] = {name: _join(parts, name, len(volume)) for name in ("magnitude", "image", "std", "samples")}
    if "slice" not in axes:
        made = {name: None if value is None else value[0] for name, value in made.items()}
    if isinstance(kspace, Tensor):
        made = {name: None if v is None else torch.from_numpy(v).to(kspace.device) for name, v in made.items()}
    settings = _settings(chosen, samples, seed)
    if any(found.tv_shares for _, found in parts):
        settings["tv_shares"] = [found.tv_shares for _, found in parts]
    bounds = tuple(found.bounds for _, found in parts if found.bounds is not None)
    return ReconstructedImage(**made, warnings=tuple(notices), settings=settings, bounds=bounds)


def _as_array(kspace: np.ndarray | Tensor, axes: str | None) -> tuple[np.ndarray, str]:
    """Check k-space; return it as complex64, and its axes."""
    array = _numpy(kspace, "k-space")
    if not np.iscomplexobj(array):
        hint = "; make pairs complex, such as by torch.view_as_complex" if array.shape[-1:] == (2,) else ""
        raise InputError(f"k-space is {array.dtype} of shape {array.shape}; give complex numbers{hint}")
    known = ", ".join(f"'{names}'" for names in AXES)
    if axes is None:
        if array.ndim == 3:
            raise InputError(
                f"k-space of shape {array.shape} has three axes; say which: axes='slice H W' or axes='coil H W'"
            )
        axes = next((names for names, count in AXES.items() if count == array.ndim), "")
    if not isinstance(axes, str) or AXES.get(axes) != array.ndim:
        given = f" with axes {axes!r}" if axes else ""
        raise InputError(f"k-space of shape {array.shape}{given}: its axes must be one of {known}, in this order")
    if min(array.shape) < 1 or min(array.shape[-2:]) < 2:
        raise InputError(f"k-space of shape {array.shape}: H and W must be at least 2, and no axis empty")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, np.complex64)
    if not np.isfinite(array).all():
        raise InputError("k-space holds NaN or infinite values, or values too large for single precision")
    if not array.any():
        raise InputError("k-space is zero everywhere; there is nothing to reconstruct from")
    return array, axes


def _numpy(array: Any, what: str) -> np.ndarray:
    """Convert an array of NumPy or torch to NumPy."""
    if isinstance(array, Tensor):
        return np.asarray(array.detach().resolve_conj().resolve_neg().cpu().numpy())
    if not isinstance(array, np.ndarray):
        raise InputError(f"{what} is {type(array).__name__}; give a NumPy array or a torch tensor")
    return array


def _as_volume(array: np.ndarray, axes: str) -> np.ndarray:
    """Return an array with the axes (slice, coil, H, W)."""
    if "coil" not in axes:
        array = array[..., None, :, :]
    return array if "slice" in axes else array[None]


def _masks(mask: np.ndarray | Tensor | None, kspace: np.ndarray, axes: str) -> np.ndarray:
    """Return the mask of each slice: bool (slice, H, W)."""
    volume = _as_volume(kspace, axes)
    if mask is None:
        acquired = acquired_samples(Scan(NAME, volume))
        if acquired.all():
            warn("k-space is fully sampled and there is no mask: there is nothing to reconstruct")
        return np.broadcast_to(acquired, (len(volume), *volume.shape[-2:]))
    values = _numpy(mask, "mask")
    if not (values.dtype == bool or np.isin(values, (0, 1)).all()):
        raise InputError("mask must hold only True and False, or 1 and 0")
    pattern = _broadcast(values != 0, kspace)
    whole = _as_volume(pattern, axes)
    if not (whole == whole[:, :1]).all():
        raise InputError(f"mask of shape {values.shape} differs between coils; all coils must have the same")
    found: np.ndarray = whole[:, 0]
    if empty := np.flatnonzero(~found.any(axis=(1, 2))).tolist():
        raise InputError(f"mask is False everywhere in slice {empty[0]}; there is nothing to reconstruct from")
    return found


def _broadcast(mask: np.ndarray, kspace: np.ndarray) -> np.ndarray:
    """Broadcast a mask to k-space; a last axis of 1 may stand for the real and imaginary parts, as in fastMRI."""
    candidates = [mask]
    if mask.ndim >= 3 and mask.shape[-1] == 1:
        paired = mask[..., 0]
        candidates = [paired] if mask.ndim > kspace.ndim else [mask, paired]
    found = []
    for candidate in candidates:
        candidate = (
            candidate.reshape(candidate.shape[max(candidate.ndim - kspace.ndim, 0) :])
            if _leads_with_ones(candidate, kspace.ndim)
            else candidate
        )
        try:
            found.append(np.broadcast_to(candidate, kspace.shape))
        except ValueError:
            continue
    if not found:
        raise InputError(f"mask of shape {mask.shape} does not fit k-space of {kspace.shape}; give (W,) or (H, W)")
    if len(found) == 2 and not (found[0] == found[1]).all():
        raise InputError(f"mask of shape {mask.shape} may mark lines along H or along W; give (W,), (H, 1) or (H, W)")
    return found[0]


def _leads_with_ones(mask: np.ndarray, ndim: int) -> bool:
    """Return whether a mask has more axes than k-space, all of them of length 1."""
    return mask.ndim > ndim and all(size == 1 for size in mask.shape[: mask.ndim - ndim])


def _as_maps(maps: np.ndarray | Tensor, kspace: np.ndarray, axes: str) -> np.ndarray:
    """Check maps: complex64 (slice or 1, coil, H, W)."""
    array = _numpy(maps, "maps")
    if "coil" not in axes:
        raise InputError("maps need several coils; give k-space with a coil axis, or leave them out")
    own = array[None] if array.ndim == 3 else array
    volume = _as_volume(kspace, axes)
    if own.ndim != 4 or own.shape[1:] != volume.shape[1:] or len(own) not in (1, len(volume)):
        raise InputError(f"maps of shape {array.shape} do not fit k-space of {kspace.shape}; give (coil, H, W)")
    if not np.isfinite(own).all():
        raise InputError("maps hold NaN or infinite values")
    return np.ascontiguousarray(own, np.complex64)


def _part(maps: np.ndarray | None, where: slice) -> np.ndarray | None:
    """Return the maps of some slices."""
    return maps if maps is None or len(maps) == 1 else maps[where]


def _by_mask(masks: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Group neighboring slices of one mask: which, and the mask, (W,) where it is of whole lines along H."""
    first = 0
    for k in range(1, len(masks) + 1):
        if k == len(masks) or not np.array_equal(masks[k], masks[first]):
            lines = masks[first]
            yield slice(first, k), np.array(lines[0] if (lines == lines[:1]).all() else lines)
            first = k


def _method(method: str | Method, weights: str, coils: int, samples: int, device: str) -> Method:
    """Load the method, unless it is at hand."""
    if type(samples) is not int or samples < 0 or samples == 1:
        raise InputError(f"samples is {samples}; give 0 for none, or at least 2, for a standard deviation")
    if not isinstance(method, str | Method):
        raise InputError(f"method is {method!r}; give a name, or a method of mrihvae.load_method")
    if isinstance(method, Method) and (weights, device) != (DEFAULT, "auto"):
        raise InputError("the loaded method already has weights and a device; leave them out")
    if isinstance(method, str):
        where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        name = weights_for(coils) if weights == DEFAULT else weights
        method = load_method(method, name, where)
    if samples and not isinstance(method, HybridMethod):
        raise InputError(f"method '{method.name}' does not support posterior sampling; choose 'hybrid', or samples=0")
    return method


def _join(parts: list[tuple[slice, Reconstruction]], name: str, slices: int) -> np.ndarray | None:
    """Return the slices of all groups in their order."""
    arrays = [(where, getattr(found, name)) for where, found in parts]
    if arrays[0][1] is None:
        return None
    whole = np.empty((slices, *arrays[0][1].shape[1:]), arrays[0][1].dtype)
    for where, values in arrays:
        whole[where] = values
    return whole


def _settings(method: Method, samples: int, seed: int) -> dict[str, Any]:
    """Return the settings that made a result."""
    own = method.settings()
    made: dict[str, Any] = {"method": method.name, **own, "coils": as_dict(method.coils)}
    if isinstance(method, ModelMethod):
        made["weights"] = method.weights
    if samples and isinstance(method, HybridMethod):
        made |= {"samples": samples, "seed": seed, "sample_sweeps": method.sample_sweeps}
    return made
