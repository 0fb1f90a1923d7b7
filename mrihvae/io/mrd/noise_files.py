"""A noise scan in a file of its own: an MRD stream of either version, or ISMRMRD HDF5."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import ismrmrd

from mrihvae.errors import InputError
from mrihvae.io.checks import read_errors
from mrihvae.io.mrd.messages import Message, read_messages
from mrihvae.io.mrd.stored_messages import list_groups, read_messages_of
from mrihvae.io.mrd.v2 import StreamV2, is_v2

HDF5 = b"\x89HDF"


def read_noise_lines(path: Path) -> list[ismrmrd.Acquisition]:
    """Read the lines of a file that are flagged as noise.

    Raises
    ------
    InputError
        Not there, neither a stream nor ISMRMRD HDF5, or without such a line.
    """
    with read_errors(path, "is not a noise scan", "give an MRD stream or an ISMRMRD HDF5 file"):
        lines = [
            message
            for message in _messages(path)
            if isinstance(message, ismrmrd.Acquisition) and message.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        ]
    if not lines:
        raise InputError(f"{path}: has no noise line (flag {ismrmrd.ACQ_IS_NOISE_MEASUREMENT}); give the noise scan")
    return lines


def _messages(path: Path) -> Iterator[Message]:
    with path.open("rb") as file:
        start = file.read(len(HDF5))
        file.seek(0)
        if start == HDF5:
            for group in list_groups(path):
                for message in read_messages_of(path, group).messages:
                    yield from read_messages(BytesIO(message).read)
        elif is_v2(start):
            yield from StreamV2(file.read, len).messages()  # nothing is written
        else:
            yield from read_messages(file.read)
