"""NIfTI: what is written is read again, with its geometry; `tests/datasets/test_mixture.py` has the axis of slices."""

from __future__ import annotations

from pathlib import Path

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
    with pytest.raises(InputError, match=r"a.nii: slices do not lie in an even row"):
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
