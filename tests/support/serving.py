"""A server in the process of the tests, cheap ways to reconstruct, small scans, and a client that goes step by step."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np

from mrihvae.data.scan import Scan
from mrihvae.inference.settings import InferenceSettings, RefinementSettings
from mrihvae.recon.catalog import make_method
from mrihvae.recon.methods import Method
from mrihvae.recon.volumes import reconstruct_volume
from mrihvae.server.engine import Engine
from mrihvae.server.tcp import Server, ServerSettings
from tests.support import REPOSITORY, mrd
from tests.support.small import small_kspace, small_model
from tests.support.small_coils import calibrated, coil_scans

HOST = "127.0.0.1"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums in another order differ in the last digit
WEIGHTS = {1: "1" * 64, 2: "2" * 64}


def cheap() -> Engine:
    """Reconstruct by zero-filling."""
    return Engine({1: make_method("zero-filled"), 2: make_method("zero-filled")})


def small_ready() -> Engine:
    """Reconstruct with a small network of random weights."""
    inference = InferenceSettings(views=1, rounds=1, refinement=RefinementSettings(sweeps=1))
    model = small_model()
    return Engine({kind: make_method("hybrid", model, inference, weights=WEIGHTS[kind]) for kind in (1, 2)})


@contextmanager
def serving(ready: Engine | None = None, **settings: Any) -> Iterator[Server]:
    """Serve in a thread."""
    server = Server(ready or cheap(), ServerSettings(**({"port": 0, "timeout": 20.0} | settings)))
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


def command(*words: str, engine: str | None = None, grace: float | str = "usual") -> list[str]:
    """Give the words that start the command in the root of the repository, with an `engine` of this module or its own.

    `grace` are the seconds that a server with such an engine waits for scans when it stops.
    """
    module = ["mrihvae"] if engine is None else ["tests.support.command", engine, str(grace)]
    return [sys.executable, "-m", *module, *words]


@contextmanager
def process(
    *options: str, engine: str | None = None, grace: float | str = "usual"
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a server in a process of its own, as `command` has it; gives its process and port."""
    with subprocess.Popen(
        command("serve", "--port", "0", *options, engine=engine, grace=grace),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=REPOSITORY,
    ) as running:  # fmt: skip
        assert running.stdout is not None and running.stderr is not None
        try:
            line = running.stdout.readline()
            assert line.startswith("mrihvae: listening on 127.0.0.1:"), running.stderr.read()
            yield running, int(line.rpartition(":")[2])
        finally:
            running.kill()


def stream(
    xml: str, lines: Iterable[mrd.Line], config: str | bytes | None = "mrihvae", *rest: Any, **more: Any
) -> bytes:
    """Write all a client sends, as `mrd.stream` does, with a configuration that chooses no method."""
    return mrd.stream(xml, lines, config, *rest, **more)


def some_kspace(slices: int = 2, coils: int = 1, height: int = 32, width: int = 24, seed: int = 0) -> np.ndarray:
    """Make k-space of phantoms, complex64 (slices, coils, H, W)."""
    if coils == 1:
        return small_kspace(slices, height, width, seed=seed)[:, None].numpy()
    return coil_scans(slices, coils, height, width, seed=seed)[0].numpy()


def lines_of(width: int) -> np.ndarray:
    """Mark a third of the lines, and those of the center, from which maps can be estimated: bool (W,)."""
    return np.asarray(calibrated(width, 12))


def scan(
    slices: int = 2, coils: int = 1, height: int = 32, width: int = 24, seed: int = 0, **changes: Any
) -> tuple[str, list[mrd.Line]]:
    """Make header and lines of a scan without oversampling; `changes` are of `cartesian_lines`."""
    kspace = some_kspace(slices, coils, height, width, seed)
    repetitions = changes.get("repetitions", 1)
    return (
        mrd.cartesian_xml(kspace.shape, 1, repetitions=repetitions),
        mrd.cartesian_lines(kspace, **({"oversampling": 1} | changes)),
    )


def gathered(lines: Sequence[mrd.Line], width: int, slice_: int = 0, repetition: int = 0) -> Scan:
    """Put the lines of a slice together, without oversampling, as they were sent."""
    of_it = [line for line in lines if (line.slice, line.repetition) == (slice_, repetition)]
    coils, height = of_it[0].data.shape
    kspace = np.zeros((1, coils, height, width), np.complex64)
    mask = np.zeros(width, bool)
    for line in of_it:
        kspace[0, :, :, line.kspace_encode_step_1] = line.data
        mask[line.kspace_encode_step_1] = True
    return Scan("stream", kspace[:, 0] if coils == 1 else kspace, mask)


def expected(lines: Sequence[mrd.Line], width: int, method: Method, slice_: int = 0, repetition: int = 0) -> np.ndarray:
    """Reconstruct a slice, as (y, x) of image messages: x along the readout."""
    one = gathered(lines, width, slice_, repetition)
    assert one.mask is not None
    return reconstruct_volume(one, one.mask, method)[0].T


def pictures(replies: mrd.Replies, series: int = 1) -> list[np.ndarray]:
    """Take the images of a series, (y, x) each."""
    return [one.data[0, 0] for one in replies.images if one.image_series_index == series]


class Client:
    """Sends bytes and takes answers when it is told to."""

    def __init__(self, port: int, timeout: float = 20.0) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=timeout)
        self._replies = mrd.read_replies(self._read)

    def _read(self, count: int) -> bytes:
        try:
            return self.socket.recv(count)
        except ConnectionError:
            return b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()

    def send(self, message: bytes) -> None:
        self.socket.sendall(message)

    def image(self) -> mrd.Image:
        """Take the next image; texts before it are passed over."""
        while not isinstance(answer := next(self._replies), mrd.Image):
            assert answer is not None, "the server has closed"
        return answer

    def rest(self) -> list[Any]:
        """Take all answers to the end; None stands for the close message."""
        return list(self._replies)
