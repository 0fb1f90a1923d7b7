"""Text of others, as files' names and what clients send, in a form that no terminal, log or figure obeys."""

from __future__ import annotations

import logging
import unicodedata

ESCAPED_BYTES = range(0xDC80, 0xDD00)  # what Python's file names have in place of bytes that are no UTF-8
SPACES = "Zs"  # category: no-break and ideographic spaces move nothing


def printable(text: str, keep: str = "") -> str:
    r"""Return a text with all that is not printed escaped, as `\x1b`.

    That is control characters (escape, bell, line ends, tabs), format characters (those that change the direction of
    writing, zero-width ones), separators of lines and paragraphs, characters that Unicode has not assigned, and halves
    of characters. A byte of a file name that is no UTF-8 is shown as this byte, `\xff`. Spaces, letters of all scripts,
    the backslash and `$` stay as they are. The result can be encoded as UTF-8.

    Parameters
    ----------
    text : from outside
    keep : characters that stay, such as "\n" in a text of several lines
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter in keep or _is_printed(letter) else _escape(letter) for letter in text)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: "1 slice", "2 slices"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _is_printed(letter: str) -> bool:
    return letter.isprintable() or unicodedata.category(letter) == SPACES


def _escape(letter: str) -> str:
    number = ord(letter)
    if number in ESCAPED_BYTES:
        number -= 0xDC00
    if number < 2**8:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 2**16 else f"\\U{number:08x}"


class PrintableFormatter(logging.Formatter):
    """Formats records of a log in printable text: a line a record, further lines of a traceback indented.

    So nothing that a client sends looks like a record of its own.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line of a record."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802
        """Return a traceback, indented."""
        lines = super().formatException(ei).split("\n")  # type: ignore[arg-type]
        return "\n".join(f"  {printable(line)}" for line in lines)
