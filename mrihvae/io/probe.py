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
MAX_EXPANSION, SMALL = 1100, 2**26  # as `mrihvae.utils.memory` has them
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
    """Read a dataset, block by block, or its ends where it has more than `most` bytes; return how much was read.

    What claims more than it can hold, or more than the memory, is left to its readers, who refuse it.
    """
    shape, item, chunks = dataset.shape or (), int(dataset.dtype.itemsize), dataset.chunks
    size = math.prod(shape) * item
    if math.prod(chunks or ()) * item > memory:
        return 0
    if size > SMALL and size > MAX_EXPANSION * dataset.id.get_storage_size():
        return 0
    if not shape or not size:
        dataset[()]
        return size
    row = size // shape[0]
    if dataset.dtype.hasobject:  # arrays of any length, of which `item` counts the addresses
        row = max(row, dataset.file.id.get_filesize() // shape[0])
    if row > READ_BYTES:
        axes = next(k for k in range(1, len(shape) + 1) if math.prod(shape[k:]) * item <= READ_BYTES)
        dataset[(0,) * axes]
        return READ_BYTES
    least = chunks[0] if chunks else 1
    count = -(-max(1, BLOCK_BYTES // row) // least) * least
    count, done = max(1, min(count, memory // row)), 0
    for start in range(0, shape[0], count):
        if done > most:
            dataset[max(0, shape[0] - min(count, least)) :]
            break
        done += row * len(dataset[start : start + count])
    return done


if __name__ == "__main__":
    main()
