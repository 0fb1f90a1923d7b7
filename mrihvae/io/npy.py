"""NumPy's `.npy` with a `.json` beside it, for k-space and for images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mrihvae.data.geometry import GEOMETRY_KEYS, VOXEL_KEY, Geometry, geometry_of, voxel_of
from mrihvae.data.scan import Scan
from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError, nearest
from mrihvae.io.checks import make_scan, read_errors
from mrihvae.io.npy_array import load_array
from mrihvae.utils.files import atomic_pair
from mrihvae.utils.text import printable

KSPACE_AXES = ("slice", "coil", "H", "W")  # of k-space, in the order that a scan has them
IMAGE_AXES = ("slice", "H", "W")
JSON_KEYS = ("axes", "mask", "acquisition", "matrix", "padding", "attributes", "content", *GEOMETRY_KEYS)
LARGEST = 2**16  # number of pixels along an axis of an image
LARGEST_JSON = 2**26  # bytes
IMAGES = "images"  # content of complex arrays that are no k-space


def read_numpy(path: Path | str) -> Scan:
    """Read NAME.npy, whose axes are in NAME.json: `{"axes": ["slice", "coil", "H", "W"]}`, in any order.

    H is the readout, W the phase-encoding axis; "slice" and "coil" may be left out. The JSON may also have "mask", W
    numbers 0 or 1, or H lists of them; "acquisition", a name; "matrix", the two sizes of the image; "padding", first
    and one past the last line that was encoded; "attributes", names and values; and the geometry, all or nothing:
    "positions_mm" (slices, 3), "read_dir", "phase_dir", "slice_dir" and "voxel_mm".

    Raises
    ------
    InputError
        The JSON is missing or wrong, or the array does not fit it, is not complex, or holds NaN or images.
    """
    path = Path(path)
    file = path.with_suffix(".json")
    about = _read_json(file)
    if about.get("content") == IMAGES:
        raise InputError(f"{path}: holds images, as {file.name} says; give k-space")
    kspace = _load(path, file, about, KSPACE_AXES, "c", "complex")
    scan = make_scan(path, kspace, f"{path.stem}.h5")
    attributes = {"acquisition": str(about.get("acquisition", "unknown")), **_json_attributes(file, about)}
    geometry, mask = geometry_of(file, about, len(kspace)), _json_mask(file, about, kspace.shape[-2:])
    width = kspace.shape[-1]
    padding = _two_numbers(file, about, "padding", width)
    if padding is not None and padding[0] >= padding[1]:
        raise InputError(f"{file}: 'padding' is {list(padding)}; give the first line and one past the last")
    return replace(
        scan, attributes=attributes, geometry=geometry, mask=mask, padding=padding,
        matrix=_two_numbers(file, about, "matrix", LARGEST), voxel=voxel_of(attributes),
    )  # fmt: skip


def holds_images(path: Path) -> bool:
    """Return whether NAME.npy holds images: real numbers, or complex ones of which NAME.json says so."""
    try:
        kind = np.load(path, mmap_mode="r", allow_pickle=False).dtype.kind
        if kind != "c":
            return kind in "biuf"
        return bool(_read_json(path.with_suffix(".json")).get("content") == IMAGES)
    except Exception:  # whatever damage causes
        return False  # of which the reader of k-space says more


def is_index(path: Path) -> bool:
    """Return whether a file is the JSON of an array, and no other one."""
    try:
        return "axes" in _read_json(path)
    except InputError:
        return False


def read_numpy_images(path: Path) -> ImageVolume:
    """Read images, as `write_numpy` writes them; the JSON is as that of `read_numpy`, without "coil" and "mask".

    Raises
    ------
    InputError
        The JSON is missing or wrong, or the array does not fit it, or holds NaN.
    """
    file = path.with_suffix(".json")
    about = _read_json(file)
    pixels = _load(path, file, about, IMAGE_AXES, "biufc", "real")
    pixels = np.ascontiguousarray(pixels, np.complex64 if pixels.dtype.kind == "c" else np.float32)
    if not pixels.size or not np.isfinite(pixels).all():
        raise InputError(f"{path}: is empty, or holds NaN or infinite values; replace them")
    attributes = _json_attributes(file, about)
    geometry = geometry_of(file, about, len(pixels))
    return ImageVolume(pixels, geometry, attributes, voxel=voxel_of(attributes))


def _load(path: Path, file: Path, about: Mapping[str, Any], known: Sequence[str], kinds: str, what: str) -> np.ndarray:
    """Read an array, and arrange its axes as `known` has them; those that it lacks have size 1."""
    axes = about.get("axes")
    names = [str(axis) for axis in axes] if isinstance(axes, list) else []
    if len(names) > len(set(names)) or not {"H", "W"} <= set(names) <= set(known):
        others = " and ".join(f"'{axis}'" for axis in known if axis not in "HW")
        raise InputError(
            f"{file}: 'axes' is {axes!r}; give a list of 'H' and 'W', and of {others} where the array has them"
        )
    with read_errors(path, "truncated or not a NumPy array of numbers", "save it again"):
        array = load_array(path)
    if array.ndim != len(names) or array.dtype.kind not in kinds:
        raise InputError(f"{path}: is {array.dtype} of shape {array.shape}; give {what} numbers with axes {axes}")
    names += [axis for axis in known if axis not in names]
    whole: np.ndarray = array.reshape(*array.shape, *[1] * (len(names) - array.ndim))
    return whole.transpose([names.index(axis) for axis in known])


def _two_numbers(path: Path, about: Mapping[str, Any], name: str, most: int) -> tuple[int, int] | None:
    """Read two whole numbers from 0 to `most`; None without them."""
    numbers = about.get(name)
    if numbers is None:
        return None
    whole = isinstance(numbers, list) and len(numbers) == 2 and all(type(number) is int for number in numbers)
    if not whole or not 0 <= min(numbers) <= max(numbers) <= most or max(numbers) == 0:
        raise InputError(f"{path}: '{name}' is {numbers!r}; give two whole numbers that fit the array, or leave it out")
    return numbers[0], numbers[1]


def _json_attributes(path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Read further attributes; lists become arrays."""
    attributes = about.get("attributes", {})
    if not isinstance(attributes, dict):
        raise InputError(f"{path}: 'attributes' is not a dictionary; write names and values")
    return {name: _json_value(path, name, value) for name, value in attributes.items()}


