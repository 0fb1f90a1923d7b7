"""Volumes at known places, and DICOM files made by hand, for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from mrihvae.data.geometry import Geometry, make_geometry
from mrihvae.data.volume import ImageVolume

OBLIQUE = np.linalg.qr(np.array([[1.0, 0.2, -0.3], [0.1, 1.0, 0.4], [0.3, -0.2, 1.0]]))[0]
DIRECTIONS = {  # of h, w and slices, to the left, back and head
    "axial": np.eye(3)[[0, 1, 2]],
    "axial, w to the right": np.array([[0, 1, 0], [-1, 0, 0], [0, 0, -1]]),
    "sagittal": np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]]),
    "coronal": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "coronal, upside down": np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]),
    "oblique": OBLIQUE,
}
SHAPE = (5, 12, 9)  # slices, h, w
VOXEL = (1.5, 2.25, 4.0)


def geometry_along(way: str, slices: int = SHAPE[0], voxel: tuple[float, float, float] = VOXEL) -> Geometry:
    """Make the geometry of slices with a gap of 1 mm between them."""
    read, phase, normal = np.asarray(DIRECTIONS[way], float)
    positions = np.array([5.0, -12.0, 20.0]) + np.arange(slices)[:, None] * (voxel[2] + 1) * normal
    return make_geometry(positions, read, phase, normal, voxel)


def marked_volume(way: str = "axial", **changes: Any) -> ImageVolume:
    """Make a volume of noise between 0 and 1, with a corner of value 3."""
    pixels = np.random.default_rng(0).random(SHAPE, np.float32)
    pixels[0, :2, :2] = 3
    return ImageVolume(pixels, geometry_along(way), **changes)


def rewrite(folder: Path, change: Callable[[int, Any], None]) -> None:
    """Change the files of a folder, by their number."""
    for k, file in enumerate(sorted(folder.glob("*.dcm"))):
        instance = pydicom.dcmread(file)
        change(k, instance)
        instance.save_as(file)


def _group(**values: Any) -> Sequence:
    """Make a sequence of one item."""
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return Sequence([item])


def enhance(folder: Path, path: Path) -> Path:
    """Merge the files of a folder into one multi-frame file, frames in reverse order."""
    instances = [pydicom.dcmread(file) for file in sorted(folder.glob("*.dcm"))][::-1]
    merged = instances[0].copy()
    frames = []
    for one in instances:
        frame = Dataset()
        frame.PlanePositionSequence = _group(ImagePositionPatient=one.ImagePositionPatient)
        frames.append(frame)
    shared = Dataset()
    shared.PlaneOrientationSequence = _group(ImageOrientationPatient=merged.ImageOrientationPatient)
    shared.PixelMeasuresSequence = _group(PixelSpacing=merged.PixelSpacing, SliceThickness=merged.SliceThickness)
    shared.PixelValueTransformationSequence = _group(
        RescaleSlope=merged.RescaleSlope, RescaleIntercept=merged.RescaleIntercept
    )
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope"):
        delattr(merged, name)
    merged.PerFrameFunctionalGroupsSequence = Sequence(frames)
    merged.SharedFunctionalGroupsSequence = Sequence([shared])
    merged.NumberOfFrames = len(instances)
    merged.PixelData = b"".join(one.PixelData for one in instances)
    merged.save_as(path)
    return path
