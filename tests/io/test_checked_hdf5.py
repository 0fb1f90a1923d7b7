"""Objects of HDF5 files are within their file, and what is read at once has a limit."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from mrihvae.errors import InputError
from mrihvae.io.checked_hdf5 import CheckedDataset, CheckedGroup, OutsideError, _count, open_checked, refuse_links
from mrihvae.utils import memory
from tests.support.attacks import SHAPE, write_fastmri


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    other = write_fastmri(tmp_path / "other.h5")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["group/numbers"] = np.arange(6.0).reshape(2, 3)
        file["group/up"] = h5py.SoftLink("/group/numbers")
        file["group/beside"] = h5py.SoftLink("numbers")
        file["group/round"] = h5py.SoftLink("/group/round")
        file["away"] = h5py.ExternalLink(str(other), "/kspace")
        file["group/through"] = h5py.SoftLink("/away")
        file["group/nothing"] = h5py.SoftLink("/group/numbers/nothing")
    return path


def test_objects_are_found_by_any_path(linked: Path) -> None:
    with open_checked(linked) as file:
        assert isinstance(file["group"], CheckedGroup) and isinstance(file["/"], CheckedGroup)
        for name in ("group/numbers", "/group//numbers", b"group/./numbers", "group/up", "group/beside"):
            assert isinstance(file[name], CheckedDataset) and file[name][1, 2] == 5
        assert file["group"].get("numbers").name == "/group/numbers" and "group/numbers" in file
        assert file.get("group/other") is None and "other" not in file and file.get("group/numbers/x", 3) == 3
        found: list[str] = []
        file.visititems(lambda name, item: found.append(f"{name} {type(item).__name__}"))
        assert found == ["group CheckedGroup", "group/numbers CheckedDataset"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("away", "a link to another file"),
        ("group/through", "a link to another file"),
        ("group/round", "which does not exist"),
        ("group/nothing", "which does not exist"),
    ],
)
def test_links_that_lead_away_are_refused(linked: Path, name: str, message: str) -> None:
    with open_checked(linked) as file:
        with pytest.raises(OutsideError, match=message):
            file[name]
        with pytest.raises(OutsideError, match=message):
            file.get(name)
        with pytest.raises(OutsideError):
            refuse_links(file if "/" not in name else file["group"])
        with pytest.raises(TypeError, match="checked groups have no getlink"):
            file.get(name, getlink=True)


def test_what_is_read_at_once_has_a_limit(linked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.LIMIT_VARIABLE, str(32 / memory.GIB))
    with open_checked(linked) as file:
        numbers = file["group/numbers"]
        np.testing.assert_array_equal(numbers[1], [3, 4, 5])
        for read in (lambda: numbers[()], lambda: np.asarray(numbers), lambda: numbers[[0, 1]]):
            with pytest.raises(InputError, match="'group/numbers' takes"):
                read()


def test_chunks_have_the_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("rows", data=np.zeros((64, 64)), chunks=(64, 64), compression="gzip")
    monkeypatch.setenv(memory.LIMIT_VARIABLE, str(2**12 / memory.GIB))
    with open_checked(tmp_path / "a.h5") as file, pytest.raises(InputError, match="a chunk of 'rows' takes"):
        file["rows"][0]


def test_attributes_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["numbers"] = np.zeros(100)
    with open_checked(tmp_path / "a.h5") as file:
        assert len(file.attrs["numbers"]) == 100
        monkeypatch.setattr("mrihvae.io.checked_hdf5.LARGEST_ATTRIBUTE", 100)
        with pytest.raises(InputError, match="attribute 'numbers' claims"):
            dict(file.attrs.items())


@pytest.mark.parametrize(
    "index", [(), 1, slice(1, 3), [0, 2], (Ellipsis, 1), (0, Ellipsis), (slice(None), 1, slice(0, 4, 2)), Ellipsis, -1]
)
def test_elements_are_counted_as_numpy_takes_them(index: object) -> None:
    array = np.zeros((3, 4, 5))
    assert _count(array.shape, index) == array[index].size  # type: ignore[index]


def test_attributes_of_many_texts_have_the_limit_of_memory(tmp_path: Path) -> None:
    """Each text may be the same large one."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros(10000)
        file.attrs["few"], file.attrs["many"] = ["a"] * 3, ["a"] * 100
    memory.set_limit(0.001)
    with open_checked(tmp_path / "a.h5") as file:
        assert list(file.attrs["few"]) == ["a"] * 3
        with pytest.raises(InputError, match="attribute 'many' claims"):
            file.attrs["many"]
    memory.set_limit(None)


def test_files_of_many_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrihvae.io.checked_hdf5.MAX_OBJECTS", 10)
    path = write_fastmri(tmp_path / "a.h5", **{f"n{k}": 1.0 for k in range(20)})
    with open_checked(path) as file:
        assert file["kspace"].shape == SHAPE
        for look in (lambda: list(file), lambda: file.visititems(lambda name, item: None)):
            with pytest.raises(InputError, match="has more than 10 objects"):
                look()
