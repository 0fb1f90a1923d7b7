"""The posterior of degraded images, r(z_l | z_<l, y, A), for any linear operator A.

It is to degraded images what `mrihvae.inference.reconstruct` is to undersampled scans. The image is surrounded by its
own reflection up to a size that the network takes; the first guess is made consistent with the data by exact proximal
steps (`mrihvae.physics.operators`), so one network serves every operator; and r is given, pixel by pixel, how much the
data determine each band.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrihvae.inference.encoders import MeasurementEncoder
from mrihvae.inference.latents import infer
from mrihvae.inference.settings import RefinementSettings
from mrihvae.model.bands import band_mask
from mrihvae.model.hvae import HVAE
from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.fourier import center_pad, fft2c, ifft2c

DETAIL = 0.05  # about the size of detail, in model units: noise of this standard deviation halves what data say
BEGINNING = 0.1  # gamma, about the error of the image to begin with; it keeps the noise in its bounds
AFTER = (0.05, 0.03)  # the same after each U-Net; after further ones it is the last
VIEWS = (0, 6, 2, 4, 1, 7, 3, 5)  # in this order; bit 0 conjugates, 1 and 2 mirror; of real images four differ


class ReflectionPadding:
    """Images (slices, H, W) in model units, padded by reflection to the network's grid, and back.

    Parameters
    ----------
    model : the network
    shape : (H, W)
    real : whether images are real
    view : which of `VIEWS` of the image the network sees
    """

    def __init__(self, model: HVAE, shape: tuple[int, int], real: bool, view: int = 0) -> None:
        self.shape, self.real, self.view = shape, real, view
        multiple = model.settings.multiple
        self.padded = tuple(-(-size // multiple) * multiple for size in shape)
        self.margins = [(want - size) // 2 for want, size in zip(self.padded, shape)]
        self.indices = [_reflection(size, want, at) for size, want, at in zip(shape, self.padded, self.margins)]

    def mirror(self, values: Tensor) -> Tensor:
        """Mirror, and conjugate complex values; its own inverse."""
        axes = [axis for bit, axis in ((2, -1), (4, -2)) if self.view & bit]
        values = values.flip(axes) if axes else values
        return values.conj().resolve_conj() if self.view & 1 and values.is_complex() else values

    def pad_and_mirror(self, values: Tensor) -> Tensor:
        """Pad (..., H, W) with its reflection, and mirror it."""
        rows, columns = (index.to(values.device) for index in self.indices)
        return self.mirror(values[..., rows[:, None], columns])

    def kspace(self, image: Tensor) -> Tensor:
        """Return the network's k-space of an image."""
        return fft2c(self.pad_and_mirror(image.to(torch.complex64)))

    def image(self, kspace: Tensor) -> Tensor:
        """Return the image of the network's k-space."""
        (top, left), (height, width) = self.margins, self.shape
        image = self.mirror(ifft2c(kspace))[..., top : top + height, left : left + width]
        return image.real if self.real else image


class DegradedPosterior:
    """The measurement-conditioned posterior r of degraded images with Gaussian noise.

    It is given the image of the data alone, and how much they determine each band.

    Parameters
    ----------
    model : with r for degraded images (`ModelSettings.degraded`)
    term : the data, in model units
    view : see `ReflectionPadding`
    first : what `LeastSquares.first_image` gives, if it is there already
    """

    def __init__(self, model: HVAE, term: LeastSquares, view: int = 0, first: Tensor | None = None) -> None:
        self.model, self.term = model, term
        self.first = term.first_image() if first is None else first
        self.frame = ReflectionPadding(model, (self.first.shape[-2], self.first.shape[-1]), term.real, view)
        self.data_kspace = self.kspace(self.first)
        self.data_coverage = data_coverage(term, self.frame, model.settings.levels, model.settings.fold)

    def kspace(self, image: Tensor) -> Tensor:
        """Return the network's k-space of an image."""
        return self.frame.kspace(image)

    def image(self, kspace: Tensor) -> Tensor:
        """Return the image of the network's k-space."""
        return self.frame.image(kspace)

    def guesses(self) -> list[Tensor]:
        """Compute guesses, k-space: after the first proximal step, and after each U-Net."""

        def consistent(kspace: Tensor, number: int) -> Tensor:
            gamma = AFTER[min(number, len(AFTER) - 1)]
            return self.kspace(self.term.prox(self.image(kspace), gamma))

        first_kspace = self.kspace(self.term.prox(self.first, BEGINNING))
        found: list[Tensor] = self.model.r.guess(first_kspace, self.data_kspace, self.data_coverage, consistent)
        return found

    def encoder(self, kspace: Tensor) -> MeasurementEncoder:
        """Return r of a guess, k-space (slices, H, W)."""
        return MeasurementEncoder(self.model, kspace, self.data_kspace, self.data_coverage)

    def known_bins(self, kspace: Tensor, gamma: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Return no known k-space: r is given what its own coarser levels decode to, and latents are not refined."""
        nothing, nowhere = torch.zeros_like(kspace), torch.zeros_like(kspace, dtype=torch.bool)
        return nothing, nowhere, kspace.abs().new_full((len(kspace),), gamma)

    def decode_means(self, guess: Tensor) -> Tensor:
        """Decode r's means: k-space of the amortized restoration."""
        return infer(self.model, self.encoder(guess), *self.known_bins(guess), RefinementSettings(sweeps=0)).kspace


def data_coverage(term: LeastSquares, frame: ReflectionPadding, levels: int, fold: int) -> Tensor:
    """Compute how much the data determine each band at each pixel, from 0 to 1, on the network's folded grid.

    The operator's gain g over g + (sigma / `DETAIL`)^2, as of Wiener's filter; averaged over a band's frequencies.

    Returns
    -------
    (slices, J + 1, h, w), h and w may be 1
    """
    pixel, frequency = (gain.to(term.noise) for gain in term.operator.gains(frame.shape))
    least = (term.noise[:, None, None] / DETAIL) ** 2
    kept = (frequency / (frequency + least.clamp_min(1e-9))).expand(-1, *frame.shape)
    bands = [center_pad(band_mask(frame.shape, levels, j), frame.shape, value=False) for j in range(levels)]
    means = [kept[:, band.to(kept.device)].mean(dim=1) for band in bands]
    known = pixel.expand(len(term.noise), -1, -1)
    if known.shape[-2:] != (1, 1):
        known = torch.nn.functional.avg_pool2d(frame.pad_and_mirror(known.expand(-1, *frame.shape)), fold)
    return torch.stack(means, dim=1)[:, :, None, None] * known[:, None]


def _reflection(size: int, want: int, before: int) -> Tensor:
    """List which of `size` pixels stands at each of `want` places, the first of them at place `before`."""
    period = max(2 * size - 2, 1)
    place = (torch.arange(want) - before).remainder(period)
    return torch.minimum(place, period - place) if size > 1 else torch.zeros(want, dtype=torch.long)
