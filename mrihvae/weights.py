"""Weights on disk: NAME.safetensors with the tensors, NAME.json with model settings and provenance."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.files import replacing
from mrihvae.model import HVAE, ModelSettings
from mrihvae.settings import from_dict

SHIPPED = Path(__file__).parent / "checkpoints"


def save_weights(path: Path, model: HVAE, provenance: Mapping[str, Any]) -> None:
    """Write the model's tensors to `path` (.safetensors) and its settings and `provenance` beside it (.json).

    They are stored in half precision, which images cannot tell from single; a run's checkpoint has them exactly.
    """
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in model.state_dict().items()}
    card = {"model": dataclasses.asdict(model.settings), **provenance}
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n")
    write_tensors(path, tensors)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, all or nothing."""
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # how safetensors tells of a full disk
            raise OSError(str(error)) from error


def find_weights(name_or_path: str) -> Path:
    """Find weights by shipped name or by path.

    Raises
    ------
    InputError
        Neither a shipped name nor a file.
    """
    shipped = SHIPPED / f"{name_or_path}.safetensors"
    if shipped.is_file():
        return shipped
    path = Path(name_or_path)
    if path.is_file() and path.suffix == ".safetensors":
        return path
    names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.safetensors"))) or "none"
    raise InputError(f"{name_or_path}: neither shipped weights ({names}) nor a .safetensors file; give one of them")


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
    """Load a model for inference.

    Parameters
    ----------
    name_or_path : a shipped name such as "default", or a .safetensors file with its .json beside it
    device : where the model goes

    Raises
    ------
    InputError
        Files missing, damaged, or not fitting each other.
    """
    path = find_weights(name_or_path)
    model = HVAE(from_dict(ModelSettings, load_card(path)["model"], f"{path.with_suffix('.json')}, model"))
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); copy it again") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{path}: does not fit the settings beside it ({reason}); copy both again") from error
    return model.move(device).eval().requires_grad_(False)
