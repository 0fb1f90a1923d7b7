"""A few kills over every case, and that torn files would be noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from benchmarks.robustness import kill_reconstruction, kills
from benchmarks.robustness.kill_cases import CASES
from benchmarks.robustness.processes import Moment, run_work
from tests.support import REPOSITORY


class Torn:
    """Writes a file in pieces, under its final name."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a.txt"

    def work(self) -> None:
        """Write."""
        for count in range(20):
            with self.path.open("a" if count else "w") as file:
                file.write("x")

    def after_kill(self) -> list[str]:
        """Check the size."""
        return [] if not self.path.exists() or len(self.path.read_text()) == 20 else ["torn"]

    def after_end(self) -> list[str]:
        """Check the size."""
        return self.after_kill()


class Failing(Torn):
    """Cannot do its work."""

    def work(self) -> None:
        """Fail."""
        raise ValueError("cannot")


def test_torn_files_and_failures_are_noticed(tmp_path: Path) -> None:
    row = kills.kill_case(Torn, tmp_path, 50, 0)
    assert row["operations"] == 20 and row["kills"] > 0 and len(row["problems"]) == 1
    assert row["problems"][0].startswith(f"after {row['kills']} kills, the last at Moment(")
    (tmp_path / "failing").mkdir()
    (row,) = [kills.kill_case(Failing, tmp_path / "failing", 50, 0)]
    assert row["kills"] == 0 and "ended with status 1" in row["problems"][0] and "cannot" in row["problems"][0]


def test_moments(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    case = Torn(tmp_path / "work")
    assert run_work(case, tmp_path, Moment()) == [] and case.after_end() == []
    for operation in (1, 20):
        assert run_work(case, tmp_path, Moment(operation=operation)) is None
        assert len(case.path.read_text()) == (20 if operation == 1 else 19)
    assert run_work(case, tmp_path, Moment(operation=21)) == []


def test_changes_of_files_are_counted(tmp_path: Path) -> None:
    """Those alone, and waits for the disk."""
    program = """
import os, pathlib, sys
from benchmarks.robustness.processes import Operations
folder, counter = pathlib.Path(sys.argv[1]), Operations(pathlib.Path(sys.argv[1]), None)
counter.watch()
with (folder / "a").open("w") as file:
    os.fsync(file.fileno())
(folder / "a").replace(folder / "b")
(folder / "b").read_text()
print(counter.count)
(folder / "b").unlink()
open(os.devnull, "w").close()
print(counter.count)
"""
    words = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(words, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout == "3\n4\n"


class Resumed(kill_reconstruction.Reconstruction):
    """Its process does nothing: files are written here."""

    def work(self) -> None:
        """Write what is to be judged."""
        for at in (self.whole, self.output):
            for name in ("reconstructions/a.h5", "panels/a.png"):
                (at / name).parent.mkdir(parents=True, exist_ok=True)
                with h5py.File(at / name, "w") as file:
                    file["reconstruction"] = np.arange(3)
            values = {"volumes": [{"file": "a.h5", "seconds_per_slice": id(at)}], "failed": []}
            (at / "reconstruct.json").write_text(json.dumps(values))


def test_problems_of_reconstructions_are_noticed(tmp_path: Path) -> None:
    case = Resumed(tmp_path)
    case.work()
    assert case.after_kill() == []
    (case.output / "reconstructions" / "a.h5").replace(case.output / "reconstructions" / ".b.part")
    found = case.after_kill()
    assert [text.split(":")[0] for text in found] == ["reconstructions/a.h5"] * 2
    case.work()
    assert case.after_end() == ["reconstructions/.b.part: left over or missing"]
    case.work()
    with h5py.File(case.output / "reconstructions" / "a.h5", "a") as file:
        file["reconstruction"][0] = 5
    (case.output / "reconstruct.json").write_text("{")
    found = case.after_kill()
    assert found[0] == "a.h5: is not that of an uninterrupted run" and found[1].startswith("reconstruct.json: JSON")


@pytest.mark.parametrize("name", [name for name in CASES if name != "reconstruct, network"])  # it takes long
def test_nothing_is_torn_or_lost(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "kills.json"
    words = ["--quick", "--cases", name, "--seed", "3", "--output", str(output)]
    assert kills.main(words) == 0
    (row,) = json.loads(output.read_text())["cases"]
    assert row["kills"] == kills.QUICK == row["by_time"] + row["by_operation"] and row["finished"] >= 1
    assert row["problems"] == [] and f"| {name} | {kills.QUICK} |" in output.with_suffix(".md").read_text()
    monkeypatch.setattr(kills, "kill_case", lambda *_: pytest.fail("it is done"))
    assert kills.main([*words, "--resume"]) == 0 and json.loads(output.read_text())["cases"] == [row]
