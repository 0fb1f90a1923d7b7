"""What the network is made of: convolutions, residual blocks, latent normal distributions, folded band images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrihvae.model.bands import band_mask, grids, split
from mrihvae.physics.fourier import center_crop, ifft2c

LN2 = math.log(2.0)


@dataclass
class Gaussian:
    """A diagonal normal distribution over latents, `mu` and `sigma` of shape (slices, channels, h, w)."""

    mu: Tensor
    sigma: Tensor

    @classmethod
    def from_network(cls, output: Tensor) -> Gaussian:
        """Read mean and unbounded standard deviation; an output of 0 is the standard normal distribution."""
        mu, raw = output.float().chunk(2, dim=1)
        return cls(mu, functional.softplus(raw, beta=LN2).clamp_min(1e-3))

    def sample(self) -> Tensor:
        """Draw z with the reparameterization that lets gradients pass."""
        return self.mu + self.sigma * torch.randn_like(self.sigma)

    def detach(self) -> Gaussian:
        """Cut the gradient."""
        return Gaussian(self.mu.detach(), self.sigma.detach())

    def kl(self, other: Gaussian) -> Tensor:
        """Compute KL(self || other) in nats per element."""
        ratio = self.sigma / other.sigma
        return 0.5 * (((self.mu - other.mu) / other.sigma) ** 2 + ratio**2 - 1) - torch.log(ratio)


class Convolution(nn.Conv2d):
    """`torch.nn.Conv2d`, whose weight gradient is computed channels first where that is the faster.

    Without AVX-512, oneDNN computes the weight gradient of large maps more slowly channels last than channels first;
    all else is faster channels last (benchmarks/training_throughput.md).
    """

    def forward(self, maps: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        if learns and maps.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not _has_avx512():
            found: Tensor = _WeightGradientFirst.apply(maps, self.weight, self.bias, self.stride, self.padding)
            return found
        return super().forward(maps)


class _WeightGradientFirst(torch.autograd.Function):
    """A convolution whose weight gradient sees maps that are channels first in memory."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.form = stride, padding
        return functional.conv2d(maps, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        maps, weight = ctx.saved_tensors
        gradient, (stride, padding) = gradients[0], ctx.form

        def part(gradient: Tensor, maps: Tensor, weight: Tensor, wanted: int) -> Tensor:
            which = [number == wanted for number in range(3)]
            found: Tensor = torch.ops.aten.convolution_backward(
                gradient, maps, weight, None, stride, padding, (1, 1), False, (0, 0), 1, which
            )[wanted]
            return found

        of_maps = part(gradient, maps, weight, 0) if ctx.needs_input_grad[0] else None
        first = torch.contiguous_format
        rows, columns, kernel = (x.contiguous(memory_format=first) for x in (gradient, maps, weight))
        return of_maps, part(rows, columns, kernel, 1), gradient.sum(dim=(0, 2, 3)), None, None


@cache
def _has_avx512() -> bool:
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


def conv(channels: int, out: int, size: int, gain: float = 2.0**0.5) -> Convolution:
    """Return a convolution that keeps the grid, with zero bias and weights drawn so that variance grows by `gain`^2."""
    layer = Convolution(channels, out, size, padding=size // 2)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(channels * size**2))
    layer.bias = nn.Parameter(torch.zeros(out))
    return layer


class Block(nn.Module):
    """VDVAE's pre-activation bottleneck, 1x1, 3x3, 3x3, 1x1 with SiLU, beside a linear shortcut.

    The shortcut lets an image pass through latents linearly from the first step on, which starts the training.
    """

    def __init__(self, channels: int, inner: int, out: int, gain: float) -> None:
        super().__init__()
        self.reduce = conv(channels, inner, 1)
        self.first = conv(inner, inner, 3)
        self.second = conv(inner, inner, 3)
        self.expand = conv(inner, out, 1, gain)
        self.shortcut = conv(channels, out, 1, gain)

    def hidden(self, features: Tensor) -> Tensor:
        """Compute the input of the last convolution."""
        hidden = self.reduce(functional.silu(features))
        return functional.silu(self.second(functional.silu(self.first(functional.silu(hidden)))))

    def forward(self, features: Tensor) -> Tensor:
        mapped: Tensor = self.expand(self.hidden(features)) + self.shortcut(features)
        return mapped

    def parts(self, features: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Compute the first channels and the others as maps of their own, so that gradients of one stay out of them."""
        hidden = self.hidden(features)

        def part(channels: slice) -> Tensor:
            inputs = ((hidden, self.expand), (features, self.shortcut))
            expanded, added = (
                functional.conv2d(maps, layer.weight[channels], cast(Tensor, layer.bias)[channels])
                for maps, layer in inputs
            )
            return expanded + added

        return part(slice(first)), part(slice(first, None))


class Residual(nn.Module):
    """Two full-width 3x3 convolutions on a skip connection; `scale` shrinks the branch's last weights."""

    def __init__(self, channels: int, scale: float, normalize: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(channels // 16, channels) if normalize else nn.Identity()
        self.first = conv(channels, channels, 3)
        self.second = conv(channels, channels, 3, scale)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.first(functional.silu(self.norm(features)))
        branch: Tensor = self.second(functional.silu(hidden))
        return features + branch


class Head(nn.Module):
    """Features to the channels of one folded complex image: two convolutions beside a linear one."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.first = conv(width, width, 3)
        self.second = conv(width, out, 3, 0.3)
        self.shortcut = conv(width, out, 3, 0.5)

    def forward(self, state: Tensor) -> Tensor:
        image: Tensor = self.second(functional.silu(self.first(functional.silu(state)))) + self.shortcut(state)
        return image


def even(maps: Tensor) -> Tensor:
    """Repeat the last row and column of maps (slices, channels, h, w) where their number is odd."""
    odd = (maps.shape[-1] % 2, maps.shape[-2] % 2)
    return functional.pad(maps, (0, odd[0], 0, odd[1]), mode="replicate") if any(odd) else maps


def pointwise(layer: nn.Conv2d, maps: Tensor) -> Tensor:
    """Apply a 1 x 1 convolution as a matrix product: for one channel or few, torch's convolution is the slower."""
    mapped = functional.linear(maps.permute(0, 2, 3, 1), layer.weight[:, :, 0, 0], layer.bias)
    return mapped.permute(0, 3, 1, 2)


def band_size(j: int) -> float:
    """Return about the root-mean-square magnitude of band j's image in model units, by which bands are divided."""
    return 0.3 if j == 0 else 0.05


def band_images(kspace: Tensor, levels: int, hermitian: bool = False) -> list[Tensor]:
    """Compute the image of each band of k-space (..., H, W) on its level's grid, over `band_size`.

    Of Hermitian spectra it is that of the half that the grid holds, and complex.
    """
    shape = (kspace.shape[-2], kspace.shape[-1])
    bands = zip(split(kspace, levels, hermitian), grids(shape, levels))
    return [
        ifft2c(center_crop(h, grid)) * (grid_scale(grid, shape) / band_size(j)) for j, (h, grid) in enumerate(bands)
    ]


def grid_scale(grid: tuple[int, int], shape: tuple[int, int]) -> float:
    """Compute the factor that keeps intensities when the image of `shape` is seen on a coarser `grid`."""
    return math.sqrt(grid[0] * grid[1] / (shape[0] * shape[1]))


def fold_image(image: Tensor, fold: int) -> Tensor:
    """Turn complex (slices, [channels,] h, w) into real (slices, 2 channels fold^2, h / fold, w / fold).

    It is channels last in memory, as convolutions like it.
    """
    pair = torch.stack((image.real, image.imag), dim=1).flatten(1, -3)
    return functional.pixel_unshuffle(pair, fold).contiguous(memory_format=torch.channels_last)


def unfold_image(folded: Tensor, fold: int, channels: int | None = None) -> Tensor:
    """Undo `fold_image`: real (slices, 2 channels fold^2, h / fold, w / fold) to complex (slices, [channels,] h, w)."""
    pair = functional.pixel_shuffle(folded.float(), fold)
    if channels is not None:
        pair = pair.unflatten(1, (2, channels))
    return torch.complex(pair[:, 0].contiguous(), pair[:, 1].contiguous())


def band_coverage(mask: Tensor, levels: int) -> Tensor:
    """Compute which fraction of each band was acquired: bool mask (slices, H, W) to (slices, J + 1, 1, 1)."""
    shape = (mask.shape[-2], mask.shape[-1])
    fractions = []
    for j, grid in enumerate(grids(shape, levels)):
        band = band_mask(shape, levels, j).to(mask.device)
        fractions.append((center_crop(mask, grid) & band).float().sum(dim=(-2, -1)) / band.sum())
    return torch.stack(fractions, dim=1)[:, :, None, None]
