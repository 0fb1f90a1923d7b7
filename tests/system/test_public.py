"""The public face: names of the package and of its subpackages, their stubs, docstrings and examples."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mrihvae
from tests.support import REPOSITORY

PACKAGE = REPOSITORY / "mrihvae"
NAMES = (
    "InferenceSettings", "InputError", "PnPSettings", "ReconstructedImage", "Reconstructor", "Scan", "estimate_maps",
    "evaluate", "load_method", "load_model", "open_kspace", "reconstruct", "reconstruct_scan", "restore_images",
    "sampling_pattern", "save",
)  # fmt: skip
STUBS = sorted(PACKAGE.rglob("__init__.pyi"))
EAGER = {"mrihvae.cli"}  # its one name is that of its module, so that only an import at once keeps it
INTERNAL = {"mrihvae.cli.options", "mrihvae.evaluation.report"}  # parts of a command: no public names


def package_of(path: Path) -> str:
    return ".".join(path.parent.relative_to(REPOSITORY).parts)


def imports_of(stub: Path) -> dict[str, str]:
    """Read from which module each name of a stub comes; subpackages come from the package itself, ""."""
    found = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
    assert all(node.level == 1 and alias.asname == alias.name for node in found for alias in node.names)
    return {alias.name: node.module or "" for node in found for alias in node.names}


ROOMS = {package_of(stub): imports_of(stub) for stub in STUBS}
MODULES = sorted({f"{room}.{module}" for room, names in ROOMS.items() for module in names.values() if module})


def test_every_subpackage_has_public_names() -> None:
    packages = {package_of(path) for path in PACKAGE.rglob("__init__.py")}
    assert set(ROOMS) == packages - EAGER - INTERNAL
    assert {name for name, module in ROOMS["mrihvae"].items() if not module} == {
        room.split(".")[1] for room in packages if room.count(".") == 1
    }


def test_names_of_the_package() -> None:
    assert sorted(mrihvae.__all__) == sorted((*NAMES, "__version__"))


@pytest.mark.parametrize("room", sorted({*ROOMS, *EAGER}))
def test_every_name_resolves_and_has_a_docstring(room: str) -> None:
    package = importlib.import_module(room)
    if room in ROOMS:
        names = {name for name, module in ROOMS[room].items() if module or room != "mrihvae"}
        assert {name for name in package.__all__ if name != "__version__"} == names <= set(dir(package))
    for name in package.__all__:
        value = getattr(package, name)
        text = inspect.getdoc(value) or ""
        assert text and not text.startswith(f"{name}("), f"{room}.{name} has no docstring"  # dataclasses make their own


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_no_name_is_that_of_a_module(room: str) -> None:
    # such a name is the function or the module, by what was imported before
    folder = REPOSITORY.joinpath(*room.split("."))
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert not {name for name, module in ROOMS[room].items() if module} & modules


def test_the_command_line_is_a_function_after_any_imports() -> None:
    code = "import mrihvae.cli.main; from mrihvae.cli import main; print(callable(main), mrihvae.cli.main is main)"
    assert output_of("-c", code) == "True True\n"


def test_import_and_help_load_only_what_is_used() -> None:
    code = (
        "import sys, mrihvae, mrihvae.io, mrihvae.physics; mrihvae.Scan, mrihvae.InferenceSettings, mrihvae.io.mrd;"
        "print({'torch', 'fastmri', 'matplotlib'} & set(sys.modules))"
    )
    assert output_of("-c", code) == "set()\n"


def test_type_checkers_read_the_stubs() -> None:
    # mypy checks the stubs themselves; `imports_of` asserts that their names are exported
    assert (PACKAGE / "py.typed").is_file()
    assert all(not path.with_suffix(".pyi").exists() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def test_functions_and_classes_of_the_package_have_examples() -> None:
    lacking = {name for name in NAMES if ">>>" not in (inspect.getdoc(getattr(mrihvae, name)) or "")}
    assert lacking <= {"InputError", "Scan", "open_kspace"}


def examples() -> list[Any]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name), globs={})]
    return [test for test in found if test.examples]


def test_examples_give_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the examples of all modules of public names, each in an empty folder."""
    failed = []
    tests = examples()
    for number, test in enumerate(tests):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        report: list[str] = []
        if doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append).failed:
            failed.append("".join(report))
    assert not failed, "\n".join(failed)
    assert len(tests) > 30


def output_of(*words: str) -> str:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=REPOSITORY, check=True).stdout
