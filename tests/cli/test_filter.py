"""`mrihvae filter`: images as soon as their lines are there, and mistakes in the stream and beside it."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

pytest.importorskip("ismrmrd")
from mrihvae.recon.methods import make_method
from mrihvae.server import session as online
from tests.support import REPOSITORY, mrd
from tests.support.piping import pictures_of, piped
from tests.support.serving import (
    ENVIRONMENT,
    cheap,
    command,
    expected,
    scan,
    stream,
)

ZERO = make_method("zero-filled")


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
        (mrd.header("no XML"), "header is no XML"),
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
    monkeypatch.setattr(online, "scan_of", lambda *_: 1 / 0)
    assert piped(monkeypatch, [stream(*scan(slices=1))]) == (1, ["ERROR mrihvae: the reconstruction failed"])


def test_reader_that_goes() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command("filter", engine="cheap"), stdin=pipe, stdout=pipe, stderr=pipe, env=ENVIRONMENT, cwd=REPOSITORY
    ) as running:
        assert running.stdout is not None
        running.stdout.close()
        _, told = running.communicate(stream(*scan()))
    assert running.returncode == 0 and told == b""
