"""Frozen settings dataclasses to and from plain dictionaries, with errors that name the bad key.

Settings are composed: a field with the metadata `PART` is another settings dataclass. In dictionaries, and so in files
and options, the names of both lie on one level. Types are those of the annotations; pydantic checks them.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from mrihvae.errors import InputError, nearest

T = TypeVar("T")
PART = {"part": True}  # metadata of fields that are other settings dataclasses


def from_dict(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the settings dataclass `cls` from `values`; lists become tuples.

    Parameters
    ----------
    cls : a frozen dataclass
    values : setting names and values; names left out keep their defaults
    where : source of `values`, for the error message

    Raises
    ------
    InputError
        An unknown key (the nearest known one is named), or a value that the dataclass refuses.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: {values!r} is not a dictionary of settings; write names and values in braces")
    known = setting_names(cls)
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown setting '{key}'; the nearest known one is '{nearest(key, known)}'")
    try:
        given = {key: _as_tuples(value) for key, value in values.items()}
    except RecursionError as error:
        raise InputError(f"{where}: is nested too deeply for settings; check the file") from error
    wrong = next((key for key in given if _mismatch(known[key], key, given[key])), None)
    try:
        found = _build(cls, given)
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        if wrong is None or str(error).startswith((f"{wrong} is", f"{wrong}:")):  # which says more than the type
            raise InputError(f"{where}: {error}") from error
    if wrong is None:
        return found
    usual = _default(known[wrong], wrong)
    what = f"it must be of the same type as its default, {usual!r}"
    if isinstance(given[wrong], float) and not math.isfinite(given[wrong]):
        what = f"it must be a finite number, such as its default, {usual!r}"
    if usual is dataclasses.MISSING:
        what = _mismatch(known[wrong], wrong, given[wrong])
    raise InputError(f"{where}: {wrong} is {values[wrong]!r}; {what}")


def as_dict(settings: Any) -> dict[str, Any]:
    """Return settings as a dictionary on one level, from which `from_dict` builds them again."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        values |= as_dict(value) if field.metadata == PART else {field.name: value}
    return values


def with_settings(settings: T, **changes: Any) -> T:
    """Return settings with some of them changed, by their names on one level."""
    return from_dict(type(settings), as_dict(settings) | changes, "settings")


def setting_names(cls: Any) -> dict[str, Any]:
    """Return the names of all settings on one level, and which dataclass has them."""
    names: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        names |= setting_names(hints[field.name]) if field.metadata == PART else {field.name: cls}
    return names


def schema(cls: type[Any]) -> dict[str, Any]:
    """Return the JSON schema of a dictionary from which `from_dict` builds settings."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    names = setting_names(cls)
    schemas = {owner: _model(owner).model_json_schema() for owner in set(names.values())}
    for name, owner in names.items():
        field = schemas[owner]
        properties[name] = field["properties"][name]
        required += [name] if name in field.get("required", ()) else []
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


@cache
def _model(cls: Any) -> Any:
    """Return a pydantic model of a dataclass's own fields, which converts no value silently."""
    import pydantic  # takes a quarter of a second, for which `mrihvae --help` has no use

    config = pydantic.ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    fields = {}
    hints = typing.get_type_hints(cls)
    for name in (field.name for field in dataclasses.fields(cls) if field.metadata != PART):
        usual = _default(cls, name)
        fields[name] = (hints[name], ... if usual is dataclasses.MISSING else usual)
    return pydantic.create_model(cls.__name__, __config__=config, **fields)  # type: ignore[call-overload]


def _mismatch(cls: Any, name: str, value: Any) -> str:
    """Describe what a value should be that is not of the type of a field; empty if it is."""
    try:
        import pydantic
    except ImportError:  # machines that only train need no more than torch, numpy, h5py and safetensors
        return ""
    model = _model(cls)
    try:
        model.__pydantic_validator__.validate_assignment(model.model_construct(), name, value)
    except pydantic.ValidationError as error:
        return error.errors()[0]["msg"].replace("Input", "it", 1)
    return ""


def _build(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build settings of names on one level."""
    own: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.metadata == PART:
            kind = hints[field.name]
            own[field.name] = _build(kind, {key: values[key] for key in setting_names(kind) if key in values})
        elif field.name in values:
            own[field.name] = values[field.name]
    return cls(**own)


def _default(cls: type[Any], name: str) -> Any:
    """Return the default of a field, or `dataclasses.MISSING`."""
    field = next(candidate for candidate in dataclasses.fields(cls) if candidate.name == name)
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _as_tuples(value: Any) -> Any:
    """Replace lists by tuples, in depth."""
    return tuple(_as_tuples(part) for part in value) if isinstance(value, (list, tuple)) else value
