"""Tasks of a command, a volume or a file each, and where they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEAST_MEMORY = 1  # GiB of a worker: it takes half of them before it does anything, and would be ended again and again


@dataclass(frozen=True)
class Task:
    """The work on one volume or file, to be sent to another process.

    Attributes
    ----------
    name : of the file or the volume
    file : that it reads
    finish : takes what the parts returned, in their order, and returns the result; of no parts it does all by itself
    parts : the same work in pieces that may be done at the same time; used where there are workers
    """

    name: str
    file: Path
    finish: Callable[[Sequence[Any]], Any]
    parts: tuple[Callable[[], Any], ...] = ()


Result = Callable[[], Any]  # returns what a task returned, or raises its InputError
Runner = Callable[[Sequence[Task]], Iterator[tuple[Task, Result]]]


@dataclass(frozen=True)
class Workers:
    """Where tasks are done.

    Attributes
    ----------
    count : number of local processes, or None
    scheduler : address of a Dask scheduler, or None
    threads : of torch, in each worker
    memory : GiB that a local worker may hold; None for its share of the machine
    """

    count: int | None = None
    scheduler: str | None = None
    threads: int = 1
    memory: float | None = None
