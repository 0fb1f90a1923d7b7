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
from mrihvae.io.mrd.messages import Header, Message, Read, ReceivedImage, StreamError
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
IMAGE_DIRECTIONS = {  # by the names of version 1
    "position": "position", "read_dir": "col_dir", "phase_dir": "line_dir", "slice_dir": "slice_dir",
    "patient_table_position": "patient_table_position", "field_of_view": "field_of_view",
}  # fmt: skip
ITEMS = {  # by the numbers of pixels' types in version 1
    1: "ImageUint16", 2: "ImageInt16", 3: "ImageUint32", 4: "ImageInt32", 5: "ImageFloat", 6: "ImageDouble",
    7: "ImageComplexFloat", 8: "ImageComplexDouble",
}  # fmt: skip


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
            raise InputError("stream: is of MRD version 2, which needs mrd-python; pip install 'mrihvae[mrd2]'")
        import mrd

        from mrihvae.io.mrd.v2_input import open_reader

        try:
            self._reader, self._input = open_reader(read)
        except CUT as error:
            raise StreamError("stream: ended within its schema; it is truncated") from error
        except (RuntimeError, ValueError) as error:
            raise StreamError(
                f"stream: is of MRD version 2, but not the version of the installed mrd-python ({reason(error)}); "
                "install the version that wrote it"
            ) from error
        self._writer = mrd.BinaryMrdWriter(_Writable(write))
        self._header: mrd.Header | None = None
        self._started = False

    def messages(self) -> Iterator[Message]:
        """Yield header, lines and images; waveforms are left out.

        Raises
        ------
        StreamError
            No header, other things than these, or a stream that is damaged or cut.
        """
        import mrd

        images = {getattr(mrd.StreamItem, name): number for number, name in ITEMS.items()}

        try:
            self._header = self._reader.read_header()
            if self._header is None:
                raise StreamError("stream: has no header; send it before the lines")
            yield Header(xml_of_header(self._header))
            self._input.next_message()
            for item in self._reader.read_data():
                self._input.next_message()
                if isinstance(item, mrd.StreamItem.Acquisition):
                    yield acquisition_of(item.value)
                elif type(item) in images:
                    yield received_image(item.value, images[type(item)])
                elif not isinstance(item, mrd.StreamItem.WaveformUint32):
                    what = type(item).__name__
                    raise StreamError(f"stream: {what} is not expected here; send acquisitions or images")
        except CUT as error:
            raise StreamError("stream: ended within a message; it is truncated") from error
        except StreamError:
            raise
        except (RuntimeError, IndexError, KeyError, ValueError, TypeError, MemoryError, OverflowError) as error:
            raise StreamError(f"stream: is damaged ({reason(error)}); send it again") from error

    def image(self, image: ismrmrd.Image | ReceivedImage) -> None:
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


def received_image(source: mrd.Image[Any], data_type: int) -> ReceivedImage:
    """Convert an image; `data_type` is the number of its pixels' type in version 1."""
    head, found = source.head, ismrmrd.ImageHeader()
    found.version, found.data_type, found.channels = 1, data_type, source.data.shape[0]
    found.matrix_size[:] = source.data.shape[:0:-1]
    found.flags, found.image_type = int(head.flags), head.image_type.value
    found.measurement_uid = head.measurement_uid
    for name, other in IMAGE_DIRECTIONS.items():
        getattr(found, name)[:] = tuple(map(float, getattr(head, other)))
    for name in (*INDICES, "acquisition_time_stamp"):
        setattr(found, name, getattr(head, name) or 0)
    for name in LISTS:
        _fill(getattr(found, name), getattr(head, name))
    meta = ismrmrd.Meta({name: [str(value.value) for value in values] for name, values in source.meta.items()})
    text = meta.serialize()
    return ReceivedImage(found, text if isinstance(text, bytes) else text.encode(), np.ascontiguousarray(source.data))


def image_item(image: ismrmrd.Image | ReceivedImage) -> Any:
    """Convert an image to an item of a stream."""
    import mrd

    if isinstance(image, ReceivedImage):
        source, meta = image.head, ismrmrd.Meta.deserialize(image.attributes) if image.attributes else {}
    else:
        source, meta = image.getHead(), image.meta
    head = mrd.ImageHeader(image_type=mrd.ImageType(source.image_type or ismrmrd.IMTYPE_MAGNITUDE))
    head.measurement_uid, head.flags = source.measurement_uid, mrd.ImageFlags(source.flags)
    for name, other in IMAGE_DIRECTIONS.items():
        setattr(head, other, np.array(getattr(source, name)[:], np.float32))
    for name in (*INDICES, "acquisition_time_stamp"):
        setattr(head, name, int(getattr(source, name)))
    for name in LISTS:
        setattr(head, name, list(getattr(source, name)))
    values = {
        name: [mrd.ImageMetaValue.String(str(one)) for one in (found if isinstance(found, list) else [found])]
        for name, found in meta.items()
    }
    item = getattr(mrd.StreamItem, ITEMS[source.data_type])
    return item(mrd.Image(head=head, data=np.ascontiguousarray(image.data), meta=values))


def _fill(target: Any, values: Any) -> None:
    """Fill a list of fixed length with the values that there are."""
    for number, value in enumerate(values[: len(target)]):
        target[number] = value


class _Writable(io.RawIOBase):
    """A stream that is written by a function."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._write(bytes(piece))
        return len(piece)
