"""Data of variable length are read if the file can hold them, however they are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mrihvae.errors import InputError
from mrihvae.io.checked_hdf5 import open_checked
from mrihvae.io.sequences import check_sequences
from mrihvae.utils.memory import peak_memory, reset_peak_memory

ROW = np.dtype([("number", "<u2"), ("pair", h5py.vlen_dtype("<f4"), (2,)), ("text", h5py.string_dtype())])
ROW_BYTES = 2 + 3 * 16  # on disk


def write(path: Path, rows: int = 5, userblock_size: int = 0, **options: Any) -> Path:
    """Write rows with sequences of 3 and 2 numbers and a text of 4 letters."""
    with h5py.File(path, "w", userblock_size=userblock_size) as file:
        stored = file.create_dataset("rows", rows, ROW, **options)
        for k in range(rows):
            row = np.zeros((), ROW)
            row["number"], row["text"] = k, "abcd"
            row["pair"][0], row["pair"][1] = np.arange(3, dtype="f4"), np.ones(2, "f4")
            stored[k] = row
    return path


def claim(path: Path, row: int, place: int, length: int) -> None:
    """Make a sequence of a row claim a length."""
    with h5py.File(path) as file:
        stored = file["rows"].id
        if chunks := file["rows"].chunks:  # its offset, of HDF5 1.14.2, does not count a user block
            _, chunk = stored.read_direct_chunk((row - row % chunks[0],))
            start = path.read_bytes().index(chunk) + row % chunks[0] * ROW_BYTES
        else:
            start = stored.get_offset() + row * ROW_BYTES
    with path.open("r+b") as file:
        file.seek(start + place)
        file.write(length.to_bytes(4, "little"))


STORED: tuple[dict[str, Any], ...] = (
    {}, {"chunks": 2, "maxshape": None}, {"chunks": 1}, {"userblock_size": 512},
    {"chunks": 2, "userblock_size": 512},
)  # fmt: skip
FILTERED: tuple[dict[str, Any], ...] = (
    {"compression": "gzip"}, {"compression": "gzip", "shuffle": True}, {"fletcher32": True},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
)  # fmt: skip


@pytest.mark.parametrize("options", STORED + tuple({"chunks": 2, **one} for one in FILTERED))
def test_what_a_file_holds_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    with open_checked(write(tmp_path / "a.h5", **options)) as file:
        rows = file["rows"][1:]
    assert [int(row["number"]) for row in rows] == [1, 2, 3, 4] and rows[3]["text"] == b"abcd"
    assert [one.tolist() for one in rows[3]["pair"]] == [[0, 1, 2], [1, 1]]


@pytest.mark.parametrize("options", STORED)
@pytest.mark.parametrize(("place", "width", "length"), [(2, 4, 3), (18, 4, 2), (34, 1, 4)])
def test_claims_beyond_the_file_are_refused_before_memory_is_taken(
    tmp_path: Path, options: dict[str, Any], place: int, width: int, length: int
) -> None:
    path = write(tmp_path / "a.h5", **options)
    claim(path, 3, place, 2**28)
    most = 5 * (3 * 4 + 2 * 4 + 4) + (2**28 - length) * width
    with open_checked(path) as file:
        reset_peak_memory()
        before = peak_memory()
        with pytest.raises(InputError, match="'rows' claims .* bytes in sequences, and the file has") as caught:
            file["rows"][0]
        assert peak_memory() - before < 2**25
    assert most - 24 <= int(str(caught.value).split()[2]) <= most  # a later chunk may not have been counted any more


def test_rows_that_name_the_same_sequence_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        rows = file.create_dataset("rows", 1000, h5py.vlen_dtype("<f4"))
        rows[0] = np.ones(1000, "f4")
        place = rows.id.get_offset()
    with path.open("r+b") as file:
        file.seek(place)
        row = file.read(16)
        file.seek(place)
        file.write(row * 1000)
    with open_checked(path) as file, pytest.raises(InputError, match="'rows' claims 4000000 bytes in sequences"):
        file["rows"][5]


def test_rows_behind_the_end_of_a_dataset_do_not_count(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", chunks=(8,), maxshape=(None,))
    with h5py.File(path) as file:
        place = file["rows"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(place + 6 * ROW_BYTES)
        file.write(bytes([255]) * ROW_BYTES)
    with open_checked(path) as file:
        assert len(file["rows"][()]) == 5


def test_scalars_empty_datasets_and_those_without_sequences_pass(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["text"], file["number"], file["none"] = "header", 1.0, h5py.Empty(h5py.string_dtype())
        file.create_dataset("unwritten", 5, ROW)
        file.create_dataset("no_rows", 0, ROW, maxshape=(None,), chunks=1)
        file.create_dataset("sparse", 5, ROW, chunks=1)
    with open_checked(tmp_path / "a.h5") as file:
        assert file["text"][()] == b"header"
        for name in file:
            check_sequences(file[name], name)


NUMBERS = h5py.h5t.vlen_create(h5py.h5t.IEEE_F32LE)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (h5py.h5t.vlen_create(NUMBERS), "has sequences of sequences"),
        (h5py.h5t.array_create(NUMBERS, (20, 20)), "more than 256 sequences in a row"),
    ],
)
def test_unknown_kinds_of_rows_are_refused(tmp_path: Path, kind: h5py.h5t.TypeID, message: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"rows", kind, h5py.h5s.create_simple((2,)))
        with pytest.raises(InputError, match=message):
            check_sequences(file["rows"], "'rows'")


def test_rows_in_the_header_of_the_file_are_refused(tmp_path: Path) -> None:
    options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    options.set_layout(h5py.h5d.COMPACT)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        kind, space = h5py.h5t.vlen_create(h5py.h5t.IEEE_F32LE), h5py.h5s.create_simple((2,))
        h5py.h5d.create(file.id, b"rows", kind, space, options)
        with pytest.raises(InputError, match="stored in an unusual way; copy it with h5repack"):
            check_sequences(file["rows"], "'rows'")
