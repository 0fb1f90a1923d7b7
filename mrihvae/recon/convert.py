"""K-space to files: fastMRI HDF5, BART and NumPy arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrihvae.coils.settings import CoilSettings
from mrihvae.data.geometry import GEOMETRY_KEYS
from mrihvae.data.scan import TARGETS, Scan, is_complete
from mrihvae.data.volume import ImageVolume
from mrihvae.errors import InputError
from mrihvae.io.bart import SLICE, write_cfl
from mrihvae.io.fastmri import MAPS_KEY, NOISE_KEY
from mrihvae.io.hdf5 import new_file
from mrihvae.io.mrd.header import header_xml
from mrihvae.io.npy import as_json, as_lists, save_numpy
from mrihvae.io.write_images import WRITERS, write_volume
from mrihvae.recon.methods import ZeroFilledMethod
from mrihvae.recon.sliced_scan import calibration_maps
from mrihvae.recon.undersampling import check_signal, mask_of
from mrihvae.recon.volumes import reconstruct_volume


def images_of(scan: Scan) -> ImageVolume:
    """Compute the images of a fully sampled scan: magnitude, or root-sum-of-squares of coils, as fastMRI's targets.

    Raises
    ------
    InputError
        Undersampled, so that it must be reconstructed.
    """
    if not is_complete(scan):
        raise InputError(
            f"{scan.name}: is undersampled, so it has no images yet; run 'mrihvae reconstruct', and convert its output"
        )
    everything = np.ones(scan.kspace.shape[-1], bool)
    check_signal(scan, everything)
    return ImageVolume(
        reconstruct_volume(scan, everything, ZeroFilledMethod()), scan.geometry, scan.attributes, voxel=scan.voxel
    )


def write_fastmri(path: Path, scan: Scan) -> None:
    """Write fastMRI's file: `kspace`, `ismrmrd_header`, the target, and `mask` of a scan that is not fully sampled.

    Beyond fastMRI's own it has `noise`, maps from a separate calibration scan, and the geometry.
    """
    arrays: dict[str, np.ndarray] = {"kspace": np.asarray(scan.kspace)}
    about: dict[str, Any] = {}
    if scan.target is not None or is_complete(scan):
        target = images_of(scan).pixels if scan.target is None else scan.target
        arrays[TARGETS["multicoil" if scan.coils > 1 else "singlecoil"]] = target
        about = {"max": float(target.max()), "norm": float(np.linalg.norm(target))}
    if not is_complete(scan):
        arrays["mask"] = mask_of(scan, None)
    if scan.noise_scan is not None:
        arrays[NOISE_KEY] = scan.noise_scan
    if scan.maps is not None:
        arrays[MAPS_KEY] = scan.maps
    elif scan.calibration is not None and scan.coils > 1:
        maps = [calibration_maps(calibration, CoilSettings(), None) for calibration in scan.calibration]
        arrays[MAPS_KEY] = torch.stack(maps).numpy()
    attributes: dict[str, Any] = {"acquisition": "unknown", "patient_id": "unknown", **scan.attributes, **about}
    attributes |= {} if scan.geometry is None else scan.geometry.attributes()
    with new_file(path, sum(array.nbytes for array in arrays.values())) as file:
        for name, array in arrays.items():
            file[name] = array
        file["ismrmrd_header"] = header_xml(
            (scan.kspace.shape[-2], scan.kspace.shape[-1]), scan.coils, scan.matrix, scan.padding,
            scan.geometry.voxel if scan.geometry else scan.voxel or (1.0, 1.0, 1.0), str(attributes["acquisition"]),
        ).encode()  # fmt: skip
        file.attrs.update(attributes)


def write_bart_kspace(path: Path, scan: Scan) -> None:
    """Write BART's k-space: READ along H, PHS1 along W, COIL and SLICE."""
    whole = np.asarray(scan.kspace)
    kspace = whole if whole.ndim == 4 else whole[:, None]
    if scan.mask is not None:  # BART marks what was not acquired by zeros alone
        kspace = np.where(scan.mask, kspace, 0)
    slices, coils, height, width = kspace.shape
    array = kspace.transpose(2, 3, 1, 0)
    write_cfl(path, array.reshape(height, width, 1, coils, *[1] * (SLICE - 4), slices))


