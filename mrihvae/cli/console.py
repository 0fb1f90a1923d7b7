"""What commands print: results and progress unless --quiet silences them, and errors always."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO

from mrihvae.utils.text import printable

_errors: ContextVar[TextIO | None] = ContextVar("errors", default=None)


@contextmanager
def silence() -> Iterator[None]:
    """Silence standard output and error within, but for `show_error`."""
    token = _errors.set(sys.stderr)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            try:
                yield
            finally:
                end_progress()  # while there is somewhere to write
    finally:
        _errors.reset(token)


def show_error(error: object) -> None:
    """Print an error in one line on standard error."""
    _write(f"mrihvae: error: {printable(str(error).replace(chr(10), ' '))}", _errors.get() or sys.stderr)


def show_warning(name: str, text: str) -> None:
    """Print a warning about a file or a scan on standard error."""
    _write(printable(f"{name}: {text}"), sys.stderr)


def end_progress() -> None:
    """Close the progress bars that an error left open, so that its message has a line of its own."""
    tqdm = sys.modules.get("tqdm")
    for bar in list(getattr(tqdm.tqdm, "_instances", ())) if tqdm else []:
        bar.close()


def _write(text: str, file: TextIO) -> None:
    """Print a line of its own, also between progress bars."""
    tqdm = sys.modules.get("tqdm")
    (tqdm.tqdm.write if tqdm else print)(text, file=file)
