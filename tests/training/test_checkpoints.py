"""The newest checkpoint that is whole is read; the one before is kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mrihvae.errors import InputError
from mrihvae.model.digests import measure_digest
from mrihvae.training import checkpoints
from mrihvae.training.checkpoints import NEWEST, PREVIOUS, read_checkpoint, replace_checkpoint
from mrihvae.utils.notices import collect_notices


def write(directory: Path, step: int) -> None:
    replace_checkpoint(directory, {"a": torch.full((50,), float(step))}, {"state": "{}", "step": str(step)})


def flip(path: Path, place: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)


def step_of(directory: Path) -> int:
    _, metadata, tensors = read_checkpoint(directory, "cpu")
    assert float(tensors["a"][0]) == float(metadata["step"])
    return int(metadata["step"])


@pytest.fixture(params=["links", "copies"])
def directory(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a file system with hard links, or without."""
    if request.param == "copies":

        def refuse(*_: object) -> None:
            raise OSError

        monkeypatch.setattr(os, "link", refuse)
    return tmp_path


def test_two_generations_are_kept(directory: Path) -> None:
    for step in (1, 2, 3):
        write(directory, step)
        assert step_of(directory) == step
    assert sorted(path.name for path in directory.iterdir()) == [PREVIOUS, NEWEST]
    (directory / NEWEST).unlink()
    with collect_notices() as notices:
        assert step_of(directory) == 2
    assert notices == [
        f"{directory / NEWEST}: file not found; {PREVIOUS} of step 2 is resumed instead, and later steps are done again"
    ]


@pytest.mark.parametrize(
    "spoil",
    [
        flip,
        lambda path: flip(path, 40),
        lambda path: flip(path, path.read_bytes().index(b"sha256")),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
    ],
)
def test_damaged_newest_checkpoint(spoil: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    spoil(tmp_path / NEWEST)
    with collect_notices() as notices:
        assert step_of(tmp_path) == 1
    assert len(notices) == 1 and notices[0].startswith(f"{tmp_path / NEWEST}: ")
    assert notices[0].endswith(f"; {PREVIOUS} of step 1 is resumed instead, and later steps are done again")
    write(tmp_path, 2)  # the damaged one does not take the place of the whole one
    assert step_of(tmp_path) == 2
    (tmp_path / NEWEST).unlink()
    assert step_of(tmp_path) == 1


def test_damaged_checkpoints_alone(tmp_path: Path) -> None:
    write(tmp_path, 1)
    flip(tmp_path / NEWEST)
    text = (
        rf"{NEWEST}: damaged, its SHA-256 begins with \w{{12}}, but began with \w{{12}} when it was written; continue "
        "from its weights"
    )
    with pytest.raises(InputError, match=text):
        read_checkpoint(tmp_path, "cpu")
    write(tmp_path, 1)
    write(tmp_path, 2)
    flip(tmp_path / PREVIOUS)  # where they are links, of one file
    flip(tmp_path / NEWEST)
    with pytest.raises(InputError, match=text):
        read_checkpoint(tmp_path, "cpu")


def test_checkpoints_of_earlier_versions_are_read_and_kept(tmp_path: Path) -> None:
    save_file({"a": torch.ones(50)}, tmp_path / NEWEST, {"state": "{}"})
    assert float(read_checkpoint(tmp_path, "cpu")[2]["a"][0]) == 1
    write(tmp_path, 2)
    (tmp_path / NEWEST).unlink()
    assert float(read_checkpoint(tmp_path, "cpu")[2]["a"][0]) == 1


def test_previous_checkpoint_of_a_run_that_was_removed_goes(tmp_path: Path) -> None:
    write(tmp_path, 8)
    write(tmp_path, 9)
    (tmp_path / NEWEST).unlink()
    write(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == [NEWEST]


def test_full_disk_keeps_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    before = [measure_digest(tmp_path / name) for name in (NEWEST, PREVIOUS)]

    def fail(temporary: Path, *_: object) -> str:
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_tensors", fail)
    with pytest.raises(InputError, match=rf"{NEWEST}: cannot be written \(No space left on device\)"):
        write(tmp_path, 3)
    assert [measure_digest(tmp_path / name) for name in (NEWEST, PREVIOUS)] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [PREVIOUS, NEWEST]
