"""NumPy's `.npy` with a `.json` beside it, for k-space and for images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mrihvae.data.geometry import GEOMETRY_KEYS, Geometry, geometry_of
from mrihvae.data.scan import Scan
from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError, nearest
from mrihvae.io.checks import make_scan, read_errors
from mrihvae.utils.files import atomic_write

KSPACE_AXES = ("slice", "coil", "H", "W")  # of k-space, in the order that a scan has them
JSON_KEYS = ("axes", "mask", "acquisition", *GEOMETRY_KEYS)


def read_numpy(path: Path) -> Scan:
    """Read NAME.npy, whose axes are in NAME.json: `{"axes": ["slice", "coil", "H", "W"]}`, in any order.

    H is the readout, W the phase-encoding axis; "slice" and "coil" may be left out. The JSON may also have "mask", W
    numbers 0 or 1, or H lists of them; "acquisition", a name; and the geometry, all or nothing: "positions_mm"
    (slices, 3), "read_dir", "phase_dir", "slice_dir" and "voxel_mm".

    Raises
    ------
    InputError
        The JSON is missing or wrong, or the array does not fit it, is not complex, or holds NaN.
    """
    file = path.with_suffix(".json")
    about = _read_json(file)
    axes = about.get("axes")
    names = [str(axis) for axis in axes] if isinstance(axes, list) else []
    if len(names) > len(set(names)) or not {"H", "W"} <= set(names) <= set(KSPACE_AXES):
        raise InputError(
            f"{file}: 'axes' is {axes!r}; give a list of 'H' and 'W', and of 'slice' and 'coil' where the array has "
            "them"
        )
    with read_errors(path, "truncated or no NumPy array of numbers", "save it again"):
        array = np.load(path, allow_pickle=False)
    if array.ndim != len(names) or array.dtype.kind != "c":
        raise InputError(f"{path}: is {array.dtype} of shape {array.shape}; give complex numbers with axes {axes}")
    names += [axis for axis in KSPACE_AXES if axis not in names]
    whole = array.reshape(*array.shape, *[1] * (len(names) - array.ndim))
    kspace = whole.transpose([names.index(axis) for axis in KSPACE_AXES])
    scan = make_scan(path, kspace, f"{path.stem}.h5")
    attributes = {"acquisition": str(about.get("acquisition", "unknown"))}
    geometry, mask = geometry_of(file, about, len(kspace)), _json_mask(file, about, kspace.shape[-2:])
    return replace(scan, attributes=attributes, geometry=geometry, mask=mask)


def _read_json(path: Path) -> dict[str, Any]:
    with read_errors(path, "not readable as JSON", f"write {json.dumps({'axes': KSPACE_AXES})}, as in the array"):
        about = json.loads(path.read_text())
    if not isinstance(about, dict):
        raise InputError(f"{path}: holds no dictionary; write names and values")
    for key in about:
        if key not in JSON_KEYS:
            near = nearest(key, JSON_KEYS)
            raise InputError(f"{path}: unknown entry '{key}'; the nearest known one is '{near}'")
    lacking = [name for name in GEOMETRY_KEYS if name not in about]
    if 0 < len(lacking) < len(GEOMETRY_KEYS):
        raise InputError(f"{path}: has part of the geometry, but no '{lacking[0]}'; give all of it, or nothing")
    return about


def _json_mask(path: Path, about: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray | None:
    """Read the mask, bool (W,) or (H, W)."""
    mask = about.get("mask")
    if mask is None:
        return None
    rows = mask if isinstance(mask, list) else []
    by_bin = (
        bool(rows) and all(isinstance(row, list) and len(row) == shape[1] for row in rows) and len(rows) == shape[0]
    )
    numbers = [number for row in rows for number in row] if by_bin else rows
    whole = by_bin or len(rows) == shape[1]
    if not whole or not all(isinstance(number, int) and number in (0, 1) for number in numbers) or not any(numbers):
        raise InputError(
            f"{path}: 'mask' must be a list of {shape[1]} numbers 0 or 1, or {shape[0]} such lists, at least one "
            "of them 1"
        )
    return np.array(rows, bool)


def write_numpy(path: Path, volume: ImageVolume) -> None:
    """Write NAME.npy, float32 (slice, h, w), and NAME.json with its axes and geometry."""
    save_numpy(path, volume.pixels, {"axes": ["slice", "H", "W"], **as_lists(volume.geometry)})


def save_numpy(path: Path, array: np.ndarray, about: Mapping[str, Any]) -> None:
    """Write an array and the JSON beside it."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(about) + "\n")


def as_lists(geometry: Geometry | None) -> dict[str, Any]:
    """Return the geometry for JSON; empty if there is none."""
    return {} if geometry is None else {name: value.tolist() for name, value in geometry.attributes().items()}
