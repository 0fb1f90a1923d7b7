"""The learned first guess: U-Nets in turn with data consistency, starting from a simple guess.

A deep cascade (Schlemper et al. 2018) whose U-Nets (Ronneberger et al. 2015) are given the image so far, that of the
data alone and the acquired fraction of each band, and hand a few channels of memory to the next. After each, the guess
is made consistent with the data, so that what aliases into the whole image is undone in k-space, not by the reach of
convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrihvae.model.layers import Convolution, Residual, conv, even, fold_image, unfold_image
from mrihvae.physics.fourier import fft2c, ifft2c

STEP = 0.1  # about the size of what the first U-Net has to change, in model units


class UNet(nn.Module):
    """A U-Net of one residual block a scale on either way; (slices, in_channels, h, w) to (slices, out, h, w)."""

    def __init__(self, in_channels: int, out: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = conv(in_channels, widths[0], 3, 1.0)
        self.encode = nn.ModuleList(Residual(width, 0.3, normalize=True) for width in widths)
        self.down = nn.ModuleList(Convolution(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(Convolution(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.decode = nn.ModuleList(Residual(width, 0.3, normalize=True) for width in widths[:-1])
        self.head = conv(widths[0], out, 3, 0.1)

    def forward(self, image: Tensor) -> Tensor:
        features, path = self.stem(image), []
        for encode, down in zip(self.encode, self.down):
            path.append(encode(features))
            features = down(even(path[-1]))
        features = self.encode[-1](features)
        for up, decode in zip(reversed(self.up), reversed(self.decode)):
            raised, same = functional.interpolate(up(features), scale_factor=2.0, mode="nearest"), path.pop()
            features = decode(raised[..., : same.shape[-2], : same.shape[-1]] + same)
        output: Tensor = self.head(functional.silu(features))
        return output


class Unrolled(nn.Module):
    """The cascade.

    Parameters
    ----------
    cascades : number of U-Nets; 0 leaves the guess as it is
    widths : channels of each scale of a U-Net, finest first
    memory : channels that a U-Net hands to the next
    fold : pixels per side folded into channels
    levels : number of bands, whose acquired fractions are inputs
    shared : whether it is one U-Net, applied `cascades` times
    """

    def __init__(
        self, cascades: int, widths: tuple[int, ...], memory: int, fold: int, levels: int, shared: bool = False
    ) -> None:
        super().__init__()
        self.fold, self.memory, self.cascades = fold, memory, cascades
        channels = 2 * fold**2
        self.nets = nn.ModuleList(
            UNet(2 * channels + levels + memory, channels + memory, widths)
            for _ in range(min(cascades, 1) if shared else cascades)
        )

    def forward(
        self, first: Tensor, data: Tensor, coverage: Tensor, make_consistent: Callable[[Tensor, int], Tensor]
    ) -> list[Tensor]:
        """Complete k-space.

        Parameters
        ----------
        first : the guess to begin with, complex (slices, H, W) in model units
        data : the same of the data alone
        coverage : fraction of each band that was acquired, (slices, J + 1, h, w) on the folded grid, h and w may be 1
        make_consistent : makes a guess agree with the data; its second argument is the number of the U-Net before, from
            0

        Returns
        -------
        complex (slices, H, W) before the first U-Net and after each
        """
        guesses = [first]
        data_image = fold_image(ifft2c(data), self.fold)
        slices, channels, height, width = data_image.shape
        planes = coverage.to(data_image.dtype).expand(-1, -1, height, width)
        memory = data_image.new_zeros(slices, self.memory, height, width)
        for number in range(self.cascades):
            net = self.nets[number % len(self.nets)]
            image = fold_image(ifft2c(guesses[-1]), self.fold)
            output = net(torch.cat((image, data_image, planes, memory), dim=1)).float()
            change, memory = output[:, :channels], output[:, channels:]
            guesses.append(make_consistent(guesses[-1] + fft2c(unfold_image(change, self.fold) * STEP), number))
        return guesses
