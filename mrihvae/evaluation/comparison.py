"""A picture that compares methods on one slice: images, errors, scores and the acquired samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mrihvae.evaluation.figures import plain_text, save_figure, subplots

ERROR_GAIN = 5  # errors are shown this much brighter than images
WHITE = 99.8  # percentile of the target that is white: a few bright pixels beside coils do not darken the rest
COLUMN = 2.4  # inches


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
    (`ERROR_GAIN`) of that of images. Below the target are the acquired samples of k-space.

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
    shown = {name: volume[index] / unit for name, volume in images.items()}
    reference = target[index] / unit
    white = float(np.percentile(reference, WHITE)) or 1.0
    height, width = reference.shape
    columns = len(shown) + 1
    size = (COLUMN * columns + 0.9, 2 * COLUMN * height / width + 1.4)
    figure, (upper, lower) = subplots(2, columns, size=size, squeeze=False)
    for axis in (*upper, *lower):
        axis.axis("off")
    for axis, (name, image) in zip(upper, [*shown.items(), ("target", reference)]):
        gray = axis.imshow(image, cmap="gray", vmin=0, vmax=white)
        heading = f"{name}\nPSNR {scores[name]['PSNR']:.2f} dB, SSIM {scores[name]['SSIM']:.3f}" if name in scores else name
        axis.set_title(plain_text(heading), fontsize=10)
    for axis, image in zip(lower, shown.values()):
        error = axis.imshow(np.abs(image - reference), cmap="gray", vmin=0, vmax=white / ERROR_GAIN)
        axis.set_title(f"error × {ERROR_GAIN}", fontsize=9)
    lower[-1].imshow(np.broadcast_to(mask, np.broadcast_shapes(mask.shape, (height, width))), cmap="gray")
    lower[-1].set_title(f"acquired k-space, {100 * np.mean(mask):.0f} %", fontsize=9)
    for row, artist, label in ((upper, gray, "image"), (lower, error, "error")):
        figure.colorbar(artist, ax=row, shrink=0.9, pad=0.01, label=f"{label} / maximum of target")
    figure.suptitle(plain_text(title), fontsize=10)
    save_figure(figure, path)
