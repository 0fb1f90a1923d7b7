"""Memory of this process: how the C library hands it back, and the most that a volume took."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

import torch

MMAP_THRESHOLD = -3  # the number of M_MMAP_THRESHOLD in glibc's malloc.h
LARGE_BLOCK_BYTES = 2**22  # bytes


def return_large_blocks() -> None:
    """Let glibc give blocks of `LARGE_BLOCK_BYTES` bytes or more back to the system as soon as they are freed.

    By itself it keeps blocks of up to 32 MB once one was freed, in a heap that fragments: while a file is reconstructed
    slice by slice the peak grows by a tenth. Where there is no glibc nothing changes.
    """
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means too little memory, for which torch's CPU allocator has no type."""
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
