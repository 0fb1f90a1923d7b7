"""Frozen settings dataclasses to and from plain dictionaries, with errors that name the bad key."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from mrihvae.errors import InputError

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
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise InputError(f"{where}: unknown setting '{key}'; the nearest known one is '{near[0]}'")
    try:
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error
