"""Where a server listens, and whether anybody waits there."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

pytest.importorskip("ismrmrd")

from mrihvae.errors import InputError
from mrihvae.server.listener import ServerSettings, is_awaited, keep_alive, listen
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


def test_first_timeout_has_bounds() -> None:
    with pytest.raises(InputError, match="first-timeout 0: must be above 0"):
        ServerSettings(first_timeout=0)


def test_it_listens_without_torch() -> None:
    code = "import sys, mrihvae.server.listener; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
