"""Streams of MRD version 2, of the package `mrd-python`: read as the messages of version 1, and images written back.

A stream of version 2 begins with the bytes `yardl`. It has no texts and no configuration.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import ismrmrd
import numpy as np

from mrihvae.errors import InputError, reason
from mrihvae.io.mrd.messages import Header, Message, Read, StreamError
from mrihvae.io.mrd.v2_header import xml_of_header

if TYPE_CHECKING:
    import mrd

MAGIC = b"yardl"
CUT = (EOFError, BufferError)  # how mrd-python reports a stream that ends within something
COUNTERS = (
    "kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase", "repetition", "set",
    "segment",
)  # fmt: skip
DIRECTIONS = ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")
OPTIONAL = (
    "scan_counter", "acquisition_time_stamp", "discard_pre", "discard_post", "center_sample", "encoding_space_ref",
    "sample_time_us",
)  # fmt: skip
LISTS = ("physiology_time_stamp", "user_int", "user_float")
INDICES = ("average", "slice", "contrast", "phase", "repetition", "set", "image_index", "image_series_index")
ITEMS = {  # of pixels
    np.dtype(np.int16): "ImageInt16",
    np.dtype(np.uint16): "ImageUint16",
    np.dtype(np.float32): "ImageFloat",
    np.dtype(np.complex64): "ImageComplexFloat",
}


def is_v2(start: bytes) -> bool:
    """Return whether a stream is of version 2, by one or more of its first bytes."""
    return bool(start) and MAGIC.startswith(start[: len(MAGIC)])


class StreamV2:
    """A stream of version 2: its messages, and the images that answer them.

    Images are written as they come, with the header that was read before the first.

    Parameters
    ----------
    read : as `mrihvae.io.mrd.messages.read_messages` takes it
    write : takes bytes

    Raises
    ------
    InputError
        The package `mrd-python` is missing, or reads streams of another schema alone.
    """

    def __init__(self, read: Read, write: Callable[[bytes], object]) -> None:
        if find_spec("mrd") is None:
            raise InputError("stream: is of MRD version 2, which takes mrd-python; pip install 'mrihvae[mrd2]'")
        import mrd

        try:
            self._reader = mrd.BinaryMrdReader(io.BufferedReader(_Readable(read)))
        except CUT as error:
            raise StreamError("stream: ended within its schema; it was cut") from error
        except (RuntimeError, ValueError) as error:
            raise StreamError(
                f"stream: is of MRD version 2, but not as the installed mrd-python has it ({reason(error)}); install "
                "the version of who wrote it"
            ) from error
        self._writer = mrd.BinaryMrdWriter(_Writable(write))
        self._header: mrd.Header | None = None
        self._started = False

    def messages(self) -> Iterator[Message]:
        """Yield header and lines; what else is in the stream is left out.

        Raises
        ------
        StreamError
            No header, images instead of lines, or a stream that is damaged or cut.
        """
        import mrd

        try:
            self._header = self._reader.read_header()
            if self._header is None:
                raise StreamError("stream: has no header, which gives lines their place; send it")
            yield Header(xml_of_header(self._header))
            for item in self._reader.read_data():
                if isinstance(item, mrd.StreamItem.Acquisition):
                    yield acquisition_of(item.value)
                elif not isinstance(item, mrd.StreamItem.WaveformUint32):
                    raise StreamError(f"stream: {type(item).__name__} is not expected here; send acquisitions")
        except CUT as error:
            raise StreamError("stream: ended within a message; it was cut") from error
        except StreamError:
            raise
        except (RuntimeError, IndexError, KeyError, ValueError, TypeError, MemoryError, OverflowError) as error:
            raise StreamError(f"stream: is damaged ({reason(error)}); send it again") from error

    def image(self, image: ismrmrd.Image) -> None:
        """Write an image."""
        self._start()
        self._writer.write_data([image_item(image)])

    def close(self) -> None:
        """Write that nothing follows; without it, readers find the stream cut."""
        self._start()
        self._writer.write_data([])
        self._writer.close()

    def _start(self) -> None:
        if not self._started:
            self._writer.write_header(self._header)
            self._started = True


def acquisition_of(source: mrd.Acquisition) -> ismrmrd.Acquisition:
    """Convert a line.

    Raises
    ------
    StreamError
        Without samples, or with more than version 1 can number.
    """
    coils, samples = source.data.shape
    if not 0 < samples < 2**16 or not 0 < coils < 2**16:
        raise StreamError(f"stream: an acquisition has {samples} samples of {coils} channels; leave it out")
    line, head = ismrmrd.Acquisition(), source.head
    line.resize(samples, coils)
    line.data[:] = source.data
    line.version, line.available_channels = 1, coils
    line.flags, line.measurement_uid = int(head.flags), head.measurement_uid
    for name in OPTIONAL:
        setattr(line, name, getattr(head, name) or 0)
    for name in COUNTERS:
        setattr(line.idx, name, getattr(head.idx, name) or 0)
    for name in DIRECTIONS:
        getattr(line, name)[:] = tuple(map(float, getattr(head, name)))
    for name in LISTS:
        _fill(getattr(line, name), getattr(head, name))
    _fill(line.idx.user, head.idx.user)
    return line


def image_item(image: ismrmrd.Image) -> Any:
    """Convert an image to an item of a stream."""
    import mrd

    head = mrd.ImageHeader(image_type=mrd.ImageType(image.image_type), measurement_uid=image.measurement_uid)
    head.flags = mrd.ImageFlags(image.flags)
    names = {name: name for name in (*DIRECTIONS, "field_of_view")} | {"read_dir": "col_dir", "phase_dir": "line_dir"}
    for source, target in names.items():
        setattr(head, target, np.array(getattr(image, source)[:], np.float32))
    for name in (*INDICES, "acquisition_time_stamp"):
        setattr(head, name, int(getattr(image, name)))
    for name in LISTS:
        setattr(head, name, list(getattr(image, name)))
    meta = {
        name: [mrd.ImageMetaValue.String(str(value)) for value in (values if isinstance(values, list) else [values])]
        for name, values in image.meta.items()
    }
    item = getattr(mrd.StreamItem, ITEMS[image.data.dtype])
    return item(mrd.Image(head=head, data=np.ascontiguousarray(image.data), meta=meta))


def _fill(target: Any, values: Any) -> None:
    """Fill a list of fixed length with the values that there are."""
    for number, value in enumerate(values[: len(target)]):
        target[number] = value


class _Readable(io.RawIOBase):
    """A stream that is read by a function."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


class _Writable(io.RawIOBase):
    """A stream that is written by a function."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._write(bytes(piece))
        return len(piece)