def _json_value(path: Path, name: str, value: Any) -> Any:
    """Check an attribute, and make an array of a list."""
    with read_errors(path, f"attribute '{printable(name)}' is none", "write a number, a text, or a list of them"):
        array = np.asarray(value)
        if array.dtype.kind not in "biufU" or not name or "\0" in f"{name}{value}":
            raise ValueError("another type")
        f"{name}{value}".encode()  # raises for halves of characters
        return array if isinstance(value, list) else value


def _read_json(path: Path) -> dict[str, Any]:
    remedy = f"write {json.dumps({'axes': KSPACE_AXES})}, as in the array"
    if not path.exists():
        raise InputError(f"{path}: not readable as JSON (missing: the array is incomplete without it); {remedy}")
    with read_errors(path, "not readable as JSON", remedy):
        if path.stat().st_size > LARGEST_JSON:
            raise InputError(f"has more than {LARGEST_JSON} bytes; write what belongs to the array alone")
        about = json.loads(path.read_text())
    if not isinstance(about, dict):
        raise InputError(f"{path}: is not a dictionary; write names and values")
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


def write_numpy(path: Path | str, volume: ImageVolume) -> None:
    """Write NAME.npy, float32 or complex64 (slice, h, w), and NAME.json with its axes, geometry and attributes."""
    path = Path(path)
    about: dict[str, Any] = {"axes": list(IMAGE_AXES), **as_lists(volume.geometry)}
    attributes = as_json(volume.attributes, volume.voxel if volume.geometry is None else None)
    about |= {"attributes": attributes} if attributes else {}
    about |= {"content": IMAGES} if np.iscomplexobj(volume.pixels) else {}
    save_numpy(path, volume.pixels, about)


def save_numpy(path: Path, array: np.ndarray, about: Mapping[str, Any]) -> None:
    """Write an array and the JSON beside it."""
    with atomic_pair(path, path.with_suffix(".json")) as (of_array, of_json):
        with of_array.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        of_json.write_text(json.dumps(about) + "\n")


def as_lists(geometry: Geometry | None) -> dict[str, Any]:
    """Return the geometry for JSON; empty if there is none."""
    return {} if geometry is None else {name: value.tolist() for name, value in geometry.attributes().items()}


def as_json(attributes: Mapping[str, Any], voxel: tuple[float, float, float] | None = None) -> dict[str, Any]:
    """Return attributes for JSON, with the voxel size, but without the geometry and what JSON has no form for."""
    plain = {name: value.decode(errors="replace") if isinstance(value, bytes) else value
             for name, value in attributes.items() if name not in GEOMETRY_KEYS}  # fmt: skip
    plain |= {} if voxel is None else {VOXEL_KEY: list(voxel)}
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in plain.items()}
    return {name: value for name, value in plain.items() if isinstance(value, str | int | float | list)}
