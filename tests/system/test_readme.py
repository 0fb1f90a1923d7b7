"""What README.md and docs/ say: commands and links exist, Python blocks run, and tables are those of the results."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import tables
from mrihvae.cli.demo import SCANS
from mrihvae.cli.main import COMMANDS, main
from mrihvae.io.fastmri import read_head
from mrihvae.model.shipped import SHIPPED, shipped_cards
from mrihvae.model.weights import load_model
from tests.support import REPOSITORY
from tests.support.files import write_scan
from tests.support.small import small_kspace
from tests.support.small_coils import calibrated, coil_scans

README = REPOSITORY / "README.md"
PAGES = [README, *sorted(REPOSITORY.glob("docs/*.md"))]
LINKED = [
    *PAGES,
    *sorted(REPOSITORY.glob("benchmarks/*.md")),
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
]
MOST_WORDS = 1000  # of the README; what it has no room for is in docs/


def blocks_of(page: Path, language: str) -> list[str]:
    """Find the code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def calls_of(page: Path) -> list[str]:
    """Find the calls of mrihvae in the console blocks of a page."""
    lines = [
        line.removeprefix("$ ").split("#")[0] for block in blocks_of(page, "console") for line in block.splitlines()
    ]
    return [call.strip() for line in lines for call in line.split("&&") if call.strip().startswith("mrihvae ")]


def anchors_of(page: Path) -> set[str]:
    """Make the anchors of the headings of a page, as GitHub does."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


CALLS = calls_of(README)
WITH_PYTHON = [page for page in PAGES if blocks_of(page, "python")]


def test_readme_is_short() -> None:
    assert len(README.read_text().split()) <= MOST_WORDS


def test_pages_show_every_command() -> None:
    assert {call.split()[1] for page in PAGES for call in calls_of(page)} == set(COMMANDS)


@pytest.mark.parametrize("call", dict.fromkeys(call for page in PAGES for call in calls_of(page)))
def test_options_exist(call: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of a command names its options."""
    arguments = shlex.split(call)[1:]
    options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    assert main([arguments[0], "--help"]) == 0
    assert options <= set(capsys.readouterr().out.split())


def test_main_job_on_the_packages_own_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the README's reconstruct and evaluate on the scans of the package, with the shipped weights."""
    monkeypatch.chdir(tmp_path)
    single = [path for path in SCANS.glob("*.h5") if read_head(path).coils == 1]
    (tmp_path / "full").mkdir()
    for path in single:
        (tmp_path / "full" / path.name).symlink_to(path)
    calls = [call for call in CALLS if "full/" in call]
    assert len(calls) == 2
    for call in calls:
        assert main(shlex.split(call)[1:]) == 0
    names = {path.name for path in single}
    assert {path.name for path in (tmp_path / "out" / "reconstructions").iterdir()} == names


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped weights beat zero-filling by 1 dB, and TV, on the shipped scans, as docs/quickstart.md shows."""
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    results = [path / "demo.json" for path in (tmp_path / "mrihvae-demo", REPOSITORY / "benchmarks" / "results")]
    found, shown = (json.loads(path.read_text())["scans"] for path in results)
    for scan in found:
        psnr = {name: scores["PSNR"] for name, scores in scan["scores"].items()}
        assert psnr["hybrid"] > max(psnr["zero-filled"] + 1.0, psnr["tv"])
    assert [scan["file"] for scan in found] == [scan["file"] for scan in shown]
    for one, other in zip(found, shown):  # `python -m benchmarks.demo` renews them
        for name, scores in one["scores"].items():
            assert other["scores"][name]["PSNR"] == pytest.approx(scores["PSNR"], abs=0.05), name
            assert other["scores"][name]["SSIM"] == pytest.approx(scores["SSIM"], abs=0.002), name


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the scans that Python blocks name: of one coil, fully sampled and not, and of several."""
    folder = tmp_path_factory.mktemp("scans")
    lines, complete, coils = calibrated(64), small_kspace(2, 64, 64).numpy(), coil_scans(2, 4, 64, 64)[0].numpy()
    no_target: dict[str, Any] = {"reconstruction_esc": None, "reconstruction_rss": None}
    write_scan(folder / "full" / "scan.h5", complete.shape, kspace=complete, **no_target)
    for path, kspace in ((folder / "scan.h5", complete), (folder / "multicoil_test" / "scan.h5", coils)):
        undersampled = np.where(lines.numpy(), kspace, 0)
        write_scan(path, kspace.shape, kspace=undersampled, mask=lines.numpy(), **no_target)
    return folder


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_blocks_run(page: Path, scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks of a page one after the other, with nothing but what they import and define themselves."""
    monkeypatch.chdir(scans)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks_of(page, "python"):
        exec(compile(block, str(page), "exec"), names)
    for name, value in names.items():
        if isinstance(value, torch.Tensor):
            assert torch.isfinite(value).all(), name


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_of_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors_of(target), link


def test_tables_are_those_of_the_results() -> None:
    assert tables.main(["--check"]) == 0


def test_shipped_weights_are_small_and_load() -> None:
    for path in SHIPPED.glob("*.safetensors"):
        assert path.stat().st_size <= 16 * 2**20
    for path in shipped_cards():  # beside the first part of the weights
        load_model(path.stem)
