"""`mrihvae demo`: its tables, pictures and report, what it says to do next, its mistakes."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Shown:
    """A demo of small scans: what it printed, its folder, its options."""

    printed: str
    output: Path
    scans: Path
    weights: Path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Run the demo with small weights on small scans in place of the package's: of one coil, and of several."""
    folder = tmp_path_factory.mktemp("demo")
    scans, weights, output = folder / "demo_scans", folder / "small.safetensors", folder / "out"
    save_weights(weights, small_model(), {})
    single, coils = small_kspace(2, 40, 32).numpy(), coil_scans(1, 3, 32, 32)[0].numpy()
    images = ifft2c(torch.from_numpy(coils)).abs().square().sum(dim=1).sqrt().numpy()
    target = ifft2c(torch.from_numpy(single)).abs().numpy()
    write_scan(scans / "single.h5", single.shape, kspace=single, reconstruction_esc=target)
    write_scan(scans / "coils.h5", coils.shape, kspace=coils, reconstruction_rss=images)
    words = ["demo", "--output", str(output), "--checkpoint", str(weights), "--acceleration", "2"]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(cli_demo, "SCANS", scans)
        assert main(words) == 0
    return Shown(printed.getvalue(), output, scans, weights)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_files(shown: Shown) -> None:
    kinds = ("comparison/{}.png", "panels/{}.png", "reconstructions/{}.h5")
    names = [kind.format(name) for kind in kinds for name in NAMES]
    assert files_below(shown.output) == sorted(["demo.json", "reconstruct.json", "report.html", *names])


def test_tables_are_true(shown: Shown) -> None:
    """Scores are those of the reconstructions that were written, several coils first."""
    scanned = json.loads((shown.output / "demo.json").read_text())["scans"]
    assert [scan["file"] for scan in scanned] == [f"{name}.h5" for name in NAMES]
    for scan in scanned:
        assert list(scan["scores"]) == ["zero-filled", "tv", "hybrid"]
        lines = [table_head(scan["title"]), *(table_row(name, scores) for name, scores in scan["scores"].items())]
        assert "\n".join(lines) in shown.printed
        target = read_scan(shown.scans / scan["file"]).target
        assert target is not None
        scored = score_volume(target, read_dataset(shown.output / "reconstructions" / scan["file"], "reconstruction"))
        for metric in ("PSNR", "SSIM"):
            assert scan["scores"]["hybrid"][metric] == pytest.approx(scored[metric])
        assert scan["scores"]["tv"]["PSNR"] > scan["scores"]["zero-filled"]["PSNR"]


def test_what_to_do_next(shown: Shown) -> None:
    assert f"{shown.output / 'report.html'}: 2 volumes" in shown.printed
    steps = shown.printed.partition("Next, with your own scan:\n")[2].splitlines()
    assert [step.split()[:2] for step in steps] == [["mrihvae", name] for name in ("info", "reconstruct", "report")]
    assert all(step.split()[1] in COMMANDS for step in steps)


def test_demo_reconstructs_as_the_command_does(shown: Shown, tmp_path: Path) -> None:
    words = ["reconstruct", str(shown.scans), "--output", str(tmp_path), "--checkpoint", str(shown.weights)]
    assert main([*words, "--mask-type", "random", "--acceleration", "2"]) == 0
    for name in NAMES:
        file = f"reconstructions/{name}.h5"
        assert np.array_equal(*(read_dataset(folder / file, "reconstruction") for folder in (shown.output, tmp_path)))
    records = [json.loads((folder / "reconstruct.json").read_text()) for folder in (shown.output, tmp_path)]
    same = ("method", "checkpoint", "weights", "inference", "undersampling", "coils", "input")
    assert [records[0][key] for key in same] == [records[1][key] for key in same]


def test_mistakes(
    shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_demo, "SCANS", shown.scans)
    weights = shown.weights
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
    untimed = table_row("tv", {"PSNR": 30.0, "SSIM": 0.5})
    assert untimed == "TV (sigpy)               30.00  0.5000" and len(table_head("x", timed=False)) == len(untimed)
    assert describe_conditions(4, 1) == "Random masks, 4x; 1 CPU thread."
    assert describe_conditions(4, None) == "Random masks, 4x."
    assert describe_conditions(6, 2) == "Random masks, 6x; 2 CPU threads."


def test_scans_of_the_package_have_titles_and_licenses() -> None:
    files = list_files(cli_demo.SCANS)
    licenses = (cli_demo.SCANS / "LICENSES.txt").read_text()
    assert {file.name for file in files} == set(cli_demo.TITLES)
    assert all(file.name in licenses for file in files) and "Copyright (c) 2024 pulseq" in licenses
    assert max(read_head(file).coils for file in files) == 16
    assert sum(file.stat().st_size for file in files) < 3 * 2**20
