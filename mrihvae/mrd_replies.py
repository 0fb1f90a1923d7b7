"""Answers in the ISMRMRD protocol, version 1: images, texts and the close, as bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable

import ismrmrd
from ismrmrd.serialization import ISMRMRDMessageID as Number

TOLD = 500  # letters of an error, which may quote what a client sent


def one_line(error: Exception) -> str:
    """Tell of an error in a line."""
    return " ".join(str(error).split())[:TOLD]


class ReplyWriter:
    """Writes answers to a stream.

    Parameters
    ----------
    write : takes the bytes of one whole message
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def image(self, image: ismrmrd.Image) -> None:
        """Write an image."""
        self._write(struct.pack("<H", Number.IMAGE) + image.to_bytes())

    def text(self, text: str) -> None:
        """Write a text."""
        payload = text.encode(errors="replace")  # a client may have sent half a character, which errors quote
        self._write(struct.pack("<HI", Number.TEXT, len(payload)) + payload)

    def close(self) -> None:
        """Write that nothing follows."""
        self._write(struct.pack("<H", Number.CLOSE))
