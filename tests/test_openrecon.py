"""The module for python-ismrmrd-server, with a connection that does as that server's."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

import ismrmrd

from mrihvae import openrecon
from mrihvae.io.mrd.messages import read_messages
from mrihvae.openrecon import STORED, process
from mrihvae.recon.catalog import make_method
from mrihvae.server.request import Request
from tests.support import mrd
from tests.support.serving import cheap, expected, lines_of, scan


class Connection:
    """Gives lines and waveforms, then None as that server does at the close message; keeps what is sent."""

    def __init__(self, lines: list[mrd.Line], ends: bool = True) -> None:
        payload = io.BytesIO(b"".join(map(mrd.acquisition, lines)))
        self.items: list[Any] = [ismrmrd.Waveform(), *read_messages(payload.read)] + [None] * ends
        self.sent: list[Any] = []
        self.logged: list[tuple[str, str]] = []
        self.closed = 0

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def send_image(self, images: list[ismrmrd.Image]) -> None:
        assert not self.closed
        self.sent += images

    def send_logging(self, level: str, contents: str) -> None:
        assert not self.closed and len(level) == 8, level
        self.logged.append((level.strip(), contents))

    def send_close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openrecon, "_engine", lambda: replace(cheap(), request=STORED))


def test_shipped_weights_are_loaded_once_and_store_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    asked: list[Any] = []
    monkeypatch.setattr(openrecon, "load_engine", lambda protocol: asked.append(protocol) or cheap())
    openrecon._engine.cache_clear()
    assert openrecon._engine() is openrecon._engine() and asked == [None]
    assert openrecon._engine().request == Request(pixels="short")
    openrecon._engine.cache_clear()


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("parsed", [str, bytes, ismrmrd.xsd.CreateFromDocument])
def test_images(parsed: Any, ends: bool) -> None:
    xml, lines = scan(coils=2)
    metadata = xml.encode() if parsed is bytes else parsed(xml)
    connection = Connection(lines, ends)
    process(connection, "openrecon", metadata)
    assert connection.closed == 1 and len(connection.sent) == 2
    for k, image in enumerate(connection.sent):
        truth = expected(lines, 24, make_method("zero-filled"), k)
        assert image.data.dtype == np.int16 and image.slice == k
        factor = float(ismrmrd.Meta.deserialize(image.attribute_string)["PixelFactor"])
        np.testing.assert_allclose(image.data[0, 0], truth * factor, atol=0.5 + 1e-3)
    assert [level for level, _ in connection.logged] == ["INFO", "INFO"]
    assert connection.logged[0][1].startswith("mrihvae: slice 0, ")


@pytest.mark.parametrize(
    "config",
    [
        {"version": "1.0", "parameters": {"config": "mrihvae", "method": "sense", "pixels": "float"}},
        '{"parameters": {"method": "sense", "pixels": "float"}}',
    ],
)
def test_parameters(config: Any) -> None:
    xml, lines = scan(coils=2, mask=lines_of(24))
    connection = Connection(lines)
    process(connection, config, xml)
    np.testing.assert_array_equal(connection.sent[0].data[0, 0], expected(lines, 24, make_method("sense")))


@pytest.mark.parametrize("config", [None, "", {}, "null", "simplefft"])
def test_no_parameters(config: Any) -> None:
    xml, lines = scan()
    connection = Connection(lines)
    process(connection, config, xml)
    assert len(connection.sent) == 2 and connection.closed == 1


def test_mistakes_are_logged() -> None:
    xml, lines = scan(slices=1)
    for config, metadata, word in (
        ({"parameters": {"samples": 1}}, xml, "must be 2 to 256"),
        (None, "metadata that is no XML", "header is not XML"),
        (None, xml.replace("cartesian", "radial"), "trajectory 'radial'"),
    ):
        connection = Connection(lines)
        process(connection, config, metadata)
        ((level, told),) = connection.logged
        assert level == "ERROR" and told.startswith("mrihvae: ") and word in told
        assert connection.closed == 1 and not connection.sent


def test_other_failures_close_and_go_on_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openrecon, "reconstruct_stream", lambda *_: 1 / 0)
    connection = Connection([])
    with pytest.raises(ZeroDivisionError):
        process(connection, None, "")
    assert connection.closed == 1


def test_images_come_back_as_they_are() -> None:
    image = ismrmrd.Image.from_array(np.arange(12, dtype=np.int16).reshape(3, 4), transpose=False)
    image.attribute_string = ismrmrd.Meta({"A": ["1", "2"], "Keep": "3"}).serialize()
    image.image_series_index = 4
    connection = Connection([])
    connection.items.insert(0, image)
    process(connection, "mrihvae_recon", "Dummy XML header")
    (found,) = connection.sent
    assert found == image and found.attribute_string == image.attribute_string and connection.logged == []
