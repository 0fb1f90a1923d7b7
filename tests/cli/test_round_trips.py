"""`mrihvae convert` there and back: every pair of formats keeps what both can hold, bit for bit."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

pytest.importorskip("ismrmrd")
pytest.importorskip("pydicom")

from mrihvae import open_kspace
from mrihvae.cli.convert import run as convert_files
from mrihvae.cli.main import parse
from mrihvae.cli.options import Convert
from mrihvae.data.scan import Scan
from mrihvae.data.volume import ImageVolume
from mrihvae.io.dicom import read_dicom
from mrihvae.io.images import read_images, write_images
from mrihvae.io.volumes import read_volumes
from mrihvae.io.write_images import write_hdf5
from tests.support.dicom import SHAPE, geometry_along, marked_volume, rewrite
from tests.support.files import complex_normal, error_of, header, run, write_scan
from tests.support.stored_images import Stored, marked, store

IMAGES = ("h5", "nii", "nii.gz", "npy", "mrd", "cfl", "dcm")
KSPACE = ("h5", "cfl", "npy")
GEOMETRY = geometry_along("oblique")


def convert(source: Path, output: Path, *words: str) -> Path:
    """Convert; of DICOM, which has two series, the images and then their uncertainty."""
    form = ("--format", "dcm") if output.suffix == ".dcm" else ()
    output = output.with_suffix("") if form else output
    if not source.is_dir():
        assert run("convert", source, output, *form, *words) == 0
        return output
    assert run("convert", source, output, *form, "--series", "1") == 0
    return output


def written(path: Path) -> ImageVolume:
    """Read the images of a file or of the first series."""
    (found,) = read_volumes(path)
    return found.images


@pytest.mark.parametrize(("one", "other"), list(product(IMAGES, IMAGES)))
def test_images_come_back(one: str, other: str, tmp_path: Path) -> None:
    """HDF5 to a format, to another, and back; DICOM rounds to 16 bits, and its second series has the uncertainty."""
    volume = marked_volume("oblique", attributes={"method": "tv"}, uncertainty=marked_volume().pixels[::-1] / 8)
    write_hdf5(tmp_path / "a.h5", volume)
    first = convert(tmp_path / "a.h5", tmp_path / f"b.{one}")
    second = convert(first, tmp_path / f"c.{other}")
    back = written(convert(second, tmp_path / "back.h5") if other != "dcm" or one != "dcm" else second)
    steps = 0.51 * 3 / 65535 * (one, other).count("dcm")
    found, expected = back.pixels, volume.pixels
    if "dcm" in (one, other):  # arranges axes as a plane is viewed
        assert back.geometry is not None or "cfl" in (one, other)
        found, expected = np.sort(found, axis=None), np.sort(expected, axis=None)
    np.testing.assert_allclose(found, expected, rtol=0, atol=steps)
    if "dcm" not in (one, other):
        np.testing.assert_array_equal(back.uncertainty, volume.uncertainty)
        assert "cfl" in (one, other) or back.geometry is not None
        if back.geometry is not None and "cfl" not in (one, other):
            np.testing.assert_allclose(back.geometry.affine(SHAPE[1:]), GEOMETRY.affine(SHAPE[1:]), atol=1e-4)
        if {one, other} <= {"h5", "npy", "mrd"}:
            assert back.attributes["method"] == "tv"


def test_dicom_has_the_uncertainty_and_the_place(tmp_path: Path) -> None:
    volume = marked_volume("oblique", uncertainty=marked_volume().pixels / 8)
    write_hdf5(tmp_path / "a.h5", volume)
    folder = convert(tmp_path / "a.h5", tmp_path / "b.dcm")
    assert run("convert", folder, tmp_path / "c.nii", "--series", "1") == 0
    assert run("convert", folder, tmp_path / "d.nii", "--series", "2") == 0
    assert run("convert", tmp_path / "a.h5", tmp_path / "e.nii") == 0
    images = {name: nibabel.load(tmp_path / f"{name}.nii") for name in ("c", "e")}
    places = [
        image.affine @ [*np.argwhere(image.get_fdata() > 2.5).mean(axis=0), 1] for image in images.values()
    ]  # of the marked corner
    np.testing.assert_allclose(*places, atol=1e-3)
    deviation = nibabel.load(tmp_path / "d.nii").get_fdata()
    np.testing.assert_allclose(
        np.sort(deviation, axis=None), np.sort(volume.uncertainty, axis=None), atol=3 / 65535 / 8
    )


def scan_file(path: Path, coils: int) -> Path:
    """Write an undersampled scan with padding, matrix, attributes and geometry, and with noise of several coils."""
    shape = (3, 24, 20) if coils == 1 else (3, coils, 24, 20)
    mask = np.arange(20) % 3 == 0
    further = {} if coils == 1 else {"noise": complex_normal((coils, 64), 3)}
    xml = header(24, 20, center=9, last=17).replace("<reconSpace><matrixSize><x>24", "<reconSpace><matrixSize><x>12")
    about = {"acceleration": 3, "noise_level": np.float64(0.1), **geometry_along("oblique", 3).attributes()}
    kspace = np.where(mask, complex_normal(shape), 0)
    targets = {"reconstruction_esc": None, "reconstruction_rss": None}
    return write_scan(path, shape, attributes=about, kspace=kspace, mask=mask, ismrmrd_header=xml, **targets, **further)


def same_scan(found: Scan, source: Scan, formats: set[str]) -> None:
    """Compare what all formats on the way can hold."""
    assert found.kspace.dtype == np.complex64
    np.testing.assert_array_equal(np.asarray(found.kspace).view(np.uint32), np.asarray(source.kspace).view(np.uint32))
    if "cfl" not in formats:
        np.testing.assert_array_equal(found.mask, source.mask)
        assert found.padding == source.padding == (1, 19) and found.matrix == source.matrix == (12, 20)
        assert found.geometry is not None and source.geometry is not None
        for name, value in source.geometry.attributes().items():
            np.testing.assert_array_equal(found.geometry.attributes()[name], value)
        for name in ("acquisition", "acceleration", "noise_level", "patient_id"):
            assert found.attributes[name] == source.attributes[name], name
    if formats == {"h5"} and source.noise_scan is not None:
        np.testing.assert_array_equal(found.noise_scan, source.noise_scan)


@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize(("one", "other"), list(product(KSPACE, KSPACE)))
def test_kspace_comes_back(
    one: str, other: str, coils: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = scan_file(tmp_path / "a.h5", coils)
    assert run("convert", source, tmp_path / f"b.{one}") == 0
    said = capsys.readouterr().err
    assert ("cannot store" in said) == (one == "cfl" or (one == "npy" and coils > 1))
    assert run("convert", tmp_path / f"b.{one}", tmp_path / f"c.{other}") == 0
    assert run("convert", tmp_path / f"c.{other}", tmp_path / "back.h5") == 0
    (first,) = open_kspace(source)
    for name in (f"b.{one}", f"c.{other}", "back.h5"):
        (found,) = open_kspace(tmp_path / name)
        same_scan(found, first, {"h5"} if name == f"b.{one}" == "b.h5" else {one, other})


def test_scans_keep_their_reference_images(tmp_path: Path) -> None:
    target = np.random.default_rng(0).random((2, 24, 20), np.float32)
    mask = np.arange(20) % 2 == 0
    source = write_scan(tmp_path / "a.h5", reconstruction_esc=target, mask=mask)
    assert run("convert", source, tmp_path / "b.h5") == 0
    with h5py.File(tmp_path / "b.h5") as file:
        np.testing.assert_array_equal(file["reconstruction_esc"][()], target)
        np.testing.assert_array_equal(file["mask"][()], mask)


def test_nothing_is_dropped_silently(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Uncertainty goes beside, samples and attributes are named; HDF5 has them all."""
    samples = np.random.default_rng(1).random((5, 2, *SHAPE[1:]), np.float32)
    attributes = {"method": "hybrid", "acceleration": 4}
    volume = marked_volume(attributes=attributes, uncertainty=marked_volume().pixels / 8, samples=samples)
    write_hdf5(tmp_path / "a.h5", volume)
    assert run("convert", tmp_path / "a.h5", tmp_path / "b.nii.gz") == 0
    assert "cannot store posterior samples, attributes (acceleration, method)" in capsys.readouterr().err
    beside = nibabel.load(tmp_path / "b_uncertainty.nii.gz")
    np.testing.assert_array_equal(beside.get_fdata(), volume.uncertainty.transpose(1, 2, 0))
    assert run("convert", tmp_path / "a.h5", tmp_path / "c.h5") == 0 and capsys.readouterr().err == ""
    np.testing.assert_array_equal(written(tmp_path / "c.h5").samples, samples)
    assert written(tmp_path / "c.h5").attributes["acceleration"] == 4
    assert run("convert", tmp_path / "a.h5", tmp_path / "d.npy", "--slice", "3") == 0
    assert "cannot store posterior samples" in capsys.readouterr().err
    np.testing.assert_array_equal(written(tmp_path / "d.npy").uncertainty, volume.uncertainty[3:4])
    assert run("convert", tmp_path / "a.h5", tmp_path / "e.png") == 0 and (tmp_path / "e_uncertainty.png").is_file()
    assert run("convert", tmp_path / "a.h5", tmp_path / "f.cfl") == 0 and (tmp_path / "f_uncertainty.hdr").is_file()
    said = error_of(capsys, "convert", tmp_path / "a.h5", tmp_path / "b.nii.gz")
    assert said.endswith("b.nii.gz: is already there; choose another name, or add --overwrite or --resume")
    (tmp_path / "b.nii.gz").unlink()
    assert "b_uncertainty.nii.gz: is already there" in error_of(
        capsys, "convert", tmp_path / "a.h5", tmp_path / "b.nii.gz"
    )
    assert run("convert", tmp_path / "a.h5", tmp_path / "b.nii.gz", "--resume") == 0  # as one call writes both
    assert "b.nii.gz" in capsys.readouterr().out and (tmp_path / "b.nii.gz").is_file()


