"""The log of events: JSON lines that say what a command did, also of what went wrong."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from mrihvae.cli.events import log_event, run_logged
from mrihvae.utils.notices import LOG, warn
from tests.support.files import error_of, run, write_scan
from tests.support.small import every_third

MASK = every_third(32).numpy()
METHOD = ("--method", "zero-filled")


def events_in(path: Path) -> list[dict[str, Any]]:
    """Read a log; every line has a time and a level."""
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(event.pop("time").endswith("+00:00") for event in events)
    return events


def test_volumes_warnings_and_failures(tmp_path: Path) -> None:
    write_scan(tmp_path / "scans/a.h5", (2, 32, 32), mask=MASK)
    write_scan(tmp_path / "scans/b.h5", (2, 32, 32))
    log = tmp_path / "logs/log.jsonl"
    words = ("reconstruct", tmp_path / "scans", "--output", tmp_path / "out", *METHOD, "--log-json", log)
    assert run(*words) == 1
    start, volume, *warnings, failure, end = events_in(log)
    assert start["event"] == "start" and start["command"] == "reconstruct"
    assert volume["file"] == "a.h5" and volume["slices"] == 2 and volume["peak_memory_mb"] > 10
    assert list(volume["stages"]) == ["read", "checks", "inference", "write"]
    (row,) = json.loads((tmp_path / "out/reconstruct.json").read_text())["volumes"]
    assert [event["warning"] for event in warnings] == row["warnings"]
    assert (failure["event"], failure["level"], failure["file"]) == ("failure", "error", "b.h5")
    assert "k-space is fully sampled" in failure["error"] and end["status"] == 1 and end["seconds"] > 0


def test_errors_that_end_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"
    words = ("reconstruct", tmp_path / "none.h5", "--output", tmp_path / "out", *METHOD, "--log-json", log)
    text = error_of(capsys, *words)
    assert [event["event"] for event in events_in(log)] == ["start", "error", "end"]
    assert events_in(log)[1]["error"] == text and events_in(log)[2]["status"] == 2


def test_interruption_control_characters_and_warnings(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"

    def stop() -> int:
        log_event("volume", file="a\n\x1b[2J.h5")
        warn("beware")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_logged(log, "run", stop)
    names = [event["event"] for event in events_in(log)]
    assert names == ["start", "volume", "warning", "interrupted", "end"]
    assert "\x1b" not in log.read_text() and events_in(log)[-1]["status"] == 130
    log_event("nowhere")
    assert len(events_in(log)) == 5


def test_log_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = write_scan(tmp_path / "a.h5", (1, 32, 32), mask=MASK)
    words = ("reconstruct", scan, "--output", tmp_path / "out", *METHOD, "--log-json", tmp_path)
    assert error_of(capsys, *words).startswith(f"--log-json {tmp_path}: cannot be written")


def test_files_that_are_converted(tmp_path: Path) -> None:
    write_scan(tmp_path / "scans/a.h5", (2, 32, 32), mask=MASK)
    (tmp_path / "scans/b.h5").write_text("no HDF5")
    log, output = tmp_path / "log.jsonl", tmp_path / "out"
    assert run("convert", tmp_path / "scans", output, "--format", "npy", "--log-json", log) == 1
    start, *events, end = [event for event in events_in(log) if event["event"] != "warning"]
    assert start["command"] == "convert" and end["status"] == 1
    done, failed = events
    assert (done["event"], done["file"], done["written"]) == ("file", "a.h5", [str(output / "a.npy")])
    assert (failed["event"], failed["file"]) == ("failure", "b.h5") and "not an HDF5 file" in failed["error"]


def test_records_of_other_threads_are_logged(tmp_path: Path) -> None:
    def work() -> int:
        def tell() -> None:
            LOG.info("2 images", extra={"event": "scan", "values": {"images": 2}})
            try:
                raise ValueError("no such slice")
            except ValueError:
                LOG.exception("a scan failed")

        thread = threading.Thread(target=tell)
        thread.start()
        thread.join()
        return 0

    LOG.setLevel(logging.INFO)
    try:
        run_logged(tmp_path / "log.jsonl", "serve", work)
    finally:
        LOG.setLevel(logging.NOTSET)
    _, scan, failure, _ = events_in(tmp_path / "log.jsonl")
    assert scan == {"level": "info", "event": "scan", "images": 2}
    assert failure["warning"] == "a scan failed" and failure["error"] == "ValueError: no such slice"
