"""Calibration lines that stand beside a slice: of a scan of their own, or of the first of several repetitions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mrihvae.coils import mix_coils
from mrihvae.multicoil import CoilSettings, estimate_maps


class Calibration:
    """K-space of one slice from which the maps of others are estimated.

    Parameters
    ----------
    kspace : complex64 (coils, H, W), 0 where not measured
    mask : bool (W,) or (H, W)
    shared : whether several slices have it, so that its maps are worth keeping: those of the settings asked for last
    """

    def __init__(self, kspace: np.ndarray, mask: np.ndarray, shared: bool = False) -> None:
        self.kspace, self.mask, self.shared = kspace, mask, shared
        self._kept: tuple[object, Tensor] | None = None

    def maps(self, settings: CoilSettings, mixing: Tensor | None) -> Tensor:
        """Estimate the maps, complex64 (coils, H, W).

        Parameters
        ----------
        settings : how
        mixing : (virtual coils, coils), by which the coils of the slice were whitened and compressed, or None

        Raises
        ------
        InputError
            As `mrihvae.multicoil.estimate_maps`.
        """
        key = (settings, None if mixing is None else mixing.cpu().numpy().tobytes())
        if self._kept is not None and self._kept[0] == key:
            return self._kept[1]
        kspace = torch.from_numpy(self.kspace)
        if mixing is not None:
            kspace = mix_coils(kspace, mixing)
        maps = estimate_maps(kspace[None], torch.from_numpy(self.mask), settings)[0]
        if self.shared:
            self._kept = key, maps
        return maps
