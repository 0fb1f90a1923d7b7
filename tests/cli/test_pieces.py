"""Pieces of a volume: the same images as of the whole, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrihvae.cli import pieces
from mrihvae.cli.pieces import join_pieces, reconstruct_piece, split_slices
from mrihvae.data.scan import Scan
from mrihvae.recon.catalog import make_method
from tests.support.small import every_third, small_kspace, small_model


def test_pieces_begin_with_batches() -> None:
    assert split_slices(64, 1, 8) == []
    assert split_slices(65, 1, 8) == [range(64), range(64, 65)]
    assert split_slices(150, 3, 8) == [range(64), range(64, 128), range(128, 150)]  # batches of two slices
    assert split_slices(150, 1, 24) == [range(72), range(72, 144), range(144, 150)]
    assert split_slices(130, 32, 8) == [range(64), range(64, 128), range(128, 130)]


@pytest.mark.parametrize("name", ["zero-filled", "sense", "hybrid", "samples", "amortized", "pnp"])
@pytest.mark.parametrize("coils", [1, 2])
def test_pieces_equal_the_whole(name: str, coils: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LARGE", 3)
    mask, kspace = every_third(20).numpy(), small_kspace(7, 24, 20).numpy()
    kspace = kspace if coils == 1 else np.stack([kspace, 0.5 * kspace[::-1]], axis=1)
    scan = Scan("a.h5", np.where(mask, kspace, 0).astype(np.complex64), mask=mask)
    method = make_method(name, None if name in ("zero-filled", "sense") else small_model())
    whole = reconstruct_piece(scan, Path("a.h5"), mask, method, 4)
    parts = split_slices(7, coils, 4)
    assert len(parts) == 2
    found = join_pieces([reconstruct_piece(scan, Path("a.h5"), mask, method, 4, part=part) for part in parts])
    np.testing.assert_array_equal(found.found.magnitude, whole.found.magnitude)
    assert found.found.tv_shares == whole.found.tv_shares and sorted(found.notices) == sorted(whole.notices)
    assert found.stages.keys() == whole.stages.keys() and found.peak > 0
