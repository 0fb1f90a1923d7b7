"""Calibration lines that stand beside a slice: of a scan of their own, or of the first of several repetitions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Calibration:
    """K-space of one slice from which the maps of others are estimated.

    Attributes
    ----------
    kspace : complex64 (coils, H, W), 0 where not measured
    mask : bool (W,) or (H, W)
    shared : whether several slices have it, so that its maps are worth keeping
    """

    kspace: np.ndarray
    mask: np.ndarray
    shared: bool = False
