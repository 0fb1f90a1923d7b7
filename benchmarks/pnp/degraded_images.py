"""Real images and what is left of them: blurred, with fewer pixels, with holes, or noisy alone; always the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.io.formats import NIFTI_SUFFIXES, PICTURE_SUFFIXES, has_suffix
from mrihvae.io.magnitudes import magnitude_slices
from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.degradations import Blur, Inpainting, SuperResolution, denoising
from mrihvae.physics.fastmri_masks import seed_of
from mrihvae.physics.fourier import center_pad, fft2c, ifft2c, resize_kspace
from mrihvae.physics.kernels import gaussian_kernel, transfer_of
from mrihvae.physics.operators import Operator
from mrihvae.physics.scaling import image_scale

TASKS = ("deblurring", "super-resolution", "inpainting", "denoising")


@dataclass(frozen=True)
class TaskSettings:
    """How images are degraded.

    Attributes
    ----------
    noise : deviations of white noise over the 99th percentile of the image
    width : of the Gaussian that blurs, in pixels
    factor : how many pixels of a row one is left of
    hole : side of the square holes, in pixels
    missing : part of the pixels that are missing at least
    """

    noise: tuple[float, ...] = (0.01, 0.03, 0.05)
    width: float = 1.6
    factor: int = 4
    hole: int = 16
    missing: float = 0.5

    def __post_init__(self) -> None:
        if not self.noise or min(self.noise) <= 0 or not self.width > 0:
            raise ValueError("noise and width must be above 0")
        if min(self.factor, self.hole) < 1 or not 0 < self.missing < 1:
            raise ValueError("factor and hole must be at least 1, and missing between 0 and 1")

    @property
    def middle(self) -> float:
        """The noise in the middle."""
        return sorted(self.noise)[len(self.noise) // 2]


@dataclass(frozen=True)
class Picture:
    """An image, real (H, W), 99th percentile 1, and where it comes from."""

    set: str
    name: str
    image: Tensor


@dataclass(frozen=True)
class Problem:
    """A degraded image: y = A x + n, real (1, h, w), sigma, and the truth, (1, H, W)."""

    picture: Picture
    task: str
    noise: float
    operator: Operator
    data: Tensor

    @property
    def truth(self) -> Tensor:
        """The image, (1, H, W)."""
        return self.picture.image[None]

    @property
    def term(self) -> LeastSquares:
        """What the data say."""
        return LeastSquares(self.operator, self.data, torch.tensor([self.noise]), real=True)


def read_pictures(data: Path, folder: str, count: int, matrix: int) -> list[Picture]:
    """Read magnitude images spread evenly over a folder of NIfTI volumes or pictures.

    Of a volume, slices of its middle half are taken. Images come to (matrix, matrix) as those of `simulated_scans`.

    Raises
    ------
    InputError
        Nothing in the folder, or not readable.
    """
    where = data / folder
    files = sorted(where.iterdir()) if where.is_dir() else []
    files = [file for file in files if has_suffix(file, (*NIFTI_SUFFIXES, *PICTURE_SUFFIXES))]
    if not files:
        raise InputError(f"{where}: no NIfTI volume, JPEG or PNG picture in it; give a folder of them")
    found = []
    for number in range(count):
        place = (number + 0.5) / count * len(files)
        file = files[int(place)]
        slices = magnitude_slices(file, 0.0) if has_suffix(file, PICTURE_SUFFIXES) else magnitude_slices(file)
        if not slices:
            raise InputError(f"{file}: no slice with an object in it; remove it")
        k = int((0.25 + 0.5 * (place % 1)) * len(slices))
        image = resampled(slices[k], matrix)
        found.append(Picture(folder, f"{file.name}, {k}", image / image_scale(image)))
    return found


def resampled(magnitude: np.ndarray, matrix: int) -> Tensor:
    """Crop k-space by one factor on both axes until the image fits, and surround it with zeros: (matrix, matrix)."""
    image = torch.from_numpy(magnitude.astype(np.complex64))
    factor = min(1.0, matrix / max(image.shape))
    shape = (round(image.shape[0] * factor), round(image.shape[1] * factor))
    return center_pad(ifft2c(resize_kspace(fft2c(image), shape)), (matrix, matrix)).real.clamp_min(0)


def degrade(picture: Picture, task: str, noise: float, settings: TaskSettings) -> Problem:
    """Degrade an image; holes are the image's own, and the noise that of the image, task and deviation."""
    shape = (picture.image.shape[0], picture.image.shape[1])
    operator: Operator
    if task == "denoising":
        operator = denoising()
    elif task == "inpainting":
        operator = Inpainting(holes(shape, settings, RandomState(seed_of(picture.name)))[None])
    else:
        transfer = transfer_of(gaussian_kernel(settings.width, size=min(shape)), shape)
        operator = Blur(transfer) if task == "deblurring" else SuperResolution(transfer, settings.factor)
    clean = operator.forward(picture.image[None])
    rng = RandomState(seed_of(f"{picture.name}, {task}, {noise:g}"))
    data = clean + noise * torch.from_numpy(rng.standard_normal(clean.shape).astype(np.float32))
    if isinstance(operator, Inpainting):
        data = operator.forward(data)
    return Problem(picture, task, noise, operator, data)


def holes(shape: tuple[int, int], settings: TaskSettings, rng: RandomState) -> Tensor:
    """Cut square holes at random places until enough pixels are missing: bool (H, W), True where known."""
    known = np.ones(shape, dtype=bool)
    while known.mean() > 1 - settings.missing:
        top, left = (int(rng.randint(-settings.hole + 1, size)) for size in shape)
        known[max(top, 0) : top + settings.hole, max(left, 0) : left + settings.hole] = False
    return torch.from_numpy(known)


def problems(pictures: list[Picture], tasks: dict[str, TaskSettings]) -> Iterator[Problem]:
    """Degrade every image by every task at every noise."""
    for picture in pictures:
        for task, settings in tasks.items():
            for noise in settings.noise:
                yield degrade(picture, task, noise, settings)
