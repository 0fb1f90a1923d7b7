"""Scans for training: magnitude images and raw k-space become batches of complex scans with masks and noise.

A magnitude image has no phase, no noise and often hidden interpolation ("data crimes", Shimron et al. 2022). So
each use of one draws phase, receive bias, contrast, orientation, field of view and resolution anew, resampled by
cropping k-space, and adds complex white noise. Raw k-space keeps its own phase and noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from mrihvae.fourier import centre_pad, fft2c, ifft2c, resize_kspace
from mrihvae.masks import MASK_TYPES
from mrihvae.objective import Scans
from mrihvae.patterns import sampling_pattern
from mrihvae.units import noise_std, scale_of

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
PARTIAL_SHARE = 0.08  # of fastMRI's masks have one side of k-space cut off, along either axis


@dataclass(frozen=True)
class SimulationSettings:
    """Ranges that simulated scans are drawn from.

    Attributes
    ----------
    max_acceleration : whole accelerations are drawn up to this, evenly in their logarithm from `least_acceleration` on
    least_acceleration : see there; what is rounded to 1 is complete
    tissue_phase : greatest difference in phase, in radians, between bright and dark tissue, such as fat and water have;
        0 for phases that are smooth everywhere
    noise : least and greatest noise per complex bin over the image's 99th percentile, drawn evenly in its logarithm
    extra_noise : greatest noise added to measured bins alone, in half of the scans
    rotation : greatest rotation in degrees, in a third of the scans
    partial_resolution : probability that the outermost k-space is empty, as in a scan padded to the network's multiple
    coils : least and greatest number of coils, drawn evenly in the logarithm; (1, 1) for scans of one coil
    one_coil : share of the batches that have one coil, where `coils` says more; the others then have two or more
    """

    max_acceleration: float = 12.0
    noise: tuple[float, float] = (0.002, 0.05)
    extra_noise: float = 0.05
    rotation: float = 15.0
    partial_resolution: float = 0.3
    coils: tuple[int, int] = (1, 1)
    one_coil: float = 0.0
    least_acceleration: float = 1.3
    tissue_phase: float = 0.0

    @property
    def several(self) -> bool:
        """Whether scans are of several coils."""
        return self.coils[1] > 1

    @property
    def never_one(self) -> bool:
        """Whether no batch is of one coil, of which alone prior, decoder and q learn."""
        return self.several and self.one_coil == 0

    def __post_init__(self) -> None:
        if not 1 <= self.least_acceleration <= self.max_acceleration:
            raise ValueError(
                f"max_acceleration {self.max_acceleration} must be at least least_acceleration, "
                f"{self.least_acceleration}, and that at least 1"
            )
        if len(self.noise) != 2 or not 0 < self.noise[0] <= self.noise[1]:
            raise ValueError(f"noise {self.noise} must be two numbers above 0, the lesser one first")
        if min(self.extra_noise, self.rotation, self.tissue_phase) < 0 or not 0 <= self.partial_resolution <= 1:
            raise ValueError("extra_noise, rotation and tissue_phase must be at least 0, partial_resolution in [0, 1]")
        if not 0 <= self.one_coil <= 1:
            raise ValueError(f"one_coil {self.one_coil} must be in [0, 1]")
        if len(self.coils) != 2 or not 1 <= self.coils[0] <= self.coils[1]:
            raise ValueError(f"coils {self.coils} must be two numbers of at least 1, the lesser one first")


def draw_batch(
    images: list[tuple[np.ndarray, bool]],
    shape: tuple[int, int],
    settings: SimulationSettings,
    rng: Generator,
) -> Scans:
    """Draw complete scans and their undersampled measurement, in model units.

    Parameters
    ----------
    images : arrays (h, w): real magnitude, or complex raw k-space where the flag beside it is True
    shape : (H, W) of the batch
    rng : every random choice comes from it, so equal generators give equal batches

    Returns
    -------
    Scans, complex (slices, H, W)
    """
    scans = [_draw_scan(array, raw, shape, settings, rng) for array, raw in images]
    kspace = torch.stack([scan[0] for scan in scans])
    measured = torch.stack([scan[1] for scan in scans])
    mask = torch.stack([scan[2] for scan in scans])
    noise = torch.tensor([scan[3] for scan in scans])
    scale = scale_of(measured)
    return Scans(kspace / scale[:, None, None], measured / scale[:, None, None], mask, noise / scale)


def draw_real(images: list[tuple[np.ndarray, bool]], shape: tuple[int, int]) -> Scans:
    """Make complete, noise-free spectra of real images.

    Parameters
    ----------
    images : arrays (channels, h, w) in 0..255, at most as large as the batch; the flag beside them is of no account
    shape : (H, W) of the batch; zeros surround smaller images

    Returns
    -------
    Scans, complex (slices, channels, H, W), of images in 0..1
    """
    stack = torch.stack([centre_pad(torch.from_numpy(array.astype(np.float32)) / 255, shape) for array, _ in images])
    kspace = fft2c(stack.to(torch.complex64))
    return Scans(kspace, kspace, torch.ones(kspace.shape, dtype=torch.bool), torch.zeros(len(kspace)))


def _draw_scan(
    array: np.ndarray, raw: bool, shape: tuple[int, int], settings: SimulationSettings, rng: Generator
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Make one scan: complete k-space, measured k-space, mask (all (H, W)) and the noise of the complete one."""
    kspace, extent, noise = (
        place_raw(torch.from_numpy(array), shape, rng) if raw else simulate_scan(array, shape, settings, rng)
    )
    mask = centre_pad(draw_mask(extent, settings, rng), shape, value=True)
    measured = torch.where(mask, kspace, torch.zeros((), dtype=kspace.dtype))
    if rng.random() < 0.5:
        peak = percentile99(ifft2c(kspace))
        extra = peak * settings.extra_noise * rng.random()
        window = centre_pad(torch.ones(extent), shape)
        measured = measured + extra * white_noise(shape, rng) * mask * window
    return kspace, measured, mask, noise


