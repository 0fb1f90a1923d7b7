"""NumPy's arrays with the JSON beside them: what is written, and that it is read again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mrihvae.data.geometry import GEOMETRY_KEYS, make_geometry
from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.npy import as_lists, read_numpy, save_numpy, write_numpy
from tests.support.files import complex_normal

GEOMETRY = make_geometry(
    np.array([[0, 0, 5.0 * k] for k in range(3)]), np.array([0, 1, 0]), np.array([0, 0, 1]), np.array([1, 0, 0]),
    (1.5, 2.0, 5.0),
)  # fmt: skip


@pytest.mark.parametrize("coils", [1, 4])
def test_kspace_comes_back(coils: int, tmp_path: Path) -> None:
    kspace, mask = complex_normal((3, coils, 8, 6)), np.array([1, 0, 1, 1, 0, 1])
    about = {"axes": ["slice", "coil", "H", "W"], "mask": mask.tolist(), "acquisition": "T2", **as_lists(GEOMETRY)}
    save_numpy(tmp_path / "a.npy", kspace, about)
    scan = read_numpy(tmp_path / "a.npy")
    np.testing.assert_array_equal(scan.kspace, kspace[:, 0] if coils == 1 else kspace)
    assert scan.name == "a.h5" and scan.mask is not None and scan.geometry is not None
    assert scan.mask.tolist() == mask.astype(bool).tolist() and scan.attributes == {"acquisition": "T2"}
    for name, value in GEOMETRY.attributes().items():
        np.testing.assert_array_equal(scan.geometry.attributes()[name], value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.npy"]


def test_images_have_their_axes_and_places(tmp_path: Path) -> None:
    pixels = np.arange(96, dtype=np.float32).reshape(3, 8, 4)
    write_numpy(tmp_path / "a.npy", ImageVolume(pixels, GEOMETRY))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), pixels)
    about = json.loads((tmp_path / "a.json").read_text())
    assert about.pop("axes") == ["slice", "H", "W"] and about.keys() == set(GEOMETRY_KEYS)
    assert about["positions_mm"] == [[0, 0, 0], [0, 0, 5], [0, 0, 10]] and about["voxel_mm"] == [1.5, 2, 5]
    write_numpy(tmp_path / "b.npy", ImageVolume(pixels))
    assert json.loads((tmp_path / "b.json").read_text()) == {"axes": ["slice", "H", "W"]}
    with pytest.raises(InputError, match=r"a.npy: is float32 of shape \(3, 8, 4\); give complex numbers with axes"):
        read_numpy(tmp_path / "a.npy")
