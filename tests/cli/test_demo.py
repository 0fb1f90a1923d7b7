"""`mrihvae demo`: its table, its panels, its mistakes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from mrihvae.cli import demo as cli_demo
from mrihvae.cli.demo import SCANS, table
from mrihvae.cli.main import main
from mrihvae.data.scan import Scan
from mrihvae.io.fastmri import read_scan
from mrihvae.io.formats import list_files
from mrihvae.model.weights import save_weights
from mrihvae.physics.fourier import ifft2c, resize_kspace
from tests.support.files import error_of
from tests.support.small import small_model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Write weights of a small network."""
    path = tmp_path / "weights" / "small.safetensors"
    path.parent.mkdir()
    save_weights(path, small_model(), {})
    return path


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def test_demo_prints_its_table(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one small slice of each scan; tests/system/test_readme.py has all of it, with the shipped weights."""

    def one_slice(path: Path) -> Scan:
        scan = read_scan(path)
        kspace = resize_kspace(torch.from_numpy(scan.kspace[:1]), (48, 40))
        target = ifft2c(kspace).abs().numpy()
        return dataclasses.replace(scan, kspace=kspace.numpy(), target=target, padding=None, matrix=None)

    monkeypatch.setattr(cli_demo, "read_scan", one_slice)
    assert main(["demo", "--output", str(tmp_path / "demo"), "--checkpoint", str(weights)]) == 0
    printed = capsys.readouterr().out
    for word in ("PSNR", "SSIM", "NMSE", "s / slice", "zero-filled", "L1-wavelet", "TV", "hybrid"):
        assert word in printed
    names = [path.stem for path in list_files(SCANS)]
    assert files_below(tmp_path / "demo" / "panels") == [f"{name}.png" for name in names]


def test_demo_mistakes(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("demo", "--output", tmp_path / "out", "--checkpoint")
    assert error_of(capsys, *words, "nowhere").startswith("nowhere: neither shipped weights")
    message = error_of(capsys, *words, weights, "--acceleration", "0")
    assert "acceleration 0 is not a number of at least 1" in message
    assert not (tmp_path / "out").exists()


def test_table_has_the_means_of_volumes() -> None:
    rows = [{"PSNR": psnr, "SSIM": 0.5, "NMSE": 0.125, "seconds": 1.0} for psnr in (30.0, 31.0)]
    head, first, second = table({"tv": rows, "unnamed": rows[:1]}).splitlines()
    assert head.split() == ["PSNR", "/", "dB", "SSIM", "NMSE", "s", "/", "slice"]
    assert first == "TV (sigpy)               30.50  0.5000  0.12500      1.000"
    assert len(first) == len(second) == len(head)
    assert second.split() == ["unnamed", "30.00", "0.5000", "0.12500", "1.000"]
