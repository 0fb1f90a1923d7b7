"""Warnings belong to a result: collected once each, by the innermost collector; else logged."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from mrihvae.utils.notices import MAX_ALIKE, MAX_KINDS, DistinctWarnings, collect_notices, warn


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


def test_warnings_that_are_alike_are_counted() -> None:
    found = DistinctWarnings()
    kept = [found.add(f"line {k} has {k * k} samples") for k in (1, 1, 2, 3, 4, 5, 4)]
    assert kept == [True, False, True, True, False, False, False] and MAX_ALIKE == 3
    assert found.add("beware") and not found.add("beware")
    assert found.texts == [*(f"line {k} has {k * k} samples" for k in (1, 2, 3)), "beware"]
    assert found.left_out() == ["3 more like: line 1 has 1 samples"]


def test_kinds_of_warnings_are_limited() -> None:
    """What a client names may differ in more than numbers."""
    found, names = DistinctWarnings(), ["".join("ab"[k >> n & 1] for n in range(10)) for k in range(1000)]
    assert sum(found.add(f"parameter {name}") for name in names) == MAX_KINDS == len(found.texts)
    assert found.left_out() == [f"{1000 - MAX_KINDS} more like: further warnings"]
