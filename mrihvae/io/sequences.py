"""Data of variable length in HDF5: how many bytes a dataset claims, before the library allocates as many.

A row has the length of each sequence and its place in a heap. The library allocates that length first, and looks into
the heap only then. In the heap each sequence lies once, uncompressed: together they are smaller than the file.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from mrihvae.errors import InputError
from mrihvae.utils.memory import check_expansion

LENGTH = np.dtype("<u4")  # of a sequence; behind it is its place
PLACE_BYTES, ADDRESS_BYTES = 16, 8  # of a row for length and place, and of the address within, in usual files
MAX_SEQUENCES = 256  # of a row
CHECKSUM_BYTES = 4  # that fletcher32 adds
REPACK = "copy it with h5repack -f NONE -l CONTI"


def check_sequences(dataset: h5py.Dataset, what: str) -> None:
    """Raise InputError if the sequences of a dataset claim more bytes than its file has, or if that cannot be known.

    Datasets without data of variable length are not looked at. `what` names the dataset in errors.
    """
    item, sequences = _layout(dataset.id.get_type(), what)
    if not sequences or not dataset.size:
        return
    if dataset.file.id.get_create_plist().get_sizes()[0] != ADDRESS_BYTES:
        raise InputError(f"{what} has addresses of an unusual width; {REPACK}")
    size, claimed = dataset.file.id.get_filesize(), 0
    for rows in _stored_rows(dataset, item, size, what):
        for start, width in sequences:
            lengths = np.ascontiguousarray(rows[..., start : start + LENGTH.itemsize]).view(LENGTH)
            claimed += width * int(lengths.sum(dtype=np.uint64))
        if claimed > size:
            raise InputError(f"{what} claims {claimed} bytes in sequences, and the file has {size}; copy it again")


def _layout(kind: h5py.h5t.TypeID, what: str) -> tuple[int, list[tuple[int, int]]]:
    """Return the bytes of a row on disk, and of its sequences where each is and the bytes of an element.

    Texts take 8 bytes of a row in memory, and 16 on disk, by which all behind them moves.
    """
    size, found = kind.get_size(), []
    if isinstance(kind, h5py.h5t.TypeCompoundID):
        for k in sorted(range(kind.get_nmembers()), key=kind.get_member_offset):
            member = kind.get_member_type(k)
            start = kind.get_member_offset(k) + size - kind.get_size()
            stored, inner = _layout(member, what)
            size += stored - member.get_size()
            found += [(start + place, width) for place, width in inner]
    elif isinstance(kind, h5py.h5t.TypeArrayID):
        count = math.prod(kind.get_array_dims())
        stored, inner = _layout(kind.get_super(), what)
        if inner:
            size = count * stored
            found = [
                (k * stored + place, width) for k in range(min(count, MAX_SEQUENCES + 1)) for place, width in inner
            ]
    elif isinstance(kind, h5py.h5t.TypeVlenID):
        if _layout(kind.get_super(), what)[1]:
            raise InputError(f"{what} has sequences of sequences, which no known format has; leave it out")
        size, found = PLACE_BYTES, [(0, kind.get_super().get_size())]
    elif isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str():
        size, found = PLACE_BYTES, [(0, 1)]
    if len(found) > MAX_SEQUENCES:
        raise InputError(f"{what} has more than {MAX_SEQUENCES} sequences in a row, as no known format; leave it out")
    return size, found


def _stored_rows(dataset: h5py.Dataset, item: int, size: int, what: str) -> Iterator[np.ndarray]:
    """Yield the rows that are stored in a file of `size` bytes, as bytes (..., item)."""
    plist = dataset.id.get_create_plist()
    layout = plist.get_layout()
    if layout == h5py.h5d.CONTIGUOUS:
        place, count = dataset.id.get_offset(), dataset.size * item
        if place is None:
            return  # nothing is stored
        if place + count > size:
            raise InputError(f"{what} claims {count} bytes, and the file has {size}; copy it again")
        with Path(dataset.file.filename).open("rb") as file:
            file.seek(place)
            yield np.frombuffer(file.read(count), np.uint8).reshape(-1, item)
    elif layout == h5py.h5d.CHUNKED:
        shape = *dataset.chunks, item
        stored: list[h5py.h5d.StoreInfo] = []
        dataset.id.chunk_iter(stored.append)
        for chunk in stored:
            if chunk.size > size:
                raise InputError(f"a chunk of {what} claims {chunk.size} bytes, and the file has {size}; copy it again")
            data = _unfiltered(dataset.id.read_direct_chunk(chunk.chunk_offset), plist, math.prod(shape), what)
            rows = np.frombuffer(data, np.uint8).reshape(shape)
            within = (slice(0, n - k) for n, k in zip(dataset.shape, chunk.chunk_offset, strict=True))
            yield rows[tuple(within)]
    else:
        raise InputError(f"{what} is stored in an unusual way; {REPACK}")


def _unfiltered(chunk: tuple[int, bytes], plist: h5py.h5p.PropDCID, count: int, what: str) -> bytes:
    """Undo the filters of a chunk of `count` bytes."""
    skipped, data = chunk
    for k in reversed(range(plist.get_nfilters())):
        code, _, values, _ = plist.get_filter(k)
        if skipped >> k & 1:
            continue
        if code == h5py.h5z.FILTER_DEFLATE:
            check_expansion(f"a chunk of {what}", count, len(data))
            data = zlib.decompressobj().decompress(data, count + CHECKSUM_BYTES)
        elif code == h5py.h5z.FILTER_SHUFFLE and values and values[0] and len(data) % values[0] == 0:
            data = np.frombuffer(data, np.uint8).reshape(values[0], -1).T.tobytes()
        elif code == h5py.h5z.FILTER_FLETCHER32:
            data = data[:-CHECKSUM_BYTES]
        else:
            raise InputError(f"{what} is stored with a filter that rows of variable length do not have; {REPACK}")
    if len(data) != count:
        raise InputError(f"a chunk of {what} has {len(data)} bytes in place of {count}; copy it again")
    return data
