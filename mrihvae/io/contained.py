"""Files of others, HDF5 and MATLAB's, are read by a worker process first, so that a crash or a hang costs one file.

Their libraries crash on some damaged files, or never return. One worker serves a process: it starts at the first
file, and again after a file at which it ended. A file is read once, and again when it has changed.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import signal
import stat
import subprocess
import sys
import threading
from collections import OrderedDict
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from mrihvae.errors import InputError
from mrihvae.utils.memory import limit
from mrihvae.utils.text import printable

PROGRAM = Path(__file__).with_name("probe.py")
TIME_VARIABLE = "MRIHVAE_READ_SECONDS"  # of the environment
READ_SECONDS = 60.0
COMPUTING = 1 / 8  # of these, which a file of any size may take of the processor: the rest is for slow file systems
BYTES_PER_SECOND = 10e6  # that a slow file system reads
MOST_SECONDS = 86400.0  # that may be set
MAX_KNOWN = 4096  # files whose answers are kept
PACKAGES = ("h5py", "numpy", "scipy")  # that the worker imports
LEAVE_OUT = "it is damaged; copy it again or leave it out"

Identity = tuple[int, int, int, int]


def _file_of(package: str) -> str | None:
    """Return the file of a package that can be imported, without importing it."""
    found = find_spec(package)
    return None if found is None else found.origin


class Worker:
    """A process that reads files; it lives until the process that started it ends, or a file ends it."""

    def __init__(self) -> None:
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        own = [str(Path(file).parents[1]) for package in PACKAGES if (file := _file_of(package))]  # where they are here
        places = os.pathsep.join(dict.fromkeys(place for place in (*own, *given) if place))
        environment = {**os.environ, "PYTHONPATH": places, "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
        self.owner = os.getpid()
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        atexit.register(self.stop)
        if not (self.process.stdout and self.process.stdout.readline()):  # it says that it has h5py
            self.stop()
            raise OSError("no worker process")

    def read(self, path: Path, seconds: float, computing: float) -> str:
        """Have a file read; return what went wrong with that, or nothing."""
        request = json.dumps([os.path.abspath(path), limit(), seconds, computing]) + "\n"  # noqa: PTH100
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self.process.kill()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        answer = ""
        try:
            answer = self._ask(request)
        finally:
            timer.cancel()
            if not answer:
                self.stop()
        if answer:
            found = json.loads(answer)[1:]
            return f"{printable(found[0])}: {LEAVE_OUT}" if found else ""
        if expired.is_set():
            return f"reading it took more than {seconds:.0f} s: {LEAVE_OUT}, or raise {TIME_VARIABLE}"
        code = self.process.returncode
        if code == -signal.SIGPROF:
            return f"reading it took more than {computing:.0f} s of computing: {LEAVE_OUT}, or raise {TIME_VARIABLE}"
        why = signal.Signals(-code).name if code < 0 else f"status {code}"
        return f"reading it crashed the library for its format ({why}): {LEAVE_OUT}"

    def _ask(self, request: str) -> str:
        """Send a line and return the answer, which is empty where the process ended."""
        if self.process.stdin is None or self.process.stdout is None:
            return ""
        with suppress(OSError):
            self.process.stdin.write(request)
            self.process.stdin.flush()
            return self.process.stdout.readline()
        return ""

    def stop(self) -> None:
        """End the process; in a copy of the process that started it, by a fork, nothing happens."""
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with suppress(OSError):  # of a request that was never sent
                    if pipe is not None:
                        pipe.close()
            atexit.unregister(self.stop)


_locks = [threading.Lock()]
_workers: list[Worker] = []  # of this process the last one; earlier ones are of processes that it was forked from
_known: OrderedDict[str, tuple[Identity, str]] = OrderedDict()


def _renew_lock() -> None:
    """Replace the lock in a process that was forked while another thread may have held it."""
    _locks[:] = [threading.Lock()]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def check_in_worker(path: Path) -> None:
    """Have a worker process read an HDF5 or MATLAB file, unless it did so and the file is the same still.

    Files that cannot be opened, and systems on which no process can be started, are left to the reader.

    Raises
    ------
    InputError
        The process crashed, took longer than `MRIHVAE_READ_SECONDS` and a second for every 10 MB, computed for an
        eighth of that, or found an attribute that claims more memory than the file has bytes; or it is no file but a
        pipe or device.
    """
    try:
        status = path.stat()
    except OSError:
        return
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise InputError(f"{path}: is a pipe or device; give a file")
    name, identity = os.path.abspath(path), (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)  # noqa: PTH100
    with _locks[0]:
        known = _known.get(name)
        if known is None or known[0] != identity:
            found = _read(path, _seconds(), status.st_size / BYTES_PER_SECOND)
            if found is None:
                return
            known = _known[name] = identity, found
            while len(_known) > MAX_KNOWN:
                _known.popitem(last=False)
    if known[1]:
        raise InputError(f"{path}: {known[1]}")


def _read(path: Path, seconds: float, more: float) -> str | None:
    """Have the worker of this process read a file; None where no process can be started."""
    if not _workers or _workers[-1].owner != os.getpid() or _workers[-1].process.poll() is not None:
        earlier = [worker for worker in _workers if worker.owner != os.getpid()]  # kept, for they end by themselves
        try:
            _workers[:] = [*earlier, Worker()]
        except OSError:
            return None
    return _workers[-1].read(path, seconds + more, seconds * COMPUTING + more)


def _seconds() -> float:
    given = os.environ.get(TIME_VARIABLE)
    try:
        seconds = float(given) if given else READ_SECONDS
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MOST_SECONDS:
        raise InputError(f"{TIME_VARIABLE} {given}: must be a number of seconds above 0, at most {MOST_SECONDS:.0f}")
    return seconds
