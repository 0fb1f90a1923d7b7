"""Streams of MRD version 2, by the package `mrd-python`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import mrd
import numpy as np

from tests.support.mrd.messages import Image, Line

DIRECTIONS = ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")
COUNTERS = ("kspace_encode_step_1", "average", "slice", "contrast", "phase", "repetition", "set", "segment")
PLAIN = ("measurement_uid", "acquisition_time_stamp", "scan_counter", "discard_pre", "discard_post", "center_sample")


def header_v2(
    matrix: tuple[int, int], lines: int, channels: int = 1, user: Mapping[str, Any] | None = None, **changes: Any
) -> mrd.Header:
    """Write a header of a 2D scan; `user` are parameters, `changes` are of the encoding."""
    space = mrd.EncodingSpaceType(
        matrix_size=mrd.MatrixSizeType(x=matrix[0], y=matrix[1], z=1),
        field_of_view_mm=mrd.FieldOfViewMm(x=2.0 * matrix[0], y=1.5 * matrix[1], z=5.0),
    )
    limits = mrd.EncodingLimitsType(
        kspace_encoding_step_1=mrd.LimitType(minimum=0, maximum=lines - 1, center=lines // 2)
    )
    encoding = mrd.EncodingType(
        **({"encoded_space": space, "recon_space": space, "encoding_limits": limits} | changes)
        | {"trajectory": mrd.Trajectory.CARTESIAN}
    )
    strings = [mrd.UserParameterStringType(name=name, value=str(value)) for name, value in (user or {}).items()]
    return mrd.Header(
        experimental_conditions=mrd.ExperimentalConditionsType(h1resonance_frequency_hz=123),
        encoding=[encoding],
        acquisition_system_information=mrd.AcquisitionSystemInformationType(
            system_vendor="V & W", receiver_channels=channels
        ),
        measurement_information=mrd.MeasurementInformationType(
            patient_position=mrd.PatientPosition.H_FS, protocol_name="t1"
        ),
        sequence_parameters=mrd.SequenceParametersType(t_e=[4.5, 9.0], t_r=[500.0]),
        user_parameters=mrd.UserParametersType(user_parameter_string=strings),
    )


def acquisition_v2(line: Line) -> mrd.StreamItem:
    """Convert a line of version 1."""
    head = mrd.AcquisitionHeader(flags=mrd.AcquisitionFlags(line.flags))
    for name in DIRECTIONS:
        setattr(head, name, np.array(getattr(line, name), np.float32))
    for name in PLAIN:
        setattr(head, name, getattr(line, name))
    for name in COUNTERS:
        setattr(head.idx, name, getattr(line, name))
    head.user_int, head.idx.user = list(line.user_int), list(line.user)
    return mrd.StreamItem.Acquisition(mrd.Acquisition(head=head, data=line.data))


def image_v2(image: Image, **meta: str) -> mrd.StreamItem:
    """Convert an image of float32 of version 1."""
    head = mrd.ImageHeader(image_type=mrd.ImageType.MAGNITUDE, slice=image.slice, image_series_index=7)
    head.position, head.col_dir = np.array(image.position, np.float32), np.array(image.read_dir, np.float32)
    values = {name: [mrd.ImageMetaValue.String(value)] for name, value in meta.items()}
    return mrd.StreamItem.ImageFloat(mrd.Image(head=head, data=image.data, meta=values))


def stream_v2(header: mrd.Header | None, items: Sequence[mrd.StreamItem]) -> bytes:
    """Write a stream."""
    stream = BytesIO()
    with mrd.BinaryMrdWriter(stream) as writer:
        writer.write_header(header)
        writer.write_data(items)
    return stream.getvalue()


def replies_v2(payload: bytes) -> tuple[mrd.Header | None, list[mrd.StreamItem]]:
    """Read a stream to its end."""
    with mrd.BinaryMrdReader(BytesIO(payload)) as reader:
        return reader.read_header(), list(reader.read_data())
