"""Images to restore, masks and kernels: what is read, what is written, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from mrihvae.errors import InputError
from mrihvae.io.images import (
    list_images,
    mask_for,
    read_images,
    read_kernel,
    read_mask,
    restored_name,
    stem_of,
    write_images,
)
from tests.support.files import truncate

OBLIQUE = np.array([[0.9, -0.4, 0.1, -80], [0.4, 0.85, -0.3, 20], [0.05, 0.3, 4.0, 7], [0, 0, 0, 1]])


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    """Write a NIfTI file with an affine that is not along the axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def write_picture(path: Path, array: np.ndarray) -> Path:
    """Write a picture of an array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def numbers(*shape: int) -> np.ndarray:
    """Draw numbers of both signs: float32."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# --- reading and writing ---------------------------------------------------------------------------------------------


def test_names() -> None:
    for name, stem, restored in (
        ("a.nii.gz", "a", "a.nii.gz"),
        ("a.b.nii", "a.b", "a.b.nii"),
        ("A.JPG", "A", "A.png"),
        ("a.tiff", "a", "a.png"),
    ):
        assert (stem_of(Path(name)), restored_name(Path(name))) == (stem, restored)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3), (5, 6, 3, 2)])
def test_nifti_round_trip(shape: tuple[int, ...], name: str, tmp_path: Path) -> None:
    array = numbers(*shape)
    images = read_images(write_nifti(tmp_path / name, array))
    full = array.reshape(*shape, *(1,) * (4 - len(shape)))
    assert images.values.shape == (full.shape[3], full.shape[2], 5, 6) and images.values.dtype == np.float32
    for volume in range(full.shape[3]):
        for k in range(full.shape[2]):
            assert np.array_equal(images.values[volume, k], full[:, :, k, volume])
    write_images(tmp_path / "out" / name, images.values, images)
    again = nibabel.load(tmp_path / "out" / name)
    assert again.shape == shape and again.get_data_dtype() == np.float32
    assert np.array_equal(np.asanyarray(again.dataobj), array)
    np.testing.assert_allclose(again.affine, nibabel.load(tmp_path / name).affine, atol=1e-6)


def test_integers_with_a_slope_keep_their_unit(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(30, dtype=np.int16).reshape(5, 6), OBLIQUE)
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "a.nii")
    images = read_images(tmp_path / "a.nii")
    expected = np.asanyarray(nibabel.load(tmp_path / "a.nii").dataobj).astype(np.float32)
    assert np.array_equal(images.values[0, 0], expected)
    write_images(tmp_path / "b.nii", images.values, images)
    assert np.array_equal(read_images(tmp_path / "b.nii").values, images.values)


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 0), (0, 1), (3, 4), (0, 0)])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_finer_voxels_lie_on_the_coarse_ones(kind: type, sform: int, qform: int, tmp_path: Path) -> None:
    """Voxel (i, j, k) is voxel (factor i, factor j, k) of the finer image, by both transforms, and codes are kept."""
    image = kind(numbers(5, 6, 3, 2), OBLIQUE)
    rigid = np.array([[0.0, -0.9, 0, -80], [0.9, 0, 0, 20], [0, 0, 4, 7], [0, 0, 0, 1]])
    image.set_qform(rigid if qform else None, qform)
    image.set_sform(OBLIQUE if sform else None, sform)
    image.header.set_zooms((*image.header.get_zooms()[:3], 2.5))
    nibabel.save(image, tmp_path / "a.nii")
    images, source = read_images(tmp_path / "a.nii"), nibabel.load(tmp_path / "a.nii")
    write_images(tmp_path / "b.nii", images.values.repeat(2, axis=-1).repeat(2, axis=-2), images, factor=2)
    finer = nibabel.load(tmp_path / "b.nii")
    assert type(finer) is kind and finer.shape == (10, 12, 3, 2) and finer.header.get_zooms()[3] == 2.5
    pairs = [(source.affine, finer.affine)]
    if sform or qform:
        assert (finer.header["sform_code"], finer.header["qform_code"]) == (sform, qform)
    if sform:
        pairs.append((source.get_sform(), finer.get_sform()))
    if qform:
        pairs.append((source.get_qform(), finer.get_qform()))
        np.testing.assert_allclose(finer.header.get_zooms()[:3], (0.45, 0.45, 4), rtol=1e-5)
    for coarse, fine in pairs:
        for i, j, k in ((0, 0, 0), (4, 5, 2), (1, 3, 0)):
            np.testing.assert_allclose(fine @ (2 * i, 2 * j, k, 1), coarse @ (i, j, k, 1), atol=1e-4)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize(("depth", "bits"), [(np.uint8, 8), (np.uint16, 16)])
