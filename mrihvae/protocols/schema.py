"""JSON schemas of protocols, by which editors complete and check TOML files (taplo: `#:schema FILE` in the first line).

They are made of the settings that read the files, and lie beside the shipped protocols.
"""

from __future__ import annotations

from typing import Any

from mrihvae.coils.settings import CoilSettings
from mrihvae.inference.settings import InferenceSettings
from mrihvae.model.settings import ModelSettings
from mrihvae.pnp.settings import PnPSettings
from mrihvae.protocols.evaluation import MaskSettings, Protocol
from mrihvae.protocols.training import TrainingProtocol
from mrihvae.recon.settings import METHODS, ClassicalSettings, SamplingSettings
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.run import TrainSettings
from mrihvae.utils.config import schema

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def evaluation_schema() -> dict[str, Any]:
    """Return the JSON schema of evaluation protocols, `mrihvae run`."""
    solver = schema(PnPSettings)["properties"] | schema(InferenceSettings)["properties"]
    solver |= schema(SamplingSettings)["properties"] | schema(ClassicalSettings)["properties"]
    solver["method"] = {"enum": list(METHODS)}
    parts = {
        "kind": {"const": "evaluation"},
        "mask": schema(MaskSettings),
        "solver": {"type": "object", "properties": solver, "additionalProperties": False},
        "coils": schema(CoilSettings),
    }
    return _whole(Protocol, parts, ["challenge", "data", "mask"], "Evaluation protocol of mrihvae")


def training_schema() -> dict[str, Any]:
    """Return the JSON schema of training protocols, `mrihvae train --protocol`."""
    shares = {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}, "minProperties": 1}
    parts = {
        "kind": {"const": "training"},
        "data": shares,
        "model": schema(ModelSettings),
        "training": schema(TrainSettings),
        "simulation": schema(SimulationSettings),
    }
    return _whole(TrainingProtocol, parts, ["data"], "Training protocol of mrihvae")


SCHEMAS = {"evaluation.schema.json": evaluation_schema, "training.schema.json": training_schema}


def _whole(cls: type[Any], parts: dict[str, Any], required: list[str], title: str) -> dict[str, Any]:
    """Return the schema of a file: that of its dataclass, with its tables in full."""
    found = schema(cls)
    return {"$schema": DRAFT, "title": title, **found, "properties": found["properties"] | parts, "required": required}
