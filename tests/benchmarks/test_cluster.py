"""The benchmark of many volumes on workers, at its smallest, and what volumes cost on paper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cluster import costs, volumes

pytest.importorskip("distributed")


def test_every_file_once_though_a_worker_is_killed_twice(tmp_path: Path) -> None:
    output = tmp_path / "cluster.json"
    assert volumes.main(["--quick", "--output", str(output)]) == 0
    results = json.loads(output.read_text())
    compared = results["compared"][volumes.KILLED]
    assert compared == {"files": 12, "different": 0, "leftovers": [], "same_rows": True}
    assert results["runs"][volumes.KILLED]["killed"] == 2
    assert "0 differ from those of one process" in output.with_suffix(".md").read_text()


def test_costs_are_the_products_that_they_show() -> None:
    case = costs.Case("a set", 10, 30, 640, 368, 15)
    assert case.slices == 300 and case.bytes == 300 * 640 * 368 * 15 * 8
    assert costs.hours(300, 2.0) == pytest.approx(1 / 6)
    text = costs.table({"cpu": 2.0, "amortized": 1.0, "sense": 1.0})
    assert all(case.name in text for case in costs.CASES)
    assert costs.in_docs() in costs.PAGE.read_text(), "run python -m benchmarks.cluster.costs"