def write_numpy_kspace(path: Path, scan: Scan) -> None:
    """Write NAME.npy, complex64 (slice, coil, H, W), and NAME.json with axes and what else is known of the scan."""
    whole = np.asarray(scan.kspace)
    kspace = whole if whole.ndim == 4 else whole[:, None]
    about: dict[str, Any] = {"axes": ["slice", "coil", "H", "W"], **as_lists(scan.geometry)}
    if scan.mask is not None:
        about["mask"] = scan.mask.astype(int).tolist()
    about |= {"padding": list(map(int, scan.padding))} if scan.padding is not None else {}
    about |= {"matrix": list(map(int, scan.matrix))} if scan.matrix is not None else {}
    if attributes := as_json(scan.attributes, scan.voxel if scan.geometry is None else None):
        about["attributes"] = attributes
    save_numpy(path, kspace, about)


def unsupported_content(scan: Scan, suffix: str) -> list[str]:
    """List the parts of a scan that a format cannot hold."""
    if suffix == ".h5":
        return []
    numpy = suffix == ".npy"
    held = set(as_json(scan.attributes)) if numpy else set()
    attributes = {name for name, value in scan.attributes.items() if str(value) != "unknown"} - {*GEOMETRY_KEYS, *held}
    has = {
        "noise scan": scan.noise_scan is not None,
        "ACS lines": scan.calibration is not None,
        "sensitivity maps": scan.maps is not None,
        "reference images": scan.target is not None,
        "lines that are not encoded": scan.padding not in (None, (0, scan.kspace.shape[-1])) and not numpy,
        "matrix of the image": scan.matrix not in (None, scan.kspace.shape[-2:]) and not numpy,
        "geometry": scan.geometry is not None and not numpy,
        "the voxel size": scan.geometry is None and scan.voxel is not None and not numpy,
        "partial readouts, whose empty ends look like those of interpolation": (
            scan.mask is not None and scan.mask.ndim == 2 and not numpy
        ),
        f"attributes ({', '.join(sorted(attributes))})": bool(attributes),
    }
    return [name for name, there in has.items() if there]


KSPACE_WRITERS = {
    ".h5": write_fastmri,
    ".cfl": write_bart_kspace,
    ".hdr": write_bart_kspace,
    ".npy": write_numpy_kspace,
}


def save(path: str | Path, content: Scan | ImageVolume, suffix: str | None = None) -> list[str]:
    """Write a scan's k-space, or images, in the format of the file name's suffix.

    Parameters
    ----------
    path : .h5, .cfl or .npy for k-space; these, .nii, .nii.gz, .mrd, .png or .dcm for images
    content : a scan, or images; for formats that store only images, the images of the scan are written
    suffix : the format, instead of that of `path`; ".dcm" makes a folder with one file per slice

    Returns
    -------
    list of what the format cannot store; for images, a warning lists it

    Raises
    ------
    InputError
        An unrecognized suffix, an undersampled scan where the format needs images, or a file that cannot be written.

    Examples
    --------
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import mrihvae
    >>> scan = mrihvae.Scan("phantom", np.ones((2, 8, 8), dtype=np.complex64))
    >>> mrihvae.save(Path("phantom.npy"), scan)
    []
    >>> mrihvae.open_kspace("phantom.npy")[0].kspace.shape
    (2, 8, 8)
    """
    path = Path(path)
    suffix = suffix or suffix_of(path)
    if suffix not in WRITERS or not isinstance(content, Scan | ImageVolume):
        known = ", ".join(WRITERS)
        raise InputError(f"{path}: give a Scan or an ImageVolume, and one of {known} for a suffix")
    if isinstance(content, Scan) and suffix in KSPACE_WRITERS:
        KSPACE_WRITERS[suffix](path, content)
        return unsupported_content(content, suffix)
    write_volume(path, images_of(content) if isinstance(content, Scan) else content, suffix)
    return []


def suffix_of(path: Path) -> str:
    """Return the suffix, which is the format, of a file name; InputError if it is unrecognized."""
    found = [suffix for suffix in WRITERS if path.name.lower().endswith(suffix)]
    if not found:
        raise InputError(f"{path}: unknown suffix; choose one of {', '.join(WRITERS)}, or --format")
    return max(found, key=len)
