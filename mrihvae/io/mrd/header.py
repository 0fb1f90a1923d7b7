"""The XML header of ISMRMRD: what was encoded, what is to be imaged, and the user's parameters."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from xml.sax.saxutils import escape

from mrihvae.errors import InputError
from mrihvae.io.mrd.strict_xml import DocumentTypeError, parse_xml

ANY_NAMESPACE = "{*}"  # namespace: not all writers give it
HYDROGEN_HZ_PER_T = 42.577478518e6  # the gyromagnetic ratio over 2 pi
ECHO_TIMES = f"{ANY_NAMESPACE}sequenceParameters/{ANY_NAMESPACE}TE"
MAX_HEADER_MATRIX = 2**14  # matrix on a side, beyond which a header must be damaged
MIN_OVERSAMPLING = 1.3  # factor of a readout, below which another matrix is not its oversampling
SAME_FOV = 0.01  # by which fields of view may differ that are the same
Three = tuple[float, float, float]


@dataclass(frozen=True)
class Limit:
    """Which numbers an index runs over, and which of them is the center of k-space."""

    minimum: int = 0
    maximum: int = 0
    center: int = 0

    @property
    def count(self) -> int:
        """How many numbers these are."""
        return self.maximum - self.minimum + 1


@dataclass(frozen=True)
class Space:
    """A grid: `matrix` (x, y, z), readout, phase and partition, and its field of view in mm, 0 where not known."""

    matrix: tuple[int, int, int]
    fov: Three


@dataclass(frozen=True)
class Encoding:
    """How lines were encoded.

    Attributes
    ----------
    encoded : grid of k-space as measured
    recon : that of the image; None where the header has none, though the schema and fastMRI's loader demand it
    trajectory : such as "cartesian"
    limits : by index, such as "kspace_encoding_step_1"
    calibration_mode : such as "embedded" or "separate"; empty where the header has none
    """

    encoded: Space
    recon: Space | None = None
    trajectory: str = "cartesian"
    limits: Mapping[str, Limit] = field(default_factory=dict)
    calibration_mode: str = ""

    def limit(self, index: str) -> Limit:
        """Return the limits of an index; those of a single number where the header has none."""
        return self.limits.get(index, Limit())

    def imaged_size(self, axis: int) -> int:
        """Compute the size along an axis (0 to 2) of the imaged field of view, in acquired voxels.

        All of it, where the header does not say what is to be imaged.
        """
        recon = self.recon or self.encoded
        size, wanted = self.encoded.matrix[axis], recon.matrix[axis]
        whole, part = self.encoded.fov[axis], recon.fov[axis]
        if whole > 0 and part > 0:
            wanted = max(1, round(size * part / whole))
        return min(size, wanted)

    def imaged_slice(self, axis: int) -> slice:
        """Return the part of an axis that is imaged, around its center."""
        first = self.encoded.matrix[axis] // 2 - self.imaged_size(axis) // 2
        return slice(first, first + self.imaged_size(axis))

    def voxel(self) -> Three:
        """Compute the size of an acquired voxel, mm; 1 where the header has no field of view."""
        pairs = zip(self.encoded.fov, self.encoded.matrix)
        x, y, z = (fov / size if fov > 0 else 1.0 for fov, size in pairs)
        return x, y, z


@dataclass(frozen=True)
class ScanHeader:
    """What is used of a header.

    Attributes
    ----------
    encodings : at least one
    parameters : the user's, of all types, by name
    protocol : name of the measurement's protocol; empty where the header has none
    vendor : of the scanner; empty where the header has none
    field_strength : of the scanner, T; 0 where the header has none
    warnings : what about it is a guess
    echo_times : ms, by contrast; none where the header has none
    """

    encodings: tuple[Encoding, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)
    protocol: str = ""
    vendor: str = ""
    field_strength: float = 0.0
    warnings: tuple[str, ...] = ()
    echo_times: tuple[float, ...] = ()

    def attributes(self) -> dict[str, Any]:
        """Return what is known of the scanner, as attributes of a scan: "vendor" and "field_strength_T"."""
        found = {"vendor": self.vendor, "field_strength_T": self.field_strength}
        return {name: value for name, value in found.items() if value}


def parse_header(xml: str, source: str = "stream") -> ScanHeader:
    """Read a header; zeros at its end, which usual clients send, do not matter.

    Parameters
    ----------
    xml : text of an `ismrmrdHeader`
    source : what errors name: the file, or the stream

    Raises
    ------
    InputError
        Not XML, no encoding, or a matrix that none can have.
    """
    try:
        root = parse_xml(xml.rstrip("\0").strip())
    except DocumentTypeError as error:
        raise InputError(
            f"{source}: the header has a document type, which ISMRMRD does not allow; write it without one"
        ) from error
    except ValueError as error:
        raise InputError(f"{source}: the header is not XML ({error}); check the program that wrote it") from error
    stored = [_encoding(element, source) for element in root.findall(f"{ANY_NAMESPACE}encoding")]
    encodings = tuple(map(_with_oversampled_fov, stored))
    if not encodings:
        raise InputError(
            f"{source}: the header has no 'encoding', so the place of lines is unknown; check the program that wrote it"
        )
    parameters = {
        name: _text(element, "value")
        for group in root.findall(f"{ANY_NAMESPACE}userParameters")
        for element in group
        if (name := _text(element, "name"))
    }
    vendor = _text(root, "acquisitionSystemInformation", "systemVendor")
    warnings = [
        f"the header has {mine.encoded.matrix[0]} samples in its encodedSpace and {mine.recon.matrix[0]} in "
        "its reconSpace, for the same field of view: the readout is taken as oversampled"
        for mine, new in zip(stored, encodings, strict=True)
        if mine.recon is not None and mine != new
    ]
    protocol = _text(root, "measurementInformation", "protocolName")
    echo_times = tuple(_length(element.text or "") for element in root.iterfind(ECHO_TIMES))
    strength, doubts = _field_strength(root), tuple(dict.fromkeys(warnings))
    return ScanHeader(encodings, parameters, protocol, vendor, strength, doubts, echo_times)


def _field_strength(root: ElementTree.Element) -> float:
    """Read the field strength, or compute it from the frequency of hydrogen, T; 0 where there is neither."""
    tesla = _length(_text(root, "acquisitionSystemInformation", "systemFieldStrength_T"))
    hertz = _length(_text(root, "experimentalConditions", "H1resonanceFrequency_Hz"))
    return tesla or round(hertz / HYDROGEN_HZ_PER_T, 3)


def _with_oversampled_fov(encoding: Encoding) -> Encoding:
    """Return an encoding whose field of view is that of its samples, where some writers leave that of the image.

    Without this a readout of twice the samples would be one of half the voxels, which nobody makes coarser again.
    """
    encoded, recon = encoding.encoded, encoding.recon
    if recon is None or min(encoded.fov[0], recon.fov[0]) <= 0:
        return encoding
    factor, along_phase = (encoded.matrix[axis] / recon.matrix[axis] for axis in (0, 1))
    is_finer = along_phase >= MIN_OVERSAMPLING  # along both axes: the image is made coarser
    if factor < MIN_OVERSAMPLING or is_finer or abs(encoded.fov[0] / recon.fov[0] - 1) > SAME_FOV:
        return encoding
    return replace(encoding, encoded=replace(encoded, fov=(encoded.fov[0] * factor, *encoded.fov[1:])))


def _encoding(element: ElementTree.Element, source: str) -> Encoding:
    """Read an `encoding`."""
    encoded = _space(element, "encodedSpace", source)
    if encoded is None:
        raise InputError(f"{source}: the header has no size of 'encodedSpace'; check the program that wrote it")
    limits: dict[str, Limit] = {}
    for limit in element.iterfind(f"{ANY_NAMESPACE}encodingLimits/*"):
        low, high, center = (_whole(_text(limit, name)) for name in ("minimum", "maximum", "center"))
        if low is not None and high is not None and low <= high:
            limits[limit.tag.rpartition("}")[2]] = Limit(low, high, (low + high + 1) // 2 if center is None else center)
    return Encoding(
        encoded,
        _space(element, "reconSpace", source),
        _text(element, "trajectory") or "cartesian",
        limits,
        _text(element, "parallelImaging", "calibrationMode"),
    )


def _space(element: ElementTree.Element, name: str, source: str) -> Space | None:
    """Read a grid; None where it has no size."""
    matrix = [_whole(_text(element, name, "matrixSize", axis)) for axis in "xyz"]
    x, y, z = (1 if size is None and axis == "z" else size for size, axis in zip(matrix, "xyz"))
    if x is None or y is None or z is None:
        return None
    if not all(1 <= size <= MAX_HEADER_MATRIX for size in (x, y, z)):
        raise InputError(f"{source}: '{name}' of the header is {x} x {y} x {z}; sizes must be 1 to {MAX_HEADER_MATRIX}")
    a, b, c = (_length(_text(element, name, "fieldOfView_mm", axis)) for axis in "xyz")
    return Space((x, y, z), (a, b, c))


def _text(element: ElementTree.Element, *path: str) -> str:
    return (element.findtext("/".join(ANY_NAMESPACE + tag for tag in path)) or "").strip()


def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _length(text: str) -> float:
    """Read a number above 0, such as mm; 0 where there is none."""
    try:
        length = float(text)
    except ValueError:
        return 0.0
    return length if math.isfinite(length) and length > 0 else 0.0


HEADER_XML = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">{about}
  <experimentalConditions><H1resonanceFrequency_Hz>0</H1resonanceFrequency_Hz></experimentalConditions>
  <encoding>
    <encodedSpace>{encoded}</encodedSpace>
    <reconSpace>{recon}</reconSpace>
    <encodingLimits>
      <kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum><center>{center}</center></kspace_encoding_step_1>
    </encodingLimits>
    <trajectory>cartesian</trajectory>
  </encoding>
</ismrmrdHeader>
"""
PROTOCOL_XML = """
  <measurementInformation><protocolName>{protocol}</protocolName></measurementInformation>"""
