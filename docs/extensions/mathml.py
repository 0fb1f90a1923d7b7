"""Equations as MathML, which browsers show by themselves: no script, nothing from a network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

LOG = logging.getLogger(__name__)


def setup(app: Any) -> dict[str, bool]:
    """Add the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(self: Any, node: Any) -> None:
    self.body.append(_converted(node, "inline"))
    raise nodes.SkipNode


def _block(self: Any, node: Any) -> None:
    self.body.append(f'<div class="equation">{_converted(node, "block")}</div>')
    raise nodes.SkipNode


def _converted(node: Any, display: str) -> str:
    """Convert an equation; a command that is unknown, and would be shown as it is, gives a warning."""
    found: str = convert(node.astext().strip(), display=display)
    if unknown := re.findall(r"\\[A-Za-z]+", found):
        LOG.warning("no MathML for %s", ", ".join(unknown), location=node)
    return found
