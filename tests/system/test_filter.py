"""`mrihvae filter`, and that file, server and filter give the same images, with the shipped weights."""

from __future__ import annotations

import io
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from tests.support.files import run

pytest.importorskip("ismrmrd")

from mrihvae.recon.methods import make_method
from mrihvae.server import session as online
from mrihvae.server.session import Engine
from tests.support import REPOSITORY, mrd
from tests.support.serving import HOST, cheap, expected, lines_of, pictures, process, scan, serving, some_kspace, stream

GENERATOR = "ismrmrd_generate_cartesian_shepp_logan"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
FILTER = [sys.executable, "-m", "mrihvae", "filter"]
ZERO = make_method("zero-filled")
# a filter that starts fast
CHEAP = [
    sys.executable, "-c",
    f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import mrihvae.server.session as online; "
    "from tests.support import serving; "
    "online.make_ready = lambda *_: serving.cheap(); from mrihvae.cli import main; raise SystemExit(main(['filter']))",
]  # fmt: skip


@pytest.fixture(scope="module")
def shipped() -> Engine:
    """The weights that come with the package."""
    return online.make_ready(None)


def by_file(path: Path, output: Path, *options: str) -> list[np.ndarray]:
    """Reconstruct a file with the command: images (y, x) of its slices, repetition by repetition."""
    assert run("reconstruct", path, "--output", output, *options) == 0
    images = []
    for one in sorted((output / "reconstructions").iterdir()):
        with h5py.File(one) as file:
            images += [picture.T for picture in file["reconstruction"][:]]
    return images


def errors_of(images: list[np.ndarray], truth: np.ndarray) -> np.ndarray:
    """Compute the squared error over the squared truth of each image."""
    return ((np.asarray(images, float) - truth) ** 2).sum(axis=(1, 2)) / (truth**2).sum()


def test_processes(tmp_path: Path) -> None:
    kspace = np.stack([some_kspace(1, 3, 40, 32, seed=seed) for seed in range(2)])
    mask = np.stack([lines_of(32), np.arange(32) % 3 == 0])[:, None]
    lines = mrd.cartesian_lines(kspace, mask=mask, noise_scans=4, noise_covariance=1e-4)
    xml = mrd.cartesian_xml(kspace.shape)
    mrd.write_mrd(tmp_path / "scan.h5", xml, lines)
    filtered = mrd.reconstruct_pipe(FILTER, stream(xml, lines), env=ENVIRONMENT, half_close=False)
    assert filtered.close and filtered.returncode == 0 and filtered.stderr == ""
    with process() as (running, port):
        served = mrd.reconstruct(HOST, port, stream(xml, lines))
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 0
    assert len(served.images) == 2 and served.images[0].meta == filtered.images[0].meta
    assert "weights" in served.images[0].meta["ImageComments"]
    np.testing.assert_array_equal(pictures(served), pictures(filtered))
    np.testing.assert_array_equal(pictures(served), by_file(tmp_path / "scan.h5", tmp_path / "out"))


@pytest.mark.skipif(shutil.which(GENERATOR) is None, reason=f"no {GENERATOR}")
@pytest.mark.parametrize("options", [[], ["-a", "4", "-w", "12"]])
def test_generator(shipped: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    path = tmp_path / "generated.h5"
    command = [GENERATOR, "-o", str(path), "-m", "128", "-c", "8", "-C", "-n", "1e-4", *options]
    subprocess.run(command, check=True, capture_output=True)
    with h5py.File(path) as file:
        csm, phantom = (file[f"dataset/{name}"][0] for name in ("csm", "phantom"))
    rss = np.sqrt((csm["real"].astype(float) ** 2 + csm["imag"].astype(float) ** 2).sum(axis=0))
    truth = np.hypot(phantom["real"], phantom["imag"]) * rss
    xml, lines = mrd.read_mrd(path)
    if options:
        assert {line.repetition for line in lines} == set(range(4))
        lines = [line for line in lines if line.repetition < 2]  # that is enough
        path = tmp_path / "part.h5"
        mrd.write_mrd(path, xml, lines)
    of_file = by_file(path, tmp_path / "out")
    assert len(of_file) == (2 if options else 1)
    with serving(shipped) as running:

        def served(config: str = "mrihvae") -> list[np.ndarray]:
            return pictures(mrd.reconstruct(HOST, running.port, stream(xml, lines, config)))

        errors = {name: errors_of(served(name), truth) for name in ("hybrid", "zero-filled", "sense")}
        for found in (errors["hybrid"], errors_of(of_file, truth)):
            if options:
                assert (found < 0.5 * np.minimum(errors["zero-filled"], errors["sense"])).all()
            else:
                assert found < 1e-5
        images = served()
    np.testing.assert_array_equal(images, of_file)
    monkeypatch.setattr(online, "make_ready", lambda *_: shipped)
    np.testing.assert_array_equal(images, pictures_of(piped(monkeypatch, [stream(xml, lines)])[1]))


class Output(io.RawIOBase):
    """Keeps what is written, and tells of images."""

    def __init__(self) -> None:
        self.written = b""
        self.image = threading.Event()

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self.written += bytes(piece)
        if piece[:2] == struct.pack("<H", mrd.IMAGE):
            self.image.set()
        return len(piece)


def piped(monkeypatch: pytest.MonkeyPatch, payload: list[bytes], *options: str) -> tuple[int, list[mrd.Image | str]]:
    """Run the command in this process, from a pipe into which it gets piece after piece, an image between.

    Returns
    -------
    its status and answers
    """
    reading, writing = os.pipe()
    output = Output()

    def send() -> None:
        with os.fdopen(writing, "wb", buffering=0) as target:
            for number, piece in enumerate(payload):
                assert not number or output.image.wait(10)
                output.image.clear()
                target.write(piece)

    sender = threading.Thread(target=send)
    with os.fdopen(reading) as source, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", source)
        patch.setattr(sys, "stdout", SimpleNamespace(buffer=output, write=None))
        sender.start()
        with suppress(ZeroDivisionError):  # of a test; the interpreter would end with this status
            status = 1
            status = run("filter", *options)
        sender.join()
    return status, mrd.parse_replies(output.written)


def pictures_of(answers: list[mrd.Image | str]) -> list[np.ndarray]:
    return [one.data[0, 0] for one in answers if isinstance(one, mrd.Image)]


@pytest.fixture
def cheap_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "make_ready", lambda *_: cheap())


@pytest.mark.usefixtures("cheap_weights")
@pytest.mark.parametrize("closing", [True, False])
def test_images_come_before_the_next_lines_are_sent(monkeypatch: pytest.MonkeyPatch, closing: bool) -> None:
    xml, lines = scan(slices=3)
    pieces = [b"".join(mrd.acquisition(line) for line in lines if line.slice == k) for k in range(3)]
    status, answers = piped(
        monkeypatch, [stream(xml, [], closing=False) + pieces[0], pieces[1], pieces[2] + mrd.close() * closing]
    )
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
    with subprocess.Popen(CHEAP, stdin=pipe, stdout=pipe, stderr=pipe, env=ENVIRONMENT) as running:
        assert running.stdout is not None
        running.stdout.close()
        _, told = running.communicate(stream(*scan()))
    assert running.returncode == 0 and told == b""
