"""The SHA-256 of safetensors files: every flipped bit is noticed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mrihvae.errors import InputError
from mrihvae.model.digests import BLANK, check_digest, measure_digest, read_metadata, state_digest, tensor_bytes

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(5, dtype=torch.int64), "c": torch.zeros(3).half()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that states its digest."""
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path, {"step": "7", "sha256": BLANK})
    state_digest(path)
    return path


def test_stated_digest_is_that_of_the_file_with_zeros_in_its_place(path: Path) -> None:
    stated, found = measure_digest(path)
    assert stated is not None and stated == found == read_metadata(path)["sha256"] and len(found) == 64
    blank = path.read_bytes().replace(found.encode(), BLANK.encode())
    assert hashlib.sha256(blank).hexdigest() == found
    assert all(torch.equal(load_file(path)[name], tensor) for name, tensor in TENSORS.items())
    check_digest(path, found, "copy it again")


def test_file_without_a_stated_digest_has_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_file(TENSORS, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert measure_digest(path) == (None, found) and read_metadata(path) == {}
    check_digest(path, found, "copy it again")
    with pytest.raises(InputError, match=f"damaged, or from another set than its card.* expected {'1' * 12}; copy it"):
        check_digest(path, "1" * 64, "copy it again")


def test_every_flipped_bit_is_noticed(path: Path) -> None:
    """But in the name of the digest itself, which a card, or the step beside it, makes up for."""
    content, (expected, _) = path.read_bytes(), measure_digest(path)
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(InputError, match=r"a.safetensors: .*; copy it again"):
            check_digest(path, expected, "copy it again")


DEEP = (10**5).to_bytes(8, "little") + b"[" * 10**5
NUMBER = (29).to_bytes(8, "little") + b'{"__metadata__":{"sha256":5}}'


@pytest.mark.parametrize(
    "content", [b"", b"1234567", b"\xff" * 100, b"\x02" + bytes(7) + b"[]", b"\x09" + bytes(7), DEEP, NUMBER]
)
def test_no_safetensors_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"not a readable safetensors file \(.*; copy it again"):
        check_digest(tmp_path / "a.safetensors", None, "copy it again")


def test_bytes_without_metadata_are_those_of_a_file_that_has_none(path: Path) -> None:
    plain = path.with_name("plain.safetensors")
    save_file(TENSORS, plain)
    assert b"".join(tensor_bytes(path)) == b"".join(tensor_bytes(plain)) == plain.read_bytes()
