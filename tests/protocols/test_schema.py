"""JSON schemas of protocols: they take every shipped file, and refuse what the readers refuse."""

from __future__ import annotations

import copy
import json
import tomllib
from typing import Any

import jsonschema
import pytest

from mrihvae.protocols.evaluation import protocol_folder, read_kind
from mrihvae.protocols.schema import SCHEMAS, evaluation_schema, training_schema
from mrihvae.recon.settings import METHODS, setting_names_of

EVALUATION = {
    "kind": "evaluation", "challenge": "singlecoil", "data": "val",
    "mask": {"type": "random", "acceleration": 4, "center_fraction": 0.08},
}  # fmt: skip


def check(values: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(values)))


@pytest.mark.parametrize("name", SCHEMAS)
def test_files_are_those_of_the_settings(name: str) -> None:
    """Write them anew by `python -m tests.protocols.test_schema`."""
    assert json.loads((protocol_folder() / name).read_text()) == json.loads(json.dumps(SCHEMAS[name]()))
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name]())


def test_shipped_protocols_are_valid() -> None:
    kinds = {"evaluation": evaluation_schema(), "training": training_schema()}
    count = 0
    for path in protocol_folder().glob("*.toml"):
        kind, _ = read_kind(path)
        if kind in kinds:
            check(tomllib.loads(path.read_text()), kinds[kind])
            count += 1
    assert count >= 10


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        (None, "chalenge", "singlecoil"),
        (None, "seed", 1.5),
        (None, "acquisitions", "AXT2"),
        ("mask", "acceleration", "4"),
        ("mask", "typ", "random"),
        ("solver", "method", "grappa"),
        ("solver", "sweeps", 1.5),
        ("solver", "view", 2),
        ("coils", "compress", "all"),
    ],
)
def test_mistakes_are_refused(table: str | None, key: str, value: object) -> None:
    check(EVALUATION, evaluation_schema())
    changed: dict[str, Any] = copy.deepcopy(EVALUATION)
    (changed if table is None else changed.setdefault(table, {}))[key] = value
    with pytest.raises(jsonschema.ValidationError):
        check(changed, evaluation_schema())


@pytest.mark.parametrize("method", METHODS)
def test_solver_takes_all_settings_of_methods(method: str) -> None:
    assert set(setting_names_of(method)) <= set(evaluation_schema()["properties"]["solver"]["properties"])


def test_training_takes_shares_above_zero() -> None:
    check({"data": {"train": 1}, "training": {"steps": 3}}, training_schema())
    for wrong in ({"data": {}}, {"data": {"train": 0}}, {"data": {"train": 1}, "model": {"layer": 2}}):
        with pytest.raises(jsonschema.ValidationError):
            check(wrong, training_schema())


if __name__ == "__main__":
    for name, make in SCHEMAS.items():
        (protocol_folder() / name).write_text(json.dumps(make(), indent=2) + "\n")
