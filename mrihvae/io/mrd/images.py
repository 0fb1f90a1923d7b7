"""Images as scanners take them: ISMRMRD image messages with geometry and meta attributes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import ismrmrd
import numpy as np

from mrihvae.io.mrd.orientation import align_to_directions
from mrihvae.io.mrd.sorter import Slice
from mrihvae.io.pictures import WHITE_PERCENTILE

FIRST_PEAK = 2047  # to which the brightest pixel of a series' first image goes: later ones may be 16 times as bright
INT16_MAX = 32767  # of int16


@dataclass
class ImageSeries:
    """Images of one kind, contrast and shape, which are shown alike.

    Attributes
    ----------
    number : of the series, from 1
    description : shown to users
    role, history : of the images, as `DataRole` and `ImageProcessingHistory` have it
    short : whether real pixels are int16
    echo_time : ms; None where it is not known
    count : images so far
    factor : by which pixels are multiplied; of int16 chosen by the first image, and made smaller for one so much
        brighter that it would not fit, and those after it
    white : value that is shown as white, before the factor; that of the brightest image so far
    """

    number: int
    description: str
    role: list[str]
    history: list[str]
    short: bool = False
    echo_time: float | None = None
    count: int = 0
    factor: float = 1.0
    white: float = 0.0

    def image(self, pixels: np.ndarray, slice_: Slice, comment: str, index: int | None = None) -> ismrmrd.Image:
        """Return the next image of the series.

        Parameters
        ----------
        pixels : float32 (h, w), readout along h; or complex64, of several coils (coils, h, w). The image message has
            it the other way, rows along the phase
        slice_ : the slice that it shows
        comment : beside it
        index : its place in the series, from 1; left out, the number of images so far

        Returns
        -------
        image of matrix (x, y, z) = (h, w, 1), magnitude or complex
        """
        read, geometry = np.array(slice_.head.read_dir[:]), slice_.geometry
        coils = pixels[None] if pixels.ndim == 2 else pixels
        aligned = [align_to_directions(coil, geometry, read) for coil in coils]
        values, slice_ = np.stack([image for image, _ in aligned]), replace(slice_, geometry=aligned[0][1])
        magnitude = values[0] if np.isrealobj(values) else np.sqrt(np.square(np.abs(values)).sum(axis=0))
        short = self.short and np.isrealobj(values)
        peak = float(magnitude.max())
        if short and peak > 0 and (self.count == 0 or peak * self.factor > INT16_MAX):
            self.factor = FIRST_PEAK / peak
        self.white = max(self.white, float(np.percentile(magnitude, WHITE_PERCENTILE)))
        self.count += 1
        rows: np.ndarray = values.swapaxes(1, 2)[:, None]
        if short:
            rows = np.rint(rows.astype(np.float64) * self.factor).astype(np.int16)
        head = _header(slice_, (values.shape[1], values.shape[2]))
        head.image_type = ismrmrd.IMTYPE_MAGNITUDE if np.isrealobj(values) else ismrmrd.IMTYPE_COMPLEX
        head.image_index, head.image_series_index = index or self.count, self.number
        image = ismrmrd.Image(head, data=np.ascontiguousarray(rows))
        image.attribute_string = self._meta(slice_, comment, short).serialize()
        return image

    def _meta(self, slice_: Slice, comment: str, short: bool) -> ismrmrd.Meta:
        white, geometry = (self.white or 1.0) * self.factor, slice_.geometry  # a window of no width shows nothing

        def window(value: float) -> str:
            return str(max(1, round(value))) if short else f"{value:.8g}"

        values: dict[str, Any] = {
            "DataRole": self.role,
            "ImageProcessingHistory": self.history,
            "WindowCenter": window(white / 2),
            "WindowWidth": window(white),
            "SeriesDescription": self.description,
            "ImageComments": comment,
            "ImageComment": comment,  # as some readers have its name
            "ImageRowDir": [f"{value:.18f}" for value in geometry.read],
            "ImageColumnDir": [f"{value:.18f}" for value in geometry.phase],
            "RescaleSlope": f"{1 / self.factor:.9g}",  # at most the 16 letters that DICOM allows
            "RescaleIntercept": "0",
            "PixelFactor": f"{self.factor:.8g}",
            "Keep_image_geometry": 1,
        }
        if self.echo_time is not None:
            values["EchoTime"] = f"{self.echo_time:.8g}"
        return ismrmrd.Meta(values)


def _header(slice_: Slice, shape: tuple[int, int]) -> ismrmrd.ImageHeader:
    """Return the header of an image: the fields of a line, the geometry of the slice, and its size."""
    head, source, geometry = ismrmrd.ImageHeader(), slice_.head, slice_.geometry
    head.version = 1
    for name in ("measurement_uid", "acquisition_time_stamp", "physiology_time_stamp", "patient_table_position"):
        setattr(head, name, getattr(source, name))
    head.average = source.idx.average
    head.slice, head.contrast, head.phase = slice_.key.slice, slice_.key.contrast, slice_.key.phase
    head.repetition, head.set = slice_.key.repetition, slice_.key.set
    head.field_of_view[:] = (shape[0] * geometry.voxel[0], shape[1] * geometry.voxel[1], geometry.voxel[2])
    head.position[:] = tuple(geometry.positions[0])
    head.read_dir[:], head.phase_dir[:] = tuple(geometry.read), tuple(geometry.phase)
    head.slice_dir[:] = tuple(geometry.normal)
    return head
