"""Reconstructions of `mrihvae reconstruct` in other forms than HDF5: NIfTI and DICOM beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrihvae.data.scan import Scan
from mrihvae.data.volume import ImageVolume
from mrihvae.io.dicom import require_pydicom
from mrihvae.io.nifti import write_nifti
from mrihvae.io.write_dicom import write_dicom
from mrihvae.recon.reconstruction import Reconstruction


def check_format(form: str) -> None:
    """Raise InputError before anything is reconstructed, if a form of images lacks its package."""
    if form == "dcm":
        require_pydicom("--format dcm")


def images_path(folder: Path, name: str, form: str) -> Path:
    """Return where `write_images` writes the reconstruction NAME.h5: NAME.nii.gz, or the folder NAME of DICOM."""
    stem = Path(name).stem
    return folder / "reconstructions" / {"h5": name, "nii": f"{stem}.nii.gz", "dcm": stem}[form]


def write_images(folder: Path, scan: Scan, found: Reconstruction, attributes: Mapping[str, Any], form: str) -> None:
    """Write a reconstruction and its uncertainty map in another form; nothing for "h5", which is there already.

    NIfTI has the map in NAME_uncertainty.nii.gz, DICOM in a second series of the same study.

    Parameters
    ----------
    folder : of `reconstructions/`
    attributes : how the images were made
    form : h5, nii or dcm

    Raises
    ------
    InputError
        As `write_nifti` and `write_dicom`.
    """
    path = images_path(folder, scan.name, form)
    about = {name: scan.attributes[name] for name in ("acquisition", "patient_id") if name in scan.attributes}
    volume = ImageVolume(found.magnitude, scan.geometry, {**about, **attributes}, voxel=scan.voxel)
    maps = (
        []
        if found.std is None
        else [ImageVolume(found.std, scan.geometry, volume.attributes, "uncertainty", scan.voxel)]
    )
    if form == "dcm":
        write_dicom(path, volume, maps)
    elif form == "nii":
        write_nifti(path, volume)
        for one in maps:
            write_nifti(path.with_name(path.name.replace(".nii.gz", "_uncertainty.nii.gz")), one)
