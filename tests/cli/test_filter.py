"""`mrihvae filter`: images as soon as their lines are there, and mistakes in the stream and beside it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ismrmrd")
from mrihvae.recon.catalog import make_method
from mrihvae.server import engine as online
from mrihvae.server import session
from mrihvae.server.engine import Engine
from tests.support import REPOSITORY, mrd
from tests.support.files import error_of, run
from tests.support.piping import pictures_of, piped
from tests.support.serving import (
    ENVIRONMENT,
    cheap,
    command,
    expected,
    lines_of,
    scan,
    stream,
)

ZERO = make_method("zero-filled")
FLOAT = ("--pixels", "float")


@pytest.fixture
def cheap_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "load_engine", lambda *_: cheap())


@pytest.mark.usefixtures("cheap_weights")
@pytest.mark.parametrize("closing", [True, False])
def test_images_come_before_the_next_lines_are_sent(monkeypatch: pytest.MonkeyPatch, closing: bool) -> None:
    xml, lines = scan(slices=3)
    pieces = [b"".join(mrd.acquisition(line) for line in lines if line.slice == k) for k in range(3)]
    payload = [stream(xml, [], closing=False) + pieces[0], pieces[1], pieces[2] + mrd.close() * closing]
    status, answers = piped(monkeypatch, payload, "--pixels", "float")
    assert status == 0 and len(answers) == 6
    np.testing.assert_array_equal(pictures_of(answers), [expected(lines, 24, ZERO, k) for k in range(3)])


@pytest.mark.usefixtures("cheap_weights")
@pytest.mark.parametrize(
    "payload, word",
    [
        (mrd.header("no XML"), "header is not XML"),
        (b"\1", "ended within the number of a message"),
        (stream(*scan(slices=1), parameters={"samples": "\ud800\n"}), "parameter samples '?': must be a whole number"),
    ],
)
def test_mistakes_are_told_in_the_stream_and_beside_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], payload: bytes, word: str
) -> None:
    status, (told,) = piped(monkeypatch, [payload])
    assert isinstance(told, str) and told.startswith("ERROR mrihvae: ") and word in told and "\n" not in told
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 2 and line.startswith("mrihvae: error: ")


def test_wrong_options(monkeypatch: pytest.MonkeyPatch) -> None:
    status, (told,) = piped(monkeypatch, [mrd.close()], "--protocol", "no_such")
    assert status == 2 and "no_such" in str(told)


@pytest.mark.usefixtures("cheap_weights")
def test_failure_is_told_in_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "scan_of", lambda *_: 1 / 0)
    assert piped(monkeypatch, [stream(*scan(slices=1))]) == (1, ["ERROR mrihvae: the reconstruction failed"])


def test_reader_that_goes() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command("filter", engine="cheap"), stdin=pipe, stdout=pipe, stderr=pipe, env=ENVIRONMENT, cwd=REPOSITORY
    ) as running:
        assert running.stdout is not None
        running.stdout.close()
        _, told = running.communicate(stream(*scan()))
    assert running.returncode == 1
    assert told == b"mrihvae: error: the program that reads the images has ended; see its messages\n"


def streamed(tmp_path: Path, payload: bytes, *options: str | Path) -> tuple[int, bytes]:
    """Run the command from a file to a file; return its status and what it wrote, if anything."""
    (tmp_path / "in").write_bytes(payload)
    output = tmp_path / "out"
    output.unlink(missing_ok=True)
    status = run("filter", "--input", tmp_path / "in", "--output", output, *options)
    return status, output.read_bytes() if output.exists() else b""


@pytest.mark.usefixtures("cheap_weights")
def test_streams_that_are_empty_or_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xml, lines = scan(slices=2)
    for payload, images, words in (
        (b"", 0, "stream: is empty"),
        (mrd.close(), 0, "stream: is empty"),
        (stream(xml, lines[:40], closing=False), 2, "stream: ended with neither its last line nor a close message"),
        (stream(xml, [], closing=False), 0, "stream: ended with neither its last line nor a close message"),
        (stream(xml, []), 0, "stream: has no image lines"),
    ):
        status, written = streamed(tmp_path, payload)
        *texts, last = mrd.parse_replies(written)
        assert status == 1 and str(last).startswith(f"ERROR mrihvae: {words}")
        assert sum(isinstance(answer, mrd.Image) for answer in texts) == images
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"mrihvae: error: {words}")
    status, written = streamed(tmp_path, stream(xml, lines)[:-100])
    assert status == 2 and written == b""  # within a message; the file would not be whole


@pytest.mark.usefixtures("cheap_weights")
def test_named_pipes(tmp_path: Path) -> None:
    xml, lines = scan(slices=2)
    for name in ("in", "out"):
        os.mkfifo(tmp_path / name)
    writer = threading.Thread(target=lambda: (tmp_path / "in").write_bytes(stream(xml, lines)))
    written: list[bytes] = []
    reader = threading.Thread(target=lambda: written.append((tmp_path / "out").read_bytes()))
    for thread in (writer, reader):
        thread.start()
    assert run("filter", "--input", tmp_path / "in", "--output", tmp_path / "out", *FLOAT) == 0
    for thread in (writer, reader):
        thread.join(10)
    pictures = pictures_of(mrd.parse_replies(written[0]))
    np.testing.assert_array_equal(pictures, [expected(lines, 24, ZERO, k) for k in range(2)])


@pytest.mark.usefixtures("cheap_weights")
def test_output_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").write_bytes(stream(*scan()))
    assert "is a directory" in error_of(capsys, "filter", "--input", tmp_path / "in", "--output", tmp_path).lower()
    assert "No such file" in error_of(capsys, "filter", "--input", tmp_path / "none", "--output", tmp_path / "out")
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", terminal)
        assert "is a terminal, or closed" in error_of(capsys, "filter")
        patch.setattr(sys, "stdout", None)
        assert run("filter", "--input", tmp_path / "in") == 2


@pytest.mark.parametrize("form", ["h5", "stream", "v2"])
def test_noise_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """A noise scan apart gives what it gives within the scan, and replaces the scan's own."""
    engine = Engine({2: make_method("sense"), 1: ZERO})
    monkeypatch.setattr(online, "load_engine", lambda *_: engine)
    covariance = np.array([[1.0, 0.6], [0.6, 2.0]])
    xml, lines = scan(slices=1, coils=2, mask=lines_of(24), noise_scans=8, noise_covariance=covariance)
    noise, imaging = lines[:8], lines[8:]
    path = tmp_path / "noise"
    if form == "h5":
        mrd.write_mrd(path, xml, lines)  # imaging lines in it do not matter
    elif form == "stream":
        path.write_bytes(stream(xml, noise, None))
    else:
        v2 = pytest.importorskip("tests.support.mrd.v2")
        path.write_bytes(v2.stream_v2(v2.header_v2((32, 24), 24, 2), [v2.acquisition_v2(line) for line in noise]))
    whole = streamed(tmp_path, stream(xml, lines))[1]
    assert whole != streamed(tmp_path, stream(xml, imaging))[1]
    others = scan(slices=1, coils=2, mask=lines_of(24), noise_scans=8, seed=1)[1][:8]
    for sent in (imaging, others + imaging):
        status, written = streamed(tmp_path, stream(xml, sent), "--noise", path)
        np.testing.assert_array_equal(*(pictures_of(mrd.parse_replies(each)) for each in (written, whole)))
        assert status == 0


@pytest.mark.usefixtures("cheap_weights")
def test_version_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    v2 = pytest.importorskip("tests.support.mrd.v2")
    _, lines = scan(slices=2, coils=2)
    header = v2.header_v2((32, 24), 24, 2, {"pixels": "float"})
    payload = v2.stream_v2(header, [v2.acquisition_v2(line) for line in lines])
    status, written = streamed(tmp_path, payload)
    assert status == 0 and "INFO mrihvae: slice 1" in capsys.readouterr().err  # it has no texts
    found, items = v2.replies_v2(written)
    assert found == header
    np.testing.assert_array_equal(
        [item.value.data[0, 0] for item in items], [expected(lines, 24, ZERO, k) for k in range(2)]
    )
    status, written = streamed(tmp_path, payload[:-1000])
    assert status == 2 and written == b"" and "it is truncated" in capsys.readouterr().err
