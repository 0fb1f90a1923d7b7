"""What the documentation site makes when it is built: without Sphinx, which is an extra of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.extensions import api, generated
from docs.extensions.docstrings import as_rst, inline
from mrihvae.cli.main import COMMANDS
from tests.support import REPOSITORY

DOCS = REPOSITORY / "docs"


def contents_of(page: Path) -> set[str]:
    """Read the tables of contents of a page."""
    blocks = re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {line for block in blocks for line in block.splitlines() if line and not line.startswith(":")}


def test_every_page_is_in_the_contents() -> None:
    pages = {path.stem for path in DOCS.glob("*.md")} - {"index", "gallery"}  # Sphinx-Gallery makes the latter
    listed = contents_of(DOCS / "index.md") | contents_of(DOCS / "guide.md")
    assert pages == listed - {"_generated/gallery/index"}


def test_every_command_is_described() -> None:
    text = generated.commands()
    for name in COMMANDS:
        assert f"\n## {name}\n\n```text\nUsage: mrihvae {name}" in text
    assert text.count("```") == 2 * (len(COMMANDS) + 1)


def test_every_protocol_is_shown() -> None:
    text = generated.protocols()
    for path in (REPOSITORY / "protocols").glob("*.toml"):
        assert f"\n### {path.stem}\n" in text
        assert path.read_text() in text


def test_every_public_name_is_described(tmp_path: Path) -> None:
    api.write_pages(REPOSITORY / "mrihvae", tmp_path)
    described = {
        name
        for page in tmp_path.iterdir()
        for name in re.findall(r"^\.\. auto(?:class|function):: mrihvae.*\.(\w+)$", page.read_text(), re.MULTILINE)
    }
    for stub in (REPOSITORY / "mrihvae").rglob("__init__.pyi"):
        assert set(api.public_names(stub)) <= described


@pytest.mark.parametrize(
    ("link", "want"),
    [
        ("[x](training.md#shipped-weights)", "[x](training.md#shipped-weights)"),
        ("[x](../CONTRIBUTING.md)", "[x](contributing.md)"),
        ("[x](../benchmarks/README.md#the-rules)", "[x](_generated/benchmarks/README.md#the-rules)"),
        ("[x](../protocols/multicoil.toml)", "[x](protocol_files.md#multicoil)"),
        ("![x](../benchmarks/results/demo.png)", "![x](../benchmarks/results/demo.png)"),
        ("[x](../mrihvae/checkpoints)", "x"),
        ("[x](https://arxiv.org/abs/2303.11217)", "[x](https://arxiv.org/abs/2303.11217)"),
        ("```\n[x](../mrihvae)\n```", "```\n[x](../mrihvae)\n```"),
    ],
)
def test_links_lead_to_pages_of_the_site(link: str, want: str) -> None:
    assert generated.linked(link, DOCS / "method.md", DOCS) == want


def test_copied_pages_link_from_their_place() -> None:
    page = REPOSITORY / "benchmarks" / "results" / "phase.md"
    found = generated.linked(
        "![x](phase.png) [y](../../docs/results.md)", page, generated.GENERATED / "benchmarks/results"
    )
    assert found == "![x](../../../../benchmarks/results/phase.png) [y](../../../results.md)"


def test_docstrings_become_restructured_text() -> None:
    docstring = """Solve a problem of |A x - y|^2.

    It minimizes

        J(x) = |A x - y|^2.

    Parameters
    ----------
    kspace, mask : complex `(H, W)`; see
        `mrihvae.Scan`

    Raises
    ------
    InputError
        Anything.

    Examples
    --------
    >>> 2 * 3
    6
    """.replace("\n    ", "\n").splitlines()
    assert [line for line in as_rst(docstring) if line] == [
        r"Solve a problem of \|A x - y\|^2.",
        "It minimizes",
        "::",
        "    J(x) = |A x - y|^2.",
        ".. rubric:: Parameters",
        "**kspace**, **mask**",
        "    complex ``(H, W)``; see",
        "    :py:obj:`mrihvae.Scan`",
        ".. rubric:: Raises",
        "**InputError**",
        "    Anything.",
        ".. rubric:: Examples",
        ">>> 2 * 3",
        "6",
    ]


def test_code_in_docstrings_ends_where_it_does() -> None:
    assert inline("all `k`s and x_l, z_<l") == "all :py:obj:`k`\\ s and x_l, z\\_<l"
