"""A picture that compares methods on one slice: images, errors, scores and the acquired samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mrihvae.evaluation.figures import plain_text, save_figure, subplots

ERROR_GAIN = 5  # errors are shown this much brighter than images
WHITE = 99.8  # percentile of the target that is white: a few bright pixels beside coils do not darken the rest
COLUMN = 2.6  # inches
MARGIN = 6  # pixels around the head that are shown


def draw_comparison(
    path: Path,
    title: str,
    images: Mapping[str, np.ndarray],
    target: np.ndarray,
    scores: Mapping[str, Mapping[str, float]],
    mask: np.ndarray,
) -> None:
    """Write a picture of the middle slice: every method beside the target, all in one gray scale, and errors below.

    Each row has its gray scale at its end, in units of the target's maximum; that of errors ends at a fifth
    (`ERROR_GAIN`) of that of images. Below the target are the acquired samples of k-space. Empty margins of the target
    are left out.

    Parameters
    ----------
    path : PNG to write
    title : line above
    images : names of methods and their magnitudes (slice, h, w)
    target : (slice, h, w)
    scores : "PSNR" and "SSIM" of the volume, by the names of `images`
    mask : bool (W,) or (H, W), True where acquired
    """
    index, unit = len(target) // 2, float(target.max()) or 1.0
    box = _box(target[index])
    shown = {name: volume[index][box] / unit for name, volume in images.items()}
    reference = target[index][box] / unit
    white = float(np.percentile(reference, WHITE)) or 1.0
    height, width = reference.shape
    columns = len(shown) + 1
    size = (COLUMN * columns + 0.9, 2 * COLUMN * height / width + 1.3)
    figure, (upper, lower) = subplots(2, columns, size=size, squeeze=False)
    for axis in (*upper, *lower):
        axis.axis("off")
    for axis, (name, image) in zip(upper, [*shown.items(), ("target", reference)]):
        gray = axis.imshow(image, cmap="gray", vmin=0, vmax=white)
        numbers = f"PSNR {scores[name]['PSNR']:.2f} dB, SSIM {scores[name]['SSIM']:.3f}" if name in scores else ""
        axis.set_title(f"{plain_text(name)}\n{numbers or 'fully sampled'}", fontsize=10)
    for axis, image in zip(lower, shown.values()):
        error = axis.imshow(np.abs(image - reference), cmap="gray", vmin=0, vmax=white / ERROR_GAIN)
        axis.set_title(f"error x {ERROR_GAIN}", fontsize=9)
    acquired = np.broadcast_to(mask, (mask.shape[-1] * height // width, mask.shape[-1])) if mask.ndim == 1 else mask
    lower[-1].imshow(acquired, cmap="gray", vmin=0, vmax=1)
    lower[-1].set_title(f"acquired k-space, {100 * np.mean(mask):.0f} %", fontsize=9)
    for row, artist, label in ((upper, gray, "image"), (lower, error, "error")):
        figure.colorbar(artist, ax=row, shrink=0.9, pad=0.01, label=f"{label} / maximum of target")
    figure.suptitle(plain_text(title), fontsize=10)
    save_figure(figure, path)


def _box(image: np.ndarray) -> tuple[slice, slice]:
    """Find the part of an image (h, w) that is not empty, with a margin."""
    ranges = []
    for axis in (1, 0):
        profile = image.mean(axis=axis)
        bright = np.flatnonzero(profile - profile.min() > 0.1 * (profile.max() - profile.min()))
        first, last = (bright[0], bright[-1]) if len(bright) else (0, len(profile) - 1)
        ranges.append(slice(max(0, int(first) - MARGIN), int(last) + MARGIN + 1))
    return ranges[0], ranges[1]
