"""DICOM at the command line: in and out of `convert`, out of `reconstruct`, and through `restore` and training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

pytest.importorskip("pydicom")

import pydicom

from mrihvae.data.volume import ImageVolume
from mrihvae.datasets.mixture import Reading, load_mixture
from mrihvae.io.dicom import read_dicom
from mrihvae.io.images import list_images, read_images, restored_name, write_images
from mrihvae.io.nifti import write_nifti
from mrihvae.io.write_dicom import write_dicom
from mrihvae.io.write_images import write_hdf5
from tests.support.dicom import SHAPE, VOXEL, geometry_along, marked_volume, rewrite
from tests.support.files import error_of, run, write_h5, write_scan

WORDS = ("--method", "zero-filled", "--mask-type", "random", "--acceleration", "2", "--center-fraction", "0.2")


def test_convert_from_and_to_dicom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = marked_volume("oblique")
    write_nifti(tmp_path / "a.nii.gz", volume)
    assert run("convert", tmp_path / "a.nii.gz", tmp_path / "dicom", "--format", "dcm") == 0
    assert run("convert", tmp_path / "dicom", tmp_path / "b.nii.gz") == 0
    assert run("convert", tmp_path / "dicom", tmp_path / "one.dcm", "--slice", "2") == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in ("dicom", "b.nii.gz", "one.dcm")]
    one, other = nibabel.load(tmp_path / "a.nii.gz"), nibabel.load(tmp_path / "b.nii.gz")
    assert one.get_fdata().sum() == pytest.approx(other.get_fdata().sum(), rel=1e-5)
    bright = [image.affine @ [*np.argwhere(image.get_fdata() > 2.5).mean(axis=0), 1] for image in (one, other)]
    np.testing.assert_allclose(*bright, atol=1e-3)
    source, copy = (pydicom.dcmread(tmp_path / name) for name in ("dicom/reconstruction_0003.dcm", "one.dcm"))
    assert source.ImagePositionPatient == copy.ImagePositionPatient
    assert source.StudyInstanceUID == copy.StudyInstanceUID  # DICOM stays in its study
    assert "5 images need a folder" in error_of(capsys, "convert", tmp_path / "a.nii.gz", tmp_path / "b.dcm")
    assert "is also the input" in error_of(capsys, "convert", tmp_path / "dicom", tmp_path / "dicom")
    (tmp_path / "empty").mkdir()
    assert "empty: no file to convert" in error_of(capsys, "convert", tmp_path / "empty", "a", "--format", "nii")


def test_convert_both_series_of_a_reconstruction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_hdf5(tmp_path / "a.h5", marked_volume())
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["uncertainty"] = np.full(SHAPE, 7, "f4")
    assert run("convert", tmp_path / "a.h5", tmp_path / "a", "--format", "dcm") == 0
    assert len(list((tmp_path / "a").iterdir())) == 10
    assert "has 2 series; choose with --series" in error_of(capsys, "convert", tmp_path / "a", tmp_path / "b.nii")
    assert run("convert", tmp_path / "a", tmp_path / "b.nii", "--series", "2") == 0
    assert nibabel.load(tmp_path / "b.nii").get_fdata().min() == 7


def test_convert_like_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Geometry from NIfTI or DICOM, and of DICOM patient and study, but not the acquisition."""
    volume = marked_volume("axial")
    write_dicom(tmp_path / "scanner", volume)
    rewrite(tmp_path / "scanner", lambda k, instance: setattr(instance, "PatientName", "Doe^Jane"))
    scanned = read_dicom(tmp_path / "scanner")
    write_nifti(tmp_path / "like.nii", scanned)
    write_h5(tmp_path / "a.h5", reconstruction=scanned.pixels)
    for name, like in (("a", "scanner"), ("b", "like.nii")):
        words = ("--format", "dcm", "--like", tmp_path / like)
        assert run("convert", tmp_path / "a.h5", tmp_path / name, *words) == 0
    assert run("convert", tmp_path / "a.h5", tmp_path / "a.nii", "--like", tmp_path / "scanner") == 0
    assert capsys.readouterr().err == ""
    np.testing.assert_allclose(nibabel.load(tmp_path / "a.nii").affine, nibabel.load(tmp_path / "like.nii").affine)
    originals, one, other = (
        [pydicom.dcmread(file) for file in sorted((tmp_path / name).iterdir())] for name in ("scanner", "a", "b")
    )
    for found in (one, other):
        for k in range(5):
            np.testing.assert_allclose(found[k].ImagePositionPatient, originals[k].ImagePositionPatient, atol=1e-4)
    assert one[0].PatientName == "Doe^Jane" and one[0].StudyInstanceUID == originals[0].StudyInstanceUID
    assert other[0].PatientName == "" and other[0].StudyInstanceUID != originals[0].StudyInstanceUID
    said = error_of(capsys, "convert", tmp_path / "a.h5", tmp_path / "c.nii", "--like", tmp_path / "a.h5")
    assert "no geometry can be taken from it" in said
    scan = write_scan(tmp_path / "scan.h5")
    said = error_of(capsys, "convert", scan, tmp_path / "c.cfl", "--like", tmp_path / "scanner")
    assert said == "--like: only applies to images; add --images, or leave it out"


