"""Damaged files by format and number: equal numbers give equal files."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.robustness.hdf5_mutations import mutate_hdf5
from benchmarks.robustness.mutations import BYTE_MUTATIONS, Generator, Mutation, inside_gzip, splice
from benchmarks.robustness.seeds import Files, stamp
from benchmarks.robustness.structure import STRUCTURES
from benchmarks.robustness.text_mutations import mutate_json, mutate_lines, mutate_toml

STRUCTURAL = 0.55  # of the cases, where the format has such mutations
STAMPED = 0.8  # of damaged weights have the right hash
TWICE = 0.2  # of the cases are broken in a second place
BY_SUFFIX = {".json": mutate_json, ".toml": mutate_toml, ".hdr": mutate_lines}
HDF5 = b"\x89HDF"


@dataclass(frozen=True)
class Case:
    """A damaged file, and those beside it.

    Attributes
    ----------
    kind : of mutation
    files : names and bytes; the first is opened
    """

    kind: str
    files: Files

    def write(self, folder: Path) -> Path:
        """Write the files; return the one that is opened."""
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        return folder / next(iter(self.files))


def make_case(form: str, number: int, good: Sequence[Files]) -> Case:
    """Make the damaged file of a number."""
    rng = np.random.default_rng((zlib.crc32(form.encode()), number))
    files = dict(good[int(rng.integers(len(good)))])
    kinds: list[str] = []
    for _ in range(2 if rng.random() < TWICE else 1):
        name = list(files)[int(rng.integers(len(files)))]
        others = [one[name] for one in good if name in one]
        kind, files[name] = _break(form, name, files[name], others, rng, whole=not kinds)
        if name.endswith(".safetensors") and rng.random() < STAMPED:
            files[name] = stamp(files[name])
        kinds.append(kind)
    return Case("+".join(kinds), files)


def _break(
    form: str, name: str, data: bytes, others: Sequence[bytes], rng: Generator, whole: bool
) -> tuple[str, bytes]:
    """Break one file; return the kind of mutation and its bytes.

    A file that is not `whole` is not opened by the HDF5 library, which may crash on it.
    """
    structure = _structure(form, name, data) if whole or HDF5 not in (data[:4], data[512:516]) else None
    if structure is not None and rng.random() < STRUCTURAL:
        try:
            return "structure", structure(data, rng)
        except Exception:  # the second place of a file that is too broken to be parsed
            return "truncate", data[: len(data) // 2]
    kinds = list(BYTE_MUTATIONS)
    k = int(rng.integers(len(kinds) + 1))
    if k == len(kinds):
        return "splice", splice(data, rng, others[int(rng.integers(len(others)))])
    mutation = BYTE_MUTATIONS[kinds[k]]
    if name.endswith(".gz") and rng.random() < 0.5:
        try:
            return f"gzip {kinds[k]}", inside_gzip(mutation)(data, rng)
        except zlib.error:
            return "truncate", data[: len(data) // 2]
    return kinds[k], mutation(data, rng)


def _structure(form: str, name: str, data: bytes) -> Mutation | None:
    """Return the structural mutation of a file, None if there is none."""
    suffix = Path(name).suffix
    if suffix in BY_SUFFIX:
        return BY_SUFFIX[suffix]
    if HDF5 in (data[:4], data[512:516]):
        return _in_place
    if form == "nifti_gzip":
        return inside_gzip(STRUCTURES["nifti"])
    return STRUCTURES.get(suffix.removeprefix(".")) or STRUCTURES.get(form)


def _in_place(data: bytes, rng: Generator) -> bytes:
    """Change an HDF5 file where it lies."""
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        path = Path(folder) / "scan.h5"
        path.write_bytes(data)
        mutate_hdf5(path, rng)
        return path.read_bytes()


def memory_folder() -> Path | None:
    """Return a folder in memory, where there is one, so that no disk is worn out."""
    return Path("/dev/shm") if Path("/dev/shm").is_dir() else None
