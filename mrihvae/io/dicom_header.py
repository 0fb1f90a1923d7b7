"""What DICOM says of patient, study and acquisition, to be carried over to images that are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrihvae.io.checks import read_errors
from mrihvae.io.dicom import Series, frame_value, require_pydicom
from mrihvae.io.dicom_file import open_dicom

STUDY_KEYWORDS = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize",
    "PatientWeight", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName", "StudyDescription", "PatientPosition", "BodyPartExamined", "FrameOfReferenceUID",
    "PositionReferenceIndicator",
)  # fmt: skip
ACQUISITION_KEYWORDS = (
    "ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "SequenceName", "ProtocolName",
    "RepetitionTime", "EchoTime", "InversionTime", "EchoTrainLength", "FlipAngle", "NumberOfAverages",
    "MagneticFieldStrength", "ImagingFrequency", "ImagedNucleus", "AcquisitionDate", "AcquisitionTime", "Laterality",
)  # fmt: skip


@dataclass(frozen=True)
class DicomHeader:
    """Patient, study and acquisition of a series.

    Attributes
    ----------
    study : values by DICOM keyword, of patient, study and frame of reference
    acquisition : values by DICOM keyword, of the sequence; empty where images are not of that acquisition
    number : SeriesNumber, 0 where it is missing
    description : SeriesDescription
    orientation : (2, 3), directions of rows and columns of its images, or None
    """

    study: Mapping[str, Any] = field(default_factory=dict)
    acquisition: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0
    description: str = ""
    orientation: np.ndarray | None = None

    def without_acquisition(self) -> DicomHeader:
        """Return patient and study alone, for images of another acquisition."""
        return replace(self, acquisition={}, description="")


def read_header(series: Series) -> DicomHeader:
    """Read the header of a series, from its first file.

    Raises
    ------
    InputError
        A damaged file.
    """
    file: Path = series.files[0]
    require_pydicom(str(file))

    with read_errors(file):
        header: Any = open_dicom(file, stop_before_pixels=True)
        orientation = frame_value(header, 0, "PlaneOrientationSequence", "ImageOrientationPatient")
        return DicomHeader(
            _values(header, STUDY_KEYWORDS),
            _values(header, ACQUISITION_KEYWORDS),
            int(series.number) if series.number.isdigit() else 0,
            series.description,
            np.asarray(orientation, np.float64).reshape(2, 3) if orientation else None,
        )


def _values(header: Any, keywords: tuple[str, ...]) -> dict[str, Any]:
    """Take the values that are there, names as text, for they are written in another character set."""
    found = {name: header.get(name) for name in keywords}
    return {
        name: str(value) if name.endswith("Name") else value
        for name, value in found.items()
        if value is not None and value != ""
    }
