"""Image messages: pixels, series, geometry and meta attributes, as a client from the specification reads them."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

from mrihvae.io.mrd.header import parse_header
from mrihvae.io.mrd.images import FIRST_PEAK, ImageSeries
from mrihvae.io.mrd.messages import ReplyWriter, one_line, read_messages
from mrihvae.io.mrd.sorter import Slice, SliceAssembler
from tests.support import mrd
from tests.support.serving import HOST, scan, serving, some_kspace, stream

READ, PHASE, NORMAL = (0.0, 0.6, 0.8), (1.0, 0.0, 0.0), (0.0, 0.8, -0.6)
POSITIONS = [(1.5, -2.0, 30.25), (2.5, -2.0, 35.25)]
PIXELS = np.random.default_rng(0).random((32, 24)).astype(np.float32)


def slices_of(xml: str, lines: list[mrd.Line]) -> list[Slice]:
    payload = io.BytesIO(b"".join(map(mrd.acquisition, lines)))
    sorter = SliceAssembler(parse_header(xml))
    return [one for line in read_messages(payload.read) for one in sorter.add(line)] + sorter.end()


@pytest.fixture(scope="module")
def one() -> Slice:
    return slices_of(*scan(slices=1))[0]


def sent(series: ImageSeries, one: Slice, pixels: np.ndarray = PIXELS, comment: str = "") -> mrd.Image:
    """Write an image and read it as a client does."""
    written: list[bytes] = []
    writer = ReplyWriter(written.append)
    writer.image(series.image(pixels, one, comment))
    writer.close()
    (image,) = mrd.parse_replies(b"".join(written))
    assert isinstance(image, mrd.Image)
    return image


def test_pixels_are_float_values_turned(one: Slice) -> None:
    series = ImageSeries(3, "a scan", ["Image"], ["MRIHVAE", "sense"])
    for count in (1, 2):
        image = sent(series, one, PIXELS * count)
        assert image.data.dtype == np.dtype("<f4") and image.matrix_size == (32, 24, 1) and image.channels == 1
        np.testing.assert_array_equal(image.data[0, 0], PIXELS.T * count)
        assert (image.image_series_index, image.image_index, image.image_type) == (3, count, 1)
        assert image.meta["PixelFactor"] == "1"


def test_short_pixels_have_one_factor_for_a_series(one: Slice) -> None:
    series = ImageSeries(1, "", ["Image"], [], short=True)
    first = sent(series, one)
    factor = FIRST_PEAK / float(PIXELS.max())
    assert first.data.dtype == np.dtype("<i2") and first.data.max() == FIRST_PEAK
    np.testing.assert_array_equal(first.data[0, 0], np.rint(PIXELS.T.astype(float) * factor))
    twice = sent(series, one, 2 * PIXELS)
    np.testing.assert_allclose(twice.data[0, 0], PIXELS.T * 2 * factor, atol=0.5, rtol=1e-6)
    assert float(str(twice.meta["PixelFactor"])) == pytest.approx(factor, rel=1e-7)
    brighter = sent(series, one, 1000 * PIXELS)  # does not fit: all of it is there, by a smaller factor
    assert brighter.data.max() == FIRST_PEAK
    assert float(str(brighter.meta["PixelFactor"])) == pytest.approx(factor / 1000, rel=1e-6)
    assert sent(series, one, PIXELS).data.max() == round(FIRST_PEAK / 1000)


def test_first_slice_at_the_edge_does_not_spoil_the_others(one: Slice) -> None:
    series = ImageSeries(1, "", ["Image"], [], short=True)
    images = [sent(series, one, factor * PIXELS) for factor in (0.02, 0.8, 1.0, 0.5)]
    for image, factor in zip(images, (0.02, 0.8, 1.0, 0.5)):
        values = image.data[0, 0].T / float(str(image.meta["PixelFactor"]))
        np.testing.assert_allclose(values, factor * PIXELS, atol=2e-3 * factor * float(PIXELS.max()) + 1e-3)
    assert float(str(images[2].meta["WindowWidth"])) == pytest.approx(np.percentile(images[2].data, 99.5), rel=2e-2)


@pytest.mark.parametrize("peak", [0.0, 1e-42, 1e-30, 1e30])
def test_short_pixels_of_any_scale(one: Slice, peak: float) -> None:
    pixels = np.zeros((32, 24), np.float32)
    pixels[5, 7] = peak
    with np.errstate(all="raise"):
        image = sent(ImageSeries(1, "", ["Image"], [], short=True), one, pixels)
    assert image.data[0, 0, 7, 5] == (FIRST_PEAK if peak else 0) and np.count_nonzero(image.data) == bool(peak)
    assert float(str(image.meta["WindowWidth"])) > 0


@pytest.mark.parametrize("short", [False, True])
def test_window_is_of_the_brightest_image_so_far(one: Slice, short: bool) -> None:
    series = ImageSeries(1, "", ["Image"], [], short=short)
    images = [sent(series, one, factor * PIXELS) for factor in (1, 3, 2)]
    first = float(np.percentile(images[0].data, 99.5))
    for image, white in zip(images, (first, 3 * first, 3 * first)):
        assert float(str(image.meta["WindowWidth"])) == pytest.approx(white, rel=1e-3)
        assert float(str(image.meta["WindowCenter"])) == pytest.approx(white / 2, rel=1e-3)


def test_meta(one: Slice) -> None:
    series = ImageSeries(1, "Häßlich <&>", ["Image", "Uncertainty"], ["MRIHVAE", "uncertainty"])
    meta = sent(series, one, comment="R = 4 & more").meta
    assert meta["DataRole"] == ["Image", "Uncertainty"] and meta["ImageProcessingHistory"] == ["MRIHVAE", "uncertainty"]
    assert meta["SeriesDescription"] == "Häßlich <&>" and meta["ImageComments"] == "R = 4 & more"
    assert meta["Keep_image_geometry"] == "1"
    assert [float(value) for value in meta["ImageRowDir"]] == [1, 0, 0]
    assert [float(value) for value in meta["ImageColumnDir"]] == [0, 1, 0]


def test_what_the_lines_told_is_kept() -> None:
    counters = {
        "contrast": 3, "phase": 4, "set": 6, "measurement_uid": 70000, "physiology_time_stamp": (7, 8, 90000),
        "patient_table_position": (1.0, 2.0, -3.0),
    }  # fmt: skip
    xml, lines = scan(slices=1, repetitions=3, counters=counters)
    lines = [replace(line, acquisition_time_stamp=1000 * (1 + line.repetition)) for line in lines]
    series = ImageSeries(1, "", ["Image"], [])
    for repetition, one in enumerate(slices_of(xml, lines)):
        image = sent(series, one)
        for name, value in counters.items():
            assert getattr(image, name) == value, name
        assert (image.repetition, image.average, image.version) == (repetition, 0, 1)
        assert image.acquisition_time_stamp == 1000 * (1 + repetition)


def test_geometry_of_an_oblique_scan_at_the_server() -> None:
    kspace = some_kspace(2, 1, 32, 24)
    turned: dict[str, Any] = {"read_dir": READ, "phase_dir": PHASE, "slice_dir": NORMAL, "positions": POSITIONS}
    xml = mrd.cartesian_xml(
        kspace.shape, pixel_mm=(1.5, 2.0), thickness_mm=4.0, measurement={"protocolName": "T1 <tse>" + "x" * 100}
    )
    lines = mrd.cartesian_lines(kspace, **turned)
    with serving() as running:
        replies = mrd.reconstruct(HOST, running.port, stream(xml, lines))
    for k, image in enumerate(replies.images):
        assert image.slice == k and image.position == pytest.approx(POSITIONS[k])
        assert image.read_dir == pytest.approx(READ) and image.phase_dir == pytest.approx(PHASE)
        assert image.slice_dir == pytest.approx(NORMAL)
        assert image.field_of_view == pytest.approx((48.0, 48.0, 4.0))
        assert [float(value) for value in image.meta["ImageRowDir"]] == pytest.approx(READ)
        assert [float(value) for value in image.meta["ImageColumnDir"]] == pytest.approx(PHASE)
        assert image.meta["SeriesDescription"] == "T1 <tse>" + "x" * 56 + " mrihvae zero-filled"
        assert str(image.meta["ImageComments"]).startswith("mrihvae 0.") and "R = 1.00" in image.meta["ImageComments"]
    assert len(replies.images) == 2


def test_sizes_are_series_of_their_own() -> None:
    xml, lines = scan(slices=1)
    more = scan(slices=1, width=40)
    both = xml.replace(
        "</encoding>",
        "</encoding>"
        + more[0].partition("<encoding>")[2].partition("</encoding>")[0].join(("<encoding>", "</encoding>")),
        1,
    )
    others = [replace(line, encoding_space_ref=1) for line in more[1]]
    with serving() as running:
        replies = mrd.reconstruct(
            HOST, running.port, stream(both, [replace(one, flags=one.flags & ~(1 << 24)) for one in lines] + others)
        )
    assert [(one.image_series_index, one.image_index, one.matrix_size) for one in replies.images] == [
        (1, 1, (32, 24, 1)), (2, 1, (32, 40, 1)),
    ]  # fmt: skip


def test_texts() -> None:
    written: list[bytes] = []
    writer = ReplyWriter(written.append)
    writer.text("größer")
    writer.text("half \ud800")
    writer.close()
    assert mrd.parse_replies(b"".join(written)) == ["größer", "half \\ud800"]
    assert one_line(ValueError("a\nb  " + "c" * 1000)) == "a b " + "c" * 496


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_attributes_of_the_specification(one: Slice, scale: float) -> None:
    pixels = (scale * PIXELS).astype(np.float32)
    for short in (True, False):
        image = sent(ImageSeries(1, "", ["Image"], [], short=short, echo_time=4.92), one, pixels, "by us")
        slope, intercept = (float(str(image.meta[f"Rescale{name}"])) for name in ("Slope", "Intercept"))
        np.testing.assert_allclose(
            image.data[0, 0].T * slope + intercept, pixels, rtol=1e-6, atol=0.51 * slope if short else 0
        )
        assert len(str(image.meta["RescaleSlope"])) <= 16 and image.meta["EchoTime"] == "4.92"
        assert slope * float(str(image.meta["PixelFactor"])) == pytest.approx(1, rel=1e-7)
        assert image.meta["ImageComment"] == image.meta["ImageComments"] == "by us"
        if short:
            assert all(str(image.meta[name]).isdecimal() for name in ("WindowCenter", "WindowWidth"))


def test_dark_images_have_a_window_of_whole_numbers(one: Slice) -> None:
    meta = sent(ImageSeries(1, "", ["Image"], [], short=True), one, np.zeros((32, 24), np.float32)).meta
    assert (meta["WindowCenter"], meta["WindowWidth"]) == ("1", "1")
    assert "EchoTime" not in meta


def test_complex_images_of_coils(one: Slice) -> None:
    pixels = np.stack([PIXELS + 1j * PIXELS[::-1], 2j * PIXELS]).astype(np.complex64)
    image = sent(ImageSeries(2, "", ["Image"], [], short=True), one, pixels)
    assert image.data.dtype == np.dtype("<c8") and (image.channels, image.matrix_size) == (2, (32, 24, 1))
    np.testing.assert_array_equal(image.data[:, 0], pixels.swapaxes(1, 2))
    assert image.image_type == 5 and image.meta["PixelFactor"] == "1"
    white = np.percentile(np.sqrt((np.abs(pixels) ** 2).sum(axis=0)), 99.5)
    assert float(str(image.meta["WindowWidth"])) == pytest.approx(white, rel=1e-6)


def test_place_in_the_series_may_be_given(one: Slice) -> None:
    series = ImageSeries(1, "", ["Image"], [])
    assert series.image(PIXELS, one, "", 7).image_index == 7 and series.image(PIXELS, one, "").image_index == 2
