"""Files with k-space of any format, told by their content: fastMRI and ISMRMRD HDF5, BART's arrays, NumPy's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from tokenize import TokenError
from typing import Any

import h5py
import numpy as np

from mrihvae.cfl_files import SIZES, read_cfl
from mrihvae.errors import InputError
from mrihvae.fastmri_files import Scan, count_coils, read_scan
from mrihvae.geometry import ATTRIBUTES, geometry_of
from mrihvae.partitions import check_partitions, transformed

FORMATS = "fastMRI HDF5, ISMRMRD (MRD) HDF5, BART .cfl with .hdr, or NumPy .npy with a .json of axes"
SUFFIXES = (".h5", ".hdf5", ".mrd", ".cfl", ".npy")
AXES = ("slice", "coil", "H", "W")  # of an array, in the order of ours
READ, PHASE_1, PHASE_2, COIL, SLICE = 0, 1, 2, 3, 13  # dimensions of BART
NAMES = (
    "READ", "PHS1", "PHS2", "COIL", "MAPS", "TE", "COEFF", "COEFF2", "ITER", "CSHIFT", "TIME", "TIME2", "LEVEL",
    "SLICE", "AVG", "BATCH",
)  # fmt: skip
APART = (5, 10, 11, 14)  # of these, each number is a scan of its own: echoes, times, averages
MISSING = "'mrihvae[mrd]'"
MRD_KEYS = {"xml", "data"}  # header and lines
JSON_KEYS = ("axes", "mask", "acquisition", *ATTRIBUTES)


def open_kspace(path: Path | str, lazy: bool = False) -> list[Scan]:
    """Read a file with k-space, of whichever format.

    Parameters
    ----------
    path : a fastMRI file; an ISMRMRD file with 2D or 3D Cartesian scans; NAME.cfl or NAME.hdr of BART, with dimensions
        READ (along H), PHS1 (along W), COIL and SLICE, or PHS2 of a 3D scan; NAME.npy with NAME.json, see `read_numpy`
    lazy : leave k-space of fastMRI files where it is, to be read slice by slice; other formats are read at once

    Returns
    -------
    scans, each with slices of complex64 (coils, H, W), or (H, W) of one coil, the mask of what was measured, noise scan
    and geometry, as far as the file has them. Files of fastMRI hold one; contrasts, repetitions, phases and sets are
    scans of their own, named by what they are.

    Raises
    ------
    InputError
        Not there, none of these formats, or wrong in a way that the message says.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "bart":
        return _read_bart(path)
    if kind == "numpy":
        return [read_numpy(path)]
    if kind == "mrd":
        from mrihvae.mrd_files import read_mrd

        return read_mrd(path, _mrd_group(path) or "dataset")
    return [read_scan(path, lazy)]


def kind_of(path: Path) -> str:
    """Tell the format of a file: "fastmri", "mrd", "bart" or "numpy".

    Raises
    ------
    InputError
        Not there, none of these, or ISMRMRD without the package for it.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a file in it: {FORMATS}")
    if path.with_name(f"{path.name}.hdr").is_file() and not path.is_file():
        return "bart"
    if not path.is_file():
        raise InputError(f"{path}: not there; give {FORMATS}")
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if start.startswith(b"\x93NUMPY"):
        return "numpy"
    if SIZES.encode() in start or path.suffix == ".cfl":
        return "bart"
    if start.startswith(b"\x89HDF") and _mrd_group(path):
        try:
            import ismrmrd  # noqa: F401
        except ImportError as error:
            raise InputError(f"{path}: ISMRMRD files take the package ismrmrd; pip install {MISSING}") from error
        return "mrd"
    if start.startswith(b"\x89HDF") or path.suffix in (".h5", ".hdf5", ".mrd"):
        return "fastmri"  # its reader says what is wrong
    raise InputError(f"{path}: is of no format that is known; give {FORMATS}")


def list_kspace(path: Path) -> list[Path]:
    """List the files with k-space of a folder, or the one file.

    Raises
    ------
    InputError
        Not there, none in it, or two whose reconstructions would have the same name.
    """
    if not path.is_dir():
        kind_of(path)
        return [path]
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))
    if not files:
        raise InputError(f"{path}: no file with k-space in this folder; give {FORMATS}")
    check_names((file, file.name) for file in files)
    return files


def head_of(path: Path) -> tuple[list[str], int | None]:
    """Find the names of the scans in a file, and the number of coils; of fastMRI files from the head.

    None where only reading it all tells what is wrong.
    """
    if kind_of(path) == "fastmri":
        return [path.name], count_coils(path)
    scans = open_kspace(path)
    return [scan.name for scan in scans], max(scan.coils for scan in scans)


def check_names(scans: Iterable[tuple[Path, str]]) -> None:
    """Refuse scans whose reconstructions would have the same name, given as their files and names.

    Raises
    ------
    InputError
        Two of one name.
    """
    files: dict[str, Path] = {}
    for file, name in scans:
        if Path(name).stem in files:
            other = files[Path(name).stem].name
            raise InputError(
                f"{file}: has a scan that would be reconstructed to one file with one of {other}; rename it"
            )
        files[Path(name).stem] = file


def read_numpy(path: Path) -> Scan:
    """Read NAME.npy, whose axes NAME.json tells: `{"axes": ["slice", "coil", "H", "W"]}`, in any order.

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
    if not isinstance(axes, list) or sorted(map(str, axes)) not in [sorted(some) for some in _some_axes()]:
        raise InputError(
            f"{file}: 'axes' is {axes!r}; give a list of 'H' and 'W', and of 'slice' and 'coil' where the array has "
            "them"
        )
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, TokenError) as error:
        raise InputError(f"{path}: truncated or no NumPy array of numbers ({error}); save it again") from error
    if array.ndim != len(axes) or array.dtype.kind != "c":
        raise InputError(f"{path}: is {array.dtype} of shape {array.shape}; give complex numbers with axes {axes}")
    missing = [axis for axis in AXES if axis not in axes]
    whole = np.expand_dims(array, tuple(range(array.ndim, array.ndim + len(missing))))
    names = [*axes, *missing]
    kspace = whole.transpose([names.index(axis) for axis in AXES])
    scan = _checked(path, kspace, f"{path.stem}.h5")
    attributes = {"acquisition": str(about.get("acquisition", "unknown"))}
    geometry, mask = geometry_of(file, about, len(kspace)), _json_mask(file, about, kspace.shape[-2:])
    return replace(scan, attributes=attributes, geometry=geometry, mask=mask)


