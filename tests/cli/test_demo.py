"""`mrihvae demo`: its tables, pictures and report, what it says to do next, its mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mrihvae.cli import demo as cli_demo
from mrihvae.cli.demo import describe_conditions, table_head, table_row
from mrihvae.cli.main import COMMANDS, main
from mrihvae.evaluation.scores import score_volume
from mrihvae.io.fastmri import read_head, read_scan
from mrihvae.io.formats import list_files
from mrihvae.io.hdf5 import read_dataset
from mrihvae.model.weights import save_weights
from mrihvae.physics.fourier import ifft2c
from tests.support.files import error_of, write_scan
from tests.support.small import small_kspace, small_model
from tests.support.small_coils import coil_scans

NAMES = ("coils", "single")  # in the order in which they are shown


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Write weights of a small network."""
    path = tmp_path / "weights" / "small.safetensors"
    path.parent.mkdir()
    save_weights(path, small_model(), {})
    return path


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write small scans in place of the package's: of one coil, and of several."""
    folder = tmp_path / "demo_scans"
    single, coils = small_kspace(2, 48, 40).numpy(), coil_scans(1, 3, 40, 40)[0].numpy()
    images = ifft2c(torch.from_numpy(coils)).abs().square().sum(dim=1).sqrt().numpy()
    target = ifft2c(torch.from_numpy(single)).abs().numpy()
    write_scan(folder / "single.h5", single.shape, kspace=single, reconstruction_esc=target)
    write_scan(folder / "coils.h5", coils.shape, kspace=coils, reconstruction_rss=images)
    monkeypatch.setattr(cli_demo, "SCANS", folder)
    return folder


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_demo(scans: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its tables are true, and its folder is that of `mrihvae reconstruct`; system tests have the shipped weights."""
    output = tmp_path / "demo"
    words = ["demo", "--output", str(output), "--checkpoint", str(weights), "--acceleration", "2"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    kinds = ("comparison/{}.png", "panels/{}.png", "reconstructions/{}.h5")
    expected = [
        "demo.json",
        "reconstruct.json",
        "report.html",
        *(kind.format(name) for kind in kinds for name in NAMES),
    ]
    assert files_below(output) == sorted(expected)
    results = json.loads((output / "demo.json").read_text())
    assert [scan["file"] for scan in results["scans"]] == ["coils.h5", "single.h5"]
    for scan in results["scans"]:
        assert list(scan["scores"]) == ["zero-filled", "tv", "hybrid"]
        lines = [table_head(scan["title"]), *(table_row(name, scores) for name, scores in scan["scores"].items())]
        assert "\n".join(lines) in printed
        target = read_scan(scans / scan["file"]).target
        assert target is not None
        found = read_dataset(output / "reconstructions" / scan["file"], "reconstruction")
        scored = score_volume(target, found)
        assert scan["scores"]["hybrid"]["PSNR"] == pytest.approx(scored["PSNR"])
        assert scan["scores"]["hybrid"]["SSIM"] == pytest.approx(scored["SSIM"])
        assert scan["scores"]["tv"]["PSNR"] > scan["scores"]["zero-filled"]["PSNR"]
    order = printed.index("coils"), printed.index("single"), printed.index(str(output / "report.html"))
    assert order == tuple(sorted(order)) and "open it in a browser" in printed
    steps = printed.partition("Next, with a scan of your own:\n")[2].splitlines()
    assert [line.split()[0] for line in steps] == ["mrihvae"] * 3 and {line.split()[1] for line in steps} < set(
        COMMANDS
    )
    assert main(words) == 0  # a second demo replaces the first


def test_demo_reconstructs_as_the_command_does(scans: Path, weights: Path, tmp_path: Path) -> None:
    options = ["--checkpoint", str(weights)]
    assert main(["demo", "--output", str(tmp_path / "demo"), *options]) == 0
    words = ["reconstruct", str(scans), "--output", str(tmp_path / "out"), "--mask-type", "random", *options]
    assert main(words) == 0
    for name in NAMES:
        found = [
            read_dataset(tmp_path / one / "reconstructions" / f"{name}.h5", "reconstruction") for one in ("demo", "out")
        ]
        assert np.array_equal(*found)
    records = [json.loads((tmp_path / one / "reconstruct.json").read_text()) for one in ("demo", "out")]
    same = ("method", "checkpoint", "weights", "inference", "undersampling", "coils", "input")
    assert [{key: record[key] for key in same} for record in records[:1]] == [{key: records[1][key] for key in same}]


def test_demo_mistakes(scans: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("demo", "--output", tmp_path / "out", "--checkpoint")
    assert error_of(capsys, *words, "nowhere").startswith("nowhere: neither shipped weights")
    message = error_of(capsys, *words, weights, "--acceleration", "0")
    assert "acceleration 0 is not a number of at least 1" in message
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "reconstruct.json").write_text("{}")
    assert "has results of another command (reconstruct.json)" in error_of(capsys, *words, weights)


def test_lines_of_tables_are_as_long() -> None:
    head = table_head("3 T, 16 coils")
    row = table_row("tv", {"PSNR": 30.0, "SSIM": 0.5, "seconds": 1.0})
    assert row == "TV (sigpy)               30.00  0.5000       1.00" and len(head) == len(row)
    assert table_row("unnamed", {"PSNR": 1.0, "SSIM": 0.25, "seconds": 12.0}).split() == [
        "unnamed",
        "1.00",
        "0.2500",
        "12.00",
    ]
    assert describe_conditions(4, 1) == "Random masks, 4x; 1 CPU thread."
    assert describe_conditions(6, 2) == "Random masks, 6x; 2 CPU threads."


def test_scans_of_the_package_have_titles_and_licenses() -> None:
    files = list_files(cli_demo.SCANS)
    licenses = (cli_demo.SCANS / "LICENSES.txt").read_text()
    assert {file.name for file in files} == set(cli_demo.TITLES)
    assert all(file.name in licenses for file in files) and "Copyright (c) 2024 pulseq" in licenses
    assert max(read_head(file).coils for file in files) == 16
    assert sum(file.stat().st_size for file in files) < 3 * 2**20
