"""A server to be measured, as a process of its own, and scans for it whose images are known."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sigpy import shepp_logan

from mrihvae.io.kspace import open_kspace
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume
from mrihvae.server.engine import Engine
from mrihvae.server.request import Request
from mrihvae.simulation.coil_fields import birdcage_fields
from tests.support import mrd

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Good:
    """A scan as it is sent, and its images, (y, x) each."""

    payload: bytes
    images: list[np.ndarray]

    def answered_by(self, port: int) -> mrd.Replies | None:
        """Send it; gives the answers if the images are right, else None."""
        replies = mrd.reconstruct(HOST, port, self.payload, timeout=300)
        found = [one.data[0, 0] for one in replies.images]
        right = len(found) == len(self.images) and all(map(np.array_equal, found, self.images))
        return replies if right and replies.close and not replies.reset else None


def scan(size: int, coils: int, slices: int, acceleration: int, seed: int) -> tuple[str, list[mrd.Line]]:
    """Make header and lines of a phantom with 2-fold oversampling, a noise scan, and noise of 0.1 %."""
    rng = np.random.default_rng(seed)
    image = np.abs(shepp_logan((size, size))) * np.exp(1j * np.linspace(-1, 1, size))
    fields = birdcage_fields((size, size), coils).numpy()
    weighted = fields * image * np.linspace(1, 0.5, slices)[:, None, None, None]
    axes = (-2, -1)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(weighted, axes), norm="ortho"), axes)
    kspace = (kspace + 1e-3 * mrd.white(rng, *kspace.shape)).astype(np.complex64)
    lines = np.arange(size) % acceleration == 0
    lines[size // 2 - size // 16 : size // 2 + size // 16] = True
    made = mrd.cartesian_lines(kspace, mask=lines, noise_scans=2, noise_covariance=1e-6)
    return mrd.cartesian_xml(kspace.shape), made


def good_scan(engine: Engine, folder: Path, xml: str, lines: list[mrd.Line], method: str) -> Good:
    """Reconstruct a scan from a file, to know what is to be answered."""
    path = folder / "scan.h5"
    mrd.write_mrd(path, xml, lines)
    (one,) = open_kspace(path)
    chosen = engine.method(one.coils, Request(method))
    images = [reconstruct_volume(one.single_slice(k), mask_of(one, None), chosen)[0].T for k in range(len(one.kspace))]
    return Good(mrd.stream(xml, lines, method), images)


@contextmanager
def served(threads: int, *options: str, log: Path | None = None) -> Iterator[tuple[int, int]]:
    """Start the command; gives its port and process, and fails unless it ends well. `log` takes its standard error."""
    command = [sys.executable, "-m", "mrihvae", "serve", "--port", "0", "--pixels", "float", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (
        tempfile.TemporaryFile() if log is None else log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().rpartition(":")[2]), process.pid
            process.terminate()
            if process.wait(30) != 0:
                raise SystemExit(f"benchmarks.scanner: the server ended with status {process.returncode}")
        finally:
            process.kill()


def resident(process: int, key: str) -> float:
    """Read a line of the memory that Linux says a process has, in MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(round(float(line.split()[1]) / 1024, 1) for line in lines if line.startswith(key))