def test_existing_outputs_are_replaced_on_request_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_hdf5(tmp_path / "a.h5", marked_volume())
    scan = write_scan(tmp_path / "scan.h5")
    for source, name, words in (
        ("a.h5", "dicom", ("--format", "dcm")), ("a.h5", "b.nii", ()), ("a.h5", "c.npy", ()), ("scan.h5", "d.cfl", ()),
    ):  # fmt: skip
        assert run("convert", tmp_path / source, tmp_path / name, *words) == 0
        assert "is already there" in error_of(capsys, "convert", tmp_path / source, tmp_path / name, *words)
        assert run("convert", tmp_path / source, tmp_path / name, *words, "--overwrite") == 0
    assert run("convert", tmp_path / "a.h5", tmp_path / "dicom", "--format", "nii") == 0  # a folder that is there
    assert (tmp_path / "dicom" / "a.nii.gz").is_file()
    said = error_of(capsys, "convert", tmp_path / "b.nii", tmp_path / "e.npy", "--series", "1")
    assert said.startswith("--series 1: only applies to HDF5 and DICOM") and not (tmp_path / "e.npy").exists()
    (tmp_path / "d.cfl").unlink()
    (tmp_path / "d.hdr").write_text("a note")
    assert "d.hdr: is already there" in error_of(capsys, "convert", scan, tmp_path / "d.cfl")
    assert "is also the input" in error_of(capsys, "convert", scan, scan, "--overwrite")


