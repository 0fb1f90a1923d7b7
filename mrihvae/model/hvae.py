"""The network: a hierarchical VAE whose decoder is linearly separable into frequency bands.

Top-down order (VDVAE, Child 2021): every level has K stochastic layers, p(z_l | z_<l), and a head that turns the
state into one complex image on the level's grid, where only the level's own band is kept (IA-HVAE, section 2).
The encoder is q(z_l | z_<l, x) for fully sampled images; `MeasurementPosterior` is r(z_l | z_<l, y, A) for undersampled
scans or for degraded images.
Everything is convolutional, so one set of weights takes every image size that is a multiple of
`ModelSettings.multiple`.

The grids are processed with `fold` x `fold` pixels folded into channels: a level of grid (h, w) computes at
(h / fold, w / fold). This makes the finest level, which else costs three quarters of everything, affordable.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrihvae.model.bands import band_mask, fill_hermitian, grids
from mrihvae.model.layers import (
    Block,
    Convolution,
    Gaussian,
    Head,
    Residual,
    band_coverage,
    band_images,
    band_size,
    conv,
    even,
    fold_image,
    grid_scale,
    pointwise,
    unfold_image,
)
from mrihvae.model.settings import ModelSettings
from mrihvae.model.unrolled import Unrolled
from mrihvae.physics.fourier import center_crop, fft2c, ifft2c
from mrihvae.physics.total_variation import ADMM_ITERATIONS, first_guess

CONFIDENT = -3.0  # posteriors begin with a standard deviation of 0.17: latents that carry the image train at once


class BottomUp(nn.Module):
    """Features of an image at every level, computed from the finest level down to the coarsest."""

    def __init__(self, settings: ModelSettings, in_channels: int) -> None:
        super().__init__()
        widths = settings.widths
        self.stem = conv(in_channels, widths[-1], 3, 1.0)
        self.blocks = nn.ModuleList(Residual(width, 0.3, normalize=True) for width in widths)
        self.down = nn.ModuleList(Convolution(fine, coarse, 2, stride=2) for coarse, fine in pairwise(widths))

    def forward(self, folded: Tensor) -> list[Tensor]:
        features = self.blocks[-1](self.stem(folded))
        path = [features]
        for block, down in zip(reversed(self.blocks[:-1]), reversed(self.down)):
            features = block(down(even(features)))
            path.append(features)
        return path[::-1]


class Posterior(nn.Module):
    """The full-data posterior q(z_l | z_<l, x), amortized."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        channels = settings.image_channels
        self.path = BottomUp(settings, channels)
        self.bands = nn.ModuleList(conv(channels, width, 3, 1.0) for width in settings.widths)
        self.layers = _posterior_blocks(settings)

    def features(self, kspace: Tensor) -> list[Tensor]:
        """Compute the features of full k-space (slices, H, W): one map (slices, width_j, ., .) a level.

        Beside the bottom-up features of the image each level sees its own band by itself, at the size of 1: a fine
        band is a tenth of the image and else drowns in it.
        """
        path = self.path(fold_image(ifft2c(kspace), self.settings.fold))
        bands = band_images(kspace, self.settings.levels, self.settings.real)
        return [
            features + conv(fold_image(band, self.settings.fold))
            for features, conv, band in zip(path, self.bands, bands)
        ]

    def forward(self, j: int, k: int, state: Tensor, features: Tensor) -> Gaussian:
        """Compute q for layer k of level j."""
        return Gaussian.from_network(_layer(self.layers, j, k)(torch.cat((state, features), dim=1)))


