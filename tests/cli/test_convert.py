"""`mrihvae convert`: round trips that are exact, images where they lie in the patient, and users' mistakes."""

from __future__ import annotations

from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import map_coordinates

from tests.support.files import complex_normal, error_of, run, write_scan

pytest.importorskip("ismrmrd")

import ismrmrd

from mrihvae import open_kspace
from mrihvae.data.geometry import make_geometry
from mrihvae.physics.fourier import fft2c
from mrihvae.recon.undersampling import mask_of
from tests.support import mrd

DIRECTIONS = {
    "axial": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "sagittal": ((0, 0, -1), (0, 1, 0), (1, 0, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "oblique": tuple(map(tuple, np.linalg.qr(np.array([[1.0, 0.2, -0.3], [0.1, 1.0, 0.4], [0.3, -0.2, 1.0]]))[0])),
}
CENTER = np.array([5.0, -12.0, 20.0])  # of the middle slice, to the left, back and head, mm
VOXEL = (2.0, 2.5, 4.0)


def body(left: np.ndarray, back: np.ndarray, head: np.ndarray) -> np.ndarray:
    """A head with a bright mark at the left, front and top, smooth enough to be found again by resampling."""
    ball = np.exp(-((left / 25) ** 2) - (back / 30) ** 2 - (head / 22) ** 2)
    return np.asarray(ball + 2 * np.exp(-(((left - 14) / 7) ** 2) - ((back + 18) / 7) ** 2 - ((head - 16) / 7) ** 2))


def scanned(path: Path, way: str, shape: tuple[int, int, int] = (25, 40, 34)) -> Path:
    """Scan the body as a scanner does: an MRD file of slices (slice, H, W) with two coils, oversampled."""
    read, phase, normal = (np.array(direction, float) for direction in DIRECTIONS[way])
    slices, height, width = shape
    positions = np.array([CENTER + (k - slices // 2) * VOXEL[2] * normal for k in range(slices)])
    i, j = np.meshgrid(np.arange(height) - height // 2, np.arange(width) - width // 2, indexing="ij")
    points = positions[:, None, None] + i[..., None] * VOXEL[0] * read + j[..., None] * VOXEL[1] * phase
    image = body(*np.moveaxis(points, -1, 0)).astype(np.complex64)
    coils = np.stack([0.6 * image, 0.8j * image], axis=1)
    kspace = fft2c(torch.from_numpy(coils)).numpy()
    lines = mrd.cartesian_lines(kspace, positions=positions, read_dir=read, phase_dir=phase, slice_dir=normal)
    xml = mrd.write_xml(
        (2 * height, width, 1), (height, width, 1),
        encoded_fov_mm=(2 * height * VOXEL[0], width * VOXEL[1], VOXEL[2]),
        recon_fov_mm=(height * VOXEL[0], width * VOXEL[1], VOXEL[2]),
        limits={"kspace_encoding_step_1": (0, width - 1, width // 2), "slice": (0, slices - 1, 0)},
    )  # fmt: skip
    mrd.write_mrd(path, xml, lines)
    return path


@pytest.mark.parametrize("way", DIRECTIONS)
def test_nifti_lies_where_the_body_was(way: str, tmp_path: Path) -> None:
    """Resampled on a grid to the right, front and head, the file gives the body that was scanned."""
    scan = scanned(tmp_path / "scan.h5", way)
    assert run("convert", scan, tmp_path / "a.nii.gz") == 0
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert image.header["sform_code"] == 1 and image.header["qform_code"] == 1
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
    right, front, head = np.meshgrid(np.arange(-24, 20, 3.0), np.arange(-8, 32, 3.0), np.arange(0, 40, 3.0))
    points = np.stack([right, front, head, np.ones_like(right)]).reshape(4, -1)
    indices = (np.linalg.inv(image.affine) @ points)[:3]
    inside = ((indices >= 0) & (indices <= np.array(image.shape)[:, None] - 1)).all(axis=0)
    assert inside.mean() > 0.75
    found = map_coordinates(image.get_fdata(), indices[:, inside], order=3)
    np.testing.assert_allclose(found, body(-points[0], -points[1], points[2])[inside], atol=0.03)
    assert np.linalg.norm(points[:3, inside][:, found.argmax()] - [-14, 18, 16]) < 5


def test_reconstruction_keeps_the_geometry(tmp_path: Path) -> None:
    """From MRD by `reconstruct` and `convert`, images lie where those of the complete scan do."""
    scan = scanned(tmp_path / "scan.h5", "oblique", (3, 40, 34))
    assert run("reconstruct", scan, "--output", tmp_path / "out", "--method", "zero-filled") == 0
    assert run("convert", tmp_path / "out/reconstructions/scan.h5", tmp_path / "a.nii") == 0
    assert run("convert", scan, tmp_path / "b.nii") == 0
    one, other = nibabel.load(tmp_path / "a.nii"), nibabel.load(tmp_path / "b.nii")
    np.testing.assert_array_equal(one.affine, other.affine)
    np.testing.assert_array_equal(one.get_fdata(), other.get_fdata())
    assert nibabel.affines.voxel_sizes(one.affine).tolist() == pytest.approx(VOXEL)


@pytest.mark.parametrize("suffix", [".h5", ".cfl", ".npy"])
def test_round_trips_of_kspace_are_exact(suffix: str, tmp_path: Path) -> None:
    """There and back again, bit for bit, with the mask, and with the geometry where the format has a place for it."""
    scan = scanned(tmp_path / "scan.h5", "oblique", (3, 24, 20))
    (first,) = open_kspace(scan)
    assert run("convert", scan, tmp_path / f"a{suffix}") == 0
    assert run("convert", tmp_path / f"a{suffix}", tmp_path / "b.h5") == 0
    for found in (*open_kspace(tmp_path / f"a{suffix}"), *open_kspace(tmp_path / "b.h5")):
        np.testing.assert_array_equal(found.kspace, first.kspace)
        if suffix != ".cfl":
            for name, value in found.geometry.attributes().items():
                np.testing.assert_allclose(value, first.geometry.attributes()[name], rtol=1e-12)


@pytest.mark.parametrize("shape", [(2, 24, 20), (2, 3, 24, 20)])
def test_undersampled_fastmri_files_come_back(shape: tuple[int, ...], tmp_path: Path) -> None:
    mask = np.arange(20) % 3 == 0
    kspace = np.where(mask, complex_normal(shape), 0)
    target = {"reconstruction_esc": None, "reconstruction_rss": None}
    source = write_scan(tmp_path / "a.h5", shape, kspace=kspace, mask=mask, **target)
    for name in ("b.cfl", "c.npy", "d.h5"):
        assert run("convert", source, tmp_path / name) == 0
        assert run("convert", tmp_path / name, tmp_path / "back.h5", "--overwrite") == 0
        with h5py.File(tmp_path / "back.h5") as file:
            np.testing.assert_array_equal(file["kspace"][()], kspace)
            np.testing.assert_array_equal(file["mask"][()], mask)
            assert not any(key.startswith("reconstruction") for key in file)


def test_fastmri_file_is_what_fastmri_reads(tmp_path: Path) -> None:
    """Its own dataset finds k-space, target and padding; targets are the root-sum-of-squares."""
    from fastmri.data import SliceDataset

    scan = scanned(tmp_path / "scan.h5", "axial", (3, 40, 34))
    (tmp_path / "new").mkdir()
    assert run("convert", scan, tmp_path / "new/scan.h5") == 0
    dataset = SliceDataset(tmp_path / "new", challenge="multicoil")
    kspace, mask, target, attributes, _, number = dataset[1]
    (source,) = open_kspace(scan)
    np.testing.assert_array_equal(kspace, source.kspace[1])
    assert mask is None and number == 1 and (attributes["padding_left"], attributes["padding_right"]) == (0, 34)
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    np.testing.assert_allclose(target, np.sqrt((np.abs(images) ** 2).sum(axis=0)), rtol=1e-4, atol=1e-6)
    assert attributes["max"] == pytest.approx(
        float(h5py.File(tmp_path / "new/scan.h5")["reconstruction_rss"][()].max())
    )


def test_mrd_images(tmp_path: Path) -> None:
    """The package `ismrmrd` reads them: pixels with rows along the phase, positions, directions and field of view."""
    scan = scanned(tmp_path / "scan.h5", "oblique", (3, 40, 34))
    assert run("convert", scan, tmp_path / "a.mrd") == 0 and run("convert", scan, tmp_path / "a.npy", "--images") == 0
    images, (source,) = np.load(tmp_path / "a.npy"), open_kspace(scan)
    with ismrmrd.Dataset(tmp_path / "a.mrd", "dataset", False) as file:
        assert file.number_of_images("image_1") == 3
        for k in range(3):
            image = file.read_image("image_1", k)
            np.testing.assert_array_equal(image.data[0, 0], images[k].T)
            head, geometry = image.getHead(), source.geometry
            np.testing.assert_allclose(head.position[:], geometry.positions[k], rtol=1e-6)
            np.testing.assert_allclose(
                [head.read_dir[:], head.phase_dir[:], head.slice_dir[:]], DIRECTIONS["oblique"], atol=1e-6
            )
            assert list(head.field_of_view) == pytest.approx([80, 85, 4]) and head.slice == k


def test_pictures_and_arrays_of_images(tmp_path: Path) -> None:
    scan = scanned(tmp_path / "scan.h5", "axial", (5, 40, 34))
    for name in ("a.png", "b.cfl", "c.npy", "d.h5"):
        assert run("convert", scan, tmp_path / name, "--images") == 0
    page, volume = np.asarray(Image.open(tmp_path / "a.png")), np.load(tmp_path / "c.npy")
    columns = (page.shape[1] + 2) // 36
    white = np.percentile(volume, 99.5)
    for k in range(5):
        top, left = k // columns * 42, k % columns * 36
        expected = 255 * np.clip(volume[k] / white, 0, 1)
        np.testing.assert_allclose(page[top : top + 40, left : left + 34], expected, atol=0.51)
    from mrihvae.io.bart import read_cfl

    array = read_cfl(tmp_path / "b.cfl")
    assert array.shape == (40, 34, *[1] * 11, 5)
    np.testing.assert_array_equal(array.reshape(40, 34, 5).real.transpose(2, 0, 1), volume)
    with h5py.File(tmp_path / "d.h5") as file:
        np.testing.assert_array_equal(file["reconstruction"][()], volume)


def test_each_repetition_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kspace = complex_normal((2, 2, 16, 12))
    lines = mrd.cartesian_lines(kspace, repetitions=2)
    mrd.write_mrd(tmp_path / "scan.h5", mrd.cartesian_xml((2, 2, 16, 12), repetitions=2), lines)
    assert run("convert", tmp_path / "scan.h5", tmp_path / "out.cfl") == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"out_repetition{k}.cfl") for k in (0, 1)]
    (one,) = open_kspace(tmp_path / "out_repetition1.cfl")
    np.testing.assert_allclose(one.kspace, kspace, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "output", "said"),
    [
        ("scan.h5", "a.gif", "a.gif: unknown suffix; choose one of .h5, .nii"),
        ("scan.h5", "scan.h5", "scan.h5: is also the input"),
        ("masked.h5", "a.nii", "masked.h5: is undersampled, so it has no images yet; run 'mrihvae reconstruct'"),
        ("missing.h5", "a.nii", "missing.h5: file not found"),
        ("uneven.h5", "a.nii", "a.nii: slices are not evenly spaced"),
        ("scan.h5", "scan.h5/a.cfl", "cannot be written"),
    ],
)
def test_mistakes(source: str, output: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scan(tmp_path / "scan.h5")
    mask = np.arange(20) % 3 == 0
    write_scan(tmp_path / "masked.h5", mask=mask)
    uneven = make_geometry(np.array([[0, 0, 0], [0, 0, 4.0], [0, 0, 7.0]]), *np.eye(3), VOXEL)
    write_scan(tmp_path / "uneven.h5", (3, 24, 20), attributes=uneven.attributes())
    before = sorted(tmp_path.iterdir())
    assert said in error_of(capsys, "convert", tmp_path / source, tmp_path / output)
    assert sorted(tmp_path.iterdir()) == before


def test_datasets_of_a_reconstruction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["reconstruction"], file["uncertainty"] = np.ones((2, 8, 6), "f4"), np.full((2, 8, 6), 2, "f4")
    assert run("convert", tmp_path / "a.h5", tmp_path / "a.nii", "--dataset", "uncertainty") == 0
    image = nibabel.load(tmp_path / "a.nii")
    assert image.shape == (8, 6, 2) and image.get_fdata().min() == 2 and image.header["sform_code"] == 0
    said = error_of(capsys, "convert", tmp_path / "a.h5", tmp_path / "b.nii", "--dataset", "samples")
    assert "has no dataset 'samples'" in said


def test_images_of_a_server_become_nifti(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MRD images, as clients store them, lie where the scan did."""
    scan = scanned(tmp_path / "scan.h5", "oblique", (3, 40, 34))
    for source, target in ((scan, "a.mrd"), (tmp_path / "a.mrd", "b.nii"), (scan, "c.nii")):
        assert run("convert", source, tmp_path / target) == 0
    one, other = nibabel.load(tmp_path / "b.nii"), nibabel.load(tmp_path / "c.nii")
    np.testing.assert_array_equal(one.get_fdata(), other.get_fdata())
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-4)
    said = error_of(capsys, "convert", tmp_path / "a.mrd", tmp_path / "d.nii", "--dataset", "image_7")
    assert said.endswith("a.mrd: has no images 'image_7'; it has dataset/image_1")


def test_slice_of_a_volume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = scanned(tmp_path / "scan.h5", "sagittal", (3, 40, 34))
    assert run("convert", scan, tmp_path / "all.nii") == 0
    assert run("convert", scan, tmp_path / "one.nii", "--slice", "2") == 0
    one, whole = nibabel.load(tmp_path / "one.nii"), nibabel.load(tmp_path / "all.nii")
    np.testing.assert_array_equal(one.get_fdata()[..., 0], whole.get_fdata()[..., 2])
    np.testing.assert_allclose(one.affine @ [0, 0, 0, 1], whole.affine @ [0, 0, 2, 1], atol=1e-4)
    assert "--slice 3: must be 0 to 2" in error_of(capsys, "convert", scan, tmp_path / "no.nii", "--slice", "3")


def test_voxels_that_the_header_tells_are_kept(tmp_path: Path) -> None:
    """fastMRI's headers have a field of view and no place: NIfTI gets the voxel size, and no transform."""
    space = "<matrixSize><x>24</x><y>20</y><z>1</z></matrixSize>"
    fov = "<fieldOfView_mm><x>48</x><y>30</y><z>5</z></fieldOfView_mm>"
    header = (
        f'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding><encodedSpace>{space}{fov}</encodedSpace>'
        f"<reconSpace>{space}{fov}</reconSpace></encoding></ismrmrdHeader>"
    )
    source = write_scan(tmp_path / "a.h5", ismrmrd_header=header)
    assert run("convert", source, tmp_path / "a.nii") == 0 and run("convert", source, tmp_path / "b.h5") == 0
    assert run("reconstruct", source, "--output", tmp_path / "out", "--mask-type", "random", "--acceleration", "2",
               "--center-fraction", "0.2", "--method", "zero-filled") == 0  # fmt: skip
    assert run("convert", tmp_path / "b.h5", tmp_path / "b.nii") == 0
    assert run("convert", tmp_path / "out/reconstructions/a.h5", tmp_path / "c.nii") == 0
    for name in "abc":
        image = nibabel.load(tmp_path / f"{name}.nii")
        assert image.header.get_zooms() == pytest.approx((2, 1.5, 5)) and image.header["sform_code"] == 0


@pytest.mark.parametrize("suffix", [".cfl", ".npy", ".h5"])
def test_partial_echoes_stay_undersampled(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was not measured of a readout is no part of any copy; what a format cannot hold is told."""
    shape = (2, 3, 32, 20)
    lines = mrd.cartesian_lines(complex_normal(shape), missing=24, noise_scans=1)
    mrd.write_mrd(tmp_path / "scan.h5", mrd.cartesian_xml(shape), lines)
    (source,) = open_kspace(tmp_path / "scan.h5")
    assert source.mask is not None and source.mask.shape == (32, 20) and not source.mask.all()
    capsys.readouterr()
    assert run("convert", tmp_path / "scan.h5", tmp_path / f"a{suffix}") == 0
    told = capsys.readouterr().err
    assert ("cannot store noise scan" in told) == (suffix != ".h5")
    assert ("partial readouts" in told) == (suffix == ".cfl")
    (found,) = open_kspace(tmp_path / f"a{suffix}")
    mask = source.mask if suffix == ".cfl" else mask_of(found, None)
    np.testing.assert_array_equal(mask, source.mask)
    np.testing.assert_array_equal(np.where(mask, found.kspace, 0), np.where(mask, source.kspace, 0))
    assert suffix != ".cfl" or not found.kspace[..., ~mask].any()


def test_slices_without_places_have_voxels_alone(tmp_path: Path) -> None:
    shape = (3, 2, 16, 12)
    lines = mrd.cartesian_lines(complex_normal(shape), positions=np.zeros((3, 3)))
    mrd.write_mrd(tmp_path / "scan.h5", mrd.cartesian_xml(shape, pixel_mm=(1.5, 1.5), thickness_mm=4), lines)
    assert run("convert", tmp_path / "scan.h5", tmp_path / "a.nii") == 0
    image = nibabel.load(tmp_path / "a.nii")
    assert image.header["sform_code"] == 0 and image.header.get_zooms() == pytest.approx((1.5, 1.5, 4))
