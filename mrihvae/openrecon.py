"""The reconstruction as a module of python-ismrmrd-server, which OpenRecon and FIRE run: put its name as the config."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import ismrmrd

from mrihvae.errors import InputError
from mrihvae.io.mrd.messages import Config, Header, Message, ReceivedImage
from mrihvae.server.engine import Engine, load_engine
from mrihvae.server.request import Request
from mrihvae.server.session import reconstruct_stream

STORED = Request(pixels="short")  # scanners store 16 bits


def process(connection: Any, config: Any, metadata: Any) -> None:
    """Reconstruct a scan.

    Parameters
    ----------
    connection : of python-ismrmrd-server: gives acquisitions and images, sends images, texts and the close
    config : name of a configuration, JSON or dictionary of parameters (see `mrihvae.server.request.Request`)
    metadata : the header, as `ismrmrd.xsd` reads it, or its text
    """
    replies = _Replies(connection)
    try:
        reconstruct_stream(_messages(connection, config, metadata), _engine(), replies)
    except InputError as error:
        connection.send_logging("ERROR   ", f"mrihvae: {error}")
    except Exception:
        connection.send_logging("ERROR   ", "mrihvae: the reconstruction failed; see the server's log")
        raise
    finally:
        connection.send_close()


@lru_cache(maxsize=1)
def _engine() -> Engine:
    """Load weights once in a process."""
    return replace(load_engine(None), request=STORED)


def _messages(connection: Any, config: Any, metadata: Any) -> Iterator[Message]:
    if config:
        yield Config(config if isinstance(config, str) else json.dumps(config), False)
    xml = metadata if isinstance(metadata, str | bytes) else ismrmrd.xsd.ToXML(metadata)
    yield Header(xml.decode() if isinstance(xml, bytes) else xml)
    for item in connection:
        if item is None:
            return
        if isinstance(item, ismrmrd.Acquisition):
            yield item
        elif isinstance(item, ismrmrd.Image):  # waveforms, and whatever else comes, are left aside
            yield ReceivedImage(item.getHead(), item.attribute_string.encode(), item.data)


class _Replies:
    """Answers through a connection of python-ismrmrd-server."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def image(self, image: ismrmrd.Image | ReceivedImage) -> None:
        if isinstance(image, ReceivedImage):
            found = ismrmrd.Image(image.head, data=image.data)
            found.attribute_string = image.attributes.decode()
            image = found
        self._connection.send_image([image])

    def text(self, text: str) -> None:
        level, _, rest = text.partition(" ")
        self._connection.send_logging(f"{level:<8}", rest)
