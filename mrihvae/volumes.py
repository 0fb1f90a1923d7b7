"""From a scan to its reconstructed volume: undersampling, batches of slices, coils, the size to deliver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mrihvae import classical
from mrihvae.errors import InputError
from mrihvae.fastmri_files import Scan
from mrihvae.fourier import centre_crop
from mrihvae.inference import InferenceSettings, reconstruct
from mrihvae.masks import sampling_mask, seed_of
from mrihvae.model import HVAE
from mrihvae.operators import MaskedFourier

METHODS = ("hybrid", "amortised", "zero-filled", "wavelet", "tv")
MODEL_METHODS = ("hybrid", "amortised")


@dataclass(frozen=True)
class Undersampling:
    """A fastMRI mask by name, for scans that are complete."""

    mask_type: str
    acceleration: int
    center_fraction: float


@dataclass(frozen=True)
class Method:
    """A way to reconstruct.

    Attributes
    ----------
    name : one of `METHODS`
    model : the weights, for "hybrid" and "amortised"
    inference : settings of the hybrid; "amortised" ignores its sweeps
    strength : regularisation of "wavelet" and "tv" in model units; None for the tuned one
    """

    name: str
    model: HVAE | None = None
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    strength: float | None = None

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise InputError(f"method '{self.name}' is unknown; choose one of {', '.join(METHODS)}")
        if self.name in MODEL_METHODS and self.model is None:
            raise InputError(f"method '{self.name}' needs a model; load one with mrihvae.weights.load_model")


def lines_of(scan: Scan, undersampling: Undersampling | None) -> np.ndarray:
    """Find the measured phase-encoding lines of a scan, bool (W,).

    From the file's mask; from `undersampling`, seeded by the file name as fastMRI does; or, without either, from
    lines that are exactly zero.

    Raises
    ------
    InputError
        Both or neither of the two.
    """
    width = scan.kspace.shape[-1]
    if scan.mask is not None:
        if undersampling is not None:
            raise InputError(f"{scan.name}: is undersampled already (it has a mask); leave out --mask-type")
        return scan.mask
    measured = np.any(scan.kspace != 0, axis=tuple(range(scan.kspace.ndim - 2)))
    if _has_gaps(measured.any(axis=1)):
        raise InputError(f"{scan.name}: rows of k-space are empty; W must be the phase-encoding axis, so transpose it")
    if undersampling is not None:
        if _has_gaps(measured.any(axis=0)):
            raise InputError(f"{scan.name}: is undersampled already (lines are empty); leave out --mask-type")
        u = undersampling
        lines = sampling_mask(u.mask_type, width, u.acceleration, u.center_fraction, seed_of(scan.name))
        return np.asarray(lines & _encoded(scan))
    lines = measured.any(axis=0)
    if not lines.any():
        raise InputError(f"{scan.name}: k-space is zero everywhere; there is nothing to reconstruct from")
    if lines[_encoded(scan)].all():
        raise InputError(f"{scan.name}: k-space is complete and has no mask; add --mask-type to undersample it")
    return np.asarray(lines)


def reconstruct_volume(
    scan: Scan,
    lines: np.ndarray,
    method: Method,
    batch_size: int = 8,
    progress: Callable[[int], None] = lambda slices: None,
) -> np.ndarray:
    """Reconstruct all slices of a scan.

    Parameters
    ----------
    scan : complete or undersampled
    lines : bool (W,), the measured phase-encoding lines; others are ignored even where the scan holds them
    method : see `Method`
    batch_size : coil images reconstructed together; it changes speed and memory, not results
    progress : told after each batch how many slices are done

    Returns
    -------
    float32 magnitude (slice, h, w) in the scan's own scale, cropped to the target's or the header's matrix. Several
    coils are reconstructed one by one and combined by root-sum-of-squares.
    """
    images = []
    coils = scan.kspace.shape[1] if scan.kspace.ndim == 4 else 1
    kspace = torch.from_numpy(scan.kspace.reshape(-1, *scan.kspace.shape[-2:]))
    mask = torch.from_numpy(lines)
    # lines that the scanner did not encode are known to be zero, not missing
    known = mask | torch.from_numpy(~_encoded(scan))
    for first in range(0, len(kspace), batch_size):
        batch = torch.where(mask, kspace[first : first + batch_size], torch.zeros((), dtype=kspace.dtype))
        images.append(_reconstruct_batch(batch, known, method).abs().cpu())
        if finished := (first + len(batch)) // coils - first // coils:
            progress(finished)
    magnitude = torch.cat(images).unflatten(0, (-1, coils))
    volume = magnitude[:, 0] if coils == 1 else magnitude.square().sum(dim=1).sqrt()
    return centre_crop(volume, delivered_shape(scan)).contiguous().numpy()


def delivered_shape(scan: Scan) -> tuple[int, int]:
    """Compute the (h, w) to deliver: the target's, else the header's matrix as fastMRI's transforms crop to it."""
    height, width = scan.kspace.shape[-2:]
    if scan.target is not None:
        return min(height, scan.target.shape[-2]), min(width, scan.target.shape[-1])
    wanted = scan.matrix or (height, width)
    if width < wanted[1]:
        wanted = (width, width)
    return min(height, wanted[0]), wanted[1]


def _has_gaps(present: np.ndarray) -> bool:
    """Tell whether something is missing between the first and the last that is there."""
    there = np.flatnonzero(present)
    return len(there) > 0 and not bool(present[there[0] : there[-1] + 1].all())


def _encoded(scan: Scan) -> np.ndarray:
    """Mark the lines that the scanner encoded, bool (W,)."""
    encoded = np.ones(scan.kspace.shape[-1], dtype=bool)
    if scan.padding is not None:
        encoded[: scan.padding[0]] = encoded[scan.padding[1] :] = False
    return encoded


def _reconstruct_batch(kspace: Tensor, mask: Tensor, method: Method) -> Tensor:
    """Reconstruct undersampled k-space (slices, H, W) to complex images of the same shape."""
    if method.model is not None and method.name in MODEL_METHODS:
        settings = method.inference if method.name == "hybrid" else replace(method.inference, sweeps=0)
        return reconstruct(method.model, kspace, mask, settings)
    if method.name == "zero-filled":
        return MaskedFourier(mask).adjoint(kspace)
    solve = classical.wavelet if method.name == "wavelet" else classical.total_variation
    strength = classical.DEFAULT_STRENGTH[method.name] if method.strength is None else method.strength
    lines = mask.expand(kspace.shape[-2:]).numpy()
    return torch.from_numpy(np.stack([solve(y, lines, strength) for y in kspace.numpy()]))
