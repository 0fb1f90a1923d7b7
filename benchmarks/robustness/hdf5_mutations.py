"""HDF5 files broken in their structure: shapes, types, filters, attributes, links, tables of lines, texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.robustness.text_mutations import VALUES, WORDS, mutate_xml

Generator = np.random.Generator

SHAPES: tuple[Any, ...] = (
    (), (0,), (1,), (7,), (2, 0, 20), (1, 1), (2, 24), (2, 24, 20), (1, 2, 3, 4, 5), (24, 20, 2), (2, 3, 24, 20),
)  # fmt: skip
HUGE = ((2**40,), (2**20, 2**20), (2, 2**31, 20), (2**16, 2**16, 2**16))
TYPES = ("f2", "f4", ">f8", "c8", "c16", "i1", "u8", "?", "S4", "V7", "O")


def mutate_hdf5(path: Path, rng: Generator) -> None:
    """Change one thing in a file where it lies."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        arrays = [name for name in names if isinstance(file[name], h5py.Dataset)]
        kind = KINDS[int(rng.integers(len(KINDS)))]
        name = arrays[int(rng.integers(len(arrays)))]
        if kind is _attribute:
            name = str(rng.choice([*names, "/"]))
        elif kind is _link:
            name = str(rng.choice(names))
        kind(file, name, rng)


def _reshape(file: h5py.File, name: str, rng: Generator) -> None:
    """Write an array of another shape."""
    values = np.asarray(file[name][()])
    del file[name]
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    if values.dtype.kind in "fciu" and values.size:
        file.create_dataset(name, data=np.resize(values, shape) if np.prod(shape) else np.empty(shape, values.dtype))
    else:
        file.create_dataset(name, data=np.ones(shape, np.float32))


def _retype(file: h5py.File, name: str, rng: Generator) -> None:
    """Write an array of another type."""
    shape = file[name].shape or ()
    del file[name]
    kind = TYPES[int(rng.integers(len(TYPES)))]
    if kind == "O":
        file.create_dataset(name, shape, h5py.string_dtype())
    else:
        file.create_dataset(name, shape, kind)


def _claim(file: h5py.File, name: str, rng: Generator) -> None:
    """Claim an array far larger than the file, with nothing stored of it."""
    kind = file[name].dtype
    del file[name]
    shape = HUGE[int(rng.integers(len(HUGE)))]
    file.create_dataset(name, shape, kind, chunks=tuple(min(size, 64) for size in shape), compression="gzip")


def _numbers(file: h5py.File, name: str, rng: Generator) -> None:
    """Put numbers that are none, or huge, into an array or a field of a table."""
    values = np.asarray(file[name][()])
    if values.dtype.names and values.size:
        path, flat = [], values.reshape(-1)
        while flat.dtype.names:
            path.append(str(rng.choice(flat.dtype.names)))
            flat = flat[path[-1]]
        row = int(rng.integers(len(flat)))
        if flat.dtype.kind in "iu":
            limits = np.iinfo(flat.dtype)
            flat[row] = rng.choice([0, 1, limits.max, limits.min, limits.max // 2 + 1])
        elif flat.dtype.kind == "f":
            flat[row] = rng.choice([np.nan, np.inf, 3e38, 0.0, -1.0])
        elif flat.dtype == object:
            flat[row] = flat[row][: int(rng.integers(len(flat[row]) + 1))]
        file[name][...] = values
    elif values.dtype.kind in "fc" and values.size:
        values.reshape(-1)[int(rng.integers(values.size))] = rng.choice([np.nan, np.inf, 3e38, 0.0])
        file[name][...] = values
    else:
        _text(file, name, rng)


def _text(file: h5py.File, name: str, rng: Generator) -> None:
    """Change the XML of a file, or write another text in place of an array."""
    texts = [key for key in ("ismrmrd_header", "dataset/xml") if key in file]
    if texts and rng.random() < 0.8:
        held = file[texts[0]][()]
        one = held.reshape(-1)[0] if isinstance(held, np.ndarray) else held
        changed = mutate_xml(one if isinstance(one, bytes) else str(one).encode(), rng).replace(b"\0", b"")
        del file[texts[0]]
        if isinstance(held, np.ndarray):
            file.create_dataset(texts[0], held.shape, h5py.string_dtype())[...] = changed
        else:
            file.create_dataset(texts[0], data=changed)
    else:
        del file[name]
        file.create_dataset(name, data=WORDS[int(rng.integers(len(WORDS)))])


def _attribute(file: h5py.File, name: str, rng: Generator) -> None:
    """Change, add or take away an attribute."""
    attributes = file[name].attrs
    known = [*attributes, "acquisition", "acceleration", "voxel_size", "format", "weight"]
    key = str(rng.choice(known))
    if key in attributes and rng.random() < 0.2:
        del attributes[key]
        return
    value = VALUES[int(rng.integers(len(VALUES)))]
    try:
        attributes[key] = h5py.Empty("f4") if value is None else value
    except (TypeError, ValueError, OverflowError, OSError, UnicodeError):
        attributes[key] = np.full((2, 3), np.nan)


def _link(file: h5py.File, name: str, rng: Generator) -> None:
    """Replace an item by a link to itself, to nothing, out of the file, by a group or by nothing."""
    kind = int(rng.integers(6))
    del file[name]
    if kind < 4:
        file[name] = (
            h5py.SoftLink(f"/{name}"),
            h5py.SoftLink("/nowhere"),
            h5py.ExternalLink("/etc/hostname", "/x"),
            h5py.ExternalLink(Path(file.filename).name, f"/{name}"),
        )[kind]
    elif kind == 4:
        file.create_group(name)


def _outside(file: h5py.File, name: str, rng: Generator) -> None:
    """Store an array in another file: external storage, or a virtual dataset of it."""
    shape, kind = file[name].shape or (1,), file[name].dtype
    del file[name]
    if kind.kind not in "fciu" or not np.prod(shape):
        shape, kind = (2, 24, 20), np.dtype("c8")
    if rng.random() < 0.5:
        size = int(np.prod(shape)) * kind.itemsize
        file.create_dataset(name, shape, kind, external=[("/etc/hostname", 0, size)])
    else:
        layout = h5py.VirtualLayout(shape, kind)
        layout[...] = h5py.VirtualSource("nowhere.h5", "x", shape)
        file.create_virtual_dataset(name, layout)


def _empty(file: h5py.File, name: str, rng: Generator) -> None:
    """Write an array without a shape."""
    kind = file[name].dtype
    del file[name]
    file[name] = h5py.Empty("f4" if kind.kind == "O" else kind)


KINDS = (_reshape, _retype, _claim, _numbers, _numbers, _text, _text, _attribute, _link, _outside, _empty)
