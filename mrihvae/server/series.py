"""The series of a scan's images: which image belongs to which, and its place in it."""

from __future__ import annotations

import math

import ismrmrd
import numpy as np

from mrihvae.io.mrd.header import Encoding, ScanHeader
from mrihvae.io.mrd.images import ImageSeries
from mrihvae.io.mrd.orientation import is_reversed
from mrihvae.io.mrd.sorter import UNUSED_FLAGS, Key, Slice
from mrihvae.server.request import STORED

TITLE = 64  # letters of a protocol's name that series show
MOST_IMAGES = 2**16 - 1  # of a series: numbers of images have 16 bits
SAME_PLACE = 1e-3  # mm by which positions differ that are the same
UNCERTAINTY = "uncertainty"
NOT_OF_SLICES = (ismrmrd.ACQ_IS_NOISE_MEASUREMENT, *UNUSED_FLAGS)


class SliceOrder:
    """The order of slices along their normal, from the positions of the lines so far.

    Scanners number slices by position, or as they are acquired. Which it is shows once positions are known; numbers
    that were given to images are not changed then.
    """

    def __init__(self, header: ScanHeader) -> None:
        self._reversed = is_reversed(header.vendor)  # partitions descend along the normal
        self._places: dict[int, float] = {}  # mm along the normal, by number of the slice or slab
        self._ranks: dict[int, int] | None = None  # by number; once it is chosen, it stays
        self._ascends = True

    def add(self, line: ismrmrd.Acquisition) -> None:
        """Note where the slice of a line lies."""
        number = int(line.idx.slice)
        if number not in self._places and not any(map(line.is_flag_set, NOT_OF_SLICES)):
            place = sum(a * b for a, b in zip(line.position[:], line.slice_dir[:]))
            self._places[number] = place if math.isfinite(place) else 0.0

    def count(self, encoding: Encoding) -> int:
        """Return how many slices the header announces, partitions of slabs included."""
        return encoding.limit("slice").count * encoding.imaged_size(2)

    def rank(self, number: int, encoding: Encoding) -> int:
        """Return the place of a slice, from 0: its number, or its place by position where these are known to differ."""
        slabs, depth = encoding.limit("slice").count, encoding.imaged_size(2)
        if self._ranks is None:
            self._ranks = self._choose_ranks(slabs)
        slab, partition = divmod(number, depth)
        if slabs > 1 and self._reversed == self._ascends:  # partitions run as slabs do
            partition = depth - 1 - partition
        return self._ranks.get(slab, slab) * depth + partition

    def _choose_ranks(self, count: int) -> dict[int, int]:
        """Return the ranks of slices or slabs by position, if all are known and numbers differ; else none."""
        known = sorted(self._places)
        if not self.is_anatomical and len(known) >= count:
            return {slab: rank for rank, slab in enumerate(sorted(known, key=self._places.__getitem__))}
        self._ascends = not known or self._places[known[0]] <= self._places[known[-1]]
        return {}

    @property
    def is_anatomical(self) -> bool:
        """Whether places so far ascend, or descend, in the order in which images are numbered."""
        ranks = self._ranks or {}
        places = [self._places[number] for number in sorted(self._places, key=lambda k: ranks.get(k, k))]
        steps = np.diff(places)
        return bool((steps > -SAME_PLACE).all() or (steps < SAME_PLACE).all())


class ScanSeries:
    """Series of a scan's images: one for each kind and contrast."""

    def __init__(self, header: ScanHeader) -> None:
        self.order = SliceOrder(header)
        self._header = header
        self._series: dict[tuple[str, int, tuple[int, ...], int], ImageSeries] = {}

    def image(
        self, kind: str, place: tuple[int, int], pixels: np.ndarray, slice_: Slice, comment: str, pixel_type: str
    ) -> ismrmrd.Image:
        """Return an image, of the series of its kind, contrast and shape.

        Parameters
        ----------
        kind : such as "hybrid" or "uncertainty"
        place : of the kind among those of a slice, from 0, and their number
        pixels, slice_, comment : see `mrihvae.io.mrd.images.ImageSeries.image`
        pixel_type : "short" for int16, where pixels are real
        """
        block, index = divmod(self._index(slice_.key), MOST_IMAGES)
        key = kind, slice_.key.contrast, pixels.shape, block
        if key not in self._series:
            first = 1 + slice_.key.contrast * place[1] + place[0]
            self._series[key] = self._new_series(kind, slice_.key.contrast, first, pixel_type == STORED)
        return self._series[key].image(pixels, slice_, comment, index + 1)

    def _index(self, key: Key) -> int:
        """Compute the place of an image in its series, from 0: by repetition, phase and set, and then by slice."""
        encoding = self._header.encodings[key.encoding]
        phases, sets = encoding.limit("phase").count, encoding.limit("set").count
        volume = (key.repetition * phases + key.phase) * sets + key.set
        return volume * self.order.count(encoding) + self.order.rank(key.slice, encoding)

    def _new_series(self, kind: str, contrast: int, first: int, short: bool) -> ImageSeries:
        """Return a series with a number, or the next that is free."""
        used = {series.number for series in self._series.values()}
        number = next((number for number in range(first, MOST_IMAGES + 1) if number not in used), 1)
        role = ["Image", "Quantitative", "Uncertainty"] if kind == UNCERTAINTY else ["Image"]
        description = f"{self._header.protocol[:TITLE] or 'scan'} mrihvae {kind}"
        times = self._header.echo_times
        time = (times[contrast] if contrast < len(times) else times[0] if len(times) == 1 else 0.0) or None
        return ImageSeries(number, description, role, ["MRIHVAE", kind], short, time)
