"""A scan from its messages to its images, without a server: order, requests, series, warnings, refusals."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

import ismrmrd

from mrihvae.errors import InputError
from mrihvae.io.mrd.messages import Message, ReceivedImage, StreamError, read_messages
from mrihvae.recon.catalog import make_method
from mrihvae.recon.reconstruction import Reconstruction
from mrihvae.recon.volumes import reconstruct_scan
from mrihvae.server import session
from mrihvae.server.engine import Engine
from mrihvae.server.request import Request
from mrihvae.server.session import reconstruct_stream
from mrihvae.utils.notices import warn
from tests.support import mrd
from tests.support.serving import WEIGHTS, cheap, expected, gathered, lines_of, scan, small_ready, stream

WIDTH = 24
ZERO = make_method("zero-filled")


class Answers:
    """Keeps what is sent back, in its order."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def image(self, image: ismrmrd.Image | ReceivedImage) -> None:
        self.all.append(image)

    def text(self, text: str) -> None:
        self.all.append(text)

    @property
    def images(self) -> list[Any]:
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
    assert answers.texts == ["WARNING mrihvae: the scan had no image lines"]


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
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(session, "reconstruct_scan", fail)
    with pytest.raises(kind, match=message):
        reconstruct_stream(messages(stream(*scan())), cheap(), Answers())


def test_image_that_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Reconstruction(np.full((1, 32, WIDTH), np.inf))
    monkeypatch.setattr(session, "reconstruct_scan", lambda *_, **__: broken)
    with pytest.raises(InputError, match="a reconstruction is not finite; the scan may be damaged"):
        reconstruct_stream(messages(stream(*scan())), cheap(), Answers())


def test_fields_of_view_that_leave_no_samples_are_refused() -> None:
    """An encoded field of view far beyond the image's, as a damaged header has it."""
    xml, lines = scan()
    head, tail = xml.split("<fieldOfView_mm><x>", 1)
    wrong = f"{head}<fieldOfView_mm><x>65535{tail[tail.index('</x>') :]}"
    with pytest.raises(
        InputError, match=r"^stream: according to its header, a slice has 1 x \d+ samples, .*; check matrixSize"
    ):
        reconstruct_stream(messages(stream(wrong, lines)), cheap(), Answers())


# Images of clients


def picture(seed: int, **fields: Any) -> mrd.Image:
    """Make an image with attributes that no writer of ours would give."""
    data = np.random.default_rng(seed).integers(-2000, 2000, (2, 3, 16, 12)).astype(np.int32)
    attributes = "<ismrmrdMeta><!-- kept --><meta><name>A</name><value>1 &lt; 2</value></meta></ismrmrdMeta>\n"
    return mrd.Image(data, attributes, image_series_index=7, image_index=seed, slice=seed, **fields)


def sent_back(answers: Answers) -> list[bytes]:
    return [image.to_bytes() for image in answers.images]


@pytest.mark.parametrize("header", [scan()[0], "Dummy XML header", mrd.write_xml((16, 16, 1), trajectory="radial")])
def test_images_are_passed_on_as_they_are(header: str) -> None:
    pictures = [picture(seed) for seed in range(3)]
    answers = answered(mrd.header(header) + b"".join(map(mrd.image, pictures)) + mrd.close())
    assert sent_back(answers) == [one.pack() for one in pictures] and answers.texts == []


def test_images_may_follow_lines() -> None:
    xml, lines = scan(slices=1)
    answers = answered(stream(xml, lines, closing=False) + mrd.image(picture(5)) + mrd.close())
    assert len(answers.images) == 2 and sent_back(answers)[1] == picture(5).pack()


