"""Warnings that belong to a result: collected while it is made, or else logged.

with collect_notices() as notices:
    reconstruct_volume(scan, mask, method)
for text in notices:
    ...

Python's own `warnings` are of a process, not of a result: two threads of a server would take each other's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LOG = logging.getLogger("mrihvae")
_notices: ContextVar[list[str] | None] = ContextVar("notices", default=None)


@contextmanager
def collect_notices() -> Iterator[list[str]]:
    """Collect the warnings of what is done within, each text once."""
    found: list[str] = []
    token = _notices.set(found)
    try:
        yield found
    finally:
        _notices.reset(token)


def warn(text: str) -> None:
    """Add a warning to the result that is being made; log it where there is none."""
    found = _notices.get()
    if found is None:
        LOG.warning(text)
    elif text not in found:
        found.append(text)
