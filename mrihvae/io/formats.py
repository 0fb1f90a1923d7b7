"""Formats of files: their names and suffixes, and which files of a folder have them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mrihvae.errors import InputError

KSPACE_FORMATS = (
    "fastMRI HDF5, ISMRMRD (MRD) HDF5, Siemens TWIX .dat, BART .cfl with .hdr, MATLAB .mat, or NumPy .npy with a .json "
    "of axes"
)
KSPACE_SUFFIXES = (".h5", ".hdf5", ".mrd", ".dat", ".cfl", ".mat", ".npy")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
PICTURES = {"PNG": b"\x89PNG", "JPEG": b"\xff\xd8\xff"}  # format to the first bytes of its files
MAX_LISTED = 8  # names in an error


def has_suffix(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Return whether a file's name ends in one of `suffixes`, in upper or lower case."""
    return path.name.lower().endswith(suffixes)


def image_format(path: Path, start: bytes) -> str | None:
    """Return the format of an image by the first bytes of its file, of NIfTI by its name; None if it is none."""
    if has_suffix(path, NIFTI_SUFFIXES):
        return "NIfTI"
    if start[128:132] == b"DICM":
        return "DICOM"
    return next((name for name, magic in PICTURES.items() if start.startswith(magic)), None)


def list_files(
    path: Path,
    suffixes: tuple[str, ...] = (".h5",),
    nothing: str = "no .h5 file in this folder",
    hint: str = "give a fastMRI HDF5 file or a folder of them",
    *,
    strict: bool = False,
    recursive: bool = False,
) -> list[Path]:
    """List the files of a folder that have one of `suffixes`, sorted and without hidden ones; or the one file.

    Parameters
    ----------
    path : the folder, or a file
    suffixes : in lower case; names may have them in upper case, too
    nothing, hint : what an error says of a folder without such a file, and what errors ask for
    strict : whether a file given by itself must have one of the suffixes
    recursive : whether files of the folders below are listed, too

    Raises
    ------
    InputError
        Not there, no such file in the folder, or a file without any of the suffixes.
    """
    if path.is_dir():
        found = path.rglob("*") if recursive else path.iterdir()
        files = sorted(p for p in found if has_suffix(p, suffixes) and p.name[0] != "." and not p.is_dir())
        if not files:
            raise InputError(f"{path}: {nothing}; {hint}")
        return files
    if not path.is_file():
        raise InputError(f"{path}: file not found; {hint}")
    if strict and not has_suffix(path, suffixes):
        raise InputError(f"{path}: ends in none of {', '.join(suffixes)}; {hint}")
    return [path]


def check_names(results: Iterable[tuple[Path, str]]) -> None:
    """Check that no two results of input files have the same name, whatever its suffix.

    Raises
    ------
    InputError
        Two of one name.
    """
    files: dict[str, Path] = {}
    for file, name in results:
        stem = Path(name).stem
        if stem in files:
            both = f"{files[stem].name} and {file.name}"
            raise InputError(f"{file.parent}: {both} would have results with the same name; rename one")
        files[stem] = file


def names_in(path: Path) -> list[str]:
    """Return the names of what is in a folder, sorted and without hidden ones; of a file its own name."""
    return sorted(p.name for p in path.iterdir() if p.name[0] != ".") if path.is_dir() else [path.name]


def list_names(names: Iterable[str]) -> str:
    """Return names for an error, sorted: the first ones, and how many more there are."""
    ordered = sorted(names)
    more = len(ordered) - MAX_LISTED
    return ", ".join(ordered[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "") or "nothing"
