"""MRD images in HDF5, as clients of a reconstruction server store them: in the order in which they arrived.

Images are sorted into volumes by what their headers say. A position is that of a slice's center, as in
`mrihvae.data.geometry`, or of a slab's, and becomes that of each of its partitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mrihvae.data.volume import DATASETS, ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.checked_hdf5 import open_checked
from mrihvae.io.checks import read_errors
from mrihvae.io.mrd.image_meta import read_metas, rescaling
from mrihvae.io.mrd.image_place import place
from mrihvae.io.mrd.stored_images import StoredImages, list_volumes, name_volumes
from mrihvae.utils.notices import warn
from mrihvae.utils.text import counted

IMAGE_KEYS = {"header", "data"}
PREFERRED = ("magnitude", "complex", "real", "imaginary", "phase")  # of these types of images the first is read


@dataclass(frozen=True)
class NamedVolume:
    """A volume of a file that may have several.

    Attributes
    ----------
    name : what tells it from the others, such as "contrast1"; "" of a single one
    images : the volume, with its uncertainty where the file has that
    """

    name: str
    images: ImageVolume


def mrd_image_groups(path: Path) -> list[str]:
    """List the groups of a file that hold images, such as "dataset/image_1"; none of groups with lines."""
    found: list[str] = []
    try:
        with open_checked(path) as file:
            for name in file:
                group = _group(file, name)
                if set(group) >= IMAGE_KEYS:
                    found.append(name)
                elif "data" not in group:
                    found += [f"{name}/{key}" for key in group if set(_group(file, f"{name}/{key}")) >= IMAGE_KEYS]
    except Exception:  # whatever damage causes, of which who reads it says more
        return []
    return found


def _group(file: h5py.File, name: str) -> Any:
    """Return a group of a file; nothing of what is no group, or cannot be opened."""
    try:
        item = file.get(name)
    except Exception:  # damaged, or outside of the file
        return {}
    return item if isinstance(item, h5py.Group) else {}


def read_mrd_images(
    path: Path | str, series: str | None = None, contrast: int | None = None, repetition: int | None = None
) -> ImageVolume:
    """Read the single volume of images, or the one that is chosen.

    Parameters
    ----------
    series : one of `mrd_image_groups`, its last part, or the number in that; or the image_series_index of images
    contrast, repetition : numbers in the headers of images

    Returns
    -------
    volume of slices (slice, h, w), h along the readout, as `read_mrd_volumes` has it

    Raises
    ------
    InputError
        As `read_mrd_volumes`, or several volumes.
    """
    path = Path(path)
    found = read_mrd_volumes(path, series, contrast, repetition)
    if len(found) > 1:
        raise InputError(f"{path}: {describe_volumes(found)}; choose one by series, contrast and repetition")
    return found[0].images


def describe_volumes(volumes: Sequence[NamedVolume]) -> str:
    """List several volumes with their numbers of slices."""
    known = ", ".join(f"{one.name} ({counted(len(one.images.pixels), 'slice')})" for one in volumes)
    return f"has {counted(len(volumes), 'volume')}: {known}"


def read_mrd_volumes(
    path: Path, series: str | None = None, contrast: int | None = None, repetition: int | None = None
) -> list[NamedVolume]:
    """Read volumes of images: one for each series, repetition, contrast, phase, set and direction of slices.

    Slices are sorted as `mrihvae.io.mrd.image_place.place` does, values are those of
    `mrihvae.io.mrd.image_meta.rescaling`. Where images are of several types, magnitudes are read, else complex images,
    else real ones, which become complex where their imaginary parts are there, too.

    Parameters
    ----------
    series, contrast, repetition : as `read_mrd_images` has them; left out, all

    Raises
    ------
    InputError
        Nothing of what was chosen, images of several channels, several at one position, or damaged ones.
    """
    groups = mrd_image_groups(path)
    with read_errors(path, "damaged, or no MRD images", "store them again"), open_checked(path) as file:
        listed = _of_series([one for name in groups for one in list_volumes(file[name], name)], series)
        if not listed:
            raise InputError(f"has no images '{series}'; it has {', '.join(groups)}")
        kept = _choose(listed, {"contrast": contrast, "repetition": repetition})
        kept, parts = _of_one_kind(kept, path.name)
        maps = [one for one in kept if one.role]
        main = [one for one in kept if not one.role] or kept
        found = []
        for one in main:
            images = _read(file[one.group], one)
            if (part := _partner(one, parts)) is not None:
                images = replace(images, pixels=images.pixels + 1j * _read(file[part.group], part).pixels)
            beside = [each for each in maps if [other for other in main if each.is_like(other)] == [one]]
            if beside and one not in maps:
                images = replace(images, uncertainty=_read(file[beside[0].group], beside[0]).pixels)
                maps.remove(beside[0])
            found.append((one, images))
        found += [(one, _read(file[one.group], one)) for one in maps if one not in main]
    names = name_volumes([one for one, _ in found])
    return [NamedVolume(name, images) for name, (_, images) in zip(names, found, strict=True)]


def _names_of(group: str) -> tuple[str, ...]:
    """Return the names by which a group may be chosen."""
    last = group.rpartition("/")[2]
    return group, last, last.removeprefix("image_")


def _of_series(listed: list[StoredImages], series: str | None) -> list[StoredImages]:
    """Return the volumes of a series: those of a group of this name, and of several series in it the one."""
    if series is None:
        return listed
    named = [one for one in listed if series in _names_of(one.group)]
    numbered = [one for one in named or listed if series in (str(one.series), f"series{one.series}")]
    return numbered if not named or (len({one.series for one in named}) > 1 and numbered) else named


def _choose(listed: Sequence[StoredImages], wanted: dict[str, int | None]) -> list[StoredImages]:
    """Return the volumes with these numbers."""
    asked = {name: number for name, number in wanted.items() if number is not None}
    kept = [one for one in listed if all(one.number(name) == number for name, number in asked.items())]
    if not kept:
        name, number = next(
            ((name, number) for name, number in asked.items() if all(one.number(name) != number for one in listed)),
            next(iter(asked.items())),
        )
        known = ", ".join(map(str, sorted({one.number(name) for one in listed})))
        raise InputError(f"has no images of {name} {number}; those that were chosen have {known}")
    return kept


def _of_one_kind(found: list[StoredImages], name: str) -> tuple[list[StoredImages], list[StoredImages]]:
    """Return the volumes of the preferred type, and imaginary parts of real ones."""
    kind = next(kind for kind in PREFERRED if any(one.kind == kind for one in found))
    kept = [one for one in found if one.kind == kind]
    parts = [one for one in found if one.kind == "imaginary" and kind == "real"]
    others = sorted({f"{one.kind} images of {one.group}" for one in found if one not in (*kept, *parts)})
    if others:
        warn(f"{name}: {kind} images are used; left out are {', '.join(others)}")
    return kept, parts


def _partner(one: StoredImages, parts: Sequence[StoredImages]) -> StoredImages | None:
    """Find the imaginary part of a volume: that of the same series, or the only one."""
    fitting = [part for part in parts if part.is_like(one)]
    return next((part for part in fitting if part.group == one.group or len(fitting) == 1), None)


def _read(group: h5py.Group, one: StoredImages) -> ImageVolume:
    """Read a volume."""
    rows = list(one.rows)
    data, heads = np.asarray(group["data"][rows]), group["header"][()][rows]
    if data.dtype.names is not None:  # as files have complex numbers
        real, imaginary = (data[name].astype(np.float32) for name in data.dtype.names)
        data = real + 1j * imaginary
    has_complex = data.dtype.kind == "c"
    values = np.empty(data.shape, np.complex64 if has_complex else np.float32)
    metas = read_metas(group, rows)
    for k, meta in enumerate(metas):
        slope, intercept = rescaling(meta)
        wide = data[k].astype(np.complex128 if has_complex else np.float64)
        values[k] = wide * slope + (0.0 if has_complex else intercept)  # an offset is of magnitudes
    pixels = values[:, 0].reshape(-1, *data.shape[3:]).swapaxes(1, 2)
    order, geometry, voxel = place(heads, (pixels.shape[1], pixels.shape[2], data.shape[2]), one.group)
    history = metas[0].get("ImageProcessingHistory", [])
    by_us = len(history) == 2 and history[0] == "MRIHVAE" and history[1] not in DATASETS
    attributes = {"method": history[1]} if by_us else {}
    pixels = np.ascontiguousarray(pixels[order])
    return ImageVolume(pixels, geometry, attributes, one.role or DATASETS[0], voxel)
