"""Seconds of the stages of a reconstruction."""

from __future__ import annotations

import time

import pytest

from mrihvae.utils.stages import recorded, stage


def test_seconds_add_up_by_name() -> None:
    with recorded() as seconds:
        for _ in range(2):
            with stage("maps"):
                time.sleep(0.01)
        with stage("start"):
            pass
    assert list(seconds) == ["maps", "start"]
    assert 0.02 <= seconds["maps"] < 1 and 0 <= seconds["start"] < 0.01


def test_without_a_record_nothing_is_kept() -> None:
    with stage("maps"):
        pass
    with recorded() as seconds:
        pass
    assert seconds == {}


def test_stage_that_fails_counts() -> None:
    with recorded() as seconds, pytest.raises(ValueError), stage("maps"):
        raise ValueError
    assert list(seconds) == ["maps"]


def test_records_end_with_their_blocks() -> None:
    with recorded() as outer:
        with recorded() as inner, stage("maps"):
            pass
        with stage("start"):
            pass
    assert list(inner) == ["maps"] and list(outer) == ["start"]
