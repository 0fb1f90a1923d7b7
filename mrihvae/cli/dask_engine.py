"""Tasks on the workers of Dask distributed: local processes, or those of any Dask scheduler.

Dask assigns tasks, starts workers again that die, and repeats their tasks. Added to it are: reading the next file
ahead, one task at a time in a worker, and a second attempt, by itself, for a task that workers died of: it may have
been the victim of another one.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
import torch
from distributed import Client, KilledWorker, LocalCluster, Worker, WorkerPlugin, as_completed
from distributed.security import Security
from distributed.system import MEMORY_LIMIT

from mrihvae import __version__
from mrihvae.cli.console import progress, show_warning, silence
from mrihvae.cli.events import log_event
from mrihvae.cli.reconstruct_files import open_cached
from mrihvae.cli.tasks import LEAST_MEMORY, Result, Runner, Task, Workers
from mrihvae.errors import InputError, reason
from mrihvae.utils.memory import given_limit

GROUP = "volumes"  # of Dask's keys
SHARE = 0.9  # of the machine's memory, for all local workers together
CONNECT = 10  # seconds to reach a scheduler
CHUNK = 2**22  # bytes that are read ahead at once
HANDED_ON = ("MRIHVAE_MAX_MEMORY", "MRIHVAE_PRECISION", "MRIHVAE_READ_SECONDS")  # variables of the environment
CONFIG = {  # a worker beyond its limit is started again: its arrays are not Dask's, and cannot be moved to a disk
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.worker.profile.enabled": False,  # it looks at the worker's stack 100 times a second
    "distributed.admin.tick.interval": "500ms",  # of the checks that a process responds, 20 ms by default
    "distributed.deploy.lost-worker-timeout": "7 days",  # a worker that dies twice in a row is not given up
}
_one_at_a_time = threading.Lock()


@contextmanager
def open_dask(workers: Workers, verbose: bool = False) -> Iterator[Runner]:
    """Start local workers, or connect to a scheduler; return what runs tasks on them.

    Raises
    ------
    InputError
        A scheduler that cannot be reached.
    """
    for name in ("distributed", "distributed.nanny", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.ERROR)  # a worker that is started again is not an error
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # a scheduler that is lost has a line of its own
    with (
        tempfile.TemporaryDirectory(prefix="mrihvae-dask-") as scratch,
        dask.config.set({**CONFIG, "temporary-directory": scratch}),
        _cluster(workers, Path(scratch)) as address,
        _client(address) as client,
    ):
        there = len(client.scheduler_info(n_workers=-1)["workers"])
        if not there:
            show_warning(str(workers.scheduler), "has no workers yet; waiting for them")
        if verbose:
            print(f"workers: {there}, dashboard: {client.dashboard_link}", file=sys.stderr)
        log_event("workers", workers=there, dashboard=client.dashboard_link)
        yield partial(_run, client, workers)


@contextmanager
def _cluster(workers: Workers, scratch: Path) -> Iterator[Any]:
    """Return the address of the scheduler; of local workers also start and end it."""
    if workers.count is None:
        yield workers.scheduler
        return
    limit = MEMORY_LIMIT * SHARE / workers.count if workers.memory is None else workers.memory * 2**30
    if limit < LEAST_MEMORY * 2**30:
        raise InputError(f"--workers {workers.count}: too many for the memory of this machine; use fewer")
    cluster = LocalCluster(
        n_workers=workers.count, threads_per_worker=1, processes=True, memory_limit=int(limit), host="127.0.0.1",
        dashboard_address="127.0.0.1:0", local_directory=str(scratch), silence_logs=logging.CRITICAL,
        security=local_security(),
    )  # fmt: skip
    try:
        yield cluster
    finally:
        with suppress(Exception):  # the error that is on its way says more
            cluster.close(timeout=5)


def local_security() -> Security | None:
    """Make keys for this run alone, or other users of the machine could have its workers run code as this user.

    None without the package cryptography, which the extra [cluster] installs.
    """
    return Security.temporary() if find_spec("cryptography") else None


@contextmanager
def _client(address: Any) -> Iterator[Client]:
    """Connect to a scheduler."""
    try:
        client = Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(
            f"--scheduler {address}: cannot be reached ({reason(error)}); start one with 'dask scheduler', or check "
            "the address"
        ) from error
    try:
        yield client
    finally:
        with suppress(Exception):
            client.close(timeout=5)


def _run(client: Client, workers: Workers, tasks: Sequence[Task]) -> Iterator[tuple[Task, Result]]:
    """Run tasks; those that workers died of once more, each by itself."""
    own = {name: os.environ[name] for name in HANDED_ON if name in os.environ} | given_limit()
    run = f"{GROUP}-{os.getpid()}-{time.monotonic_ns()}"  # a scheduler may have the tasks of others
    plugin = _Preparation(workers.threads, own, workers.count is not None)
    client.register_plugin(plugin, name=run)
    suspects: list[Task] = []
    try:
        with progress(title="reconstructing", total=len(tasks), smoothing=0) as bar:
            for attempt, chosen in enumerate((tasks, suspects)):
                together = [list(chosen)] if attempt == 0 else [[task] for task in chosen]
                for number, group in enumerate(together):
                    for task, result in _completed(client, f"{run}-{attempt}-{number}", group):
                        if attempt == 0 and result is None:
                            suspects.append(task)
                            continue
                        bar.update()
                        yield task, result or partial(_raise, InputError(
                            f"{task.file}: workers died repeatedly while processing it: too little memory (raise "
                            "--worker-memory, lower --batch-size), or a file that crashes its reader"
                        ))  # fmt: skip
    finally:
        with suppress(Exception):
            client.unregister_worker_plugin(run)


def _completed(client: Client, run: str, tasks: Sequence[Task]) -> Iterator[tuple[Task, Result | None]]:
    """Yield tasks with their results, as they finish; None for a task that workers died of."""
    whole = [(number, task) for number, task in enumerate(tasks) if not task.parts]
    keys = [(run, str(task.file), number, 0) for number, task in whole]
    single = client.map(partial(_work, __version__), [task.finish for _, task in whole], key=keys) if whole else []
    found = {future: task for future, (_, task) in zip(single, whole, strict=True)}
    for number, task in enumerate(tasks):
        if task.parts:
            parts = [
                client.submit(_work_on_part, __version__, part, key=(run, str(task.file), number, place))
                for place, part in enumerate(task.parts, start=1)
            ]
            finish = client.submit(_work, __version__, task.finish, parts, key=(run, "", number, 0))
            found[finish] = task
    finished = as_completed(list(found), loop=client.loop)
    try:
        for future in finished:
            task = found.pop(future)
            if future.status == "error" and isinstance(future.exception(), KilledWorker):
                yield task, None
                continue
            try:
                value, error = future.result()
            except CancelledError as lost:
                raise InputError(
                    "the scheduler has ended or is no longer reachable; start it again, and continue with --resume"
                ) from lost
            yield task, partial(_raise, error) if error is not None else partial(_return, value)
            del future  # so that the scheduler forgets it
    finally:
        with suppress(Exception):  # after Ctrl-C the scheduler may have gone, and what it had to do with it
            client.cancel(list(found), force=True)


def _work(version: str, finish: Any, parts: Sequence[tuple[Any, InputError | None]] = ()) -> tuple[Any, Any]:
    """Finish a task in a worker: its result, or None, and the error, or None."""
    errors = [error for _, error in parts if error is not None]
    if errors:
        return None, errors[0]
    return _work_on_part(version, partial(finish, [value for value, _ in parts]))


def _work_on_part(version: str, function: Any) -> tuple[Any, InputError | None]:
    """Call a function in a worker, whose output is nobody's; errors of users are results."""
    if version != __version__:
        return None, InputError(f"mrihvae {version}: a worker has {__version__}; install the same version")
    with _one_at_a_time, silence():
        try:
            return function(), None
        except InputError as error:
            return None, error


