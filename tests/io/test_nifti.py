"""NIfTI: what is written is read again, with its geometry; `tests/datasets/test_mixture.py` has the axis of slices."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from mrihvae.data.geometry import make_geometry
from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.nifti import open_nifti, read_nifti, slice_axis, write_nifti, write_nifti_like

VOXEL = (1.5, 2.0, 5.0)


def volume(positions: np.ndarray) -> ImageVolume:
    geometry = make_geometry(positions, np.eye(3)[1], np.eye(3)[2], np.eye(3)[0], VOXEL)
    pixels = np.arange(6.0 * len(positions), dtype=np.float32).reshape(len(positions), 3, 2)
    return ImageVolume(pixels, geometry)


def test_volumes_come_back(tmp_path: Path) -> None:
    written = volume(np.arange(4)[:, None] * [5.0, 0, 0])
    write_nifti(tmp_path / "a.nii.gz", written)
    array, header = read_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(array, written.pixels.transpose(1, 2, 0))
    assert written.geometry is not None and header.get_zooms() == VOXEL and slice_axis(header) == 2
    np.testing.assert_allclose(header.get_best_affine(), written.geometry.affine((3, 2)), atol=1e-6)


def test_bytes_are_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, volume(np.arange(4)[:, None] * [5.0, 0, 0]))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_without_geometry_voxels_stay(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", ImageVolume(np.ones((4, 3, 2), np.float32), voxel=VOXEL))
    image = open_nifti(tmp_path / "a.nii")
    assert image.header.get_zooms() == VOXEL and image.header["sform_code"] == image.header["qform_code"] == 0


def test_uneven_slices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.nii: slices are not evenly spaced"):
        write_nifti(tmp_path / "a.nii", volume(np.array([0, 5.0, 11.0])[:, None] * [1.0, 0, 0]))
    assert not (tmp_path / "a.nii").exists()


def test_a_header_serves_for_other_numbers(tmp_path: Path) -> None:
    """Twice as fine along H and W; the center of the first voxel stays."""
    write_nifti(tmp_path / "a.nii", volume(np.arange(4)[:, None] * [5.0, 0, 0]))
    array, header = read_nifti(tmp_path / "a.nii")
    write_nifti_like(tmp_path / "b.nii.gz", array.repeat(2, 0).repeat(2, 1).astype(np.float64), header, 2)
    finer = open_nifti(tmp_path / "b.nii.gz")
    assert finer.shape == (6, 4, 4) and finer.get_data_dtype() == np.float32
    assert finer.header.get_zooms() == (0.75, 1.0, 5.0)
    np.testing.assert_allclose(finer.affine[:, 3], header.get_best_affine()[:, 3], atol=1e-6)


@pytest.mark.parametrize("claim", [(2**30, 100, 400), (32, 2**30, 400), (2**30, 2**30, 2**30)])
def test_bombs_before_the_voxels_are_refused(tmp_path: Path, claim: tuple[int, int, int]) -> None:
    first, second, end = claim
    header = nibabel.Nifti1Header()
    header.set_data_shape((16, 16))
    header.set_data_dtype(np.uint8)
    header["vox_offset"], header["magic"] = end, b"n+1"
    extensions = struct.pack("<ii", first, 6) + bytes(24) + struct.pack("<ii", second, 6)
    with gzip.open(tmp_path / "a.nii.gz", "wb") as file:
        file.write(header.binaryblock + b"\1\0\0\0" + extensions + bytes(2**12))
    with pytest.raises(InputError, match="claims more than 67108864 bytes before its voxels"):
        open_nifti(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_extensions_of_compressed_files_are_read(tmp_path: Path, kind: type) -> None:
    image = kind(np.arange(1024, dtype=np.float32).reshape(32, 32), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"text"))
    image.to_filename(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz")[0], image.dataobj)
