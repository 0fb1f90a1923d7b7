"""Files with k-space, whose format is detected from their contents: fastMRI, ISMRMRD, Siemens, BART, MATLAB, NumPy."""

from __future__ import annotations

import re
from pathlib import Path

import h5py

from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.bart import SIZES_LINE, read_bart
from mrihvae.io.centering import center_scan
from mrihvae.io.checked_hdf5 import open_checked
from mrihvae.io.checks import read_errors
from mrihvae.io.fastmri import read_head, read_scan
from mrihvae.io.formats import KSPACE_FORMATS, KSPACE_SUFFIXES, check_names, image_format, list_files
from mrihvae.io.matlab import is_matlab, read_matlab
from mrihvae.io.mrd.extra import require_ismrmrd
from mrihvae.io.mrd.image_files import mrd_image_groups
from mrihvae.io.npy import read_numpy
from mrihvae.io.twix.extra import is_twix, require_twixtools
from mrihvae.utils.notices import collect_notices

MRD_KEYS = {"xml", "data"}  # header and lines
KEYED = ("fastmri", "matlab")  # formats whose arrays have names


def open_kspace(
    path: Path | str, lazy: bool = False, *, key: str | None = None, uncentered: bool = False
) -> list[Scan]:
    """Read a file with k-space; the format is detected from the file's contents.

    Parameters
    ----------
    path : a fastMRI file; an ISMRMRD or Siemens TWIX (.dat) file with 2D or 3D Cartesian scans; NAME.cfl or NAME.hdr of
        BART, with dimensions READ (along H), PHS1 (along W), COIL and SLICE, or PHS2 of a 3D scan; a .mat file of
        MATLAB, (H, W, coil, slice); NAME.npy with NAME.json, see `read_numpy`
    lazy : read k-space of fastMRI files and of MATLAB's version 7.3 slice by slice, when it is needed; other formats
        are always read at once
    key : name of k-space in an HDF5 or .mat file, including its groups, such as "group/ksp"; None for "kspace", or for
        the only array that can be k-space
    uncentered : k-space was stored with DC at [0, 0], as after a Fourier transform without fftshift; k-space and mask
        are shifted to have DC at [H // 2, W // 2]

    Returns
    -------
    scans, each with slices of complex64 (coils, H, W), or (H, W) of one coil, the sampling mask, noise scan and
    geometry, if the file has them. A fastMRI file has one scan. In other formats, each contrast, repetition, phase, set
    and measurement is a separate scan, named after it.

    Raises
    ------
    InputError
        File not found, an unrecognized format, damaged contents, or `key` that the file or its format does not have.

    Examples
    --------
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import mrihvae
    >>> _ = mrihvae.save(Path("phantom.npy"), mrihvae.Scan("phantom", np.ones((2, 4, 8, 8), dtype=np.complex64)))
    >>> (scan,) = mrihvae.open_kspace("phantom.npy")
    >>> scan.kspace.shape
    (2, 4, 8, 8)

    References
    ----------
    * Zbontar et al. 2018 (fastMRI), https://doi.org/10.48550/arXiv.1811.08839
    """
    scans = _open(Path(path), lazy, key)
    return [center_scan(scan) for scan in scans] if uncentered else scans


def open_brief(path: Path, *, key: str | None = None, uncentered: bool = False) -> list[Scan]:
    """Open a file to describe its scans, as `open_kspace` does.

    K-space that stays in its file is not checked, and references, noise scan and maps beside it are left out.
    """
    scans = _open(path, True, key, brief=True)
    return [center_scan(scan) for scan in scans] if uncentered else scans


def _open(path: Path, lazy: bool, key: str | None, brief: bool = False) -> list[Scan]:
    """Read a file by the reader of its format."""
    kind = kind_of(path, key)
    if key is not None and kind not in KEYED:
        raise InputError(f"{path}: --key {key} only applies to HDF5 and .mat files, and this is {kind}; leave it out")
    if kind == "bart":
        return read_bart(path)
    if kind == "numpy":
        return [read_numpy(path)]
    if kind == "mrd":
        from mrihvae.io.mrd.files import read_mrd

        return read_mrd(path, _mrd_groups(path))
    if kind == "twix":
        from mrihvae.io.twix.files import read_twix

        return read_twix(path)
    if kind == "matlab":
        return [read_matlab(path, lazy, key, brief)]
    return [read_scan(path, lazy, key, brief)]


