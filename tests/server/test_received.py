"""Images of clients: denoised with their pixel type and attributes, or left as they are."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

import ismrmrd

from mrihvae.io.mrd.messages import ReceivedImage, StreamError, read_messages
from mrihvae.server import received
from mrihvae.server.received import denoise
from mrihvae.utils.notices import collect_notices
from tests.support import mrd
from tests.support.small import SMALL, phantom, small_model

META = {"SeriesDescription": "T1 tse", "ImageComments": ["first", "second"], "WindowWidth": "900"}


@pytest.fixture(autouse=True)
def weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(settings=dataclasses.replace(SMALL, degraded=True))
    monkeypatch.setattr(received, "load_denoiser", lambda device: model)


def noisy(scale: float = 1000.0, kind: type = np.int16) -> np.ndarray:
    """Draw a noisy phantom, (1, 1, 32, 24)."""
    noise = 0.05 * np.random.default_rng(0).standard_normal((32, 24))
    return np.asarray(np.abs(scale * (phantom(32, 24) + noise)).astype(kind)[None, None])


def image_of(data: np.ndarray, meta: dict[str, Any] | None = None, **fields: Any) -> ReceivedImage:
    """Make an image as a client's stream has it."""
    attributes = str(ismrmrd.Meta(meta or {}).serialize())
    (found,) = read_messages(io.BytesIO(mrd.image(mrd.Image(data, attributes, **fields))).read)
    assert isinstance(found, ReceivedImage)
    return found


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_pixels_keep_their_type_and_range(kind: type) -> None:
    image = image_of(noisy(kind=kind), META, slice=3, image_index=4, position=(1.0, 2.0, 3.0))
    with collect_notices() as notices:
        found = denoise(image, "cpu")
    assert found.data.dtype == image.data.dtype and found.data.shape == image.data.shape
    assert not np.array_equal(found.data, image.data) and bytes(found.head) == bytes(image.head)
    assert np.abs(found.data.astype(float) - image.data).max() < 1000
    meta = ismrmrd.Meta.deserialize(found.attributes.decode())
    assert meta["ImageProcessingHistory"] == ["MRIHVAE", "denoised"] and meta["WindowWidth"] == "900"
    assert meta["SeriesDescription"] == "T1 tse mrihvae denoised" and meta["ImageComments"][:2] == META["ImageComments"]
    assert not notices


def test_slices_of_a_volume_are_denoised_together() -> None:
    data = np.concatenate([noisy(), noisy(500.0)], axis=1)
    found = denoise(image_of(data), "cpu")
    assert found.data.shape == (1, 2, 32, 24) and all(not np.array_equal(a, b) for a, b in zip(found.data[0], data[0]))


@pytest.mark.parametrize(
    ("data", "fields", "reason"),
    [
        (noisy(kind=np.complex64), {"image_type": 5}, "is not a magnitude image"),
        (noisy(), {"image_type": 2}, "is not a magnitude image"),
        (np.full((1, 1, 16, 16), np.nan, np.float32), {}, "is not finite"),
        (np.ones((1, 1, 2, 2), np.float32), {}, "too few for these weights"),
        (np.broadcast_to(np.float32(1), (1, 1, 2049, 2049)).copy(), {}, "is larger than 4194304 pixels"),
    ],
)
def test_images_that_cannot_be_denoised(data: np.ndarray, fields: dict[str, Any], reason: str) -> None:
    image = image_of(data, **fields)
    with collect_notices() as notices:
        assert denoise(image, "cpu") is image
    assert len(notices) == 1 and reason in notices[0] and notices[0].endswith("it was sent back unchanged")


@pytest.mark.parametrize("attributes", [b"<a/>", b"<ismrmrdMeta>", b"\xff", b"<!DOCTYPE a><ismrmrdMeta/>"])
def test_attributes_that_are_none(attributes: bytes) -> None:
    image = image_of(noisy())
    with pytest.raises(StreamError, match="attributes of an image are not those of MRD"):
        denoise(ReceivedImage(image.head, attributes, image.data), "cpu")


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, kind in ((MemoryError(), StreamError), (RuntimeError("shapes differ"), RuntimeError)):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(received, "restore_volume", fail)
        with pytest.raises(kind, match=r"too little memory for an image of 32 x 24|shapes differ"):
            denoise(image_of(noisy()), "cpu")


def test_shipped_weights_take_noise_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    clean = 1000 * phantom(64, 64)
    data = np.abs(clean + 80 * np.random.default_rng(0).standard_normal(clean.shape)).astype(np.int16)
    found = denoise(image_of(data[None, None]), "cpu").data[0, 0]
    body = clean > 300  # noise of magnitudes lifts the background
    assert np.square((found - clean)[body]).mean() < 0.5 * np.square((data - clean)[body]).mean()
