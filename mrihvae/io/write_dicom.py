"""Volumes to DICOM: a folder of classic MR images, one file a slice, a series for each volume.

UIDs are computed from what is written, so that the same images have the same UIDs, and a store keeps one copy of them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrihvae.data.geometry import SPACING_TOLERANCE, Geometry, make_geometry
from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError, OutputError
from mrihvae.io.dicom import DICOM_SUFFIX, require_pydicom
from mrihvae.io.dicom_header import DicomHeader
from mrihvae.io.pictures import WHITE_PERCENTILE
from mrihvae.utils.files import atomic_write, temporary_path
from mrihvae.utils.notices import warn

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
NOT_FOR_DIAGNOSIS = "Not for diagnosis"
UINT16_MAX = 65535
LONG_STRING = 64  # characters of a DICOM value of type LO
DERIVED_SERIES = 1000  # added to the number of the series that images are made of, once for each series made of it
FILE_NAME = re.compile(r"[a-z_]+_\d{4,}\.dcm")
# how radiologists view a plane, by the axis of its normal: directions of rows and of columns, in LPS
DISPLAY = {0: ((0, 1, 0), (0, 0, -1)), 1: ((1, 0, 0), (0, 0, -1)), 2: ((1, 0, 0), (0, 1, 0))}


@dataclass(frozen=True)
class Stack:
    """Images as DICOM has them.

    Attributes
    ----------
    pixels : float32 (slice, row, column), in the order of positions along the normal
    positions : (slice, 3), center of each first pixel, mm
    orientation : (2, 3), directions of rows (in which the column index grows) and of columns
    spacing : mm between rows, and between columns
    thickness : of slices, mm
    """

    pixels: np.ndarray
    positions: np.ndarray
    orientation: np.ndarray
    spacing: tuple[float, float]
    thickness: float


def write_dicom(
    path: Path, volume: ImageVolume, beside: Sequence[ImageVolume] = (), header: DicomHeader | None = None
) -> None:
    """Write volumes as series of one study and frame of reference: files NAME_0001.dcm, ... in a folder.

    Images are arranged as their plane is viewed (axial: rows to the left, columns to the back; other planes: columns
    to the feet), or to the directions of `header`, by exchange and reversal of axes alone. Pixels have 16 bits, with
    rescale slope and intercept; whole numbers stay as they are.

    Parameters
    ----------
    path : the folder, which is replaced if it holds such files alone; a name that ends in .dcm is a file of one image
    volume : without geometry it is placed at the origin, with a warning
    beside : further series, such as the uncertainty map; their names are those of `ImageVolume.dataset`
    header : patient, study and acquisition that they are of; without it these values are empty

    Raises
    ------
    InputError
        The package `pydicom` is missing, pixels are not finite, a folder with other files, several images for one
        file, or files that cannot be written.
    """
    require_pydicom(str(path))
    header = header or DicomHeader()
    volumes = (volume, *beside)
    if not all(np.isfinite(one.pixels).all() for one in volumes):
        raise InputError(f"{path}: pixels are NaN or infinite, which DICOM cannot store; replace them")
    instances: dict[str, Any] = {}
    study = _study(volume, header)
    for number, one in enumerate(volumes, start=1):
        for k, instance in enumerate(_instances(one, study, header, number), start=1):
            instances[f"{re.sub('[^a-z]', '_', one.dataset.lower())}_{k:04d}{DICOM_SUFFIX}"] = instance
    if path.name.lower().endswith(DICOM_SUFFIX):
        if len(instances) > 1:
            raise InputError(
                f"{path}: {len(instances)} images need a folder of DICOM files; leave out {DICOM_SUFFIX} and add "
                "--format dcm"
            )
        with atomic_write(path) as temporary:
            next(iter(instances.values())).save_as(temporary, enforce_file_format=True)
    else:
        _write_folder(path, instances)


def _write_folder(path: Path, instances: dict[str, Any]) -> None:
    """Write files into a folder, in place of one that holds such files alone; whole or not at all."""
    if path.exists():
        others = [] if path.is_dir() else [path]
        others += [one for one in path.glob("*") if not FILE_NAME.fullmatch(one.name)]
        if others:
            raise InputError(
                f"{path}: holds {others[0].name}, which does not belong to such a series; choose another folder"
            )
    temporary, earlier = temporary_path(path), temporary_path(path.with_name(f"{path.name}.earlier"))
    try:
        temporary.mkdir(parents=True)
        for name, instance in instances.items():
            instance.save_as(temporary / name, enforce_file_format=True)
        if path.exists():  # at once: a series of which some files are gone would read as whole
            path.replace(earlier)
        temporary.replace(path)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise OutputError(f"{path}: cannot be written ({why}); free space or choose another place") from error
    finally:
        for folder in (temporary, earlier):
            with suppress(OSError):
                shutil.rmtree(folder)


def _uid(*parts: object) -> str:
    """Compute a UID from bytes and text: "2.25." and a UUID, as DICOM PS3.5 B.2 has it."""
    digest = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return f"2.25.{uuid.UUID(bytes=digest.digest()[:16], version=5).int}"


def _identity(volume: ImageVolume) -> tuple[object, ...]:
    """Return what tells a volume from others."""
    place = () if volume.geometry is None else tuple(one.tobytes() for one in volume.geometry.attributes().values())
    return (np.ascontiguousarray(volume.pixels).tobytes(), volume.pixels.shape, *place)


def _study(volume: ImageVolume, header: DicomHeader) -> dict[str, Any]:
    """Gather patient, study and frame of reference: the header's, or empty ones with UIDs of the first volume."""
    empty = dict.fromkeys(
        ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
         "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator", "PatientPosition"), ""
    )  # fmt: skip
    patient = volume.attributes.get("patient_id")
    if isinstance(patient, str) and patient != "unknown":
        empty["PatientID"] = _text(patient)
    study = {**empty, **header.study}
    study.setdefault("StudyInstanceUID", _uid("study", *_identity(volume)))
    study.setdefault("FrameOfReferenceUID", _uid("frame of reference", study["StudyInstanceUID"]))
    return study


