"""Commands as a user runs them, and small synthetic fastMRI files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mrihvae.cli.main import main

# of small scans, for `mrihvae run`
PROTOCOL = """
description = "small scans"
challenge = "singlecoil"
data = "val"

[mask]
type = "random"
acceleration = 2
center_fraction = 0.2

[solver]
method = "zero-filled"
"""

HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>{height}</x><y>{width}</y><z>1</z></matrixSize></encodedSpace>
<reconSpace><matrixSize><x>{height}</x><y>{width}</y><z>1</z></matrixSize></reconSpace>
<encodingLimits><kspace_encoding_step_1>
<minimum>0</minimum><maximum>{last}</maximum><center>{center}</center>
</kspace_encoding_step_1></encodingLimits>
</encoding></ismrmrdHeader>"""


def run(*words: str | Path) -> int:
    """Run a command as a user does; return its status."""
    return main([str(word) for word in words])


def error_of(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Run a command that must fail with one line and status 2; return the line."""
    capsys.readouterr()
    assert run(*words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if line.strip() and "%|" not in line]  # without progress bars
    assert len(lines) == 1 and lines[0].startswith("mrihvae: error: "), shown.err
    return lines[0].removeprefix("mrihvae: error: ")


def truncate(path: Path) -> None:
    """Cut off the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def complex_normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Draw white complex noise of variance 1 per bin: complex64."""
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((2, *shape)) / np.sqrt(2)
    return np.asarray(parts[0] + 1j * parts[1], dtype=np.complex64)


def header(height: int, width: int, center: int | None = None, last: int | None = None) -> str:
    """Write the part of an ISMRMRD header that fastMRI reads; left out, all lines are encoded."""
    center = width // 2 if center is None else center
    return HEADER.format(height=height, width=width, center=center, last=width - 1 if last is None else last)


def write_h5(path: Path, attributes: dict[str, Any] | None = None, **datasets: Any) -> Path:
    """Write an HDF5 file with these datasets and attributes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            file[key] = value
        file.attrs.update(attributes or {})
    return path


def write_scan(
    path: Path,
    shape: tuple[int, ...] = (2, 24, 20),
    seed: int = 0,
    attributes: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write a synthetic fastMRI file of noise with k-space of `shape`; `changes` replace datasets, None drops one."""
    kspace = complex_normal(shape, seed)
    axes = (-2, -1)
    images = np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes), norm="ortho"), axes))
    if len(shape) == 4:
        images = np.sqrt((images**2).sum(axis=1))
    key = "reconstruction_esc" if len(shape) == 3 else "reconstruction_rss"
    datasets = {"kspace": kspace, key: images.astype(np.float32), "ismrmrd_header": header(*shape[-2:]), **changes}
    kept = {name: value for name, value in datasets.items() if value is not None}
    return write_h5(path, {"acquisition": "AXT2", "patient_id": "none", **(attributes or {})}, **kept)
