"""What is read of ISMRMRD's XML headers, and what is refused."""

from __future__ import annotations

import pytest

from mrihvae.errors import InputError
from mrihvae.io.mrd.header import Limit, parse_header
from tests.support import mrd

LIMITS = {"kspace_encoding_step_1": (2, 29, 17), "repetition": (0, 4, 0)}


def header_of(**changes: object) -> str:
    """Write a header with oversampling 2 along the readout, 20 mm more of the phase direction than is imaged, and an
    image that is interpolated along it.
    """
    settings = {
        "encoded": (64, 40, 1), "recon": (32, 64, 1), "encoded_fov_mm": (640.0, 100.0, 5.0),
        "recon_fov_mm": (320.0, 80.0, 5.0), "limits": LIMITS,
    }  # fmt: skip
    return mrd.write_xml(**(settings | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("namespace", [True, False])
def test_header_is_read(namespace: bool) -> None:
    xml = header_of(
        namespace=namespace, acceleration=(4, 1), calibration_mode="separate", measurement={"protocolName": "T2 axial"},
        user={"views": 2, "method": "samples", "tau": 0.5},
    )  # fmt: skip
    header = parse_header(xml)
    assert header.protocol == "T2 axial"
    assert header.parameters == {"views": "2", "method": "samples", "tau": "0.5"}
    (encoding,) = header.encodings
    assert encoding.encoded.matrix == (64, 40, 1) and encoding.recon.matrix == (32, 64, 1)
    assert encoding.encoded.fov == (640, 100, 5) and encoding.recon.fov == (320, 80, 5)
    assert encoding.trajectory == "cartesian" and encoding.calibration_mode == "separate"
    assert encoding.limit("kspace_encoding_step_1") == Limit(2, 29, 17)
    assert encoding.limit("kspace_encoding_step_1").count == 28
    assert encoding.limit("set") == Limit(0, 0, 0) and encoding.limit("set").count == 1
    assert [encoding.imaged_size(axis) for axis in range(3)] == [32, 32, 1]
    assert encoding.voxel() == (10, 2.5, 5)


def test_zeros_at_the_end_and_encoding_declarations_do_not_matter() -> None:
    xml = header_of()
    assert parse_header(xml + "\0") == parse_header(f"\n{xml}\n\0\0") == parse_header(xml)


def test_several_encodings() -> None:
    assert len(parse_header(header_of(encodings=3)).encodings) == 3


def test_without_field_of_view_the_matrix_of_the_image_counts() -> None:
    """Voxels then are of 1 mm; a larger matrix of the image does not add bins that were not measured."""
    xml = header_of(recon=(32, 50, 1), encoded_fov_mm=(0, 0, 0), recon_fov_mm=(0, 0, 0))
    (encoding,) = parse_header(xml).encodings
    assert [encoding.imaged_size(axis) for axis in range(3)] == [32, 40, 1]
    assert encoding.voxel() == (1, 1, 1)


@pytest.mark.parametrize("length", ["nan", "inf", "-3", "", "wide"])
def test_fields_of_view_that_are_none(length: str) -> None:
    xml = header_of().replace("640.0", length)
    assert parse_header(xml).encodings[0].encoded.fov == (0, 100, 5)


def test_without_reconspace_all_is_imaged() -> None:
    xml = header_of()
    start, end = xml.index("<reconSpace>"), xml.index("</reconSpace>") + len("</reconSpace>")
    (encoding,) = parse_header(xml[:start] + xml[end:]).encodings
    assert encoding.recon is None and [encoding.imaged_size(axis) for axis in range(3)] == [64, 40, 1]


def test_matrix_without_z_is_2d() -> None:
    assert parse_header(header_of().replace("<z>1</z>", "")).encodings[0].encoded.matrix == (64, 40, 1)


@pytest.mark.parametrize(
    ("low", "high", "center", "expected"),
    [
        ("0", "9", "", Limit(0, 9, 5)),  # the center is not told
        ("0", "8", "", Limit(0, 8, 4)),
        ("9", "0", "3", Limit()),  # the wrong way round: as if not there
        ("x", "9", "3", Limit()),
    ],
)
def test_limits_that_are_not_whole(low: str, high: str, center: str, expected: Limit) -> None:
    old = "<minimum>0</minimum><maximum>4</maximum><center>0</center>"
    xml = header_of()
    assert old in xml
    xml = xml.replace(old, f"<minimum>{low}</minimum><maximum>{high}</maximum><center>{center}</center>")
    assert parse_header(xml).encodings[0].limit("repetition") == expected


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "not XML"),
        ("\0", "not XML"),
        ("<ismrmrdHeader>", "not XML"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><ismrmrdHeader>&b;</ismrmrdHeader>", "document type"),
        ("<ismrmrdHeader/>", "no 'encoding'"),
        (header_of().replace("encodedSpace", "space"), "no size of 'encodedSpace'"),
        (header_of().replace("<x>64</x>", "<x>many</x>"), "no size of 'encodedSpace'"),
        (header_of().replace("<x>64</x>", f"<x>{'9' * 5000}</x>"), "no size of 'encodedSpace'"),
        (header_of().replace("<x>64</x>", "<x>0</x>"), "'encodedSpace' of the header is 0 x 40 x 1"),
        (header_of(encoded=(2**31, 40, 1)), "'encodedSpace' of the header is 2147483648 x 40 x 1; sizes must be 1 to"),
        (header_of(recon=(32, -1, 1)), "'reconSpace' of the header is 32 x -1 x 1"),
    ],
)
def test_headers_that_are_refused(xml: str, message: str) -> None:
    with pytest.raises(InputError, match=r"^scan\.h5: ") as caught:
        parse_header(xml, "scan.h5")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("times", "found"), [((), ()), (("4.92", " 7.38 "), (4.92, 7.38)), (("x", "-1"), (0.0, 0.0))])
def test_echo_times(times: tuple[str, ...], found: tuple[float, ...]) -> None:
    sequence = "".join(f"<TE>{time}</TE>" for time in times)
    xml = mrd.write_xml((8, 8, 1)).replace(
        "</encoding>", f"</encoding><sequenceParameters><TR>100</TR>{sequence}</sequenceParameters>"
    )
    assert parse_header(xml).echo_times == found