def test_picture_round_trip(depth: type, bits: int, ending: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 2**bits, (7, 5)).astype(depth)
    images = read_images(write_picture(tmp_path / f"a.{ending}", array))
    assert images.bits == bits and images.values.shape == (1, 1, 7, 5)
    assert np.array_equal(images.values[0, 0], array)
    write_images(tmp_path / "b.png", images.values + 0.4, images)
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.format == "PNG" and np.array_equal(np.asarray(picture), array)
    write_images(tmp_path / "b.png", 1.5 * images.values - 10, images)
    expected = np.clip(np.rint(1.5 * array.astype(float) - 10), 0, 2**bits - 1)
    assert np.array_equal(read_images(tmp_path / "b.png").values[0, 0], expected)


def test_jpeg_that_lies_on_its_side_is_read_upright(tmp_path: Path) -> None:
    turned = Image.fromarray((np.arange(16 * 24).reshape(16, 24) // 2).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned.save(tmp_path / "a.jpg", exif=exif, quality=100)
    values = read_images(tmp_path / "a.jpg").values[0, 0]
    assert values.shape == (24, 16)
    np.testing.assert_allclose(values, np.rot90(np.asarray(turned).astype(float), -1), atol=3)


def test_lists(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.png", "c.JPEG", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [file.name for file in list_images(tmp_path)] == ["a.png", "b.nii.gz", "c.JPEG"]
    assert list_images(tmp_path / "a.png") == [tmp_path / "a.png"]
    (tmp_path / "a.nii").touch()
    with pytest.raises(InputError, match="a.nii and a.png would have results with the same name; rename one"):
        list_images(tmp_path)
    with pytest.raises(InputError, match=r"folder.png: no image in it"):
        list_images(tmp_path / "folder.png")
    with pytest.raises(InputError, match=r"nowhere: file not found"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"notes.txt: ends in none of .nii, .nii.gz, .png, .*; give an image"):
        list_images(tmp_path / "notes.txt")


def palette(path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).convert("P").save(path)


def pages(path: Path) -> None:
    first = Image.fromarray(np.zeros((8, 8), np.uint8))
    first.save(path, save_all=True, append_images=[first, first])


def cut(path: Path) -> None:
    write_picture(path, np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8))
    truncate(path)


def cut_nifti(path: Path) -> None:
    write_nifti(path, numbers(16, 16, 4))
    truncate(path)


def color_nifti(path: Path) -> None:
    pixels = np.zeros((4, 4, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.png", lambda p: write_picture(p, np.zeros((8, 8, 3), np.uint8)), r"is in color \(RGB\); convert it to 8"),
        ("a.jpg", lambda p: write_picture(p, np.zeros((8, 8, 3), np.uint8)), r"is in color \(RGB\)"),
        ("a.png", lambda p: write_picture(p, np.zeros((8, 8, 4), np.uint8)), r"is in color \(RGBA\)"),
        ("a.png", palette, r"is in color \(P\)"),
        ("a.tif", lambda p: write_picture(p, np.zeros((8, 8), np.float32)), "has floating-point pixels"),
        ("a.tif", lambda p: write_picture(p, np.full((8, 8), 70000, np.int32)), "has pixels beyond 16 bits"),
        ("a.tif", pages, "has several pages"),
        ("a.png", cut, r"not readable \("),
        ("a.png", lambda p: p.touch(), r"not readable \("),
        ("a.tif", lambda p: p.write_bytes(b"nothing"), r"not readable \("),
        ("a.nii", cut_nifti, r"not readable \("),
        ("a.nii.gz", cut_nifti, r"not readable \("),
        ("a.nii.gz", lambda p: p.write_bytes(b"nothing"), r"not readable \("),
        ("a.nii", lambda p: p.touch(), r"not readable \("),
        ("a.nii", lambda p: write_nifti(p, numbers(4, 4).astype(np.complex64)), r"is complex \(complex64\)"),
        ("a.nii", color_nifti, "is in color"),
        ("a.nii", lambda p: write_nifti(p, numbers(4)), r"has shape \(4,\); give \(H, W\)"),
        ("a.nii", lambda p: write_nifti(p, numbers(4, 4, 1, 1, 3)), r"has shape \(4, 4, 1, 1, 3\)"),
    ],
)
def test_refused(name: str, write: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    with pytest.raises(InputError, match=message) as raised:
        read_images(tmp_path / name)
    assert str(raised.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(raised.value)


# --- masks and kernels -----------------------------------------------------------------------------------------------


def test_masks(tmp_path: Path) -> None:
    images = read_images(write_nifti(tmp_path / "a.nii", numbers(5, 6, 3, 2)))
    flat = np.zeros((5, 6), np.uint8)
    flat[1:3] = 255
    mask = mask_for(images, read_mask(write_picture(tmp_path / "mask.png", flat)), tmp_path / "mask.png")
    assert mask.shape == (2, 3, 5, 6) and np.array_equal(mask[1, 2], flat > 0)
    each = np.random.default_rng(0).random((5, 6, 3)) < 0.5
    mask = mask_for(images, read_mask(write_nifti(tmp_path / "m.nii", each.astype(np.int16))), tmp_path / "m.nii")
    assert all(np.array_equal(mask[v, k], each[..., k]) for v in range(2) for k in range(3))
    for shape in ((6, 5), (5, 6, 2), (5, 6, 3, 3)):
        path = write_nifti(tmp_path / "other.nii", np.ones(shape, np.uint8))
        with pytest.raises(InputError, match=r"other.nii: a mask of .* for .*a.nii, 5 x 6 x 3 slices x 2 volumes"):
            mask_for(images, read_mask(path), path)
    for array, message in ((np.zeros((5, 6)), "has no known pixel"), (np.full((5, 6), np.nan), "the mask holds NaN")):
        with pytest.raises(InputError, match=message):
            read_mask(write_nifti(tmp_path / "other.nii", array.astype(np.float32)))


def test_kernels(tmp_path: Path) -> None:
    array = np.arange(15, dtype=np.uint8).reshape(3, 5)
    np.save(tmp_path / "kernel.npy", array.astype(np.float64))
    for path in (tmp_path / "kernel.npy", write_picture(tmp_path / "kernel.png", array)):
        np.testing.assert_allclose(read_kernel(path).numpy(), array / 105, rtol=1e-6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 4)), "kernel of 3 x 4; both sizes must be odd"),
        (np.array([[1.0, 0, -1]]), "kernel with sum 0; it must be finite and not 0"),
        (np.zeros((3, 3)), "kernel with sum 0"),
        (np.full((3, 3), np.nan), "kernel with sum nan"),
        (np.ones(3), "a kernel is an array"),
        (np.ones((3, 3), complex), "a kernel is an array"),
        (np.array([[None]]), "not readable as a .npy array"),
    ],
)
def test_kernels_that_are_none(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "kernel.npy", array)
    with pytest.raises(InputError, match=message):
        read_kernel(tmp_path / "kernel.npy")


def test_kernels_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.npy").touch()
    for name, message in (
        ("empty.npy", "not readable as a .npy array"),
        ("nowhere.npy", "not readable as a .npy array"),
        ("nowhere.png", "not readable"),
        ("kernel.txt", "is not a readable kernel"),
    ):
        with pytest.raises(InputError, match=f"{name}: {message}"):
            read_kernel(tmp_path / name)
