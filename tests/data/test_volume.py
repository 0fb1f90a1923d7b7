"""A slice of a volume of images."""

from __future__ import annotations

import numpy as np

from mrihvae.data.geometry import make_geometry
from mrihvae.data.volume import ImageVolume


def test_a_slice_keeps_its_place() -> None:
    pixels = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    axial = make_geometry(np.arange(9.0).reshape(3, 3), *np.eye(3), (1.0, 2.0, 3.0))  # type: ignore[arg-type]
    single = ImageVolume(pixels, axial, {"method": "tv"}, "uncertainty").single_slice(1)
    np.testing.assert_array_equal(single.pixels, pixels[1:2])
    assert single.geometry is not None and single.geometry.positions.tolist() == [[3, 4, 5]]
    assert single.attributes == {"method": "tv"} and single.dataset == "uncertainty"
    other = ImageVolume(pixels, voxel=(1.0, 2.0, 3.0)).single_slice(2)
    assert other.geometry is None and other.voxel == (1.0, 2.0, 3.0) and other.pixels.min() == 16
