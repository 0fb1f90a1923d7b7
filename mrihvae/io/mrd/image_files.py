"""MRD images in HDF5, as clients of a reconstruction server store them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from mrihvae.data.geometry import make_geometry
from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.checks import read_errors

IMAGE_KEYS = {"header", "data"}


def mrd_image_groups(path: Path) -> list[str]:
    """List the groups of a file that hold images, such as "dataset/image_1"; none if it holds lines, too."""
    found: list[str] = []
    try:
        with h5py.File(path, "r") as file:
            for name, group in file.items():
                if isinstance(group, h5py.Group) and "data" not in group:
                    groups = [
                        key for key, item in group.items() if isinstance(item, h5py.Group) and set(item) >= IMAGE_KEYS
                    ]
                    found += [f"{name}/{key}" for key in groups]
    except (OSError, RuntimeError, AttributeError):
        return []
    return found


def read_mrd_images(path: Path, group: str | None = None) -> ImageVolume:
    """Read a series of magnitude images.

    Parameters
    ----------
    group : one of `mrd_image_groups`, or its last part; left out, the first

    Returns
    -------
    volume of slices (slice, h, w), h along the readout; all images of the series in their order, and where they lie if
    their positions say so

    Raises
    ------
    InputError
        No such group, images of several channels or complex ones, or damaged ones.
    """
    groups = mrd_image_groups(path)
    chosen = [name for name in groups if group in (None, name, name.rpartition("/")[2])]
    if not chosen:
        raise InputError(f"{path}: has no images '{group}'; it has {', '.join(groups)}")
    with read_errors(path, "damaged, or no MRD images", "store them again"):
        with h5py.File(path, "r") as file:
            data, heads = np.asarray(file[chosen[0]]["data"][()]), file[chosen[0]]["header"][()]
        if data.ndim != 5 or data.shape[1] != 1 or data.dtype.kind not in "iuf":
            raise InputError(
                f"{path}: '{chosen[0]}' is {data.dtype} of shape {data.shape}; give magnitudes of one channel"
            )
        pixels = data[:, 0].reshape(-1, *data.shape[3:]).swapaxes(1, 2)
        first, depth = heads[0], data.shape[2]
        voxel = np.asarray(first["field_of_view"], float) / (pixels.shape[1], pixels.shape[2], depth)
        normal = np.asarray(first["slice_dir"], float)
        places = np.repeat(np.asarray(heads["position"], float).reshape(-1, 3), depth, axis=0)
        inside = np.tile(np.arange(depth) - depth // 2, len(heads))[:, None] * voxel[2] * normal
        size = (float(voxel[0]), float(voxel[1]), float(voxel[2]))
        geometry = None
        if len(places) == 1 or np.ptp(places + inside, axis=0).any():
            geometry = make_geometry(places + inside, first["read_dir"], first["phase_dir"], normal, size)
    return ImageVolume(np.ascontiguousarray(pixels, np.float32), geometry, voxel=size)
