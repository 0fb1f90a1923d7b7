"""Scans for training: magnitude images and raw k-space become batches of complex scans with masks and noise.

A magnitude image has no phase, no noise and often hidden interpolation ("data crimes", Shimron et al. 2022). So
each use of one draws phase (`mrihvae.simulation.phases`), receive bias, contrast, orientation, field of view and
resolution (`mrihvae.training.augmentation`) anew, resampled by cropping k-space, and adds complex white noise. Raw
k-space keeps its own phase and noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.physics.fastmri_masks import MASK_TYPES
from mrihvae.physics.fourier import apply_mask, center_pad, fft2c, ifft2c, resize_kspace
from mrihvae.physics.noise import noise_std
from mrihvae.physics.sampling import sampling_pattern
from mrihvae.physics.scaling import kspace_scale
from mrihvae.simulation.phases import add_phase, smooth_field
from mrihvae.training.augmentation import bright_tissue, cut_out, decay, random_tone, reorient, resampled_size, rotate
from mrihvae.training.batches import Scans

# what masks are drawn; "density" is a fast stand-in for Poisson discs: independent of sigpy, of the same look
MASK_SHARES = {
    "random": 0.36,
    "equispaced_fraction": 0.18,
    "equispaced": 0.06,
    "magic": 0.03,
    "magic_fraction": 0.07,
    "partial_fourier": 0.05,
    "center": 0.05,
    "density": 0.1,
    "radial": 0.05,
    "spiral": 0.05,
}
EMPTY = (10.0, 400.0)  # noise of slices without signal, over what `noise` draws
PARTIAL_SHARE = 0.08  # of fastMRI's masks have one side of k-space cut off, along either axis


@dataclass(frozen=True)
class SimulationSettings:
    """Settings of the scans that are simulated for training: ranges that they are drawn from.

    Attributes
    ----------
    max_acceleration : whole accelerations are drawn up to this, evenly in their logarithm from `least_acceleration` on
    least_acceleration : smallest one; a draw that is rounded to 1 is a fully sampled scan
    tissue_phase : greatest difference in phase, in radians, between bright and dark tissue, such as fat and water have;
        0 for phases that are smooth everywhere
    physical_phase : probability that the phase is that of a scanner's field, of fat and coils
        (`mrihvae.simulation.phases`); otherwise it is a smooth random one, with `tissue_phase`
    noise : least and greatest noise per complex k-space sample over the image's 99th percentile, drawn evenly in its
        logarithm
    extra_noise : greatest noise added to acquired samples alone, in half of the scans
    rotation : greatest rotation in degrees, in a third of the scans
    partial_resolution : probability that the outermost k-space is empty, as in a scan padded to the network's multiple
    coils : least and greatest number of coils, drawn evenly in the logarithm; (1, 1) for scans of one coil
    one_coil : fraction of single-coil batches, where `coils` allows several; the others then have two or more
    masks : types of masks, of `MASK_SHARES`, with equal probability; empty for all, by their shares
    fill : least and greatest fraction of the field of view that the object fills; beyond 1 it is cut off
    anisotropy : greatest log-factor by which the field of view is stretched along one axis and shrunk along the other
    tone : probability that the contrast is changed by a random curve
    inversion : fraction of these in which dark tissue becomes bright; the background stays dark
    blur : probability that k-space decays away from its center, as along a train of echoes
    empty : probability of a slice that is noise, with little or no signal
    """

    max_acceleration: float = 12.0
    noise: tuple[float, float] = (0.002, 0.05)
    extra_noise: float = 0.05
    rotation: float = 15.0
    partial_resolution: float = 0.3
    coils: tuple[int, int] = (1, 1)
    one_coil: float = 0.0
    masks: tuple[str, ...] = ()
    least_acceleration: float = 1.3
    tissue_phase: float = 0.0
    physical_phase: float = 0.0
    fill: tuple[float, float] = (0.6, 1.0)
    anisotropy: float = 0.12
    tone: float = 0.0
    inversion: float = 0.0
    blur: float = 0.0
    empty: float = 0.0

    @property
    def several(self) -> bool:
        """Whether scans are of several coils."""
        return self.coils[1] > 1

    @property
    def multicoil_only(self) -> bool:
        """Whether no batch is single-coil; prior, decoder and q learn from single-coil batches alone."""
        return self.several and self.one_coil == 0

    def __post_init__(self) -> None:
        if not 1 <= self.least_acceleration <= self.max_acceleration:
            raise InputError(
                f"max_acceleration {self.max_acceleration} must be at least least_acceleration, "
                f"{self.least_acceleration}, and that at least 1"
            )
        if len(self.noise) != 2 or not 0 < self.noise[0] <= self.noise[1]:
            raise InputError(f"noise {self.noise} must be two numbers above 0, the smaller one first")
        least_0 = ("extra_noise", "rotation", "tissue_phase", "anisotropy")
        probabilities = ("partial_resolution", "physical_phase", "tone", "inversion", "blur", "empty", "one_coil")
        if any(getattr(self, name) < 0 for name in least_0):
            raise InputError(f"{', '.join(least_0[:-1])} and {least_0[-1]} must be at least 0")
        if any(not 0 <= getattr(self, name) <= 1 for name in probabilities):
            raise InputError(f"{', '.join(probabilities[:-1])} and {probabilities[-1]} must be in [0, 1]")
        if len(self.fill) != 2 or not 0 < self.fill[0] <= self.fill[1]:
            raise InputError(f"fill {self.fill} must be two numbers above 0, the smaller one first")
        if unknown := set(self.masks) - set(MASK_SHARES):
            raise InputError(f"masks: {', '.join(sorted(unknown))} unknown; choose of {', '.join(MASK_SHARES)}")
        if len(self.coils) != 2 or not 1 <= self.coils[0] <= self.coils[1]:
            raise InputError(f"coils {self.coils} must be two numbers of at least 1, the smaller one first")


def draw_batch(
    images: list[tuple[np.ndarray, bool]],
    shape: tuple[int, int],
    settings: SimulationSettings,
    rng: Generator,
) -> Scans:
    """Return fully sampled scans and their undersampled acquisition, drawn at random, in model units.

    Parameters
    ----------
    images : arrays (h, w): real magnitude, or complex raw k-space where the flag beside it is True
    shape : (H, W) of the batch
    settings : ranges that are drawn from
    rng : every random choice comes from it, so equal generators give equal batches

    Returns
    -------
    see `mrihvae.training.Scans`, complex (slices, H, W)
    """
    scans = [_draw_scan(array, raw, shape, settings, rng) for array, raw in images]
    kspace = torch.stack([scan[0] for scan in scans])
    measured = torch.stack([scan[1] for scan in scans])
    mask = torch.stack([scan[2] for scan in scans])
    noise = torch.tensor([scan[3] for scan in scans])
    scale = kspace_scale(measured)
    scaled = (kspace / scale[:, None, None], measured / scale[:, None, None])
    return Scans.of_one_coil(*scaled, mask, noise / scale)


def draw_real(images: list[tuple[np.ndarray, bool]], shape: tuple[int, int]) -> Scans:
    """Compute full, noise-free spectra of real images.

    Parameters
    ----------
    images : arrays (channels, h, w) in 0..255, at most as large as the batch; the flag beside them is of no account
    shape : (H, W) of the batch; zeros surround smaller images

    Returns
    -------
    Scans, complex (slices, channels, H, W), of images in 0..1
    """
    stack = torch.stack([center_pad(torch.from_numpy(array.astype(np.float32)) / 255, shape) for array, _ in images])
    kspace = fft2c(stack.to(torch.complex64))
    return Scans.of_one_coil(kspace, kspace, torch.ones(kspace.shape, dtype=torch.bool), torch.zeros(len(kspace)))


def _draw_scan(
    array: np.ndarray, raw: bool, shape: tuple[int, int], settings: SimulationSettings, rng: Generator
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Draw one scan: full k-space, acquired k-space, mask (all (H, W)) and the noise of the full one."""
    kspace, extent, noise = (
        fit_to_matrix(torch.from_numpy(array), shape, rng) if raw else simulate_scan(array, shape, settings, rng)
    )
    mask = center_pad(draw_mask(extent, settings, rng), shape, value=True)
    measured = apply_mask(kspace, mask)
    if rng.random() < 0.5:
        peak = percentile99(ifft2c(kspace))
        extra = peak * settings.extra_noise * rng.random()
        window = center_pad(torch.ones(extent), shape)
        measured = measured + extra * white_noise(shape, rng) * mask * window
    return kspace, measured, mask, noise


