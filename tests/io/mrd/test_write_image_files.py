"""Images that a server sent, in HDF5: as ismrmrd reads them, by series, whatever their type."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("ismrmrd")

import ismrmrd

from mrihvae.io.mrd.image_files import read_mrd_images
from mrihvae.io.mrd.messages import ReceivedImage, read_messages
from mrihvae.io.mrd.write_image_files import write_received_images
from tests.support import mrd

META = "<ismrmrdMeta><meta><name>DataRole</name><value>Image</value></meta></ismrmrdMeta>"


def received(*images: mrd.Image) -> list[ReceivedImage]:
    found = list(read_messages(io.BytesIO(b"".join(map(mrd.image, images))).read))
    assert all(isinstance(image, ReceivedImage) for image in found)
    return found  # type: ignore[return-value]


def picture(kind: str = "<f4", shape: tuple[int, ...] = (1, 1, 4, 6), **fields: object) -> mrd.Image:
    data = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    base = mrd.Image(data, META, field_of_view=(6.0, 4.0, 5.0), image_series_index=1)
    return replace(base, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kind", [kind.str for kind in mrd.DATA_TYPES.values() if kind != "<i4"]
)  # theirs is of 64 bits
def test_images_are_read_by_ismrmrd(tmp_path: Path, kind: str) -> None:
    images = [picture(kind, slice=k, position=(0.0, 0.0, 5.0 * k)) for k in (2, 0, 1)]
    assert write_received_images(tmp_path / "images.mrd", received(*images), "<xml/>") == {"image_1": 3}
    with ismrmrd.Dataset(str(tmp_path / "images.mrd"), "dataset", False) as file:
        assert file.read_xml_header() == b"<xml/>"
        for number, image in enumerate(images):
            found = file.read_image("image_1", number)
            np.testing.assert_array_equal(found.data, image.data)
            assert found.slice == image.slice and found.meta["DataRole"] == "Image"


def test_read_again(tmp_path: Path) -> None:
    images = [picture(slice=k, position=(0.0, 0.0, 5.0 * k)) for k in range(3)]
    write_received_images(tmp_path / "images.mrd", received(*images))
    volume = read_mrd_images(tmp_path / "images.mrd")
    np.testing.assert_array_equal(volume.pixels, [image.data[0, 0].T for image in images])
    assert volume.geometry is not None and volume.voxel == (1.0, 1.0, 5.0)


def test_series_of_several_shapes_and_types(tmp_path: Path) -> None:
    wide, short = picture(shape=(1, 1, 4, 8)), picture("<i2")
    other = picture(image_series_index=3)
    found = write_received_images(tmp_path / "images.mrd", received(other, picture(), wide, short, picture(), wide))
    assert found == {"image_1": 2, "image_1_2": 2, "image_1_3": 1, "image_3": 1}
    with h5py.File(tmp_path / "images.mrd") as file:
        assert file["dataset/image_1_2/data"].shape == (2, 1, 1, 4, 8)
        assert file["dataset/image_1_3/data"].dtype == np.int16 and "xml" not in file["dataset"]
