"""Which files of a folder are read: by suffix, hidden ones and folders left out, and every refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrihvae.errors import InputError
from mrihvae.io.formats import NIFTI_SUFFIXES, check_names, has_suffix, image_format, list_files


def test_list_files(tmp_path: Path) -> None:
    for name in ("b.h5", "a.h5", "notes.txt", ".hidden.h5", "C.H5"):
        (tmp_path / name).touch()
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "folder.h5" / "d.h5").touch()
    assert [path.name for path in list_files(tmp_path)] == ["C.H5", "a.h5", "b.h5"]
    assert [path.name for path in list_files(tmp_path, recursive=True)] == ["C.H5", "a.h5", "b.h5", "d.h5"]
    assert list_files(tmp_path / "b.h5") == [tmp_path / "b.h5"]
    assert list_files(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "no .h5 file in this folder; give a fastMRI HDF5 file or a folder of them"),
        ("nowhere", "file not found; give a fastMRI HDF5 file or a folder of them"),
        ("notes.txt", "ends in none of .h5; give a fastMRI HDF5 file or a folder of them"),
    ],
)
def test_files_that_are_not_there(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError) as caught:
        list_files(tmp_path / name, strict=True)
    assert str(caught.value) == f"{tmp_path / name}: {message}"


@pytest.mark.parametrize(
    ("name", "start", "kind"),
    [
        ("a.nii.gz", b"\x1f\x8b", "NIfTI"),
        ("a", bytes(128) + b"DICM", "DICOM"),
        ("a.dat", b"\x89PNG\r\n", "PNG"),
        ("a", b"\xff\xd8\xff\xe0", "JPEG"),
        ("a.h5", b"\x89HDF", None),
        ("notes.txt", b"", None),
    ],
)
def test_images_are_known_by_their_first_bytes(name: str, start: bytes, kind: str | None) -> None:
    assert image_format(Path(name), start) == kind


def test_links_to_nowhere_are_not_passed_over(tmp_path: Path) -> None:
    """Their reader names them."""
    (tmp_path / "a.h5").symlink_to(tmp_path / "gone.h5")
    assert list_files(tmp_path) == [tmp_path / "a.h5"]


@pytest.mark.parametrize(("name", "expected"), [("a.nii", True), ("A.NII.GZ", True), ("a.gz", False), ("nii", False)])
def test_suffixes(name: str, expected: bool) -> None:
    assert has_suffix(Path(name), NIFTI_SUFFIXES) == expected


def test_names_of_results() -> None:
    check_names([(Path("x/a.h5"), "a.h5"), (Path("x/a.mrd"), "a_set1.h5")])
    with pytest.raises(InputError, match=r"^x: a.h5 and a.cfl would have results with the same name; rename one$"):
        check_names([(Path("x/a.h5"), "a.h5"), (Path("x/a.cfl"), "a.cfl")])
