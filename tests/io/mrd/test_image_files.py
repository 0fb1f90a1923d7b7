"""MRD images in HDF5: their groups, pixels and places, and what is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mrihvae.errors import InputError
from mrihvae.io.mrd.image_files import mrd_image_groups, read_mrd_images
from tests.support.stored_images import Stored, marked, store

HEADER = np.dtype([(name, "<f4", 3) for name in ("position", "field_of_view", "read_dir", "phase_dir", "slice_dir")])
DATA = np.arange(2 * 1 * 1 * 6 * 8, dtype=np.float32).reshape(2, 1, 1, 6, 8)  # (image, channel, z, y, x)


def headers(count: int = 2, step: float = 5.0, depth: int = 1) -> np.ndarray:
    """Make headers of axial images `step` mm apart, of voxels of 2 x 1.5 x 5 mm."""
    found = np.zeros(count, HEADER)
    found["position"] = [[1, 2, 3 + step * k] for k in range(count)]
    found["field_of_view"] = 16, 9, 5 * depth
    found["read_dir"], found["phase_dir"], found["slice_dir"] = np.eye(3)
    return found


def write(path: Path, data: Any = DATA, header: Any = None, name: str = "image_1", mode: str = "w") -> Path:
    with h5py.File(path, mode) as file:
        group = file.create_group(f"dataset/{name}")
        group["data"], group["header"] = data, headers() if header is None else header
    return path


def test_pixels_are_turned_and_placed(tmp_path: Path) -> None:
    found = read_mrd_images(write(tmp_path / "a.h5"))
    assert found.pixels.shape == (2, 8, 6) and found.pixels.flags.c_contiguous
    np.testing.assert_array_equal(found.pixels, DATA[:, 0, 0].transpose(0, 2, 1))
    assert found.voxel == (2.0, 1.5, 5.0) and found.geometry is not None
    np.testing.assert_allclose(found.geometry.positions, [[1, 2, 3], [1, 2, 8]])


def test_slabs_are_slices_about_their_center(tmp_path: Path) -> None:
    data = np.arange(2 * 3 * 6 * 8, dtype=np.int16).reshape(2, 1, 3, 6, 8)
    found = read_mrd_images(write(tmp_path / "a.h5", data, headers(step=15, depth=3)))
    assert found.pixels.dtype == np.float32 and found.geometry is not None
    np.testing.assert_array_equal(found.pixels, data.reshape(6, 6, 8).transpose(0, 2, 1))
    np.testing.assert_allclose(found.geometry.positions[:, 2], 3 + 5.0 * np.arange(-1, 5))


def test_images_in_one_place_have_the_size_of_voxels_alone(tmp_path: Path) -> None:
    found = read_mrd_images(write(tmp_path / "a.h5", header=headers(step=0)))
    assert found.geometry is None and found.voxel == (2.0, 1.5, 5.0)


def test_series_by_their_names(tmp_path: Path) -> None:
    path = write(write(tmp_path / "a.h5"), DATA + 1000, name="image_2", mode="a")
    assert mrd_image_groups(path) == ["dataset/image_1", "dataset/image_2"]
    for name in ("image_2", "dataset/image_2"):
        assert read_mrd_images(path, name).pixels.min() == 1000
    with pytest.raises(InputError, match=r"has 2 volumes: image_1 \(2 slices\), image_2 \(2 slices\); choose one by"):
        read_mrd_images(path)
    assert read_mrd_images(path, "2").pixels.min() == 1000
    with pytest.raises(InputError, match="a.h5: has no images 'image_3'; it has dataset/image_1, dataset/image_2"):
        read_mrd_images(path, "image_3")


def test_series_within_a_group_are_chosen_by_their_index(tmp_path: Path) -> None:
    images = [
        Stored(marked(10 * series), place=5 * k, header={"image_series_index": series})
        for series in (3, 4)
        for k in range(2)
    ]
    path = store(tmp_path / "a.h5", images)
    with pytest.raises(InputError, match=r"has 2 volumes: series3 \(2 slices\), series4 \(2 slices\); choose one by"):
        read_mrd_images(path)
    for name in ("4", "series4"):
        assert read_mrd_images(path, name).pixels.min() == 40
    with pytest.raises(InputError, match="a.h5: has no images '5'; it has dataset/image_0"):
        read_mrd_images(path, "5")


def test_what_has_no_images(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["dataset/data"] = np.zeros(3)  # lines: a scan
    assert mrd_image_groups(path) == [] == mrd_image_groups(tmp_path / "nowhere.h5")
    with h5py.File(write(tmp_path / "c.h5"), "a") as file:
        file["nowhere"] = h5py.SoftLink("/lost")
        file["dataset/nothing"] = h5py.ExternalLink("lost.h5", "/")
    assert mrd_image_groups(tmp_path / "c.h5") == ["dataset/image_1"]
    (tmp_path / "b.h5").write_text("hello")
    assert mrd_image_groups(tmp_path / "b.h5") == []


def flat_headers() -> np.ndarray:
    found = headers()
    found["field_of_view"] = 0
    return found


@pytest.mark.parametrize(
    ("data", "header", "message"),
    [
        (DATA.repeat(2, axis=1), None, r"'dataset/image_1' is float32 of shape \(2, 2, 1, 6, 8\); give magnitudes of"),
        (DATA.astype(bool), None, "'dataset/image_1' is bool"),
        (DATA[0], None, r"of shape \(1, 1, 6, 8\)"),
        (DATA, np.zeros(2), r"damaged, or no MRD images \(.*\); store them again"),
        (DATA, np.zeros(0, HEADER), "damaged, or no MRD images"),
        (DATA, flat_headers(), "a.h5: voxels of 0 x 0 x 0 mm have no extent; check the header"),
    ],
)
def test_images_that_are_damaged(data: np.ndarray, header: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", data, header)
    with pytest.raises(InputError, match=message) as caught:
        read_mrd_images(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
