"""In which precision the network computes: bfloat16 where there are instructions for it.

The environment variable `MRIHVAE_PRECISION` says what "auto" means; "float32" gives the same numbers everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mrihvae.errors import InputError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "float32", "bfloat16")
PRECISION_VARIABLE = "MRIHVAE_PRECISION"


@contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Run the network in a precision of `PRECISIONS`."""
    import torch  # takes a second, and settings name precisions without it

    with torch.autocast(device.type, torch.bfloat16, enabled=is_lower(device, precision)):
        yield


def is_lower(device: torch.device, precision: str) -> bool:
    """Return whether a precision of `PRECISIONS` means bfloat16 on a device."""
    return precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 numbers faster than single precision, or the environment says so.

    Raises
    ------
    InputError
        The environment variable is none of `PRECISIONS`.
    """
    wanted = os.environ.get(PRECISION_VARIABLE) or "auto"
    if wanted not in PRECISIONS:
        raise InputError(f"{PRECISION_VARIABLE} is '{wanted}'; set it to one of {', '.join(PRECISIONS)}, or unset it")
    if wanted != "auto":
        return wanted == "bfloat16"
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
