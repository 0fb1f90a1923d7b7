"""What a build takes into the package."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

from tests.support import REPOSITORY

BUILT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_folder_of_modules_is_built() -> None:
    folders = {path.parent.relative_to(REPOSITORY) for path in (REPOSITORY / "mrihvae").rglob("*.py")}
    assert {".".join(folder.parts) for folder in folders} == set(BUILT["packages"]) - {"mrihvae.protocol_files"}
    assert all((REPOSITORY / folder / "__init__.py").is_file() for folder in folders)


def test_every_file_that_is_no_module_is_built() -> None:
    named = {
        path
        for package, patterns in BUILT["package-data"].items()
        if package != "mrihvae.protocol_files"
        for pattern in patterns
        for path in REPOSITORY.joinpath(*package.split(".")).glob(pattern)
    }
    there = {
        path
        for path in (REPOSITORY / "mrihvae").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
    }
    assert named == there


COMMANDS = ("convert", "demo", "evaluate", "filter", "protocols", "reconstruct", "report", "restore", "run", "sample",
            "serve", "simulate", "train")  # fmt: skip


@pytest.mark.parametrize("words", [("-c", "import mrihvae"), *(("-m", "mrihvae", name, "--help") for name in COMMANDS),
                                   ("-m", "mrihvae", "protocols")])  # fmt: skip
def test_help_loads_no_torch(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mrihvae" in loaded and not loaded & {"torch", "fastmri", "sigpy", "matplotlib", "jinja2", "pydantic"}


def test_the_backend_of_matplotlib_stays() -> None:
    code = "import matplotlib as m; m.use('svg'); import mrihvae; mrihvae.Reconstructor; print(m.get_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == "svg\n"
