"""NumPy's arrays with the JSON beside them: what is written, and that it is read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrihvae.data.geometry import GEOMETRY_KEYS, make_geometry
from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.npy import as_lists, holds_images, read_numpy, read_numpy_images, save_numpy, write_numpy
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


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"padding": [3, 2]}, "'padding' is [3, 2]; give the first line and one past the last"),
        ({"padding": [0, 7]}, "'padding' is [0, 7]; give two whole numbers that fit the array, or leave it out"),
        ({"matrix": [8.0, 6]}, "'matrix' is [8.0, 6]; give two whole numbers"),
        ({"matrix": [10**400, 6]}, "; give two whole numbers"),
        ({"attributes": ["T2"]}, "'attributes' is not a dictionary; write names and values"),
        ({"content": "images"}, "a.npy: holds images, as a.json says; give k-space"),
    ],
)
def test_entries_of_kspace(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    about = {"axes": ["slice", "H", "W"], "padding": [1, 5], "matrix": [4, 6], "attributes": {"a": [1, 2], "b": "c"}}
    save_numpy(tmp_path / "a.npy", complex_normal((3, 8, 6)), about)
    scan = read_numpy(tmp_path / "a.npy")
    assert (scan.padding, scan.matrix, scan.attributes["b"]) == ((1, 5), (4, 6), "c")
    assert scan.attributes["a"].tolist() == [1, 2]
    save_numpy(tmp_path / "a.npy", complex_normal((3, 8, 6)), {**about, **entry})
    with pytest.raises(InputError) as caught:
        read_numpy(tmp_path / "a.npy")
    assert message in str(caught.value)


def test_images_come_back(tmp_path: Path) -> None:
    pixels = np.arange(96, dtype=np.float32).reshape(3, 8, 4)
    for volume in (
        ImageVolume(pixels, GEOMETRY, {"method": "tv"}),
        ImageVolume(pixels * np.complex64(1 + 2j), voxel=(1.0, 2.0, 5.0)),
    ):
        write_numpy(tmp_path / "a.npy", volume)
        assert holds_images(tmp_path / "a.npy")
        found = read_numpy_images(tmp_path / "a.npy")
        np.testing.assert_array_equal(found.pixels, volume.pixels)
        assert found.voxel == volume.voxel and found.pixels.dtype == volume.pixels.dtype
        assert (found.geometry is None) == (volume.geometry is None)
    np.save(tmp_path / "b.npy", pixels)
    with pytest.raises(InputError, match="b.json: not readable as JSON"):
        read_numpy_images(tmp_path / "b.npy")
    save_numpy(tmp_path / "c.npy", pixels[0], {"axes": ["H", "W"]})
    assert read_numpy_images(tmp_path / "c.npy").pixels.shape == (1, 8, 4)
    save_numpy(tmp_path / "d.npy", pixels * np.nan, {"axes": ["slice", "H", "W"]})
    with pytest.raises(InputError, match="d.npy: is empty, or holds NaN"):
        read_numpy_images(tmp_path / "d.npy")


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


def test_array_without_its_json_is_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process leaves that is killed between the two has no data: earlier and new ones never mix."""
    path = tmp_path / "a.npy"
    save_numpy(path, np.ones((4, 4), np.complex64), {"axes": ["H", "W"]})
    real = Path.replace

    def die(self: Path, target: Path) -> Path:
        if target.suffix == ".npy":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        save_numpy(path, np.zeros((4, 4), np.complex64), {"axes": ["W", "H"]})
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    monkeypatch.undo()
    save_numpy(path, np.zeros((4, 4), np.complex64), {"axes": ["H", "W"]})
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"a.json: not readable as JSON \(missing: the array is incomplete without it"):
        read_numpy(path)
