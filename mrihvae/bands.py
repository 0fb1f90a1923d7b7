"""Frequency bands: the linear separation `B` of the IA-HVAE decoder (IA-HVAE, section 2.2, eq. 5).

Level j = 0..J has the grid `ceil(H / 2^(J-j)) x ceil(W / 2^(J-j))`. Band j holds the centred frequencies that
fit the grid of level j and not that of level j-1; band 0 is all of the coarsest grid. The bands partition
k-space: every bin is in exactly one.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from mrihvae.fourier import centre_crop, centre_pad


def grids(shape: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """List the grid (h_j, w_j) of every level, coarsest first; the last one is `shape`."""
    height, width = shape
    steps = [2 ** (levels - 1 - j) for j in range(levels)]
    return [(-(-height // step), -(-width // step)) for step in steps]


@lru_cache(maxsize=64)
def band_mask(shape: tuple[int, int], levels: int, j: int) -> Tensor:
    """Mark, on the grid of level j, the bins of band j: bool (h_j, w_j). Do not write to it: it is cached."""
    sizes = grids(shape, levels)
    if j == 0:
        return torch.ones(sizes[0], dtype=torch.bool)
    return ~centre_pad(torch.ones(sizes[j - 1], dtype=torch.bool), sizes[j], value=False)


def split(kspace: Tensor, levels: int) -> list[Tensor]:
    """Compute h = B^-1 k: the bins of each band on its own grid, zero elsewhere.

    Parameters
    ----------
    kspace : complex (..., H, W), centred
    levels : number of levels, J + 1

    Returns
    -------
    list of complex (..., h_j, w_j), coarsest first
    """
    shape = (kspace.shape[-2], kspace.shape[-1])
    bands = []
    for j, grid in enumerate(grids(shape, levels)):
        keep = band_mask(shape, levels, j).to(kspace.device)
        bands.append(torch.where(keep, centre_crop(kspace, grid), torch.zeros((), dtype=kspace.dtype)))
    return bands


def merge(bands: list[Tensor]) -> Tensor:
    """Compute k = B h in k-space: pad every band to the finest grid and add. Inverse of `split`."""
    shape = (bands[-1].shape[-2], bands[-1].shape[-1])
    total = bands[-1]
    for band in bands[:-1]:
        total = total + centre_pad(band, shape)
    return total
