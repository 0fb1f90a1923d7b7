"""Messages of the ISMRMRD protocol that a client sends: the inverse of `mrihvae.io.mrd.messages`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import ismrmrd

from mrihvae.errors import InputError
from mrihvae.io.mrd.messages import CONFIG_NAME_BYTES
from mrihvae.io.mrd.numbers import Number


@dataclass(frozen=True)
class MessageStream:
    """A scan, or images, on the way to a server.

    Attributes
    ----------
    xml : header of the scan
    messages : of acquisitions or images, each whole
    count : number of them
    parameters : text beside the scan that a file has, such as JSON; empty for none
    """

    xml: str
    messages: Iterator[bytes]
    count: int
    parameters: str = ""


def message_of(number: Number, payload: bytes) -> bytes:
    """Return a message of a text, with its length before it."""
    return struct.pack("<HI", number, len(payload)) + payload


def config_message(name: str) -> bytes:
    """Return the message that names a configuration.

    Raises
    ------
    InputError
        A name without letters, or one that is too long.
    """
    letters = name.encode()
    if not 0 < len(letters) < CONFIG_NAME_BYTES or b"\0" in letters:
        raise InputError(f"configuration '{name[:40]}': its name must have 1 to {CONFIG_NAME_BYTES - 1} bytes")
    return struct.pack(f"<H{CONFIG_NAME_BYTES}s", Number.CONFIG_FILE, letters)


def acquisition_message(line: ismrmrd.Acquisition) -> bytes:
    """Return the message of a line."""
    return struct.pack("<H", Number.ACQUISITION) + bytes(line.to_bytes())


def client_messages(stream: MessageStream, config: str, parameters: str = "") -> Iterator[bytes]:
    """Yield all that a client sends: configuration, header, parameters, lines or images, and the close message.

    Parameters
    ----------
    config : name of the configuration
    parameters : text, which replaces that of the stream; empty for its own
    """
    yield config_message(config)
    yield message_of(Number.HEADER, stream.xml.encode())
    if text := parameters or stream.parameters:
        yield message_of(Number.TEXT, text.encode())
    yield from stream.messages
    yield struct.pack("<H", Number.CLOSE)
