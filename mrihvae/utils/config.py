"""Frozen settings dataclasses to and from plain dictionaries, with errors that name the bad key."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from mrihvae.errors import InputError, nearest

T = TypeVar("T")


def from_dict(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the settings dataclass `cls` from `values`; lists become tuples.

    Parameters
    ----------
    cls : a frozen dataclass
    values : setting names and values; names left out keep their defaults
    where : what `values` came from, for the error message

    Raises
    ------
    InputError
        An unknown key (the nearest known one is named), or a value that the dataclass refuses.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: {values!r} is no dictionary of settings; write names and values in braces")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    known = {name: field.default for name, field in fields.items()}
    for key, value in values.items():
        if key not in known:
            near = nearest(key, known)
            raise InputError(f"{where}: unknown setting '{key}'; the nearest known one is '{near}'")
        one_a_level = isinstance(value, (list, tuple)) and "tuple" in str(fields[key].type)
        parts = list(value) if one_a_level and not isinstance(known[key], tuple) else [value]
        usual = known[key]
        if usual is None and "bool" in str(fields[key].type) and isinstance(value, bool):
            continue
        if usual is not dataclasses.MISSING and not all(_alike(part, usual) for part in parts):
            raise InputError(f"{where}: {key} is {value!r}; it must be of the kind of its default, {usual!r}")
    try:
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def _alike(value: Any, default: Any) -> bool:
    """Check that a value is of its default's kind; numbers must be finite, whole ones may stand for others."""
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple)):
            return False
        return all(_alike(element, default[0] if default else "") for element in value)  # an empty one is of names
    if default is None:  # a number that may be left out
        return value is None or _alike(value, 0.0)
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is type(default)
