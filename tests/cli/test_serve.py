"""`mrihvae serve`: options, the thread that computes, and how the process stops."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

from mrihvae.cli import serve as cli_serve
from mrihvae.server import engine as online
from mrihvae.server import tcp
from mrihvae.server.engine import Engine
from tests.support import mrd
from tests.support.files import PROTOCOL, error_of, run
from tests.support.serving import (
    HOST,
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
        (["--first-timeout", "0"], "--first-timeout 0.0: must be above 0"),
        (["--idle-timeout", "nan"], "--idle-timeout nan: must be above 0"),
        (["--scan-timeout", "1e6"], "--scan-timeout 1000000.0: must be above 0 and at most 86400 seconds"),
        (["--max-waiting", "0"], "--max-waiting 0: must be at least 1"),
        (["--max-total-memory", "0"], "--max-total-memory 0.0: must be a number of GiB above 0"),
        (["--host", "0.0.0.0"], "host 0.0.0.0: other machines can reach it"),
        (["--protocol", "no_such"], "no_such"),
        (["--protocol", "fastmri_knee_singlecoil_4x", "--device", "warp"], "--device warp: cannot be used"),
    ],
)
def test_wrong_options(options: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert word in error_of(capsys, "serve", *options)


def test_port_in_use(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "load_engine", lambda *_: cheap())
    with serving() as running:
        message = error_of(capsys, "serve", "--port", str(running.port))
    assert message.startswith(f"127.0.0.1:{running.port}: nothing can listen there (Address")


def test_process_lets_scans_end(tmp_path: Path) -> None:
    xml, lines = scan(slices=2)
    log = tmp_path / "log.jsonl"
    words = ("--max-connections", "2", "--pixels", "short", "--log-json", str(log))
    with process(*words, engine="cheap") as (running, port):
        with Client(port) as client:
            client.send(stream(xml, lines[:30], closing=False))
            assert client.image().data.dtype == np.int16
            running.send_signal(signal.SIGTERM)
            time.sleep(1)
            client.send(b"".join(map(mrd.acquisition, lines[30:])) + mrd.close())
            assert client.image().slice == 1 and client.rest()[-1] is None
        assert running.wait(20) == 0
        assert running.stderr is not None
        shown = running.stderr.read()
        assert "2 images in" in shown and "Traceback" not in shown
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "listening", "scan", "end"]
    assert events[1]["port"] == port and events[2]["images"] == 2 and events[2]["client"].startswith("127.0.0.1")
    assert events[3]["status"] == 0


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


def test_weights_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are looked for before it listens; what is in them shows later, and ends it as well."""
    for name, text, word in (("missing.safetensors", None, "neither shipped"), ("bad.safetensors", "no", "bad.saf")):
        weights = tmp_path / name
        if text is not None:
            weights.write_text(text)
        protocol = tmp_path / "mine.toml"
        protocol.write_text(f'weights = "{weights}"\n' + PROTOCOL.replace('"zero-filled"', '"hybrid"'))
        assert run("serve", "--port", "0", "--protocol", protocol) == 2
        shown = capsys.readouterr()
        assert word in shown.err and len(shown.err.splitlines()) == 1
        assert ("listening" in shown.out) is (text is not None)


def test_it_listens_before_weights_are_loaded() -> None:
    began = time.monotonic()
    with process() as (running, port):
        assert time.monotonic() - began < 6  # of a machine that does other things, too
        with Client(port, 120) as client:
            client.send(mrd.close())
            running.send_signal(signal.SIGTERM)
            assert running.wait(20) == 0
        assert running.stderr is not None and "cut off" in running.stderr.read()


