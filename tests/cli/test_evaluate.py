"""`mrihvae evaluate` as a user calls it: every mistake is one line and status 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.files import error_of, run, truncate, write_h5


def test_evaluate_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets, predictions = tmp_path / "targets", tmp_path / "predictions"
    images = np.random.default_rng(0).random((2, 24, 20), dtype=np.float32)
    for k in range(2):
        write_h5(targets / f"file{k}.h5", reconstruction_esc=images)
        write_h5(predictions / f"file{k}.h5", reconstruction=images)
    words: list[str | Path] = [
        "evaluate",
        "--target-path",
        targets,
        "--predictions-path",
        predictions,
        "--challenge",
        "singlecoil",
    ]
    assert run(*words) == 0
    assert error_of(capsys, *words[:-1], "multicoil").startswith(f"{targets / 'file0.h5'}: has no dataset")
    assert "no volume has acquisition 'PD'" in error_of(capsys, *words, "--acquisition", "PD")
    assert "has the acceleration" in error_of(capsys, *words, "--acceleration", "4")
    (tmp_path / "file").touch()
    for option in ("--json", "--csv"):
        assert run(*words, option, tmp_path / "file" / "scores") == 2
        text = capsys.readouterr().err.splitlines()[-1]
        assert text.startswith(f"mrihvae: error: {tmp_path / 'file' / 'scores'}: cannot be written (")
    write_h5(predictions / "file1.h5", reconstruction=images[:, :10])
    assert error_of(capsys, *words).startswith(f"{predictions / 'file1.h5'}: 'reconstruction' has shape (2, 10, 20)")
    truncate(predictions / "file1.h5")
    assert error_of(capsys, *words).startswith(f"{predictions / 'file1.h5'}: truncated or not an HDF5 file")
