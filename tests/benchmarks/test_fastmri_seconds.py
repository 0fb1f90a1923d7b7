"""The script that times the size of fastMRI's knees, at a small size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

fastmri_seconds = pytest.importorskip("fastmri_seconds")


def test_it_times_slices_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"SHAPE": (96, 48), "MATRIX": (48, 48), "COILS": (3, 1)}.items():
        monkeypatch.setattr(fastmri_seconds, name, value)
    words = ["--threads", "1", "--repeats", "0", "--slices", "2", "--only-ours", "--results", str(tmp_path)]
    assert fastmri_seconds.main(words) == 0
    (path,) = tmp_path.glob("fastmri_seconds_*.json")
    found = json.loads(path.read_text())
    assert set(found["seconds"]) == {"96 x 48 x 3", "96 x 48 x 1"} and found["file"]["slices"] == 2
    for methods in found["seconds"].values():
        assert methods["mrihvae (hybrid)"]["seconds"] > 0 and methods["mrihvae (hybrid)"]["processor"] > 0
    assert 100 < found["file"]["peak_MB"] < 2000
    text = path.with_suffix(".md").read_text()
    assert "| 96 x 48 x 1 | mrihvae (hybrid) |" in text and text.strip() in capsys.readouterr().out


def test_the_phantom_fills_half_of_the_readout() -> None:
    scan = fastmri_seconds.oversampled_phantom(1)
    assert scan.kspace.shape == (1, 640, 368) and scan.matrix == (320, 320)
    rows = np.abs(np.fft.fftshift(np.fft.ifft2(scan.kspace[0], norm="ortho"), axes=0)).mean(axis=1)
    assert rows[:150].max() < 0.02 < rows[280:360].min()
