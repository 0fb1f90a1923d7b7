"""Real k-space of several coils, sent and stored as MRD: the images are those of the fastMRI file."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.support.files import run, write_h5

pytest.importorskip("ismrmrd")

from mrihvae import open_kspace
from tests.support import REPOSITORY, mrd
from tests.support.serving import ENVIRONMENT, command


def test_real_scan_through_mrd(data_dir: Path, tmp_path: Path) -> None:
    """4x undersampled, with readout oversampling that has to go: file = stream bitwise, fastMRI's file to 1e-10."""
    kspace = open_kspace(data_dir / "multicoil" / "usc_mprage.h5")[0].kspace[:1]
    lines = np.arange(256) % 4 == 0
    lines[116:140] = True
    header, acquisitions = mrd.cartesian_xml(kspace.shape), mrd.cartesian_lines(kspace, mask=lines)
    mrd.write_mrd(tmp_path / "scan.h5", header, acquisitions)
    write_h5(tmp_path / "masked.h5", kspace=np.where(lines, kspace, 0), mask=lines)
    images = []
    for name in ("scan.h5", "masked.h5"):
        words = ("--output", tmp_path / "out", "--method", "amortized", "--overwrite")
        assert run("reconstruct", tmp_path / name, *words) == 0
        with h5py.File(tmp_path / "out/reconstructions" / name) as file:
            images.append(file["reconstruction"][0])
    assert ((images[0] - images[1]) ** 2).sum() < 1e-10 * (images[1] ** 2).sum()
    replies = mrd.reconstruct_pipe(
        command("filter", "--pixels", "float"),
        mrd.stream(header, acquisitions, config="amortized"),
        timeout=120,
        env=ENVIRONMENT,
        cwd=REPOSITORY,
    )
    assert replies.returncode == 0 and len(replies.images) == 1 and "R = 3.12" in replies.texts[0]
    np.testing.assert_array_equal(replies.images[0].data[0, 0].T, images[0])
