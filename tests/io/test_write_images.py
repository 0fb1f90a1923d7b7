"""Images to files: pixels and places of each format, pictures, and what cannot be read or written."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from mrihvae.data.geometry import Geometry, make_geometry
from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.bart import read_cfl
from mrihvae.io.write_images import WRITERS, has_images, read_volume
from tests.support.files import write_h5

VOXEL = (2.0, 2.5, 4.0)
PIXELS = np.random.default_rng(0).random((3, 8, 6)).astype(np.float32)


def geometry(slices: int = 3, step: float = 4.0) -> Geometry:
    """Place coronal slices `step` mm apart: H to the left, W to the feet, slices to the back."""
    positions = np.array([[5.0, -12.0 + step * k, 20.0] for k in range(slices)])
    return make_geometry(positions, np.array([1, 0, 0]), np.array([0, 0, -1]), np.array([0, 1, 0]), VOXEL)


PLACED = ImageVolume(PIXELS, geometry(), {"method": "hybrid"})


def write(path: Path, volume: ImageVolume = PLACED) -> Path:
    WRITERS["".join(path.suffixes)](path, volume)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_says_where_voxels_lie(name: str, tmp_path: Path) -> None:
    """By hand: voxel (i, j, k) is at the slice's center plus its steps, counted to the right, front and head."""
    image = nibabel.load(write(tmp_path / name))
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), PIXELS.transpose(1, 2, 0))
    for i, j, k in ((0, 0, 0), (7, 5, 2), (4, 3, 1)):
        left, back, head = 5 + 2.0 * (i - 4), -12 + 4.0 * k, 20 - 2.5 * (j - 3)
        np.testing.assert_allclose(image.affine @ [i, j, k, 1], [-left, -back, head, 1], atol=1e-5)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1  # of the scanner


def test_nifti_without_a_place_has_the_size_of_its_voxels_alone(tmp_path: Path) -> None:
    header = nibabel.load(write(tmp_path / "a.nii", ImageVolume(PIXELS, voxel=VOXEL))).header
    assert header.get_zooms() == VOXEL and int(header["sform_code"]) == int(header["qform_code"]) == 0


def test_compressed_nifti_is_the_same_file_at_any_time(tmp_path: Path) -> None:
    plain, packed = write(tmp_path / "a.nii"), write(tmp_path / "a.nii.gz")
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    assert packed.read_bytes()[4:8] == bytes(4)  # no time


def test_slices_that_nifti_cannot_place(tmp_path: Path) -> None:
    places = geometry()
    places.positions[1, 1] += 1
    path = tmp_path / "a.nii"
    with pytest.raises(InputError, match="a.nii: slices are not evenly spaced"):
        write(path, ImageVolume(PIXELS, places))
    assert not list(tmp_path.iterdir())


def test_hdf5_comes_back_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    assert has_images(path)
    found = read_volume(path, "reconstruction")
    np.testing.assert_array_equal(found.pixels, PIXELS)
    assert found.geometry is not None and PLACED.geometry is not None and found.voxel == VOXEL
    for name, value in PLACED.geometry.attributes().items():
        np.testing.assert_array_equal(found.geometry.attributes()[name], value)
    assert found.attributes["method"] == "hybrid" and found.dataset == "reconstruction"


def test_hdf5_of_another_dataset_and_voxels_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", ImageVolume(PIXELS.astype(np.float64), dataset="uncertainty", voxel=VOXEL))
    found = read_volume(path, "uncertainty")
    assert found.pixels.dtype == np.float32 and found.geometry is None and found.voxel == VOXEL
    with pytest.raises(InputError, match=r"a.h5: has no dataset 'reconstruction' \(it has uncertainty\)"):
        read_volume(path, "reconstruction")