class _Preparation(WorkerPlugin):
    """Prepares a worker, and reads the file of the next task ahead into the system's cache.

    Parameters
    ----------
    threads : of torch
    environment : variables
    local : whether the worker belongs to this command, which then ends it
    """

    def __init__(self, threads: int, environment: Mapping[str, str], local: bool) -> None:
        self.threads, self.environment, self.local = threads, environment, local

    def setup(self, worker: Worker) -> None:
        """Prepare the worker."""
        self.worker, self.ahead = worker, ""
        for name in HANDED_ON:  # a command before this one may have set others
            os.environ.pop(name, None)
        os.environ.update(self.environment)
        torch.set_num_threads(self.threads)
        open_cached.cache_clear()  # a worker may outlive commands, between which files change
        if self.local:
            with suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Read the file of a task that waits for another one to end."""
        if finish != "ready" or not (isinstance(key, tuple) and str(key[0]).startswith(GROUP) and key[1]):
            return
        if key[1] != self.ahead and self.worker.state.executing_count:
            self.ahead = key[1]
            threading.Thread(target=_read_ahead, args=(Path(key[1]),), daemon=True).start()


def _read_ahead(path: Path) -> None:
    """Read a file once, so that the system's cache has it."""
    with suppress(OSError), path.open("rb", buffering=0) as file:
        while file.read(CHUNK):
            pass


def _return(value: Any) -> Any:
    return value


def _raise(error: InputError) -> Any:
    raise error
