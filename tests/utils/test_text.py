"""Text of others: what is escaped, what is not, and logs."""

from __future__ import annotations

import io
import logging
import os
import unicodedata

import pytest

from mrihvae.utils.text import PrintableFormatter, counted, printable


@pytest.mark.parametrize(
    "text, shown",
    [
        ("brain $T_1$ Größe 脳\u3000画像 %s \\x1b", "brain $T_1$ Größe 脳\u3000画像 %s \\x1b"),
        ("\x1b]0;OWNED\x07\x1b[31mRED", "\\x1b]0;OWNED\\x07\\x1b[31mRED"),
        ("a\nb\r\tc\0\x7f\x9b", "a\\x0ab\\x0d\\x09c\\x00\\x7f\\x9b"),
        ("txt.\u202egpj \u2066\u200b\ufeff\u00ad", "txt.\\u202egpj \\u2066\\u200b\\ufeff\\xad"),
        ("a\u2028b\u2029\x85", "a\\u2028b\\u2029\\x85"),
        ("\U000e0001", "\\U000e0001"),
        (os.fsdecode(b"caf\xe9.h5"), "caf\\xe9.h5"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_is_not_printed_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_every_character_can_be_printed_and_encoded() -> None:
    text = printable("".join(map(chr, range(0x110000))))
    text.encode()
    assert not {unicodedata.category(letter) for letter in text} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert printable(text) == text


def test_line_ends_may_stay() -> None:
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_a_record_is_a_line_that_no_terminal_obeys() -> None:
    log, shown = logging.Logger("of this test"), io.StringIO()
    handler = logging.StreamHandler(shown)
    handler.setFormatter(PrintableFormatter("%(levelname)s %(message)s"))
    log.addHandler(handler)
    log.warning("%s", "a\nINFO forged\x1b[31m")
    try:
        raise ValueError("b\nINFO forged\x07")
    except ValueError:
        log.exception("failed")
    lines = shown.getvalue().splitlines()
    assert lines[:3] == ["WARNING a\\x0aINFO forged\\x1b[31m", "ERROR failed", "  Traceback (most recent call last):"]
    assert lines[-2:] == ["  ValueError: b", "  INFO forged\\x07"]


def test_numbers_have_the_noun_that_fits() -> None:
    assert [counted(number, "slice") for number in (0, 1, 2)] == ["0 slices", "1 slice", "2 slices"]
