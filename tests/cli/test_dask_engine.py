"""Volumes on Dask's workers: the same results as in one process, whatever becomes of the workers."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrihvae.cli.tasks import Task, Workers
from mrihvae.errors import InputError
from mrihvae.io.hdf5 import read_dataset
from mrihvae.model.weights import save_weights
from tests.support import REPOSITORY
from tests.support.files import PROTOCOL, error_of, run, write_scan
from tests.support.small import every_third, small_model

distributed = pytest.importorskip("distributed")
from mrihvae.cli import dask_engine  # noqa: E402
from mrihvae.cli.dask_engine import _completed, _Preparation, _read_ahead, open_dask  # noqa: E402

LINES = every_third(32).numpy()
METHOD = ("--method", "zero-filled")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Six undersampled scans, and one that is refused."""
    for k in range(6):
        write_scan(tmp_path / f"scans/file{k}.h5", (2, 32, 32), seed=k, mask=LINES)
    write_scan(tmp_path / "scans/whole.h5", (2, 32, 32))
    return tmp_path / "scans"


def record_of(output: Path) -> dict[str, Any]:
    """Read reconstruct.json without what differs from run to run."""
    record = json.loads((output / "reconstruct.json").read_text())
    for row in record["volumes"]:
        for key in ("seconds_per_slice", "stages", "peak_memory_mb"):
            assert row.pop(key)
    return dict(record)


def results_of(output: Path) -> dict[str, bytes]:
    """Read all files but the record."""
    files = [path for path in output.rglob("*") if path.is_file() and path.suffix != ".json"]
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def kill_workers(log: Path, times: int) -> None:
    """Kill a worker after the first volume of a log, and again after each that follows, as long as there are some."""
    killed = 0
    for _ in range(1200):
        volumes = log.read_text().count('"volume"') if log.is_file() else 0
        children = multiprocessing.active_children()
        if volumes > killed and children:
            os.kill(children[-1].pid or 0, signal.SIGKILL)
            killed += 1
        if killed == times:
            return
        time.sleep(0.02)


