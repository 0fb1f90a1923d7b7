"""What a server reconstructs with: which method a scan gets, and weights that are loaded and warm before it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

from mrihvae.errors import InputError
from mrihvae.recon.catalog import make_method
from mrihvae.recon.methods import Method
from mrihvae.server import engine
from mrihvae.server.engine import Engine, load_engine, warm_up
from mrihvae.server.request import Request
from tests.support.files import PROTOCOL
from tests.support.serving import cheap

ZERO = make_method("zero-filled")


@pytest.mark.parametrize(("coils", "start"), [(1, "scan of 1 coil: "), (8, "scan of 8 coils: ")])
def test_engines_of_one_kind_of_scans(coils: int, start: str) -> None:
    other = Engine({2 if coils == 1 else 1: ZERO})
    with pytest.raises(InputError, match=f"^{start}the server's protocol does not support this number of coils"):
        other.method(coils, Request())
    assert cheap().method(coils, Request(method="sense", samples=5)) == make_method("sense", samples=5)


def test_engine_of_a_protocol_without_weights(tmp_path: Path) -> None:
    path = tmp_path / "plain.toml"
    path.write_text(PROTOCOL.replace("singlecoil", "multicoil").replace("zero-filled", "sense"))
    loaded = load_engine(str(path))
    assert list(loaded.methods) == [2] and loaded.methods[2].name == "sense" and not hasattr(loaded.methods[2], "model")
    assert loaded.request.samples >= 2


def test_warming_up_reconstructs_once_with_each_method(monkeypatch: pytest.MonkeyPatch) -> None:
    reconstructed: list[tuple[tuple[int, ...], str]] = []

    def noted(noise: Any, mask: np.ndarray, method: Method) -> None:
        assert mask.tolist() == [k % 3 == 0 or 26 <= k < 38 for k in range(64)]
        reconstructed.append((noise.kspace.shape, method.name))

    monkeypatch.setattr(engine, "reconstruct_scan", noted)
    warm_up(Engine({1: ZERO, 2: make_method("sense")}))
    assert reconstructed == [((1, 64, 64), "zero-filled"), ((1, 4, 64, 64), "sense")]
