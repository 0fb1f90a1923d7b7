"""Protocols: which scans are undersampled by which patterns and reconstructed by which methods, read from TOML.

methods = ["zero-filled", "hybrid"]

[[patterns]]
mask_type = "random"
acceleration = 4
center_fraction = 0.08
axis = -1                       # optional: -1 if lines differ along W, -2 if along H

[[scans]]
name = "T1ce, simulated"
path = "images/t1ce/val"        # below the data directory; of raw k-space, a single file, too
every = 10                      # 0 or left out: raw k-space; n: simulate from every nth image
limit = 3                       # optional: at most this many files
coils = 8                       # optional: of simulated scans
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.simulated_scans import simulate_folder
from mrihvae.errors import InputError
from mrihvae.io.formats import list_files
from mrihvae.physics.sampling import Undersampling, sampling_pattern
from mrihvae.protocols.evaluation import read_kind
from mrihvae.utils.config import from_dict

LABELS = {
    "zero-filled": "zero-filled",
    "pocs": "POCS",
    "wavelet": "L1-wavelet (sigpy)",
    "tv": "TV (sigpy)",
    "bart-wavelet": "L1-wavelet (BART)",
    "bart-tv": "TV (BART)",
    "unet": "U-Net (fastMRI)",
    "amortized": "mrihvae (amortized)",
    "hybrid": "mrihvae (hybrid)",
    "samples": "mrihvae (mean of samples)",
}
METHODS = tuple(LABELS)
T = TypeVar("T")


@dataclass(frozen=True)
class ScanSet:
    """A folder of the data directory: raw k-space, or images that become simulated scans.

    Attributes
    ----------
    name : what results call it
    path : folder below the data directory
    every : 0 for raw k-space; n to simulate scans from every nth image
    limit : at most this many files, spread evenly over the folder; 0 for all
    coils : of simulated scans
    """

    name: str
    path: str
    every: int = 0
    limit: int = 0
    coils: int = 1

    @property
    def kind(self) -> str:
        """Say what its scans are: "raw" or "simulated"."""
        return "simulated" if self.every else "raw"


@dataclass(frozen=True)
class Protocol:
    """What is run: every method on every scan under every pattern."""

    patterns: tuple[Undersampling, ...]
    methods: tuple[str, ...]
    scans: tuple[ScanSet, ...]


def read_protocol(path: Path, known: Sequence[str] = METHODS) -> Protocol:
    """Read a protocol of some of the methods `known`.

    Raises
    ------
    InputError
        Not there, no TOML, an unknown key or method, an empty list, or a pattern that cannot be drawn.
    """
    _, values = read_kind(path)
    values.pop("run", None)
    for key, kind in (("patterns", Undersampling), ("scans", ScanSet)):
        tables = values.get(key)
        if not isinstance(tables, list) or not tables:
            raise InputError(f"{path}: has no [[{key}]]; add one table for each")
        values[key] = [from_dict(kind, table, f"{path}, {key}") for table in tables]
    protocol = from_dict(Protocol, values, str(path))
    if not protocol.methods:
        raise InputError(f"{path}: methods is empty; list some of {', '.join(known)}")
    subset(known, protocol.methods, f"{path}: method")
    for pattern in protocol.patterns:
        _check_pattern(pattern, path)
    names = [label(pattern) for pattern in protocol.patterns]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: two patterns are called the same ({', '.join(names)}); give each its own protocol")
    return protocol


def subset(known: Sequence[str], wanted: Sequence[str] | None, what: str) -> list[str]:
    """Give those of `known` that are wanted, in its order; all of them for None.

    Raises
    ------
    InputError
        One that is wanted is not known; `what` begins the message.
    """
    for name in wanted or ():
        if name not in known:
            raise InputError(f"{what} '{name}' is unknown; choose from: {', '.join(known)}")
    return [name for name in known if wanted is None or name in wanted]


def label(pattern: Undersampling) -> str:
    """Name a pattern: "random 4x", or "random 4x along H"."""
    return f"{pattern.mask_type} {pattern.acceleration:g}x{' along H' if pattern.axis == -2 else ''}"


def scan_files(scans: ScanSet, data: Path, work: Path, limit: int = 0) -> list[Path]:
    """List the files of a set; simulated ones are made below `work` at the first call.

    Parameters
    ----------
    data : the data directory
    work : folder for simulated scans
    limit : at most this many files, besides the set's own limit; 0 for all
    """
    files = list_files(data / scans.path if scans.kind == "raw" else _simulated(scans, data / scans.path, work))
    limits = [n for n in (scans.limit if scans.kind == "raw" else 0, limit) if n]
    return spread(files, min(limits)) if limits else files


def spread(items: Sequence[T], count: int) -> list[T]:
    """Take at most `count` items, evenly spread."""
    kept = min(len(items), count)
    return [items[k * len(items) // kept] for k in range(kept)]


def _simulated(scans: ScanSet, source: Path, work: Path) -> Path:
    """Simulate the scans of a set once; gives their folder."""
    name = f"{scans.path.replace('/', '_')}_every{scans.every}" + (f"_limit{scans.limit}" if scans.limit else "")
    name += f"_coils{scans.coils}" if scans.coils > 1 else ""
    output = work / "scans" / name
    if not output.is_dir():
        part = output.with_name(f"{output.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        made = simulate_folder(source, part, scans.every, scans.limit or None, scans.coils)
        for _ in tqdm(made, f"simulating {scans.name}"):
            pass
        part.rename(output)
    return output


def _check_pattern(pattern: Undersampling, path: Path) -> None:
    """Draw a pattern once, so that a mistake shows before anything is reconstructed."""
    try:
        sampling_pattern(pattern.mask_type, (128, 128), pattern.acceleration, pattern.center_fraction, 0, pattern.axis)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that all benchmarks on scans have."""
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument(
        "--checkpoint", default="default", help="weights of mrihvae: a shipped name or a .safetensors file"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="simulated scans and panels")
