"""Noise scans in files of their own: which lines are taken of which files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("ismrmrd")

from mrihvae.errors import InputError
from mrihvae.io.mrd.noise_files import read_noise_lines
from tests.support import mrd
from tests.support.serving import scan, stream

XML, LINES = scan(slices=1, coils=2, noise_scans=3)


def test_all_groups_of_a_file(tmp_path: Path) -> None:
    mrd.write_mrd(tmp_path / "noise.h5", XML, LINES)
    with h5py.File(tmp_path / "noise.h5", "a") as file:
        file.copy("dataset", "dataset_1")
    found = read_noise_lines(tmp_path / "noise.h5")
    assert [mrd.Line.unpack(line.to_bytes()) for line in found] == LINES[:3] * 2


def test_streams(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(stream(XML, LINES))
    assert [mrd.Line.unpack(line.to_bytes()) for line in read_noise_lines(tmp_path / "noise")] == LINES[:3]
    second = pytest.importorskip("tests.support.mrd.v2")
    items = [second.acquisition_v2(line) for line in LINES]
    (tmp_path / "noise").write_bytes(second.stream_v2(second.header_v2((32, 24), 24, 2), items))
    for line, other in zip(read_noise_lines(tmp_path / "noise"), LINES[:3], strict=True):
        np.testing.assert_array_equal(line.data, other.data)


@pytest.mark.parametrize(
    "content, words",
    [
        (None, r"is not a noise scan \(No such file or directory\); give an MRD stream or an ISMRMRD HDF5 file"),
        (b"", "has no noise line"),
        (b"no stream", "noise: stream: message 28526 is not expected here"),
        (stream(XML, LINES[3:]), "noise: has no noise line"),
        (stream(XML, LINES)[:-50], "noise: stream: ended within"),
        (b"\x89HDF\r\n", "has no noise line"),
    ],
)
def test_refusals(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "noise").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_noise_lines(tmp_path / "noise")
