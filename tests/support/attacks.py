"""Files that were made to do harm: small ones that claim much, name others, or are damaged."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.support.files import complex_normal

SHAPE = (2, 16, 16)
MASK = np.isin(np.arange(16), (*range(0, 16, 2), *range(6, 10))).astype(np.float32)


def write_fastmri(path: Path, kspace: bool = True, mask: bool = True, **further: Any) -> Path:
    """Write an undersampled scan of one coil, or a part of it; `further` are datasets and links."""
    with h5py.File(path, "w") as file:
        if kspace:
            file["kspace"] = complex_normal(SHAPE) * MASK
        if mask:
            file["mask"] = MASK
        for name, value in further.items():
            file[name] = value
    return path


def write_claim(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], **options: Any) -> Path:
    """Write a scan whose k-space claims a shape without any chunk stored."""
    write_fastmri(path, kspace=False)
    with h5py.File(path, "a") as file:
        file.create_dataset("kspace", shape, "c8", chunks=chunks, **options)
    return path


def write_external(path: Path, secret: Path) -> Path:
    """Write a scan whose k-space is stored in another file, as raw bytes."""
    write_fastmri(path, kspace=False)
    with h5py.File(path, "a") as file:
        file.create_dataset("kspace", SHAPE, "c8", external=[(str(secret), 0, 8 * 512)])
    return path


def write_virtual(path: Path, other: Path) -> Path:
    """Write a scan whose k-space is a virtual dataset of another file."""
    layout = h5py.VirtualLayout(SHAPE, "c8")
    layout[...] = h5py.VirtualSource(str(other), "kspace", SHAPE)
    write_fastmri(path, kspace=False)
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("kspace", layout)
    return path


def write_npy_header(path: Path, header: str, content: bytes = bytes(64)) -> Path:
    """Write a .npy file with any text as its header."""
    text = header.ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + content)
    return path


def write_nifti_bomb(path: Path, height: int, width: int) -> Path:
    """Write a NIfTI file of zeros, compressed."""
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_shape((height, width, 1))
    header.set_data_dtype(np.uint8)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with gzip.open(path, "wb") as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(height):
            file.write(bytes(width))
    return path


def write_small_mrd(path: Path) -> Path:
    """Write a file in the layout of ISMRMRD, small enough that most of its bytes matter."""
    floats = h5py.vlen_dtype("<f4")
    rows = np.empty(4, [("head", [("n", "<u2"), ("m", "<u4", (3,))]), ("traj", floats), ("data", floats)])
    for k in range(4):
        rows[k] = ((k, (1, 2, 3)), np.zeros(0, "f4"), np.arange(8, dtype="f4"))
    with h5py.File(path, "w") as file:
        group = file.create_group("dataset")
        group.create_dataset("xml", (1,), h5py.string_dtype("ascii"))[0] = b"<ismrmrdHeader/>"
        group.create_dataset("data", data=rows, maxshape=(None,), chunks=(4,))
    return path


def damage(path: Path, seed: int) -> Path:
    """Replace some bytes of a file, most of them near its start, where its structure is described."""
    rng, content = random.Random(seed), bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 2, 4, 8))):
        place = rng.randrange(min(len(content), 3000) if rng.random() < 0.8 else len(content))
        content[place] = rng.randrange(256)
    path.write_bytes(content)
    return path
