"""The server against the conventions of the field's reference client, by all routes that parameters can take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

pytest.importorskip("ismrmrd")

from mrihvae.io.mrd.image_files import mrd_image_groups
from mrihvae.recon.catalog import make_method
from mrihvae.server.tcp import Server
from tests.support import mrd
from tests.support.files import run
from tests.support.serving import HOST, expected, lines_of, pictures, scan, serving

SENSE, ZERO = make_method("sense"), make_method("zero-filled")
XML, LINES = scan(slices=3, coils=2, mask=lines_of(24), slice_order="odd_even")
WANTED = {"method": "sense", "pixels": "float"}
USER = mrd.cartesian_xml((3, 2, 32, 24), 1, user=WANTED)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def answered(server: Server, *words: Any, **more: Any) -> mrd.Replies:
    replies = mrd.reconstruct(HOST, server.port, mrd.reference_stream(*words, **more), 20)
    assert replies.close
    return replies


@pytest.mark.parametrize(
    "xml, more",
    [
        (
            XML,
            {"config": "openrecon", "additional": {"version": "1.1.0", "parameters": {"config": "mrihvae", **WANTED}}},
        ),
        (XML, {"config": "sense", "additional": {"parameters": {"pixels": "float"}}}),
        (XML, {"config_text": json.dumps({"parameters": WANTED})}),
        (XML, {"config_text": json.dumps(WANTED)}),
        (XML, {"additional": {"parameters": {"customconfig": "sense", "pixels": "float"}}}),
        (USER, {"config": "mrihvae"}),
        (USER, {}),
    ],
)
def test_parameters_by_all_routes(server: Server, xml: str, more: dict[str, Any]) -> None:
    replies = answered(server, xml, LINES, **more)
    assert [image.slice for image in replies.images] == [0, 2, 1]
    np.testing.assert_array_equal(pictures(replies), [expected(LINES, 24, SENSE, k) for k in (0, 2, 1)])


@pytest.mark.parametrize("config", [mrd.DEFAULT_CONFIG, "simplefft", "null", "savedataonly", "mrihvae.xml", "default"])
@pytest.mark.parametrize("additional", [None, mrd.ADDITIONAL])
def test_configurations_of_others(server: Server, config: str, additional: Any) -> None:
    replies = answered(server, XML, LINES, config, additional=additional)
    assert len(replies.images) == 3 and not any(text.startswith("ERROR") for text in replies.texts)


def test_images_come_back(server: Server) -> None:
    images = [
        replace(image, attributes=image.attributes)
        for image in answered(server, XML, LINES, "zero-filled", additional={"pixels": "float"}).images
    ]
    replies = answered(server, XML, images)
    assert [image.pack() for image in replies.images] == [image.pack() for image in images]


@pytest.mark.parametrize("left", [1, 500, 1026, 1500, 20000, -400, -1])
def test_abrupt_ends(server: Server, left: int) -> None:
    payload = mrd.reference_stream(XML, LINES, "zero-filled")[:left]
    replies = mrd.reconstruct(HOST, server.port, payload, 20, half_close=True)
    assert replies.connection_closed and (replies.close or not replies.images)
    assert len(answered(server, XML, LINES, "zero-filled").images) == 3  # others are served


def test_what_the_client_stores(server: Server, tmp_path: Path) -> None:
    """Its file is read series by series, and can be sent again."""
    replies = answered(server, XML, LINES, "sense", additional={"zerofilled": True})
    mrd.store_images(tmp_path / "stored.h5", replies.images, XML)
    assert [name.rpartition("/")[2] for name in mrd_image_groups(tmp_path / "stored.h5")] == ["image_1", "image_2"]
    words = ("send", tmp_path / "stored.h5", f"{HOST}:{server.port}", "--output", tmp_path)
    assert run(*words) == 0
    with h5py.File(tmp_path / "images.mrd") as file:
        heads = file["dataset/image_1/header"][:]
        np.testing.assert_array_equal(file["dataset/image_1/data"][:, 0, 0], pictures(replies))
    assert heads["slice"].tolist() == [0, 2, 1]
