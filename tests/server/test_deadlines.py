"""How long a client has: each deadline, and what prolongs it."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("ismrmrd")

from mrihvae.server.deadlines import Deadlines
from mrihvae.server.listener import ServerSettings

SETTINGS = ServerSettings(
    timeout=100, first_timeout=30, idle_timeout=60, message_timeout=20, scan_timeout=1000, connections=1
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which tests set."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def assert_over(deadlines: Deadlines, word: str, others_wait: bool = False) -> None:
    with pytest.raises(TimeoutError, match=f"^{word}$"):
        deadlines.left(others_wait)


def test_header(clock: list[float]) -> None:
    deadlines = Deadlines(SETTINGS)
    for clock[0] in range(0, 30, 5):
        deadlines.begin()  # whole messages, but no header
        assert deadlines.left(False) == 30 - clock[0]
    clock[0] = 30
    assert deadlines.age == 30
    assert_over(deadlines, "no header came for 30 s")


def test_a_message_must_be_whole(clock: list[float]) -> None:
    deadlines = Deadlines(SETTINGS)
    deadlines.progress(useful=True)
    deadlines.begin()
    for clock[0] in range(50, 70, 5):
        deadlines.enter()  # a byte now and then
        assert deadlines.left(False) == 70 - clock[0]
    clock[0] = 70
    assert_over(deadlines, "a message took more than 20 s")
    deadlines.begin()  # it is whole after all
    assert deadlines.left(False) == 30  # until a line must be there


@pytest.mark.parametrize("useful, idle", [(False, 30), (True, 60)])
def test_lines(useful: bool, idle: int, clock: list[float]) -> None:
    deadlines = Deadlines(SETTINGS)
    deadlines.progress(useful)
    clock[0] = 10  # what was done with the line is not the client's time
    deadlines.begin()
    clock[0] = 20
    deadlines.begin()  # texts or waveforms
    assert deadlines.left(others_wait=False) == 90 and deadlines.left(others_wait=True) == idle - 10
    clock[0] = 10 + idle
    deadlines.begin()
    assert_over(deadlines, f"no line came for {idle} s, and others wait", others_wait=True)
    assert deadlines.left(others_wait=False) == 100 - idle
    clock[0] = 110
    assert_over(deadlines, "no line came for 100 s")


def test_silence(clock: list[float]) -> None:
    deadlines = Deadlines(ServerSettings(timeout=10, first_timeout=30))
    clock[0] = 10
    assert_over(deadlines, "no whole message came for 10 s")


def test_the_whole_scan(clock: list[float]) -> None:
    deadlines = Deadlines(SETTINGS)
    for clock[0] in range(0, 1000, 50):
        deadlines.progress(useful=True)
        deadlines.begin()
        assert deadlines.left(True) > 0
    clock[0] = 1000
    assert_over(deadlines, "the scan took more than 1000 s")
