"""What a client sends: the messages of the specification, in their order."""

from __future__ import annotations

import struct

import pytest

pytest.importorskip("ismrmrd")

from mrihvae.errors import InputError
from mrihvae.io.mrd.write_messages import MessageStream, client_messages, config_message
from tests.support import mrd


@pytest.mark.parametrize("given, own, sent", [("", "", None), ("{}", "", "{}"), ("", "[]", "[]"), ("{}", "[]", "{}")])
def test_order(given: str, own: str, sent: str | None) -> None:
    lines = [b"one", b"two"]
    stream = MessageStream("<header ü/>", iter(lines), 2, own)
    text = [] if sent is None else [mrd.text(sent)]
    assert list(client_messages(stream, "hybrid", given)) == [
        mrd.config_file("hybrid"), mrd.header("<header ü/>", nul=False), *text, *lines, mrd.close()
    ]  # fmt: skip


def test_names_of_configurations() -> None:
    assert config_message("x" * 1023) == struct.pack("<H1024s", 1, b"x" * 1023)
    for name in ("", "x" * 1024, "ü" * 512, "a\0b"):
        with pytest.raises(InputError, match="must have 1 to 1023 bytes"):
            config_message(name)
