"""Where a server listens, and whether anybody waits there."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

pytest.importorskip("ismrmrd")

from mrihvae.errors import InputError
from mrihvae.server.listener import ServerSettings, allow_files, is_awaited, keep_alive, listen
from tests.support import REPOSITORY
from tests.support.serving import HOST


def test_connections_wait_before_a_server_takes_them() -> None:
    with listen(ServerSettings(HOST, 0)) as listener:
        assert not is_awaited(listener)
        with socket.create_connection(listener.getsockname()):
            assert is_awaited(listener)
            taken, _ = listener.accept()
            assert not is_awaited(listener)
            keep_alive(taken)
            assert taken.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
            taken.close()
            keep_alive(taken)  # it is gone: nothing happens
    assert not is_awaited(listener)


def test_port_that_is_taken() -> None:
    with listen(ServerSettings(HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match=f"{HOST}:{port}: nothing can listen there"):
            listen(ServerSettings(HOST, port))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_hosts_that_others_reach_are_refused(host: str) -> None:
    with pytest.raises(InputError, match=f"^host {host}: other machines can reach it.* add --allow-remote"):
        listen(ServerSettings(host, 0))


def test_hosts_that_others_reach_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with listen(ServerSettings("0.0.0.0", 0, allow_remote=True)):
        assert "host 0.0.0.0: other machines can reach it" in caplog.text
    caplog.clear()
    for host in (HOST, "localhost", "127.3.4.5"):
        listen(ServerSettings(host, 0)).close()
    assert not caplog.records


@pytest.mark.parametrize(
    "limits, raised, warned",
    [
        ((1024, 4096), (1288, 4096), False),
        ((1024, -1), (1288, -1), False),
        ((1024, 1100), (1100, 1100), True),
        ((4096, 4096), None, False),
        ((-1, -1), None, False),
    ],
)
def test_open_files_are_allowed_for_all_connections(
    limits: tuple[int, int],
    raised: tuple[int, int] | None,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    resource = pytest.importorskip("resource")
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: given.append(new))
    allow_files(ServerSettings(waiting=1024, connections=4))
    assert given == ([] if raised is None else [raised])
    assert ("lower --max-waiting" in caplog.text) is warned


def test_first_timeout_has_bounds() -> None:
    with pytest.raises(InputError, match="first-timeout 0: must be above 0"):
        ServerSettings(first_timeout=0)


def test_it_listens_without_torch() -> None:
    code = "import sys, mrihvae.server.listener; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