@pytest.mark.parametrize("memory", ["0", "-1", "nan", "inf"])
def test_memory_that_is_none(memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = error_of(capsys, "serve", "--max-memory", memory)
    assert text == f"--max-memory {float(memory)}: must be a number of GiB above 0"


def test_options_reach_server_and_engine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Weights are loaded, and warmed up, in the thread that reconstructs."""
    threads: list[str] = []
    given: list[Any] = []

    def loaded(protocol: str | None, device: str) -> Engine:
        threads.append(threading.current_thread().name)
        given.extend((protocol, device))
        return cheap()

    class Silent:
        def __init__(self, engine: Engine, settings: tcp.ServerSettings, listener: socket.socket) -> None:
            given.extend((engine, settings, listener))
            given.append(capsys.readouterr().out)

        def stop(self) -> None: ...

        def serve(self) -> bool:
            return True

    monkeypatch.setattr(online, "load_engine", loaded)
    monkeypatch.setattr(online, "warm_up", lambda engine: threads.append(threading.current_thread().name))
    monkeypatch.setattr(tcp, "Server", Silent)
    (tmp_path / "mine.toml").write_text(PROTOCOL)
    mine = str(tmp_path / "mine.toml")
    options = ("--protocol", mine, "--device", "cpu", "--max-memory", "0.5", "--timeout", "3", "--first-timeout", "2")
    usual = signal.getsignal(signal.SIGTERM)
    options += (
        "--idle-timeout",
        "4",
        "--scan-timeout",
        "50",
        "--max-waiting",
        "9",
        "--host",
        "0.0.0.0",
        "--allow-remote",
    )
    assert run("serve", *options, "--port", "0", "--max-connections", "2") == 0
    assert signal.getsignal(signal.SIGTERM) == usual
    protocol, device, engine, settings, listener, shown = given
    assert shown.startswith("mrihvae: listening on 0.0.0.0:") and listener.fileno() == -1  # closed by now
    assert (protocol, device) == (mine, "cpu")
    assert settings == tcp.ServerSettings(
        "0.0.0.0", 0, 2, 3.0, 2.0, 4.0, scan_timeout=50.0, waiting=9, allow_remote=True
    )
    assert engine.budget.limit == 2**30  # twice that of a scan
    assert engine.request.pixels == "short" and engine.max_held * 8 == 2**29  # numbers of 8 bytes in half a GiB
    assert engine.executor.submit(lambda: threading.current_thread().name).result() == threads[0]
    assert len(threads) == 2 and len(set(threads)) == 1 and threads[0] != threading.current_thread().name


def test_logs_hold_no_control_characters() -> None:
    """What clients send is escaped in the log, and in texts that quote it."""
    name = "mrihvae_\x1b]0;OWNED\x07\x1b[31mRED\u202e\u2028"
    header = mrd.cartesian_xml((1, 1, 32, 24), 1)
    payloads = [
        mrd.text(json.dumps({name: "x"})) + mrd.close(),
        mrd.header(header) + mrd.text(json.dumps({"method": name})) + mrd.close(),
        mrd.header(header.replace("cartesian", "\x9b\u202ename\u200b")) + mrd.acquisition(scan()[1][0]) + mrd.close(),
        mrd.config_file(name),
    ]
    with process(engine="cheap") as (running, port):
        texts = [text for one in payloads for text in mrd.reconstruct(HOST, port, one, half_close=True).texts]
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0 and running.stderr is not None
        log = running.stderr.read()
    assert len(texts) >= 2 and "trajectory '\\x9b\\u202ename\\u200b'" in log
    for text in (*texts, *log.splitlines()):
        assert text.isprintable(), ascii(text)


def test_empty_texts_starve_nobody() -> None:
    """Clients that hold every place open by a text now and then, as if these were progress."""
    with process("--max-connections", "1", engine="cheap") as (_, port), ExitStack() as stack:
        clients = [stack.enter_context(Client(port)) for _ in range(4)]
        for _ in range(3):
            for client in clients:
                client.send(mrd.text("{}"))
            time.sleep(0.2)
        began = time.monotonic()
        assert mrd.reconstruct(HOST, port, mrd.close(), timeout=10).close
        assert time.monotonic() - began < 5


def test_memory_is_kept_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, threshold: int, size: int) -> None:
            calls.append((threshold, size))

    for library in (Library(), object()):  # the second is not glibc
        monkeypatch.setattr(cli_serve.ctypes, "CDLL", lambda _, library=library: library)
        cli_serve._keep_memory()
    assert calls == [(-1, 2**25), (-3, 2**25)]
