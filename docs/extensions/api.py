"""Pages of the API: the public names of each subpackage, as its stub has them."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

from .docstrings import as_rst


def write_pages(package: Path, folder: Path) -> None:
    """Write a page for each stub `__init__.pyi` below the package."""
    first = public_names(package / "__init__.pyi")
    for stub in sorted(package.rglob("__init__.pyi")):
        name = ".".join((package.name, *stub.parent.relative_to(package).parts))
        names = public_names(stub)
        shared = [] if name == package.name else [one for one in names if one in first]
        (folder / f"{name}.rst").write_text(page(name, [one for one in names if one not in shared], shared))


def public_names(stub: Path) -> list[str]:
    """List the names that a stub imports from modules, in its order; subpackages are left out."""
    nodes = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
    return [alias.name for node in nodes if node.module for alias in node.names]


def page(package: str, names: list[str], shared: list[str]) -> str:
    """Lay out the page of a subpackage: its docstring, a table of its names, and each of them.

    Names that the package itself has, too, are described there.
    """
    lines = [package, "=" * len(package), "", *as_rst(inspect.cleandoc(_docstring(package)).splitlines())]
    lines += [f".. py:module:: {package}", "", ".. autosummary::", "   :nosignatures:", ""]
    lines += [f"   {name}" for name in names]
    if shared:
        lines += ["", f"Described in :py:mod:`mrihvae`: {', '.join(f':py:obj:`mrihvae.{name}`' for name in shared)}."]
    for name in names:
        directive = "autoclass" if name[0].isupper() else "autofunction"
        lines += ["", f".. {directive}:: {package}.{name}", *(["   :members:"] if directive == "autoclass" else [])]
    return "\n".join(lines) + "\n"


def overview(package: Path, folder: str) -> str:
    """Lay out a table of the pages in a folder, with what each subpackage is for."""
    names = [
        ".".join((package.name, *stub.parent.relative_to(package).parts)) for stub in package.rglob("__init__.pyi")
    ]
    rows = [f"| [{name}]({folder}/{name}.rst) | {_docstring(name).partition(chr(10))[0]} |" for name in sorted(names)]
    return "\n".join(["| package | about |", "| --- | --- |", *rows, ""])


def _docstring(package: str) -> str:
    return inspect.getdoc(importlib.import_module(package)) or ""
