"""Large blocks of memory go back to the system."""

from __future__ import annotations

import pytest

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
