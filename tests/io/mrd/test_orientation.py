"""Orientation: a marked voxel lies where it was measured, for Siemens and others, in scans and in images sent back."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

from mrihvae.io.mrd.files import read_mrd
from mrihvae.io.mrd.header import parse_header
from mrihvae.io.mrd.images import ImageSeries
from mrihvae.io.mrd.messages import read_messages
from mrihvae.io.mrd.orientation import is_reversed
from mrihvae.io.mrd.sorter import Slice, SliceAssembler
from mrihvae.io.partitions import centered_fft
from tests.support import mrd
from tests.support.mrd.messages import Line

READ, PHASE, NORMAL = np.array([[0.0, 0.6, 0.8], [1.0, 0.0, 0.0], [0.0, 0.8, -0.6]])
POSITION = np.array([10.0, 20.0, 30.0])
VOXEL = (2.0, 3.0, 5.0)
MARK = (2, 3, 1)  # index along readout, phase encoding and partitions


def scan(vendor: str, shape: tuple[int, int, int]) -> tuple[str, list[Line]]:
    """Simulate header and lines of one bright voxel; Siemens' k-space becomes the image by a forward transform."""
    height, width, partitions = shape
    image = np.zeros((partitions, 1, height, width), np.complex64)
    image[MARK[2] if partitions > 1 else 0, 0, MARK[0], MARK[1]] = 1
    for axis in (0, 2, 3):
        if image.shape[axis] > 1:
            image = centered_fft(image, axis, inverse=vendor.startswith("S"))
    lines = [
        Line(
            np.ascontiguousarray(image[z, :, :, y]),
            kspace_encode_step_1=y,
            kspace_encode_step_2=z,
            center_sample=height // 2,
            position=tuple(POSITION),
            read_dir=tuple(READ),
            phase_dir=tuple(PHASE),
            slice_dir=tuple(NORMAL),
        )
        for z in range(partitions)
        for y in range(width)
    ]
    fov = tuple(size * voxel for size, voxel in zip(shape, VOXEL))
    limits = {
        "kspace_encoding_step_1": (0, width - 1, width // 2),
        "kspace_encoding_step_2": (0, partitions - 1, partitions // 2),
    }
    xml = mrd.write_xml(encoded=shape, recon=shape, encoded_fov_mm=fov, recon_fov_mm=fov, limits=limits, channels=1)
    named = f"<acquisitionSystemInformation><systemVendor>{vendor}</systemVendor>"
    xml = xml.replace("<acquisitionSystemInformation>", named)
    assert vendor in xml
    return xml, lines


def place_of_mark(shape: tuple[int, int, int]) -> np.ndarray:
    """Compute where the marked voxel is, mm."""
    mark = np.array(MARK if shape[2] > 1 else (*MARK[:2], 0))
    return POSITION + ((mark - np.array(shape) // 2) * VOXEL) @ np.stack((READ, PHASE, NORMAL))


def brightest(kspace: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    image = np.abs(centered_fft(centered_fft(kspace, -1, inverse=True), -2, inverse=True))
    return image, tuple(int(k) for k in np.unravel_index(image.argmax(), image.shape))


@pytest.mark.parametrize("shape", [(16, 12, 1), (15, 13, 1), (16, 12, 4)])
@pytest.mark.parametrize("vendor", ["SIEMENS", "Siemens Healthineers", "GE MEDICAL SYSTEMS"])
def test_a_marked_voxel_lies_where_it_was_measured(vendor: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    mrd.write_mrd(tmp_path / "scan.h5", *scan(vendor, shape))
    (found,) = read_mrd(tmp_path / "scan.h5")
    _, (z, x, y) = brightest(np.asarray(found.kspace))
    assert found.geometry is not None
    right, front, head = found.geometry.affine(shape[:2])[:3] @ (x, y, z, 1)
    np.testing.assert_allclose((-right, -front, head), place_of_mark(shape), atol=1e-4)


@pytest.mark.parametrize("shape", [(16, 12, 1), (15, 13, 1), (15, 12, 4)])
@pytest.mark.parametrize("vendor", ["SIEMENS", "GE"])
def test_images_have_the_directions_of_their_lines(vendor: str, shape: tuple[int, int, int]) -> None:
    """Scanners that keep the geometry of the lines find the image as theirs; the marked voxel lies where it was."""

    xml, lines = scan(vendor, shape)
    payload = io.BytesIO(b"".join(map(mrd.acquisition, lines)))
    sorter = SliceAssembler(parse_header(xml))
    slices = [one for line in read_messages(payload.read) for one in sorter.add(line)] + sorter.end()
    brightest_slice: Slice = max(slices, key=lambda one: brightest(one.kspace)[0].max())
    pixels = brightest(brightest_slice.kspace)[0][0]
    image = ImageSeries(1, "", ["Image"], []).image(np.asarray(pixels, np.float32), brightest_slice, "")
    read, phase = (np.array(direction[:]) for direction in (image.read_dir, image.phase_dir))
    np.testing.assert_allclose((read, phase), (READ, PHASE), atol=1e-6)
    meta = image.meta
    np.testing.assert_allclose([float(each) for each in meta["ImageRowDir"]], READ, atol=1e-6)
    np.testing.assert_allclose([float(each) for each in meta["ImageColumnDir"]], PHASE, atol=1e-6)
    y, x = np.unravel_index(image.data[0, 0].argmax(), image.data[0, 0].shape)
    offset = (x - shape[0] // 2) * VOXEL[0] * read + (y - shape[1] // 2) * VOXEL[1] * phase
    np.testing.assert_allclose(np.array(image.position[:]) + offset, place_of_mark(shape), atol=1e-4)


def test_vendors() -> None:
    assert all(map(is_reversed, ("SIEMENS", " siemens", "Siemens Healthcare GmbH")))
    assert not any(map(is_reversed, ("", "GE", "Philips", "United Imaging (formerly Siemens)")))
