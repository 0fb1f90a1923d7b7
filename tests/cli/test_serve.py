"""`mrihvae serve`: wrong options, and how the process stops."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

from mrihvae.server import session as online
from tests.support import mrd
from tests.support.files import error_of
from tests.support.serving import (
    Client,
    cheap,
    lines_of,
    process,
    scan,
    serving,
    stream,
)


@pytest.mark.parametrize(
    "options, word",
    [
        (["--port", "70000"], "--port 70000: must be 0 to 65535"),
        (["--max-connections", "0"], "--max-connections 0: must be at least 1"),
        (["--timeout", "-1"], "--timeout -1.0: must be above 0"),
        (["--protocol", "no_such"], "no_such"),
        (["--protocol", "fastmri_knee_singlecoil_4x", "--device", "warp"], "--device warp: cannot be used"),
    ],
)
def test_wrong_options(options: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert word in error_of(capsys, "serve", *options)


def test_port_in_use(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "make_ready", lambda *_: cheap())
    with serving() as running:
        told = error_of(capsys, "serve", "--port", str(running.port))
    assert told.startswith(f"127.0.0.1:{running.port}: nothing can listen there (Address")


def test_process_lets_scans_end() -> None:
    xml, lines = scan(slices=2)
    with process("--max-connections", "2", "--pixels", "short", engine="cheap") as (running, port):
        with Client(port) as client:
            client.send(stream(xml, lines[:30], closing=False))
            assert client.image().data.dtype == np.int16
            running.send_signal(signal.SIGTERM)
            time.sleep(1)
            client.send(b"".join(map(mrd.acquisition, lines[30:])) + mrd.close())
            assert client.image().slice == 1 and client.rest()[-1] is None
        assert running.wait(20) == 0
        assert running.stderr is not None
        told = running.stderr.read()
        assert "2 images in" in told and "Traceback" not in told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_process_stops(number: signal.Signals) -> None:
    with process(engine="cheap") as (running, _):
        running.send_signal(number)
        assert running.wait(20) == 0
        assert running.stderr is not None and running.stderr.read() == ""


def test_process_that_computes_stops_cleanly() -> None:
    xml, lines = scan(slices=1, height=768, width=768, mask=lines_of(768))
    with process(engine="small_ready", grace=0.2) as (running, port), Client(port) as client:
        client.send(stream(xml, lines, "hybrid"))
        time.sleep(1)
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0  # torch aborts if the interpreter ends while its threads compute
        assert running.stderr is not None and "cut off" in running.stderr.read()
