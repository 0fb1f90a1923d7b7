"""Scans as ISMRMRD lines: read again, they are the same scans."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

from mrihvae.data.calibration import Calibration
from mrihvae.data.geometry import make_geometry
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.mrd.files import scans_of
from mrihvae.io.mrd.header import parse_header
from mrihvae.io.mrd.messages import read_messages
from mrihvae.io.mrd.scan_lines import lines_of_scan
from mrihvae.io.mrd.sorter import SliceAssembler
from mrihvae.utils.notices import collect_notices
from tests.support.files import complex_normal

LINES = np.arange(20) % 3 == 0
SHAPE = (3, 2, 16, 20)


def sorted_again(scan: Scan) -> Scan:
    """Send a scan's messages to the sorter."""
    stream = lines_of_scan(scan)
    messages = list(stream.messages)
    assert len(messages) == stream.count
    header = parse_header(stream.xml)
    sorter = SliceAssembler(header)
    slices = [
        slice_
        for message in messages
        for line in read_messages(io.BytesIO(message).read)
        for slice_ in sorter.add(line)  # type: ignore[arg-type]
    ]
    assert sorter.end() == [] and sorter.warnings == []  # each slice was complete by its flag
    (found,) = scans_of(slices, header, scan.name, sorter.noise)
    return found


def masked(mask: np.ndarray, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.where(mask, complex_normal(shape), 0).astype(np.complex64)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("shape", [SHAPE, (3, 16, 20)])
def test_lines(shape: tuple[int, ...], given: bool) -> None:
    scan = Scan("scan.h5", masked(LINES, shape), LINES if given else None, attributes={"acquisition": "AXT2 & <1>"})
    found = sorted_again(scan)
    np.testing.assert_array_equal(found.kspace, scan.kspace)
    np.testing.assert_array_equal(found.mask, LINES)
    assert found.attributes["acquisition"] == "AXT2 & <1>" and found.noise_scan is None and found.calibration is None
    assert found.geometry is not None
    np.testing.assert_array_equal(found.geometry.positions, [[0, 0, -1], [0, 0, 0], [0, 0, 1]])


def test_geometry_noise_and_padding() -> None:
    geometry = make_geometry(
        np.arange(9).reshape(3, 3) * [0.0, 0.0, 2.0], np.array([0, 1, 0]), np.array([1, 0, 0]), np.array([0, 0, -1]),
        (1.5, 2.0, 3.0),
    )  # fmt: skip
    noise, encoded = complex_normal((2, 2500)), LINES & (np.arange(20) >= 4) & (np.arange(20) < 16)
    scan = Scan("scan.h5", masked(encoded), encoded, padding=(4, 16), noise_scan=noise, geometry=geometry)
    found = sorted_again(scan)
    np.testing.assert_array_equal(found.kspace, scan.kspace)
    np.testing.assert_array_equal(found.noise_scan, noise)
    assert found.padding == (4, 16) and found.geometry is not None
    for name in ("positions", "read", "phase", "normal"):
        np.testing.assert_allclose(getattr(found.geometry, name), getattr(geometry, name))
    np.testing.assert_allclose(found.geometry.voxel, geometry.voxel)


def test_calibration_lines() -> None:
    center = np.abs(np.arange(20) - 10) < 4
    calibration = [Calibration(masked(center, SHAPE[1:]), center) for _ in range(3)]
    scan = Scan("scan.h5", masked(LINES), LINES, calibration=calibration)
    found = sorted_again(scan)
    np.testing.assert_array_equal(found.kspace, scan.kspace)
    assert found.calibration is not None and len(found.calibration) == 3
    for one, other in zip(found.calibration, calibration):
        np.testing.assert_array_equal(one.kspace, other.kspace)
        np.testing.assert_array_equal(one.mask, np.broadcast_to(center, (16, 20)))


def test_partial_readouts() -> None:
    mask = LINES & (np.arange(16) >= 5)[:, None]
    scan = Scan("scan.h5", masked(mask), mask)
    found = sorted_again(scan)
    np.testing.assert_array_equal(found.kspace, scan.kspace)
    np.testing.assert_array_equal(found.mask, mask)


def test_scans_that_have_no_lines() -> None:
    points = np.zeros((16, 20), bool)
    points[::2, ::3] = points[1::2, 1::3] = True
    scan = Scan("scan.h5", masked(points), points)
    with pytest.raises(InputError, match=r"scan.h5: was sampled point by point"):
        lines_of_scan(scan)
    for mask in (np.zeros(20, bool), np.zeros((16, 20), bool), np.arange(20) < 4):
        with pytest.raises(InputError, match="has no acquired lines"):
            lines_of_scan(replace(scan, mask=mask, padding=(4, 16)))


def test_maps_are_left_out_with_a_warning() -> None:
    scan = Scan("scan.h5", masked(LINES), LINES, maps=complex_normal(SHAPE))
    with collect_notices() as notices:
        lines_of_scan(scan)
    assert notices == ["scan.h5: its sensitivity maps are not sent, because ISMRMRD cannot store them"]
