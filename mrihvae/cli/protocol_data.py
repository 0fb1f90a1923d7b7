"""Scans that a protocol is run on, and whether they look like those that it is for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mrihvae.io.checked_hdf5 import open_checked


@dataclass(frozen=True)
class ScanEntry:
    """Description of a scan, without its arrays.

    Attributes
    ----------
    file : path
    name : of the scan; that of the file where it holds one scan in fastMRI's format
    acquisition : attribute of that name, or "unknown"
    kspace : shape of it, (slices, H, W) or (slices, coils, H, W)
    masked : whether it has a mask of its own
    scored : whether it has the challenge's target
    field : tesla, None where the file does not say it
    """

    file: Path
    name: str
    acquisition: str
    kspace: tuple[int, ...]
    masked: bool
    scored: bool
    field: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of k-space."""
        return self.kspace[-2], self.kspace[-1]

    @property
    def coils(self) -> int | None:
        """Number of coils; None where k-space has no axis for them."""
        return self.kspace[1] if len(self.kspace) == 4 else None


@dataclass(frozen=True)
class KnownData:
    """What the scans of a data set have in common.

    Attributes
    ----------
    acquisitions : all there are
    heights : least and largest H of k-space
    fields : tesla, least and largest
    coils : of multi-coil scans, least and largest
    """

    acquisitions: Sequence[str]
    heights: tuple[int, int]
    fields: tuple[float, float]
    coils: tuple[int, int] = (1, 1)


KNOWN = {  # by words of a protocol's name or description; of fastMRI: Zbontar et al. 2018, Muckley et al. 2021
    "fastMRI knee": KnownData(("CORPD_FBK", "CORPDFS_FBK"), (640, 640), (1.4, 3.1), (15, 15)),
    "fastMRI brain": KnownData(("AXFLAIR", "AXT1", "AXT1POST", "AXT1PRE", "AXT2"), (512, 1024), (1.4, 3.1), (2, 32)),
    "raw 0.055 T brain": KnownData(("ULF_FLAIR", "ULF_FSE", "ULF_GRE"), (96, 256), (0.05, 0.06)),
}


def unlike_protocol(about: str, volume: ScanEntry) -> str:
    """Describe how a scan differs from the data that a protocol is for; empty where it does not, or nothing is known.

    Parameters
    ----------
    about : name and description of the protocol
    """
    words = re.sub(r"[\s_,]+", " ", about.lower())
    data = next((name for name in KNOWN if name.lower() in words), None)
    if data is None:
        return ""
    known, found = KNOWN[data], []
    if volume.acquisition not in known.acquisitions:
        found.append(f"its acquisition is {volume.acquisition}, not {' or '.join(known.acquisitions)}")
    for text, value, (low, high) in (
        ("its k-space is {} high, not {}", volume.shape[0], known.heights),
        ("it has {} coils, not {}", volume.coils, known.coils),
        ("its field is {} T, not {}", volume.field, known.fields),
    ):
        if value is not None and not low <= value <= high:
            found.append(text.format(f"{value:g}", f"{low:g}" if low == high else f"{low:g} to {high:g}"))
    if not found:
        return ""
    return f"does not look like the protocol's data, {data}: {'; '.join(found)}. Check --data and the protocol"


def field_strength(file: Path) -> float | None:
    """Return the field strength that the ISMRMRD header of a fastMRI file has, in tesla; None without one."""
    try:
        with open_checked(file) as opened:
            header = opened["ismrmrd_header"][()]
        text = header.decode(errors="replace") if isinstance(header, bytes) else str(header)
        found = re.search(r"<(?:\w+:)?systemFieldStrength_T>\s*([\d.eE+-]+)", text)
        return None if found is None else float(found[1])
    except Exception:  # whatever damage causes, of which who reads it says more
        return None