@pytest.mark.parametrize(("name", "index"), [("d.cfl", "d.hdr"), ("d.hdr", "d.hdr"), ("d.npy", "d.json")])
def test_index_that_a_killed_process_left_is_no_output(
    name: str, index: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data are renamed last: an index without them is written anew, and any other file of its name stays."""
    scan, path = write_scan(tmp_path / "scan.h5"), tmp_path / name
    assert run("convert", scan, path) == 0
    data = next(file for file in tmp_path.glob("d.*") if file.name != index)
    data.unlink()
    assert run("convert", scan, path) == 0 and data.is_file()
    np.testing.assert_allclose(open_kspace(data)[0].kspace[()], open_kspace(scan)[0].kspace[()], rtol=1e-6)
    for text in ("a note", '{"axis": 1}', "{}"):
        data.unlink()
        (tmp_path / index).write_text(text)
        assert f"{index}: is already there" in error_of(capsys, "convert", scan, path)
        assert (tmp_path / index).read_text() == text
        data.write_text("")


def test_interrupted_conversion_of_a_folder_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.h5", "b.h5"):
        write_scan(tmp_path / "in" / name)
    words = ("convert", tmp_path / "in", tmp_path / "out", "--format", "npy")
    assert run(*words) == 0
    kept = (tmp_path / "out" / "a.npy").stat().st_ino
    (tmp_path / "out" / "b.npy").unlink()
    capsys.readouterr()
    assert run(*words) == 1 and "1 of 2 converted" in capsys.readouterr().err and (tmp_path / "out" / "b.npy").is_file()
    (tmp_path / "out" / "b.npy").unlink()
    assert run(*words, "--resume") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'b.npy'}\n"
    assert (tmp_path / "out" / "a.npy").stat().st_ino == kept
    assert run(*words, "--resume") == 0 and capsys.readouterr().out == ""
    assert "contradict" in error_of(capsys, *words, "--resume", "--overwrite")


def test_warnings_of_several_volumes_name_their_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And not a file of the folder's name, which nobody writes."""
    history = {"ImageProcessingHistory": ["MRIHVAE", "hybrid"]}
    store(tmp_path / "a.h5", [Stored(marked(1), meta=history), Stored(marked(2), series=1, meta=history)])
    assert run("convert", tmp_path / "a.h5", tmp_path / "all", "--format", "nii") == 0
    assert len(list((tmp_path / "all").iterdir())) == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'all'}: .nii.gz cannot store attributes (method)")


