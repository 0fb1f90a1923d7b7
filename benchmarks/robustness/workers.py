"""Processes that read damaged files: what hangs or crashes one of them is known by the number it was at."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing as mp
import multiprocessing.connection
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

HANG_SECONDS = 10.0  # of computing
SILENT_SECONDS = (
    100.0  # in which a process that computes nothing hangs, too; a file may take 60 s of a worker of its own
)
POLL_SECONDS = 1.0  # in which processes are looked at; time beyond is that in which this one was stopped, too
ADDRESS_BYTES = 4 * 2**30  # beyond those of the process at its start
MEMORY_CONSTANT = 64 * 2**20  # bytes that a reader may need beside twice what it decodes
PACKAGE = "mrihvae"


@dataclass(frozen=True)
class Outcome:
    """How a reader took a damaged file.

    Attributes
    ----------
    form, number : of the case
    kind : of mutation
    what : "read", "refused", "exception", "hang", "crash" or "memory"
    error : of an exception its type, and the last place in the package; of a crash the signal
    seconds : of computing that it took, with those of processes that it started
    """

    form: str
    number: int
    kind: str
    what: str
    error: str = ""
    seconds: float = 0.0

    def row(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Batch:
    """Numbers of a format, from `start` to before `stop`."""

    form: str
    start: int
    stop: int


def serve(connection: Connection, trace: str) -> None:
    """Read the damaged files of batches that come over a connection; runs in a process of its own."""
    from benchmarks.robustness.readers import FORMATS
    from benchmarks.robustness.seeds import make_seeds

    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    log = Path(trace).open("w+")  # noqa: SIM115 - it lives as long as the process
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(log.fileno(), 2)
    faulthandler.enable(log)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    faulthandler.register(signal.SIGPROF, log, chain=True)
    made: dict[str, Any] = {}
    for batch in iter(connection.recv, None):
        form = FORMATS[batch.form]
        if batch.form not in made:
            made[batch.form] = make_seeds(form.build)
            _limit_memory()
        for number in range(batch.start, batch.stop):
            connection.send(("start", number))
            connection.send(("done", run_case(form, number, made[batch.form])))
        log.seek(0)
        log.truncate()
        connection.send(("end", batch))


def _limit_memory() -> None:
    """Let the process take no more than `ADDRESS_BYTES` further bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + ADDRESS_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def run_case(form: Any, number: int, good: Sequence[Mapping[str, bytes]]) -> Outcome:
    """Read a damaged file, and say how it went."""
    from benchmarks.robustness.cases import make_case, memory_folder
    from benchmarks.robustness.readers import read

    case = make_case(form.name, number, good)
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        path = case.write(Path(folder))
        before = _reset_peak()
        began = _own_seconds()
        signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
        try:
            size = read(form, path, number)
            what, error = ("refused" if size is None else "read"), ""
        except Exception as caught:
            size, what, error = None, "exception", _describe(caught)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        seconds = _own_seconds() - began
        grown = _peak() - before
        files = sum(map(len, case.files.values()))
        if what != "exception" and grown > 2 * (size or 0) + 4 * files + MEMORY_CONSTANT:
            what, error = "memory", f"{grown / 2**20:.0f} MiB for {(size or 0) / 2**20:.1f} MiB, {what}"
        elif what in ("read", "refused") and seconds > HANG_SECONDS:  # the most of it in a worker of the reader
            what, error = "hang", f"beyond {HANG_SECONDS:g} s, {what}"
    return Outcome(form.name, number, case.kind, what, error, round(seconds, 3))


def _own_seconds() -> float:
    """Return how long this process has computed, and those that it started."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(_cpu_seconds, _children(os.getpid())))


def _children(number: int) -> list[int]:
    """List the processes that a process started and that run still, where Linux can."""
    with contextlib.suppress(OSError):
        return [int(one) for one in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    return []


def _cpu_seconds(number: int) -> float:
    """Return how long a process has computed; 0 of one that has ended, or where there is no way to know."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _describe(error: Exception) -> str:
    """Return an error's type, where in the package it arose, and its message."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if f"/{PACKAGE}/" in frame.filename]
    at = frames[-1] if frames else None
    place = "outside" if at is None else f"{at.filename.rpartition(f'/{PACKAGE}/')[2]}:{at.name}"
    first = "" if isinstance(error, MemoryError | KeyError) else str(error).partition("\n")[0]
    message = re.sub(r"b?'.*|/\S+|\d+|\([^)]*\)|an? (object|array) from.*", "*", first)[:80].strip()
    return f"{type(error).__name__} at {place}" + (f": {message}" if message else "")


def _reset_peak() -> int:
    """Start to measure the peak of memory anew, where Linux can; return the memory now, in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    path = Path("/proc/self/status")
    if not path.exists():
        return 0
    lines = path.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


