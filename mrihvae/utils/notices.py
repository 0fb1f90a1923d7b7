"""Warnings that belong to a result: collected while it is made, or else logged.

with collect_notices() as notices:
    reconstruct_volume(scan, mask, method)
for text in notices:
    ...

Python's own `warnings` are of a process, not of a result: two threads of a server would take each other's.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

MAX_ALIKE = 3  # texts of a kind that are kept
MAX_KINDS = 256
OTHERS = "further warnings"
NUMBER = re.compile(r"\d+")
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


class DistinctWarnings:
    """Warnings, each once, and of those that differ in their numbers alone the first `MAX_ALIKE`; the rest is counted.

    So what a scan takes in time and memory does not grow with the square of its lines, whatever is wrong with them.

    Examples
    --------
    >>> from mrihvae.utils.notices import DistinctWarnings
    >>> found = DistinctWarnings()
    >>> [found.add(f"line {k} is damaged") for k in (1, 1, 2, 3, 4, 5)]
    [True, False, True, True, False, False]
    >>> found.left_out()
    ['2 more like: line 1 is damaged']
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._known: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, text: str) -> bool:
        """Add a warning; return whether it is kept."""
        if text in self._known:
            return False
        kind = NUMBER.sub("#", text)
        if kind not in self._first and len(self._first) >= MAX_KINDS:
            kind = OTHERS
        self._counts[kind] += 1
        if self._counts[kind] > MAX_ALIKE or kind == OTHERS:
            return False
        self._first.setdefault(kind, text)
        self._known.add(text)
        self.texts.append(text)
        return True

    def left_out(self) -> list[str]:
        """Return how many warnings of each kind were not kept."""
        counts = {kind: count - (0 if kind == OTHERS else MAX_ALIKE) for kind, count in self._counts.items()}
        return [f"{count} more like: {self._first.get(kind, OTHERS)}" for kind, count in counts.items() if count > 0]
