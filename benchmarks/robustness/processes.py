"""Processes that are killed: forked from a server that has imported everything and computed nothing."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.robustness.kill_work import Case

OPERATIONS = ("os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir")  # audit events, beside "open"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC  # flags of files that are opened to be written
COUNTED = "operations"  # file with how many operations finished work took
LOG = "output.txt"  # file with what the work printed
PRELOADED = (  # what commands import when they are used
    "benchmarks.robustness.processes", "mrihvae.cli.train", "mrihvae.cli.convert", "mrihvae.cli.convert_content",
    "mrihvae.cli.reconstruct", "mrihvae.cli.run", "mrihvae.cli.report", "mrihvae.evaluation.figures", "jinja2",
    "matplotlib.pyplot", "matplotlib.backends.backend_agg", "pydicom", "nibabel", "filelock", "fastmri",
)  # fmt: skip
LONGEST = 600.0  # seconds after which work counts as hanging


@dataclass(frozen=True)
class Moment:
    """When a process is killed: after `seconds`, or before its n-th operation on a file; both are None for never."""

    seconds: float | None = None
    operation: int | None = None

    @classmethod
    def draw(cls, rng: random.Random, seconds: float, operations: int) -> Moment:
        """Draw a moment of work that takes so many seconds and operations."""
        if rng.random() < 0.5:
            return cls(seconds=rng.uniform(0, seconds))
        return cls(operation=rng.randint(1, operations))


def run_work(case: Case, folder: Path, moment: Moment) -> list[str] | None:
    """Do the work of a case on files in `folder`/work; return None if it was killed, else what went wrong."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    ready, started = context.Pipe(duplex=False)
    process = context.Process(target=_perform, args=(case, folder, moment.operation, started))
    process.start()
    started.close()
    ready.recv()  # from here on seconds count
    process.join(LONGEST if moment.seconds is None else moment.seconds)
    late = process.is_alive()
    if late:
        process.kill()
        process.join()
    if process.exitcode == 0:
        return []
    if process.exitcode != -signal.SIGKILL:
        return [f"ended with status {process.exitcode}: {(folder / LOG).read_text()[-2000:]}"]
    return [f"hung for {LONGEST} s"] if late and moment.seconds is None else None


def _perform(case: Case, folder: Path, operation: int | None, started: Connection) -> None:
    """Do the work, in the process."""
    import torch

    torch.set_num_threads(1)
    counter, began, status = Operations(folder / "work", operation), time.perf_counter(), 1
    with (folder / LOG).open("w") as log, redirect_stdout(log), redirect_stderr(log):
        counter.watch()
        started.send(True)
        try:
            case.work()
            (folder / COUNTED).write_text(f"{counter.count} {time.perf_counter() - began}")
            status = 0
        except BaseException:
            traceback.print_exc()
    os._exit(status)


class Operations:
    """Counts operations that change files below a folder, and kills the process before a given one.

    They are what Python does: files that are opened to be written, names that change, and waits for the disk.
    """

    def __init__(self, folder: Path, last: int | None) -> None:
        self.folder, self.last, self.count, self._sync = str(folder), last, 0, os.fsync

    def watch(self) -> None:
        """Count from here on, in this process."""
        sys.addaudithook(self._audit)
        os.fsync = self._fsync

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in OPERATIONS or (event == "open" and arguments[2] & WRITING)
        if changes and str(arguments[0]).startswith(self.folder):
            self._add()

    def _fsync(self, file: int) -> None:
        self._add()
        self._sync(file)

    def _add(self) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
