"""Orientation of Siemens data: which way the directions of their headers point in a reconstructed image.

The directions of Siemens headers hold for a forward Fourier transform from k-space to the image. This package
transforms inversely, as ISMRMRD has it, which mirrors the image along readout, phase encoding and partitions. So the
image stays, and its directions are reversed. That rests on two independent programs, which rotate such images by 180
degrees: mrpro (issue 828 of PTB-MR/mrpro; its maintainers compared with images of the scanner), and kspaceKelvin's
python-ismrmrd-server. It has not been checked at a scanner here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mrihvae.data.geometry import Geometry

SIEMENS = "SIEMENS"


def is_reversed(vendor: str) -> bool:
    """Return whether the directions in headers of a scanner's vendor are to be reversed."""
    return vendor.strip().upper().startswith(SIEMENS)


def reverse_directions(geometry: Geometry, center: np.ndarray) -> Geometry:
    """Return a geometry with readout and phase encoding the other way round, and partitions in the other order.

    Parameters
    ----------
    center : (3,), mm, of the slice or slab, which stays where it is
    """
    return replace(
        geometry, positions=2 * np.asarray(center) - geometry.positions, read=-geometry.read, phase=-geometry.phase
    )


def align_to_directions(pixels: np.ndarray, geometry: Geometry, read: np.ndarray) -> tuple[np.ndarray, Geometry]:
    """Mirror an image if its readout runs against a direction, so that scanners find their own directions in it.

    Parameters
    ----------
    pixels : (h, w), center at (h // 2, w // 2), which stays where it is
    geometry : of the image
    read : (3,), direction of the readout in the header of the image's lines

    Returns
    -------
    the image and its geometry, of which none, or both, are mirrored along both axes
    """
    if geometry.read @ read >= 0:
        return pixels, geometry
    shifts = tuple(1 - size % 2 for size in pixels.shape)
    return np.roll(pixels[::-1, ::-1], shifts, (0, 1)), replace(geometry, read=-geometry.read, phase=-geometry.phase)
