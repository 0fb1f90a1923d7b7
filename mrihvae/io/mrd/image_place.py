"""Where stored MRD images lie, and their order along the normal."""

from __future__ import annotations

import numpy as np

from mrihvae.data.geometry import SPACING_TOLERANCE, Geometry, make_geometry
from mrihvae.errors import InputError
from mrihvae.utils.notices import warn

DIRECTIONS = ("read_dir", "phase_dir", "slice_dir")
DIRECTION_TOLERANCE = 1e-3  # by which directions of one volume may differ, and sizes relatively
MIN_SPACING_MM = 1e-3  # below which two slices are at one position

Size = tuple[float, float, float]


def numbers_of(heads: np.ndarray, name: str) -> np.ndarray:
    """Return a field of all headers, zeros where the file does not have it."""
    return heads[name] if name in (heads.dtype.names or ()) else np.zeros(len(heads), int)


def alike(heads: np.ndarray) -> np.ndarray:
    """Mark the images with directions and field of view of the first: bool (image,)."""
    directions = np.stack([np.asarray(heads[name], np.float64) for name in DIRECTIONS], axis=1)
    views = np.asarray(heads["field_of_view"], np.float64)
    same = np.abs(directions - directions[0]).max(axis=(1, 2)) < DIRECTION_TOLERANCE
    found = np.asarray(same & (np.abs(views - views[0]) <= DIRECTION_TOLERANCE * np.abs(views[0])).all(axis=1))
    found[0] = True  # with NaN in its header, too
    return found


def place(heads: np.ndarray, shape: tuple[int, int, int], name: str) -> tuple[np.ndarray, Geometry | None, Size]:
    """Compute the order of slices, and where they lie.

    Slices stay in the order of their numbers where they run along the normal so, in either direction; else they are
    sorted by position along the normal.

    Parameters
    ----------
    heads : of the images, of one direction and field of view
    shape : (h, w, partitions) of an image; partitions of a slab are slices about its center
    name : of the series, for messages

    Returns
    -------
    order, int (slice,) of all partitions of all images; geometry in that order, None where all images are at one
    position; size of a voxel along h, w and across slices, mm

    Raises
    ------
    InputError
        Several images at one position, or as `make_geometry`.
    """
    depth = shape[2]
    x, y, z = (float(extent) / size for extent, size in zip(heads[0]["field_of_view"], shape, strict=True))
    normal = np.asarray(heads[0]["slice_dir"], np.float64)
    centers = np.repeat(np.asarray(heads["position"], np.float64).reshape(-1, 3), depth, axis=0)
    inside = np.tile(np.arange(depth) - depth // 2, len(heads))[:, None] * z
    read, phase = (np.asarray(heads[0][each], np.float64) for each in DIRECTIONS[:2])
    axes = make_geometry(centers, read, phase, normal, (x, y, z))  # checked, and of length 1
    positions = centers + inside * axes.normal
    numbers = np.repeat(numbers_of(heads, "slice"), depth)
    order = np.lexsort((np.repeat(numbers_of(heads, "image_index"), depth), numbers))
    if len(positions) > 1 and not np.ptp(positions, axis=0).any():
        warn(f"{name}: all of its {len(positions)} images are at one position; they stay in the order of their numbers")
        return order, None, axes.voxel
    along = positions @ axes.normal
    steps = np.diff(along[order])
    runs = bool((steps > 0).all() or (steps < 0).all()) and len(np.unique(numbers)) == len(heads)
    if not runs:
        order = np.argsort(along, kind="stable")
    _check_spacing(along[order], name)
    return order, make_geometry(positions[order], axes.read, axes.phase, axes.normal, axes.voxel), axes.voxel


def _check_spacing(along: np.ndarray, name: str) -> None:
    """Refuse images at one position, and warn of slices that are not an even row."""
    if len(along) < 2:
        return
    steps = np.abs(np.diff(along))
    if steps.min() < MIN_SPACING_MM:
        raise InputError(
            f"{name}: {int((steps < MIN_SPACING_MM).sum()) + 1} or more of {len(along)} images share positions, and "
            "repetition, contrast, phase and set do not distinguish them; store them as separate series"
        )
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])  # the lower of two medians: gaps are what is missing
    off = np.abs(steps - usual)
    if off.max() > SPACING_TOLERANCE * usual:
        warn(
            f"{name}: slices are not evenly spaced: usually {usual:.4g} mm apart, but {steps[off.argmax()]:.4g} mm "
            f"after slice {int(off.argmax())}; one may be missing"
        )
