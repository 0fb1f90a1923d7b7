"""Settings of the documentation site: `python -m sphinx -W -b html docs docs/_build/html`."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from extensions import api, generated  # noqa: E402

import mrihvae  # noqa: E402

warnings.filterwarnings("ignore", message="Matplotlib is currently using agg")

project = "mrihvae"
author = "The mrihvae developers"
copyright = "The mrihvae developers"
version = release = mrihvae.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "extensions.docstrings",
    "extensions.mathml",
]
exclude_patterns = ["_build", "gallery", "gallery.md", "extensions"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # as GitHub makes them
suppress_warnings = ["myst.header"]  # pages of results may begin below the first level
html_math_renderer = "mathml"

smartquotes = False  # would make a dash of --options
default_role = "code"  # of comments of the gallery
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "_generated/gallery",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "reset_modules": (),
    "remove_config_comments": True,
    "capture_repr": (),
    "show_signature": False,
    "write_computation_times": False,
}

html_theme = "pydata_sphinx_theme"
html_title = f"mrihvae {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
    "article_header_start": ["breadcrumbs"],
}
ALONE = ("index", "install", "quickstart", "method", "commands", "protocol_files", "citing", "changelog")  # none below
html_sidebars: dict[str, list[str]] = {page: [] for page in ALONE}
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True


def setup(app: Any) -> None:
    """Make the generated pages, and connect what changes the others."""
    folder = generated.GENERATED
    for name in ("api", "benchmarks"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    generated.write_pages()
    api.write_pages(HERE.parent / "mrihvae", folder / "api")
    app.connect("source-read", _read)


def _read(app: Any, document: str, content: list[str]) -> None:
    content[0] = generated.source(document, content[0])
