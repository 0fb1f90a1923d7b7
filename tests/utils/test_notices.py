"""Warnings belong to a result: collected once each, by the innermost collector; else logged."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from mrihvae.utils.notices import collect_notices, warn


def test_a_text_is_collected_once_by_the_innermost() -> None:
    with collect_notices() as outer:
        warn("first")
        with collect_notices() as inner:
            warn("second")
            warn("second")
        warn("third")
    assert outer == ["first", "third"] and inner == ["second"]


def test_threads_do_not_take_each_others() -> None:
    def work(number: int) -> list[str]:
        with collect_notices() as notices:
            for k in range(100):
                warn(f"{number}, {k}")
        return notices

    with ThreadPoolExecutor(4) as pool:
        for number, notices in enumerate(pool.map(work, range(4))):
            assert notices == [f"{number}, {k}" for k in range(100)]


def test_without_a_result_they_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mrihvae"):
        warn("beware")
    assert [(record.name, record.message) for record in caplog.records] == [("mrihvae", "beware")]
