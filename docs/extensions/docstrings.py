"""The package's docstrings as reStructuredText.

They have numpydoc's sections, with the description of a parameter beside its name, and are else plain text: `|A x|^2`
is no substitution, and indented lines are equations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

LISTS = ("Parameters", "Attributes")  # whose entries are "names : description"
NAMES = re.compile(r"\*{0,2}\w+(, \*{0,2}\w+)*")
ENTRY = re.compile(rf"({NAMES.pattern}) : (.*)")
BULLET = re.compile(r"[*-] ")


def setup(app: Any) -> dict[str, bool]:
    """Connect to autodoc."""
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-process-signature", _shorten)
    return {"parallel_read_safe": True}


def _process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = as_rst(lines)


def _shorten(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Write what Sphinx could not parse, and then would show without links, in other words."""
    short = [text and text.replace("<factory>", "...").replace("~typing.", "") for text in (signature, returned)]
    return short[0], short[1]


def as_rst(lines: Sequence[str]) -> list[str]:
    """Convert the lines of a docstring."""
    found: list[str] = []
    for title, body in _sections(lines):
        if title:
            found += [f".. rubric:: {title}", ""]
        if title in LISTS or (title == "Returns" and _is_list(body)):
            found += _definitions(body)
        elif title == "Raises":
            found += _raised(body)
        else:
            found += _blocks(body)
        found.append("")
    return found


def _sections(lines: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Split at underlined titles; the first section has none."""
    sections: list[tuple[str, list[str]]] = [("", [])]
    for line, after in zip(lines, [*lines[1:], ""]):
        if line and after == "-" * len(line):
            sections.append((line, []))
        elif not (sections[-1][0] and line == "-" * len(sections[-1][0])):
            sections[-1][1].append(line)
    return sections


def _is_list(body: Sequence[str]) -> bool:
    return any(ENTRY.fullmatch(line) for line in body)


def _definitions(body: Sequence[str]) -> list[str]:
    """Convert "names : description" to a list of definitions."""
    found: list[str] = []
    for line in body:
        if entry := ENTRY.fullmatch(line):
            names = ", ".join(f"**{name.lstrip('*')}**" for name in entry[1].split(", "))
            found += ["", names, f"    {inline(entry[3])}"]
        else:
            found.append(f"    {inline(line.strip())}" if line.strip() else "")
    return found


def _raised(body: Sequence[str]) -> list[str]:
    """Convert errors and their descriptions to a list of definitions."""
    return [f"    {inline(line.strip())}" if line[:1] == " " else line and f"**{line}**" for line in body]


def _blocks(body: Sequence[str]) -> list[str]:
    """Convert paragraphs, lists, examples and equations."""
    found: list[str] = []
    listed = example = literal = False
    for line in body:
        if not line.strip():
            found.append("")
            listed = example = literal = False
            continue
        fresh = not (found and found[-1])
        if fresh and line.startswith(">>> "):
            example = True
        elif fresh and line.startswith("    "):
            found += ["::", ""]
            literal = True
        if example or literal:
            found.append(line)
            continue
        if BULLET.match(line):
            if not listed and not fresh:
                found.append("")
            listed = True
            found.append(line[:2] + inline(line[2:]))
        else:
            found.append(("  " if listed else "") + inline(line.strip()))
    return found


def inline(text: str) -> str:
    """Convert a line of plain text with code in backticks."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # code that goes on in the next line
        return _escaped(text)
    found = ""
    for number, part in enumerate(parts):
        if number % 2 == 0:
            found += _escaped(part)
            continue
        role = ":py:obj:" if re.fullmatch(r"[A-Za-z_][\w.]*", part) else ""
        before = "\\ " if found[-1:].isalnum() else ""
        after = "\\ " if parts[number + 1][:1].isalnum() else ""
        found += f"{before}{role}`{part}`{after}" if role else f"{before}``{part}``{after}"
    return found


def _escaped(text: str) -> str:
    return re.sub(r"([\\*|`]|(?<=\w)_(?!\w))", r"\\\1", text)
