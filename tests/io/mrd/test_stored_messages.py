"""ISMRMRD files as messages: bit for bit what is stored, lines and images, and refusals of damaged ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("ismrmrd")

from mrihvae.errors import InputError
from mrihvae.io.mrd.stored_messages import PLAIN_HEADER, list_groups, read_messages_of
from tests.support import mrd
from tests.support.serving import scan

IMAGE = mrd.Image(
    np.arange(12, dtype="<i2").reshape(1, 1, 3, 4), "<ismrmrdMeta/>", slice=2, image_series_index=1, user_int=(5,) * 8
)


def test_lines_come_as_they_are_stored(tmp_path: Path) -> None:
    xml, lines = scan(slices=2, coils=2, noise_scans=2, slice_order="by_line")
    along = np.linspace(0, 1, 32, dtype=np.float32)[:, None]
    lines = [replace(line, trajectory=along, user_int=tuple(range(8))) for line in lines]
    mrd.write_mrd(tmp_path / "scan.h5", xml, lines)
    assert list_groups(tmp_path / "scan.h5") == ["dataset"]
    found = read_messages_of(tmp_path / "scan.h5", "dataset")
    assert (found.xml, found.count, found.parameters) == (xml, len(lines), "")
    assert list(found.messages) == list(map(mrd.acquisition, lines))


def test_images_and_parameters(tmp_path: Path) -> None:
    images = [IMAGE, replace(IMAGE, data=IMAGE.data + 1, attributes=""), replace(IMAGE, image_series_index=2)]
    mrd.store_images(tmp_path / "images.h5", images, "<xml/>", "a day")
    with h5py.File(tmp_path / "images.h5", "a") as file:
        file["a day"].create_dataset("configAdditional", data=[b'{"a": 1}'], dtype=h5py.string_dtype())
    found = read_messages_of(tmp_path / "images.h5", "a day")
    assert (found.xml, found.count, found.parameters) == ("<xml/>", 3, '{"a": 1}')
    assert list(found.messages) == list(map(mrd.image, images))


def test_images_without_a_header(tmp_path: Path) -> None:
    mrd.store_images(tmp_path / "images.h5", [IMAGE], "", "dataset")
    with h5py.File(tmp_path / "images.h5", "a") as file:
        del file["dataset/xml"], file["dataset/image_1/attributes"]
    found = read_messages_of(tmp_path / "images.h5", "dataset")
    assert found.xml == PLAIN_HEADER
    assert list(found.messages) == [mrd.image(replace(IMAGE, attributes=""))]


def test_damaged_files(tmp_path: Path) -> None:
    xml, lines = scan(slices=1)
    mrd.write_mrd(tmp_path / "scan.h5", xml, lines)
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        row = file["dataset/data"][3]
        row["data"] = row["data"][:-2]
        file["dataset/data"][3] = row
        file.create_group("empty")["xml"] = [b""]
    with pytest.raises(
        InputError, match=r"scan.h5: line 3 holds 62 numbers and 0 of its trajectory, its header says 64"
    ):
        list(read_messages_of(tmp_path / "scan.h5", "dataset").messages)
    with pytest.raises(InputError, match="'empty' holds neither lines nor images"):
        read_messages_of(tmp_path / "scan.h5", "empty")
    mrd.store_images(tmp_path / "images.h5", [IMAGE], "", "dataset")
    with h5py.File(tmp_path / "images.h5", "a") as file:
        heads = file["dataset/image_1/header"][:]
        heads["matrix_size"] = 7
        file["dataset/image_1/header"][:] = heads
    with pytest.raises(InputError, match="image 0 of /dataset/image_1 is 1 x 1 x 3 x 4, but its header has another"):
        list(read_messages_of(tmp_path / "images.h5", "dataset").messages)


def test_other_files_have_no_group(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    assert list_groups(tmp_path / "text.h5") == [] == list_groups(tmp_path / "missing.h5")
