"""The rules of OpenRecon's label, schema 1.1.0, in our own words, for the vendor's file is not ours to ship.

Restated from the published one: which keys there must be, and no others, their types, and what each may hold.
"""

from __future__ import annotations

from typing import Any

VERSION = r"^(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}([-+][0-9A-Za-z.+-]+)?$"  # semantic
TEXT, WHOLE = {"type": "string"}, {"type": "integer", "minimum": 0}
INT32 = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
TENTHS = {"type": "number", "multipleOf": 0.1}
LANGUAGES: dict[str, Any] = {"type": "object", "required": ["en"], "additionalProperties": TEXT}
UNIT = {"type": "object", "required": ["en"], "properties": {"en": {"type": "string", "minLength": 1, "maxLength": 3}}}
REGULATORY = (
    "device_trade_name", "production_identifier", "manufacturer_address", "made_in", "manufacture_date",
    "material_number", "gtin", "udi", "safety_advices", "special_operating_instructions",
    "additional_relevant_information",
)  # fmt: skip


def record(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """Describe an object that has all required keys, and no further ones but the optional."""
    return {
        "type": "object",
        "required": list(required),
        "properties": required | (optional or {}),
        "additionalProperties": False,
    }


def parameter(kind: str, required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """Describe a parameter of the user's interface."""
    common = {"type": {"const": kind}, "id": {"type": "string", "pattern": "^[A-Za-z0-9]+$"}, "label": LANGUAGES}
    return record(common | required, {"information": LANGUAGES} | (optional or {}))


PARAMETERS = [
    parameter("boolean", {"default": {"type": "boolean"}}),
    parameter("string", {}, {"default": TEXT, "isLargeText": {"type": "boolean"}}),
    parameter(
        "choice",
        {
            "default": TEXT,
            "values": {"type": "array", "minItems": 1, "items": record({"id": TEXT, "name": LANGUAGES})},
        },
    ),
    parameter("int", dict.fromkeys(("minimum", "maximum", "default"), INT32), {"unit": UNIT}),
    parameter("double", dict.fromkeys(("minimum", "maximum", "default"), TENTHS), {"unit": UNIT}),
]
GENERAL = record(
    {
        "name": LANGUAGES,
        "version": {"type": "string", "pattern": VERSION},
        "vendor": TEXT,
        "information": LANGUAGES,
        "id": TEXT,
        "regulatory_information": record(dict.fromkeys(REGULATORY, TEXT)),
    },
    {"license_string": TEXT},
)
RECONSTRUCTION = record(
    {
        "transfer_protocol": record({"protocol": {"const": "ISMRMRD"}, "version": {"const": "1.4.1"}}),
        "port": {"type": "integer"},
        "emitter": {"enum": ["raw", "image"]},
        "injector": {"enum": ["image", "compleximage"]},
        "can_use_gpu": {"type": "boolean"},
        "min_required_memory": WHOLE,
        "min_count_required_cpu_cores": {"type": "integer", "minimum": 1},
    },
    {
        "can_process_adjustment_data": {"type": "boolean"},
        "min_count_required_gpus": WHOLE,
        "min_required_gpu_memory": WHOLE,
        "content_qualification_type": {"enum": ["PRODUCT", "SERVICE", "RESEARCH"]},
        "require_readout_filter_off": {"type": "boolean"},
        "channel_compression": record(
            {},
            {
                "require_state": {"enum": ["on", "off"]},
                "require_number_target_channels": {"type": "integer", "minimum": 1},
            },
        ),
    },
)
SCHEMA = record(
    {
        "general": GENERAL,
        "reconstruction": RECONSTRUCTION,
        "parameters": {"type": "array", "maxItems": 14, "uniqueItems": True, "items": {"oneOf": PARAMETERS}},
    }
)
