"""What is taken from k-space before inference because it is arbitrary, and given back to images: unit and shift.

Scanners and converters store k-space in units of their own, and some with its peak off the center. Neither should
matter. The unit is a power of two, so that dividing by it changes no digit. A cyclic shift of k-space, and of its mask,
is a linear phase of the image, and changes no magnitude.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrihvae.data.inspection import Inspection, inspect_kspace
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.utils.notices import warn

LEAST, MOST = 2.0**-20, 2.0**30  # magnitudes of the strongest sample, between which units stay as they are
MIN_SHIFT = 4  # samples of the peak from the center of k-space along H; fewer cost less than 0.1 dB
MIN_SHIFT_LINES = 2  # the same along W, where the calibration region lies askew


@dataclass(frozen=True)
class Normalization:
    """Unit and shift of a scan's k-space.

    Attributes
    ----------
    unit : a power of two, about the magnitude of the strongest sample; 1 where that is of ordinary size
    shift : (h, w), samples from [H // 2, W // 2] to the peak that is moved there
    size : (H, W) of k-space
    """

    unit: float
    shift: tuple[int, int]
    size: tuple[int, int]

    def center(self, samples: Tensor) -> Tensor:
        """Move the peak of k-space, or of what was acquired of it, (..., H, W) or (W,), to the center."""
        shift = self.shift[2 - samples.ndim :] if samples.ndim < 2 else self.shift
        if not any(shift):
            return samples
        return samples.roll([-offset for offset in shift], list(range(-len(shift), 0)))

    def apply(self, kspace: Tensor) -> Tensor:
        """Normalize k-space (..., H, W)."""
        parts = torch.view_as_real(self.center(kspace).resolve_conj())
        return torch.view_as_complex(parts / self.unit)  # a complex division, of torch 2.6, changes digits

    def restore(self, image: Tensor) -> Tensor:
        """Give unit and linear phase back to complex images (..., h, W), of the field of view or less of it along H."""
        image = image * self.unit
        for axis, (offset, size) in enumerate(zip(self.shift, self.size, strict=True), -2):
            if offset:
                places = torch.arange(image.shape[axis], device=image.device) - image.shape[axis] // 2
                phase = 2 * math.pi * offset / size * places
                ramp = torch.polar(torch.ones_like(phase), phase)
                image = image * (ramp[:, None] if axis == -2 else ramp)
        return image


def find_normalization(scan: Scan, mask: np.ndarray, quiet: bool = False) -> Normalization:
    """Find unit and shift of a scan's k-space, and refuse or warn of what is wrong with it.

    Parameters
    ----------
    scan : as its reader made it
    mask : bool (W,) or (H, W), what was acquired
    quiet : neither refuse nor warn

    Raises
    ------
    InputError
        K-space that cannot be right (`mrihvae.data.inspection`).
    """
    height, width = scan.kspace.shape[-2:]
    inspection = inspect_kspace(scan, mask)
    centered = _has_center(mask, (height, width), inspection.shift)
    shift = shift_of(inspection) if centered else (0, 0)  # without the center another sample is the strongest
    if not quiet:
        _report(scan, inspection, centered)
    return Normalization(unit_of(inspection.largest), shift, (height, width))


def unit_of(largest: float) -> float:
    """Return the power of two next above a magnitude; 1 for 0, and where single precision holds what is made of it."""
    return 1.0 if largest == 0 or LEAST <= largest <= MOST else math.ldexp(1.0, math.frexp(largest)[1])


def shift_of(inspection: Inspection) -> tuple[int, int]:
    """Choose by how much the peak is moved: not at all where it is next to the center."""
    along_h, along_w = inspection.shift
    return (along_h if abs(along_h) >= MIN_SHIFT else 0, along_w if abs(along_w) >= MIN_SHIFT_LINES else 0)


def _report(scan: Scan, inspection: Inspection, centered: bool) -> None:
    """Refuse or warn of what an inspection found."""
    if not centered:
        warn("the center of k-space was not acquired: contrast is not reliable")
    if inspection.refusal:
        raise InputError(f"{scan.name}: {inspection.refusal}")
    for text in inspection.warnings:
        warn(text)
    if not centered:
        return
    for axis, offset in zip("HW", shift_of(inspection), strict=True):
        if offset:
            warn(
                f"the strongest sample lies {offset} samples from the center of k-space along {axis}; it was moved to "
                "the center for inference, and back"
            )


def _has_center(mask: np.ndarray, shape: tuple[int, int], shift: tuple[int, int]) -> bool:
    """Return whether the sample at DC was acquired, or the peak, `shift` from there, with all its neighbors.

    Where the center of k-space is missing, the strongest sample lies at the edge of the gap.
    """
    h, w = shape[0] // 2, shape[1] // 2
    acquired = np.broadcast_to(mask, shape)
    around = np.roll(acquired, (1 - h - shift[0], 1 - w - shift[1]), (0, 1))[:3, :3]
    return bool(acquired[h, w]) or (any(shift) and bool(around.all()))
