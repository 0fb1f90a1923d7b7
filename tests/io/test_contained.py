"""Files at which the HDF5 library crashes or hangs cost one file."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrihvae.errors import InputError
from mrihvae.io import contained
from mrihvae.io.contained import check_in_worker
from mrihvae.io.kspace import open_kspace
from tests.support.files import error_of, run, truncate, write_scan

STAND_IN = """
import json, os, sys, time
print("ready", flush=True)
for line in sys.stdin:
    name = os.path.basename(json.loads(line)[0])
    with open(sys.argv[0] + ".log", "a") as file:
        print(name, os.getpid(), file=file)
    if "crash" in name:
        os.kill(os.getpid(), 11)
    if "hang" in name:
        time.sleep(1000)
    print('["read"]', flush=True)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put a program in place of the worker's that crashes or hangs at files of such a name."""
    path = tmp_path / "programs" / "stand_in.py"
    path.parent.mkdir()
    path.write_text(STAND_IN)
    monkeypatch.setattr(contained, "PROGRAM", path)
    monkeypatch.setattr(contained, "_workers", [])
    monkeypatch.setenv(contained.TIME_VARIABLE, "1")
    yield path
    for worker in contained._workers:
        worker.stop()


def read_by(program: Path) -> list[tuple[str, str]]:
    """Return the files that workers were given, each with the number of its process."""
    lines = program.with_name(f"{program.name}.log").read_text().splitlines()
    return [(line.split()[0], line.split()[1]) for line in lines]


def test_crash_and_hang_are_one_line_and_later_files_are_read(tmp_path: Path, program: Path) -> None:
    good, crash, hang = (write_scan(tmp_path / f"{name}.h5") for name in ("good", "crash", "hang"))
    crashed = f"^{crash}: reading it crashed the library for its format .SIGSEGV.: it is damaged; copy it again"
    expired = f"^{hang}: reading it took more than 1 s: it is damaged; .*, or raise MRIHVAE_READ_SECONDS$"
    with pytest.raises(InputError, match=crashed):
        open_kspace(crash)
    start = time.monotonic()
    with pytest.raises(InputError, match=expired):
        open_kspace(hang)
    assert time.monotonic() - start < 5
    assert open_kspace(good)[0].kspace.shape == (2, 24, 20)
    names, processes = zip(*read_by(program), strict=True)
    assert names == ("crash.h5", "hang.h5", "good.h5") and len(set(processes)) == 3


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path: Path, program: Path) -> None:
    path, other = write_scan(tmp_path / "a.h5"), write_scan(tmp_path / "b.h5")
    for each in (path, other, path):
        open_kspace(each)
    write_scan(path, (3, 24, 20))
    open_kspace(path)
    names, processes = zip(*read_by(program), strict=True)
    assert names == ("a.h5", "b.h5", "a.h5") and len(set(processes)) == 1


@pytest.mark.parametrize("bad", ["crash", "hang"])
def test_commands_go_on_with_the_folder(
    tmp_path: Path, program: Path, capsys: pytest.CaptureFixture[str], bad: str
) -> None:
    scans, output = tmp_path / "scans", tmp_path / "out"
    for name in ("a", bad, "z"):
        write_scan(scans / f"{name}.h5")
    words = ("--method", "zero-filled", "--mask-type", "random", "--acceleration", "4")
    assert run("reconstruct", scans, "--output", output, *words) == 1
    assert sorted(path.name for path in (output / "reconstructions").iterdir()) == ["a.h5", "z.h5"]
    assert capsys.readouterr().err.count("it is damaged") == 1
    assert run("convert", scans, tmp_path / "converted", "--format", "npy") == 1
    assert sorted(path.name for path in (tmp_path / "converted").glob("*.npy")) == ["a.npy", "z.npy"]
    assert run("info", scans) == 1
    assert capsys.readouterr().out.count("cannot be read") == 1
    assert "it is damaged" in error_of(capsys, "reconstruct", scans / f"{bad}.h5", "--output", tmp_path / "o", *words)


def test_protocols_go_on_with_the_folder(tmp_path: Path, program: Path) -> None:
    for name in ("a", "crash"):
        write_scan(tmp_path / "data" / f"{name}.h5")
    protocol = tmp_path / "p.toml"
    protocol.write_text(
        'description = "d"\nchallenge = "singlecoil"\ndata = "x"\n[solver]\nmethod = "zero-filled"\n'
        '[mask]\ntype = "random"\nacceleration = 4\ncenter_fraction = 0.08\n'
    )
    assert run("run", protocol, "--data", tmp_path / "data", "--output", tmp_path / "out") == 1
    assert [path.name for path in (tmp_path / "out" / "reconstructions").iterdir()] == ["a.h5"]


def test_without_a_worker_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contained, "_workers", [])
    monkeypatch.setattr(contained, "PROGRAM", tmp_path / "not_there.py")
    assert len(open_kspace(write_scan(tmp_path / "a.h5"))) == 1
    monkeypatch.setattr(contained.sys, "executable", str(tmp_path / "not_there"))
    assert len(open_kspace(write_scan(tmp_path / "b.h5"))) == 1


def test_worker_that_was_killed_in_between_starts_again(tmp_path: Path) -> None:
    check_in_worker(write_scan(tmp_path / "a.h5"))
    process = contained._workers[-1].process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    check_in_worker(write_scan(tmp_path / "b.h5"))
    assert contained._workers[-1].process.pid != process.pid


def test_damage_is_left_to_the_reader(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "a.h5")
    truncate(path)
    check_in_worker(path)
    check_in_worker(tmp_path / "not_there.h5")
    with pytest.raises(InputError, match="truncated or not an HDF5 file"):
        open_kspace(path)


def test_seconds_must_be_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(contained.TIME_VARIABLE, "soon")
    with pytest.raises(InputError, match="MRIHVAE_READ_SECONDS soon: must be a number of seconds"):
        check_in_worker(write_scan(tmp_path / "a.h5"))
