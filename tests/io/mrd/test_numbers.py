"""Numbers of messages: those of the specification, and of the package `ismrmrd` where it has them."""

from __future__ import annotations

import pytest

from mrihvae.io.mrd.numbers import Number
from tests.support.mrd import messages as mrd


def test_numbers_are_those_of_the_specification() -> None:
    assert {number.name: number.value for number in Number} == {
        name: getattr(mrd, name)
        for name in ("CONFIG_FILE", "CONFIG_TEXT", "HEADER", "CLOSE", "TEXT", "ACQUISITION", "IMAGE", "WAVEFORM")
    }


def test_numbers_are_those_of_ismrmrd() -> None:
    serialization = pytest.importorskip("ismrmrd.serialization")  # from 1.15 on
    theirs = {number.name: number.value for number in serialization.ISMRMRDMessageID}
    assert {number.name: number.value for number in Number}.items() <= theirs.items()
