"""Where images lie: a phantom with a marked corner, sampled as a scanner would, and found again in the patient."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from mrihvae.data.geometry import Geometry, make_geometry
from mrihvae.errors import InputError

# readout, phase, slice; to the left, back and head
AXIAL = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
SAGITTAL = ((0, 0, -1), (0, 1, 0), (1, 0, 0))
CORONAL = ((1, 0, 0), (0, 0, -1), (0, 1, 0))
LEFT_HANDED = ((0, 1, 0), (1, 0, 0), (0, 0, 1))
OBLIQUE = tuple(map(tuple, np.linalg.qr(np.array([[1.0, 0.2, -0.3], [0.1, 1.0, 0.4], [0.3, -0.2, 1.0]]))[0]))
WAYS = {"axial": AXIAL, "sagittal": SAGITTAL, "coronal": CORONAL, "left-handed": LEFT_HANDED, "oblique": OBLIQUE}
VOXEL = (2.0, 2.5, 4.0)
CENTER = np.array([5.0, -12.0, 20.0])


def body(left: np.ndarray, back: np.ndarray, head: np.ndarray) -> np.ndarray:
    """A head with a bright corner at the left, front and top; smooth, so that resampling finds it again."""
    ball = np.exp(-((left / 25) ** 2) - (back / 30) ** 2 - (head / 22) ** 2)
    mark = 2 * np.exp(-(((left - 14) / 7) ** 2) - ((back + 18) / 7) ** 2 - ((head - 16) / 7) ** 2)
    found: np.ndarray = ball + mark
    return found


def scanned(way: str, shape: tuple[int, int, int]) -> tuple[np.ndarray, Geometry]:
    """Sample the body voxel by voxel as headers tell, without affines: (H, W, slices)."""
    read, phase, normal = (np.array(direction, float) for direction in WAYS[way])
    height, width, slices = shape
    positions = [CENTER + (k - slices // 2) * VOXEL[2] * normal for k in range(slices)]
    volume = np.zeros(shape)
    for k, position in enumerate(positions):
        for i in range(height):
            for j in range(width):
                point = position + (i - height // 2) * VOXEL[0] * read + (j - width // 2) * VOXEL[1] * phase
                volume[i, j, k] = body(*point)
    return volume, make_geometry(np.array(positions), read, phase, normal, VOXEL)


@pytest.mark.parametrize("way", WAYS)
def test_body_is_where_it_was(way: str, tmp_path: Path) -> None:
    """Resampled from the NIfTI file on a grid to the right, front and head, it is the body itself."""
    volume, geometry = scanned(way, (40, 33, 25))
    nibabel.save(nibabel.Nifti1Image(volume, geometry.affine((40, 33))), tmp_path / "a.nii.gz")
    image = nibabel.load(tmp_path / "a.nii.gz")
    right, front, head = np.meshgrid(np.arange(-24, 20, 3.0), np.arange(-8, 32, 3.0), np.arange(0, 40, 3.0))
    points = np.stack([right, front, head, np.ones_like(right)]).reshape(4, -1)
    indices = (np.linalg.inv(image.affine) @ points)[:3]
    inside = ((indices >= 0) & (indices <= np.array(volume.shape)[:, None] - 1)).all(axis=0)
    assert inside.mean() > 0.8
    found = map_coordinates(image.get_fdata(), indices[:, inside], order=3)
    expected = body(-points[0], -points[1], points[2])[inside]
    np.testing.assert_allclose(found, expected, atol=0.03)
    brightest = points[:3, inside][:, found.argmax()]
    assert np.linalg.norm(brightest - [-14, 18, 16]) < 5


def test_orientations_are_named_right() -> None:
    names = {"axial": "LPS", "sagittal": "IPL", "coronal": "LIP", "left-handed": "PLS"}
    for way, name in names.items():
        assert "".join(nibabel.aff2axcodes(scanned(way, (4, 4, 2))[1].affine((4, 4)))) == name


@pytest.mark.parametrize("shape", [(4, 6), (5, 7)])
def test_position_is_at_the_center_of_the_fourier_transform(shape: tuple[int, int]) -> None:
    geometry = make_geometry(CENTER, *map(np.array, OBLIQUE), VOXEL)
    found = geometry.affine(shape) @ [shape[0] // 2, shape[1] // 2, 0, 1]
    np.testing.assert_allclose(found, [-CENTER[0], -CENTER[1], CENTER[2], 1], atol=1e-12)
    assert nibabel.affines.voxel_sizes(geometry.affine(shape)).tolist() == pytest.approx(VOXEL)


def test_distance_of_slices_counts_not_their_thickness() -> None:
    positions = np.array([[0, 0, 5.0 * k] for k in range(4)])
    affine = make_geometry(positions, *np.eye(3), VOXEL).affine((4, 4))
    np.testing.assert_allclose(affine[:3, 2], [0, 0, 5])
    backwards = make_geometry(positions[::-1], *np.eye(3), VOXEL).affine((4, 4))
    np.testing.assert_allclose(backwards[:3, 2], [0, 0, -5])


def test_directions_that_are_missing() -> None:
    zero = np.zeros(3)
    made = make_geometry(np.zeros(3), zero, zero, zero, VOXEL)
    assert [made.read.tolist(), made.phase.tolist(), made.normal.tolist()] == np.eye(3).tolist()
    made = make_geometry(np.zeros(3), np.array([0, 3, 0]), np.array([0, 0, 2]), zero, VOXEL)
    assert made.read.tolist() == [0, 1, 0] and made.normal.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("directions", "voxel", "positions", "said"),
    [
        (((1, 0, 0), (1, 1, 0), (0, 0, 1)), VOXEL, np.zeros(3), "are not at right angles"),
        (((1, 0, 0), (0, 0, 0), (0, 0, 1)), VOXEL, np.zeros(3), "some directions of the header are zero"),
        (AXIAL, (1, 0, 1), np.zeros(3), "voxels of 1 x 0 x 1 mm have no extent"),
        (((np.nan, 0, 0), (0, 1, 0), (0, 0, 1)), VOXEL, np.zeros(3), "NaN or infinite"),
        (AXIAL, VOXEL, np.array([0, np.inf, 0]), "NaN or infinite"),
    ],
)
def test_wrong_headers_are_refused(directions: tuple, voxel: tuple, positions: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_geometry(positions, *map(np.array, directions), voxel)


@pytest.mark.parametrize("heights", [(0, 4, 9), (0, 0, 0), (0, 4, 0)])
def test_uneven_slices_are_refused(heights: tuple[float, ...]) -> None:
    positions = np.array([[0, 0, height] for height in heights], float)
    with pytest.raises(InputError, match="are not evenly spaced"):
        make_geometry(positions, *np.eye(3), VOXEL).affine((4, 4))
