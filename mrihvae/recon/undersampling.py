"""Which k-space samples of a scan count as acquired: the file's own mask, or a drawn one."""

from __future__ import annotations

import numpy as np

from mrihvae.data.inspection import inspect_kspace
from mrihvae.data.scan import Scan, _has_gaps, acquired_samples, encoded_lines, is_complete
from mrihvae.errors import InputError
from mrihvae.physics.fastmri_masks import seed_of
from mrihvae.physics.sampling import Undersampling, sampling_pattern
from mrihvae.recon.normalization import shift_of


def mask_of(scan: Scan, undersampling: Undersampling | None) -> np.ndarray:
    """Return which k-space samples of a scan count as acquired.

    It is the file's mask, unless the scan is fully sampled and `undersampling` is given; `undersampling`, seeded by the
    file name as fastMRI does, around the peak of k-space where that is off the center; or, without either, the samples
    that are not exactly zero in all slices and coils.

    Parameters
    ----------
    scan : fully sampled or undersampled
    undersampling : for fully sampled scans, or None

    Returns
    -------
    bool (W,) if whole lines along H were acquired, else (H, W)

    Raises
    ------
    InputError
        A fully sampled scan without `undersampling`, or an undersampled one with it.

    Examples
    --------
    >>> import numpy as np
    >>> from mrihvae.data import Scan
    >>> from mrihvae.physics import Undersampling
    >>> from mrihvae.recon import mask_of
    >>> scan = Scan("phantom", np.ones((1, 16, 16), dtype=np.complex64))
    >>> mask = mask_of(scan, Undersampling("random", acceleration=4, center_fraction=0.2))
    >>> mask.shape, bool(mask[8])
    ((16,), True)
    """
    if scan.mask is not None and not (undersampling and is_complete(scan)):
        if undersampling is not None:
            raise InputError(f"{scan.name}: is already undersampled (it has a mask); leave out --mask-type")
        return scan.mask
    measured = acquired_samples(scan)
    if undersampling is not None:
        if _has_gaps(measured):
            raise InputError(f"{scan.name}: is already undersampled (samples are missing); leave out --mask-type")
        u = undersampling
        shape = (scan.kspace.shape[-2], scan.kspace.shape[-1])
        pattern = sampling_pattern(u.mask_type, shape, u.acceleration, u.center_fraction, seed_of(scan.name), u.axis)
        return _as_lines(np.roll(pattern, shift_of(inspect_kspace(scan)), (-2, -1)) & encoded_lines(scan))
    if not measured.any():
        raise InputError(f"{scan.name}: k-space is zero everywhere; there is nothing to reconstruct from")
    if measured[..., encoded_lines(scan)].all():
        raise InputError(
            f"{scan.name}: k-space is fully sampled and has no mask; add --mask-type to undersample it, or store "
            "its mask"
        )
    return measured


def check_signal(scan: Scan, mask: np.ndarray) -> None:
    """Check that something was acquired: reading stops at the first slice with a sample other than 0.

    Raises
    ------
    InputError
        K-space that is zero where it was acquired, in all slices.
    """
    if not any((np.asarray(scan.kspace[k : k + 1]) * mask).any() for k in range(len(scan.kspace))):
        raise InputError(f"{scan.name}: k-space is zero everywhere; there is nothing to reconstruct from")


def _as_lines(pattern: np.ndarray) -> np.ndarray:
    """Return (W,) for a pattern (H, W) of whole lines along H."""
    return pattern[0] if (pattern == pattern[0]).all() else pattern
