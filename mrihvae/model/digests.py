"""SHA-256 of safetensors files: stated in a file's own metadata, and measured; and of the card beside them.

The digest is that of all bytes of the file, in which the digits of the stated one count as zeros. A file without a
stated digest has that of its bytes, as `sha256sum` prints it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from mrihvae.errors import InputError

KEY = "sha256"  # in the metadata
BLANK = "0" * 64
BLOCK = 2**20  # bytes read at a time
LARGEST_HEADER = 10**8  # bytes, as safetensors has it


def measure_digest(path: Path) -> tuple[str | None, str]:
    """Return the digest that a safetensors file states, or None, and the one that it has.

    Raises
    ------
    OSError, ValueError
        Not readable, or no safetensors file.
    """
    with path.open("rb") as file:
        head, header = _read_header(file)
        stated = header.get("__metadata__", {}).get(KEY)
        digest = hashlib.sha256(head.replace(stated.encode(), BLANK.encode(), 1) if stated else head)
        for block in _blocks(file):
            digest.update(block)
    return stated, digest.hexdigest()


def state_digest(path: Path) -> str:
    """Write its digest into a file whose metadata have `BLANK` in its place; return it."""
    _, digest = measure_digest(path)
    with path.open("r+b") as file:
        head, _ = _read_header(file)
        file.seek(head.index(f'"{KEY}":"{BLANK}"'.encode()) + len(f'"{KEY}":"'))
        file.write(digest.encode())
    return digest


def check_digest(path: Path, expected: str | None, remedy: str) -> None:
    """Check a file against the digest that it states and the one that is expected, so far as there are any.

    Parameters
    ----------
    remedy : what the user is to do about a file that is damaged

    Raises
    ------
    InputError
        Damaged, or another file than the one expected.
    """
    try:
        stated, found = measure_digest(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); {remedy}") from error
    if stated is not None and stated != found:
        raise InputError(
            f"{path}: damaged, its SHA-256 begins with {found[:12]}, but began with {stated[:12]} when it was "
            f"written; {remedy}"
        )
    if expected is not None and expected != found:
        what = f"its SHA-256 begins with {found[:12]}, expected {expected[:12]}"
        raise InputError(f"{path}: damaged, or from another set than its card: {what}; {remedy}")


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty without any.

    Raises
    ------
    OSError, ValueError
        As `measure_digest` does.
    """
    with path.open("rb") as file:
        return dict(_read_header(file)[1].get("__metadata__", {}))


def tensor_bytes(path: Path) -> Iterator[bytes]:
    """Yield the bytes that a safetensors file would have without metadata.

    Raises
    ------
    OSError, ValueError
        As `measure_digest` does.
    """
    with path.open("rb") as file:
        head, header = _read_header(file)
        if header.pop("__metadata__", None) is not None:
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            text += b" " * (-len(text) % 8)
            head = len(text).to_bytes(8, "little") + text
        yield head
        yield from _blocks(file)


def _read_header(file: BinaryIO) -> tuple[bytes, dict[str, Any]]:
    """Read the bytes before those of tensors, and the header in them."""
    length = file.read(8)
    size = int.from_bytes(length, "little")
    if len(length) < 8 or size > LARGEST_HEADER:
        raise ValueError("header too large")
    text = file.read(size)
    try:
        header = json.loads(text)
    except RecursionError as error:
        raise ValueError("header nested too deep") from error
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if len(text) < size or not isinstance(metadata, dict) or not all(isinstance(one, str) for one in metadata.values()):
        raise ValueError("header incomplete")
    return length + text, header


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    return iter(partial(file.read, BLOCK), b"")


def sign_card(card: dict[str, Any], digests: list[str]) -> dict[str, Any]:
    """Add the SHA-256 of all files, and that of the card itself."""
    return {**card, KEY: {"files": digests, "card": card_digest({**card, KEY: {"files": digests}})}}


def card_digest(card: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of a card without its own, of JSON whose keys are sorted."""
    hashes = {name: value for name, value in card[KEY].items() if name != "card"}
    plain = json.loads(json.dumps({**card, KEY: hashes}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
