"""A few kills over every case, and that torn files would be noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.robustness import kills
from benchmarks.robustness.kill_cases import CASES
from benchmarks.robustness.processes import Moment, run_work


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


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_torn_or_lost(name: str, tmp_path: Path) -> None:
    output = tmp_path / "kills.json"
    assert kills.main(["--quick", "--cases", name, "--seed", "3", "--output", str(output)]) == 0
    (row,) = json.loads(output.read_text())["cases"]
    assert row["kills"] == kills.QUICK == row["by_time"] + row["by_operation"] and row["finished"] >= 1
    assert row["problems"] == [] and f"| {name} | {kills.QUICK} |" in output.with_suffix(".md").read_text()
