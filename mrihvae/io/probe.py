"""The program of a worker process that reads HDF5 files of others, so that a crash or a hang within costs no more.

It takes lines of JSON, `[path, bytes of memory]`, and answers each with a line once the file was read: what is wrong
with it is left to its readers, whom the same damage then does not end. It needs h5py alone, and is run as a file.
"""

from __future__ import annotations

import json
import math
import sys
from contextlib import suppress
from typing import Any

import h5py

READ_BYTES = 2**28  # of a file, beyond which the first and last part of each dataset are read
BLOCK_BYTES = 2**24  # that are read at once
MAX_OBJECTS = 20000
MARGIN = 2**31  # bytes beside the arrays: Python, h5py and its caches


def main() -> None:
    """Read files until nobody asks any more."""
    say("ready")
    while line := sys.stdin.readline():
        path, memory = json.loads(line)
        limit_memory(memory + MARGIN)
        with suppress(Exception):  # its readers say more
            read_file(path, memory)
        say("read")


def say(word: str) -> None:
    """Write a line."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def limit_memory(size: int) -> None:
    """Let no allocation bring this process beyond so many bytes, where the system can do that."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


def read_file(path: str, memory: int) -> None:
    """Read all objects of a file, with attributes and data; links out of their group are not followed."""
    names = ["/"]

    def add(name: str) -> bool | None:
        names.append(name)
        return len(names) > MAX_OBJECTS or None  # which ends the visit

    with h5py.File(path, "r") as file:
        with suppress(Exception):
            file.visit(add)
        left = READ_BYTES
        for name in names:
            with suppress(Exception):
                item = file[name]
                for key in item.attrs:
                    read_attribute(item, key)
                if isinstance(item, h5py.Dataset) and item.external is None and not item.is_virtual:
                    left -= read_dataset(item, left, memory)


def read_attribute(item: Any, key: str) -> None:
    """Read an attribute, but for one that claims to be large."""
    with suppress(Exception):
        stored = item.attrs.get_id(key)
        if math.prod(stored.shape or ()) * stored.dtype.itemsize < BLOCK_BYTES:
            item.attrs[key]


def read_dataset(dataset: h5py.Dataset, most: int, memory: int) -> int:
    """Read a dataset, block by block, or its ends where it has more than `most` bytes; return how much was read."""
    if not dataset.shape:
        if dataset.dtype.itemsize < memory:
            dataset[()]
        return 0
    row = max(1, math.prod(dataset.shape[1:]) * dataset.dtype.itemsize)
    least = dataset.chunks[0] if dataset.chunks else 1
    count = -(-max(1, BLOCK_BYTES // row) // least) * least
    count = max(1, min(count, memory // row))
    if row > memory or (dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > memory):
        return 0  # which its readers refuse
    length, done = len(dataset), 0
    for start in range(0, length, count):
        if done > most:
            dataset[max(0, length - min(count, least)) :]
            break
        done += row * len(dataset[start : start + count])
    return done


if __name__ == "__main__":
    main()
