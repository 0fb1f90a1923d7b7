"""Binary files broken in their structure: headers that stay readable, with values that cannot be."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.robustness.mutations import BYTE_MUTATIONS, FLOATS, LENGTHS, Generator, Mutation
from benchmarks.robustness.text_mutations import WORDS, mutate_json
from tests.support import mrd

SMALL_SIZES = (0, 1, 2, 255, 32767, 65535)
PNG_START = 8  # bytes of its signature
DICOM_KEYS = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel", "NumberOfFrames",
    "PhotometricInterpretation", "RescaleSlope", "RescaleIntercept", "PixelSpacing", "SliceThickness",
    "ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber", "SeriesNumber", "SeriesInstanceUID",
    "SeriesDescription", "PatientName", "Modality", "PixelData", "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence", "AcquisitionDate",
)  # fmt: skip
DICOM_VALUES: tuple[Any, ...] = (
    None, "", 0, 1, 7, 16, 65535, "x", "nan", "1e400", [], [0, 0], [1, 0, 0, 1, 0, 0], [0] * 6, ["nan"] * 3, [1, 2, 3],
    "-1", b"", b"\0\1", b"\0" * 5000,
)  # fmt: skip


def mutate_npy(data: bytes, rng: Generator) -> bytes:
    """Change shape, type or order in the header of a .npy file."""
    head = struct.unpack_from("<H", data, 8)[0]
    text = data[10 : 10 + head].decode("latin-1")
    shape = ("()", "(0,)", "(2, 3, 24, 20)", "(1000000, 1000000)", "(-1, 20)", "(9, " * 2000, "(nan,)", "(True, 480)")
    kind = ("'|O'", "'<c8'", "'<f2'", "'|V8'", "'>c16'", "'<M8[s]'", "'<U4'", "[('a', '<f4')]", "'|b1'")
    order = ("True", "1", "None", "__import__('os')", "[" * 5000)
    key, choices = (("shape", shape), ("descr", kind), ("fortran_order", order))[int(rng.integers(3))]
    value = choices[int(rng.integers(len(choices)))]
    old = r"\([^)]*\)" if key == "shape" else r"'[^']*'|\w+"
    text = re.sub(rf"('{key}': )({old})", lambda found: found[1] + value, text, count=1)
    encoded = text.encode("latin-1")
    return data[:8] + struct.pack("<H", len(encoded) % 65536) + encoded + data[10 + head :]


def mutate_safetensors(data: bytes, rng: Generator) -> bytes:
    """Change the JSON header of a safetensors file, in a value or in the state of a run that it has."""
    size = struct.unpack_from("<Q", data)[0]
    text = data[8 : 8 + size]
    whole = json.loads(text)
    state = whole.get("__metadata__", {}).get("state")
    if state and rng.random() < 0.6:
        whole["__metadata__"]["state"] = mutate_json(state.encode(), rng).decode("utf-8", "replace")
        text = json.dumps(whole).encode()
    elif rng.random() < 0.6:
        name = str(rng.choice([key for key in whole if key != "__metadata__"]))
        key, value = (
            ("dtype", str(rng.choice(["F64", "F16", "BF16", "I8", "BOOL", "X"]))),
            ("shape", [int(rng.choice(LENGTHS)) for _ in range(int(rng.integers(4)))]),
            ("data_offsets", [0, int(rng.choice(LENGTHS))]),
        )[int(rng.integers(3))]
        whole[name][key] = value
        text = json.dumps(whole).encode()
    else:
        text = mutate_json(text, rng)
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def mutate_nifti(data: bytes, rng: Generator) -> bytes:
    """Change a field of a NIfTI header."""
    fields = (
        ("<h", 40 + 2 * int(rng.integers(8))), ("<h", 70), ("<h", 72), ("<B", 39),
        ("<f", 76 + 4 * int(rng.integers(8))),
        ("<f", 108), ("<f", 112), ("<f", 116), ("<B", 123), ("<h", 252), ("<h", 254),
        ("<f", 256 + 4 * int(rng.integers(6))), ("<f", 280 + 4 * int(rng.integers(12))),
    )  # fmt: skip
    broken = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        code, at = fields[int(rng.integers(len(fields)))]
        if code == "<f":
            value = float(np.float32(np.clip(FLOATS[int(rng.integers(len(FLOATS)))], -3e38, 3e38)))
            struct.pack_into(code, broken, at, rng.choice([value, np.nan, np.inf]))
        elif code == "<B":
            struct.pack_into(code, broken, at, int(rng.integers(256)))
        else:
            choices = (0, 1, -1, 2, 7, 4, 16, 32, 128, 512, 1024, 1792, 2304, 32767, -32768)
            struct.pack_into(code, broken, at, int(rng.choice(choices)))
    return bytes(broken)


def mutate_png(data: bytes, rng: Generator) -> bytes:
    """Change a chunk of a PNG, with its checksum right; or drop, repeat or make one up."""
    chunks, at = [], PNG_START
    while at + 12 <= len(data):
        size = struct.unpack_from(">I", data, at)[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    k = int(rng.integers(len(chunks)))
    name, content = chunks[k]
    kind = rng.random()
    if kind < 0.4:
        head = list(struct.unpack(">IIBBBBB", chunks[0][1]))
        field = int(rng.integers(7))
        head[field] = int(rng.choice(SMALL_SIZES if field < 2 else (0, 1, 2, 3, 4, 6, 8, 16)))
        chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *head))
    elif kind < 0.6:
        chunks[k] = (name, content[: int(rng.integers(len(content) + 1))] + rng.bytes(int(rng.integers(9))))
    elif kind < 0.75:
        chunks[k : k + 1] = [(name, content)] * int(rng.choice((0, 2)))
    else:
        made = (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 2**22)), (b"PLTE", rng.bytes(5)), (b"tRNS", rng.bytes(3))
        made += (b"eXIf", rng.bytes(40)), (b"acTL", rng.bytes(8)), (b"IDAT", zlib.compress(b"\0" * 2**22))
        chunks.insert(max(k, 1), made[int(rng.integers(len(made)))])
    packed = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return data[:PNG_START] + b"".join(packed)


def mutate_dicom(data: bytes, rng: Generator) -> bytes:
    """Change or drop an attribute of a DICOM file."""
    import pydicom

    instance = pydicom.dcmread(io.BytesIO(data))
    for _ in range(int(rng.integers(1, 4))):
        key = DICOM_KEYS[int(rng.integers(len(DICOM_KEYS)))]
        if key in instance and rng.random() < 0.3:
            delattr(instance, key)
            continue
        try:
            setattr(instance, key, DICOM_VALUES[int(rng.integers(len(DICOM_VALUES)))])
        except (TypeError, ValueError, OverflowError):
            instance.Rows = 65535
    written = io.BytesIO()
    try:
        instance.save_as(written)
    except Exception:  # values that pydicom does not write: damage of another kind must do
        return data[: len(data) // 2]
    return written.getvalue()


def mutate_twix(data: bytes, rng: Generator) -> bytes:
    """Change a value of the protocol of Siemens raw data; its length stays, so that what follows is found."""
    values = list(re.finditer(rb"=\s+([^\n]+)\n|\{\s+(?:<\w+> \d+ )?\s*([\d.]+)[ }]", data))
    if not values:
        return data[:64]
    found = values[int(rng.integers(len(values)))]
    group = 1 if found[1] is not None else 2
    start, end = found.span(group)
    words = [word.encode() for word in WORDS if len(word) < 30]
    word = words[int(rng.integers(len(words)))]
    return data[:start] + word[: end - start].ljust(end - start) + data[end:]


def mutate_stream(data: bytes, rng: Generator) -> bytes:
    """Change messages of an MRD stream: their order, lengths, counters, header."""
    return bytes(mrd.Mutator(data).mutate(rng))


def mutate_stream_v2(data: bytes, rng: Generator) -> bytes:
    """Break an MRD stream of version 2 behind its schema, with which it begins."""
    text = data.decode("latin-1")
    end = json.JSONDecoder().raw_decode(text, text.index("{"))[1]
    names = list(BYTE_MUTATIONS)
    return data[:end] + BYTE_MUTATIONS[names[int(rng.integers(len(names)))]](data[end:], rng)


STRUCTURES: Mapping[str, Mutation] = {
    "dicom": mutate_dicom,
    "nifti": mutate_nifti,
    "png": mutate_png,
    "stream": mutate_stream,
    "stream_v2": mutate_stream_v2,
    "twix": mutate_twix,
    "npy": mutate_npy,
    "safetensors": mutate_safetensors,
}
