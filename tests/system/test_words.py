"""One term for each thing, in what a user reads: README, docs, help and messages keep to the field's words."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from docs.extensions import generated
from tests.support import REPOSITORY

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", ".github/**/*.md", ".github/**/*.yml")
    for page in REPOSITORY.glob(pattern)
)
MODULES = sorted([*(REPOSITORY / "mrihvae").rglob("*.py"), *(REPOSITORY / "docs" / "gallery").glob("*.py")])
TEMPLATES = sorted((REPOSITORY / "mrihvae").rglob("templates/*"))

# What is not written, and what is in its place.
FORBIDDEN = {
    r"(measured|acquired|known) bins?": "acquired k-space samples",
    r"complete scans?": "fully sampled scan",
    r"scans? of (several|many|multiple) coils": "multi-coil scan",
    r"calibration lines?": "calibration region (ACS)",
    r"(one|a|another) look at (the|its) (data|scan)|(one|two|three|four) looks": "an encoder pass",
    r"pass(es)? of r": "an encoder pass",
    r"amortised": "amortized",
    r"told of (the )?data": "measurement-conditioned",
    r"mirrored copies that are averaged": "test-time augmentation",
    r"draws none": "does not support posterior sampling",
    r"how far (the )?data (may )?pull": "data-consistency weight",
    r"what holds (the )?latents": "regularize latents towards the prior or the posterior",
    r"compress(es)? to so many coils": "number of virtual coils",
    r"what becomes of": "coil combination",
    r"told by (its|their) contents?|what a file is, its content says": "detected from the file's contents",
    r"(is )?of no format that is known": "unrecognized format",
    r"(goes|go|went|going) on where": "resumes an interrupted run",
    r"so manieth": "every n-th",
    r"ours": "mrihvae",
    r"of which": "a sentence of its own",
    r"tells? of": "says, reports, contains",
    r"has no use for": "does not apply to, does not use",
    r"takes the package": "needs the package",
    r"what may go wrong": "errors and warnings",
    r"one an? (image|level|slice|file)": "one per image",
    r"check who wrote": "check the program that wrote",
    r"told apart": "distinguished",
    r"(is|are) no (dictionary|object|XML)": "is not a dictionary",
    r"(is|are) like those": "resembles",
    r"people who are in no": "people in no",
    r"at hand": "available",
    r"in an even row": "evenly spaced",
    r"the lesser one": "the smaller one",
    r"none of this module's": "not supported here",
    r"whole or not (there|at all)": "never partial",
    r"holds? no line": "has no lines",
    r"goes with (several|--|images|HDF5|ISMRMRD)": "needs, only applies to",
    r"so many cores": "this many cores",
    r"centre[sd]?": "center",
    r"(colou|behaviou|neighbou)r\w*|grey|licences?|(normal|initial)ised?": "American spelling",
}
WORDS = re.compile(
    "|".join(rf"(?P<w{number}>\b(?:{phrase})\b)" for number, phrase in enumerate(FORBIDDEN)), re.IGNORECASE
)
# Code, options and file names are not words of the text; history is not rewritten.
CODE = re.compile(r"^```.*?^```|`[^`\n]*`|\]\([^)]*\)|<!--.*?-->|--[\w-]+|[\w/-]+\.\w+", flags=re.DOTALL | re.MULTILINE)


def found_in(text: str) -> list[str]:
    """List the forbidden phrases of a text, with what is in their place."""
    hits = []
    for hit in WORDS.finditer(re.sub(r"\s+", " ", text)):
        assert hit.lastgroup is not None
        hits.append(f"'{hit[0]}': write {list(FORBIDDEN.values())[int(hit.lastgroup[1:])]}")
    return hits


def messages_of(path: Path) -> str:
    """Join the strings of a module that are no docstrings."""
    tree = ast.parse(path.read_text())
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, holders) and node.body and isinstance(node.body[0], ast.Expr)
    }
    strings = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]
    return "\n".join(strings)


def test_phrases_are_found() -> None:
    assert found_in("It goes on\nwhere a call stopped.") == ["'goes on where': write resumes an interrupted run"]
    assert found_in("A colorful center of fully sampled multi-coil scans, hours and courses.") == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_pages(page: Path) -> None:
    assert found_in(CODE.sub(" ", page.read_text())) == []


def test_help() -> None:
    assert found_in(generated.commands()) == []


def test_messages() -> None:
    found = {path.relative_to(REPOSITORY).as_posix(): found_in(messages_of(path)) for path in MODULES}
    found |= {path.relative_to(REPOSITORY).as_posix(): found_in(path.read_text()) for path in TEMPLATES}
    assert {path: hits for path, hits in found.items() if hits} == {}
