"""Results do not depend on how they are computed: the benchmark of it, with little work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.robustness import trust
from benchmarks.robustness.reference import reference_rows
from benchmarks.robustness.trust import COILS, EQUAL, FLAT, HALF_PRECISION_DB, Setup, difference, is_right, volume_of

QUICK = Setup(quick=True)
SLICES = 30


@pytest.mark.parametrize("row", list(reference_rows(seed=1)), ids=lambda row: row["what"])
def test_classical_parts_in_double_precision(row: trust.Row) -> None:
    assert is_right(row), row


@pytest.mark.parametrize("coils", [1, COILS])
@pytest.mark.parametrize("name", ["amortized", "zero-filled"])
def test_batch_sizes_and_threads(name: str, coils: int) -> None:
    whole = volume_of(QUICK, name, coils)
    assert difference(volume_of(QUICK, name, coils, batch_size=1), whole) <= EQUAL
    assert difference(volume_of(QUICK, name, coils, threads=2), whole) <= EQUAL


def test_seeds() -> None:
    rows = list(trust.seed_rows(QUICK))
    assert [row["check"] for row in rows] == ["equal seeds", "other seeds"] * 2
    assert all(map(is_right, rows)), rows


def test_half_precision() -> None:
    rows = list(trust.precision_rows(QUICK))
    assert len(rows) == 2 and all(abs(row["difference"]) <= HALF_PRECISION_DB for row in rows), rows


def test_processes_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, with the checks that need processes; the others are above."""
    for name in ("reference_rows", "seed_rows", "precision_rows"):
        monkeypatch.setattr(trust, name, lambda *_: [])
    monkeypatch.setattr(trust, "CHEAP", ("zero-filled",))
    output = tmp_path / "numerical_trust.json"
    assert trust.main(["--quick", "--slices", str(SLICES), "--output", str(output)]) == 0
    rows = {row["check"]: row for row in json.loads(output.read_text())["rows"]}
    assert set(rows) == {"batch size", "threads", "processes", f"memory, {SLICES} slices"}
    assert rows["processes"]["difference"] == rows["processes"]["limit"] == 0
    assert rows[f"memory, {SLICES} slices"]["difference"] <= FLAT


def test_what_is_beyond_a_limit() -> None:
    assert difference(np.array([1.0, 4.0]), np.array([1.0, 5.0])) == pytest.approx(0.2)
    row = {"difference": 0.1, "limit": 1.0}
    assert is_right(row) and not is_right({**row, "limit": 0.05}) and not is_right({**row, "least": 0.2})
    assert not is_right({**row, "difference": float("nan")})
