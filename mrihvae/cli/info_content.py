"""One file of `mrihvae info`: what is in it, as plain values for JSON."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mrihvae.data.inspection import MAX_SLICES, Inspection, inspect_kspace
from mrihvae.data.scan import Scan, acquired_samples, delivered_shape, encoded_lines, is_complete
from mrihvae.errors import InputError
from mrihvae.io.fastmri import MAPS_KEY, NOISE_KEY, read_head
from mrihvae.io.kspace import kind_of, open_brief
from mrihvae.physics.mask_type import EMPTY, SamplingDescription, describe_sampling
from mrihvae.utils.notices import collect_notices

FORMATS = {
    "fastmri": "fastMRI HDF5", "mrd": "ISMRMRD (MRD) HDF5", "twix": "Siemens TWIX", "bart": "BART", "numpy": "NumPy",
    "matlab": "MATLAB",
}  # fmt: skip
MIN_CALIBRATION = 4  # lines of the calibration region, below which sensitivity maps cannot be estimated
MIN_SHIFT = 4  # samples of the peak from the center of k-space that are worth a word
ERROR, WARNING = "error", "warning"


def describe_file(file: Path, reading: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a file.

    Parameters
    ----------
    reading : options of `mrihvae.open_kspace`

    Returns
    -------
    "file", "format", "error" (None, or why it cannot be read), "scans", "warnings" of its reader,
    and "command" to reconstruct it, or None where no command would
    """
    found: dict[str, Any] = {"file": str(file), "format": None, "error": None, "scans": [], "warnings": []}
    options = dict(reading)
    try:
        found["format"] = kind_of(file, options.get("key"))
        with collect_notices() as notices:
            scans = open_brief(file, **options)
            looks = [_look(scan) for scan in scans]
            refusals = ["" if options.get("uncentered") else _refusal_of_center(*look) for look in looks]
            if any(refusals):
                options["uncentered"] = True  # the rest is described as --uncentered would read it
                looks = [_look(scan) for scan in open_brief(file, **options)]
            contents = _contents(file, found["format"], options.get("key"))
        rows = zip(scans, looks, refusals, strict=True)
        found["scans"] = [_describe(scan, *look, refusal, contents) for scan, look, refusal in rows]
        found["warnings"] = notices
    except InputError as error:
        return {**found, "error": str(error), "command": None}
    return {**found, "command": _command(file, found["scans"], options, set(refusals))}


def _describe(scan: Scan, part: Scan, look: Inspection, refusal: str, contents: Mapping[str, bool]) -> dict[str, Any]:
    """Describe a scan in plain values, None where the file does not say.

    Parameters
    ----------
    part, look : some of its slices, and what they look like
    refusal : of its k-space as it was stored, before it was centered
    contents : whether the file has "target", "noise_scan" and "sensitivity_maps", which a brief scan lacks
    """
    sampling = _sampling(part)
    shape, delivered = list(scan.kspace.shape[-2:]), list(delivered_shape(scan))
    voxel = scan.geometry.voxel if scan.geometry is not None else scan.voxel
    has = {
        "target": scan.target is not None, "noise_scan": scan.noise_scan is not None,
        "sensitivity_maps": scan.maps is not None, **contents,
    }  # fmt: skip
    calibration = None if scan.calibration is None else [int(size) for size in scan.calibration[0].kspace.shape[-2:]]
    texts = {name: _text(scan.attributes.get(name)) for name in ("acquisition", "vendor")}
    return {
        "name": scan.name,
        "slices": len(scan.kspace),
        "coils": scan.coils,
        "matrix": shape,
        "delivered_matrix": delivered,
        "voxel_mm": None if voxel is None else [round(float(size), 4) for size in voxel],
        "field_of_view_mm": None if voxel is None else _field_of_view(voxel, delivered),
        "mask_type": sampling.mask_type,
        "mask_in_file": scan.mask is not None,
        "fully_sampled": is_complete(part),
        "lines_along": sampling.axis or None,
        "acceleration": round(sampling.acceleration, 3),
        "calibration_lines": sampling.calibration_lines,
        "calibration_region": list(sampling.calibration),
        "separate_calibration": calibration,
        "partial_fourier": [round(share, 3) for share in sampling.partial_fourier],
        **has,
        "field_strength_T": _number(scan.attributes.get("field_strength_T")),
        **texts,
        "peak_shift": list(look.shift),
        "checks": _checks(part, look, sampling, refusal, has["sensitivity_maps"]),
    }


