"""Reading training data: every format, weights, what is left out, and every bad input."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.training import train
from mrihvae.datasets.mixture import PACKED_FORMAT, Reading, load_mixture
from mrihvae.errors import InputError
from mrihvae.io.magnitudes import MAX_NIFTI_MATRIX, MAX_PICTURE_MATRIX, count_slices, magnitude_slices
from mrihvae.physics.fourier import fft2c, ifft2c, resize_kspace
from mrihvae.training.draw import SimulationSettings, draw_batch
from tests.support import REPOSITORY
from tests.support.files import complex_normal, write_h5, write_scan
from tests.support.small import phantom

DEMO_SCANS = REPOSITORY / "mrihvae" / "demo_scans"


def write_nifti(path: Path, volume: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
    return path


def write_picture(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


def volume(slices: int = 3, height: int = 30, width: int = 20) -> np.ndarray:
    """Make a volume of different phantoms, int16 (h, w, slice)."""
    return (1000 * np.stack([phantom(height, width, k) for k in range(slices)], axis=-1)).astype(np.int16)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "SCAN.NII.GZ"])
def test_nifti_gives_its_slices(tmp_path: Path, name: str) -> None:
    images = volume()
    slices = magnitude_slices(write_nifti(tmp_path / name, images))
    assert len(slices) == 3
    assert all(np.array_equal(one, images[..., k]) for k, one in enumerate(slices))


def test_nifti_with_four_axes_and_with_two(tmp_path: Path) -> None:
    images = np.stack([volume(), 2 * volume()], axis=-1)
    slices = magnitude_slices(write_nifti(tmp_path / "four.nii.gz", images))
    assert len(slices) == 6
    assert sorted(int(one.sum()) for one in slices) == sorted(images.sum(axis=(0, 1)).ravel().tolist())
    slices = magnitude_slices(write_nifti(tmp_path / "two.nii.gz", volume()[..., 0]))
    assert len(slices) == 1 and np.array_equal(slices[0], volume()[..., 0])


@pytest.mark.parametrize("dtype", [">i2", "<f4", ">f8", "u1"])
def test_nifti_of_any_type_of_number_can_be_trained_on(tmp_path: Path, dtype: str) -> None:
    images = np.clip(volume(), 0, 255).astype(dtype)
    image = nibabel.Nifti1Image(images, np.eye(4), dtype=np.dtype(dtype))
    nibabel.save(image, tmp_path / "scan.nii")
    mixture = load_mixture([str(tmp_path)])
    assert np.array_equal(mixture.datasets[0].arrays[0], images[..., 0])
    scans = draw_batch(
        mixture.draw(2, np.random.default_rng(0)), (32, 32), SimulationSettings(), np.random.default_rng(0)
    )
    assert bool(torch.isfinite(scans.kspace.abs()).all())


def test_negative_values_of_resampled_volumes_can_be_trained_on(tmp_path: Path) -> None:
    write_nifti(tmp_path / "scan.nii", phantom(30, 20)[..., None] - np.float32(0.05))
    mixture = load_mixture([str(tmp_path)])
    for seed in range(5):
        rng = np.random.default_rng(seed)
        scans = draw_batch(mixture.draw(2, rng), (32, 32), SimulationSettings(), rng)
        assert bool(torch.isfinite(scans.kspace.abs()).all())


def test_pictures_of_8_and_16_bits(tmp_path: Path) -> None:
    image = phantom(30, 20)
    eight, sixteen = (200 * image / image.max()).astype(np.uint8), (60000 * image / image.max()).astype(np.uint16)
    (found,) = magnitude_slices(write_picture(tmp_path / "eight.png", eight))
    assert np.array_equal(found, eight)
    (found,) = magnitude_slices(write_picture(tmp_path / "sixteen.png", sixteen))
    assert np.array_equal(found, sixteen) and int(found.max()) == 60000
    (found,) = magnitude_slices(write_picture(tmp_path / "picture.jpg", eight))
    assert found.shape == (30, 20) and float(np.abs(found - eight.astype(float)).mean()) < 5
    (found,) = magnitude_slices(write_picture(tmp_path / "colors.png", np.stack([eight] * 3, axis=-1)))
    assert np.array_equal(found, eight)
    Image.fromarray(eight).convert("LA").save(tmp_path / "alpha.png")
    (found,) = magnitude_slices(tmp_path / "alpha.png")
    assert np.array_equal(found, eight)


def test_fastmri_files_give_raw_k_space_a_slice_per_coil(tmp_path: Path) -> None:
    write_scan(tmp_path / "one.h5", (2, 24, 20))
    (dataset,) = load_mixture([str(tmp_path / "one.h5")]).datasets
    assert dataset.raw and len(dataset.arrays) == 2
    assert np.array_equal(np.stack(dataset.arrays), complex_normal((2, 24, 20)))
    write_scan(tmp_path / "many.h5", (2, 3, 24, 20))
    (dataset,) = load_mixture([str(tmp_path / "many.h5")]).datasets
    assert dataset.raw and len(dataset.arrays) == 6
    assert np.array_equal(np.stack(dataset.arrays), complex_normal((2, 3, 24, 20)).reshape(6, 24, 20))


def test_the_scans_in_the_package() -> None:
    (dataset,) = load_mixture([str(DEMO_SCANS)]).datasets
    shapes = [array.shape for array in dataset.arrays]
    assert dataset.raw and shapes == 8 * [(128, 126)] + 16 * [(128, 128)]


def mixed_folder(path: Path) -> Path:
    """Make a folder with 2 raw slices and 3 + 1 magnitude ones, one of them deeper, and files that are none."""
    write_scan(path / "scan.h5", (2, 24, 20))
    write_nifti(path / "brain.nii.gz", volume())
    (path / "deeper").mkdir()
    write_picture(path / "deeper" / "UPPER.PNG", (200 * phantom(30, 20)).astype(np.uint8))
    (path / "notes.txt").write_text("not read")
    return path


def test_folder_with_everything(tmp_path: Path) -> None:
    raw, magnitude = load_mixture([str(mixed_folder(tmp_path))]).datasets
    assert raw.raw and len(raw.arrays) == 2 and not magnitude.raw and len(magnitude.arrays) == 4
    assert raw.path == magnitude.path == tmp_path


def test_progress_sees_every_file(tmp_path: Path) -> None:
    seen: list[Path] = []
    load_mixture([str(mixed_folder(tmp_path))], lambda files: iter([seen.append(file) or file for file in files]))  # type: ignore[func-returns-value]
    assert [file.name for file in seen] == ["brain.nii.gz", "UPPER.PNG", "scan.h5"]


def test_upper_case_hdf5(tmp_path: Path) -> None:
    write_scan(tmp_path / "SCAN.H5", (2, 24, 20))
    (dataset,) = load_mixture([str(tmp_path)]).datasets
    assert dataset.raw and len(dataset.arrays) == 2


def test_shares_without_weights_follow_the_number_of_slices(tmp_path: Path) -> None:
    for name, slices in (("a.nii", 1), ("b.nii", 3)):
        write_nifti(tmp_path / name, volume(slices))
    mixture = load_mixture([str(tmp_path / "a.nii"), str(tmp_path / "b.nii")])
    assert mixture.shares.tolist() == pytest.approx([0.25, 0.75])
    picks = mixture.draw(4000, np.random.default_rng(0))
    first = sum(np.array_equal(array, volume()[..., 0]) for array, _ in picks)
    assert first / 4000 == pytest.approx(0.25 + 0.75 / 3, abs=0.03)


def test_weights_are_shares_whatever_the_number_of_slices(tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    mixed_folder(tmp_path / "mixed")
    write_nifti(tmp_path / "b.nii", volume(5))
    mixture = load_mixture([f"{tmp_path / 'mixed'}=3", f"{tmp_path / 'b.nii'}=1.0"])
    assert [dataset.raw for dataset in mixture.datasets] == [True, False, False]
    assert mixture.shares.tolist() == pytest.approx([0.75 * 2 / 6, 0.75 * 4 / 6, 0.25])
    picks = mixture.draw(2000, np.random.default_rng(0))
    assert sum(raw for _, raw in picks) / 2000 == pytest.approx(0.25, abs=0.04)


def test_draw_depends_on_the_generator_alone(tmp_path: Path) -> None:
    mixture = load_mixture([str(mixed_folder(tmp_path))])
    first, again, other = (mixture.draw(30, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert [id(array) for array, _ in first] == [id(array) for array, _ in again]
    assert [id(array) for array, _ in first] != [id(array) for array, _ in other]


def test_blank_slices_are_left_out(tmp_path: Path) -> None:
    images = volume(4)
    images[..., 1] = 0
    images[..., 2] = 0
    images[3, 4, 2] = 30_000  # a single bright pixel
    slices = magnitude_slices(write_nifti(tmp_path / "scan.nii", images))
    assert len(slices) == 2
    assert np.array_equal(slices[0], images[..., 0]) and np.array_equal(slices[1], images[..., 3])
    assert magnitude_slices(write_picture(tmp_path / "black.png", np.zeros((30, 20), np.uint8))) == []


def test_blank_raw_slices_are_left_out(tmp_path: Path) -> None:
    kspace = complex_normal((3, 24, 20))
    kspace[1] = 0
    (dataset,) = load_mixture([str(write_scan(tmp_path / "scan.h5", (3, 24, 20), kspace=kspace))]).datasets
    assert len(dataset.arrays) == 2 and np.array_equal(dataset.arrays[1], kspace[2])


def test_large_pictures_are_shrunk_by_cropping_k_space(tmp_path: Path) -> None:
    image = (250 * phantom(MAX_PICTURE_MATRIX + 60, MAX_PICTURE_MATRIX - 10) / 1.3).astype(np.uint8)
    (shrunk,) = magnitude_slices(write_picture(tmp_path / "large.png", image))
    assert shrunk.shape == (MAX_PICTURE_MATRIX, MAX_PICTURE_MATRIX - 10) and shrunk.dtype == np.uint16
    kspace = fft2c(torch.from_numpy(image.astype(np.complex64)))
    expected = ifft2c(resize_kspace(kspace, shrunk.shape)).abs().numpy()
    assert int(shrunk.max()) == pytest.approx(60000, abs=1)
    np.testing.assert_allclose(shrunk / shrunk.max(), expected / expected.max(), atol=1e-4)
    width = np.abs(fft2c(torch.from_numpy(shrunk.astype(np.complex64))).numpy())
    assert width[0].max() < width.max()  # it still is an image

    (same,) = magnitude_slices(write_picture(tmp_path / "largest.png", image[:MAX_PICTURE_MATRIX]))
    assert same.dtype == np.uint8 and np.array_equal(same, image[:MAX_PICTURE_MATRIX])


def test_volumes_may_be_larger_than_pictures(tmp_path: Path) -> None:
    tall, taller = volume(1, 300, 40), volume(1, MAX_NIFTI_MATRIX + 2, 40)
    assert np.array_equal(magnitude_slices(write_nifti(tmp_path / "tall.nii", tall))[0], tall[..., 0])
    (shrunk,) = magnitude_slices(write_nifti(tmp_path / "taller.nii", taller))
    assert shrunk.shape == (MAX_NIFTI_MATRIX, 40)


def spoil_nan(path: Path) -> None:
    images = volume().astype(np.float32)
    images[1, 2, 0] = np.nan
    write_nifti(path, images)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_inside_gzip(path: Path) -> None:
    """Write a NIfTI file that is whole for gzip but ends in the middle of the voxels."""
    write_nifti(path.with_name("whole.nii"), volume())
    content = path.with_name("whole.nii").read_bytes()
    path.with_name("whole.nii").unlink()
    path.write_bytes(gzip.compress(content[: len(content) // 2]))


def undersampled(path: Path) -> None:
    write_scan(path, mask=np.arange(20) % 2 == 0)


def structured(path: Path) -> None:
    colors = np.zeros((30, 20, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colors, np.eye(4)), path)


EIGHT = (200 * phantom(30, 20)).astype(np.uint8)
NAN = complex_normal((2, 24, 20))
NAN[1, 3, 4] = np.nan
BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("missing", lambda path: None, "file not found; give a file or folder with .h5, .hdf5,"),
    ("empty", lambda path: path.mkdir(), "no usable slice in it; give a file or folder with"),
    ("notes.txt", lambda path: path.write_text("text"), "not readable"),
    ("a.png", lambda path: path.write_text("text"), "not readable"),
    ("a.png", lambda path: path.write_bytes(b""), "not readable"),
    ("a.png", lambda path: (write_picture(path, EIGHT), cut(path)), "not readable"),  # type: ignore[func-returns-value]
    ("a.jpg", lambda path: (write_picture(path, EIGHT), cut(path)), "not readable"),  # type: ignore[func-returns-value]
    ("a.png", lambda path: write_picture(path, 0 * EIGHT), "no usable slice in it"),
    ("a.nii", lambda path: path.write_text("text"), "not readable"),
    ("a.nii", lambda path: (write_nifti(path, volume()), cut(path)), "not readable"),  # type: ignore[func-returns-value]
    ("a.nii.gz", lambda path: path.write_text("text"), "not readable"),
    ("a.nii.gz", lambda path: (write_nifti(path, volume()), cut(path)), "not readable"),  # type: ignore[func-returns-value]
    ("a.nii.gz", cut_inside_gzip, "not readable"),
    ("a.nii", spoil_nan, "holds NaN or infinite values; remove or replace it"),
    ("a.nii", structured, "is in color ("),
    ("a.nii", lambda path: write_nifti(path, volume().astype(np.complex64)), "is complex (complex64)"),
    ("a.nii", lambda path: write_nifti(path, np.arange(20, dtype=np.int16)), "has shape (20,); give (H, W)"),
    ("a.h5", lambda path: path.write_text("text"), "truncated or not an HDF5 file"),
    ("a.h5", lambda path: (write_scan(path), cut(path)), "truncated or not an HDF5 file"),  # type: ignore[func-returns-value]
    ("a.h5", lambda path: write_h5(path, images=np.ones(3)), "has no dataset 'kspace'"),
    ("a.h5", lambda path: write_scan(path, kspace=NAN), "'kspace' holds NaN or infinite values"),
    ("a.h5", undersampled, "is undersampled (it has a mask); training needs fully sampled scans"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), BAD)
def test_bad_file_is_named_in_one_line(
    tmp_path: Path, name: str, spoil: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / name
    spoil(path)
    with pytest.raises(InputError) as caught:
        load_mixture([str(path)])
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and message in text and ";" in text and "\n" not in text


def test_bad_file_in_a_folder_is_named(tmp_path: Path) -> None:
    mixed_folder(tmp_path)
    (tmp_path / "deeper" / "bad.png").write_text("text")
    with pytest.raises(InputError, match="bad.png: not readable"):
        load_mixture([str(tmp_path)])


@pytest.mark.parametrize("weight", ["0", "-1", "much", "nan", "inf", "1e999"])
def test_bad_weight(tmp_path: Path, weight: str) -> None:
    path = write_nifti(tmp_path / "scan.nii", volume())
    with pytest.raises(InputError) as caught:
        load_mixture([f"{path}={weight}"])
    assert str(caught.value).endswith(f": the weight '{weight}' is not a number above 0; write PATH=1.5")


def test_path_with_an_equals_sign(tmp_path: Path) -> None:
    (tmp_path / "run=1").mkdir()
    path = write_nifti(tmp_path / "run=1" / "scan.nii", volume())
    assert len(load_mixture([str(path)]).datasets[0].arrays) == 3
    assert load_mixture([f"{path}=2"]).datasets[0].weight == 2


def test_packed_slices_count_by_their_number_beside_others(tmp_path: Path) -> None:
    """Without weights; what is packed keeps its own shares."""
    path = tmp_path / "slices.h5"
    with h5py.File(path, "w") as file:
        file.attrs["format"] = PACKED_FORMAT
        for name, weight in (("0", 0.1), ("1", 0.3)):
            group = file.create_group(name)
            group.attrs.update({"path": f"some/{name}", "raw": False, "weight": weight})
            group["32x32"] = np.ones((3, 32, 32), np.uint8)
            group["order"] = np.array([[0, k] for k in range(3)], np.int32)
    write_nifti(tmp_path / "scan.nii", volume())
    mixture = load_mixture([str(path), str(tmp_path / "scan.nii")])
    assert [len(d.arrays) for d in mixture.datasets] == [3, 3, 3]
    np.testing.assert_allclose(mixture.shares, [1.5 / 9, 4.5 / 9, 3 / 9])
    mixture = load_mixture([f"{path}=1", f"{tmp_path / 'scan.nii'}=3"])
    np.testing.assert_allclose(mixture.shares, [0.25 / 4, 0.75 / 4, 3 / 4])


# --- along which axis slices lie --------------------------------------------------------------------------------------


def nifti_of(path: Path, images: np.ndarray, spacing: tuple[float, ...], named: int | None = None) -> Path:
    """Write a volume of this spacing, in mm, whose header may name the axis of slices."""
    image = nibabel.Nifti1Image(images, np.diag([*spacing, 1.0]))
    if named is not None:
        image.header.set_dim_info(slice=named)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_lie_along_the_thickest_spacing(tmp_path: Path, axis: int) -> None:
    """Even where there are more slices than pixels along a side."""
    images = volume(40)  # of 30 x 20
    spacing = [1.0, 1.1]
    spacing.insert(axis, 4.0)
    slices = magnitude_slices(nifti_of(tmp_path / "a.nii", np.moveaxis(images, 2, axis), tuple(spacing)))
    assert len(slices) == 40
    assert all(np.array_equal(one, images[..., k]) for k, one in enumerate(slices))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_of_equal_spacing_lie_along_the_shortest_side(tmp_path: Path, axis: int) -> None:
    images = volume(12)
    slices = magnitude_slices(nifti_of(tmp_path / "a.nii", np.moveaxis(images, 2, axis), (1.0, 1.0, 1.1)))
    assert len(slices) == 12 and np.array_equal(slices[5], images[..., 5])


def test_slices_lie_where_the_header_says(tmp_path: Path) -> None:
    images = volume(12)
    path = nifti_of(tmp_path / "a.nii", images, (1.0, 1.0, 5.0), named=1)
    slices = magnitude_slices(path, smallest_object=0.0)
    assert len(slices) == 20 and np.array_equal(slices[7], images[:, 7])


def test_cube_and_single_slice_lie_along_the_last_axis(tmp_path: Path) -> None:
    cube = volume(20, 20, 20)
    assert np.array_equal(magnitude_slices(nifti_of(tmp_path / "a.nii", cube, (1, 1, 1)))[3], cube[..., 3])
    single = magnitude_slices(nifti_of(tmp_path / "b.nii", volume(1), (5.0, 1.0, 1.0)))
    assert len(single) == 1 and np.array_equal(single[0], volume(1)[..., 0])


# --- what benchmarks train on -----------------------------------------------------------------------------------------


def test_sources_are_all_training_folders(data_dir: Path) -> None:
    folders = {str(path.relative_to(data_dir)) for path in data_dir.rglob("train") if path.is_dir()}
    sources = dict(source.split("=") for source in train.SOURCES)
    assert set(sources) == folders and sum(float(share) for share in sources.values()) == pytest.approx(1)
    assert all(float(source.split("=")[1]) > 0 for source in train.MAGNITUDES)


def test_real_volumes_are_read_slice_by_slice(data_dir: Path) -> None:
    """The number and size of slices of each anatomy, as acquired."""
    expected = {
        "t1_sagittal/train/uih_t1": (140, (230, 256)),
        "t1_sagittal/train/studyforrest_t1": (90, (274, 384)),
        "spine/train/sub-01_MToff": (22, (256, 256)),
        "spine/train/t2_lumbar": (38, (257, 201)),
        "heart/val/ssfp_cine_sax": (40, (256, 256)),
        "knee/val/mese_echo1": (24, (256, 256)),
    }
    for name, (count, shape) in expected.items():
        file = data_dir / "images" / f"{name}.nii.gz"
        found = magnitude_slices(file)
        assert len(found) == count_slices(file) == count and found[0].shape == shape


# --- packed slices that are of no use ---------------------------------------------------------------------------------


def write_packed(path: Path, weights: list[float], slices: int = 2) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["format"] = PACKED_FORMAT
        for name, weight in enumerate(weights):
            group = file.create_group(str(name))
            group.attrs.update({"path": f"some/{name}", "raw": False, "weight": weight})
            group["32x32"] = np.ones((slices, 32, 32), np.uint8)
            group["order"] = np.array([[0, k] for k in range(slices)], np.int32).reshape(-1, 2)
    return path


@pytest.mark.parametrize("reading", [Reading(), Reading(stream_above=0)])
@pytest.mark.parametrize(
    ("weights", "slices", "message"),
    [
        ([], 2, "no packed dataset with a weight above 0"),
        ([0.0, 0.0], 2, "no packed dataset with a weight above 0"),
        ([1.0, -1.0], 2, "no packed dataset with a weight above 0"),
        ([float("nan")], 2, "no packed dataset with a weight above 0"),
        ([1.0], 0, "a packed dataset without a slice"),
    ],
)
def test_packed_data_of_no_use(
    tmp_path: Path, weights: list[float], slices: int, message: str, reading: Reading
) -> None:
    path = write_packed(tmp_path / "slices.h5", weights, slices)
    with pytest.raises(InputError) as caught:
        load_mixture([str(path)], reading=reading)
    text = str(caught.value)
    assert text.startswith(f"{path}: {message}; make it with benchmarks/training/pack_slices.py") and "\n" not in text


def test_packed_dataset_of_share_0_is_not_drawn(tmp_path: Path) -> None:
    mixture = load_mixture([str(write_packed(tmp_path / "slices.h5", [0.0, 2.0]))])
    assert mixture.shares.tolist() == [0.0, 1.0]
