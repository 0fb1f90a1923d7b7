"""The volumes of a protocol: its files found, and checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrihvae.cli.common import Failures
from mrihvae.cli.protocol_data import ScanEntry, field_strength
from mrihvae.cli.reconstruct_files import open_cached
from mrihvae.data.scan import TARGETS
from mrihvae.errors import InputError
from mrihvae.io.fastmri import read_head
from mrihvae.io.formats import KSPACE_SUFFIXES, check_names, has_suffix
from mrihvae.io.kspace import kind_of, list_kspace
from mrihvae.physics.fastmri_masks import seed_of
from mrihvae.physics.sampling import sampling_pattern
from mrihvae.protocols.evaluation import Protocol
from mrihvae.utils.notices import collect_notices


def find_files(protocol: Protocol, data: Path) -> list[Path]:
    """Find the files of a protocol, sorted by name.

    Raises
    ------
    InputError
        No such folder, or no file in it.
    """
    folder = data / protocol.data
    if not folder.is_dir():
        if not data.is_dir() or not any(has_suffix(file, KSPACE_SUFFIXES) for file in data.iterdir()):
            raise InputError(
                f"{data}: has no folder '{protocol.data}', and no file with k-space itself; give --data with them"
            )
        folder = data
    return list_kspace(folder)


def find_volumes(
    protocol: Protocol, files: Sequence[Path], failures: Failures, reading: Mapping[str, Any]
) -> list[ScanEntry]:
    """Check the files of a protocol before any work, and list their scans; files that cannot be read go to `failures`.

    `reading` has options of `mrihvae.open_kspace`.

    Raises
    ------
    InputError
        No file of the acquisitions, one that does not fit the challenge, or a mask that no file of this size can have.
    """
    volumes = []
    folder = files[0].parent
    for file in files:
        with failures.collect(file.name):
            volumes += _volumes(file, protocol.challenge, reading)
    failures.check_any_left(folder, "reconstructed")
    for volume in volumes:
        _check_challenge(volume, protocol.challenge)
    check_names((volume.file, volume.name) for volume in volumes)
    chosen = [v for v in volumes if not protocol.acquisitions or v.acquisition in protocol.acquisitions]
    if not chosen:
        there = ", ".join(sorted({volume.acquisition for volume in volumes}))
        wanted = ", ".join(protocol.acquisitions)
        raise InputError(f"{folder}: no file has acquisition {wanted}; there are: {there}")
    mask, shapes = protocol.mask, {v.shape: v.file for v in chosen if not v.masked}
    for shape, file in shapes.items():
        try:
            sampling_pattern(mask.type, shape, mask.acceleration, mask.center_fraction, seed_of(file.name))
        except InputError as error:
            raise InputError(f"{file}: the protocol's mask cannot be drawn for it ({error})") from error
    return chosen


def _volumes(file: Path, challenge: str, reading: Mapping[str, Any]) -> list[ScanEntry]:
    """List the scans of a file."""
    if kind_of(file, reading.get("key")) == "fastmri":
        with collect_notices():  # they are said when it is reconstructed
            head = read_head(file, reading.get("key"))
        scored = TARGETS[challenge] in head.keys
        return [ScanEntry(file, file.name, head.acquisition, head.shape, head.masked, scored, field_strength(file))]
    return [
        ScanEntry(
            file,
            scan.name,
            str(scan.attributes.get("acquisition", "unknown")),
            scan.kspace.shape,
            scan.mask is not None and not scan.mask.all(),
            scored=False,
        )
        for scan in open_cached(file, **reading)
    ]


def _check_challenge(volume: ScanEntry, challenge: str) -> None:
    kind = "singlecoil" if volume.coils is None else "multicoil"
    if kind != challenge:
        raise InputError(f"{volume.file}: is {kind}, but the protocol's challenge is {challenge}; check --data")