def _look(scan: Scan) -> tuple[Scan, Inspection]:
    """Read some slices of a scan; return it with these alone, and what they look like."""
    count = len(scan.kspace)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_SLICES)).round().astype(int))
    part = replace(scan, kspace=np.concatenate([np.asarray(scan.kspace[int(k) : int(k) + 1]) for k in chosen]))
    return part, inspect_kspace(part, scan.mask)


def _refusal_of_center(part: Scan, look: Inspection) -> str:
    """Return why k-space is refused if its peak is at a corner; empty if it is not."""
    pairs = zip(look.shift, part.kspace.shape[-2:], strict=True)
    return look.refusal if all(abs(shift) >= size // 2 - 1 for shift, size in pairs) else ""


def _contents(file: Path, kind: str, key: str | None) -> dict[str, bool]:
    """Find what a fastMRI file has beside k-space; nothing of other formats, whose scans have all of it."""
    if kind != "fastmri":
        return {}
    head = read_head(file, key)
    several = len(head.shape) == 4
    maps, noise = (several and name in head.keys for name in (MAPS_KEY, NOISE_KEY))
    return {"target": head.target_key in head.keys, "noise_scan": noise, "sensitivity_maps": maps}


def _sampling(part: Scan) -> SamplingDescription:
    """Describe the mask of a scan, the file's or by what is not zero."""
    shape = (part.kspace.shape[-2], part.kspace.shape[-1])
    mask = acquired_samples(part) if part.mask is None else part.mask
    rows = (np.asarray(part.kspace) != 0).any(axis=(*range(part.kspace.ndim - 2), part.kspace.ndim - 1))
    return describe_sampling(mask, shape, encoded_lines(part), rows)


def _checks(
    part: Scan, look: Inspection, sampling: SamplingDescription, refusal: str, has_maps: bool
) -> list[dict[str, str]]:
    """List what is wrong with a scan, or doubtful: "level" and "text" of each."""
    errors = [text for text in (refusal, look.refusal) if text]
    kspace = np.asarray(part.kspace)
    if not np.isfinite(kspace).all():
        errors.append("holds NaN or infinite values; export the scan again")
    elif not kspace.any():
        errors.append("k-space is zero in all slices that were inspected")
    if sampling.mask_type == EMPTY:
        return [{"level": ERROR, "text": text} for text in errors]
    warnings, has_center = list(look.warnings), min(sampling.calibration) > 0
    if not has_center:
        warnings.append("the center of k-space was not acquired: contrast is not reliable")
    for axis, shift in zip("HW", look.shift, strict=True):
        if has_center and not look.refusal and abs(shift) >= MIN_SHIFT:
            warnings.append(f"the strongest sample lies {shift} samples from the center of k-space along {axis}")
    few = min(sampling.calibration) < MIN_CALIBRATION
    if part.coils > 1 and few and not has_maps and part.calibration is None:
        warnings.append("no calibration region (ACS): sensitivity maps cannot be estimated; give maps")
    for axis, share in zip("HW", sampling.partial_fourier, strict=True):
        if share < 1:
            warnings.append(f"partial Fourier along {axis}: {100 * share:.0f} % of k-space was acquired")
    return [{"level": level, "text": text} for level, texts in ((ERROR, errors), (WARNING, warnings)) for text in texts]


def _command(file: Path, scans: list[dict[str, Any]], reading: Mapping[str, Any], mended: set[str]) -> str | None:
    """Return the command that reconstructs a file; None if k-space is refused, but for what is `mended`."""
    checks = [check for scan in scans for check in scan["checks"]]
    if any(check["level"] == ERROR and check["text"] not in mended for check in checks):
        return None
    words = ["mrihvae", "reconstruct", str(file), "--output", "out/"]
    words += ["--key", str(reading["key"])] if reading.get("key") else []
    words += ["--uncentered"] if reading.get("uncentered") else []
    if any(scan["fully_sampled"] for scan in scans):
        words += ["--mask-type", "random", "--acceleration", "4"]
    return shlex.join(words)


def _field_of_view(voxel: tuple[float, float, float], delivered: list[int]) -> list[float]:
    return [round(float(size) * count, 2) for size, count in zip(voxel, delivered)]


def _text(value: Any) -> str | None:
    """Return a text of a file without what a terminal would obey; None where there is none."""
    text = "".join(letter if letter.isprintable() else "?" for letter in ("" if value is None else str(value)))
    return None if text in ("", "unknown") else text


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
