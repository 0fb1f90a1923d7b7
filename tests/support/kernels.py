"""Kernels, masks and images for tests of operators, drawn with fixed seeds."""

from __future__ import annotations

import torch


def kernels(batched: bool) -> torch.Tensor:
    """Make kernels of 5 x 3 without any symmetry, of sum 1: (5, 3), or two of them (2, 5, 3)."""
    kernel = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(3)) ** 2
    kernel = kernel / kernel.sum(dim=(-2, -1), keepdim=True)
    return kernel if batched else kernel[0]


def known(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(4)) < 0.6


def normal_numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def wider(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.complex128 if values.is_complex() else torch.float64)