@pytest.mark.parametrize("config", ["denoise", '{"parameters": {"denoise": "true"}}', '{"method": "denoise"}'])
def test_images_are_denoised_on_request(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def denoised(image: ReceivedImage, device: str) -> ReceivedImage:
        threads.append(threading.current_thread().name)
        warn(f"on {device}")
        return replace(image, data=2 * image.data)

    monkeypatch.setattr(session, "denoise", denoised)
    payload = mrd.text(config) + mrd.header(scan()[0]) + mrd.image(picture(1)) * 2 + mrd.close()
    with ThreadPoolExecutor(1, "computes") as executor:
        answers = answered(payload, replace(cheap(), executor=executor))
    assert [one.data.tolist() for one in answers.images] == [(2 * picture(1).data).tolist()] * 2
    assert threads == ["computes_0"] * 2 and answers.texts == ["WARNING mrihvae: on cpu"]


def test_parameters_after_the_first_image_of_a_client() -> None:
    start = mrd.header(scan()[0]) + mrd.image(picture(1))
    with pytest.raises(StreamError, match="parameters came after the first image"):
        answered(start + mrd.text('{"denoise": true}'))


# Further images


def test_zero_filled_images_are_a_further_series_on_request() -> None:
    xml, lines = scan(coils=2, mask=lines_of(WIDTH))
    answers = answered(stream(xml, lines, "sense", {"zerofilled": "true"}))
    found = [(image.slice, image.image_series_index, image.image_index) for image in answers.images]
    assert found == [(0, 1, 1), (0, 2, 1), (1, 1, 2), (1, 2, 2)]
    for k, image in enumerate(answers.images):
        method = ZERO if k % 2 else make_method("sense")
        np.testing.assert_array_equal(image.data[0, 0], expected(lines, WIDTH, method, k // 2))
    only = answered(stream(xml, lines, "zero-filled", {"zerofilled": "true"}))
    assert len(only.images) == 2  # they are there already


@pytest.mark.parametrize(("coils", "name", "channels"), [(1, "zero-filled", 1), (2, "sense", 1), (2, "zero-filled", 2)])
def test_complex_images_on_request(coils: int, name: str, channels: int) -> None:
    xml, lines = scan(coils=coils, slices=1, mask=lines_of(WIDTH))
    (image,) = answered(stream(xml, lines, name, {"pixels": "complex"})).images
    assert image.data.dtype == np.complex64 and image.data.shape == (channels, 1, WIDTH, 32)
    assert image.image_type == ismrmrd.IMTYPE_COMPLEX
    one = gathered(lines, WIDTH)
    whole = reconstruct_scan(one, one.mask, make_method(name), complex_image=True).image
    assert whole is not None
    np.testing.assert_array_equal(image.data[:, 0], whole.reshape(channels, 32, WIDTH).swapaxes(1, 2))
    assert image.meta["RescaleSlope"] == "1" and float(image.meta["WindowWidth"]) > 0


def test_uncertainty_beside_complex_images_is_real() -> None:
    xml, lines = scan(coils=2, slices=1, mask=lines_of(WIDTH))
    parameters = {"uncertainty": 1, "samples": 2, "pixels": "complex", "zerofilled": 1}
    images = answered(stream(xml, lines, parameters=parameters), small_ready()).images
    assert [one.data.dtype for one in images] == [np.complex64, np.float32, np.complex64]
    assert [one.image_series_index for one in images] == [1, 2, 3]


# What is said


def test_unknown_parameters_are_warned_of_in_the_stream() -> None:
    xml, lines = scan(slices=1)
    with_header = xml.replace(
        "</ismrmrdHeader>",
        "<userParameters><userParameterLong><name>sampels</name><value>4</value></userParameterLong>"
        "</userParameters></ismrmrdHeader>",
    )
    answers = answered(stream(with_header, lines, "simplefft", {"parameters": {"metod": "tv", "method": "sense"}}))
    warnings = [text for text in answers.texts if text.startswith("WARNING")]
    for part in (
        "'simplefft': is neither",
        "sampels: is unknown",
        "metod: is unknown; the nearest known one is 'method'",
    ):
        assert sum(part in text for text in warnings) == 1
    (image,) = answers.images
    assert image.meta["ImageProcessingHistory"] == ["MRIHVAE", "sense"] and len(warnings) == 3


def test_slices_in_the_order_of_acquisition_are_warned_of() -> None:
    xml, lines = scan(slices=3, positions=[(0, 0, z) for z in (0, 10, 5)])
    assert answered(stream(xml, lines)).texts[-1] == (
        "WARNING mrihvae: slices and their images are numbered in order of acquisition; sort them by position"
    )


# Clients that have gone


def test_nothing_is_computed_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[object] = []
    usual = session.reconstruct_scan
    monkeypatch.setattr(
        session, "reconstruct_scan", lambda *rest, **words: computed.append(rest) or usual(*rest, **words)
    )
    answers = Answers()

    def check() -> None:
        if answers.images:
            raise ConnectionError("gone")

    xml, lines = scan(slices=3)
    with pytest.raises(ConnectionError, match="gone"):
        reconstruct_stream(messages(stream(xml, lines)), cheap(), answers, check)
    assert len(computed) == 1 and len(answers.images) == 1
