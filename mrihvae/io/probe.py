"""The program of a worker process that reads files of others, HDF5 and MATLAB's, so that a crash or a hang within costs
no more than the file.

It takes lines of JSON, `[path, bytes of memory, seconds, seconds of computing]`, and answers each with a line once the
file was read: `read`, and what its readers could not find out without taking the memory. What else is wrong with it is
left to them, whom the same damage then does not end. It needs h5py alone, and scipy for MATLAB's version 5, and is run
as a file.

Of `READ_BYTES` bytes of a file all is read. Beyond, of each dataset the first and last part are, and where its chunks
are stored: arrays of plain numbers, which are all that is as large, have nothing else that the library follows.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

READ_BYTES = 2**28  # of a file, beyond which the first and last part of each dataset are read
BLOCK_BYTES = 2**24  # that are read at once
MAX_OBJECTS = 20000
MAX_EXPANSION, SMALL = 1100, 2**26  # as `mrihvae.utils.memory` has them
USUAL_NAMES = (  # of objects and groups of the formats that are read, for groups that are too damaged to be listed
    "dataset", "data", "xml", "waveforms", "kspace", "mask", "ismrmrd_header", "reconstruction_esc",
    "reconstruction_rss", "reconstruction",
)  # fmt: skip
GRACE = 5.0  # seconds after which the process ends by itself, should the one that started it be gone
MARGIN = 2**31  # bytes beside the arrays: Python, h5py and its caches
ROOM = 2**25  # bytes that reading takes beside sequences, such as texts, which are no larger than their file
SEQUENCE_ROWS = 256  # rows with sequences that are read at once


def main() -> None:
    """Read files until nobody asks any more."""
    say("ready")
    while line := sys.stdin.readline():
        path, memory, seconds, computing = json.loads(line)
        limit_memory(memory + MARGIN)
        limit_time(seconds + GRACE, computing)
        found: list[str] = []
        with suppress(Exception):  # its readers say more
            read_file(path, memory, found)
        limit_time(0, 0)
        say(json.dumps(["read", *found[:1]]))


def say(word: str) -> None:
    """Write a line."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def limit_memory(size: int) -> None:
    """Let no allocation bring this process beyond so many bytes, where the system can do that."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


@contextmanager
def little_memory(path: str) -> Iterator[None]:
    """Let this process take little more than the bytes of a file within, where the system can do that."""
    try:
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError, ValueError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit_memory(now + 2 * Path(path).stat().st_size + ROOM)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def limit_time(seconds: float, computing: float) -> None:
    """End this process after so many seconds, or seconds of computing, also within the HDF5 library; 0 for never."""
    with suppress(ImportError, AttributeError, OSError, ValueError):
        import signal

        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        signal.setitimer(signal.ITIMER_PROF, computing)


def read_file(path: str, memory: int, found: list[str]) -> None:
    """Read all objects of a file, with attributes and data; links out of their group are not followed.

    Attributes of variable length that claim more than the file holds are added to `found`.
    """
    if not h5py.is_hdf5(path):
        from scipy.io import loadmat

        loadmat(path)
        return
    with h5py.File(path, "r") as file:
        left = READ_BYTES
        for item in objects_of(file):
            for key in keys_of(item):
                found += read_attribute(item, key, path)
            with suppress(Exception):
                if isinstance(item, h5py.Dataset) and item.external is None and not item.is_virtual:
                    if item.dtype.hasobject:
                        with little_memory(path):
                            left -= read_rows(item, left)
                    else:
                        left -= read_dataset(item, left, memory)


def objects_of(file: h5py.File) -> Iterator[h5py.Group | h5py.Dataset]:
    """Yield the objects of a file that hard links lead to, each once; damaged ones are passed over.

    HDF5's own visit ends at the first that is damaged, and readers, which go by names, meet those behind it.
    """
    names, visited, seen = ["/"], 0, {h5py.h5o.get_info(file.id).addr}
    while names and visited <= MAX_OBJECTS:
        name = names.pop()
        with suppress(Exception):
            if name != "/":
                link = file.id.links.get_info(name.encode())  # of the link: the object's own may be damaged
                if link.type != h5py.h5l.TYPE_HARD or link.u in seen:
                    continue
                seen.add(link.u)
            visited += 1
            item = file[name]
            yield item
            if isinstance(item, h5py.Group):
                names += [f"{name.rstrip('/')}/{key}" for key in reversed(members_of(item))]


def members_of(group: h5py.Group) -> list[str]:
    """List the names of a group, at most `MAX_OBJECTS`; the usual ones where it is too damaged to be listed."""
    try:
        return list(islice(group, MAX_OBJECTS))
    except Exception:
        return list(USUAL_NAMES)


def keys_of(item: h5py.Group | h5py.Dataset) -> list[str]:
    """List the attributes of an object, if they can be listed."""
    with suppress(Exception):
        return list(islice(item.attrs, MAX_OBJECTS))
    return []


def read_attribute(item: Any, key: str, path: str) -> list[str]:
    """Read an attribute, but for one that claims to be large; return what is wrong with one of variable length."""
    with suppress(Exception):
        stored = item.attrs.get_id(key)
        if math.prod(stored.shape or ()) * stored.dtype.itemsize >= BLOCK_BYTES:
            return []
        if not stored.dtype.hasobject:
            item.attrs[key]
            return []
        try:
            with little_memory(path):
                item.attrs[key]
        except Exception:
            return [f"its attribute {key!a} cannot be read"]
    return []


def read_rows(dataset: h5py.Dataset, most: int) -> int:
    """Read rows with sequences until there are more than `most` bytes, at least the first and the last."""
    count, done = len(dataset) if dataset.shape else 0, 0
    if not count:
        dataset[()]
    for start in range(0, count, SEQUENCE_ROWS):
        if done > most:
            dataset[-1:]
            break
        rows = dataset[start : start + SEQUENCE_ROWS]
        columns = [rows[name] for name in rows.dtype.names] if rows.dtype.names else [rows]
        done += rows.nbytes + sum(np.asarray(one).nbytes for column in columns for one in column.ravel())
    return done


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
    if row > READ_BYTES:
        axes = next(k for k in range(1, len(shape) + 1) if math.prod(shape[k:]) * item <= READ_BYTES)
        dataset[(0,) * axes]
        return READ_BYTES
    least = chunks[0] if chunks else 1
    count = -(-max(1, BLOCK_BYTES // row) // least) * least
    count, done = max(1, min(count, memory // row)), 0
    for start in range(0, shape[0], count):
        if done > most:
            if chunks:
                dataset.id.chunk_iter(lambda chunk: None)
            dataset[max(0, shape[0] - min(count, least)) :]
            break
        done += row * len(dataset[start : start + count])
    return done


if __name__ == "__main__":
    main()
