"""The part of an ISMRMRD header that fastMRI reads, written for its files."""

from __future__ import annotations

from xml.sax.saxutils import escape

HEADER = """<?xml version="1.0" encoding="utf-8"?>
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
PROTOCOL = """
  <measurementInformation><protocolName>{protocol}</protocolName></measurementInformation>"""
CHANNELS = """
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
    coils : number of them; told where there are several
    matrix : (h, w) of the image; left out, that of k-space
    padding : first and one past the last line that is encoded; left out, all are
    voxel : size along H, W and across slices, mm
    protocol : name of it, if there is one
    """
    first, end = padding or (0, shape[1])
    about = PROTOCOL.format(protocol=escape(protocol)) if protocol else ""
    return HEADER.format(
        about=about + (CHANNELS.format(coils=coils) if coils > 1 else ""),
        encoded=_space(shape, voxel),
        recon=_space(matrix or shape, voxel),
        last=end - first - 1,
        center=shape[1] // 2 - first,
    )


def _space(size: tuple[int, int], voxel: tuple[float, float, float]) -> str:
    (h, w), (x, y, z) = size, voxel
    matrix = f"<matrixSize><x>{h}</x><y>{w}</y><z>1</z></matrixSize>"
    return f"{matrix}<fieldOfView_mm><x>{h * x:.9g}</x><y>{w * y:.9g}</y><z>{z:.9g}</z></fieldOfView_mm>"
