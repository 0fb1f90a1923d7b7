"""Options of workers, and tasks in this process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mrihvae.cli import engine
from mrihvae.cli.engine import open_runner, workers_of
from mrihvae.cli.tasks import Task, Workers
from mrihvae.errors import InputError
from tests.support.files import error_of, write_scan


def options(**given: Any) -> SimpleNamespace:
    usual = dict.fromkeys(("workers", "scheduler", "threads_per_worker", "worker_memory"))
    return SimpleNamespace(**{**usual, **given})


def test_workers_that_options_describe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: name)
    assert workers_of(options()) is None
    assert workers_of(options(workers=2)) == Workers(2)
    assert workers_of(options(workers=2, threads_per_worker=3, worker_memory=1.5)) == Workers(2, None, 3, 1.5)
    assert workers_of(options(scheduler="tcp://a:1")) == Workers(None, "tcp://a:1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"workers": 1, "scheduler": "tcp://a:1"}, "--workers and --scheduler: contradict each other"),
        ({"worker_memory": 1.0}, "--worker-memory: needs --workers; add it, or leave this option out"),
        ({"threads_per_worker": 1}, "--threads-per-worker: needs --workers"),
        ({"workers": 1, "threads_per_worker": 0}, "--threads-per-worker 0: must be at least 1"),
        ({"workers": 1, "worker_memory": float("nan")}, "--worker-memory nan: must be a number of GiB, at least 1"),
        ({"workers": 1, "worker_memory": 0.5}, "--worker-memory 0.5: must be a number of GiB, at least 1"),
        ({"scheduler": "tcp://a:1", "worker_memory": 1.0}, "--worker-memory: only applies to local workers"),
    ],
)
def test_options_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        workers_of(options(**given))


@pytest.mark.parametrize("words", [("--workers", "2"), ("--scheduler", "tcp://a:1")])
def test_without_the_extra(
    words: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    told = error_of(capsys, "reconstruct", write_scan(tmp_path / "a.h5"), "--output", tmp_path / "out", *words)
    assert told == f"{words[0]}: needs Dask's package distributed; pip install 'mrihvae[cluster]'"


def test_tasks_in_this_process_are_done_when_their_results_are_requested() -> None:
    done: list[str] = []
    tasks = [Task(name, Path(name), lambda _, name=name: done.append(name)) for name in "ab"]  # type: ignore[misc]
    with open_runner(None) as runner:
        for task, result in runner(tasks):
            assert task.name not in done
            result()
            assert done[-1] == task.name
