"""XML from outside: without document types and entities, which can grow to any size or read files, and not too deep."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

LARGEST = 2**22  # letters: an element takes some 30 times as many bytes as letters
MAX_DEPTH = 64  # elements within each other: headers of scans have less than 10


class DocumentTypeError(ValueError):
    """XML with a document type or entities."""


def parse_xml(text: str) -> ElementTree.Element:
    """Return the root of an XML document.

    Raises
    ------
    DocumentTypeError
        It has a document type, or entities.
    ValueError
        It is no XML, longer than `LARGEST`, or its elements are nested too deep.
    """
    if len(text) > LARGEST:
        raise ValueError(f"it has {len(text)} letters; at most {LARGEST} are read")
    try:
        root: ElementTree.Element = defusedxml.ElementTree.fromstring(text, forbid_dtd=True)
    except DefusedXmlException as error:
        raise DocumentTypeError("it has a document type") from error
    except defusedxml.ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    level, depth = [root], 0
    while level:
        level, depth = [child for element in level for child in element], depth + 1
        if depth > MAX_DEPTH:
            raise ValueError(f"elements are nested more than {MAX_DEPTH} deep")
    return root