def _text(value: str) -> str:
    """Make a value of type LO: no backslash or control characters, of limited length."""
    return re.sub(r"[\\\x00-\x1f]", " ", value)[:LONG_STRING].strip()


def _instances(volume: ImageVolume, study: dict[str, Any], header: DicomHeader, number: int) -> list[Any]:
    """Make the images of a series, as datasets of pydicom."""
    from pydicom.dataset import Dataset

    stack = _arrange(volume, header.orientation)
    what = str(volume.attributes.get("method") or header.description or volume.dataset)
    what = f"{what} uncertainty (SD)" if volume.dataset == "uncertainty" else what
    description = _text(f"{NOT_FOR_DIAGNOSIS} - mrihvae {what}")
    series = _uid("series", study["StudyInstanceUID"], description, *_identity(volume))
    slope, intercept = _rescaling(stack.pixels)
    values = {
        **study, **_acquisition(volume, header), **_equipment(), **_plane(stack), **_display(stack.pixels),
        "SeriesDescription": description,
        "SeriesInstanceUID": series,
        "SeriesNumber": number if not header.study else DERIVED_SERIES * number + header.number,
        "ImageType": ["DERIVED", "SECONDARY", "OTHER", _text(volume.dataset.upper())[:16]],
        "RescaleSlope": _decimal(slope), "RescaleIntercept": _decimal(intercept), "RescaleType": "US",
    }  # fmt: skip
    if volume.geometry is None:
        values["ImageComments"] += " The position of the images is unknown."
    made = []
    for k, (pixels, position) in enumerate(zip(stack.pixels, stack.positions, strict=True), start=1):
        instance = Dataset()
        for name, value in values.items():
            setattr(instance, name, value)
        instance.SOPInstanceUID = _uid("image", series, k)
        instance.InstanceNumber = k
        instance.ImagePositionPatient = [_decimal(one) for one in position]
        instance.SliceLocation = _decimal(float(position @ np.cross(*stack.orientation)))
        stored = np.rint((pixels.astype(np.float64) - intercept) / slope).clip(0, UINT16_MAX)
        instance.PixelData = stored.astype("<u2").tobytes()
        instance.file_meta = _file_meta(instance.SOPInstanceUID)
        made.append(instance)
    return made


def _file_meta(uid: str) -> Any:
    """Make the head of a file, uncompressed."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta: Any = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MR_IMAGE_STORAGE, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def _acquisition(volume: ImageVolume, header: DicomHeader) -> dict[str, Any]:
    """Say how images were acquired, where that is known; else "research mode", and empty values."""
    unknown = {"ScanningSequence": "RM", "SequenceVariant": "NONE"}
    unknown |= dict.fromkeys(
        ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength", "Laterality"), ""
    )
    acquisition = volume.attributes.get("acquisition")
    if isinstance(acquisition, str) and acquisition != "unknown":
        unknown["ProtocolName"] = _text(acquisition)
    return {**unknown, **header.acquisition}


def _equipment() -> dict[str, Any]:
    """Say what wrote the images."""
    from mrihvae import __version__

    return {
        "SpecificCharacterSet": "ISO_IR 192",  # UTF-8
        "SOPClassUID": MR_IMAGE_STORAGE,
        "Modality": "MR",
        "Manufacturer": "mrihvae",
        "SoftwareVersions": f"mrihvae {__version__}",
        "ImageComments": f"Made by mrihvae, for research. {NOT_FOR_DIAGNOSIS}.",
        "BurnedInAnnotation": "NO",
    }


def _plane(stack: Stack) -> dict[str, Any]:
    """Say where images lie, beside their positions, and their form."""
    values: dict[str, Any] = {
        "ImageOrientationPatient": [_decimal(one) for one in stack.orientation.reshape(6)],
        "PixelSpacing": [_decimal(one) for one in stack.spacing],
        "SliceThickness": _decimal(stack.thickness),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stack.pixels.shape[1],
        "Columns": stack.pixels.shape[2],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
    }
    steps = np.diff(stack.positions @ np.cross(*stack.orientation))
    if len(steps) and steps.min() > 0 and np.ptp(steps) <= SPACING_TOLERANCE * steps.mean():
        values["SpacingBetweenSlices"] = _decimal(float(steps.mean()))
    return values


def _display(pixels: np.ndarray) -> dict[str, Any]:
    """Choose the window, in the unit of the rescaled pixels; exact, for a linear one is at least 1 wide."""
    high = float(np.percentile(pixels, WHITE_PERCENTILE))
    low = min(0.0, float(np.percentile(pixels, 100 - WHITE_PERCENTILE)))
    width = high - low or 1.0
    center = _decimal(low + width / 2)
    return {"WindowCenter": center, "WindowWidth": _decimal(width), "VOILUTFunction": "LINEAR_EXACT"}


def _decimal(value: float) -> str:
    """Write a number as DICOM has it, in at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value) + 0.0)  # no -0


