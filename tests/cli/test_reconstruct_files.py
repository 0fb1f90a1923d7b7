"""From files of scans to reconstructions: rows, attributes, lines that tell of them, too little memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mrihvae.cli import pieces
from mrihvae.cli.reconstruct_files import describe, lines_about, open_cached, reconstruct_file
from mrihvae.errors import InputError
from mrihvae.physics.fastmri_masks import sampling_mask, seed_of
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.catalog import make_method
from mrihvae.recon.methods import Method
from mrihvae.recon.reconstruction import Reconstruction
from tests.support.files import write_scan

ZERO = make_method("zero-filled")
HALF = Undersampling("random", 2, 0.2)


def reconstruct(file: Path, folder: Path, method: Method = ZERO, sampled: bool = False) -> list[dict[str, Any]]:
    return reconstruct_file(file, folder, method, HALF, 8, sampled, False, 0, "--")


def test_row_and_attributes_of_a_file(tmp_path: Path) -> None:
    file = write_scan(tmp_path / "a.h5", (3, 24, 20))
    (row,) = reconstruct(file, tmp_path / "out")
    effective = round(20 / sampling_mask("random", 20, 2, 0.2, seed_of("a.h5")).sum(), 3)
    assert (row["file"], row["slices"], row["effective_acceleration"]) == ("a.h5", 3, effective)
    assert row["warnings"] == [] and "source" not in row and row["seconds_per_slice"] > 0
    with h5py.File(tmp_path / "out" / "reconstructions" / "a.h5") as written:
        assert written["reconstruction"].shape == (3, 24, 20)
        expected = {"method": "zero-filled", "acceleration": 2, "effective_acceleration": effective}
        assert expected.items() <= dict(written.attrs.items()).items()
    assert (tmp_path / "out" / "panels" / "a.png").is_file()


def test_line_that_tells_of_a_volume() -> None:
    row = {
        "file": "a.h5",
        "slices": 3,
        "effective_acceleration": 3.9,
        "seconds_per_slice": 0.256,
        "warnings": ["beware"],
    }
    assert describe(row) == "a.h5: 3 slices, R = 3.90, 0.26 s per slice, beware"
    stages = {"maps": 0.1, "start": 0.05}
    assert describe({**row, "stages": stages}).endswith("0.26 s per slice (maps 0.10, start 0.05), beware")


def test_warnings_are_in_full_once() -> None:
    row = {"file": "a.h5", "slices": 3, "effective_acceleration": 4, "seconds_per_slice": 1, "stages": {"maps": 0.25}}
    begin = "a.h5: 3 slices, R = 4.00, 1.00 s per slice (maps 0.25)"
    shown: set[str] = set()
    assert lines_about({**row, "warnings": ["one"]}, shown) == [f"{begin}, one"]
    assert lines_about({**row, "warnings": ["one", "two"]}, shown) == [f"{begin}, two, 1 warning as before"]
    assert lines_about({**row, "warnings": ["one", "two"]}, shown) == [f"{begin}, 2 warnings as before"]
    assert lines_about({**row, "warnings": []}, shown) == [begin]
    details = ["  maps: 0.2500 s per slice", "  warning: one", "  warning: two"]
    assert lines_about({**row, "warnings": ["one", "two"]}, shown, verbose=True) == [begin, *details]


@pytest.mark.parametrize(
    ("error", "sampled", "fewer"),
    [
        (MemoryError(), False, "--batch-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True, "--batch-size or --samples"),
    ],
)
def test_too_little_memory(
    error: Exception, sampled: bool, fewer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **further: object) -> None:
        raise error

    monkeypatch.setattr(pieces, "reconstruct_scan", fail)
    file = write_scan(tmp_path / "a.h5")
    with pytest.raises(InputError) as caught:
        reconstruct(file, tmp_path / "out", sampled=sampled)
    assert str(caught.value) == f"{file}: too little memory for slices of 24 x 20; lower {fewer}"
    assert not (tmp_path / "out").exists()


def test_other_failures_are_not_taken_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **further: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(pieces, "reconstruct_scan", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        reconstruct(write_scan(tmp_path / "a.h5"), tmp_path / "out")


def test_reconstruction_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled = Reconstruction(np.full((2, 24, 20), np.nan))
    monkeypatch.setattr(pieces, "reconstruct_scan", lambda *_, **further: spoiled)
    with pytest.raises(InputError, match="a.h5: the reconstruction is not finite; lower --step, or leave --rule"):
        reconstruct(write_scan(tmp_path / "a.h5"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_last_file_is_kept_open(tmp_path: Path) -> None:
    open_cached.cache_clear()
    first, second = write_scan(tmp_path / "a.h5"), write_scan(tmp_path / "b.h5", seed=1)
    scans = open_cached(first)
    assert open_cached(first) is scans
    assert open_cached(second) is not scans and open_cached(first) is not scans  # of one file alone
    open_cached.cache_clear()
