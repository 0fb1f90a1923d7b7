"""Memory: what reading may take, how the C library hands it back, and the most that a volume took."""

from __future__ import annotations

import ctypes
import math
import os
import re
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from mrihvae.errors import InputError

MMAP_THRESHOLD = -3  # the number of M_MMAP_THRESHOLD in glibc's malloc.h
LARGE_BLOCK_BYTES = 2**22  # bytes
GIB = 2**30  # bytes
MOST_GIB = 2.0**20
LIMIT_VARIABLE = "MRIHVAE_MAX_MEMORY"  # of the environment, GiB
SHARE = 0.5  # of the memory that is free, which one array may take
USUAL_MEMORY = 16 * GIB  # where the system does not say how much is free
LARGEST_SLICE = 2**26  # pixels: 8192 x 8192
MAX_EXPANSION = 1100  # deflate packs at most 1032 bytes into one
SMALL = 2**26  # bytes: what claims less may claim more than it holds, as sparse arrays do

_limits: dict[str, int] = {}


def return_large_blocks() -> None:
    """Let glibc give blocks of `LARGE_BLOCK_BYTES` bytes or more back to the system as soon as they are freed.

    By itself it keeps blocks of up to 32 MB once one was freed, in a heap that fragments: while a file is reconstructed
    slice by slice the peak grows by a tenth. Where there is no glibc nothing changes.
    """
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def set_limit(gib: float | None) -> None:
    """Set how much memory one array of a file may take, GiB, in place of the usual share; None for the usual one.

    Raises
    ------
    InputError
        Not a number above 0.
    """
    _limits.clear()
    if gib is not None:
        _limits["set"] = _bytes_of(gib, "--max-memory")


def limit() -> int:
    """Return how many bytes one array of a file may take: what was set, what the environment says, or a usual share.

    Raises
    ------
    InputError
        Not a number in the environment.
    """
    if "set" in _limits:
        return _limits["set"]
    given = os.environ.get(LIMIT_VARIABLE)
    return _usual_limit() if not given else _bytes_of(given, LIMIT_VARIABLE)


def given_limit() -> dict[str, str]:
    """Return the limit as a variable of the environment, for other processes; nothing where it is the usual share."""
    given = str(_limits["set"] / GIB) if "set" in _limits else os.environ.get(LIMIT_VARIABLE)
    return {LIMIT_VARIABLE: given} if given else {}


def check_size(what: str, size: int) -> None:
    """Raise InputError for an array of more than `limit` bytes in memory; `what` names file and array."""
    if size > limit():
        raise InputError(
            f"{what} takes {size / GIB:.3g} GiB of memory, and the limit is {limit() / GIB:.3g} GiB; raise "
            f"{LIMIT_VARIABLE}, or split the file"
        )


def check_expansion(what: str, size: int, stored: int, small: int = SMALL) -> None:
    """Raise InputError for an array of more bytes than compression could have packed into the `stored` ones.

    Of `small` bytes and fewer nothing is said.
    """
    if size > small and size > MAX_EXPANSION * stored:
        raise InputError(f"{what} claims {size / GIB:.3g} GiB but stores {stored} bytes; copy it again or leave it out")


def check_slice(what: str, height: int, width: int) -> None:
    """Raise InputError for a slice of more than `LARGEST_SLICE` pixels."""
    if height * width > LARGEST_SLICE:
        side = math.isqrt(LARGEST_SLICE)
        raise InputError(f"{what} has slices of {height} x {width}; at most {side} x {side} pixels are supported")


def _bytes_of(gib: float | str, name: str) -> int:
    """Return a number of bytes."""
    try:
        number = float(gib)
    except ValueError:
        number = math.nan
    if not 0 < number <= MOST_GIB:
        raise InputError(f"{name} {gib}: must be a number of GiB above 0")
    return int(number * GIB)


@cache
def _usual_limit() -> int:
    """Compute a share of the memory that is free when it is first needed."""
    return int(SHARE * min(_free_memory(), _group_memory()))


def _free_memory() -> int:
    """Return the memory of the machine that is free, bytes."""
    with suppress(OSError, ValueError):
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 2**10
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return USUAL_MEMORY


def _group_memory() -> int:
    """Return the memory that a container may take, bytes; without a limit, more than any machine has."""
    with suppress(OSError, ValueError):
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    return sys.maxsize


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means too little memory, for which torch's CPU allocator has no type."""
    import torch  # takes seconds, for which readers have no use

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def reset_peak_memory() -> None:
    """Let `peak_memory` count from now on, where the system can (Linux); else it counts from the process's start."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Return the most memory that this process held since `reset_peak_memory`, resident, in bytes; 0 if unknown."""
    with suppress(OSError, ValueError):  # `resource` would count the process that started this one, too
        lines = Path("/proc/self/status").read_text().splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
