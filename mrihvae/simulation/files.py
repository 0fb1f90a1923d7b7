"""Simulated scans as fastMRI HDF5 files: fully sampled ones with their target, and undersampled ones.

Seeds are the names of files, so that equal images and settings give equal scans, bit for bit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from mrihvae.data.scan import TARGETS
from mrihvae.errors import InputError
from mrihvae.io.checked_hdf5 import open_checked
from mrihvae.io.formats import NIFTI_SUFFIXES, PICTURE_SUFFIXES, check_names, has_suffix, list_files
from mrihvae.io.hdf5 import new_file
from mrihvae.io.magnitudes import magnitude_slices
from mrihvae.io.mrd.header import header_xml
from mrihvae.physics.fastmri_masks import effective_acceleration, seed_of
from mrihvae.physics.fourier import ifft2c
from mrihvae.physics.sampling import LINE_TYPES, Undersampling, sampling_pattern
from mrihvae.simulation.scanner import fields_of, noise_covariance, simulate_slice
from mrihvae.simulation.settings import ScannerSettings

PICTURES_PER_FILE = 10
NOISE_SAMPLES = 16384  # of a noise scan: its covariance is then known to 0.8 %


@dataclass(frozen=True)
class ImageGroup:
    """Images that become one scan: a NIfTI volume, or some pictures.

    Attributes
    ----------
    name : of the scan's file, without suffix
    acquisition : name of the images' folder
    files : the volume, or the pictures
    every : every n-th slice of the volume is used
    """

    name: str
    acquisition: str
    files: tuple[Path, ...]
    every: int = 1


def image_groups(images: Path | str, every: int = 1, limit: int | None = None) -> list[ImageGroup]:
    """Return the scans that images become: one for each NIfTI volume, and one for 10 pictures.

    Parameters
    ----------
    images : folder of volumes or pictures, or a single one; pictures are taken by the numbers in their names
    every : take every n-th slice with an object in it, or every n-th picture
    limit : largest number of scans, spread evenly over the folder

    Raises
    ------
    InputError
        No image, two that would become files of one name, or a number below 1.
    """
    images = Path(images)
    for name, number in (("every", every), ("limit", limit)):
        if number is not None and number < 1:
            raise InputError(f"{name} {number}: must be at least 1")
    nothing = "no NIfTI volume, JPEG or PNG picture in it"
    hint = "give NIfTI volumes (.nii, .nii.gz), JPEG or PNG pictures in a folder, or one of them"
    found = list_files(images, (*NIFTI_SUFFIXES, *PICTURE_SUFFIXES), nothing, hint, strict=True)
    files, folder = sorted(found, key=_natural), images if images.is_dir() else images.parent
    pictures = [file for file in files if has_suffix(file, PICTURE_SUFFIXES)][::every]
    groups: list[tuple[Path, ...]] = [(file,) for file in files if has_suffix(file, NIFTI_SUFFIXES)]
    groups += [tuple(pictures[k : k + PICTURES_PER_FILE]) for k in range(0, len(pictures), PICTURES_PER_FILE)]
    if limit is not None and limit < len(groups):
        groups = [groups[k * len(groups) // limit] for k in range(limit)]
    acquisition = folder.resolve().name if folder.name not in ("train", "val", "test") else folder.resolve().parent.name
    scans = []
    for group in groups:
        stems = [re.sub(r"\.nii(\.gz)?$|\.[^.]+$", "", file.name, flags=re.IGNORECASE) for file in group]
        name = stems[0] if len(stems) == 1 else f"{acquisition}_{stems[0]}_to_{stems[-1]}"
        scans.append(ImageGroup(name, acquisition, group, every if has_suffix(group[0], NIFTI_SUFFIXES) else 1))
    check_names((scan.files[0], f"{scan.name}.h5") for scan in scans)
    return scans


def simulate_file(
    group: ImageGroup,
    path: Path | str,
    settings: ScannerSettings,
    keep_maps: bool = False,
    progress: Callable[[list[Any]], Iterable[Any]] = iter,
) -> int:
    """Write a fully sampled scan k_c = F S_c x + n_c with its target, as a fastMRI file; all or nothing.

    Parameters
    ----------
    group : the images
    path : file to write; its name seeds what is drawn once a file, the images' names what is drawn for each slice
    settings : see `ScannerSettings`
    keep_maps : write dataset `sensitivity_maps`, too: complex64 (1, coils, H, W), root-sum-of-squares 1
    progress : wraps the list of slices, as tqdm does

    Returns
    -------
    number of slices; 0 if none has an object in it: then nothing is written

    Raises
    ------
    InputError
        An image that cannot be read or has NaN or nearly nothing in it, or a file that cannot be written.

    Examples
    --------
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from PIL import Image
    >>> import mrihvae
    >>> from mrihvae.simulation import ScannerSettings, image_groups, simulate_file
    >>> pixels = np.zeros((48, 48), dtype=np.uint8)
    >>> pixels[8:40, 12:36] = 200
    >>> Image.fromarray(pixels).save("disc1.png")
    >>> (group,) = image_groups(Path("disc1.png"))
    >>> simulate_file(group, Path("scan.h5"), ScannerSettings(coils=4, matrix=32))
    1
    >>> mrihvae.open_kspace("scan.h5")[0].kspace.shape
    (1, 4, 32, 32)

    References
    ----------
    * Zbontar et al. 2018 (fastMRI), https://doi.org/10.48550/arXiv.1811.08839
    """
    path = Path(path)
    rng = np.random.default_rng([settings.seed, *seed_of(path.name)])
    fields = fields_of(settings, rng)
    mixing = _mixing(fields, settings)
    images = [(file, k, magnitude) for file in group.files for k, magnitude in _slices(file, group.every)]
    if not images:
        return 0
    size, coils = (settings.matrix, settings.matrix), () if fields is None else (settings.coils,)
    target, deviations = np.empty((len(images), *size), dtype=np.float32), []
    room = target.nbytes + 8 * len(images) * settings.coils * size[0] * size[1]
    room += 8 * settings.coils * (NOISE_SAMPLES + size[0] * size[1])
    with new_file(path, room) as file:
        kspace = file.create_dataset("kspace", (len(images), *coils, *size), np.complex64)
        for row, (source, k, magnitude) in enumerate(progress(images)):
            seeds = [*seed_of(source.name), k] + ([settings.seed] if settings.seed else [])
            measured, deviation = simulate_slice(magnitude, RandomState(seeds), settings, fields, mixing)
            kspace[row] = measured.numpy() if coils else measured[0].numpy()
            coil_images = ifft2c(measured).abs()
            target[row] = (coil_images.square().sum(dim=0).sqrt() if coils else coil_images[0]).numpy()
            deviations.append(deviation)
        if settings.noise and not any(deviations):
            what = f"almost only zeros in a matrix of {size[0]} x {size[1]}"
            raise InputError(f"{images[0][0]}: {what}; lower the matrix, or remove it")
        file[TARGETS["multicoil" if coils else "singlecoil"]] = target
        file["ismrmrd_header"] = header_xml(size, settings.coils).encode()
        if mixing is not None:
            level = float(np.sqrt(np.mean(np.square(deviations)))) / math.sqrt(2)
            white = rng.standard_normal((2, settings.coils, NOISE_SAMPLES))
            file["noise"] = (level * (mixing.numpy() @ (white[0] + 1j * white[1]))).astype(np.complex64)
        if keep_maps and fields is not None:
            file["sensitivity_maps"] = (fields / fields.abs().square().sum(dim=0).sqrt())[None].numpy()
        size_of = {"max": float(target.max()), "norm": float(np.linalg.norm(target))}
        about = {"acquisition": f"SIMULATED_{group.acquisition}", "patient_id": group.name, "noise": deviations}
        file.attrs.update({**size_of, **about})
    return len(images)


def _mixing(fields: Tensor | None, settings: ScannerSettings) -> Tensor | None:
    """Compute what makes white noise that of the coils, complex64 (coils, coils); None where it stays white."""
    if fields is None or settings.noise_correlation is None:
        return None
    mixing: Tensor = torch.linalg.cholesky(noise_covariance(fields, settings.noise_correlation)).to(torch.complex64)
    return mixing


def draw_lines(undersampling: Undersampling, width: int, name: str) -> np.ndarray:
    """Draw which lines are acquired in a file of this name, bool (W,), as fastMRI and `mrihvae reconstruct` do.

    Raises
    ------
    InputError
        A pattern that is not of lines, or numbers that none can have.
    """
    u = undersampling
    if u.mask_type not in LINE_TYPES or u.axis != -1:
        raise InputError(
            f"mask type '{u.mask_type}': masks in fastMRI files are of lines along H; choose one of "
            f"{', '.join(LINE_TYPES)}, and axis W"
        )
    pattern = sampling_pattern(u.mask_type, (2, width), u.acceleration, u.center_fraction, seed_of(name))
    return np.asarray(pattern[0])


def calibration_lines(undersampling: Undersampling, width: int) -> int:
    """Compute the number of lines of a mask's calibration region, fastMRI's `num_low_frequency`."""
    lines = round(width * undersampling.center_fraction)
    fewest = max(1, round(width / undersampling.acceleration))
    if undersampling.mask_type == "center":
        return fewest
    return max(min(lines, fewest), 1) if undersampling.mask_type == "magic_fraction" else lines


def undersample_file(complete: Path | str, path: Path | str, undersampling: Undersampling) -> float:
    """Write the undersampled scan of a simulated one, as fastMRI's test files are; all or nothing.

    It has no target and nothing derived from it, but the dataset `mask`, bool (W,), and its numbers as attributes. The
    rest is copied.

    Returns
    -------
    acceleration of the drawn mask

    Raises
    ------
    InputError
        As `draw_lines`, or a file that cannot be written.
    """
    complete, path = Path(complete), Path(path)
    with open_checked(complete) as source, new_file(path, complete.stat().st_size) as file:
        kspace = source["kspace"]
        width = kspace.shape[-1]
        mask = draw_lines(undersampling, width, path.name)
        measured = file.create_dataset("kspace", kspace.shape, kspace.dtype)
        for k in range(len(kspace)):
            measured[k] = np.where(mask, kspace[k], np.complex64(0))
        file["mask"] = mask
        for name in source:
            if name not in ("kspace", *TARGETS.values()):
                source.copy(name, file)
        file.attrs.update({key: value for key, value in source.attrs.items() if key not in ("max", "norm")})
        file.attrs["acceleration"] = undersampling.acceleration
        file.attrs["num_low_frequency"] = calibration_lines(undersampling, width)
    return effective_acceleration(mask)


def _slices(file: Path, every: int) -> Iterator[tuple[int, np.ndarray]]:
    """Read a picture, or every N-th slice with an object, each with its number among those."""
    volume = has_suffix(file, NIFTI_SUFFIXES)
    slices = magnitude_slices(file) if volume else magnitude_slices(file, smallest_object=0.0)
    yield from ((k, slices[k]) for k in range(0, len(slices), every))


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key by which 10.jpg comes after 9.jpg."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
