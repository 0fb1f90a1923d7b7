"""A scan from its messages to its images, without a server: order, requests, series, warnings, refusals."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

import ismrmrd

from mrihvae.errors import InputError
from mrihvae.io.mrd.messages import Message, StreamError, read_messages
from mrihvae.recon.methods import Method, make_method
from mrihvae.server import session
from mrihvae.server.request import Request
from mrihvae.server.session import Engine, load_engine, reconstruct_stream, warm_up
from tests.support import mrd
from tests.support.files import PROTOCOL
from tests.support.serving import WEIGHTS, cheap, expected, lines_of, scan, small_ready, stream

WIDTH = 24
ZERO = make_method("zero-filled")


class Answers:
    """Keeps what is sent back, in its order."""

    def __init__(self) -> None:
        self.all: list[ismrmrd.Image | str] = []

    def image(self, image: ismrmrd.Image) -> None:
        self.all.append(image)

    def text(self, text: str) -> None:
        self.all.append(text)

    @property
    def images(self) -> list[ismrmrd.Image]:
        return [answer for answer in self.all if not isinstance(answer, str)]

    @property
    def texts(self) -> list[str]:
        return [answer for answer in self.all if isinstance(answer, str)]


def messages(payload: bytes) -> Iterator[Message]:
    return read_messages(io.BytesIO(payload).read)


def answered(payload: bytes, engine: Engine | None = None) -> Answers:
    """Reconstruct a stream; the number that it gives is that of images."""
    answers = Answers()
    assert reconstruct_stream(messages(payload), engine or cheap(), answers) == len(answers.images)
    return answers


@pytest.mark.parametrize("coils", [1, 2])
def test_images_and_texts_in_their_order(coils: int) -> None:
    xml, lines = scan(coils=coils)
    answers = answered(stream(xml, lines))
    assert [isinstance(answer, str) for answer in answers.all] == [False, True] * 2
    for k, image in enumerate(answers.images):
        np.testing.assert_array_equal(image.data[0, 0], expected(lines, WIDTH, ZERO, k))
        assert (image.slice, image.image_series_index, image.image_index) == (k, 1, k + 1)
        assert answers.texts[k].startswith(f"INFO mrihvae: slice {k}, contrast 0, repetition 0: R = 1.00, ")


def test_an_image_is_sent_before_the_next_lines_are_taken() -> None:
    xml, lines = scan()
    answers, counts = Answers(), []

    def counted() -> Iterator[Message]:
        for message in messages(stream(xml, lines)):
            yield message
            counts.append(len(answers.images))

    reconstruct_stream(counted(), cheap(), answers)
    slices = [line.slice for line in lines]
    before = len(counts) - len(lines)  # configuration and header
    assert counts[before + slices.index(1) - 1] == 1 and counts[before + slices.index(1) - 2] == 0


def test_one_executor_reconstructs() -> None:
    threads: list[int] = []

    class Turn(ThreadPoolExecutor):
        def submit(self, work: Any, /, *rest: Any, **more: Any) -> Any:
            threads.append(1)
            return super().submit(work, *rest, **more)

    xml, lines = scan()
    with Turn(1) as executor:
        answers = answered(stream(xml, lines), replace(cheap(), executor=executor))
    assert len(threads) == 2
    for k, image in enumerate(answers.images):
        np.testing.assert_array_equal(image.data[0, 0], expected(lines, WIDTH, ZERO, k))


def test_uncertainty_has_a_series_of_its_own() -> None:
    xml, lines = scan(coils=2, mask=lines_of(WIDTH))
    answers = answered(stream(xml, lines, parameters={"uncertainty": True, "samples": 2}), small_ready())
    assert [(image.slice, image.image_series_index) for image in answers.images] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    metas = [ismrmrd.Meta.deserialize(image.attribute_string) for image in answers.images[:2]]
    assert [meta["DataRole"] for meta in metas] == ["Image", ["Image", "Quantitative", "Uncertainty"]]
    assert [meta["SeriesDescription"].rpartition(" ")[2] for meta in metas] == ["hybrid", "uncertainty"]
    assert f"weights {WEIGHTS[2][:12]}" in metas[0]["ImageComments"]
    assert metas[1]["ImageComments"].endswith("standard deviation")


def test_request_of_the_engine_is_that_of_scans_which_ask_for_nothing() -> None:
    xml, lines = scan(slices=1)
    short = replace(cheap(), request=Request(pixels="short", method="sense"))
    for payload, pixels, method in (
        (stream(xml, lines), np.int16, "sense"),
        (stream(xml, lines, parameters={"pixels": "float", "method": "zero-filled"}), np.float32, "zero-filled"),
    ):
        (image,) = answered(payload, short).images
        assert image.data.dtype == pixels
        assert ismrmrd.Meta.deserialize(image.attribute_string)["ImageProcessingHistory"] == ["MRIHVAE", method]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (stream("", [], None, closing=False)[:0] + mrd.acquisition(scan()[1][0]), "a line came before the header"),
        (mrd.header(scan()[0]) * 2, "a second header within a scan; open another connection for another scan"),
        (mrd.header(mrd.cartesian_xml((1, 1, 4096, 4096), 1)), "slices of 4096 x 4096 are larger than 4194304 pixels"),
    ],
)
def test_streams_that_are_refused(payload: bytes, message: str) -> None:
    answers = Answers()
    with pytest.raises(InputError, match=message):
        reconstruct_stream(messages(payload), cheap(), answers)
    assert answers.all == []


def test_largest_slice_is_taken() -> None:
    answers = Answers()
    assert reconstruct_stream(messages(mrd.header(mrd.cartesian_xml((1, 1, 2048, 2048), 1))), cheap(), answers) == 0
    assert answers.texts == ["WARNING mrihvae: the scan had no line of an image"]


def test_parameters_after_the_first_image() -> None:
    xml, lines = scan()
    first = b"".join(mrd.acquisition(line) for line in lines if line.slice == 0)
    start = stream(xml, [], "zero-filled", closing=False) + first
    answers = Answers()
    assert reconstruct_stream(messages(start + mrd.text('{"method": "zero-filled"}')), cheap(), answers) == 1
    with pytest.raises(StreamError, match="parameters came after the first image"):
        reconstruct_stream(messages(start + mrd.text('{"method": "sense"}')), cheap(), answers)


def test_nothing_at_all_is_no_scan() -> None:
    assert answered(b"").all == [] and answered(mrd.text("hello") + mrd.close()).all == []


def test_warnings_are_sent_once() -> None:
    xml, lines = scan(mask=np.arange(WIDTH) % 3 == (WIDTH // 2 + 1) % 3)
    warnings = [text for text in answered(stream(xml, lines)).texts if text.startswith("WARNING")]
    warning = "the center of k-space was not acquired: contrast is not reliable"
    assert warnings == [f"WARNING mrihvae: {warning}"]  # of two slices


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (MemoryError(), InputError, "stream: too little memory for a slice of 32 x 24"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), InputError, "stream: too little memory"),
        (RuntimeError("shapes differ"), RuntimeError, "shapes differ"),
    ],
)
def test_slices_that_fail(
    error: Exception, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(session, "reconstruct_volume", fail)
    with pytest.raises(kind, match=message):
        reconstruct_stream(messages(stream(*scan())), cheap(), Answers())


def test_image_that_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "reconstruct_volume", lambda *_: np.full((1, 32, WIDTH), np.inf))
    with pytest.raises(InputError, match="a reconstruction is not finite; the scan may be damaged"):
        reconstruct_stream(messages(stream(*scan())), cheap(), Answers())


@pytest.mark.parametrize(("coils", "start"), [(1, "scan of 1 coil: "), (8, "scan of 8 coils: ")])
def test_engines_of_one_kind_of_scans(coils: int, start: str) -> None:
    other = Engine({2 if coils == 1 else 1: ZERO})
    with pytest.raises(InputError, match=f"^{start}the server's protocol is for others"):
        other.method(coils, Request())
    assert cheap().method(coils, Request(method="sense", samples=5)) == make_method("sense", samples=5)


def test_engine_of_a_protocol_without_weights(tmp_path: Path) -> None:
    path = tmp_path / "plain.toml"
    path.write_text(PROTOCOL.replace("singlecoil", "multicoil").replace("zero-filled", "sense"))
    engine = load_engine(str(path))
    assert list(engine.methods) == [2] and engine.methods[2].name == "sense" and not hasattr(engine.methods[2], "model")
    assert engine.request.samples >= 2


def test_warming_up_reconstructs_once_with_each_method(monkeypatch: pytest.MonkeyPatch) -> None:
    reconstructed: list[tuple[tuple[int, ...], str]] = []

    def noted(noise: Any, mask: np.ndarray, method: Method) -> None:
        assert mask.tolist() == [k % 3 == 0 or 26 <= k < 38 for k in range(64)]
        reconstructed.append((noise.kspace.shape, method.name))

    monkeypatch.setattr(session, "reconstruct_volume", noted)
    warm_up(Engine({1: ZERO, 2: make_method("sense")}))
    assert reconstructed == [((1, 64, 64), "zero-filled"), ((1, 4, 64, 64), "sense")]