def _rescaling(pixels: np.ndarray) -> tuple[float, float]:
    """Choose slope and intercept, as they are written, so that pixels fill 16 bits; 1 for whole numbers that fit."""
    low = min(0.0, float(pixels.min()))
    high = float(pixels.max())
    if high - low <= UINT16_MAX and not (pixels % 1).any():
        return 1.0, low
    intercept = float(_decimal(low))
    return float(_decimal((high - low) / UINT16_MAX)) or 1.0, intercept


def _arrange(volume: ImageVolume, orientation: np.ndarray | None) -> Stack:
    """Exchange and reverse axes of a volume, so that rows and columns come closest to directions.

    Parameters
    ----------
    orientation : (2, 3), directions of rows and of columns; None for how the plane is viewed
    """
    pixels = volume.pixels
    geometry = volume.geometry
    if geometry is None:
        warn("the position of the images is unknown: DICOM puts them at the origin, as axial slices")
        geometry = _origin(volume)
        orientation = np.array([geometry.phase, geometry.read])
    if orientation is None:
        normal = np.cross(geometry.read, geometry.phase)
        orientation = np.array(DISPLAY[int(np.abs(normal).argmax())], np.float64)
    steps = [geometry.read * geometry.voxel[0], geometry.phase * geometry.voxel[1]]
    first = geometry.positions - steps[0] * (pixels.shape[1] // 2) - steps[1] * (pixels.shape[2] // 2)
    axes = np.array([geometry.read, geometry.phase])
    likeness = np.abs(orientation @ axes.T)  # (row, column) by (h, w)
    if likeness[0, 0] + likeness[1, 1] > likeness[0, 1] + likeness[1, 0]:  # rows run along h
        pixels, axes, steps = pixels.transpose(0, 2, 1), axes[::-1], steps[::-1]
    for axis in (0, 1):  # rows of `pixels` are counted along columns, in the second of the directions
        if axes[axis] @ orientation[1 - axis] < 0:
            first = first + steps[axis] * (pixels.shape[1 + axis] - 1)
            pixels = np.flip(pixels, 1 + axis)
            axes = np.where(np.arange(2)[:, None] == axis, -axes, axes)
    found = axes[::-1]
    order = np.argsort(first @ np.cross(*found), kind="stable")
    spacing = (float(np.linalg.norm(steps[0])), float(np.linalg.norm(steps[1])))
    return Stack(pixels[order], first[order], found, spacing, geometry.voxel[2])


def _origin(volume: ImageVolume) -> Geometry:
    """Make up the geometry of axial slices at the origin: w grows to the left, h to the back."""
    voxel = volume.voxel or (1.0, 1.0, 1.0)
    positions = np.arange(len(volume.pixels))[:, None] * np.array([0.0, 0.0, voxel[2]])
    left, back, head = np.eye(3)
    return make_geometry(positions, back, left, head, voxel)


def finer(volume: ImageVolume, pixels: np.ndarray, factor: int) -> ImageVolume:
    """Return a volume with `factor` times finer pixels along h and w; the first voxel's center stays where it was.

    Parameters
    ----------
    volume : that the pixels are made of
    pixels : float32 (slice, factor * h, factor * w)
    """
    geometry, voxel = volume.geometry, volume.voxel
    if voxel is not None:
        voxel = (voxel[0] / factor, voxel[1] / factor, voxel[2])
    if geometry is not None:
        shift = np.zeros(3)
        for k, direction in enumerate((geometry.read, geometry.phase)):
            old, new = volume.pixels.shape[1 + k] // 2, pixels.shape[1 + k] // 2 / factor
            shift = shift + direction * geometry.voxel[k] * (new - old)
        size = (geometry.voxel[0] / factor, geometry.voxel[1] / factor, geometry.voxel[2])
        geometry = replace(geometry, positions=geometry.positions + shift, voxel=size)
    return replace(volume, pixels=pixels, geometry=geometry, voxel=voxel)
