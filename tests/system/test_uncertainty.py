"""A slice has one uncertainty, whichever way it is asked for: the command, a scan, arrays, the server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mrihvae
from mrihvae.cli.main import main
from mrihvae.data.scan import Scan
from mrihvae.io.hdf5 import read_dataset
from mrihvae.model.weights import save_weights
from mrihvae.recon.catalog import load_method
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import sample_volume
from mrihvae.server.engine import Engine
from mrihvae.server.request import Request
from tests.support.files import write_scan
from tests.support.small import small_model

SAMPLES = 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, small_model(), {"spread": 1.7, "temperature": 0.9})
    return str(path)


def test_every_way_gives_the_same(tmp_path: Path, weights: str) -> None:
    file = write_scan(tmp_path / "a.h5", (2, 24, 20), mask=np.arange(20) % 3 != 1)
    words = ["reconstruct", str(file), "--output", str(tmp_path / "out"), "--checkpoint", weights]
    assert main([*words, "--samples", str(SAMPLES)]) == 0
    written = tmp_path / "out" / "reconstructions" / "a.h5"
    expected, mean = (read_dataset(written, name) for name in ("uncertainty", "reconstruction"))
    (scan,) = mrihvae.open_kspace(str(file))
    method = load_method("hybrid", weights)
    found = mrihvae.reconstruct_scan(scan, method=method, samples=SAMPLES)
    np.testing.assert_array_equal(found.std.astype(np.float32), expected)
    np.testing.assert_array_equal(found.magnitude, mean)
    plain = Scan("a.h5", np.asarray(scan.kspace), scan.mask)  # without the header's matrix, as arrays come
    whole = mrihvae.reconstruct_scan(plain, method=method, samples=SAMPLES).std
    arrays = mrihvae.reconstruct(
        np.asarray(scan.kspace), scan.mask, axes="slice H W", samples=SAMPLES, weights=weights, device="cpu"
    )
    np.testing.assert_array_equal(arrays.std, whole)
    served = Engine({1: method}).method(1, Request(method="hybrid", samples=SAMPLES))
    np.testing.assert_array_equal(sample_volume(scan, mask_of(scan, None), served).std, found.std)
