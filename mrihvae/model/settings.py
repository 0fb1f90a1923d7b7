"""Settings that fix the shape of the network and its likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mrihvae.errors import InputError

MOST, MOST_LEVELS = 4096, 16  # channels, layers and so on; levels


@dataclass(frozen=True)
class ModelSettings:
    """Settings of the network's shape and of its likelihood.

    Attributes
    ----------
    widths : channels of each level, coarsest first; their number is J + 1
    layers : K, stochastic layers per level: one number, or one a level, coarsest first
    latents : latent channels per pixel of the level's grid
    fold : pixels per side folded into channels
    noise_floor : s_0, the likelihood's standard deviation per complex k-space sample for a noise-free image, in model
        units
    separable : whether each level has a head for its own band; else all bands come from one head after the last level
        (the vanilla HVAE, the reference for the speed of refinement)
    real : whether images are real, (slices, channels, H, W), and their spectra Hermitian; then there is no r
    channels : of real images
    masked : whether there is r, for undersampled scans, or for degraded images if `degraded` is true
    degraded : whether r is for blurred, coarse, incomplete and noisy images (`mrihvae.pnp.degraded`)
    cascades : U-Nets that improve r's first guess; 0 leaves it at total variation
    guess_widths : channels of each scale of these U-Nets, finest first
    guess_memory : channels that each of them hands to the next
    guess_fold : pixels per side folded into channels in these U-Nets; 0 for `fold`
    guess_shared : whether one U-Net is applied `cascades` times
    start_share : share of the usual iterations of total variation that the first U-Net starts from
    any_size : whether grids of odd sizes are halved to the larger half, so that images need no padding; with `fold` 1
    """

    widths: tuple[int, ...] = (64, 96, 96, 64, 32)
    layers: int | tuple[int, ...] = 2
    latents: int = 1
    fold: int = 2
    noise_floor: float = 0.03
    separable: bool = True
    real: bool = False
    channels: int = 1
    masked: bool = True
    degraded: bool = False
    cascades: int = 3
    guess_widths: tuple[int, ...] = (64, 96, 128, 160)
    guess_memory: int = 16
    guess_fold: int = 0
    guess_shared: bool = False
    start_share: float = 1.0
    any_size: bool = False

    def __post_init__(self) -> None:
        for name, widths in (("widths", self.widths), ("guess_widths", self.guess_widths)):
            if not 0 < len(widths) <= MOST_LEVELS or any(not 16 <= width <= MOST or width % 16 for width in widths):
                raise InputError(f"{name} {widths} must be multiples of 16 up to {MOST}, one per level")
        if min(self.cascades, self.guess_memory) < 0 or len(self.guess_widths) > self.levels:
            raise InputError("cascades and guess_memory must be at least 0, and guess_widths no more than widths")
        if isinstance(self.layers, tuple) and len(self.layers) != self.levels:
            raise InputError(f"layers {self.layers} must be one number, or {self.levels}, one per level")
        if min(*(self.layers_at(j) for j in range(self.levels)), self.latents, self.fold) < 1:
            raise InputError("layers, latents and fold must be at least 1")
        if max(self.depth, self.latents, self.fold, self.cascades) > MOST:  # a damaged card would take all memory
            raise InputError(f"layers, latents, fold and cascades must be at most {MOST}")
        if self.guess_fold < 0 or not 0 < self.start_share <= 1:
            raise InputError("guess_fold must be at least 0, and start_share above 0 and at most 1")
        if self.degraded and self.guess_fold not in (0, self.fold):
            raise InputError(f"guess_fold {self.guess_fold} must be that of the network where degraded is true")
        if self.any_size and self.fold != 1:
            raise InputError(f"any_size takes fold 1, not {self.fold}")
        if self.channels < 1 or (self.channels > 1 and not self.real):
            raise InputError(f"channels {self.channels} must be at least 1, and 1 where images are not real")
        if self.degraded and not self.masked:
            raise InputError("degraded says what data r takes: masked must be true")
        if self.real and self.masked:
            raise InputError("real images have no masks: masked must be false")
        if not self.noise_floor > 0:
            raise InputError(f"noise_floor {self.noise_floor} must be above 0")

    @property
    def levels(self) -> int:
        """Number of levels, J + 1."""
        return len(self.widths)

    @property
    def depth(self) -> int:
        """Number of stochastic layers, L."""
        return sum(self.layers_at(j) for j in range(self.levels))

    def layers_at(self, j: int) -> int:
        """Number of stochastic layers of level j."""
        return self.layers[j] if isinstance(self.layers, tuple) else self.layers

    @property
    def image_channels(self) -> int:
        """Number of channels of a folded complex image."""
        return 2 * self.channels * self.fold**2

    @property
    def multiple(self) -> int:
        """Image sizes must be multiples of this."""
        if self.any_size:
            return max(self.guess_fold, 1) if self.masked and self.cascades else 1
        return math.lcm(self.fold * int(2 ** (self.levels - 1)), max(self.guess_fold, 1))
