"""Weights on disk: NAME.safetensors with the tensors, NAME.json with model settings and provenance.

A set of weights is one card, NAME.json, and the files that it lists with their SHA-256. While a set replaces another
one, the card has both, and NAME.safetensors tells which of them holds: its rename is what replaces the set.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mrihvae.errors import InputError, reason
from mrihvae.model.digests import (
    BLANK,
    KEY,
    card_digest,
    check_digest,
    measure_digest,
    read_metadata,
    sign_card,
    state_digest,
    tensor_bytes,
)
from mrihvae.model.hvae import HVAE
from mrihvae.model.settings import ModelSettings
from mrihvae.model.shipped import find_weights
from mrihvae.utils.config import from_dict
from mrihvae.utils.files import atomic_write
from mrihvae.utils.notices import warn

LARGEST_FILE = 16 * 2**20 - 2**17  # bytes of tensors in a file; the names of all tensors take less than the rest
PREVIOUS = "previous"  # in a card, that of the set which is being replaced
OWN = ("model", "parts", KEY, PREVIOUS)  # of a card; the rest is provenance
ATTEMPTS = 5  # to read weights that another process replaces
COPY = "copy all files of these weights again, including the .json"


def save_weights(path: Path | str, model: HVAE, provenance: Mapping[str, Any]) -> None:
    """Write the model's tensors to `path` (.safetensors) and its settings and `provenance` beside it (.json).

    They are stored in half precision: images do not differ. A run's checkpoint has them exactly. Weights of more than
    `LARGEST_FILE` bytes continue in NAME.part2.DIGITS.safetensors and so on, which the JSON lists under "parts". Every
    file has its SHA-256 and, where `provenance` says it, the training step in its metadata. Weights that are there
    already are replaced as a whole: a process that is killed leaves the earlier set or the new one.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in model.state_dict().items()}
    first, *others = _parts(tensors)
    step = provenance.get("counters", provenance).get("step")
    metadata = {} if step is None else {"step": str(step)}
    names = [_part_name(path, number, part, metadata) for number, part in enumerate(others, start=2)]
    earlier = _earlier_card(path)
    try:
        digests = [_write_part(path.with_name(name), part, metadata) for name, part in zip(names, others)]
        with atomic_write(path) as temporary:
            digests.insert(0, save_tensors(temporary, first, metadata))
            card = sign_card({
                "model": dataclasses.asdict(model.settings), **({"parts": names} if names else {}),
                **{name: value for name, value in provenance.items() if name not in OWN},
            }, digests)  # fmt: skip
            _write_card(path, card if earlier is None else {**card, PREVIOUS: earlier})
        if earlier is not None:
            _write_card(path, card)
    finally:
        remove_other_parts(path)


def state_hashes(path: Path) -> None:
    """Add the SHA-256 of all files to the card of weights, as they are now; their files stay as they are."""
    card = load_card(path)
    try:
        digests = [measure_digest(file)[1] for file in _files(path, card)]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: its files cannot be read ({error}); {COPY}") from error
    _write_card(path, sign_card({name: value for name, value in card.items() if name != KEY}, digests))


def verify_weights(path: Path) -> bool:
    """Check all files of weights against their SHA-256; return whether any is stated.

    Raises
    ------
    InputError
        As `load_model` does.
    """
    card = load_card(path)
    _read(path, card)
    return KEY in card


def _earlier_card(path: Path) -> dict[str, Any] | None:
    """Return the card of weights that are there, with the SHA-256 of their files; None without such weights."""
    try:
        card = load_card(path)
        return card if KEY in card else sign_card(card, [measure_digest(file)[1] for file in _files(path, card)])
    except (InputError, OSError, ValueError):
        return None


def _write_card(path: Path, card: Mapping[str, Any]) -> None:
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n")


def _part_name(path: Path, number: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Name a further file by its content, so that none of another set is overwritten."""
    digest = hashlib.sha256(json.dumps([metadata, list(tensors)]).encode())
    for tensor in tensors.values():
        digest.update(tensor.numpy().tobytes())
    return f"{path.stem}.part{number}.{digest.hexdigest()[:8]}.safetensors"


def _write_part(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write a further file, unless it is there; return its SHA-256.

    Its name tells its content, but the order of metadata is not fixed: the card that lists it would not fit a new one.
    """
    with suppress(OSError, ValueError):
        stated, found = measure_digest(path)
        if stated == found:
            return found
    return write_tensors(path, tensors, dict(metadata))


def finish_set(path: Path) -> None:
    """Finish replacing weights where a process was killed in between: one card, and no files of another set."""
    with suppress(OSError, ValueError, AttributeError):
        if PREVIOUS in json.loads(path.with_suffix(".json").read_text()):
            _write_card(path, load_card(path))
    remove_other_parts(path)


def remove_other_parts(path: Path) -> None:
    """Remove further files that no card lists any more: of earlier sets, and of one that could not be finished."""
    with suppress(OSError, ValueError, AttributeError, TypeError):
        card = json.loads(path.with_suffix(".json").read_text())
        listed = {*card.get("parts", []), *card.get(PREVIOUS, {}).get("parts", [])}
        pattern = re.compile(rf"{re.escape(path.stem)}\.part[0-9]+(\.[0-9a-f]{{8}})?\.safetensors")
        for file in path.parent.iterdir():
            if pattern.fullmatch(file.name) and file.name not in listed:
                file.unlink()


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


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write a safetensors file, all or nothing, with its SHA-256 in the metadata; return that."""
    with atomic_write(path) as temporary:
        return save_tensors(temporary, tensors, metadata or {})


def save_tensors(temporary: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write a safetensors file with its SHA-256 in the metadata under a temporary name; return the SHA-256."""
    # not by safetensors itself, which has a temporary file of its own: a process that is killed would leave it
    temporary.write_bytes(save(tensors, {**metadata, KEY: BLANK}))
    return state_digest(temporary)


def load_card(path: Path | str) -> dict[str, Any]:
    """Read the JSON beside the weights `path`: settings under "model", and provenance.

    Of a card with two sets it is that of `path`. A card that was changed since it was written is warned of.

    Raises
    ------
    InputError
        Missing, no JSON, or without settings of a model.
    """
    path = Path(path)
    beside = path.with_suffix(".json")
    try:
        card = json.loads(beside.read_text())
    except FileNotFoundError:
        raise InputError(f"{beside}: missing; it must lie beside {path.name} with the model's settings") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{beside}: not readable as JSON ({error}); copy it again from where the weights came"
        ) from error
    if isinstance(card, dict) and isinstance(earlier := card.pop(PREVIOUS, None), dict) and not _is_of(card, path):
        card = earlier
    if not isinstance(card, dict) or not isinstance(card.get("model"), dict):
        raise InputError(f"{beside}: has no 'model' settings; copy it again from where the weights came")
    hashes = card.get(KEY)
    if isinstance(hashes, dict) and "card" in hashes and hashes["card"] != card_digest(card):
        warn(f"{beside}: was changed since it was written; {COPY}, or take '{KEY}' out of it if the change is yours")
    return card


