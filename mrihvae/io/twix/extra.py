"""How TWIX files are recognized, and the extra `twix`: the packages twixtools and ismrmrd that reading them needs."""

from __future__ import annotations

import re
import struct
from importlib.util import find_spec

from mrihvae.errors import InputError

MAX_MEASUREMENTS = 64  # entries of the table at the start of VD files
MIN_FIRST_OFFSET = 8 + 152 * MAX_MEASUREMENTS  # bytes of that table, before the first measurement
MIN_VB_HEADER = 10000  # bytes; VB files begin with the length of their header, VD files with a number below
MAX_BUFFERS = 64  # parts of a measurement's header
FIRST_BUFFER = re.compile(rb"[A-Za-z]\w{3,}\0")


def require_twixtools(what: str) -> None:
    """Raise InputError if `what` cannot be read, for lack of a package."""
    for package in ("twixtools", "ismrmrd"):
        if find_spec(package) is None:
            raise InputError(f"{what}: needs the package {package}; pip install 'mrihvae[twix]'")


def is_twix(start: bytes) -> bool:
    """Return whether a file that begins with these bytes, 64 or more, is Siemens raw data."""
    return is_modern(start) or is_vb(start)


def is_modern(start: bytes) -> bool:
    """Return whether it is of VD, VE or XA: a table of measurements first."""
    if len(start) < 32:
        return False
    first, count, offset = struct.unpack("<II8xQ", start[:24])
    return bool(first < MIN_VB_HEADER and 1 <= count <= MAX_MEASUREMENTS and MIN_FIRST_OFFSET <= offset < 2**40)


def is_vb(start: bytes) -> bool:
    """Return whether it is of VB: the length of a single measurement's header first."""
    if len(start) < 16:
        return False
    length, buffers = struct.unpack("<II", start[:8])
    return length >= MIN_VB_HEADER and 1 <= buffers <= MAX_BUFFERS and bool(FIRST_BUFFER.match(start, 8))
