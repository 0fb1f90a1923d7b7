"""The error that mrihvae raises for bad input, and helpers for its messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input from outside: a file, a setting or a command-line value.

    The message is one line that names the thing, what is wrong with it and what to do. Commands print it
    and end with status 2; library callers can catch it as a `ValueError`.
    """


class OutputError(InputError):
    """Results that cannot be written, such as on a full disk: those of further files could not be, either."""


def reason(error: BaseException, line: int = 0) -> str:
    """Return one line of an error's message, by default the first, or its type where it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[line].strip()


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is most like an unknown one."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)[0]
