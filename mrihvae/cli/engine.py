"""What does the tasks of a command: this process, one after the other, or the workers of Dask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

from mrihvae.cli.console import progress
from mrihvae.cli.tasks import LEAST_MEMORY, Result, Runner, Task, Workers
from mrihvae.errors import InputError


def workers_of(arguments: Any) -> Workers | None:
    """Return the workers that options describe; None where all is done in this process.

    Raises
    ------
    InputError
        Values that cannot be, options that contradict each other, or no Dask.
    """
    count, scheduler = arguments.workers, arguments.scheduler
    if count is None and scheduler is None:
        for name in ("threads_per_worker", "worker_memory"):
            if getattr(arguments, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option}: needs --workers; add it, or leave this option out")
        return None
    if None not in (count, scheduler):
        raise InputError("--workers and --scheduler: contradict each other; give only one of them")
    if count is not None and count < 1:
        raise InputError(f"--workers {count}: must be at least 1")
    threads = 1 if arguments.threads_per_worker is None else arguments.threads_per_worker
    if threads < 1:
        raise InputError(f"--threads-per-worker {threads}: must be at least 1")
    memory = arguments.worker_memory
    if memory is not None and not LEAST_MEMORY <= memory < float("inf"):
        raise InputError(f"--worker-memory {memory}: must be a number of GiB, at least {LEAST_MEMORY}")
    if memory is not None and scheduler is not None:
        raise InputError(
            "--worker-memory: only applies to local workers; set the limit of --scheduler workers where they are "
            "started"
        )
    if find_spec("distributed") is None:
        given = "--workers" if scheduler is None else "--scheduler"
        raise InputError(f"{given}: needs Dask's package distributed; pip install 'mrihvae[cluster]'")
    return Workers(count, scheduler, threads, memory)


@contextmanager
def open_runner(workers: Workers | None, verbose: bool = False, title: str | None = None) -> Iterator[Runner]:
    """Return what runs tasks: it yields each with its result, on workers in the order in which they finish.

    Parameters
    ----------
    workers : None for this process
    verbose : whether to say where the workers can be watched
    title : of the progress bar over tasks, which workers have in any case

    Raises
    ------
    InputError
        A scheduler that cannot be reached.
    """
    if workers is None:
        yield partial(_run_here, title)
        return
    from mrihvae.cli.dask_engine import open_dask

    with open_dask(workers, verbose) as run:
        yield run


def _run_here(title: str | None, tasks: Sequence[Task]) -> Iterator[tuple[Task, Result]]:
    """Do tasks in this process, each when its result is requested."""
    for task in progress(tasks, title or "", disable=True if title is None else None):
        yield task, partial(task.finish, ())
