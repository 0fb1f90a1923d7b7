"""Numbers of the ISMRMRD protocol's messages: those of the package `ismrmrd` came with its version 1.15."""

from __future__ import annotations

from enum import IntEnum


class Number(IntEnum):
    """The number that a message begins with."""

    CONFIG_FILE = 1
    CONFIG_TEXT = 2
    HEADER = 3
    CLOSE = 4
    TEXT = 5
    ACQUISITION = 1008
    IMAGE = 1022
    WAVEFORM = 1026
