"""`mrihvae info`: what is in files with k-space, what is doubtful about it, and the command to reconstruct it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mrihvae.cli import options
from mrihvae.cli.common import reading_of
from mrihvae.cli.info_content import FORMATS, describe_file
from mrihvae.errors import InputError
from mrihvae.io.formats import KSPACE_FORMATS, KSPACE_SUFFIXES, list_files
from mrihvae.utils.memory import set_limit
from mrihvae.utils.text import printable

LABEL = 14  # letters


def run(arguments: options.Info) -> int:
    """Describe files; prints lines, or with --json a list of objects.

    Returns
    -------
    the exit status: 1 if some of the files cannot be read

    Raises
    ------
    InputError
        A single file that cannot be read, or a folder without files.
    """
    set_limit(arguments.max_memory)
    found: list[dict[str, Any]] = []
    files = [file for path in arguments.files for file in _files(path)]
    for file in files:
        found.append(describe_file(file, reading_of(arguments)))
        if not arguments.json and (len(files) > 1 or found[-1]["error"] is None):
            print(printable("\n".join(_lines(found[-1])), keep="\n"))
    if arguments.json:
        print(json.dumps(found, indent=2))
    failed = [about["error"] for about in found if about["error"]]
    if failed and len(files) == 1:
        raise InputError(failed[0])
    return 1 if failed else 0


def _files(path: Path) -> list[Path]:
    """List the files of a folder, or the one file, which need not exist: its description says so."""
    if not path.is_dir():
        return [path]
    return list_files(path, KSPACE_SUFFIXES, "no file with k-space in this folder", f"give {KSPACE_FORMATS}")


def _lines(about: dict[str, Any]) -> list[str]:
    """Describe a file in lines."""
    if about["error"]:
        return [f"{about['file']}: cannot be read", f"  {'error':{LABEL}}{about['error']}"]
    lines = [f"{about['file']}: {FORMATS[about['format']]}"]
    for scan in about["scans"]:
        lines += [f"  {scan['name']}", *(f"    {label:{LABEL}}{text}" for label, text in _scan_lines(scan) if text)]
    lines += [f"  {'warning':{LABEL}}{text}" for text in about["warnings"]]
    lines.append(f"  {'reconstruct':{LABEL}}{about['command'] or 'cannot be reconstructed'}")
    if "--mask-type" in (about["command"] or ""):
        lines.append(f"  {'':{LABEL}}(fully sampled: this undersamples it; 'mrihvae convert' writes its images)")
    return lines


def _scan_lines(scan: dict[str, Any]) -> list[tuple[str, str]]:
    """Describe a scan: labels and texts, which are empty where nothing is known."""
    matrix = " x ".join(map(str, scan["matrix"]))
    if scan["delivered_matrix"] != scan["matrix"]:
        matrix += f", delivered {' x '.join(map(str, scan['delivered_matrix']))}"
    voxel, view = scan["voxel_mm"], scan["field_of_view_mm"]
    calibration = f"{scan['calibration_lines']} lines (ACS)"
    if not scan["lines_along"]:
        calibration = " x ".join(map(str, scan["calibration_region"]))
    if scan["separate_calibration"]:
        calibration += f", and a separate scan of {' x '.join(map(str, scan['separate_calibration']))}"
    along = f", lines along {scan['lines_along']}" if scan["lines_along"] else ""
    field = scan["field_strength_T"]
    beside = [name.replace("_", " ") for name in ("target", "noise_scan", "sensitivity_maps") if scan[name]]
    return [
        ("slices", str(scan["slices"])),
        ("coils", str(scan["coils"])),
        ("matrix", matrix),
        ("field of view", f"{_numbers(view)} mm, voxels of {_numbers(voxel)} mm" if view else ""),
        ("sampling", f"{scan['mask_type']}{along}, R = {scan['acceleration']:.2f}"),
        ("calibration", calibration),
        ("includes", ", ".join(beside)),
        ("scanner", ", ".join([*([f"{field:g} T"] if field else []), *filter(None, [scan["vendor"]])])),
        ("acquisition", scan["acquisition"] or ""),
        *((check["level"], check["text"]) for check in scan["checks"]),
    ]


def _numbers(values: list[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