CHANNELS_XML = """
  <acquisitionSystemInformation><receiverChannels>{coils}</receiverChannels></acquisitionSystemInformation>"""


def header_xml(
    shape: tuple[int, int],
    coils: int = 1,
    matrix: tuple[int, int] | None = None,
    padding: tuple[int, int] | None = None,
    voxel: tuple[float, float, float] = (1.0, 1.0, 1.0),
    protocol: str = "",
) -> str:
    """Write a header.

    Parameters
    ----------
    shape : (H, W) of k-space
    coils : number of receive coils; written where there are several
    matrix : (h, w) of the image; left out, that of k-space
    padding : first and one past the last line that is encoded; left out, all are
    voxel : size along H, W and across slices, mm
    protocol : name of it, if there is one
    """
    first, end = padding or (0, shape[1])
    about = PROTOCOL_XML.format(protocol=escape(protocol)) if protocol else ""
    return HEADER_XML.format(
        about=about + (CHANNELS_XML.format(coils=coils) if coils > 1 else ""),
        encoded=_space_xml(shape, voxel),
        recon=_space_xml(matrix or shape, voxel),
        last=end - first - 1,
        center=shape[1] // 2 - first,
    )


def _space_xml(size: tuple[int, int], voxel: tuple[float, float, float]) -> str:
    (h, w), (x, y, z) = size, voxel
    matrix = f"<matrixSize><x>{h}</x><y>{w}</y><z>1</z></matrixSize>"
    return f"{matrix}<fieldOfView_mm><x>{h * x:.9g}</x><y>{w * y:.9g}</y><z>{z:.9g}</z></fieldOfView_mm>"