def kind_of(path: Path, key: str | None = None) -> str:
    """Return the format of a file: "fastmri", "mrd", "twix", "bart", "matlab" or "numpy".

    HDF5 with an array `key` is "fastmri", whatever else it holds.

    Raises
    ------
    InputError
        Not there, none of these, or ISMRMRD or TWIX without the package for it.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a file in it: {KSPACE_FORMATS}")
    if path.with_name(f"{path.name}.hdr").is_file() and not path.is_file():
        return "bart"
    if not path.is_file():
        raise InputError(f"{path}: file not found; give {KSPACE_FORMATS}")
    with read_errors(path, "cannot be read", "check its permissions"), path.open("rb") as file:
        start = file.read(1024)
    if start.startswith(b"\x93NUMPY"):
        return "numpy"
    if SIZES_LINE.encode() in start or path.suffix == ".cfl":
        return "bart"
    if is_matlab(path, start):
        return "matlab"
    if start.startswith(b"\x89HDF") and key is None and _mrd_groups(path):
        require_ismrmrd(f"{path}: ISMRMRD")
        return "mrd"
    if is_twix(start) or path.suffix == ".dat":
        require_twixtools(f"{path}: Siemens TWIX")
        return "twix"
    if start.startswith(b"\x89HDF") or path.suffix in (".h5", ".hdf5", ".mrd"):
        return "fastmri"  # its reader says what is wrong
    if image := image_format(path, start):
        raise InputError(
            f"{path}: is an image ({image}), and not k-space; 'mrihvae restore' takes images, 'mrihvae simulate' "
            "undersamples them"
        )
    raise InputError(f"{path}: unrecognized format; give {KSPACE_FORMATS}")


def list_kspace(path: Path | str, key: str | None = None) -> list[Path]:
    """List the files with k-space of a folder, or the one file.

    Raises
    ------
    InputError
        Not there, none in it, or two whose reconstructions would have the same name.
    """
    path = Path(path)
    if not path.is_dir():
        kind_of(path, key)
        return [path]
    files = list_files(path, KSPACE_SUFFIXES, "no file with k-space in this folder", f"give {KSPACE_FORMATS}")
    check_names((file, file.name) for file in files)
    return files


def head_of(path: Path, key: str | None = None) -> tuple[list[str], int | None]:
    """Find the names of the scans in a file, and the number of coils; of fastMRI files from the head.

    None where only reading it all tells what is wrong. Notices are left to who reads it all.
    """
    with collect_notices():
        if kind_of(path, key) == "fastmri":
            try:
                return [path.name], read_head(path, key).coils
            except InputError:
                return [path.name], None
        scans = open_kspace(path, lazy=True, key=key)
    return [scan.name for scan in scans], max(scan.coils for scan in scans)


def _mrd_groups(path: Path) -> list[str]:
    """List the groups of an HDF5 file with ISMRMRD's header and lines, or else the first with part of them, or images.

    Numbers in their names count: "dataset_10" comes after "dataset_2".
    """
    try:
        with open_checked(path) as file:
            if "kspace" in file:
                return []
            groups = {name: set(file[name]) for name in file if isinstance(file.get(name), h5py.Group)}
            plain = {name for name, keys in groups.items() if "xml" not in keys and _is_plain(file[name].get("data"))}
            nested: list[str] = []
            file.visititems(lambda name, item: nested.append(name) if _holds_lines(item) else None)
    except Exception:  # whatever damage causes, of which who reads it says more
        return []
    part = [name for name, keys in groups.items() if keys & MRD_KEYS and name not in plain]
    images = [name.partition("/")[0] for name in mrd_image_groups(path)]
    numbered = sorted(nested, key=_numbered)
    return numbered or [*part, *images][:1]


def _holds_lines(item: h5py.HLObject) -> bool:
    return isinstance(item, h5py.Group) and set(item) >= MRD_KEYS


def _numbered(name: str) -> list[tuple[str, int]]:
    """Split a name at its numbers, so that names are ordered by these."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]


def _is_plain(item: object) -> bool:
    """Return whether an item of a file is an array of numbers, and no table of lines."""
    return isinstance(item, h5py.Dataset) and "head" not in (item.dtype.names or ())