@pytest.mark.parametrize(("form", "names"), [("dcm", ["a", "b"]), ("nii", ["a.nii.gz", "b.nii.gz"])])
def test_convert_a_folder(form: str, names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        write_hdf5(tmp_path / "in" / f"{name}.h5", marked_volume("coronal"))
    assert run("convert", tmp_path / "in", tmp_path / "out", "--format", form) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert capsys.readouterr().out.split() == [str(tmp_path / "out" / name) for name in names]
    said = error_of(capsys, "convert", tmp_path / "in", tmp_path / "out")
    assert said.endswith("in: is a folder; add --format to convert its files into a folder")


@pytest.mark.parametrize(("form", "name"), [("nii", "a.nii.gz"), ("dcm", "a")])
def test_reconstruct_in_another_form(form: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    geometry = geometry_along("sagittal", 2)
    scan = write_scan(tmp_path / "a.h5", attributes=geometry.attributes())
    words = ("reconstruct", scan, "--output", tmp_path / "out", *WORDS, "--format", form)
    assert run(*words) == 0
    folder = tmp_path / "out" / "reconstructions"
    assert sorted(path.name for path in folder.iterdir()) == sorted(["a.h5", name])
    assert run("convert", folder / "a.h5", tmp_path / "a.nii") == 0
    assert run("convert", folder / name, tmp_path / "b.nii") == 0
    one, other = nibabel.load(tmp_path / "a.nii"), nibabel.load(tmp_path / "b.nii")
    corners = [np.argwhere(image.get_fdata() == image.get_fdata().max())[0] for image in (one, other)]
    places = [image.affine @ [*corner, 1] for image, corner in zip((one, other), corners, strict=True)]
    np.testing.assert_allclose(*places, atol=1e-3)
    capsys.readouterr()
    assert run(*words, "--resume") == 0 and "already there" in capsys.readouterr().out
    (folder / "a.h5").rename(folder / "kept")
    assert run(*words, "--resume") == 0 and "already there" not in capsys.readouterr().out


def test_uncertainty_in_another_form(tmp_path: Path) -> None:
    from mrihvae.cli.reconstruction_images import write_images as write_form
    from mrihvae.io.fastmri import read_scan
    from mrihvae.recon.reconstruction import Reconstruction

    scan = read_scan(write_scan(tmp_path / "a.h5", (5, 12, 9), attributes=geometry_along("axial").attributes()))
    found = Reconstruction(np.ones(SHAPE, np.float32), std=np.full(SHAPE, 2, np.float32))
    for form in ("h5", "nii", "dcm"):
        write_form(tmp_path, scan, found, {"method": "hybrid"}, form)
    names = sorted(path.name for path in (tmp_path / "reconstructions").iterdir())
    assert names == ["a", "a.nii.gz", "a_uncertainty.nii.gz"]
    assert read_dicom(tmp_path / "reconstructions" / "a", "2").pixels.min() == 2
    assert nibabel.load(tmp_path / "reconstructions" / "a_uncertainty.nii.gz").get_fdata().max() == 2


def test_images_to_restore_stay_dicom(tmp_path: Path) -> None:
    """Twice as fine, in the study and with the patient of the source; each folder of a folder is a series."""
    write_dicom(tmp_path / "in" / "a", marked_volume("coronal"))
    write_dicom(tmp_path / "in" / "b", marked_volume("axial"))
    rewrite(tmp_path / "in" / "a", lambda k, instance: setattr(instance, "PatientID", "17"))
    assert list_images(tmp_path / "in") == [tmp_path / "in" / "a", tmp_path / "in" / "b"]
    assert list_images(tmp_path / "in" / "a") == [tmp_path / "in" / "a"] and restored_name(tmp_path / "in/a") == "a"
    images = read_images(tmp_path / "in" / "a")
    assert images.values.shape == (1, 5, 9, 12)
    write_images(tmp_path / "out" / "a", images.values.repeat(2, 2).repeat(2, 3), images, 2)
    old, new = (pydicom.dcmread(sorted((tmp_path / name / "a").iterdir())[0]) for name in ("in", "out"))
    assert new.PatientID == "17" and new.StudyInstanceUID == old.StudyInstanceUID and new.Rows == 2 * old.Rows
    assert new.ImagePositionPatient == old.ImagePositionPatient
    np.testing.assert_allclose(np.multiply(new.PixelSpacing, 2), old.PixelSpacing)


@pytest.mark.parametrize("stream", [False, True])
def test_training_reads_dicom(stream: bool, tmp_path: Path) -> None:
    volume = marked_volume()
    write_dicom(tmp_path / "a" / "b", volume)
    write_nifti(tmp_path / "a" / "c.nii.gz", replace(volume, pixels=volume.pixels + 1))
    reading = Reading(stream_above=0 if stream else 1 << 30)
    (dataset,) = load_mixture([str(tmp_path / "a")], reading=reading).datasets
    assert len(dataset.arrays) == 10 and not dataset.raw
    assert sorted({dataset.arrays[k].shape for k in range(10)}) == [(9, 12), (12, 9)]
    (single,) = load_mixture([str(next((tmp_path / "a" / "b").iterdir()))], reading=reading).datasets
    assert len(single.arrays) == 1


def test_restore_a_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = ImageVolume(marked_volume().pixels, geometry_along("axial", voxel=VOXEL))
    write_dicom(tmp_path / "a", volume, [replace(volume, dataset="uncertainty")])
    words = ("restore", tmp_path / "a", "--task", "denoise", "--output", tmp_path / "out")
    assert "has 2 series; choose with --series" in error_of(capsys, *words)
    assert "has no series '9'" in error_of(capsys, *words, "--series", "9")