def simulate_scan(
    magnitude: np.ndarray, shape: tuple[int, int], settings: SimulationSettings, rng: Generator
) -> tuple[Tensor, tuple[int, int], float]:
    """Turn a magnitude image into a complex scan on (H, W): k-space, its non-empty extent, its noise."""
    image = torch.from_numpy(reorient(np.asarray(magnitude, dtype=np.float32), rng))
    image = (image / image.max().clamp_min(1e-12)).clamp_min(0)  # resampled volumes undershoot
    rotated = rng.random() < 1 / 3
    if rotated:
        image = rotate(image, math.radians(rng.uniform(-settings.rotation, settings.rotation)))
    image = _with_contrast(image, settings, rng)
    complex_image = with_phase(image, settings, rng)
    bright = image > 0.1 * percentile99(image)
    sizes, center = resampled_size(bright, shape, 0.9 if rotated else 1.0, settings.fill, settings.anisotropy, rng)
    resampled = ifft2c(resize_kspace(fft2c(complex_image), sizes))
    kspace = fft2c(cut_out(resampled, shape, center))
    if _happens(settings.blur, rng):
        kspace = kspace * decay(shape, rng)
    extent = shape
    if rng.random() < settings.partial_resolution:
        extent = tuple(size - int(rng.integers(0, min(32, size // 4))) for size in shape)  # type: ignore[assignment]
        kspace = resize_kspace(resize_kspace(kspace, extent), shape)
    noise = draw_noise(ifft2c(kspace), settings, rng)
    window = center_pad(torch.ones(extent), shape)
    return kspace + noise * window * white_noise(shape, rng), extent, noise


def draw_noise(image: Tensor, settings: SimulationSettings, rng: Generator) -> float:
    """Draw the noise per complex bin of a scan, given its image (H, W); some scans are little else."""
    noise = percentile99(image) * math.exp(rng.uniform(*np.log(settings.noise)))
    return noise * math.exp(rng.uniform(*np.log(EMPTY))) if _happens(settings.empty, rng) else noise


def _with_contrast(image: Tensor, settings: SimulationSettings, rng: Generator) -> Tensor:
    """Change contrast and receive bias of an image (h, w) in 0..1."""
    if _happens(settings.tone, rng):
        image = random_tone(image, rng, inverted=_happens(settings.inversion, rng))
    return image ** math.exp(rng.uniform(-0.35, 0.35)) * torch.exp(0.5 * rng.random() * smooth_field(image.shape, rng))


def with_phase(image: Tensor, settings: SimulationSettings, rng: Generator) -> Tensor:
    """Add a random phase to a magnitude image (h, w) in 0..1: complex64."""
    if _happens(settings.physical_phase, rng):
        return add_phase(image, rng)
    phase = rng.choice([0.3, 1.0, 2.0]) * smooth_field(image.shape, rng) + rng.uniform(-math.pi, math.pi)
    if settings.tissue_phase:
        phase = phase + settings.tissue_phase * rng.uniform(-1, 1) * bright_tissue(image, rng)
    return torch.polar(image, phase)


def _happens(probability: float, rng: Generator) -> bool:
    """Decide at random; what never happens leaves the generator as it is."""
    return probability > 0 and rng.random() < probability


def fit_to_matrix(kspace: Tensor, shape: tuple[int, int], rng: Generator) -> tuple[Tensor, tuple[int, int], float]:
    """Fit a raw scan (h, w) to (H, W): cropped image, or image padded with its own noise, or padded k-space."""
    noise = float(noise_std(kspace))
    image = torch.from_numpy(reorient(ifft2c(kspace).numpy(), rng))
    if image.shape[-2] > shape[-2] or image.shape[-1] > shape[-1]:
        smaller = (min(image.shape[-2], shape[-2]), min(image.shape[-1], shape[-1]))
        image = cut_out(image, smaller, (image.shape[-2] / 2, image.shape[-1] / 2))
    extent = tuple(have if want - have < 32 and rng.random() < 0.7 else want for have, want in zip(image.shape, shape))
    padded = center_pad(image, (extent[0], extent[1]))
    outside = center_pad(torch.zeros(image.shape), (extent[0], extent[1]), value=1.0)
    image = padded + noise * outside * white_noise((extent[0], extent[1]), rng)
    image = image * complex(np.exp(1j * rng.uniform(-math.pi, math.pi)))
    return resize_kspace(fft2c(image), shape), (extent[0], extent[1]), noise


def draw_mask(extent: tuple[int, int], settings: SimulationSettings, rng: Generator) -> Tensor:
    """Draw a sampling pattern, bool (h, w); lines differ along w, as inference transposes scans whose lines do not."""
    width = extent[1]
    acceleration = round(math.exp(rng.uniform(*np.log((settings.least_acceleration, settings.max_acceleration)))))
    acceleration = min(acceleration, width // 2)  # two central lines at least
    shares = dict.fromkeys(settings.masks, 1 / len(settings.masks)) if settings.masks else MASK_SHARES
    mask_type = str(rng.choice(list(shares), p=list(shares.values())))
    seed = int(rng.integers(2**31))
    if mask_type == "partial_fourier":
        fraction = rng.uniform(0.02, 0.3)
        most = min(1.98 / (1 + fraction + 6 / width), settings.max_acceleration)
        if most <= 1:  # too few lines to leave any out
            return torch.ones(extent, dtype=torch.bool)
        return torch.from_numpy(sampling_pattern(mask_type, extent, most, fraction, seed))
    if acceleration <= 1:
        return torch.ones(extent, dtype=torch.bool)
    if mask_type == "density":
        return _variable_density(extent, acceleration, rng)
    fraction = max(0.32 / acceleration * rng.uniform(0.6, 1.5), 2.0 / width)
    mask = sampling_pattern(mask_type, extent, acceleration, fraction, seed)
    if not settings.masks and mask_type in MASK_TYPES and rng.random() < PARTIAL_SHARE:
        _cut_side(mask, rng)
    return torch.from_numpy(mask)


def _cut_side(mask: np.ndarray, rng: Generator) -> None:
    """Turn a mask into partial Fourier: nothing beyond some distance from DC on one side."""
    size = mask.shape[axis := int(rng.integers(2))]
    first = size // 2 + max(1, round(size * rng.uniform(0.04, 0.4)))
    view = np.moveaxis(mask if rng.random() < 0.5 else mask[::-1, ::-1], axis, 0)
    view[first:] = False


def _variable_density(extent: tuple[int, int], acceleration: float, rng: Generator) -> Tensor:
    """Draw single bins, denser at the center and at even distances as Poisson discs: thresholded blue noise."""
    frequencies = (torch.fft.fftfreq(extent[0])[:, None] ** 2 + torch.fft.fftfreq(extent[1]) ** 2).sqrt()
    noise = torch.from_numpy(rng.standard_normal(extent, dtype=np.float32))
    blue = torch.fft.ifft2(torch.fft.fft2(noise) * frequencies.clamp_max(0.4)).real
    rank = torch.empty(blue.numel())
    rank[blue.flatten().argsort()] = (torch.arange(blue.numel()) + 0.5) / blue.numel()
    vertical, horizontal = (2 * (torch.arange(n) - n // 2) / n for n in extent)
    radius = (vertical[:, None] ** 2 + horizontal**2).sqrt()
    power, calibration = rng.uniform(1.0, 4.0), rng.uniform(0.02, 0.12)
    profile = (1 - radius.clamp_max(1) * rng.uniform(0.7, 1.0)) ** power * (radius <= (1 if rng.random() < 0.7 else 2))
    low, high = 0.0, 1000.0
    for _ in range(30):
        middle = 0.5 * (low + high)
        if float((middle * profile).clamp_max(1).mean()) < 1 / acceleration:
            low = middle
        else:
            high = middle
    central = (vertical.abs() <= calibration)[:, None] & (horizontal.abs() <= calibration)
    return (rank.view(extent) < high * profile) | central


def white_noise(shape: tuple[int, int], rng: Generator) -> Tensor:
    """Draw complex white noise of unit standard deviation, (H, W)."""
    pair = rng.standard_normal((*shape, 2), dtype=np.float32) * np.float32(math.sqrt(0.5))
    return torch.view_as_complex(torch.from_numpy(pair))


def percentile99(image: Tensor) -> float:
    """Compute the 99th percentile of the magnitude, from at most some 30,000 pixels."""
    flat = image.abs().numpy().ravel()
    flat = flat[:: max(1, flat.size // 16384)]
    rank = int(0.99 * (flat.size - 1))
    return float(np.partition(flat, rank)[rank])
