"""What commands print: results and progress unless --quiet silences them, and errors always."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from mrihvae.utils.text import printable

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")
RED, YELLOW = "1;31", "33"  # of ANSI
BAR = "{desc}: {percentage:3.0f} % |{bar:30}| {n_fmt} of {total_fmt}{unit}, {remaining} left{postfix}"

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
    file = _errors.get() or sys.stderr
    _write(f"{colored('mrihvae: error:', RED, file)} {printable(str(error).replace(chr(10), ' '))}", file)


def show_warning(name: str, text: str) -> None:
    """Print a warning about a file or a scan on standard error."""
    _write(f"{colored(printable(f'{name}:'), YELLOW, sys.stderr)} {printable(text)}", sys.stderr)


def colored(text: str, color: str, file: TextIO) -> str:
    """Return a text in a color, if it goes to a terminal that shows some and NO_COLOR is not set."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain or file is None or not file.isatty() else f"\x1b[{color}m{text}\x1b[0m"


def progress(items: Iterable[T] | None = None, title: str = "", unit: str = "volume", **further: Any) -> tqdm[T]:
    """Return a progress bar with its name, what is done, and an estimate of the time left; on terminals alone.

    Parameters
    ----------
    items : wrapped by the bar; None for one whose `update` is called
    title : its name
    unit : what is counted, in the singular
    further : parameters of `tqdm.tqdm`
    """
    from tqdm import tqdm  # takes its time; help does without

    options: dict[str, Any] = {"leave": False, "disable": None, "bar_format": BAR, "dynamic_ncols": True, **further}
    return tqdm(items, printable(title), unit=f" {unit}s", **options)


def end_progress() -> None:
    """Close the progress bars that an error left open, so that its message has a line of its own."""
    tqdm = sys.modules.get("tqdm")
    for bar in list(getattr(tqdm.tqdm, "_instances", ())) if tqdm else []:
        bar.close()


def _write(text: str, file: TextIO) -> None:
    """Print a line of its own, also between progress bars."""
    tqdm = sys.modules.get("tqdm")
    (tqdm.tqdm.write if tqdm else print)(text, file=file)
