"""Several processes and one output folder: rows that stay, names that are taken, and what dead processes leave."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from mrihvae.cli import output_folder
from mrihvae.cli.output_folder import SharedRecord, claim_results, remove_parts
from mrihvae.errors import InputError, OutputError
from tests.support import REPOSITORY
from tests.support.files import write_scan
from tests.support.small import every_third

PROCESS = """
import sys
from pathlib import Path
from mrihvae.cli.output_folder import claim_results
with claim_results(Path(sys.argv[1]), sys.argv[2:]):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def complete(rows: Mapping[str, Any], failed: list[dict[str, str]]) -> dict[str, Any]:
    return {"method": "tv", "volumes": list(rows.values()), "failed": failed}


def row(name: str) -> dict[str, dict[str, Any]]:
    return {name: {"file": name}}


def names_in(path: Path) -> list[str]:
    return sorted(one["file"] for one in json.loads(path.read_text())["volumes"])


def add_rows(path: Path, names: list[str]) -> None:
    """Write a record row by row, as a process of its own does."""
    record, rows = SharedRecord(path, ["method"], names, keep=True), {}
    for name in names:
        rows |= row(name)
        record.write(rows, [], complete, last=name == names[-1])


def test_rows_of_several_processes_stay(tmp_path: Path) -> None:
    path = tmp_path / "out/reconstruct.json"
    names = [[f"{part}{k}.h5" for k in range(10)] for part in "abc"]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add_rows, args=(path, part)) for part in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert names_in(path) == sorted(name for part in names for name in part) and [
        one.name for one in path.parent.iterdir()
    ] == [path.name]


def test_two_commands_and_one_folder(tmp_path: Path) -> None:
    files = [write_scan(tmp_path / f"{name}.h5", (1, 32, 32), mask=every_third(32).numpy()) for name in "ab"]
    words = [sys.executable, "-m", "mrihvae", "reconstruct", "--output", tmp_path / "out", "--method", "zero-filled"]
    processes = [subprocess.Popen([*words, file], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) for file in files]
    told = [process.communicate()[1] for process in processes]
    assert names_in(tmp_path / "out/reconstruct.json") == ["a.h5", "b.h5"] or any("--resume" in one for one in told)


def test_earlier_rows_are_replaced_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    SharedRecord(path, ["method"], []).write(row("a.h5"), [{"file": "x.h5", "error": "bad"}], complete)
    other, keeping = SharedRecord(path, ["method"], ["c.h5"]), SharedRecord(path, ["method"], ["d.h5"], keep=True)
    other.write(row("c.h5"), [], complete)
    assert names_in(path) == ["c.h5"] and json.loads(path.read_text())["failed"] == []
    SharedRecord(path, ["method"], ["e.h5"], keep=True).write(row("e.h5"), [{"file": "y.h5", "error": "bad"}], complete)
    keeping.write(row("d.h5"), [], complete)
    other.write(row("c.h5"), [], complete)
    assert names_in(path) == ["c.h5", "d.h5", "e.h5"]
    assert [one["file"] for one in json.loads(path.read_text())["failed"]] == ["y.h5"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    late = SharedRecord(path, ["method"], [])
    SharedRecord(path, ["method"], []).write(row("a.h5"), [], complete)
    with pytest.raises(OutputError, match="another process writes to it with method tv, not sense; choose"):
        late.write(row("b.h5"), [], lambda *found: {**complete(*found), "method": "sense"})
    assert names_in(path) == ["a.h5"]


def test_large_records_are_not_written_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_folder, "SLOW", 0.0)
    monkeypatch.setattr(output_folder, "SHARE", 1e-6)
    path = tmp_path / "run.json"
    record = SharedRecord(path, [], [])
    record.write(row("a.h5"), [], complete)
    record.write(row("b.h5"), [], complete)
    assert names_in(path) == ["a.h5"]
    record.write({**row("a.h5"), **row("b.h5")}, [], complete, last=True)
    assert names_in(path) == ["a.h5", "b.h5"]


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "", "[]", '{"volumes": 3}', '{"volumes": [{}]}', '{"volumes": [{"file": 3}]}']
)
def test_what_is_no_record_is_replaced(content: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    SharedRecord(path, [], []).write(row("a.h5"), [], complete)
    assert names_in(path) == ["a.h5"]


def test_rows_that_are_no_json_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"volumes": [{"file": "b.h5", "x": NaN}], "failed": []}')
    record = SharedRecord(path, [], [], keep=True)
    with pytest.raises(OutputError, match="has damaged rows|has rows that are damaged"):
        record.write(row("a.h5"), [], complete)


def test_record_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    SharedRecord(tmp_path / "run.json", [], []).write(row("a.h5"), [], complete)
    assert names_in(tmp_path / "run.json") == ["a.h5"]


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "5", "[[1], 2]", "", None])
def test_damaged_claims_hinder_nobody(content: str | None, tmp_path: Path) -> None:
    claim = tmp_path / ".writing.host.1.0000.json"
    claim.write_text(content or "")
    with FileLock(claim.with_suffix(".lock")):
        if content is None:  # its process removes it just now
            claim.unlink()
        with claim_results(tmp_path, ["a.h5"]):
            assert len(list(tmp_path.glob(".writing.*.json"))) == (1 if content is None else 2)


@pytest.mark.parametrize("left", ["json", "lock"])
def test_half_a_claim_of_a_killed_process_is_removed(left: str, tmp_path: Path) -> None:
    """A kill between the two files of a claim leaves one of them."""
    (tmp_path / f".writing.a.example.org.123.89abcdef.{left}").write_text('["a.h5"]')
    with claim_results(tmp_path, ["a.h5"]):
        pass
    assert list(tmp_path.iterdir()) == []


def test_names_that_another_process_writes(tmp_path: Path) -> None:
    words = [sys.executable, "-c", PROCESS, str(tmp_path / "out"), *(f"{k}.h5" for k in range(6))]
    process = subprocess.Popen(words, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "claimed\n"
    with claim_results(tmp_path / "out", ["9.h5"]):
        pass  # another name
    names = [f"{k}.h5" for k in range(1, 9)]
    message = rf"out: process {process.pid} on \S+ is writing 1.h5, 2.h5, 3.h5 and 2 more there; wait until it ends"
    with pytest.raises(InputError, match=message), claim_results(tmp_path / "out", names):
        pass
    process.kill()
    process.communicate()
    assert list((tmp_path / "out").glob(".writing*"))
    with claim_results(tmp_path / "out", names):  # what the killed process left is no claim, and is removed
        assert len(list((tmp_path / "out").glob(".writing*.json"))) == 1
    assert not list((tmp_path / "out").iterdir())


def test_folders_are_made_for_results_alone(tmp_path: Path) -> None:
    with claim_results(tmp_path / "out", ["a.h5"]):
        pass
    assert not (tmp_path / "out").exists()


def test_parts_of_own_results_are_removed(tmp_path: Path) -> None:
    for name in (".a.h5.12.part", ".a.h5.host.12.x.part", ".ab.h5.12.part", ".a.h5.note", "a.h5"):
        (tmp_path / name).touch()
    (tmp_path / ".a.12.part").mkdir()
    remove_parts([tmp_path / "a.h5", tmp_path / "a", tmp_path / "nowhere/b"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.h5.note", ".ab.h5.12.part", "a.h5"]
