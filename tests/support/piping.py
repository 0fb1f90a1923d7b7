"""`mrihvae filter` in the process of the tests, fed through a pipe."""

from __future__ import annotations

import io
import os
import struct
import sys
import threading
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support import mrd
from tests.support.files import run


class Output(io.RawIOBase):
    """Keeps what is written, and tells of images."""

    def __init__(self) -> None:
        self.written = b""
        self.image = threading.Event()

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self.written += bytes(piece)
        if piece[:2] == struct.pack("<H", mrd.IMAGE):
            self.image.set()
        return len(piece)


def piped(monkeypatch: pytest.MonkeyPatch, payload: list[bytes], *options: str) -> tuple[int, list[mrd.Image | str]]:
    """Run the command in this process, from a pipe into which it gets piece after piece, an image between.

    Returns
    -------
    its status and answers
    """
    reading, writing = os.pipe()
    output = Output()

    def send() -> None:
        with os.fdopen(writing, "wb", buffering=0) as target:
            for number, piece in enumerate(payload):
                assert not number or output.image.wait(10)
                output.image.clear()
                target.write(piece)

    sender = threading.Thread(target=send)
    with os.fdopen(reading) as source, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", source)
        patch.setattr(sys, "stdout", SimpleNamespace(buffer=output, write=None, flush=lambda: None))
        sender.start()
        with suppress(ZeroDivisionError):  # of a test; the interpreter would end with this status
            status = 1
            status = run("filter", *options)
        sender.join()
    return status, mrd.parse_replies(output.written)


def pictures_of(answers: list[mrd.Image | str]) -> list[np.ndarray]:
    return [one.data[0, 0] for one in answers if isinstance(one, mrd.Image)]
