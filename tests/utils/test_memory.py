"""Large blocks of memory go back to the system."""

from __future__ import annotations

import pytest

from mrihvae.errors import InputError
from mrihvae.utils import memory


def test_it_asks_glibc_and_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, *given: int) -> None:
            asked.append((given[0], given[1]))

    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library())
    memory.return_large_blocks()
    assert asked == [(-3, memory.LARGE_BLOCK_BYTES)]
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())  # a C library of another kind
    memory.return_large_blocks()
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    memory.return_large_blocks()
    assert len(asked) == 1


def test_limit_is_what_was_set_or_the_environment_or_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(memory.LIMIT_VARIABLE, raising=False)
    memory._usual_limit.cache_clear()
    usual = memory.limit()
    assert 2**26 < usual < 2**50
    monkeypatch.setenv(memory.LIMIT_VARIABLE, "0.5")
    assert memory.limit() == 2**29
    memory.set_limit(2)
    assert memory.limit() == 2**31
    memory.set_limit(None)
    assert memory.limit() == 2**29
    monkeypatch.setenv(memory.LIMIT_VARIABLE, "much")
    with pytest.raises(InputError, match="MRIHVAE_MAX_MEMORY much: must be a number of GiB above 0"):
        memory.limit()
    with pytest.raises(InputError, match="--max-memory -1: must be"):
        memory.set_limit(-1)
    memory.set_limit(None)


def test_sizes_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.LIMIT_VARIABLE, "1")
    memory.check_size("a", memory.GIB)
    with pytest.raises(
        InputError, match="a takes 2 GiB of memory, and the limit is 1 GiB; raise MRIHVAE_MAX_MEMORY, or split"
    ):
        memory.check_size("a", 2 * memory.GIB)
    memory.check_expansion("a", memory.SMALL, 0)
    memory.check_expansion("a", 1000 * memory.SMALL, memory.SMALL)
    with pytest.raises(InputError, match="a claims 2 GiB but stores 1000 bytes"):
        memory.check_expansion("a", 2 * memory.GIB, 1000)
    memory.check_slice("a", 8192, 8192)
    with pytest.raises(InputError, match="a has slices of 8193 x 8192; at most 8192 x 8192 pixels are supported"):
        memory.check_slice("a", 8193, 8192)


def test_the_limit_for_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(memory.LIMIT_VARIABLE, raising=False)
    assert memory.given_limit() == {}
    monkeypatch.setenv(memory.LIMIT_VARIABLE, "3")
    assert memory.given_limit() == {memory.LIMIT_VARIABLE: "3"}
    memory.set_limit(1.5)
    try:
        assert memory.given_limit() == {memory.LIMIT_VARIABLE: "1.5"}
    finally:
        memory.set_limit(None)
