"""Lines of a scanner to slices, and what their images are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ismrmrd
import numpy as np

from mrihvae.io.mrd.header import parse_header
from mrihvae.io.mrd.sorter import Slice, SliceAssembler
from tests.support import mrd
from tests.support.small_coils import coil_scans


def acquisition(line: mrd.Line) -> ismrmrd.Acquisition:
    """Make what `ismrmrd` reads of a line."""
    return ismrmrd.Acquisition.from_bytes(line.pack())


def sort(
    xml: str, lines: Sequence[mrd.Line], early: bool = False, **options: Any
) -> tuple[SliceAssembler, list[Slice]]:
    """Sort lines to the end."""
    sorter = SliceAssembler(parse_header(xml), early, **options)
    slices = [one for line in lines for one in sorter.add(acquisition(line))]
    return sorter, slices + sorter.end()


def stacked(slices: Sequence[Slice]) -> np.ndarray:
    return np.stack([one.kspace for one in sorted(slices, key=lambda one: one.key)])


def scan_3d(kspace: np.ndarray, taken: np.ndarray | None = None, **options: Any) -> list[mrd.Line]:
    """Make the lines of a slab of k-space (partitions, coils, H, W), of which (W, partitions) is taken."""
    lines = []
    for z, partition in enumerate(kspace):
        mask = None if taken is None else taken[:, z]
        if mask is None or mask.any():
            counters = {"kspace_encode_step_2": z, **options.pop("counters", {})}
            lines += mrd.cartesian_lines(
                partition[None], mask=mask, counters=counters, last_in_measurement=False, **options
            )
    return lines


def slab_xml(kspace: np.ndarray, **changes: Any) -> str:
    """Write the header of a slab of partitions of 2 mm."""
    partitions, coils, height, width = kspace.shape
    settings: dict[str, Any] = {
        "encoded": (2 * height, width, partitions), "recon": (height, width, partitions),
        "encoded_fov_mm": (2 * height, width, 2 * partitions), "recon_fov_mm": (height, width, 2 * partitions),
        "limits": {
            "kspace_encoding_step_1": (0, width - 1, width // 2),
            "kspace_encoding_step_2": (0, partitions - 1, partitions // 2),
        },
        "channels": coils,
    }  # fmt: skip
    return mrd.write_xml(**(settings | changes))


def phantom(slices: int, coils: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Make k-space of phantoms, with a little noise: complex64 (slices, coils, H, W)."""
    return coil_scans(slices, coils, height, width, noise=1e-4, seed=seed)[0].numpy()


def images_of(kspace: np.ndarray) -> np.ndarray:
    """Compute the root-sum-of-squares images (slices, H, W) of k-space (slices, coils, H, W)."""
    shifted = np.fft.ifft2(np.fft.ifftshift(kspace.astype(np.complex128), axes=(-2, -1)), norm="ortho")
    images = np.fft.fftshift(shifted, axes=(-2, -1))
    return np.asarray(np.sqrt((np.abs(images) ** 2).sum(axis=1)))


def psnr(kspace: np.ndarray, truth: np.ndarray) -> float:
    """Compute the peak signal-to-noise ratio, dB, of zero-filled images against those of true k-space."""
    found, images = images_of(kspace), images_of(truth)
    assert found.shape == images.shape
    return float(10 * np.log10(images.max() ** 2 / max(((found - images) ** 2).mean(), 1e-30)))