class MeasurementPosterior(nn.Module):
    """The measurement-conditioned posterior r(z_l | z_<l, y, A) (methods: posterior matching).

    Level j is given bottom-up features of a first guess of the image (`mrihvae.model.unrolled`) and of that of the data
    alone (zero-filled), their band j, and the image as far as it is known when level j begins: acquired samples, and
    below band j decoded ones where nothing was acquired. Training starts from q that takes the guess for the
    complete image.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        channels, widths = settings.image_channels, settings.widths
        self.guess = Unrolled(
            settings.cascades,
            settings.guess_widths,
            settings.guess_memory,
            settings.guess_fold or settings.fold,
            settings.levels,
            settings.guess_shared,
        )
        self.path = BottomUp(settings, 2 * channels + settings.levels)
        self.bands = nn.ModuleList(conv(2 * channels, width, 3, 1.0) for width in widths)
        self.known = nn.ModuleList(conv(channels, width, 3, 1.0) for width in widths)
        self.context = nn.ModuleList(conv(width, width, 1, 1.0) for width in widths)
        self.mix = nn.ModuleList(Residual(width, 0.3, normalize=True) for width in widths)
        self.layers = _posterior_blocks(settings)

    def guesses(self, measured: Tensor, mask: Tensor) -> list[Tensor]:
        """Complete k-space (slices, H, W) by total variation and by each U-Net; acquired samples stay as they are."""
        coverage = band_coverage(mask, self.settings.levels)
        first = first_guess(measured, mask, iterations=max(1, round(self.settings.start_share * ADMM_ITERATIONS)))
        return cast(
            list[Tensor],
            self.guess(first, measured, coverage, lambda k, _: torch.where(mask, measured, k)),
        )

    def features(self, guess: Tensor, data: Tensor, coverage: Tensor) -> list[Tensor]:
        """Compute the bottom-up features of a first guess and of the data.

        Parameters
        ----------
        guess, data : k-space of a guess, and of the data alone, complex (slices, H, W)
        coverage : fraction of each band that was acquired, (slices, J + 1, h, w) on the folded grid, h and w may be 1
        """
        fold, levels = self.settings.fold, self.settings.levels
        images = torch.cat([fold_image(ifft2c(k), fold) for k in (guess, data)], dim=1)
        planes = coverage.to(images.dtype).expand(-1, -1, *images.shape[-2:])
        path = self.path(torch.cat((images, planes), dim=1))
        pairs = zip(*(band_images(k, levels) for k in (guess, data)))
        bands = [torch.cat([fold_image(band, fold) for band in pair], dim=1) for pair in pairs]
        return [features + conv(band) for features, conv, band in zip(path, self.bands, bands)]

    def start_from(self, q: Posterior) -> None:
        """Copy q, applied to the first guess in place of the image; other inputs of r have no weight yet."""
        with torch.no_grad():
            for parameter in (*self.path.stem.parameters(), *self.bands.parameters(), *self.known.parameters()):
                parameter.zero_()
            for parameter in self.context.parameters():
                parameter.zero_()
            for mix in self.mix:
                cast(Residual, mix).second.weight.zero_()
            own = dict(self.named_parameters())
            for name, parameter in q.named_parameters():
                target = own[name] if parameter.ndim == 1 else own[name][:, : parameter.shape[1]]
                target.copy_(parameter)

    def level_features(self, j: int, state: Tensor, features: Tensor, known: Tensor) -> Tensor:
        """Combine state, bottom-up features and the image known so far, complex (slices, h_j, w_j)."""
        combined = self.known[j](fold_image(known, self.settings.fold)) + self.context[j](state) + features
        mixed: Tensor = self.mix[j](combined)
        return mixed

    def forward(self, j: int, k: int, state: Tensor, features: Tensor) -> Gaussian:
        """Compute r for layer k of level j."""
        return Gaussian.from_network(_layer(self.layers, j, k)(torch.cat((state, features), dim=1)))


class Layer(nn.Module):
    """One stochastic layer: the prior p(z | z_<l) and the way its latent enters the state."""

    def __init__(self, width: int, latents: int, scale: float) -> None:
        super().__init__()
        self.latents = latents
        self.prior = Block(width, width // 2, 2 * latents + width, 0.0)
        self.project = conv(latents, width, 1, 1.0)
        self.residual = Residual(width, scale, normalize=False)

    def prior_step(self, state: Tensor) -> tuple[Gaussian, Tensor]:
        """Compute the prior of z and the state with the prior's deterministic residual added."""
        prior, residual = self.prior.parts(state, 2 * self.latents)
        return Gaussian.from_network(prior), state + residual

    def forward(self, state: Tensor, z: Tensor) -> Tensor:
        """Add the latent to the state and process it."""
        merged: Tensor = self.residual(state + pointwise(self.project, z))
        return merged


