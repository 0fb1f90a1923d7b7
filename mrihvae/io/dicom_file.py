"""One DICOM file, opened with limits to what its header claims and to what is compressed in it."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from mrihvae.utils.memory import check_expansion, check_size, check_slice

DEFLATED = "1.2.840.10008.1.2.1.99"  # transfer syntax of a whole dataset that is compressed
PART = 2**20  # bytes that are inflated at once


def open_dicom(file: Path, **options: Any) -> Any:
    """Read a file as `pydicom.dcmread` does with these options, whose errors are left to the caller.

    Raises
    ------
    InputError
        Compressed as a whole, and larger than the limit of memory, or images that are.
    """
    import pydicom
    from pydicom.filereader import read_file_meta_info

    if str(read_file_meta_info(file).get("TransferSyntaxUID", "")) == DEFLATED:
        _check_deflated(file)
    header: Any = pydicom.dcmread(file, **options)
    height, width = (int(header.get(name) or 0) for name in ("Rows", "Columns"))
    frames = int(header.get("NumberOfFrames") or 1)
    check_slice(f"{file}:", height, width)
    check_size(f"{file}: its array", 4 * height * width * max(frames, 1))
    return header


def _check_deflated(file: Path) -> None:
    """Inflate a file part by part, of which none is kept."""
    import pydicom

    with file.open("rb") as opened:
        pydicom.filereader.read_preamble(opened, force=True)
        pydicom.filereader._read_file_meta_info(opened)
        inflater, size, stored = zlib.decompressobj(-zlib.MAX_WBITS), 0, file.stat().st_size
        while block := opened.read(PART):
            while block and not inflater.eof:
                size += len(inflater.decompress(block, PART))
                check_size(f"{file}: its data", size)
                check_expansion(f"{file}: its data", size, stored)
                block = inflater.unconsumed_tail
