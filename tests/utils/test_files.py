"""Files that are whole or not there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mrihvae.errors import InputError
from mrihvae.utils.files import atomic_write


def test_file_is_in_its_place_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent and temporary.name.startswith(".a.txt.")
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("a mistake"), KeyboardInterrupt()])
def test_what_fails_leaves_the_old_file(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "why"),
    [(OSError(errno.ENOSPC, "whatever"), "No space left on device"), (OSError("HDF5 says\nmore"), "HDF5 says")],
)
def test_full_disk_is_one_line(error: OSError, why: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(InputError) as caught, atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert str(caught.value) == f"{path}: cannot be written ({why}); free space or choose another place"
    assert caught.value.__cause__ is error and not list(tmp_path.iterdir())


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "a.txt"
    with (
        pytest.raises(InputError, match=r"a.txt: cannot be written \((File exists|Not a directory)\)"),
        atomic_write(path),
    ):
        pytest.fail("nothing is written")
    assert (tmp_path / "file").read_text() == "in the way"


def test_nothing_written_is_a_mistake(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"a.txt: cannot be written \(No such file or directory\)"),
        atomic_write(tmp_path / "a.txt"),
    ):
        pass
