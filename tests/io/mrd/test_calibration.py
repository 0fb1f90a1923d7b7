"""Calibration lines without a mode that says what they are: of the image where they fill its gaps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

from mrihvae.io.partitions import centered_fft
from tests.support import mrd
from tests.support.assembly import phantom, psnr, scan_3d, slab_xml, sort, stacked

SHAPE = (2, 3, 16, 24)
PATTERN = np.arange(24) % 3 == 0
CENTER = np.abs(np.arange(24) - 12) <= 4
EQUAL = 100  # dB from which images are the same


def header(mode: str | None) -> str:
    return mrd.cartesian_xml(SHAPE, acceleration=(3, 1), calibration_mode=mode)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("mode", [None, "other"])
@pytest.mark.parametrize(
    "options", [{}, {"slice_order": "by_line"}, {"calibration_apart": True}, {"averages": 2}], ids=str
)
def test_lines_that_fill_gaps_are_of_the_image(mode: str | None, early: bool, options: dict[str, Any]) -> None:
    """As with mode embedded, and with a warning; also where the calibration has lines of the image again."""
    kspace = phantom(*SHAPE)
    lines = mrd.cartesian_lines(kspace, mask=PATTERN, calibration=CENTER, **options)
    sorter, slices = sort(header(mode), lines, early)
    assert psnr(stacked(slices), kspace * (PATTERN | CENTER)) > EQUAL
    assert all((one.mask == PATTERN | CENTER).all() and one.calibration is None for one in slices)
    (text,) = sorter.warnings
    assert text.startswith(f"ACS lines of calibration mode '{mode or 'none'}' fill gaps between lines")
    _, embedded = sort(header("embedded"), lines, early)
    assert psnr(stacked(slices), stacked(embedded)) > EQUAL


def test_complete_scan_of_lines_that_fill_gaps() -> None:
    kspace = phantom(*SHAPE)
    lines = mrd.cartesian_lines(kspace, mask=PATTERN, calibration=np.ones(24, bool))
    assert psnr(stacked(sort(header(None), lines)[1]), kspace) > EQUAL


@pytest.mark.parametrize("kind", ["separate", "another contrast", "elsewhere", "shorter", "beyond"])
def test_lines_that_are_not_of_the_image(kind: str) -> None:
    """By the mode, or of another contrast, position or readout, or off the image."""
    kspace = phantom(*SHAPE)
    center = np.arange(24) >= 20 if kind == "beyond" else CENTER
    taken = PATTERN & (np.arange(24) < 10) if kind == "beyond" else PATTERN
    lines = mrd.cartesian_lines(kspace, mask=taken, calibration=center, calibration_apart=kind == "another contrast")
    alone = mrd.flags(mrd.CALIBRATION)
    for k, line in enumerate(lines):
        if line.flags & alone and kind == "elsewhere":
            lines[k] = replace(line, position=(0.0, 0.0, 77.0))
        elif line.flags & alone and kind == "another contrast":
            lines[k] = replace(line, data=line.data / 2)
        elif line.flags & alone and kind == "shorter":
            lines[k] = replace(line, data=line.data[:, 12:], center_sample=4)
    sorter, slices = sort(header("separate" if kind == "separate" else None), lines)
    assert psnr(stacked(slices), kspace * taken) > EQUAL and len(sorter.warnings) == (kind == "separate")
    assert all((one.mask == taken).all() and one.calibration is not None for one in slices)


def test_separate_lines_that_only_the_image_lacks_are_doubted() -> None:
    """A scan of its own has contiguous lines, so that some are measured twice."""
    kspace = phantom(*SHAPE)
    lines = mrd.cartesian_lines(kspace, mask=PATTERN, calibration=CENTER)
    (text,) = sort(header("separate"), lines)[0].warnings
    assert text.startswith("ACS lines are exactly the lines that the image lacks, but the header's calibration mode")
    lines = mrd.cartesian_lines(kspace, mask=PATTERN, calibration=CENTER, calibration_apart=True)
    assert not sort(header("separate"), lines)[0].warnings


def test_partitions_of_lines_that_fill_gaps() -> None:
    slices = phantom(4, 2, 16, 24)
    slab = centered_fft(slices, 0)
    taken = np.repeat(PATTERN[:, None], 4, axis=1)
    lines = [
        replace(line, flags=0 if PATTERN[line.kspace_encode_step_1] else mrd.flags(mrd.CALIBRATION))
        for line in scan_3d(slab, taken | CENTER[:, None])
    ]
    _, found = sort(slab_xml(slab), lines)
    assert psnr(stacked(found), slices * (PATTERN | CENTER)) > EQUAL


def test_later_repetitions_without_such_lines_have_the_maps_of_the_first() -> None:
    kspace = phantom(1, 3, 16, 24)
    first = mrd.cartesian_lines(kspace, mask=PATTERN, calibration=CENTER, last_in_measurement=False)
    second = mrd.cartesian_lines(kspace, mask=PATTERN, counters={"repetition": 1})
    xml = mrd.cartesian_xml(kspace.shape, repetitions=2, acceleration=(3, 1))
    _, (one, other) = sort(xml, [*first, *second], early=True)
    assert (one.mask == PATTERN | CENTER).all() and (other.mask == PATTERN).all()
    assert one.calibration is not None and other.calibration is not None
    assert all(np.asarray(each.mask).reshape(-1, 24)[-1][CENTER].all() for each in (one.calibration, other.calibration))
