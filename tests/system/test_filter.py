"""`mrihvae filter`, and that file, server and filter give the same images, with the shipped weights."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.support.files import run

pytest.importorskip("ismrmrd")

from mrihvae.recon.catalog import make_method
from mrihvae.server import engine as online
from mrihvae.server.engine import Engine
from tests.support import REPOSITORY, mrd
from tests.support.piping import pictures_of, piped
from tests.support.serving import (
    ENVIRONMENT,
    HOST,
    command,
    lines_of,
    pictures,
    process,
    serving,
    some_kspace,
    stream,
)

GENERATOR = "ismrmrd_generate_cartesian_shepp_logan"
ZERO = make_method("zero-filled")


@pytest.fixture(scope="module")
def shipped() -> Engine:
    """The weights that come with the package."""
    return online.load_engine(None)


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
    filtered = mrd.reconstruct_pipe(
        command("filter", "--pixels", "float"), stream(xml, lines), env=ENVIRONMENT, half_close=False, cwd=REPOSITORY
    )
    assert filtered.close and filtered.returncode == 0 and filtered.stderr == ""
    with process("--pixels", "float") as (running, port):
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

        images = served()
        errors = {name: errors_of(served(name), truth) for name in ("zero-filled", "sense")}
        for found in (errors_of(images, truth), errors_of(of_file, truth)):
            if options:
                assert (found < 0.5 * np.minimum(errors["zero-filled"], errors["sense"])).all()
            else:
                assert found < 1e-5
    np.testing.assert_array_equal(images, of_file)
    monkeypatch.setattr(online, "load_engine", lambda *_: shipped)
    _, answers = piped(monkeypatch, [stream(xml, lines)], "--pixels", "float")
    np.testing.assert_array_equal(images, pictures_of(answers))
