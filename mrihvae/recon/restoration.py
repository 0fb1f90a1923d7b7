"""Image restoration of volumes, by task, degradation and noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.model.hvae import HVAE
from mrihvae.physics.degradations import Blur, Inpainting, PaddedBlur, SuperResolution
from mrihvae.physics.kernels import transfer_of
from mrihvae.physics.noise import estimate_noise
from mrihvae.physics.operators import Operator
from mrihvae.physics.scaling import image_scale
from mrihvae.pnp.loop import NotConverged
from mrihvae.pnp.recommended import recommended
from mrihvae.pnp.restore import restore_images
from mrihvae.pnp.settings import PnPSettings
from mrihvae.utils.config import from_dict
from mrihvae.utils.notices import collect_notices

LARGEST = 2**24  # pixels of a slice: more than torch computes quantiles of


@dataclass(frozen=True)
class Degradation:
    """The degradation of images: a blur kernel (h, w) and a downsampling factor, or missing pixels."""

    task: str
    kernel: Tensor | None = None
    factor: int = 1
    boundary: str = "periodic"

    def operator(self, shape: tuple[int, int], known: np.ndarray, device: torch.device) -> Operator:
        """Return A for data of `shape` with pixels that are `known`, bool (slices, H, W)."""
        if self.kernel is None:
            return Inpainting(torch.from_numpy(np.ascontiguousarray(known)).to(device))
        if self.boundary == "zero":
            return PaddedBlur(self.kernel[None].to(device))
        transfer = transfer_of(self.kernel, tuple(size * self.factor for size in shape)).to(device)
        return Blur(transfer) if self.task == "deblur" else SuperResolution(transfer, self.factor)


@dataclass(frozen=True)
class RestorationJob:
    """How images are restored: weights, degradation, noise or None, and settings that are not the recommended ones."""

    model: HVAE
    degradation: Degradation
    noise: float | None
    settings: dict[str, Any]
    batch_size: int

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.start.device


def complete_settings(task: str, noise: float, given: dict[str, Any]) -> PnPSettings:
    """Return the given settings, and the recommended ones for `noise` in model units and their encoder beside them."""
    usual = recommended(task, noise, given.get("encoder", PnPSettings.encoder))
    return from_dict(PnPSettings, dataclasses.asdict(usual) | given, "restoration settings")


@dataclass(frozen=True)
class RestoredVolume:
    """A restored volume.

    Attributes
    ----------
    first, restored : made of the data alone, and restored: float32 (slices, H, W) of the result
    noise, relative : of the data, in their unit, and over the middle one of their slices' scales; None if no slice
        could be restored
    settings : of the loop
    iterations : how many each slice did
    diverged, unsettled : slices that diverged, and those whose steps did not shrink, see `mrihvae.pnp.loop.Restored`
    left : unchanged slices, which are constant or nearly all zero
    warnings : other warnings
    """

    first: np.ndarray
    restored: np.ndarray
    noise: float | None = None
    relative: float | None = None
    settings: PnPSettings | None = None
    iterations: tuple[int, ...] = ()
    diverged: tuple[int, ...] = ()
    unsettled: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return all but the images, for JSON."""
        names = ("noise", "relative", "iterations", "diverged", "unsettled", "left", "warnings")
        settings = None if self.settings is None else dataclasses.asdict(self.settings)
        return {**{name: getattr(self, name) for name in names}, "settings": settings}


def restore_volume(
    file: Path, values: np.ndarray, known: np.ndarray, job: RestorationJob, progress: Callable[[int], object]
) -> RestoredVolume:
    """Restore the slices of a volume, which share their noise.

    Parameters
    ----------
    file : named in errors
    values : real (slices, H, W), 0 where not known
    known : bool, the same shape
    progress : called with the number of slices that are done

    Raises
    ------
    InputError
        If the noise cannot be estimated, or as `mrihvae.pnp.restore.restore_images` does.
    """
    shape, data = (values.shape[-2], values.shape[-1]), torch.from_numpy(values).to(job.device)

    def operator(which: list[int]) -> Operator:
        return job.degradation.operator(shape, known[which], job.device)

    first = torch.cat([operator([k]).first_image(data[[k]]) for k in range(len(data))])
    scale = image_scale(first)
    dark = (scale <= torch.finfo(scale.dtype).tiny).tolist()
    left = [k for k in range(len(data)) if dark[k] or np.ptp(values[k][known[k]]) == 0]
    chosen = [k for k in range(len(data)) if k not in left]
    restored = first.cpu().numpy().copy()
    progress(len(left))
    if not chosen:
        return RestoredVolume(first.cpu().numpy(), restored, left=tuple(left))
    noise = job.noise if job.noise is not None else estimate_noise(values[chosen], known[chosen])
    if noise is None:
        raise InputError(f"{file}: no block of 2 x 2 pixels is known, so noise cannot be estimated; give --noise")
    relative = noise / float(scale[chosen].median())
    settings = complete_settings(job.degradation.task, relative, job.settings)
    iterations, diverged, unsettled, warnings = [0] * len(data), list[int](), list[int](), set[str]()
    for k in range(0, len(chosen), job.batch_size):
        which = chosen[k : k + job.batch_size]
        with collect_notices() as notices:
            found = restore_images(job.model, operator(which), data[which], noise, settings)
        warnings |= {text for text in notices if not isinstance(text, NotConverged)}  # these are counted
        result = found.decoded if settings.result == "decoded" else found.image
        restored[which] = result.float().cpu().numpy()
        for at, done in zip(which, found.iterations.tolist()):
            iterations[at] = done
        diverged += [at for at, away in zip(which, found.diverged.tolist()) if away]
        unsettled += [at for at, moves in zip(which, found.unsettled.tolist()) if moves]
        progress(len(which))
    return RestoredVolume(
        first.cpu().numpy(), restored, noise, relative, settings, tuple(iterations), tuple(diverged), tuple(unsettled),
        tuple(left), tuple(sorted(warnings)),
    )  # fmt: skip


def check_size(file: Path, shape: tuple[int, int], job: RestorationJob) -> None:
    """Check that kernel and network fit the images: each level of the network needs frequencies of its own.

    Raises
    ------
    InputError
        Too few pixels, too many, or fewer than the kernel's, in the result.
    """
    degradation = job.degradation
    height, width = (size * degradation.factor for size in shape)
    least = 2 ** (job.model.settings.levels - 1)
    if min(height, width) < least:
        raise InputError(f"{file}: {height} x {width} pixels are too few for these weights; at least {least} x {least}")
    if height * width > LARGEST:
        raise InputError(f"{file}: {height} x {width} pixels are too many for one slice; cut it into parts")
    kernel = degradation.kernel
    if kernel is not None and (kernel.shape[0] > height or kernel.shape[1] > width):
        size = f"{kernel.shape[0]} x {kernel.shape[1]}"
        raise InputError(
            f"{file}: the kernel, {size}, is larger than the image, {height} x {width}; give a smaller one"
        )