def test_same_results_though_a_worker_is_killed_twice(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, log = tmp_path / "one", tmp_path / "two", tmp_path / "log.jsonl"
    assert run("reconstruct", scans, "--output", one, *METHOD) == 1
    expected = capsys.readouterr()
    killer = threading.Thread(target=kill_workers, args=(log, 2))
    killer.start()
    words = ("reconstruct", scans, "--output", two, *METHOD, "--workers", "2", "--log-json", log)
    assert run(*words) == 1
    killer.join()
    found = capsys.readouterr()
    assert record_of(one) == record_of(two) and results_of(one) == results_of(two)  # no leftovers, either
    for told, other in ((expected.err, found.err), (expected.out, found.out)):
        for line in told.splitlines():  # the same words, in another order
            if "error" in line or "whole.h5" in line:
                assert line in other
    assert "6 of 7 reconstructed, 1 failed" in found.err
    assert sorted(line.split(":")[0] for line in found.out.splitlines()) == [f"file{k}.h5" for k in range(6)]
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(event["file"] for event in events if event["event"] == "volume") == [f"file{k}.h5" for k in range(6)]
    assert [event["event"] for event in events][:2] == ["start", "workers"]
    assert run(*words, "--resume") == 1  # all is there; the one that failed fails again
    assert capsys.readouterr().out.count("already there") == 6


def test_run_by_a_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(2):
        write_scan(tmp_path / f"data/val/file{k}.h5", (2, 32, 32), seed=k)
    path, weights = tmp_path / "small.toml", tmp_path / "small.safetensors"
    save_weights(weights, small_model(), {"temperature": 0.5, "spread": 2.0})
    path.write_text(PROTOCOL.replace('"zero-filled"', '"amortized"').replace('"val"', f'"val"\nweights = "{weights}"'))
    words = ("run", path, "--data", "data", "--output")
    monkeypatch.chdir(tmp_path)  # a worker elsewhere has another folder: paths are absolute
    assert run(*words, "one") == 0
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as there:
        assert run(*words, "two", "--scheduler", there.scheduler_address, "--quiet") == 0
    one, two = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two"))
    assert one["overall"] == two["overall"] and one["settings"] == two["settings"]
    assert [row["scores"] for row in one["volumes"]] == [row["scores"] for row in two["volumes"]]
    for k in range(2):
        images = [
            read_dataset(tmp_path / name / f"reconstructions/file{k}.h5", "reconstruction") for name in ("one", "two")
        ]
        np.testing.assert_array_equal(*images)


def test_a_scheduler_that_is_not_there(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrihvae.cli.dask_engine.CONNECT", 0.5)
    words = ("reconstruct", scans / "file0.h5", "--output", tmp_path / "out", *METHOD, "--scheduler")
    assert "--scheduler tcp://127.0.0.1:9: cannot be reached" in error_of(capsys, *words, "tcp://127.0.0.1:9")
    assert "--scheduler what://: cannot be reached" in error_of(capsys, *words, "what://")
    assert not (tmp_path / "out").exists()


def die(times: int, marks: Path, _: Any) -> int:
    """Kill the worker that does this, so many times; then return which attempt it was."""
    attempt = len(list(marks.iterdir()))
    if attempt < times:
        (marks / str(attempt)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return attempt


def fail(_: Any) -> None:
    raise InputError("a.h5: is bad")


def add(values: Any) -> int:
    return sum(values)


def test_tasks_that_fail_that_kill_and_that_have_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dask_engine.CONFIG, "distributed.scheduler.allowed-failures", 1)
    for name in ("few", "many"):
        (tmp_path / name).mkdir()
    tasks = [
        Task("few", tmp_path, partial(die, 2, tmp_path / "few")),
        Task("many", tmp_path, partial(die, 100, tmp_path / "many")),
        Task("bad", tmp_path, fail),
        Task("sum", tmp_path, add, tuple(partial(int, k) for k in range(4))),
    ]
    results: dict[str, Any] = {}
    with open_dask(Workers(count=1)) as runner:
        for task, result in runner(tasks):
            try:
                results[task.name] = result()
            except InputError as error:
                results[task.name] = str(error)
    assert results["few"] == 2 and results["bad"] == "a.h5: is bad" and results["sum"] == 6
    assert "workers died repeatedly while processing it" in results["many"]


def test_more_workers_than_memory(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_engine, "MEMORY_LIMIT", 2**31)
    words = ("reconstruct", scans / "file0.h5", "--output", tmp_path / "out", *METHOD, "--workers", "2")
    assert error_of(capsys, *words) == "--workers 2: too many for the memory of this machine; use fewer"


class LostFuture:
    """A task of a scheduler that has ended."""

    status = "cancelled"

    def result(self) -> None:
        raise CancelledError


class LostClient:
    """A client whose scheduler has ended."""

    loop = None

    def map(self, function: Any, tasks: list[Any], key: list[Any]) -> list[LostFuture]:
        return [LostFuture() for _ in tasks]

    def cancel(self, *_: Any, **__: Any) -> None:
        raise OSError


def test_a_scheduler_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_engine, "as_completed", lambda futures, loop: iter(futures))
    with pytest.raises(InputError, match="the scheduler has ended .* continue with --resume"):
        list(_completed(LostClient(), "run", [Task("one", tmp_path, int)]))  # type: ignore[arg-type]


def test_variables_of_an_earlier_command_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRIHVAE_PRECISION", "float32")
    monkeypatch.setenv("MRIHVAE_READ_SECONDS", "5")
    monkeypatch.setenv("MRIHVAE_MAX_MEMORY", "3")
    _Preparation(torch.get_num_threads(), {"MRIHVAE_READ_SECONDS": "7"}, False).setup(None)  # type: ignore[arg-type]
    assert "MRIHVAE_PRECISION" not in os.environ and "MRIHVAE_MAX_MEMORY" not in os.environ
    assert os.environ["MRIHVAE_READ_SECONDS"] == "7"


def test_other_users_cannot_have_local_workers_run_code(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    with dask_engine._cluster(Workers(count=1), tmp_path) as cluster:
        assert cluster.scheduler_address.startswith("tls://")
        with pytest.raises((OSError, TypeError)):  # without its keys
            distributed.Client(cluster.scheduler_address, timeout=5, set_as_default=False)
        with dask_engine._client(cluster) as client:
            assert client.submit(int, 3).result() == 3


def test_reading_ahead_of_what_is_not_there(tmp_path: Path) -> None:
    _read_ahead(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"0" * 10)
    _read_ahead(tmp_path / "file")


def is_gone(group: int) -> bool:
    """Return whether no process of a group is left, after a while."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_ctrl_c_ends_workers_and_keeps_what_is_finished(tmp_path: Path) -> None:
    for k in range(40):
        write_scan(tmp_path / f"scans/file{k:02d}.h5", (2, 32, 32), seed=k, mask=LINES)
    output, log = tmp_path / "out", tmp_path / "log.jsonl"
    words = ["reconstruct", str(tmp_path / "scans"), "--output", str(output), *METHOD, "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mrihvae", *words, "--log-json", str(log)],
        cwd=REPOSITORY, start_new_session=True, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not (log.is_file() and '"volume"' in log.read_text()):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in told
    assert told.rstrip().endswith("mrihvae: interrupted; finished files are kept")
    rows = json.loads((output / "reconstruct.json").read_text())["volumes"]
    assert 0 < len(rows) < 40 and not list(output.rglob("*.part")) and not list(output.rglob(".writing*"))
    assert is_gone(process.pid)
