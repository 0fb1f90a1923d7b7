"""`mrihvae demo`: its table, its panels, its mistakes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mrihvae.cli import demo as cli_demo
from mrihvae.cli.demo import SCANS
from mrihvae.cli.main import main
from mrihvae.data.scan import Scan
from mrihvae.io.fastmri import read_scan
from mrihvae.io.hdf5 import list_files
from mrihvae.model.weights import save_weights
from tests.support.small import small_model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Write weights of a small network."""
    path = tmp_path / "weights" / "small.safetensors"
    path.parent.mkdir()
    save_weights(path, small_model(), {})
    return path


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Take what was printed on standard error, which must be a single error line."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("mrihvae: error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0], lines
    assert "Traceback" not in "".join(lines)
    return errors[0].removeprefix("mrihvae: error: ")


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def test_demo_prints_its_table(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one slice of each scan; tests/system/test_readme.py has all of it, with the shipped weights."""

    def one_slice(path: Path) -> Scan:
        scan = read_scan(path)
        assert scan.target is not None
        return dataclasses.replace(scan, kspace=scan.kspace[:1], target=scan.target[:1])

    monkeypatch.setattr(cli_demo, "read_scan", one_slice)
    assert main(["demo", "--output", str(tmp_path / "demo"), "--checkpoint", str(weights)]) == 0
    printed = capsys.readouterr().out
    for word in ("PSNR", "SSIM", "NMSE", "s / slice", "zero-filled", "L1-wavelet", "TV", "hybrid"):
        assert word in printed
    names = [path.stem for path in list_files(SCANS)]
    assert files_below(tmp_path / "demo" / "panels") == [f"{name}.png" for name in names]


def test_demo_mistakes(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["demo", "--output", str(tmp_path / "out"), "--checkpoint"]
    assert main([*words, "nowhere"]) == 2
    assert one_line(capsys).startswith("nowhere: neither shipped weights")
    assert main([*words, str(weights), "--acceleration", "0"]) == 2
    assert "acceleration 0 is not a number of at least 1" in one_line(capsys)
    assert not (tmp_path / "out").exists()
