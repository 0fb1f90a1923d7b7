"""The undersampled scans that `mrihvae adapt` is given: read, checked, and made ready slice by slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrihvae.cli.common import Failures
from mrihvae.cli.console import progress
from mrihvae.coils.settings import CoilSettings
from mrihvae.data.scan import Scan, is_complete
from mrihvae.errors import InputError
from mrihvae.inference.held_out import FEWEST
from mrihvae.io.kspace import list_kspace, open_kspace
from mrihvae.physics.fastmri_masks import effective_acceleration
from mrihvae.recon.sliced_scan import SlicedScan
from mrihvae.recon.undersampling import check_signal, mask_of
from mrihvae.training.self_supervised import UndersampledSlice


@dataclass(frozen=True)
class SiteScan:
    """An undersampled scan of a site, as `mrihvae reconstruct` prepares it."""

    file: Path
    scan: Scan
    mask: np.ndarray
    sliced: SlicedScan

    @property
    def description(self) -> dict[str, Any]:
        """What the card of the weights says of the scan."""
        return {
            "name": self.scan.name,
            "slices": len(self.sliced),
            "coils": self.scan.coils,
            "acceleration": round(effective_acceleration(self.mask), 3),
        }

    def slice(self, k: int) -> UndersampledSlice | None:
        """Prepare a slice; None if it is empty or too little of it can be held out."""
        batch = self.sliced.batch(k, k + 1)
        if not bool(batch.kspace.any()):
            return None
        maps = None if batch.maps is None else batch.maps[0]
        measured, name = self.sliced.measured, self.scan.name
        found = UndersampledSlice.of(batch.kspace[0], measured, batch.known, batch.noise[0], maps, name)
        return found if found.learnable else None


def open_scans(paths: Sequence[str], reading: Mapping[str, Any]) -> list[SiteScan]:
    """Open all scans; files that cannot be used are named, and the others are taken.

    Parameters
    ----------
    paths : files with k-space, or folders of them
    reading : options of `mrihvae.open_kspace`

    Raises
    ------
    InputError
        No file that can be used.
    """
    files = [file for path in paths for file in list_kspace(Path(path), reading.get("key"))]
    failures, scans = Failures(len(files)), list[SiteScan]()
    for file in files:
        with failures.collect(file.name):
            scans += [_checked(file, scan) for scan in open_kspace(file, lazy=True, **reading)]
    failures.check_any_left(Path(paths[0]), "usable")
    return scans


def read_slices(scans: Sequence[SiteScan], most: int) -> list[UndersampledSlice]:
    """Prepare at most so many slices, evenly spread over all scans; maps of several coils are estimated on the way.

    Raises
    ------
    InputError
        Nothing from which anything can be learned.
    """
    every = [(scan, k) for scan in scans for k in range(len(scan.sliced))]
    chosen = np.unique(np.linspace(0, len(every) - 1, min(most, len(every))).round().astype(int))
    slices, failures = list[UndersampledSlice](), Failures(len(scans))
    for scan, k in progress([every[n] for n in chosen], "reading", "slice"):
        if scan.scan.name not in failures.reasons:
            with failures.collect(scan.scan.name):
                slices += [one for one in (scan.slice(k),) if one is not None]
    failures.check_any_left(scans[0].file.parent, "usable")
    if not slices:
        raise InputError(
            f"{scans[0].scan.name}: too few lines were acquired outside the calibration region to hold some out "
            f"(at least {FEWEST}); give other scans, or use the weights without adapting"
        )
    return slices


def _checked(file: Path, scan: Scan) -> SiteScan:
    """Check that a scan is undersampled, and that there is something in it."""
    if is_complete(scan):
        raise InputError(
            f"{file}: is fully sampled; train on such scans with 'mrihvae train', which learns more from them"
        )
    mask = mask_of(scan, None)
    check_signal(scan, mask)
    return SiteScan(file, scan, mask, SlicedScan(scan, mask, CoilSettings()))
