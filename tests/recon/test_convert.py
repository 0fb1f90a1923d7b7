"""K-space to files: what is written is what was there, and what a format has no place for is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mrihvae.data.calibration import Calibration
from mrihvae.data.geometry import make_geometry
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.bart import read_cfl
from mrihvae.io.fastmri import read_scan
from mrihvae.recon.convert import KSPACE_WRITERS, images_of, unsupported_content
from tests.support.files import complex_normal

LINES = np.arange(12) % 3 == 0
ONE, SEVERAL = complex_normal((3, 16, 12)), complex_normal((3, 4, 16, 12))
GEOMETRY = make_geometry(
    np.array([[0, 0, 5.0 * k] for k in range(3)]),
    *np.eye(3),
    (1.0, 1.5, 5.0),  # type: ignore[arg-type]
)


def direct_images(kspace: np.ndarray) -> np.ndarray:
    """Compute magnitudes by NumPy alone: root-sum-of-squares of coils (slices, coils, H, W), (slices, H, W)."""
    axes = (-2, -1)
    image = np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes), norm="ortho"), axes))
    return image if image.ndim == 3 else np.sqrt((image**2).sum(axis=1))


@pytest.mark.parametrize("kspace", [ONE, SEVERAL])
def test_images_are_fastmris_targets(kspace: np.ndarray) -> None:
    scan = Scan("a.h5", kspace, attributes={"acquisition": "T2"}, geometry=GEOMETRY, voxel=(1, 2, 3))
    found = images_of(scan)
    np.testing.assert_allclose(found.pixels, direct_images(kspace), rtol=1e-5)
    assert found.geometry is GEOMETRY and found.attributes == {"acquisition": "T2"} and found.voxel == (1, 2, 3)
    with pytest.raises(InputError, match="a.h5: is undersampled, so it has no images yet; run 'mrihvae reconstr"):
        images_of(replace(scan, mask=LINES))


@pytest.mark.parametrize("kspace", [ONE, SEVERAL])
def test_fastmri_file_of_a_complete_scan_has_its_target(kspace: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    KSPACE_WRITERS[".h5"](path, Scan("a.h5", kspace, geometry=GEOMETRY))
    found, target = read_scan(path), direct_images(kspace)
    np.testing.assert_array_equal(np.asarray(found.kspace), kspace)
    assert found.mask is None and found.target is not None and found.geometry is not None
    np.testing.assert_allclose(found.target, target, rtol=1e-5)
    assert found.attributes["max"] == pytest.approx(target.max()) and found.attributes["patient_id"] == "unknown"
    assert found.attributes["norm"] == pytest.approx(np.linalg.norm(target))
    np.testing.assert_array_equal(found.geometry.positions, GEOMETRY.positions)


def test_fastmri_file_of_an_undersampled_scan_has_its_mask(tmp_path: Path) -> None:
    path, maps, noise = tmp_path / "a.h5", complex_normal((3, 4, 16, 12), 1), complex_normal((4, 50))
    KSPACE_WRITERS[".h5"](path, Scan("a.h5", SEVERAL * LINES, maps=maps, noise_scan=noise))
    found = read_scan(path)
    assert found.target is None and found.mask is not None and found.maps is not None and found.noise_scan is not None
    np.testing.assert_array_equal(found.mask, LINES)
    np.testing.assert_array_equal(found.maps, maps)
    np.testing.assert_array_equal(found.noise_scan, noise)
    with h5py.File(path) as file:
        assert set(file) == {"kspace", "mask", "noise", "sensitivity_maps", "ismrmrd_header"}


@pytest.mark.parametrize("suffix", [".cfl", ".hdr"])
def test_bart_has_zeros_where_the_mask_says_so(suffix: str, tmp_path: Path) -> None:
    KSPACE_WRITERS[suffix](tmp_path / f"a{suffix}", Scan("a.h5", SEVERAL, LINES))
    found = read_cfl(tmp_path / "a.cfl")
    assert found.shape == (16, 12, 1, 4, *[1] * 9, 3)
    np.testing.assert_array_equal(found.reshape(16, 12, 4, 3).transpose(3, 2, 0, 1), SEVERAL * LINES)


def test_numpy_has_the_mask_beside_it(tmp_path: Path) -> None:
    KSPACE_WRITERS[".npy"](tmp_path / "a.npy", Scan("a.h5", ONE, LINES))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), ONE[:, None])
    about = json.loads((tmp_path / "a.json").read_text())
    assert about == {"axes": ["slice", "coil", "H", "W"], "mask": LINES.astype(int).tolist()}


@pytest.mark.parametrize(
    ("changes", "bart", "numpy"),
    [
        ({}, [], []),
        ({"noise_scan": SEVERAL}, ["noise scan"], ["noise scan"]),
        ({"maps": SEVERAL}, ["sensitivity maps"], ["sensitivity maps"]),
        ({"calibration": [Calibration(SEVERAL[0], LINES)] * 3}, ["ACS lines"], ["ACS lines"]),
        ({"padding": (0, 12)}, [], []),
        ({"padding": (1, 12)}, ["lines that are not encoded"], []),
        ({"matrix": (8, 12)}, ["matrix of the image"], []),
        ({"matrix": (16, 12)}, [], []),
        ({"voxel": (1, 1, 2)}, ["the voxel size"], []),
        ({"target": np.ones((3, 8, 12), np.float32)}, ["reference images"], ["reference images"]),
        ({"attributes": {"acquisition": "T2", "patient_id": "unknown"}}, ["attributes (acquisition)"], []),
        (
            {"attributes": {"acquisition": "T2", "link": None}},
            ["attributes (acquisition, link)"],
            ["attributes (link)"],
        ),
        ({"geometry": GEOMETRY}, ["geometry"], []),
        ({"mask": LINES}, [], []),
        (
            {"mask": np.ones((16, 12), bool)},
            ["partial readouts, whose empty ends look like those of interpolation"],
            [],
        ),
    ],
)
def test_what_a_format_has_no_place_for(changes: dict[str, Any], bart: list[str], numpy: list[str]) -> None:
    scan = Scan("a.h5", SEVERAL, **changes)
    assert [unsupported_content(scan, suffix) for suffix in (".h5", ".cfl", ".hdr", ".npy")] == [[], bart, bart, numpy]
