"""What the README says: its commands exist, and what it shows of the package works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from benchmarks import tables
from mrihvae.cli.demo import SCANS
from mrihvae.cli.main import COMMANDS, main
from mrihvae.model.shipped import SHIPPED
from mrihvae.model.weights import load_model
from tests.support import REPOSITORY

README = REPOSITORY / "README.md"
BLOCKS = re.findall(r"```console\n(.*?)```", README.read_text(), flags=re.DOTALL)
LINES = [line.removeprefix("$ ").split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
CALLS = [call.strip() for line in LINES for call in line.split("&&") if call.strip().startswith("mrihvae ")]


def test_readme_shows_every_command() -> None:
    assert {call.split()[1] for call in CALLS} == set(COMMANDS)


@pytest.mark.parametrize("call", CALLS)
def test_options_exist(call: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With --help at the end, argparse refuses what it does not know and explains the rest."""
    arguments = shlex.split(call)[1:]
    options = {word for word in arguments if word.startswith("--")}
    assert main([arguments[0], "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in options), options


def test_main_job_on_the_packages_own_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the README's reconstruct and evaluate on the scans of the package, with the shipped weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").symlink_to(SCANS)
    calls = [call for call in CALLS if "full/" in call]
    assert len(calls) == 2
    for call in calls:
        assert main(shlex.split(call)[1:]) == 0
    names = {path.name for path in SCANS.glob("*.h5")}
    assert {path.name for path in (tmp_path / "out" / "reconstructions").iterdir()} == names


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped weights beat zero-filling by 1 dB, and the wavelet and TV, on the shipped scans."""
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    rows = {line[:20].strip(): line[20:].split() for line in capsys.readouterr().out.splitlines() if "0." in line[20:]}
    psnr = {name: float(numbers[0]) for name, numbers in rows.items() if len(numbers) == 4}
    assert psnr["ours, hybrid"] > psnr["zero-filled"] + 1.0
    assert psnr["ours, hybrid"] > max(psnr["L1-wavelet (sigpy)"], psnr["TV (sigpy)"])


def test_files_that_the_readme_names_exist() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README.read_text()):
        if not link.startswith("http"):
            assert (README.parent / link).exists(), link


def test_tables_are_those_of_the_results() -> None:
    assert tables.main(["--check"]) == 0


def test_shipped_weights_are_small_and_load() -> None:
    for path in SHIPPED.glob("*.safetensors"):
        assert path.stat().st_size <= 16 * 2**20
    for path in SHIPPED.glob("*.json"):  # beside the first part of the weights
        load_model(path.stem)
