"""The header of MRD version 2 as the XML of version 1: what `mrihvae.io.mrd.header` reads of it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mrd

NAMESPACE = "http://www.ismrm.org/ISMRMRD"
LIMITS = (
    "kspace_encoding_step_0", "kspace_encoding_step_1", "kspace_encoding_step_2", "average", "slice", "contrast",
    "phase", "repetition", "set", "segment",
)  # fmt: skip


def xml_of_header(header: mrd.Header) -> str:
    """Return the header as XML: system, measurement, encodings, times of the sequence and the user's parameters."""
    system, measurement, sequence = (
        header.acquisition_system_information,
        header.measurement_information,
        header.sequence_parameters,
    )
    content = {
        "measurementInformation": measurement
        and {
            "patientPosition": measurement.patient_position.name.replace("_", ""),
            "protocolName": measurement.protocol_name,
            "seriesDescription": measurement.series_description,
        },
        "acquisitionSystemInformation": system
        and {
            "systemVendor": system.system_vendor,
            "systemModel": system.system_model,
            "systemFieldStrength_T": system.system_field_strength_t,
            "receiverChannels": system.receiver_channels,
            "institutionName": system.institution_name,
        },
        "experimentalConditions": {"H1resonanceFrequency_Hz": header.experimental_conditions.h1resonance_frequency_hz},
        "encoding": [_encoding(encoding) for encoding in header.encoding],
        "sequenceParameters": sequence
        and {"TR": sequence.t_r, "TE": sequence.t_e, "TI": sequence.t_i, "flipAngle_deg": sequence.flip_angle_deg},
        "userParameters": header.user_parameters and _parameters(header.user_parameters),
    }
    root = ElementTree.Element("ismrmrdHeader", {"xmlns": NAMESPACE})
    _append(root, content)
    return ElementTree.tostring(root, encoding="unicode")


def _encoding(encoding: Any) -> dict[str, Any]:
    limits = {name: getattr(encoding.encoding_limits, name) for name in LIMITS}
    parallel = encoding.parallel_imaging
    return {
        "encodedSpace": _space(encoding.encoded_space),
        "reconSpace": _space(encoding.recon_space),
        "encodingLimits": {
            name: limit and {key: getattr(limit, key) for key in ("minimum", "maximum", "center")}
            for name, limit in limits.items()
        },
        "trajectory": encoding.trajectory,
        "parallelImaging": parallel
        and {
            "accelerationFactor": {
                name: getattr(parallel.acceleration_factor, name)
                for name in ("kspace_encoding_step_1", "kspace_encoding_step_2")
            },
            "calibrationMode": parallel.calibration_mode,
            "interleavingDimension": parallel.interleaving_dimension,
        },
        "echoTrainLength": encoding.echo_train_length,
    }


def _space(space: Any) -> dict[str, Any]:
    return {
        "matrixSize": {axis: getattr(space.matrix_size, axis) for axis in "xyz"},
        "fieldOfView_mm": {axis: getattr(space.field_of_view_mm, axis) for axis in "xyz"},
    }


def _parameters(parameters: Any) -> dict[str, Any]:
    return {
        f"userParameter{kind}": [
            {"name": each.name, "value": each.value} for each in getattr(parameters, f"user_parameter_{kind.lower()}")
        ]
        for kind in ("Long", "Double", "String", "Base64")
    }


def _append(parent: ElementTree.Element, content: Mapping[str, Any]) -> None:
    """Append elements by name: text, elements, or a list of these; None is left out."""
    for name, value in content.items():
        for item in value if isinstance(value, list) else [] if value is None else [value]:
            element = ElementTree.SubElement(parent, name)
            if isinstance(item, Mapping):
                _append(element, item)
            else:
                element.text = item.name.lower() if isinstance(item, Enum) else str(item)
