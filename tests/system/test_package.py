"""What a build takes into the package."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib

import pytest

from tests.support import REPOSITORY

SETTINGS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
BUILT = SETTINGS["tool"]["setuptools"]


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


def test_only_files_that_are_named_are_built() -> None:
    """Otherwise setuptools takes all of the sdist that lies in a package, and warns of folders that are none."""
    assert BUILT["include-package-data"] is False


def test_the_sdist_has_every_file_but_weights_of_benchmarks() -> None:
    """Its tests run there: they read docs, benchmarks and the settings of CI, too."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("no clone of the repository: it is not known which files belong to it")
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=REPOSITORY, check=True).stdout
    lines = [line.split() for line in (REPOSITORY / "MANIFEST.in").read_text().splitlines() if not line.startswith("#")]
    given = {command: {name for word, *names in lines if word == command for name in names} for command, *_ in lines}
    built = {"mrihvae", "protocols", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"}  # without being told
    left_out = {path for path in listed.splitlines() if any(path.startswith(f"{name}/") for name in given["prune"])}
    assert {path.rpartition("/")[0] for path in left_out} == {"benchmarks/weights"}
    assert {path.partition("/")[0] for path in listed.splitlines()} == given["graft"] | given["include"] | built


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


def test_the_version_is_everywhere_the_same() -> None:
    version = SETTINGS["project"]["version"]
    assert f"\nversion: {version}\n" in (REPOSITORY / "CITATION.cff").read_text()
    assert f"version = {{{version}}}" in (REPOSITORY / "docs" / "citing.md").read_text()
    label = json.loads((REPOSITORY / "protocols" / "openrecon.json").read_text())["general"]
    regulatory = label["regulatory_information"]
    assert label["version"] == regulatory["production_identifier"] == version
    assert regulatory["material_number"] == f"mrihvae_{version}"
    assert re.search(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version


def test_public_functions_take_paths_as_text() -> None:
    stubs = (REPOSITORY / "mrihvae").rglob("__init__.pyi")
    modules = [importlib.import_module(".".join(stub.parent.relative_to(REPOSITORY).parts)) for stub in stubs]
    public = [getattr(module, name) for module in modules for name in module.__all__]
    parameters = [
        (one.__name__, str(each.annotation))
        for one in public
        if inspect.isfunction(one)
        for each in inspect.signature(one).parameters.values()
    ]
    paths = [(name, kind) for name, kind in parameters if "Path" in kind and "Callable" not in kind]
    assert len(paths) > 30 and not [(name, kind) for name, kind in paths if "str" not in kind]


def test_names_of_the_changelog_for_0_1_0_exist() -> None:
    table = (REPOSITORY / "CHANGELOG.md").read_text().partition("In Python, modules lie")[2].partition("### Images")[0]
    rows = [re.findall(r"`(mrihvae\.[\w.]+)`", line) for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) > 20 and all(len(row) >= 2 for row in rows)
    for name in {name for row in rows for name in row[1:]}:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_sessions_that_are_called_exist() -> None:
    tree = ast.parse((REPOSITORY / "noxfile.py").read_text())
    sessions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list}
    pages = [*(REPOSITORY / ".github").rglob("*.*"), REPOSITORY / ".ci" / "run", REPOSITORY / "CONTRIBUTING.md"]
    texts = [re.sub(r"\$\{\{.*?\}\}", "", page.read_text()) for page in pages]
    calls = [call for text in texts for call in re.findall(r"nox (?:--no-venv )?-s ([^\n#`]*)", text)]
    words = [word.lstrip('"') for call in calls for word in call.partition(" -- ")[0].split()]
    called = {re.split(r"\W", word)[0] for word in words}
    assert called <= sessions and {"lint", "types", "tests", "docs", "build", "newest_torch"} <= called


def test_every_job_has_a_limit_of_minutes() -> None:
    pages = [page.read_text() for page in (REPOSITORY / ".github" / "workflows").glob("*.yml")]
    assert len(pages) >= 2 and all(page.count("runs-on:") == page.count("timeout-minutes:") for page in pages)


def test_every_lower_bound_is_a_version_that_can_be_asked_for() -> None:
    """The session `tests` with the lowest versions finds one in every requirement."""
    project = SETTINGS["project"]
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *(one for extra in ("all", "test", "dev") for one in extras[extra])]:
        assert requirement.startswith("mrihvae[") or re.match(r"[\w-]+(>=|==)[\d.]+", requirement), requirement
