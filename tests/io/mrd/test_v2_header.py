"""The header of MRD version 2: what is read of it is what is read of that of version 1."""

from __future__ import annotations

import pytest

pytest.importorskip("ismrmrd")
pytest.importorskip("mrd")

import ismrmrd
import mrd as second

from mrihvae.io.mrd.header import Limit, parse_header
from mrihvae.io.mrd.v2_header import xml_of_header
from tests.support.mrd.v2 import header_v2


def test_header() -> None:
    parallel = second.ParallelImagingType(
        acceleration_factor=second.AccelerationFactorType(kspace_encoding_step_1=4, kspace_encoding_step_2=1),
        calibration_mode=second.CalibrationMode.EMBEDDED,
    )
    header = header_v2((64, 48), 40, 8, {"method": "sense", "samples": 3}, parallel_imaging=parallel)
    header.user_parameters.user_parameter_long = [second.UserParameterLongType(name="n", value=5)]
    found = parse_header(xml_of_header(header))
    (encoding,) = found.encodings
    assert encoding.encoded.matrix == (64, 48, 1) and encoding.encoded.fov == (128.0, 72.0, 5.0)
    assert encoding.recon == encoding.encoded and encoding.trajectory == "cartesian"
    assert encoding.limits == {"kspace_encoding_step_1": Limit(0, 39, 20)} and encoding.calibration_mode == "embedded"
    assert found.parameters == {"method": "sense", "samples": "3", "n": "5"}
    assert (found.protocol, found.vendor) == ("t1", "V & W")


def test_header_follows_the_schema_of_version_1() -> None:
    header = ismrmrd.xsd.CreateFromDocument(xml_of_header(header_v2((64, 48), 48)))
    assert header.sequenceParameters.TE == [4.5, 9.0] and header.sequenceParameters.TR == [500.0]
    assert header.measurementInformation.patientPosition.value == "HFS"
    assert header.experimentalConditions.H1resonanceFrequency_Hz == 123


def test_least_header() -> None:
    header = second.Header(encoding=header_v2((8, 8), 8).encoding)
    found = parse_header(xml_of_header(header))
    assert (found.protocol, found.vendor, found.parameters) == ("", "", {})