class Worker:
    """A process that reads damaged files, from the side of who watches it."""

    def __init__(self, target: Callable[[Connection, str], None] = serve) -> None:
        self._context, self._target = mp.get_context("spawn"), target
        self.batch: Batch | None = None
        self._start()

    def _start(self) -> None:
        handle, self._trace = tempfile.mkstemp(suffix=".trace")
        os.close(handle)
        self.connection, theirs = self._context.Pipe()
        self._process = self._context.Process(target=self._target, args=(theirs, self._trace), daemon=True)
        self._process.start()
        theirs.close()
        self._at = -1
        self._listen()

    def _listen(self) -> None:
        """Begin to count how long the process has neither said anything nor computed."""
        self._silent, self._computed, self._seen = 0.0, -1.0, time.monotonic()

    def _is_silent(self) -> bool:
        """Return whether the process does nothing: time in which it waits for a processor does not count."""
        number = self._process.pid or 0
        computed, now = sum(map(_cpu_seconds, (number, *_children(number)))), time.monotonic()
        passed, self._seen = min(now - self._seen, 2 * POLL_SECONDS), now
        self._silent = self._silent + passed if computed == self._computed else 0.0
        self._computed = computed
        return self._silent > SILENT_SECONDS

    def give(self, batch: Batch) -> None:
        """Send a batch."""
        self.batch, self._at = batch, -1
        self._listen()
        self.connection.send(batch)

    def collect(self) -> Iterator[Outcome]:
        """Yield what is done by now; of a process that died or hangs, too, which is replaced."""
        try:
            while self.batch is not None and self.connection.poll():
                word, content = self.connection.recv()
                self._listen()
                if word == "start":
                    self._at = content
                elif word == "done":
                    yield content
                else:
                    self.batch = None
        except (EOFError, ConnectionError):
            yield from self._replace("")
            return
        if self.batch is not None and self._at >= 0 and self._is_silent():
            self._process.kill()
            yield from self._replace("hang")

    def _replace(self, what: str) -> Iterator[Outcome]:
        """Say what became of the case at which the process ended, and go on behind it with another process."""
        self._process.join(10)
        code, batch = self._process.exitcode or 0, self.batch
        trace = Path(self._trace).read_text(errors="replace")
        self.close()
        if batch is None or self._at < 0:
            raise RuntimeError(f"a process ended before its first case: {trace[-2000:]}")
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        what = what or ("hang" if name == "SIGPROF" else "crash")
        place = next((line.strip() for line in trace.splitlines() if f"/{PACKAGE}/" in line), "")
        at = re.sub(rf'^.*/{PACKAGE}/(\S+)", line \d+ in (\S+)$', r"\1:\2", place)
        yield Outcome(batch.form, self._at, "", what, f"{name} at {at or 'outside'}")
        following = Batch(batch.form, self._at + 1, batch.stop)
        self._start()
        self.batch = None
        if following.start < following.stop:
            self.give(following)

    def close(self) -> None:
        """End the process."""
        if self.batch is None:
            with contextlib.suppress(OSError):
                self.connection.send(None)
            self._process.join(5)
        self._process.kill()
        self._process.join(10)
        self.connection.close()
        Path(self._trace).unlink(missing_ok=True)


def run_batches(
    batches: Sequence[Batch], processes: int, target: Callable[[Connection, str], None] = serve
) -> Iterator[Outcome]:
    """Read the damaged files of all batches in several processes, each of which runs `target`; yield outcomes."""
    if sys.platform == "win32":
        raise SystemExit("fuzz: needs Linux or macOS")
    waiting = list(batches)[::-1]
    workers = [Worker(target) for _ in range(min(processes, len(batches)))]
    try:
        while waiting or any(worker.batch for worker in workers):
            for worker in workers:
                if worker.batch is None and waiting:
                    worker.give(waiting.pop())
            mp.connection.wait([worker.connection for worker in workers if worker.batch], timeout=POLL_SECONDS)
            for worker in workers:
                if worker.batch is not None:
                    yield from worker.collect()
    finally:
        for worker in workers:
            worker.close()
