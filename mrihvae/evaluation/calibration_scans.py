"""Scans undersampled, reconstructed and measured for a calibration: one file each, so that a fit resumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.evaluation.calibration import CalibrationScan, measure_scan
from mrihvae.inference.held_out import spread_slices
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.methods import HybridMethod
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import observe_volume
from mrihvae.utils.files import atomic_write


def person_of(scan: Scan) -> str:
    """Return who was scanned: attribute `patient_id`, or else the name of the scan."""
    value = scan.attributes.get("patient_id", "")
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value)) or scan.name


def measure_scans(
    scan: Scan,
    person: str,
    method: HybridMethod,
    patterns: Sequence[Undersampling],
    folder: Path | None = None,
) -> list[CalibrationScan]:
    """Measure a fully sampled scan under each pattern, by at most `mrihvae.inference.held_out.SLICES` of its slices.

    Parameters
    ----------
    folder : of measurements that are there already, and for new ones; None keeps none

    Raises
    ------
    InputError
        A scan without a target.
    """
    if scan.target is None:
        raise InputError(f"{scan.name}: has no target to compare with; give fully sampled scans with one")
    chosen = spread_slices(len(scan.kspace))
    target = np.asarray(scan.target[chosen])
    part = dataclasses.replace(scan, kspace=np.asarray(scan.kspace[chosen]), target=target)
    if scan.maps is not None and len(scan.maps) > 1:
        part = dataclasses.replace(part, maps=scan.maps[chosen])
    found = []
    for pattern in patterns:
        stem = f"{Path(scan.name).stem}_{pattern.mask_type}_{pattern.acceleration:g}"
        path = None if folder is None else folder / f"{stem}_{method.weights or 'weights'}.npz"
        if path is not None and path.is_file():
            found.append(_read(path))
            continue
        observed = observe_volume(part, mask_of(part, pattern), method)
        if observed is None:
            continue
        row = measure_scan(person, pattern.acceleration, observed[1], observed[0].magnitude, target)
        if path is not None:
            _write(path, row)
        found.append(row)
    return found


def _write(path: Path, row: CalibrationScan) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        values: dict[str, Any] = {name: np.asarray(value) for name, value in vars(row).items()}
        np.savez_compressed(file, **values)


def _read(path: Path) -> CalibrationScan:
    try:
        with np.load(path) as stored:
            values = {field.name: stored[field.name] for field in dataclasses.fields(CalibrationScan)}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: damaged ({error}); remove it") from error
    return CalibrationScan(**{name: value if value.ndim else value.item() for name, value in values.items()})
