"""Scans: what counts as measured and as encoded, what is delivered, and slices by themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mrihvae.data.calibration import Calibration
from mrihvae.data.geometry import make_geometry
from mrihvae.data.scan import Scan, delivered_shape, encoded_lines, is_complete
from tests.support.files import complex_normal

KSPACE = complex_normal((3, 8, 6))
LINES = np.arange(6) % 2 == 0


def cut(rows: slice = slice(None), lines: slice = slice(None)) -> np.ndarray:
    """Keep a part of k-space alone."""
    kspace = np.zeros_like(KSPACE)
    kspace[:, rows, lines] = KSPACE[:, rows, lines]
    return kspace


@pytest.mark.parametrize(
    ("scan", "complete"),
    [
        (Scan("a", KSPACE), True),
        (Scan("a", KSPACE, np.ones(6, bool)), True),
        (Scan("a", KSPACE, LINES), False),  # the mask counts, not the samples
        (Scan("a", KSPACE * LINES, np.ones(6, bool)), True),
        (Scan("a", KSPACE * LINES), False),
        (Scan("a", cut(rows=slice(2, 6))), True),  # interpolated along the readout
        (Scan("a", cut(lines=slice(1, 5))), False),
        (Scan("a", cut(lines=slice(1, 5)), padding=(1, 5)), True),
        (Scan("a", cut(lines=slice(1, 5)), padding=(0, 5)), False),
        (Scan("a", KSPACE * (np.arange(8) % 2 == 0)[:, None]), False),  # rows between are missing
        (Scan("a", KSPACE * (np.arange(48).reshape(8, 6) % 5 > 0)), False),  # single bins are
        (Scan("a", KSPACE, np.ones((8, 6), bool)), True),
    ],
)
def test_complete_scans(scan: Scan, complete: bool) -> None:
    assert is_complete(scan) is complete


def test_a_bin_that_any_slice_or_coil_has_is_measured() -> None:
    kspace = np.zeros((2, 2, 8, 6), np.complex64)
    kspace[0, 0, :, :3] = kspace[1, 1, :, 3:] = 1
    assert is_complete(Scan("a", kspace))
    kspace[1, 1, :, 4] = 0
    assert not is_complete(Scan("a", kspace))


@pytest.mark.parametrize(
    ("padding", "lines"), [(None, [1, 1, 1, 1, 1, 1]), ((1, 5), [0, 1, 1, 1, 1, 0]), ((0, 4), [1, 1, 1, 1, 0, 0])]
)
def test_encoded_lines(padding: tuple[int, int] | None, lines: list[int]) -> None:
    assert encoded_lines(Scan("a", KSPACE, padding=padding)).tolist() == [bool(line) for line in lines]


@pytest.mark.parametrize(
    ("kspace", "changes", "shape"),
    [
        ((8, 6), {}, (8, 6)),
        ((8, 6), {"matrix": (4, 6)}, (4, 6)),
        ((8, 6), {"matrix": (10, 4)}, (8, 4)),
        ((8, 6), {"matrix": (8, 7)}, (6, 6)),  # fewer lines than the image is wide: fastMRI crops to a square
        ((8, 6), {"target": np.ones((3, 5, 5)), "matrix": (4, 4)}, (5, 5)),
        ((8, 6), {"target": np.ones((3, 9, 4))}, (8, 4)),
    ],
)
def test_delivered_shape(kspace: tuple[int, int], changes: dict[str, Any], shape: tuple[int, int]) -> None:
    assert delivered_shape(Scan("a", complex_normal((3, *kspace)), **changes)) == shape


def test_number_of_coils() -> None:
    assert Scan("a", KSPACE).coils == 1 and Scan("a", KSPACE[:, None].repeat(4, axis=1)).coils == 4


def test_a_slice_has_what_is_its_own() -> None:
    geometry = make_geometry(
        np.array([[0, 0, 5.0 * k] for k in range(3)]),
        *np.eye(3),
        (1.0, 1.0, 5.0),  # type: ignore[arg-type]
    )
    calibration = [Calibration(KSPACE[k : k + 1], LINES) for k in range(3)]
    scan = Scan(
        "a", complex_normal((3, 2, 8, 6)), LINES, np.arange(3.0).reshape(3, 1, 1), (0, 5), (8, 6),
        {"noise": np.array([1.0, 2.0, 3.0]), "max": 7.0}, complex_normal((3, 2, 8, 6), 1), complex_normal((2, 50)),
        geometry, calibration,
    )  # fmt: skip
    single = scan.single_slice(1)
    np.testing.assert_array_equal(single.kspace, scan.kspace[1:2])
    assert (
        single.target is not None and single.maps is not None and single.geometry is not None and scan.maps is not None
    )
    assert single.target.tolist() == [[[1.0]]] and single.geometry.positions.tolist() == [[0, 0, 5]]
    np.testing.assert_array_equal(single.maps, scan.maps[1:2])
    assert single.attributes == {"noise": [2.0], "max": 7.0} and single.calibration == calibration[1:2]
    for name in ("name", "mask", "padding", "matrix", "noise_scan"):
        assert getattr(single, name) is getattr(scan, name)
    assert len(scan.attributes["noise"]) == 3  # the whole is left as it was


def test_maps_of_all_slices_stay_whole() -> None:
    maps = complex_normal((1, 2, 8, 6))
    assert Scan("a", complex_normal((3, 2, 8, 6)), maps=maps).single_slice(2).maps is maps


def test_arrays_of_the_other_byte_order_become_native() -> None:
    kspace = complex_normal((2, 3, 8, 6))
    scan = Scan("a", kspace.astype(">c8"), maps=kspace.astype(">c16"), noise_scan=kspace[0, :, 0].astype("<c8"))
    for found, expected in ((scan.kspace, kspace), (scan.maps, kspace), (scan.noise_scan, kspace[0, :, 0])):
        assert found is not None and found.dtype.isnative
        np.testing.assert_array_equal(found, expected)
