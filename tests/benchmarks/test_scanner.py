"""The benchmark of the server beside a crowd of clients, in its quick form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("ismrmrd")

from benchmarks.scanner import crowd


def test_scans_are_answered_beside_a_crowd(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds are not compared as tightly as on a machine that does nothing else."""
    monkeypatch.setattr(crowd, "LIMIT", 20.0)
    output = tmp_path / "crowd.json"
    assert crowd.main(["--quick", "--threads", "1", "--output", str(output)]) == 0, capsys.readouterr().err
    found = json.loads(output.read_text())
    assert found["faults"] == [] and found["crowd"]["right"] == found["crowd"]["scans"] >= crowd.QUICK[1]
    assert found["open_files"] >= found["connections"] == sum(found["kinds"].values()) == crowd.QUICK[0]
    assert found["ended"] > 0 and found["log_lines"] > 0 == found["log_lines_with_control_characters"]
    assert output.with_suffix(".md").read_text() == capsys.readouterr().out.removesuffix("\n")


def test_faults_are_named() -> None:
    row = {"scans": 2, "right": 2}
    good = {"alone": row, "crowd": row, "after": row, "ratio": 1.5, "open_files": 9, "connections": 8}
    assert crowd.faults({**good, "log_lines_with_control_characters": 0}) == []
    bad = {**good, "crowd": {"scans": 2, "right": 1}, "ratio": 2.1, "open_files": 5}
    found = crowd.faults({**bad, "log_lines_with_control_characters": 1})
    assert [text.split(":")[0].split(" ")[0] for text in found] == ["crowd", "a", "the", "the"]
