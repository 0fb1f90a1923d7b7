"""XML from outside: what is refused of it."""

from __future__ import annotations

import pytest

from mrihvae.io.mrd.strict_xml import MAX_DEPTH, DocumentTypeError, parse_xml

BOMB = "<!DOCTYPE a [<!ENTITY b 'lol'><!ENTITY c '&b;&b;&b;'>]><a>&c;</a>"


def test_usual_xml_is_read() -> None:
    root = parse_xml('<?xml version="1.0" encoding="utf-8"?><a xmlns="x"><b>&lt;é</b></a>')
    assert root.tag == "{x}a" and root.findtext("{*}b") == "<é"
    assert parse_xml("<a>" * MAX_DEPTH + "</a>" * MAX_DEPTH).tag == "a"


@pytest.mark.parametrize(
    "text", [BOMB, "<!DOCTYPE a><a/>", "<!DOCTYPE a SYSTEM 'file:///etc/hostname'><a/>", "<!DOCTYPE a [<!ENTITY"]
)
def test_document_types_are_refused(text: str) -> None:
    with pytest.raises(DocumentTypeError, match="it has a document type"):
        parse_xml(text)


@pytest.mark.parametrize(
    "text, word",
    [
        ("", "no element found"),
        ("<a>", "no element found"),
        ("<a>&b;</a>", "undefined entity"),
        ("<a>\0</a>", "not well-formed"),
        ("<a>" * 100000, "no element found"),
        ("<a>" * 100000 + "</a>" * 100000, f"elements are nested more than {MAX_DEPTH} deep"),
        ("<a>\ud800</a>", "surrogates not allowed"),
    ],
)
def test_what_is_no_xml_or_too_deep(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse_xml(text)
