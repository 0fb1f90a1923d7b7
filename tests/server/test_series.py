"""Series of a scan: numbers by kind and contrast, and images in anatomical order."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

from mrihvae.io.mrd.header import parse_header
from mrihvae.io.mrd.messages import read_messages
from mrihvae.server.series import MOST_IMAGES, ScanSeries, SliceOrder
from tests.io.mrd.test_images import slices_of
from tests.support import mrd
from tests.support.serving import scan

PIXELS = np.ones((32, 24), np.float32)
ECHOES = "<sequenceParameters><TE>4.92</TE><TE>7.38</TE></sequenceParameters>"


def placed(positions: Sequence[float], **changes: object) -> tuple[str, list[mrd.Line]]:
    """Make a scan of slices at positions along their normal, mm."""
    places = [(1.0, 2.0, place) for place in positions]
    return scan(slices=len(positions), positions=places, **changes)


def numbers(xml: str, lines: list[mrd.Line], ahead: int | None = None) -> tuple[list[tuple[int, int, int]], bool]:
    """Return slice, series and index of all images, and whether their order is anatomical.

    `ahead` is how many lines are known before the first image.
    """
    series = ScanSeries(parse_header(xml))
    slices = slices_of(xml, lines)
    for line in received(lines[:ahead]):
        series.order.add(line)
    images = [series.image("hybrid", (0, 1), PIXELS, one, "", "float") for one in slices]
    for line in received(lines):
        series.order.add(line)
    found = [(image.slice, image.image_series_index, image.image_index) for image in images]
    return found, series.order.is_anatomical


def received(lines: Sequence[mrd.Line]) -> list[Any]:
    """Read lines as a server does."""
    return list(read_messages(io.BytesIO(b"".join(map(mrd.acquisition, lines))).read))


@pytest.mark.parametrize("order", ["ascending", "odd_even", "by_line"])
@pytest.mark.parametrize("positions", [[0, 5, 10, 15], [15, 10, 5, 0]])
def test_slices_that_are_numbered_by_position(order: str, positions: list[float]) -> None:
    found, anatomical = numbers(*placed(positions, slice_order=order))
    assert {slice_: index for slice_, _, index in found} == {0: 1, 1: 2, 2: 3, 3: 4} and anatomical


def test_slices_that_are_numbered_as_they_are_acquired() -> None:
    positions = [0, 10, 5, 15]
    found, anatomical = numbers(*placed(positions, slice_order="by_line"))
    assert {slice_: index for slice_, _, index in found} == {0: 1, 1: 3, 2: 2, 3: 4} and anatomical
    # where whole slices come one after another, their positions are not known in time
    found, anatomical = numbers(*placed(positions), ahead=1)
    assert {slice_: index for slice_, _, index in found} == {0: 1, 1: 2, 2: 3, 3: 4} and not anatomical


def test_positions_that_are_none() -> None:
    xml, lines = placed([np.nan, 3, np.inf], slice_order="by_line")
    found, _ = numbers(xml, lines)
    assert sorted(index for _, _, index in found) == [1, 2, 3]


@pytest.mark.parametrize("vendor", ["SIEMENS", "others"])
@pytest.mark.parametrize(("slabs", "direction"), [(1, 1), (2, 1), (2, -1)])
def test_partitions_of_slabs_run_as_slabs_do(vendor: str, slabs: int, direction: int) -> None:
    _, lines = scan(slices=slabs, positions=[(0, 0, 20.0 * direction * k) for k in range(slabs)])
    size, fov = (32, 24, 4), (32, 24, 20)
    xml = mrd.cartesian_xml((slabs, 1, 32, 24), 1, encoded=size, recon=size, encoded_fov_mm=fov, recon_fov_mm=fov)
    header = replace(parse_header(xml), vendor=vendor)
    order = SliceOrder(header)
    for line in received(lines):
        order.add(line)
    (encoding,) = header.encodings
    assert (order.count(encoding), encoding.imaged_size(2)) == (4 * slabs, 4)
    ranks = [order.rank(number, encoding) for number in range(4 * slabs)]
    sign = -1 if vendor == "SIEMENS" else 1
    places = [20.0 * direction * (k // 4) + sign * 5.0 * (k % 4 - 2) for k in range(4 * slabs)]
    steps = np.diff([places[k] for k in np.argsort(ranks)])
    assert sorted(ranks) == list(range(4 * slabs)) and ((steps > 0).all() or (steps < 0).all())
    assert slabs > 1 or ranks == [0, 1, 2, 3]


def test_repetitions_and_phases_follow_one_another() -> None:
    xml, lines = placed([0, 5], repetitions=3)
    found, _ = numbers(xml, lines)
    assert found == [(k, 1, 1 + 2 * repetition + k) for repetition in range(3) for k in range(2)]


def test_a_series_for_each_contrast_and_kind_with_its_echo_time() -> None:
    xml, lines = scan(slices=1)
    xml = xml.replace("</encoding>", f"</encoding>{ECHOES}")
    series = ScanSeries(parse_header(xml))
    images = []
    for contrast in (1, 0, 2):  # as they may arrive
        (one,) = slices_of(xml, [replace(line, contrast=contrast) for line in lines])
        images += [series.image(kind, (k, 2), PIXELS, one, "", "short") for k, kind in enumerate(("tv", "uncertainty"))]
    assert [(image.contrast, image.image_series_index, image.image_index) for image in images] == [
        (1, 3, 1), (1, 4, 1), (0, 1, 1), (0, 2, 1), (2, 5, 1), (2, 6, 1),
    ]  # fmt: skip
    assert [image.meta.get("EchoTime") for image in images[::2]] == ["7.38", "4.92", None]
    assert images[1].meta["DataRole"] == ["Image", "Quantitative", "Uncertainty"]
    assert images[0].meta["DataRole"] == "Image"


def test_numbers_of_more_images_than_have_one_go_on_in_another_series() -> None:
    xml, lines = scan(slices=1, repetitions=1)
    (one,) = slices_of(xml, lines)
    series = ScanSeries(parse_header(xml))
    for repetition, number in ((0, 1), (MOST_IMAGES - 1, 1), (MOST_IMAGES, 2)):
        image = series.image("tv", (0, 1), PIXELS, replace(one, key=one.key._replace(repetition=repetition)), "", "")
        assert (image.image_series_index, image.image_index) == (number, 1 + repetition % MOST_IMAGES)