def test_a_bad_file_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "c"):
        write_hdf5(tmp_path / "in" / f"{name}.h5", marked_volume(uncertainty=marked_volume().pixels))
    (tmp_path / "in" / "b.h5").write_text("hello")
    options = parse(["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--format", "nii"])
    assert isinstance(options, Convert) and convert_files(options) == 1
    shown = capsys.readouterr()
    assert [Path(line).name for line in shown.out.split()] == ["a.nii.gz", "c.nii.gz"]
    first, last = shown.err.splitlines()
    assert "in/b.h5: truncated or not an HDF5 file" in first and last == "2 of 3 converted, 1 failed"
    assert run("convert", tmp_path / "out", tmp_path / "back", "--format", "h5") == 0  # maps go with their images
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["a.h5", "c.h5"]
    np.testing.assert_array_equal(written(tmp_path / "back" / "a.h5").uncertainty, marked_volume().pixels)


def test_stored_images_in_anatomical_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Slices 0, 2, 1 of contrasts 1, 0, 0, 1 with gaps, to NIfTI and DICOM."""
    images = [
        Stored(marked(10 * contrast + k).astype(np.int16), 3 + 5.5 * k, header={"slice": k, "contrast": contrast},
               meta={"RescaleSlope": "0.5"})
        for k in (0, 2, 1) for contrast in (1, 0)
    ]  # fmt: skip
    source = store(tmp_path / "a.h5", images)
    said = error_of(capsys, "convert", source, tmp_path / "b.nii")
    assert (
        "a.h5: has 2 volumes: contrast0 (3 slices), contrast1 (3 slices); choose one with --series, --contrast" in said
    )
    assert run("convert", source, tmp_path / "b.nii", "--contrast", "1") == 0
    image = nibabel.load(tmp_path / "b.nii")
    assert image.get_fdata()[3, 3].tolist() == [5, 5.5, 6] and image.header.get_zooms() == (2, 1.5, 5.5)
    np.testing.assert_allclose(image.affine @ [4, 3, 1, 1], [-1, -2, 8.5, 1], atol=1e-5)
    assert run("convert", source, tmp_path / "nifti", "--format", "nii") == 0
    assert sorted(path.name for path in (tmp_path / "nifti").iterdir()) == ["a_contrast0.nii.gz", "a_contrast1.nii.gz"]
    assert run("convert", source, tmp_path / "dicom", "--format", "dcm") == 0
    volume = read_dicom(tmp_path / "dicom" / "a_contrast1")
    assert volume.pixels[:, 3, 3] == pytest.approx([5, 5.5, 6], abs=1e-4) and volume.geometry is not None
    assert volume.geometry.positions[:, 2].tolist() == [3, 8.5, 14] and volume.geometry.voxel[2] == 5
    assert "has no images of repetition 3" in error_of(
        capsys, "convert", source, tmp_path / "c.nii", "--repetition", "3"
    )


def test_complex_images_where_there_is_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [Stored((marked(k) * (3 + 4j)).astype(np.complex64), 5 * k, kind="complex") for k in (1, 0)]
    source = store(tmp_path / "a.h5", images)
    assert run("convert", source, tmp_path / "b.npy") == 0 and run("convert", source, tmp_path / "c.nii") == 0
    assert "the images are complex: .nii stores their magnitude" in capsys.readouterr().err
    assert written(tmp_path / "b.npy").pixels[:, 3, 3].tolist() == [0, 3 + 4j]
    assert nibabel.load(tmp_path / "c.nii").get_fdata()[3, 3].tolist() == [0, 5]
    assert "b.npy: holds images" in error_of(capsys, "reconstruct", tmp_path / "b.npy", "--output", tmp_path / "o")


def test_big_endian_nifti_and_rescaled_dicom(tmp_path: Path) -> None:
    """Numbers of the other byte order, and pixels with slope and intercept, have their values."""
    values = np.arange(72, dtype=np.int16).reshape(4, 6, 3)
    image = nibabel.Nifti1Image(values.astype(">i2"), np.diag([2, 1.5, 5, 1]), nibabel.Nifti1Header(endianness=">"))
    image.header.set_slope_inter(0.5, -4)
    image.to_filename(tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == b"\0\0\x01\x5c"  # 348, the size of the header
    assert run("convert", tmp_path / "a.nii", tmp_path / "b.npy") == 0
    expected = nibabel.load(tmp_path / "a.nii").get_fdata().transpose(2, 0, 1)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), expected)
    assert np.load(tmp_path / "b.npy").dtype == np.dtype("=f4")
    assert run("convert", tmp_path / "a.nii", tmp_path / "d", "--format", "dcm") == 0
    images = read_images(tmp_path / "a.nii")  # as `restore` does
    np.testing.assert_array_equal(images.values[0], expected)
    write_images(tmp_path / "restored.nii", images.values + 1, images)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "restored.nii").get_fdata().transpose(2, 0, 1), expected + 1)
    before = read_dicom(tmp_path / "d").pixels

    def rescale(_: int, instance: object) -> None:
        instance.RescaleSlope = "0.25"
        instance.RescaleIntercept = "-7"

    slope = read_slope(tmp_path / "d")
    rewrite(tmp_path / "d", rescale)
    stored = np.rint((before - slope[1]) / slope[0])
    np.testing.assert_allclose(read_dicom(tmp_path / "d").pixels, stored * 0.25 - 7)
    assert run("convert", tmp_path / "d", tmp_path / "e.npy") == 0
    np.testing.assert_allclose(np.load(tmp_path / "e.npy"), stored * 0.25 - 7)


def read_slope(folder: Path) -> tuple[float, float]:
    """Read slope and intercept of a series."""
    import pydicom

    first = pydicom.dcmread(next(iter(folder.iterdir())))
    return float(first.RescaleSlope), float(first.RescaleIntercept)