def _read_bart(path: Path) -> list[Scan]:
    """Read BART's k-space; 3D scans are transformed across PHS2."""
    array = read_cfl(path)
    if array.ndim > len(NAMES):
        raise InputError(f"{path}: has {array.ndim} dimensions; BART's arrays have {len(NAMES)}")
    sizes = [*array.shape, *[1] * (len(NAMES) - array.ndim)]
    whole = array.reshape(sizes)
    for dimension, size in enumerate(sizes):
        if size > 1 and dimension not in (READ, PHASE_1, PHASE_2, COIL, SLICE, *APART):
            raise InputError(
                f"{path}: has {size} numbers along dimension {dimension} ({NAMES[dimension]}), of which k-space has "
                "one; take one of them"
            )
    if sizes[PHASE_2] > 1:
        if sizes[SLICE] > 1:
            raise InputError(f"{path}: has both partitions (PHS2) and slices; take one of the slices")
        lines = whole.any(axis=tuple(k for k in range(whole.ndim) if k not in (PHASE_1, PHASE_2)))
        lines = lines.reshape(sizes[PHASE_1], sizes[PHASE_2])
        try:
            check_partitions(lines)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        whole = transformed(whole, PHASE_2).swapaxes(PHASE_2, SLICE)
    name = (path.with_suffix("") if path.suffix in (".cfl", ".hdr") else path).name
    scans = []
    several = [dimension for dimension in APART if sizes[dimension] > 1]
    for place in np.ndindex(*(sizes[dimension] for dimension in several)):
        one = whole
        for dimension, number in zip(several, place):
            one = one.take([number], axis=dimension)
        kspace = one.transpose(SLICE, COIL, READ, PHASE_1, *(k for k in range(1, 16) if k not in (13, 3, 1)))
        kspace = kspace.reshape(kspace.shape[:4])
        told = "".join(f"_{NAMES[dimension].lower()}{number}" for dimension, number in zip(several, place))
        scans.append(_checked(path, kspace, f"{name}{told}.h5"))
    return scans


def _checked(path: Path, kspace: np.ndarray, name: str) -> Scan:
    """Check (slice, coil, H, W), and make a scan of it."""
    if min(kspace.shape) < 1 or min(kspace.shape[-2:]) < 2:
        raise InputError(f"{path}: k-space is {' x '.join(map(str, kspace.shape))}; H and W must be at least 2")
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(kspace, np.complex64)
    if not np.isfinite(found).all():
        raise InputError(f"{path}: holds NaN or infinite values; export the scan again")
    return Scan(name, found[:, 0] if found.shape[1] == 1 else found, attributes={"acquisition": "unknown"})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f'{path}: not readable as JSON ({error}); write {{"axes": ["slice", "coil", "H", "W"]}}, as in the array'
        ) from error
    if not isinstance(about, dict):
        raise InputError(f"{path}: holds no dictionary; write names and values")
    for key in about:
        if key not in JSON_KEYS:
            near = get_close_matches(key, JSON_KEYS, n=1, cutoff=0.0)[0]
            raise InputError(f"{path}: unknown entry '{key}'; the nearest known one is '{near}'")
    lacking = [name for name in ATTRIBUTES if name not in about]
    if 0 < len(lacking) < len(ATTRIBUTES):
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
    numbers = [one for row in rows for one in row] if by_bin else rows
    whole = by_bin or len(rows) == shape[1]
    if not whole or not all(isinstance(one, int) and one in (0, 1) for one in numbers) or not any(numbers):
        raise InputError(
            f"{path}: 'mask' must be a list of {shape[1]} numbers 0 or 1, or {shape[0]} such lists, at least one "
            "of them 1"
        )
    return np.array(rows, bool)


def _some_axes() -> Sequence[tuple[str, ...]]:
    return (AXES, AXES[1:], AXES[2:], ("slice", *AXES[2:]))


def _mrd_group(path: Path) -> str | None:
    """Find the group of an HDF5 file with ISMRMRD's header and lines, or part of them, or images; None if none is."""
    try:
        with h5py.File(path, "r") as file:
            groups = {name: set(file[name]) for name in file if isinstance(file.get(name), h5py.Group)}
            if "kspace" in file:
                return None
            images = [name for name in groups if any(_is_image(one) for one in file[name].values())]
    except (OSError, RuntimeError, AttributeError):
        return None
    whole = [name for name, keys in groups.items() if keys >= MRD_KEYS]
    found = [*whole, *(name for name, keys in groups.items() if keys & MRD_KEYS), *images]
    return found[0] if found else None


def _is_image(one: object) -> bool:
    return isinstance(one, h5py.Group) and {"data", "header"} <= set(one)
