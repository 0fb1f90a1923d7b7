"""Weights on disk: NAME.safetensors with the tensors, NAME.json with model settings and provenance."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mrihvae.errors import InputError, reason
from mrihvae.model.hvae import HVAE
from mrihvae.model.settings import ModelSettings
from mrihvae.model.shipped import find_weights
from mrihvae.utils.config import from_dict
from mrihvae.utils.files import atomic_write

LARGEST_FILE = 16 * 2**20 - 2**17  # bytes of tensors in a file; the names of all tensors take less than the rest


def save_weights(path: Path, model: HVAE, provenance: Mapping[str, Any]) -> None:
    """Write the model's tensors to `path` (.safetensors) and its settings and `provenance` beside it (.json).

    They are stored in half precision: images do not differ. A run's checkpoint has them exactly. Weights of more than
    `LARGEST_FILE` bytes continue in NAME.part2.safetensors and so on, which the JSON lists under "parts".
    """
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in model.state_dict().items()}
    parts = _parts(tensors)
    names = [f"{path.stem}.part{number}.safetensors" for number in range(2, len(parts) + 1)]
    card = {"model": dataclasses.asdict(model.settings), **({"parts": names} if names else {}), **provenance}
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n")
    for name, part in zip((path.name, *names), parts):
        write_tensors(path.with_name(name), part)


def _parts(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Share tensors out, in their order, over files that are not too large."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        size += tensor.numel() * tensor.element_size()
        if parts[-1] and size > LARGEST_FILE:
            parts.append({})
            size = tensor.numel() * tensor.element_size()
        parts[-1][name] = tensor
    return parts


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, all or nothing."""
    with atomic_write(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from error
        temporary.chmod(mode)  # safetensors lets nobody else read its files, whatever the umask allows


def load_card(path: Path) -> dict[str, Any]:
    """Read the JSON beside the weights `path`: settings under "model", and provenance."""
    beside = path.with_suffix(".json")
    try:
        card = json.loads(beside.read_text())
    except FileNotFoundError:
        raise InputError(f"{beside}: missing; it must lie beside {path.name} with the model's settings") from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{beside}: not readable as JSON ({error}); copy it again from where the weights came"
        ) from error
    if not isinstance(card, dict) or not isinstance(card.get("model"), dict):
        raise InputError(f"{beside}: has no 'model' settings; copy it again from where the weights came")
    return card


def load_model(name_or_path: str, device: torch.device | str = "cpu") -> HVAE:
    """Return a trained model, for inference.

    Parameters
    ----------
    name_or_path : a shipped name such as "default", or a .safetensors file with its .json beside it
    device : torch device of the model

    Returns
    -------
    see `mrihvae.model.HVAE`

    Raises
    ------
    InputError
        Files missing, damaged, or not fitting each other.

    Examples
    --------
    >>> import mrihvae
    >>> mrihvae.load_model("default").settings.masked
    True
    """
    path = find_weights(name_or_path)
    model = HVAE(from_dict(ModelSettings, load_card(path)["model"], f"{path.with_suffix('.json')}, model"))
    try:
        model.load_state_dict(_read(path))
    except RuntimeError as error:
        why = reason(error, -1)
        raise InputError(f"{path}: does not fit the settings beside it ({why}); copy both again") from error
    return model.to_device(device).eval().requires_grad_(False)


def weight_files(path: Path) -> list[Path]:
    """List the files of weights: `path` and the further parts that the card beside it names.

    Raises
    ------
    InputError
        A part that is missing, or a list that is no list of file names.
    """
    names = load_card(path).get("parts", [])
    if not isinstance(names, list) or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise InputError(f"{path.with_suffix('.json')}: 'parts' is no list of file names; copy it again")
    files = [path, *(path.with_name(name) for name in names)]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: missing; it is a part of {path.name} and must lie beside it")
    return files


def fingerprint(path: Path) -> str:
    """Return the first 12 digits of the SHA-256 of weights, over all of their files."""
    digest = hashlib.sha256()
    for file in weight_files(path):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _read(path: Path) -> dict[str, Tensor]:
    """Read the tensors of weights from all of their files."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(path):
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: not a readable safetensors file ({error}); copy it again") from error
    return tensors


def load_on(checkpoint: str, device: str) -> HVAE:
    """Load weights by name or path onto a device.

    Raises
    ------
    InputError
        As `mrihvae.model.weights.load_model` does, or a device that cannot be used.
    """
    try:
        return load_model(checkpoint, torch.device(device))
    except (RuntimeError, AssertionError) as error:
        why = reason(error)
        raise InputError(f"--device {device}: cannot be used ({why}); try cpu") from error
