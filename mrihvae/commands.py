"""What commands share that go over files one after the other: weights on a device, and earlier calls to go on with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mrihvae.errors import InputError
from mrihvae.model import HVAE
from mrihvae.weights import load_model


def load_on(checkpoint: str, device: str) -> HVAE:
    """Load weights by name or path onto a device.

    Raises
    ------
    InputError
        As `mrihvae.weights.load_model` does, or a device that cannot be used.
    """
    try:
        return load_model(checkpoint, torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {device}: cannot be used ({reason}); try cpu") from error


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


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is that there was too little memory, of which torch's CPU allocator has no type."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