class Level(nn.Module):
    """K layers on one grid and the head for the grid's band."""

    def __init__(self, settings: ModelSettings, j: int) -> None:
        super().__init__()
        width, fold = settings.widths[j], settings.fold
        scale = 1 / math.sqrt(settings.depth)
        self.enter = conv(settings.widths[max(j - 1, 0)], width, 1, 1.0)
        self.layers = nn.ModuleList(
            Layer(width, settings.latents * fold**2, scale) for _ in range(settings.layers_at(j))
        )
        if settings.separable or j == settings.levels - 1:
            self.head = Head(width, settings.image_channels)


class HVAE(nn.Module):
    """The hierarchical VAE with a linearly separable decoder and its two posteriors q and r.

    Prior and likelihood of k-space k = F x, whose bands h_j are those of the levels j = 0 .. J, are

        p(z) = prod_l N(z_l; mu_p(z_<l), sigma_p(z_<l)^2),    log p(k | z) = -sum |k - sum_j hhat_j(z)|^2 / s^2 + const,

    and training maximizes the evidence lower bound

        ELBO = E_q log p(k | z) - sum_l KL(q(z_l | z_<l, x) || p(z_l | z_<l)).

    r(z_l | z_<l, y, M) is the measurement-conditioned posterior: what q is for x, it is for undersampled data.

    Parameters
    ----------
    settings : see `mrihvae.model.ModelSettings`; None for the default ones

    Examples
    --------
    >>> import torch
    >>> from mrihvae.inference import generate
    >>> from mrihvae.model import HVAE, ModelSettings
    >>> _ = torch.manual_seed(0)
    >>> model = HVAE(ModelSettings(widths=(16, 16, 16), layers=1, cascades=0, guess_widths=(16,)))
    >>> drawn = generate(model, images=2, shape=(16, 16), seed=0)
    >>> [tuple(band.shape) for band in drawn.bands], drawn.kspace.shape
    ([(2, 4, 4), (2, 8, 8), (2, 16, 16)], torch.Size([2, 16, 16]))

    References
    ----------
    * "Iterative Amortized Hierarchical VAE" (IA-HVAE), https://doi.org/10.48550/arXiv.2601.15894
    * Child 2021 (VDVAE), https://doi.org/10.48550/arXiv.2011.10650
    """

    def __init__(self, settings: ModelSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or ModelSettings()
        self.start = nn.Parameter(torch.zeros(1, self.settings.widths[0], 1, 1))
        self.levels = nn.ModuleList(Level(self.settings, j) for j in range(self.settings.levels))
        self.q = Posterior(self.settings)
        if self.settings.masked:
            self.r = MeasurementPosterior(self.settings)

    def begin(self, slices: int, shape: tuple[int, int]) -> Tensor:
        """Return the state before level 0 for images of `shape`, (slices, width_0, h_0 / fold, w_0 / fold)."""
        if any(size % self.settings.multiple for size in shape):
            raise ValueError(f"image shape {shape} is not a multiple of {self.settings.multiple} on both axes")
        height, width = grids(shape, self.settings.levels)[0]
        fold = self.settings.fold
        return self.start.expand(slices, -1, height // fold, width // fold)

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """List the levels that share a head: each by itself, or all (IA-HVAE, eq. 5: the family of subsets Z_h)."""
        levels = range(self.settings.levels)
        return [(j,) for j in levels] if self.settings.separable else [tuple(levels)]

    def band(self, j: int, shape: tuple[int, int]) -> Tensor:
        """Mark the k-space samples that the head of level j computes, on their grid: bool (h_j, w_j)."""
        settings = self.settings
        return band_mask(shape, settings.levels, j, settings.real) if settings.separable else torch.ones(shape).bool()

    def layers(self, j: int) -> list[Layer]:
        """List the K stochastic layers of level j."""
        return cast(list[Layer], list(self.level(j).layers))

    def level(self, j: int) -> Level:
        """Return level j."""
        return cast(Level, self.levels[j])

    def to_device(self, device: torch.device | str) -> HVAE:
        """Move the weights to a device, channels last in memory as convolutions like it."""
        for parameter in self.parameters():
            form = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
            parameter.data = parameter.data.to(device=device).contiguous(memory_format=form)
        return self

    def upsample_state(self, j: int, state: Tensor, shape: tuple[int, int] | None = None) -> Tensor:
        """Carry the state of level j - 1 to the grid of level j; of images of `shape`, where grids may be odd.

        It is put channels last in memory, as convolutions like it: all maps of the level follow.
        """
        entered: Tensor = self.level(j).enter(state).contiguous(memory_format=torch.channels_last)
        if j == 0:
            return entered
        raised = functional.interpolate(entered, scale_factor=2.0, mode="nearest")
        if shape is not None and self.settings.any_size:
            height, width = grids(shape, self.settings.levels)[j]
            raised = raised[..., :height, :width].contiguous(memory_format=torch.channels_last)
        return raised

    def head(self, j: int, state: Tensor, shape: tuple[int, int]) -> Tensor:
        """Compute hhat_j, the k-space of band j on its grid, complex (slices, h_j, w_j) (IA-HVAE, eq. 5)."""
        settings = self.settings
        folded = self.level(j).head(state)
        image = unfold_image(folded, settings.fold, settings.channels if settings.real else None)
        grid = (image.shape[-2], image.shape[-1])
        scale = band_size(j if settings.separable else 0) / grid_scale(grid, shape)
        keep = self.band(j, shape).to(image.device)
        if settings.real:
            return scale * fill_hermitian(fft2c(image), (keep.shape[-2], keep.shape[-1]), keep)
        return fft2c(image) * (keep * scale)

    def known_image(self, j: int, known: Tensor) -> Tensor:
        """Compute the image of full-size k-space `known` (slices, H, W) on the grid of level j."""
        shape = (known.shape[-2], known.shape[-1])
        grid = grids(shape, self.settings.levels)[j]
        return ifft2c(center_crop(known, grid)) * grid_scale(grid, shape)

    def prior_parameters(self) -> list[nn.Parameter]:
        """List the parameters of decoder, prior and q: all that no mask affects."""
        return [p for name, p in self.named_parameters() if not name.startswith("r.")]

    def masked_parameters(self) -> list[nn.Parameter]:
        """List the parameters of r; none if there is none."""
        return list(self.r.parameters()) if self.settings.masked else []


def _layer(blocks: nn.ModuleList, j: int, k: int) -> nn.Module:
    """Return the block of layer k of level j."""
    return cast(nn.ModuleList, blocks[j])[k]


def _posterior_blocks(settings: ModelSettings) -> nn.ModuleList:
    """Return the blocks that compute the posterior of each layer from (state, features)."""
    latents = settings.latents * settings.fold**2
    blocks = nn.ModuleList(
        nn.ModuleList(Block(2 * width, width // 2, 2 * latents, 0.7) for _ in range(settings.layers_at(j)))
        for j, width in enumerate(settings.widths)
    )
    for level in blocks:
        for block in level:  # type: ignore[attr-defined]
            with torch.no_grad():
                block.expand.weight[latents:] *= 0.2
                block.shortcut.weight[latents:] *= 0.2
                block.expand.bias[latents:] = CONFIDENT
    return blocks
