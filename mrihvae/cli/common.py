"""What commands share that process files one by one: how these are read, and resuming an interrupted run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrihvae.errors import InputError


def finished_before(path: Path, summary: Mapping[str, Any], same: Sequence[str], entries: str) -> dict[str, Any]:
    """Read which files an earlier call finished, as its summary at `path` lists them under `entries`; none without one.

    Raises
    ------
    InputError
        Not a summary, or one of a call in which any of `same` was another.
    """
    if not path.is_file():
        return {}
    try:
        earlier = json.loads(path.read_text())
        finished = {entry["file"]: entry for entry in earlier[entries]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a summary of this command ({error}); leave out --resume") from error
    for key in same:
        if earlier.get(key) != summary[key]:
            raise InputError(
                f"{path}: was made with {key} {earlier.get(key)}, not {summary[key]}; choose another --output, or "
                "leave out --resume to replace it"
            )
    return finished


def reading_of(arguments: Any) -> dict[str, Any]:
    """Return how k-space is to be read, for `mrihvae.open_kspace`: `key` and `uncentered`, where a user gave them."""
    found = {"key": arguments.key, "uncentered": arguments.uncentered}
    return {name: value for name, value in found.items() if value}
