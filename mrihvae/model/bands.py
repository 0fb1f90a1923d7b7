"""Frequency bands: the linear separation `B` of the IA-HVAE decoder (IA-HVAE, section 2.2, eq. 5).

Level j = 0..J has the grid `ceil(H / 2^(J-j)) x ceil(W / 2^(J-j))`. Band j holds the centered frequencies that
fit the grid of level j and not that of level j-1; band 0 is all of the coarsest grid. The bands partition
k-space: every bin is in exactly one.

The spectrum of a real image is Hermitian, so half of it tells all (IA-HVAE, section 2.2): a bin belongs to the lowest
level that holds it or its conjugate. As the grid of an even size holds -h/2 and not h/2, such a band reaches beyond its
level's grid, to that of the next level.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from mrihvae.physics.fourier import apply_mask, center_crop, center_pad


def grids(shape: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """List the grid (h_j, w_j) of every level, coarsest first; the last one is `shape`."""
    height, width = shape
    steps = [2 ** (levels - 1 - j) for j in range(levels)]
    return [(-(-height // step), -(-width // step)) for step in steps]


def band_grid(shape: tuple[int, int], levels: int, j: int, hermitian: bool = False) -> tuple[int, int]:
    """Return the grid that holds band j: that of level j, or of the next one where spectra are Hermitian."""
    return grids(shape, levels)[min(j + int(hermitian), levels - 1)]


@lru_cache(maxsize=64)
def band_mask(shape: tuple[int, int], levels: int, j: int, hermitian: bool = False) -> Tensor:
    """Mark, on the band's grid, the k-space samples of band j: bool (h_j, w_j). Do not write to it: it is cached."""
    sizes = grids(shape, levels)
    if hermitian:
        inside = [_reachable(shape, size) for size in sizes[max(j - 1, 0) : j + 1]]
        return center_crop(inside[-1] & ~inside[0] if j else inside[0], band_grid(shape, levels, j, True)).contiguous()
    if j == 0:
        return torch.ones(sizes[0], dtype=torch.bool)
    return ~center_pad(torch.ones(sizes[j - 1], dtype=torch.bool), sizes[j], value=False)


def band_on_grid(shape: tuple[int, int], levels: int, j: int) -> Tensor:
    """Mark the k-space samples of band j on the whole grid: bool (H, W)."""
    return center_pad(band_mask(shape, levels, j), shape, value=False)


def _reachable(shape: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Mark the bins of a spectrum of `shape` that a centered grid holds, or whose conjugates it holds."""
    held = center_pad(torch.ones(grid, dtype=torch.bool), shape, value=False)
    return held | mirror(held)


def mirror(spectrum: Tensor) -> Tensor:
    """Move every k-space sample (..., H, W) to the place of its conjugate, -f."""
    for axis in (-2, -1):
        spectrum = spectrum.flip(axis).roll(1 - spectrum.shape[axis] % 2, axis)  # zero frequency stays where it is
    return spectrum


def fill_hermitian(bins: Tensor, grid: tuple[int, int], keep: Tensor) -> Tensor:
    """Complete the prediction of a band by conjugates, so that its image is real (IA-HVAE, section 2.2).

    Parameters
    ----------
    bins : complex (..., h, w), as predicted on a level's grid
    grid : of the band, which holds their conjugates, too
    keep : bool (*grid), the bins of the band; where both of a pair are predicted, their mean counts

    Returns
    -------
    complex (..., *grid)
    """
    there = center_pad(torch.ones(bins.shape[-2:], dtype=torch.bool, device=bins.device), grid, value=False) & keep
    placed = apply_mask(center_pad(bins, grid), there)
    return (placed + mirror(placed).conj()) / (there.int() + mirror(there).int()).clamp_min(1)


def split(kspace: Tensor, levels: int, hermitian: bool = False) -> list[Tensor]:
    """Compute h = B^-1 k: the bins of each band on its own grid, zero elsewhere.

    Parameters
    ----------
    kspace : complex (..., H, W), centered
    levels : number of levels, J + 1
    hermitian : whether it is the spectrum of real images

    Returns
    -------
    list of complex (..., h_j, w_j), coarsest first
    """
    shape = (kspace.shape[-2], kspace.shape[-1])
    bands = []
    for j in range(levels):
        keep = band_mask(shape, levels, j, hermitian).to(kspace.device)
        cropped = center_crop(kspace, band_grid(shape, levels, j, hermitian))
        bands.append(apply_mask(cropped, keep))
    return bands


def merge(bands: list[Tensor]) -> Tensor:
    """Compute k = B h in k-space: pad every band to the finest grid and add. Inverse of `split`."""
    shape = (bands[-1].shape[-2], bands[-1].shape[-1])
    total = bands[-1]
    for band in bands[:-1]:
        total = total + center_pad(band, shape)
    return total
