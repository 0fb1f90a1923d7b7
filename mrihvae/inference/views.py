"""Views of a scan: mirrored or conjugated, they are as likely as the scan itself."""

from __future__ import annotations

from torch import Tensor


def view(kspace: Tensor, number: int) -> Tensor:
    """Conjugate (bit 0 of `number`) and mirror (bits 1 and 2) k-space or a mask (..., H, W): its own inverse.

    A view of k-space is that of an image mirrored along W or H, or conjugated and turned by 180 degrees: the network
    has learned images in all of these orientations, and lines along H stay what they are.
    """
    if number & 1 and kspace.is_complex():
        kspace = kspace.conj().resolve_conj()
    for bit, axis in ((2, -1), (4, -2)):
        if number & bit:
            kspace = kspace.flip(axis).roll(1 - kspace.shape[axis] % 2, axis)  # zero frequency stays where it is
    return kspace
