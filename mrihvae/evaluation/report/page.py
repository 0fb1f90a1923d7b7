"""The page of a report: jinja2 fills the templates, which hold all markup."""

from __future__ import annotations

import base64
import hashlib
import math
from importlib import resources

from mrihvae.evaluation.report.data import Report
from mrihvae.evaluation.report.pictures import color_tables
from mrihvae.evaluation.report.terms import TERMS, glossary

SCRIPTS = ("common.js", "table.js", "viewers.js", "chart.js", "record.js")  # in the order in which they run


def render(report: Report) -> str:
    """Return the HTML, which loads nothing, runs no script but its own, and shows every outside string as text."""
    import jinja2  # no other command needs it

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["sha256"] = _sha256
    environment.tests["infinite"] = math.isinf
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    style, script = _read("style.css"), "\n".join(map(_read, SCRIPTS))
    page = environment.get_template("report.html")
    about = {"words": glossary(report.method), "terms": TERMS}
    return page.render(report=report, style=style, script=script, color_tables=color_tables(), **about)


def _read(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    """Return the source expression that allows an inline style or script in the page's policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
