"""Seconds of the stages of a reconstruction."""

from __future__ import annotations

import pytest

from mrihvae.utils import stages
from mrihvae.utils.stages import record_stages, stage


def test_seconds_add_up_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((1.0, 1.5, 2.0, 2.25, 3.0, 7.0))
    monkeypatch.setattr(stages.time, "perf_counter", lambda: next(clock))
    with record_stages() as seconds:
        for _ in range(2):
            with stage("maps"):
                pass
        with stage("start"):
            pass
    assert seconds == {"maps": 0.75, "start": 4.0}


def test_a_stage_within_another_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 1.0, 2.0, 2.5, 4.0, 8.0))
    monkeypatch.setattr(stages.time, "perf_counter", lambda: next(clock))
    with record_stages() as seconds, stage("inference"), stage("first guess"), stage("read"):
        pass  # from 0 to 8, from 1 to 4, from 2 to 2.5
    assert seconds == {"inference": 5.0, "first guess": 2.5, "read": 0.5}


def test_without_a_record_nothing_is_kept() -> None:
    with stage("maps"):
        pass
    with record_stages() as seconds:
        pass
    assert seconds == {}


def test_stage_that_fails_counts() -> None:
    with record_stages() as seconds, pytest.raises(ValueError), stage("maps"):
        raise ValueError
    assert list(seconds) == ["maps"]


def test_records_end_with_their_blocks() -> None:
    with record_stages() as outer:
        with record_stages() as inner, stage("maps"):
            pass
        with stage("start"):
            pass
    assert list(inner) == ["maps"] and list(outer) == ["start"]
