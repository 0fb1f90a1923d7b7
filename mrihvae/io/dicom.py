"""DICOM images to read: which files are DICOM, the series among them, and a series as a volume.

Coordinates of DICOM are those of `mrihvae.data.geometry`. Rows of an image lie along h, columns along w, and slices in
the order of their positions along the normal, which is the direction of rows times that of columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mrihvae.data.geometry import SPACING_TOLERANCE, Geometry, make_geometry
from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.checks import read_errors
from mrihvae.io.dicom_file import open_dicom
from mrihvae.io.formats import KSPACE_SUFFIXES, NIFTI_SUFFIXES, PICTURE_SUFFIXES, has_suffix
from mrihvae.utils.notices import warn

DICOM_SUFFIX = ".dcm"
PREAMBLE_BYTES = 128  # before the letters DICM
OTHER_SUFFIXES = (*KSPACE_SUFFIXES, *NIFTI_SUFFIXES, *PICTURE_SUFFIXES, ".hdr", ".json", ".txt", ".gz", ".zip")
DIRECTORY_STORAGE = "1.2.840.10008.1.3.10"  # SOP class of a file DICOMDIR
LISTING_TAGS = ["SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Rows", "NumberOfFrames"]
ORIENTATION_TOLERANCE = 1e-3  # by which direction cosines within a series may differ
MIN_SPACING_MM = 1e-3  # below which two slices are at one position
GIVE_DICOM = "give a DICOM image, or a folder of them"


@dataclass(frozen=True)
class Series:
    """The images of one DICOM series.

    Attributes
    ----------
    uid : SeriesInstanceUID
    number : SeriesNumber, or "" where it is missing
    description : SeriesDescription, or ""
    files : of its instances
    count : number of images
    """

    uid: str
    number: str
    description: str
    files: tuple[Path, ...]
    count: int


@dataclass(frozen=True)
class Frame:
    """One image of a series.

    Attributes
    ----------
    file : the file that it comes from
    pixels : float32 (h, w), rescaled
    order : instance number, and frame within the instance
    position : (3,), center of the first pixel, mm; None where it is missing
    orientation : (2, 3), directions of rows (in which w grows) and of columns (h); None where it is missing
    spacing : mm along h and w; None where it is missing
    thickness : of the slice, mm; None where it is missing
    """

    file: Path
    pixels: np.ndarray
    order: tuple[int, int]
    position: np.ndarray | None
    orientation: np.ndarray | None
    spacing: np.ndarray | None
    thickness: float | None


def require_pydicom(what: str) -> None:
    """Raise InputError if `what` cannot be read or written, for lack of the package `pydicom`."""
    if find_spec("pydicom") is None:
        raise InputError(f"{what}: DICOM needs the package pydicom; pip install 'mrihvae[dicom]'")


def is_dicom(file: Path) -> bool:
    """Tell by its contents whether a file is DICOM."""
    try:
        with file.open("rb") as opened:
            return opened.read(PREAMBLE_BYTES + 4)[PREAMBLE_BYTES:] == b"DICM"
    except OSError:
        return False


def dicom_files(path: Path, recursive: bool = True) -> Iterator[Path]:
    """List the DICOM files of a folder, sorted, without hidden ones, or the one file; of DICOMDIR those beside it.

    Files with a suffix of another format are left out unopened.
    """
    if path.is_file():
        if is_dicom(path):
            yield path
        return
    for file in sorted(path.rglob("*") if recursive else path.iterdir()):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if not hidden and not has_suffix(file, OTHER_SUFFIXES) and file.is_file() and is_dicom(file):
            yield file


def has_dicom(path: Path, recursive: bool = True) -> bool:
    """Tell whether a path is a DICOM file, or a folder that holds one."""
    return path.exists() and any(True for _ in dicom_files(path, recursive))


def dicom_folders(path: Path, depth: int | None = None) -> list[Path]:
    """List a folder and those below it, at most `depth` levels, that hold DICOM files directly."""
    below = sorted(one for one in path.rglob("*") if one.is_dir()) if depth != 0 else []
    inner = [(one, one.relative_to(path).parts) for one in below]
    near = [one for one, parts in inner if (depth is None or len(parts) <= depth) and parts[-1][0] != "."]
    return [one for one in (path, *near) if has_dicom(one, recursive=False)]


def list_series(path: Path, recursive: bool = True) -> list[Series]:
    """Read which series a DICOM file or folder has, by headers alone, sorted by number.

    Raises
    ------
    InputError
        Not there, not DICOM, no image among it, or damaged files.
    """
    if not path.exists():
        raise InputError(f"{path}: file not found; {GIVE_DICOM}")
    require_pydicom(str(path))
    found: dict[str, list[tuple[Path, Any]]] = {}
    files = list(dicom_files(path, recursive))
    if not files:
        what = "no DICOM file in this folder" if path.is_dir() else "not DICOM: 'DICM' is missing at byte 128"
        raise InputError(f"{path}: {what}; {GIVE_DICOM}")
    for file in files:
        with read_errors(file):
            header: Any = open_dicom(file, stop_before_pixels=True, specific_tags=LISTING_TAGS)
            storage = header.file_meta.get("MediaStorageSOPClassUID")
            if path.is_file() and storage == DIRECTORY_STORAGE:
                return list_series(path.resolve().parent)
            if "Rows" not in header and "Image Storage" in getattr(storage, "name", ""):
                raise InputError("not readable (its header ends before the image); copy it again or leave it out")
            if "Rows" in header:  # reports and presentation states have none
                found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((file, header))
    if not found:
        raise InputError(f"{path}: its DICOM holds no images; {GIVE_DICOM}")
    with read_errors(path):
        series = [_summarize(uid, members) for uid, members in found.items()]
    return sorted(series, key=lambda one: (int(one.number) if one.number.isdigit() else 0, one.uid))


def _summarize(uid: str, members: list[tuple[Path, Any]]) -> Series:
    """Describe a series by the headers of its files."""
    first, files = members[0][1], tuple(file for file, _ in members)
    number, description = (str(first.get(name) or "") for name in ("SeriesNumber", "SeriesDescription"))
    count = sum(int(header.get("NumberOfFrames") or 1) for _, header in members)
    return Series(uid, number, description, files, count)


def choose_series(path: Path, series: str | None = None) -> Series:
    """Find the series of a DICOM file or folder.

    Parameters
    ----------
    series : SeriesNumber or SeriesInstanceUID; left out, the only series

    Raises
    ------
    InputError
        As `list_series`, no such series, or several.
    """
    found = list_series(path)
    chosen = [one for one in found if series in (None, one.uid, one.number)]
    if len(chosen) == 1:
        return chosen[0]
    what = f"{len(chosen)} series" if chosen else f"no series '{series}'"
    known = "; ".join(f"{one.number or '-'} '{one.description}', {one.count} images, {one.uid}" for one in found)
    raise InputError(f"{path}: has {what}; choose with --series one by its number or UID: {known}")


def read_dicom(path: Path | str, series: str | None = None) -> ImageVolume:
    """Read a series of images, classic or multi-frame, in the unit that its rescale slope and intercept give.

    Parameters
    ----------
    path : a file, or a folder, with those below it
    series : SeriesNumber or SeriesInstanceUID, where there are several

    Returns
    -------
    volume of slices (slice, h, w), sorted by position; without geometry, and with a warning, where files do not tell it

    Raises
    ------
    InputError
        As `choose_series`; images of several sizes, directions, or at one position; uneven spacing; missing values,
        no pixels, colors, or a compression that no installed package decodes.
    """
    path = Path(path)
    chosen = choose_series(path, series)
    frames = [frame for file in chosen.files for frame in read_frames(file)]
    if len({frame.pixels.shape for frame in frames}) > 1:
        sizes = sorted({" x ".join(map(str, frame.pixels.shape)) for frame in frames})
        raise InputError(f"{path}: images of one series have sizes {', '.join(sizes)}; give a folder for each")
    placed = [frame for frame in frames if frame.position is not None and frame.orientation is not None]
    if not placed:
        warn(f"{path}: has no image positions; slices are in the order of their instance numbers")
        frames = sorted(frames, key=lambda frame: frame.order)
        return ImageVolume(np.stack([frame.pixels for frame in frames]), voxel=_voxel(frames[0]))
    lacking = [frame for frame in frames if frame.position is None or frame.orientation is None]
    lacking += [frame for frame in placed if frame.spacing is None]
    if lacking:
        raise InputError(
            f"{lacking[0].file}: lacks ImagePositionPatient, ImageOrientationPatient or PixelSpacing; export it again "
            "or leave it out"
        )
    with read_errors(path):
        frames, geometry = _place(frames)
    return ImageVolume(np.stack([frame.pixels for frame in frames]), geometry)


def _voxel(frame: Frame) -> tuple[float, float, float] | None:
    """Return the size of a voxel along h, w and across slices, mm, where the frame has it."""
    if frame.spacing is None or frame.thickness is None or min(*frame.spacing, frame.thickness) <= 0:
        return None
    return float(frame.spacing[0]), float(frame.spacing[1]), frame.thickness


def _place(frames: list[Frame]) -> tuple[list[Frame], Geometry]:
    """Sort frames along their normal, and compute where they lie."""
    orientations = np.array([frame.orientation for frame in frames])
    spacings = np.array([frame.spacing for frame in frames])
    difference = np.abs(orientations - orientations[0]).max(axis=(1, 2))
    if difference.max() > ORIENTATION_TOLERANCE:
        file = frames[int(difference.argmax())].file.name
        raise InputError(f"images have several orientations ({file} differs from the first); give a folder for each")
    if not np.allclose(spacings, spacings[0], rtol=1e-3):
        raise InputError("images have several values of PixelSpacing; give a folder for each")
    row, column = orientations[0]
    normal = np.cross(row, column)
    along = np.array([frame.position for frame in frames]) @ normal
    order = np.argsort(along, kind="stable")
    _check_spacing(along[order])
    frames = [frames[k] for k in order]
    height, width = frames[0].pixels.shape
    first = np.array([frame.position for frame in frames])
    center = column * spacings[0][0] * (height // 2) + row * spacings[0][1] * (width // 2)
    thickness = frames[0].thickness or (abs(along[order][1] - along[order][0]) if len(frames) > 1 else 1.0)
    voxel = (float(spacings[0][0]), float(spacings[0][1]), float(thickness))
    return frames, make_geometry(first + center, column, row, normal, voxel)


def _check_spacing(along: np.ndarray) -> None:
    """Check that sorted positions along the normal, mm, are an even row without gaps or repetitions."""
    steps = np.diff(along)
    if not len(steps):
        return
    if steps.min() < MIN_SPACING_MM:
        repeated = int((steps < MIN_SPACING_MM).sum())
        raise InputError(
            f"{repeated + 1} or more of {len(along)} images share positions, as several echoes or time points do; give "
            "a folder for each"
        )
    usual = float(np.median(steps))
    off = np.abs(steps - usual)
    if off.max() > SPACING_TOLERANCE * usual:
        raise InputError(
            f"slices are not evenly spaced: {usual:.4g} mm apart, but {steps[off.argmax()]:.4g} mm after slice "
            f"{int(off.argmax()) + 1}; copy the whole series; a slice may be missing"
        )


def read_frames(file: Path) -> list[Frame]:
    """Read the images of one file: one of a classic instance, several of a multi-frame one.

    Raises
    ------
    InputError
        Damaged, without pixels, in color, or compressed and no installed package decodes it.
    """
    require_pydicom(str(file))
    with read_errors(file):
        header: Any = open_dicom(file)
        if not any(name in header for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise InputError("has no pixels; export it again or leave it out")
        if int(header.get("SamplesPerPixel", 1)) != 1:
            raise InputError("is in color; give gray images")
        _check_compression(header.file_meta.TransferSyntaxUID)
        pixels = np.asarray(header.pixel_array)
        pixels = pixels if pixels.ndim == 3 else pixels[None]
        return [_frame(file, header, k, one) for k, one in enumerate(pixels)]


def _check_compression(syntax: Any) -> None:
    """Refuse a transfer syntax that cannot be decoded."""
    if not syntax.is_encapsulated:
        return
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decodable = get_decoder(syntax).is_available
    except NotImplementedError:
        decodable = False
    if not decodable:
        raise InputError(
            f"is compressed ({syntax.name}); pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or export it "
            "uncompressed"
        )


def _frame(file: Path, header: Any, k: int, pixels: np.ndarray) -> Frame:
    """Gather what an image is made of, from the header or its functional groups."""
    slope = frame_value(header, k, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = frame_value(header, k, "PixelValueTransformationSequence", "RescaleIntercept")
    factor, offset = (1.0 if slope is None else float(slope)), float(intercept or 0)
    position = frame_value(header, k, "PlanePositionSequence", "ImagePositionPatient")
    orientation = frame_value(header, k, "PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = frame_value(header, k, "PixelMeasuresSequence", "PixelSpacing")
    thickness = frame_value(header, k, "PixelMeasuresSequence", "SliceThickness")
    return Frame(
        file,
        (pixels * factor + offset).astype(np.float32),
        (int(header.get("InstanceNumber") or 0), k),
        np.asarray(position, np.float64).reshape(3) if position else None,
        np.asarray(orientation, np.float64).reshape(2, 3) if orientation else None,
        np.asarray(spacing, np.float64).reshape(2) if spacing else None,
        float(thickness) if thickness else None,
    )


def frame_value(header: Any, k: int, group: str, keyword: str) -> Any:
    """Read a value of frame k: its own, one that all frames share, or that of a classic instance; None without one."""
    own, shared = header.get("PerFrameFunctionalGroupsSequence"), header.get("SharedFunctionalGroupsSequence")
    for groups in (own[k] if own else None, shared[0] if shared else None):
        if groups is not None and groups.get(group):
            value = groups.get(group)[0].get(keyword)
            if value is not None and value != "":
                return value
    value = header.get(keyword)
    return None if value == "" else value
