"""The results of benchmarks/training/processes.py; tests/training/test_processes.py runs its parts."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.training import processes


def test_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def compare(folder: Path, settings: Any, counts: Sequence[int]) -> list[dict[str, Any]]:
        assert settings.bf16 is (os.environ["MRIHVAE_PRECISION"] == "bfloat16")
        asked.append((os.environ["MRIHVAE_PRECISION"], settings.steps, counts))
        return [{"processes": "2", "steps": settings.steps, "losses": 1.25e-7, "weights": 3e-6, "seconds": 4.0}]

    killed = {
        "steps": 120, "killed after step": 41, "resumed from step": 37, "seconds lost": 0.5,
        "seconds between checkpoints": 1.0, "longest step, seconds": 0.2,
    }  # fmt: skip
    monkeypatch.setenv("MRIHVAE_PRECISION", "auto")
    monkeypatch.setattr(processes, "compare", compare)
    monkeypatch.setattr(processes, "kill_worker", lambda folder: killed)
    assert processes.main(["--results", str(tmp_path)]) == 0
    assert asked == [("float32", 50, (1, 2, 4)), ("bfloat16", 50, (1, 2))]
    assert json.loads((tmp_path / "processes.json").read_text())["killed worker"] == killed
    table = (tmp_path / "processes.md").read_text()
    assert "50 steps of 4 micro-batches, seed 0" in table and "| float32 | 2 | 1.2e-07 | 3.0e-06 | 4.0 |" in table
    assert "was killed after step 41. The run went on from step 37: 0.50 s were lost" in table
    assert processes.main(["--quick", "--results", str(tmp_path)]) == 0
    assert asked[2:] == [("float32", 8, (1, 2, 4)), ("bfloat16", 8, (1, 2))]
    assert "killed" not in (tmp_path / "processes.md").read_text()
