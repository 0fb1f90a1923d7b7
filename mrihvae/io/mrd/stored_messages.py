"""What an ISMRMRD file holds, as messages: lines and images as they are, in the order in which they are stored."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np

from mrihvae.errors import InputError
from mrihvae.io.checked_hdf5 import open_checked
from mrihvae.io.checks import read_errors
from mrihvae.io.mrd.files import copy_records
from mrihvae.io.mrd.numbers import Number
from mrihvae.io.mrd.write_messages import MessageStream

ROWS = 256  # lines that are read at once
PARAMETERS_KEY = "configAdditional"  # where python-ismrmrd-server stores the JSON text that came with a scan
PLAIN_HEADER = '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"/>'  # of images without one


def list_groups(path: Path) -> list[str]:
    """List the groups of a file that hold a scan, lines with their header, or images; none of other files."""
    try:
        with open_checked(path) as file:
            groups = {name: group for name, group in file.items() if isinstance(group, h5py.Group)}
            return [name for name, group in groups.items() if {"xml", "data"} <= set(group) or _image_groups(group)]
    except Exception:  # whatever damage causes, of which who reads it says more
        return []


def read_messages_of(path: Path, group: str) -> MessageStream:
    """Read header, parameters, and the messages of all lines and images of a group; lines are read when they are taken.

    Raises
    ------
    InputError
        Damaged, neither lines nor images, or, when messages are taken, one whose length is not what its header says.
    """
    with read_errors(path, "truncated or not an ISMRMRD file", "copy it again"), open_checked(path) as file:
        stored = file[group]
        lines = len(stored["data"]) if "data" in stored else 0
        images = {name: len(stored[name]["header"]) for name in _image_groups(stored)}
        xml = _text(stored["xml"]) if "xml" in stored else PLAIN_HEADER
        parameters = _text(stored[PARAMETERS_KEY]) if PARAMETERS_KEY in stored else ""
    if not lines and not images:
        raise InputError(f"{path}: '{group}' holds neither lines nor images; choose another --group")
    return MessageStream(xml, _messages(path, group, list(images)), lines + sum(images.values()), parameters)


def _messages(path: Path, group: str, images: list[str]) -> Iterator[bytes]:
    with read_errors(path, "damaged", "copy it again"), open_checked(path) as file:
        if "data" in file[group]:
            yield from _lines(path, file[group]["data"])
        for name in images:
            yield from _images(path, file[group][name])


def _lines(path: Path, stored: h5py.Dataset) -> Iterator[bytes]:
    packed = np.dtype(ismrmrd.AcquisitionHeader)
    for start in range(0, len(stored), ROWS):
        rows = stored[start : start + ROWS]
        heads = np.zeros(len(rows), packed)
        copy_records(rows["head"], heads)
        for number, (head, trajectory, data) in enumerate(zip(heads, rows["traj"], rows["data"]), start):
            samples = int(head["number_of_samples"])
            expected = samples * int(head["trajectory_dimensions"]), 2 * samples * int(head["active_channels"])
            if (len(trajectory), len(data)) != expected:
                raise InputError(
                    f"{path}: line {number} holds {len(data)} numbers and {len(trajectory)} of its trajectory, its "
                    f"header says {expected[1]} and {expected[0]}; export it again"
                )
            values = np.asarray(trajectory, "<f4").tobytes() + np.asarray(data, "<f4").tobytes()
            yield struct.pack("<H", Number.ACQUISITION) + head.tobytes() + values


def _images(path: Path, stored: h5py.Group) -> Iterator[bytes]:
    packed = np.dtype(ismrmrd.ImageHeader)
    heads = np.zeros(len(stored["header"]), packed)
    copy_records(stored["header"][()], heads)
    data, texts = stored["data"], stored.get("attributes")
    for number, head in enumerate(heads):
        attributes = b"" if texts is None else _bytes(texts[number])
        pixels = np.asarray(data[number])
        if pixels.shape != (head["channels"], *head["matrix_size"][::-1]):
            raise InputError(
                f"{path}: image {number} of {stored.name} is {' x '.join(map(str, pixels.shape))}, but its header has "
                "another matrix; store it again"
            )
        head["attribute_string_len"] = len(attributes)
        counted = struct.pack("<Q", len(attributes)) + attributes
        yield struct.pack("<H", Number.IMAGE) + head.tobytes() + counted + pixels.tobytes()


def _image_groups(group: h5py.Group) -> list[str]:
    """List the series of a group."""
    return [name for name, item in group.items() if isinstance(item, h5py.Group) and {"header", "data"} <= set(item)]


def _text(dataset: h5py.Dataset) -> str:
    return _bytes(np.ravel(dataset[()])[0]).decode()


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
