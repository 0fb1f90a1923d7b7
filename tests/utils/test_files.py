"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mrihvae.errors import InputError
from mrihvae.utils import files
from mrihvae.utils.files import atomic_pair, atomic_write, remove_leftovers, temporary_path


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


def write_pair(folder: Path, text: str) -> None:
    with atomic_pair(folder / "a.data", folder / "a.index") as (data, index):
        data.write_text(text)
        index.write_text(text)


def test_pair_is_whole_or_without_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any operation on files, simulated by an error that nothing catches."""
    write_pair(tmp_path, "old")
    real, done = {"replace": Path.replace, "unlink": Path.unlink}, []
    seen = set()
    for last in range(1, 9):
        for name in real:

            def stop(*arguments: object, name: str = name, last: int = last, **further: object) -> object:
                done.append(name)
                if len(done) >= last:  # nothing is done any more
                    raise KeyboardInterrupt
                return real[name](*arguments, **further)  # type: ignore[operator]

            monkeypatch.setattr(Path, name, stop)
        done.clear()
        with contextlib.suppress(KeyboardInterrupt):
            write_pair(tmp_path, "new")
        monkeypatch.undo()
        data, index = (tmp_path / name for name in ("a.data", "a.index"))
        state = (data.read_text() if data.exists() else None, index.read_text())
        seen.add(state)
        for file in tmp_path.glob(".*"):
            file.unlink()
        write_pair(tmp_path, "old")
    assert seen == {("old", "old"), (None, "old"), (None, "new"), ("new", "new")}


@pytest.mark.parametrize("part", ["data", "index"])
def test_full_disk_keeps_the_old_pair(part: str, tmp_path: Path) -> None:
    write_pair(tmp_path, "old")
    with (
        pytest.raises(InputError, match="cannot be written"),
        atomic_pair(tmp_path / "a.data", tmp_path / "a.index") as (data, index),
    ):
        (index if part == "data" else data).write_text("new")
        raise OSError(errno.ENOSPC, "full")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.data": "old", "a.index": "old"}


def test_pair_without_one_of_its_files_is_a_mistake(tmp_path: Path) -> None:
    write_pair(tmp_path, "old")
    with (
        pytest.raises(InputError, match="cannot be written"),
        atomic_pair(tmp_path / "a.data", tmp_path / "a.index") as (data, _),
    ):
        data.write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.data": "old", "a.index": "old"}


def gone() -> int:
    """Return the number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, dead = files._host(), gone()
    names = {
        f".a.h5.{host}-{dead}.part": False,
        f".a.b\n.{host}-{dead}.part": False,
        f".a.h5.{host}-{os.getppid()}.part": True,  # of a process that runs
        f".a.h5.{'0' * 8}-{dead}.part": True,  # of another host
        f"a.h5.{host}-{dead}.part": True,  # not hidden, so not ours
        f".a.h5.{dead}.part": True,
        "a.h5": True,
    }
    for name in names:
        (tmp_path / name).write_text("half")
    folder = tmp_path / f".dicom.{host}-{dead}.part"
    folder.mkdir()
    (folder / "a.dcm").write_text("half")
    with atomic_write(tmp_path / "b.txt") as temporary:
        temporary.write_text("whole")
    kept = {name for name, stays in names.items() if stays} | {"b.txt"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    remove_leftovers(tmp_path / "nowhere")
    monkeypatch.setattr(files, "_is_running", lambda process: False)
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept - {f".a.h5.{host}-{os.getppid()}.part"}


def test_links_in_the_place_of_the_temporary_file_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    temporary_path(tmp_path / "a.txt").symlink_to(tmp_path / "other")
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "other").read_text() == "other" and (tmp_path / "a.txt").read_text() == "new"
    assert not (tmp_path / "a.txt").is_symlink()


def test_temporary_name_has_host_and_process(tmp_path: Path) -> None:
    found = temporary_path(tmp_path / "a.txt")
    assert found.parent == tmp_path and files.LEFTOVER.fullmatch(found.name)
    assert found.name == f".a.txt.{files._host()}-{os.getpid()}.part"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with (
        pytest.raises(InputError, match=r"a.txt: cannot be written \(Permission denied\)"),
        atomic_write(tmp_path / "a.txt") as t,
    ):
        t.write_text("x")


@pytest.mark.parametrize(("number", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_file_systems_that_cannot_sync(
    number: int, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, "whatever")

    monkeypatch.setattr(os, "fsync", refuse)
    try:
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text("whole")
    except InputError as error:
        assert fails and "Input/output error" in str(error)
    else:
        assert not fails
    assert [path.name for path in tmp_path.iterdir()] == ([] if fails else ["a.txt"])