def _is_of(card: Mapping[str, Any], path: Path) -> bool:
    """Return whether a card is that of the file `path`."""
    try:
        return bool(card[KEY]["files"][0] == measure_digest(path)[1])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return True  # errors say more later


def load_model(name_or_path: str, device: torch.device | str = "cpu") -> HVAE:
    """Return a trained model, for inference.

    Parameters
    ----------
    name_or_path : name of shipped weights, such as "default", or a .safetensors file with its .json beside it
    device : torch device of the model

    Returns
    -------
    see `mrihvae.model.HVAE`

    Raises
    ------
    InputError
        Files that are missing or damaged, or do not belong together.

    Examples
    --------
    >>> import mrihvae
    >>> mrihvae.load_model("default").settings.masked
    True
    """
    path = find_weights(name_or_path)
    settings, tensors = _read_set(path)
    try:
        model = HVAE(settings)
        model.load_state_dict(tensors)
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
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
    return _files(path, load_card(path))


def _files(path: Path, card: Mapping[str, Any]) -> list[Path]:
    names = card.get("parts", [])
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) and 0 < len(name) < 200 and Path(name).name == name for name in names)
        or len({path.name, *names}) <= len(names)
    ):
        raise InputError(f"{path.with_suffix('.json')}: 'parts' is not a list of file names; copy it again")
    files = [path, *(path.with_name(name) for name in names)]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: missing; it is a part of {path.name} and must lie beside it")
    return files


def fingerprint(path: Path | str) -> str:
    """Return the first 12 digits of the SHA-256 of weights: their tensors in all files, without metadata."""
    digest = hashlib.sha256()
    for file in weight_files(Path(path)):
        try:
            for block in tensor_bytes(file):
                digest.update(block)
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: not a readable safetensors file ({error}); copy it again") from error
    return digest.hexdigest()[:12]


def _read_set(path: Path) -> tuple[ModelSettings, dict[str, Tensor]]:
    """Read settings and tensors of weights; once more where another process replaced them meanwhile."""
    for attempt in range(ATTEMPTS):
        card = load_card(path)
        settings = from_dict(ModelSettings, card["model"], f"{path.with_suffix('.json')}, model")
        try:
            tensors = _read(path, card)
            _check_claim(path, settings, tensors)
            return settings, tensors
        except InputError:
            if attempt + 1 == ATTEMPTS or load_card(path) == card:
                raise
    raise AssertionError


def _check_claim(path: Path, settings: ModelSettings, tensors: Mapping[str, Tensor]) -> None:
    """Check that a card claims no larger network than its files can hold, before that is made."""
    layers = sum(settings.layers_at(level) * width**2 for level, width in enumerate(settings.widths))
    has_guess = settings.masked and settings.cascades > 0
    guess = sum(width**2 for width in settings.guess_widths) + settings.guess_memory if has_guess else 0
    least = max(layers, settings.channels, settings.latents, settings.fold**2, guess)
    parts = settings.depth + (0 if settings.guess_shared or not settings.masked else settings.cascades)
    if least > sum(tensor.numel() for tensor in tensors.values()) or parts > len(tensors):
        raise InputError(f"{path}: has fewer numbers than the settings beside it claim, {least}; {COPY}")


def _read(path: Path, card: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the tensors of weights from all of their files, and check these against the card."""
    tensors: dict[str, Tensor] = {}
    files = _files(path, card)
    hashes = card.get(KEY, {"files": [None] * len(files)})
    digests = hashes.get("files") if isinstance(hashes, dict) else None
    known = isinstance(digests, list) and all(digest is None or isinstance(digest, str) for digest in digests)
    if not isinstance(digests, list) or not known or len(digests) != len(files):
        raise InputError(f"{path.with_suffix('.json')}: '{KEY}' does not have one digest for each file; {COPY}")
    steps = set()
    for file, digest in zip(files, digests):
        try:
            tensors |= load_file(file)
            steps.add(read_metadata(file).get("step"))
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:  # torch's, of a file that goes meanwhile
            raise InputError(f"{file}: not a readable safetensors file ({error}); copy it again") from error
        check_digest(file, digest, COPY)
    if len(steps) > 1:
        raise InputError(f"{path}: its files are of different steps ({', '.join(map(str, steps))}); {COPY}")
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