@pytest.mark.parametrize(
    "array", [np.ones((4, 4), np.float32), np.ones((1, 4, 4), np.int16), np.ones((1, 4, 4), np.complex64),
              np.ones((0, 4, 4), np.float32)],
)  # fmt: skip
def test_datasets_that_are_no_images(array: np.ndarray, tmp_path: Path) -> None:
    path = write_h5(tmp_path / "a.h5", reconstruction=array)
    with pytest.raises(InputError) as caught:
        read_volume(path, "reconstruction")
    message = f"{path}: 'reconstruction' is {array.dtype} of shape {array.shape}, not images (slices, h, w)"
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("datasets", "has"),
    [
        ({"reconstruction_rss": PIXELS}, True),
        ({"reconstruction_rss": PIXELS, "kspace": PIXELS}, False),  # a target beside its scan
        ({"image": PIXELS}, False),
    ],
)
def test_files_of_images(datasets: dict[str, Any], has: bool, tmp_path: Path) -> None:
    assert has_images(write_h5(tmp_path / "a.h5", **datasets)) is has


def test_what_is_no_hdf5_has_no_images(tmp_path: Path) -> None:
    assert not has_images(tmp_path / "nowhere.h5")
    (tmp_path / "a.h5").write_text("hello")
    assert not has_images(tmp_path / "a.h5")


@pytest.mark.parametrize("suffix", [".cfl", ".hdr"])
def test_bart_has_slices_along_its_axis_13(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / f"a{suffix}")
    found = read_cfl(tmp_path / "a.cfl")
    assert found.shape == (8, 6, *[1] * 11, 3)
    np.testing.assert_array_equal(found.reshape(8, 6, 3).transpose(2, 0, 1), PIXELS)


def test_mrd_images_come_back_in_their_place(tmp_path: Path) -> None:
    pytest.importorskip("ismrmrd")
    from mrihvae.io.mrd.image_files import mrd_image_groups, read_mrd_images

    path = write(tmp_path / "a.mrd")
    assert mrd_image_groups(path) == ["dataset/image_1"]
    found = read_mrd_images(path)
    np.testing.assert_array_equal(found.pixels, PIXELS)
    assert found.geometry is not None and PLACED.geometry is not None
    np.testing.assert_allclose(found.geometry.affine((8, 6)), PLACED.geometry.affine((8, 6)), atol=1e-5)
    alone = read_mrd_images(write(tmp_path / "b.mrd", ImageVolume(PIXELS, voxel=VOXEL)))  # axial, one above the other
    assert alone.geometry is not None and alone.geometry.voxel == VOXEL
    np.testing.assert_allclose(alone.geometry.positions, [[0, 0, 0], [0, 0, 4], [0, 0, 8]])


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 2), (4, 3), (9, 4)])
def test_picture_is_a_page_of_slices(count: int, columns: int, tmp_path: Path) -> None:
    """As near to a square as pages of 8 x 6 get, with black lines of two pixels between slices."""
    volume = np.random.default_rng(1).random((count, 8, 6)).astype(np.float32)
    page = np.asarray(Image.open(write(tmp_path / "a.png", ImageVolume(volume))))
    rows = -(-count // columns)
    assert page.dtype == np.uint8 and page.shape == (10 * rows - 2, 8 * columns - 2)
    expected = np.zeros_like(page)
    for k in range(count):
        top, left = 10 * (k // columns), 8 * (k % columns)
        gray = np.rint(255 * np.clip(volume[k] / float(np.percentile(volume, 99.5)), 0, 1))
        expected[top : top + 8, left : left + 6] = gray
    np.testing.assert_array_equal(page, expected)


def test_picture_of_nothing_is_black(tmp_path: Path) -> None:
    page = np.asarray(Image.open(write(tmp_path / "a.png", ImageVolume(np.zeros((2, 8, 6), np.float32)))))
    assert not page.any()


@pytest.mark.parametrize("suffix", WRITERS)
def test_place_that_cannot_be_written(suffix: str, tmp_path: Path) -> None:
    if suffix in (".mrd", ".dcm"):
        pytest.importorskip({".mrd": "ismrmrd", ".dcm": "pydicom"}[suffix])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "file" / f"a{suffix}", PLACED.single_slice(0) if suffix == ".dcm" else PLACED)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
