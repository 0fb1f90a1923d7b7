"""Where the time of a reconstruction goes: seconds of its stages, for whoever asks.

with record_stages() as seconds:
    reconstruct_volume(scan, mask, method)
seconds["maps"]

A stage within another one counts for itself alone, so that the seconds of all stages add up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_seconds: ContextVar[dict[str, float] | None] = ContextVar("seconds", default=None)
_within: ContextVar[list[float] | None] = ContextVar("within", default=None)  # seconds of stages inside the present one


@contextmanager
def record_stages() -> Iterator[dict[str, float]]:
    """Collect the seconds of the stages within, by name; a record inside another one takes them for itself."""
    found: dict[str, float] = {}
    token, outer = _seconds.set(found), _within.set(None)
    try:
        yield found
    finally:
        _seconds.reset(token)
        _within.reset(outer)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count what is done within to a stage of the record, if there is one, but for the stages inside it."""
    record = _seconds.get()
    if record is None:
        yield
        return
    outer, inner = _within.get(), [0.0]
    token = _within.set(inner)
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - began
        _within.reset(token)
        record[name] = record.get(name, 0.0) + seconds - inner[0]
        if outer is not None:
            outer[0] += seconds
