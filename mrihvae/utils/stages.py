"""Where the time of a reconstruction goes: seconds of its stages, for whoever asks.

with record_stages() as seconds:
    reconstruct_volume(scan, mask, method)
seconds["maps"]
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_seconds: ContextVar[dict[str, float] | None] = ContextVar("seconds", default=None)


@contextmanager
def record_stages() -> Iterator[dict[str, float]]:
    """Collect the seconds of the stages within, by name; a record inside another one takes them for itself."""
    found: dict[str, float] = {}
    token = _seconds.set(found)
    try:
        yield found
    finally:
        _seconds.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count what is done within to a stage of the record, if there is one."""
    record = _seconds.get()
    if record is None:
        yield
        return
    began = time.perf_counter()
    try:
        yield
    finally:
        record[name] = record.get(name, 0.0) + time.perf_counter() - began
