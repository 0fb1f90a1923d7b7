"""Which lines of a scan count as measured: the file's own mask, or one that is drawn."""

from __future__ import annotations

import numpy as np

from mrihvae.data.scan import Scan, _has_gaps, acquired_samples, encoded_lines, is_complete
from mrihvae.errors import InputError
from mrihvae.physics.fastmri_masks import seed_of
from mrihvae.physics.sampling import Undersampling, sampling_pattern


def mask_of(scan: Scan, undersampling: Undersampling | None) -> np.ndarray:
    """Find which bins of a scan were measured, bool (W,) if these are whole lines along H, else (H, W).

    From the file's mask, unless all was measured and it is to be undersampled; from `undersampling`, seeded by the file
    name as fastMRI does; or, without either, from bins that are exactly zero in all slices and coils.

    Raises
    ------
    InputError
        Both or neither of the two.
    """
    if scan.mask is not None and not (undersampling and is_complete(scan)):
        if undersampling is not None:
            raise InputError(f"{scan.name}: is undersampled already (it has a mask); leave out --mask-type")
        return scan.mask
    measured = acquired_samples(scan)
    if undersampling is not None:
        if _has_gaps(measured):
            raise InputError(f"{scan.name}: is undersampled already (bins are empty); leave out --mask-type")
        u = undersampling
        shape = (scan.kspace.shape[-2], scan.kspace.shape[-1])
        pattern = sampling_pattern(u.mask_type, shape, u.acceleration, u.center_fraction, seed_of(scan.name), u.axis)
        return _as_lines(pattern & encoded_lines(scan))
    if not measured.any():
        raise InputError(f"{scan.name}: k-space is zero everywhere; there is nothing to reconstruct from")
    if measured[..., encoded_lines(scan)].all():
        raise InputError(
            f"{scan.name}: k-space is complete and has no mask; add --mask-type to undersample it, or store its mask"
        )
    return measured


def _as_lines(pattern: np.ndarray) -> np.ndarray:
    """Take (W,) for a pattern (H, W) of whole lines along H."""
    return pattern[0] if (pattern == pattern[0]).all() else pattern