def simulate_scan(
    magnitude: np.ndarray, shape: tuple[int, int], settings: SimulationSettings, rng: Generator
) -> tuple[Tensor, tuple[int, int], float]:
    """Turn a magnitude image into a complex scan on (H, W): k-space, its non-empty extent, its noise."""
    image = torch.from_numpy(_reorient(np.asarray(magnitude, dtype=np.float32), rng))
    image = (image / image.max().clamp_min(1e-12)).clamp_min(0)  # resampled volumes undershoot
    rotate = rng.random() < 1 / 3
    if rotate:
        image = _rotate(image, math.radians(rng.uniform(-settings.rotation, settings.rotation)))
    image = image ** math.exp(rng.uniform(-0.35, 0.35)) * torch.exp(0.5 * rng.random() * _smooth(image.shape, rng))
    phase = rng.choice([0.3, 1.0, 2.0]) * _smooth(image.shape, rng) + rng.uniform(-math.pi, math.pi)
    if settings.tissue_phase:
        phase = phase + settings.tissue_phase * rng.uniform(-1, 1) * _tissue(image, rng)
    sizes, centre = _resampled_size(image, shape, 0.9 if rotate else 1.0, rng)
    resampled = ifft2c(resize_kspace(fft2c(torch.polar(image, phase)), sizes))
    kspace = fft2c(_window(resampled, shape, centre))
    extent = shape
    if rng.random() < settings.partial_resolution:
        extent = tuple(size - int(rng.integers(0, min(32, size // 4))) for size in shape)  # type: ignore[assignment]
        kspace = resize_kspace(resize_kspace(kspace, extent), shape)
    noise = percentile99(ifft2c(kspace)) * math.exp(rng.uniform(*np.log(settings.noise)))
    window = centre_pad(torch.ones(extent), shape)
    return kspace + noise * window * white_noise(shape, rng), extent, noise


def place_raw(kspace: Tensor, shape: tuple[int, int], rng: Generator) -> tuple[Tensor, tuple[int, int], float]:
    """Put a raw scan (h, w) on (H, W): cropped image, or image padded with its own noise, or padded k-space."""
    noise = float(noise_std(kspace))
    image = torch.from_numpy(_reorient(ifft2c(kspace).numpy(), rng))
    if image.shape[-2] > shape[-2] or image.shape[-1] > shape[-1]:
        smaller = (min(image.shape[-2], shape[-2]), min(image.shape[-1], shape[-1]))
        image = _window(image, smaller, (image.shape[-2] / 2, image.shape[-1] / 2))
    extent = tuple(have if want - have < 32 and rng.random() < 0.7 else want for have, want in zip(image.shape, shape))
    padded = centre_pad(image, (extent[0], extent[1]))
    outside = centre_pad(torch.zeros(image.shape), (extent[0], extent[1]), value=1.0)
    image = padded + noise * outside * white_noise((extent[0], extent[1]), rng)
    image = image * complex(np.exp(1j * rng.uniform(-math.pi, math.pi)))
    return resize_kspace(fft2c(image), shape), (extent[0], extent[1]), noise


def draw_mask(extent: tuple[int, int], settings: SimulationSettings, rng: Generator) -> Tensor:
    """Draw a sampling pattern, bool (h, w); lines differ along w, as inference turns scans whose lines do not."""
    width = extent[1]
    acceleration = round(math.exp(rng.uniform(*np.log((settings.least_acceleration, settings.max_acceleration)))))
    acceleration = min(acceleration, width // 2)  # two central lines at least
    mask_type = str(rng.choice(list(MASK_SHARES), p=list(MASK_SHARES.values())))
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
    if mask_type in MASK_TYPES and rng.random() < PARTIAL_SHARE:
        _cut_side(mask, rng)
    return torch.from_numpy(mask)


def _cut_side(mask: np.ndarray, rng: Generator) -> None:
    """Make a mask one of partial Fourier: nothing beyond some distance from DC on one side."""
    size = mask.shape[axis := int(rng.integers(2))]
    first = size // 2 + max(1, round(size * rng.uniform(0.04, 0.4)))
    view = np.moveaxis(mask if rng.random() < 0.5 else mask[::-1, ::-1], axis, 0)
    view[first:] = False


def _variable_density(extent: tuple[int, int], acceleration: float, rng: Generator) -> Tensor:
    """Draw single bins, denser at the centre and at even distances as Poisson discs: thresholded blue noise."""
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


def _resampled_size(
    image: Tensor, shape: tuple[int, int], finest: float, rng: Generator
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Choose the resampled matrix so that the object fills 60 to 100 % of (H, W), never finer than `finest`."""
    bright = image > 0.1 * percentile99(image)
    if not bright.any():  # nothing in it, or rotated out of it
        bright = torch.ones_like(bright)
    rows, columns = (torch.nonzero(bright.any(dim=axis)).flatten() for axis in (1, 0))
    box = [(int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)]
    fill = rng.uniform(0.6, 1.0)
    zoom = min(fill * size / (high - low) for size, (low, high) in zip(shape, box))
    stretch = math.exp(rng.uniform(-0.12, 0.12))
    zooms = [min(zoom * factor, finest) for factor in (stretch, 1 / stretch)]
    sizes = [max(16, round(size * factor)) for size, factor in zip(image.shape, zooms)]
    jitter = [rng.uniform(-0.04, 0.04) * size for size in shape]
    centre = [
        (low + high) / 2 * new / old + shift for (low, high), new, old, shift in zip(box, sizes, image.shape, jitter)
    ]
    return (sizes[0], sizes[1]), (centre[0], centre[1])


def _window(image: Tensor, shape: tuple[int, int], centre: tuple[float, float]) -> Tensor:
    """Cut (H, W) around `centre` out of an image, with zeros where the image ends."""
    result = image.new_zeros(shape)
    source, target = [], []
    for have, want, middle in zip(image.shape, shape, centre):
        first = round(middle - want / 2)
        low, high = max(first, 0), min(first + want, have)
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    result[tuple(target)] = image[tuple(source)]
    return result


def _reorient(array: np.ndarray, rng: Generator) -> np.ndarray:
    """Flip and transpose an image at random."""
    if rng.random() < 0.5:
        array = array.T
    for axis in (0, 1):
        if rng.random() < 0.5:
            array = np.flip(array, axis)
    return array.copy()


def _rotate(image: Tensor, angle: float) -> Tensor:
    """Rotate about the centre by bicubic interpolation; its detail is cut off by the resampling that follows."""
    height, width = image.shape
    c, s = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[[c, -s * height / width, 0.0], [s * width / height, c, 0.0]]])
    grid = torch.nn.functional.affine_grid(matrix, [1, 1, height, width], align_corners=False)
    rotated = torch.nn.functional.grid_sample(image[None, None], grid, mode="bicubic", align_corners=False)
    return rotated[0, 0].clamp_min(0)


def _smooth(shape: tuple[int, ...] | torch.Size, rng: Generator) -> Tensor:
    """Draw a smooth random field of about unit variance from its lowest spatial frequencies, (h, w)."""
    order = int(rng.integers(1, 4))
    coefficients = rng.standard_normal((2 * order + 1, 2 * order + 1)) / math.sqrt((2 * order + 1) ** 2 / 2)
    frequencies = np.pi * np.arange(2 * order + 1) / 2
    offset = rng.uniform(0, 2 * np.pi, 2)
    vertical = np.cos(np.outer(np.linspace(0, 1, shape[0]), frequencies) + offset[0])
    horizontal = np.cos(np.outer(np.linspace(0, 1, shape[1]), frequencies) + offset[1])
    return torch.from_numpy((vertical @ coefficients @ horizontal.T).astype(np.float32))


def _tissue(image: Tensor, rng: Generator) -> Tensor:
    """Mark tissue brighter than a random level, with a soft edge: (h, w), from 0 to 1; the image goes from 0 to 1."""
    return torch.sigmoid((image - rng.uniform(0.15, 0.8)) / rng.uniform(0.02, 0.1))


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
