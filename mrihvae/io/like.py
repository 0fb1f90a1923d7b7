"""Geometry, and of DICOM also patient and study, of one file for the images of another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.dicom import choose_series, has_dicom, list_series, read_dicom
from mrihvae.io.dicom_header import DicomHeader, read_header
from mrihvae.io.formats import NIFTI_SUFFIXES, has_suffix
from mrihvae.io.nifti import read_nifti_volume
from mrihvae.utils.notices import warn


@dataclass(frozen=True)
class Reference:
    """A volume whose place other images take.

    Attributes
    ----------
    path : where it comes from, for errors
    volume : its images
    header : of DICOM, patient and study, else None
    """

    path: Path
    volume: ImageVolume
    header: DicomHeader | None = None

    def place(self, volume: ImageVolume) -> ImageVolume:
        """Return a volume at the place of this one, slice by slice as `mrihvae convert` reads it.

        One of another size keeps its own geometry, with a warning.

        Raises
        ------
        InputError
            Another size, and no geometry of its own.
        """
        have, want = volume.pixels.shape, self.volume.pixels.shape
        if have == want:
            return replace(volume, geometry=self.volume.geometry, voxel=self.volume.voxel)
        sizes = f"it has {' x '.join(map(str, want))} voxels (slices, h, w), the images {' x '.join(map(str, have))}"
        if volume.geometry is None:
            raise InputError(f"{self.path}: cannot give the position of the images: {sizes}; give one of their size")
        warn(f"the images keep their own geometry, not that of {self.path}: {sizes}")
        return volume


def read_reference(path: Path) -> Reference:
    """Read a NIfTI file, a DICOM folder of one series, or a DICOM file for its series in the same folder.

    Raises
    ------
    InputError
        Not there, neither of these, several series, or as `mrihvae.io.dicom.read_dicom` and `read_nifti_volume`.
    """
    if path.exists() and has_dicom(path):
        uid = list_series(path)[0].uid if path.is_file() else None
        folder = path.resolve().parent if path.is_file() else path
        header = read_header(choose_series(folder, uid))
        return Reference(path, read_dicom(folder, uid), header.without_acquisition())
    if path.is_file() and has_suffix(path, NIFTI_SUFFIXES):
        return Reference(path, read_nifti_volume(path))
    raise InputError(f"{path}: no geometry can be taken from it; give a NIfTI file or a folder of DICOM images")
