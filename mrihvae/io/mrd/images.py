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
    """Images of one kind and shape, which are shown alike.

    Attributes
    ----------
    number : of the series, from 1
    description : shown to users
    role, history : of the images, as `DataRole` and `ImageProcessingHistory` have it
    short : whether pixels are int16
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
    count: int = 0
    factor: float = 1.0
    white: float = 0.0

    def image(self, pixels: np.ndarray, slice_: Slice, comment: str) -> ismrmrd.Image:
        """Return the next image of the series.

        Parameters
        ----------
        pixels : float32 (h, w), readout along h; the image message has it the other way, rows along the phase
        slice_ : the slice that it shows
        comment : beside it

        Returns
        -------
        magnitude image of matrix (x, y, z) = (h, w, 1)
        """
        pixels, geometry = align_to_directions(pixels, slice_.geometry, np.array(slice_.head.read_dir[:]))
        slice_ = replace(slice_, geometry=geometry)
        peak = float(pixels.max())
        if self.short and peak > 0 and (self.count == 0 or peak * self.factor > INT16_MAX):
            self.factor = FIRST_PEAK / peak
        self.white = max(self.white, float(np.percentile(pixels, WHITE_PERCENTILE)))
        self.count += 1
        rows: np.ndarray = pixels.T[None, None]
        if self.short:
            rows = np.rint(rows.astype(np.float64) * self.factor).astype(np.int16)
        head = _header(slice_, (pixels.shape[0], pixels.shape[1]))
        head.image_index, head.image_series_index = self.count, self.number
        image = ismrmrd.Image(head, data=np.ascontiguousarray(rows))
        image.attribute_string = self._meta(slice_, comment).serialize()
        return image

    def _meta(self, slice_: Slice, comment: str) -> ismrmrd.Meta:
        white, geometry = (self.white or 1.0) * self.factor, slice_.geometry  # a window of no width shows nothing
        values: dict[str, Any] = {
            "DataRole": self.role,
            "ImageProcessingHistory": self.history,
            "WindowCenter": f"{white / 2:.8g}",
            "WindowWidth": f"{white:.8g}",
            "SeriesDescription": self.description,
            "ImageComments": comment,
            "ImageRowDir": [f"{value:.18f}" for value in geometry.read],
            "ImageColumnDir": [f"{value:.18f}" for value in geometry.phase],
            "PixelFactor": f"{self.factor:.8g}",
            "Keep_image_geometry": 1,
        }
        return ismrmrd.Meta(values)


def _header(slice_: Slice, shape: tuple[int, int]) -> ismrmrd.ImageHeader:
    """Return the header of an image: the fields of a line, the geometry of the slice, and its size."""
    head, source, geometry = ismrmrd.ImageHeader(), slice_.head, slice_.geometry
    head.version, head.image_type = 1, ismrmrd.IMTYPE_MAGNITUDE
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
