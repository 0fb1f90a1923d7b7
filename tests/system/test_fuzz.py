"""The fuzzer of all readers in its short form, and that it tells hangs, crashes and other exceptions apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ismrmrd")
pytest.importorskip("mrd")
pytest.importorskip("twixtools")
pytest.importorskip("pydicom")

from benchmarks.robustness import fuzz, workers
from benchmarks.robustness.cases import make_case
from benchmarks.robustness.readers import FORMATS, Format
from benchmarks.robustness.seeds import make_seeds
from benchmarks.robustness.tables import fuzz_table
from benchmarks.robustness.workers import Batch, Outcome, run_batches, run_case
from mrihvae.errors import InputError
from tests.support.fragile import CRASH, HANG, serve

FIRST = 1_000_000  # other cases than those of the results
IN_HDF5 = ("fastmri", "images_hdf5", "mrd", "mrd_images", "matlab_hdf5", "packed")
IN_C = ("matlab",)  # a library crashes, which only a process of its own contains
OTHERS = tuple(name for name in FORMATS if name not in (*IN_HDF5, *IN_C))
SECONDS = 0.5


def defects(names: Sequence[str], count: int) -> list[dict[str, Any]]:
    outcomes = fuzz.run(FIRST, fuzz.shares(count, names), 1, quiet=True)
    found = fuzz.summarize(outcomes, FIRST)
    assert sum(row["cases"] for row in found["formats"].values()) == len(outcomes)
    assert all(row["refused"] for row in found["formats"].values())
    assert sum(row["read"] for row in found["formats"].values()) > 0.2 * len(outcomes)
    return [one for one in found["defects"] if one["what"] != "crash"]


def test_damaged_files_are_read_or_refused() -> None:
    assert defects(OTHERS, 1100) == []


def test_damaged_hdf5_is_read_or_refused() -> None:
    assert defects(IN_HDF5, 400) == []


def same(first: Any, second: Any) -> bool:
    """Return whether cases are the same, but for a time in seconds, which HDF5 stores when an attribute is set."""
    pairs = [(first.files[key], second.files.get(key, b"")) for key in first.files]
    differing = [sum(x != y for x, y in zip(ours, theirs)) for ours, theirs in pairs if len(ours) == len(theirs)]
    return first.kind == second.kind and len(differing) == len(pairs) and max(differing, default=0) <= 4


@pytest.mark.parametrize("name", FORMATS)
def test_equal_numbers_are_equal_files(name: str) -> None:
    good = make_seeds(FORMATS[name].build)
    cases = [make_case(name, number, good) for number in (0, 1, 2, 3, 0)]
    assert same(cases[0], cases[4])
    assert len({tuple(case.files.values()) for case in cases}) > 2
    again = [make_case(name, k, make_seeds(FORMATS[name].build)) for k in range(4)]
    assert all(same(ours, theirs) for ours, theirs in zip(cases[:4], again, strict=True))


def _fails(path: Path) -> int:
    raise InputError(f"{path}: damaged; copy it again")


def _fails_in_lines(path: Path) -> int:
    raise InputError(f"{path}: damaged\ncopy it again")


def _takes_memory(path: Path) -> int:
    return int(np.ones(40 * 2**20)[0]) + len(path.name) * 0


def _takes_what_it_decodes(path: Path) -> int:
    return np.ones(40 * 2**20).nbytes + len(path.name) * 0


@pytest.mark.parametrize(
    ("reader", "what", "error"),
    [
        (lambda path: path.stat().st_size, "read", ""),
        (_fails, "refused", ""),
        (lambda path: {}[path], "exception", "KeyError at outside"),
        (_fails_in_lines, "exception", "RuntimeError"),
        (_takes_memory, "memory", "320 MiB for 0.0 MiB"),
        (_takes_what_it_decodes, "read", ""),
    ],
)
def test_what_a_reader_does(reader: Callable[[Path], int], what: str, error: str) -> None:
    form = Format("cifar", FORMATS["cifar"].build, (reader,))
    if what == "memory" and not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux says how much memory was taken at most")
    found = run_case(form, 3, make_seeds(form.build))
    assert (found.form, found.number, found.what) == ("cifar", 3, what)
    assert error in found.error


def test_crashes_and_hangs_cost_one_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SILENT_SECONDS", SECONDS)
    found = {one.number: one for one in run_batches([Batch("x", 0, 4), Batch("x", 4, 6)], 2, serve)}
    assert sorted(found) == list(range(6))
    assert {k: one.what for k, one in found.items() if one.what != "read"} == {CRASH: "crash", HANG: "hang"}
    assert "SIGABRT" in found[CRASH].error


def test_results_are_counted_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, asked = tmp_path / "fuzz.jsonl", []

    def read(batches: Sequence[Batch], processes: int) -> list[Outcome]:
        asked.extend(batches)
        return [
            Outcome(one.form, k, "bits", "hang" if k % 2 else "read", "", 0.1 * k)
            for one in batches
            for k in range(one.start, one.stop)
        ]

    monkeypatch.setattr(fuzz, "run_batches", read)
    fuzz.run(10, {"idx": 3}, 1, journal, quiet=True)
    outcomes = fuzz.run(10, {"idx": 5, "cifar": 1}, 1, journal, quiet=True)
    assert asked == [Batch("idx", 10, 13), Batch("cifar", 10, 11), Batch("idx", 13, 15)]
    found = fuzz.summarize(outcomes, 10)
    assert found["formats"]["idx"] == {
        "cases": 5, "read": 3, "refused": 0, "exception": 0, "hang": 2, "crash": 0, "memory": 0,
    }  # fmt: skip
    (defect,) = found["defects"]
    assert (defect["what"], defect["form"], defect["count"], defect["numbers"]) == ("hang", "idx", 2, [11, 13])
    assert found["slowest"] == {"form": "idx", "number": 14, "seconds": pytest.approx(1.4)}
    table = fuzz_table(found)
    assert "| idx | 5 | 3 | 0 | 0 | 2 | 0 | 0 |" in table and "| all | 6 | 4 | 0 | 0 | 2 | 0 | 0 |" in table


def test_cases_are_shared_out() -> None:
    counts = fuzz.shares(100_000, list(FORMATS))
    assert set(counts) == set(FORMATS) and sum(counts.values()) == pytest.approx(100_000, abs=len(FORMATS))
    assert min(fuzz.shares(1, list(FORMATS)).values()) == 1
