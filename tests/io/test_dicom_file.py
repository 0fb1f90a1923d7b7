"""DICOM files that claim much, or are compressed as a whole."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from mrihvae.errors import InputError
from mrihvae.io.dicom_file import DEFLATED, open_dicom
from mrihvae.utils.memory import SMALL

pydicom = pytest.importorskip("pydicom")


def write(path: Path, rows: int, syntax: str = "1.2.840.10008.1.2.1") -> Path:
    """Write an image of zeros."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = rows, 8
    dataset.PixelData = np.zeros((8, 8), np.uint16).tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", DEFLATED])
def test_files_are_opened(tmp_path: Path, syntax: str) -> None:
    assert open_dicom(write(tmp_path / "a.dcm", 8, syntax)).Rows == 8


def test_claims_are_refused(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write(tmp_path / "a.dcm", 8))
    dataset.Rows = dataset.Columns = 60000
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="has slices of 60000 x 60000"):
        open_dicom(tmp_path / "a.dcm")
    dataset.Rows = dataset.Columns = 8000
    dataset.NumberOfFrames = 10**6
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="its array takes"):
        open_dicom(tmp_path / "a.dcm", stop_before_pixels=True)


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.dcm", 8, DEFLATED)
    whole = path.read_bytes()
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = 144 + int.from_bytes(whole[140:144], "little")  # after the meta elements, whose length they say
    path.write_bytes(whole[:start] + packer.compress(bytes(2 * SMALL)) + packer.flush())
    monkeypatch.setattr("mrihvae.utils.memory.MAX_EXPANSION", 500)
    with pytest.raises(InputError, match="its data claims"):
        open_dicom(path)
