"""How the C library hands memory back."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

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
