"""DICOM: what is written lies where NIfTI has it, for pydicom and dcm2niix; what is read, and users' mistakes."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

pytest.importorskip("pydicom")

import pydicom
from pydicom.uid import JPEGLSLossless

from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.dicom import has_dicom, is_dicom, list_series, read_dicom
from mrihvae.io.dicom_header import read_header
from mrihvae.io.like import read_reference
from mrihvae.io.magnitudes import count_slices, usable_slices
from mrihvae.io.nifti import read_nifti_volume, write_nifti
from mrihvae.io.write_dicom import finer, write_dicom
from mrihvae.utils.notices import collect_notices
from tests.support.dicom import DIRECTIONS, SHAPE, enhance, geometry_along, marked_volume, rewrite
from tests.support.files import truncate

HALF_STEP = 0.5001 * 3 / 65535  # of 16 bits, between 0 and the brightest


def assert_same_place(affine: np.ndarray, array: np.ndarray, nifti: Path, tolerance: float = HALF_STEP) -> None:
    """Every voxel of an array (i, j, k) with a NIfTI affine is one of another file, at the same place."""
    other = nibabel.load(nifti)
    indices = np.indices(array.shape).reshape(3, -1)
    points = affine[:3, :3] @ indices + affine[:3, 3:]
    inverse = np.linalg.inv(other.affine)
    found = inverse[:3, :3] @ points + inverse[:3, 3:]
    places = np.rint(found).astype(int)
    np.testing.assert_allclose(found, places, atol=1e-4)
    assert len(np.unique(places, axis=1).T) == array.size == other.get_fdata().size
    np.testing.assert_allclose(array.ravel(), other.get_fdata()[tuple(places)], atol=tolerance)


def files_of(folder: Path) -> list[Any]:
    return [pydicom.dcmread(file) for file in sorted(folder.glob("*.dcm"))]


@pytest.mark.parametrize("way", DIRECTIONS)
def test_pydicom_finds_voxels_where_nifti_has_them(way: str, tmp_path: Path) -> None:
    """By PS3.3 C.7.6.2.1.1: position + row direction * spacing * column index + column direction * spacing * row."""
    volume = marked_volume(way)
    write_nifti(tmp_path / "a.nii", volume)
    write_dicom(tmp_path / "a", volume)
    instances = files_of(tmp_path / "a")
    first, second = instances[:2]
    orientation = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    step = np.subtract(second.ImagePositionPatient, first.ImagePositionPatient).astype(float)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = orientation[1] * first.PixelSpacing[0], orientation[0] * first.PixelSpacing[1]
    affine[:3, 2], affine[:3, 3] = step, np.array(first.ImagePositionPatient, float)
    array = np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in instances], -1)
    assert_same_place(np.diag([-1, -1, 1, 1]) @ affine, array, tmp_path / "a.nii")
    assert step @ np.cross(*orientation) == pytest.approx(5.0) == first.SpacingBetweenSlices
    assert first.SliceThickness == 4 and [one.InstanceNumber for one in instances] == [1, 2, 3, 4, 5]


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
@pytest.mark.parametrize("way", DIRECTIONS)
def test_dcm2niix_agrees(way: str, tmp_path: Path) -> None:
    volume = marked_volume(way)
    write_nifti(tmp_path / "a.nii", volume)
    write_dicom(tmp_path / "a", volume)
    words = ["dcm2niix", "-f", "found", "-z", "n", "-b", "n", "-o", str(tmp_path), str(tmp_path / "a")]
    subprocess.run(words, check=True, capture_output=True)
    image = nibabel.load(tmp_path / "found.nii")
    assert_same_place(image.affine, image.get_fdata(), tmp_path / "a.nii", 2 * HALF_STEP)
    corner = np.argwhere(image.get_fdata() > 2.5).mean(axis=0)
    geometry = volume.geometry
    assert geometry is not None
    inner = np.array([0.5, 0.5, 0, 1])  # of the marked pixels
    expected = geometry.affine(SHAPE[1:]) @ inner
    np.testing.assert_allclose(image.affine @ [*corner, 1], expected, atol=1e-3)


@pytest.mark.parametrize("way", DIRECTIONS)
def test_geometry_survives_dicom_nifti_dicom(way: str, tmp_path: Path) -> None:
    write_dicom(tmp_path / "a", marked_volume(way))
    write_nifti(tmp_path / "a.nii.gz", read_dicom(tmp_path / "a"))
    write_dicom(tmp_path / "b", read_nifti_volume(tmp_path / "a.nii.gz"))
    for one, other in zip(files_of(tmp_path / "a"), files_of(tmp_path / "b"), strict=True):
        np.testing.assert_allclose(one.ImagePositionPatient, other.ImagePositionPatient, atol=1e-4)
        np.testing.assert_allclose(one.ImageOrientationPatient, other.ImageOrientationPatient, atol=1e-6)
        np.testing.assert_allclose(one.PixelSpacing, other.PixelSpacing, atol=1e-6)
        np.testing.assert_allclose(one.pixel_array, other.pixel_array, atol=1)


def test_planes_are_written_as_they_are_viewed(tmp_path: Path) -> None:
    expected = {"axial": [1, 0, 0, 0, 1, 0], "sagittal": [0, 1, 0, 0, 0, -1], "coronal": [1, 0, 0, 0, 0, -1]}
    for way in ("axial", "axial, w to the right", "sagittal", "coronal", "coronal, upside down"):
        write_dicom(tmp_path / way, marked_volume(way))
        assert files_of(tmp_path / way)[0].ImageOrientationPatient == expected[way.split(",")[0]]


def test_uncertainty_is_a_second_series_of_the_study(tmp_path: Path) -> None:
    volume = marked_volume(attributes={"method": "hybrid", "patient_id": "a1b2", "acquisition": "AXT2"})
    map_ = replace(volume, pixels=volume.pixels / 100, dataset="uncertainty")
    write_dicom(tmp_path / "a", volume, [map_])
    instances = files_of(tmp_path / "a")
    assert len({one.StudyInstanceUID for one in instances}) == len({one.FrameOfReferenceUID for one in instances}) == 1
    assert len({one.SeriesInstanceUID for one in instances}) == 2
    assert len({one.SOPInstanceUID for one in instances}) == 10
    assert {one.SeriesNumber for one in instances} == {1, 2}
    descriptions = {str(one.SeriesDescription) for one in instances}
    assert descriptions == {
        "Not for diagnosis - mrihvae hybrid", "Not for diagnosis - mrihvae hybrid uncertainty (SD)"
    }  # fmt: skip
    first = instances[0]
    assert (first.Modality, first.PatientID, first.PatientName, first.ProtocolName) == ("MR", "a1b2", "", "AXT2")
    assert list(first.ImageType[:2]) == ["DERIVED", "SECONDARY"] and first.EchoTime is None
    with pytest.raises(InputError, match=r"has 2 series; choose with --series one by its number or UID: 1 'Not for"):
        read_dicom(tmp_path / "a")
    for name in ("2", instances[-1].SeriesInstanceUID):
        np.testing.assert_allclose(read_dicom(tmp_path / "a", name).pixels.max(), 0.03, rtol=1e-5)
    with pytest.raises(InputError, match="has no series '7'"):
        read_dicom(tmp_path / "a", "7")


def test_uids_depend_on_the_images(tmp_path: Path) -> None:
    volume = marked_volume()
    for name in ("a", "b", "a"):  # the third replaces the first
        write_dicom(tmp_path / name, volume)
    write_dicom(tmp_path / "c", replace(volume, pixels=volume.pixels + 1))
    uids = [[one.SOPInstanceUID for one in files_of(tmp_path / name)] for name in "abc"]
    assert uids[0] == uids[1] and not set(uids[0]) & set(uids[2])
    assert all(uid.is_valid and len(uid) <= 64 for uid in uids[0])


@pytest.mark.parametrize("low", [0, -40])
def test_whole_numbers_stay(low: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(low, 4000, SHAPE).astype(np.float32)
    write_dicom(tmp_path / "a", ImageVolume(pixels, geometry_along("axial, w to the right")))
    assert files_of(tmp_path / "a")[0].RescaleSlope == 1
    write_dicom(tmp_path / "b", read_dicom(tmp_path / "a"))
    found = read_dicom(tmp_path / "b").pixels
    np.testing.assert_array_equal(np.sort(found.ravel()), np.sort(pixels.ravel()))


def test_small_and_constant_values(tmp_path: Path) -> None:
    """Pixels as fastMRI has them, of 1e-7, and of 0."""
    volume = marked_volume()
    write_dicom(tmp_path / "a", replace(volume, pixels=volume.pixels * np.float32(1e-7)))
    np.testing.assert_allclose(read_dicom(tmp_path / "a").pixels.max(), 3e-7, rtol=1e-6)
    write_dicom(tmp_path / "b", replace(volume, pixels=np.zeros(SHAPE, np.float32)))
    assert not read_dicom(tmp_path / "b").pixels.any()


def test_a_volume_without_geometry_comes_with_a_warning(tmp_path: Path) -> None:
    volume = ImageVolume(marked_volume().pixels, voxel=(1.5, 2.25, 4.0))
    with collect_notices() as notices:
        write_dicom(tmp_path / "a", volume)
    assert notices == ["the position of the images is unknown: DICOM puts them at the origin, as axial slices"]
    instance = files_of(tmp_path / "a")[1]
    assert instance.pixel_array.shape == SHAPE[1:] and list(instance.PixelSpacing) == [1.5, 2.25]
    assert instance.ImagePositionPatient[2] == 4 and "unknown" in "".join(instance.ImageComments)


def test_patient_and_study_are_carried_over(tmp_path: Path) -> None:
    """Names in another character set, too; directions of rows and columns stay those of the source."""
    write_dicom(tmp_path / "a", marked_volume("axial"))

    def fill(k: int, instance: Any) -> None:
        instance.SpecificCharacterSet = "ISO_IR 100"
        instance.PatientName, instance.PatientID, instance.EchoTime = "M\u00fcller^Zo\u00eb", "17", 4.5
        instance.SeriesNumber, instance.SeriesDescription = 4, "t2"

    rewrite(tmp_path / "a", fill)
    (series,) = list_series(tmp_path / "a")
    header = read_header(series)
    volume = read_dicom(tmp_path / "a")
    write_dicom(tmp_path / "b", replace(volume, pixels=volume.pixels * 2), header=header)
    old, new = files_of(tmp_path / "a")[0], files_of(tmp_path / "b")[0]
    assert str(new.PatientName) == "M\u00fcller^Zo\u00eb" and new.PatientID == "17" and new.EchoTime == 4.5
    assert new.StudyInstanceUID == old.StudyInstanceUID and new.FrameOfReferenceUID == old.FrameOfReferenceUID
    assert new.SeriesInstanceUID != old.SeriesInstanceUID and new.SeriesNumber == 1004
    assert new.SeriesDescription == "Not for diagnosis - mrihvae t2"
    assert new.ImagePositionPatient == old.ImagePositionPatient
    reference = read_reference(next((tmp_path / "a").glob("*.dcm")))  # a file stands for its series
    placed = reference.place(ImageVolume(volume.pixels))
    assert reference.header is not None and not reference.header.acquisition
    assert placed.geometry is not None and volume.geometry is not None
    np.testing.assert_array_equal(placed.geometry.positions, volume.geometry.positions)
    with pytest.raises(InputError, match="cannot give the position of the images: it has 5 x 9 x 12 voxels"):
        reference.place(ImageVolume(volume.pixels[:4]))
    with collect_notices() as notices:
        kept = reference.place(volume.single_slice(2))
    assert kept.geometry is not None and len(kept.geometry.positions) == 1 and "keep their own geometry" in notices[0]


def test_finer_pixels_keep_the_center_of_the_first(tmp_path: Path) -> None:
    volume = marked_volume("oblique")
    fine = finer(volume, volume.pixels.repeat(2, 1).repeat(2, 2), 2)
    assert fine.geometry is not None and volume.geometry is not None
    old, new = (one.geometry.affine(one.pixels.shape[1:]) for one in (volume, fine))
    np.testing.assert_allclose(new, old @ np.diag([0.5, 0.5, 1, 1]), atol=1e-9)


def test_multi_frame_images_are_read(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a", marked_volume("oblique"))
    path = enhance(tmp_path / "a", tmp_path / "enhanced")
    classic, found = read_dicom(tmp_path / "a"), read_dicom(path)
    np.testing.assert_array_equal(found.pixels, classic.pixels)
    assert found.geometry is not None and classic.geometry is not None
    np.testing.assert_array_equal(found.geometry.positions, classic.geometry.positions)
    header = read_header(list_series(path)[0])
    assert header.orientation is not None and header.orientation.shape == (2, 3)


def test_contents_tell_what_is_dicom(tmp_path: Path) -> None:
    """Names without a suffix, or of numbers, in folders below; other files, reports and DICOMDIR are passed over."""
    write_dicom(tmp_path / "a", marked_volume())
    (tmp_path / "b" / "c").mkdir(parents=True)
    for k, file in enumerate(sorted((tmp_path / "a").iterdir())):
        file.rename(tmp_path / "b" / "c" / (f"IM{k}" if k % 2 else f"1.2.{k}"))
    (tmp_path / "b" / "readme").write_text("DICM")
    report = pydicom.dcmread(tmp_path / "b" / "c" / "IM1")
    del report.Rows, report.PixelData
    report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"  # basic text
    report.save_as(tmp_path / "b" / "report")
    report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    report.save_as(tmp_path / "b" / "DICOMDIR")
    for path in (tmp_path / "b", tmp_path / "b" / "DICOMDIR"):
        assert read_dicom(path).pixels.shape == (5, 9, 12)
    assert read_dicom(tmp_path / "b" / "c" / "IM1").pixels.shape == (1, 9, 12)
    assert not is_dicom(tmp_path / "b" / "readme") and not has_dicom(tmp_path / "a")
    with pytest.raises(InputError, match="report: its DICOM holds no images"):
        read_dicom(tmp_path / "b" / "report")


def test_slices_to_train_on(tmp_path: Path) -> None:
    volume = marked_volume()
    write_dicom(tmp_path / "a", volume, [replace(volume, pixels=volume.pixels + 1, dataset="uncertainty")])
    assert count_slices(tmp_path / "a") == 10
    found = usable_slices(tmp_path / "a")
    assert list(found) == list(range(10)) and found[0].shape == (9, 12)
    np.testing.assert_allclose(found[5] - found[0], 1, atol=1e-4)


def without(*names: str) -> Any:
    """Remove values of the third file."""

    def change(k: int, instance: Any) -> None:
        for name in names if k == 2 else ():
            delattr(instance, name)

    return change


def with_values(number: int, **values: Any) -> Any:
    """Set values of one file."""

    def change(k: int, instance: Any) -> None:
        for name, value in values.items() if k == number else ():
            setattr(instance, name, value)

    return change


def compressed(k: int, instance: Any) -> None:
    instance.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    instance["PixelData"].is_undefined_length = True
    instance.file_meta.TransferSyntaxUID = JPEGLSLossless


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("ImagePositionPatient"), "_0003.dcm: lacks ImagePositionPatient, ImageOrientationPatient or Pix"),
        (without("PixelSpacing"), "_0003.dcm: lacks ImagePositionPatient, ImageOrientationPatient or PixelSpacing"),
        (without("PixelData"), "_0003.dcm: has no pixels"),
        (with_values(2, SeriesInstanceUID="1.2.3"), "has 2 series"),
        (with_values(1, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "several orientations"),
        (with_values(1, PixelSpacing=[3, 3]), "several values of PixelSpacing"),
        (with_values(2, Rows=12, Columns=9), "images of one series have sizes 12 x 9, 9 x 12"),
        (with_values(2, SamplesPerPixel=3), "is in color"),
        (with_values(2, Rows=400), "_0003.dcm: not readable"),
        (with_values(4, ImagePositionPatient=[-3, -21, 60]), "slices are not evenly spaced: 5 mm apart, but 25 mm"),
        (compressed, r"is compressed \(JPEG-LS .*\); pip install pylibjpeg"),
    ],
)
def test_what_cannot_be_read_is_one_error(change: Any, message: str, tmp_path: Path) -> None:
    write_dicom(tmp_path / "a", marked_volume())
    rewrite(tmp_path / "a", change)
    with pytest.raises(InputError, match=message) as raised:
        read_dicom(tmp_path / "a")
    assert str(raised.value).startswith(str(tmp_path / "a")) and "\n" not in str(raised.value)


def test_mistakes_of_paths(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a", marked_volume())
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no DICOM")
    shutil.copy(tmp_path / "a" / "reconstruction_0002.dcm", tmp_path / "a" / "copy.dcm")
    for name, message in (
        ("empty", "no DICOM file in this folder"), ("text", "not DICOM: 'DICM' is missing"),
        ("absent", "file not found"), ("a", "2 or more of 6 images share positions"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            read_dicom(tmp_path / name)
    with pytest.raises(InputError, match="a: holds copy.dcm, which does not belong to such a series"):
        write_dicom(tmp_path / "a", marked_volume())
    truncate(tmp_path / "a" / "reconstruction_0002.dcm")
    with pytest.raises(InputError, match="reconstruction_0002.dcm: not readable"):
        read_dicom(tmp_path / "a")


def test_mistakes_of_writing(tmp_path: Path) -> None:
    volume = marked_volume()
    with pytest.raises(InputError, match=r"a.dcm: 5 images need a folder of DICOM files"):
        write_dicom(tmp_path / "a.dcm", volume)
    write_dicom(tmp_path / "a.dcm", volume.single_slice(1))
    assert read_dicom(tmp_path / "a.dcm").pixels.shape == (1, 9, 12)
    with pytest.raises(InputError, match="pixels are NaN or infinite"):
        write_dicom(tmp_path / "b", replace(volume, pixels=volume.pixels * np.nan))
    assert [path.name for path in tmp_path.iterdir()] == ["a.dcm"]


def test_without_pydicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dicom(tmp_path / "a", marked_volume())
    monkeypatch.setattr("mrihvae.io.dicom.find_spec", lambda name: None)
    for call in (lambda: write_dicom(tmp_path / "b", marked_volume()), lambda: read_dicom(tmp_path / "a")):
        with pytest.raises(InputError, match=r"DICOM needs the package pydicom; pip install 'mrihvae\[dicom\]'"):
            call()


def test_images_without_positions_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a", marked_volume())
    expected = read_dicom(tmp_path / "a").pixels[::-1]

    def strip(k: int, instance: Any) -> None:
        del instance.ImagePositionPatient
        instance.InstanceNumber = 5 - k

    rewrite(tmp_path / "a", strip)
    with collect_notices() as notices:
        found = read_dicom(tmp_path / "a")
    np.testing.assert_array_equal(found.pixels, expected)
    assert found.geometry is None and found.voxel == (2.25, 1.5, 4.0) and "has no image positions" in notices[0]
