"""Pages that are made of the package and of files beside docs/: commands, protocols, the changelog, benchmarks."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from . import api

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
GENERATED = DOCS / "_generated"
WIDTH = "94"  # characters of a command's help: as many as the page is wide
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```[^\S\n]*$)", flags=re.DOTALL | re.MULTILINE)
KINDS = {
    "evaluation": ("Evaluations", "mrihvae run {name} --data DIR --output OUT"),
    "training": ("Training", "mrihvae train --protocol {name} --data DIR --output RUN"),
    "benchmark": ("Benchmarks", "{run}"),
}


def copied_pages() -> dict[Path, Path]:
    """Map files of the repository to the documents of the site that show them."""
    pages = {path: path for path in DOCS.glob("*.md")}
    pages |= {ROOT / f"{name.upper()}.md": DOCS / f"{name}.md" for name in ("contributing", "changelog")}
    pages |= {ROOT / "README.md": DOCS / "index.md", DOCS / "gallery.md": GENERATED / "gallery" / "index.rst"}
    pages |= {ROOT / f"{name.upper()}.md": GENERATED / f"{name}.md" for name in ("security", "code_of_conduct")}
    for path in sorted([*ROOT.glob("benchmarks/*.md"), *ROOT.glob("benchmarks/results/*.md")]):
        pages[path] = GENERATED / path.relative_to(ROOT)
    return pages


def write_pages() -> None:
    """Copy pages that are neither in docs/ nor made in memory, with links that lead to documents of the site."""
    for path, target in copied_pages().items():
        if target.is_relative_to(GENERATED) and target.suffix == ".md":
            target.parent.mkdir(parents=True, exist_ok=True)
            text = linked(path.read_text(), path, target.parent)
            title = "" if text.startswith("# ") else f"# {target.stem.replace('_', ' ')}\n\n"  # of tables alone
            below = _contents(":glob:", "*", "results/*") if target.stem == "README" else ""
            target.write_text(title + text + below)


def _contents(*lines: str) -> str:
    """Write a table of contents for the sidebar."""
    return "\n".join(["", "```{toctree}", ":hidden:", *lines[:-1], lines[-1], "```", ""])


def linked(text: str, page: Path, folder: Path) -> str:
    """Rewrite the links of a page of the repository for a document of the site in `folder`."""
    pages = copied_pages()

    def rewritten(found: re.Match[str]) -> str:
        label, (path, _, anchor) = found[1], found[2].partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return found[0]
        target = Path(os.path.normpath(page.parent / path))
        if target in pages:
            link = os.path.relpath(pages[target], folder)
        elif target.parent == ROOT / "protocols" and target.suffix == ".toml":
            link, anchor = os.path.relpath(DOCS / "protocol_files.md", folder), target.stem
        elif target.is_file():
            link = os.path.relpath(target, folder)
        else:  # a folder: the site has no page of it
            return label.removeprefix("[").removesuffix("]")
        return f"{label}({link}{'#' if anchor else ''}{anchor})"

    parts = CODE.split(text)
    return "".join(part if number % 2 else LINK.sub(rewritten, part) for number, part in enumerate(parts))


def commands() -> str:
    """Write the page of all commands: what `--help` prints."""
    from mrihvae.cli.main import COMMANDS

    parts = ["# Command line\n\nWhat `mrihvae COMMAND --help` prints.\n"]
    parts.append(f"```text\n{_help()}```\n")
    parts += [f"## {name}\n\n```text\n{_help(name)}```\n" for name in COMMANDS]
    return "\n".join(parts)


def _help(*words: str) -> str:
    """Return what the command prints."""
    from mrihvae.cli.main import main

    printed = io.StringIO()
    with _environment(COLUMNS=WIDTH, NO_COLOR="1", TERM="dumb"), contextlib.redirect_stdout(printed):
        if main([*words, "--help"]):
            raise RuntimeError(f"mrihvae {' '.join(words)} --help: failed")
    return "\n".join(line.rstrip() for line in printed.getvalue().strip("\n").splitlines()) + "\n"


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def protocols() -> str:
    """Write the page of all protocol files, by kind."""
    parts = [
        "# Protocols",
        "What each [protocol](protocols.md) of the package fixes. `mrihvae protocols NAME` prints one, to be changed.",
    ]
    files = {path: tomllib.loads(path.read_text()) for path in sorted((ROOT / "protocols").glob("*.toml"))}
    for kind, (title, command) in KINDS.items():
        parts.append(f"## {title}")
        for path, content in files.items():
            if content.get("kind") == kind:
                runs = command.format(name=path.stem.removeprefix("train_"), run=content.get("run", ""))
                described = f"{content['description'].rstrip('.')}.\n\n" if "description" in content else ""
                parts.append(f"### {path.stem}\n\n{described}```console\n$ {runs}\n```")
                parts.append(f"```toml\n{path.read_text()}```")
    return "\n\n".join(parts) + "\n"


def changelog() -> str:
    """Return the changelog."""
    page = ROOT / "CHANGELOG.md"
    return linked(page.read_text(), page, DOCS)


def contributing() -> str:
    """Return what those who change the package read."""
    page = ROOT / "CONTRIBUTING.md"
    return linked(page.read_text(), page, DOCS) + _contents("_generated/security", "_generated/code_of_conduct")


MADE: dict[str, Callable[[], str]] = {
    "changelog": changelog,
    "commands": commands,
    "contributing": contributing,
    "protocol_files": protocols,
}


def source(document: str, text: str) -> str:
    """Return the text of a document: made, or as it is with its links rewritten."""
    if document in MADE:
        return MADE[document]()
    page = DOCS / f"{document}.md"
    if page.parent != DOCS or not page.is_file():
        return text
    below = {
        "api": lambda: "\n" + api.overview(ROOT / "mrihvae", "_generated/api"),
        "results": lambda: _contents("_generated/benchmarks/README"),
    }.get(document, str)
    return linked(text, page, DOCS) + below()
