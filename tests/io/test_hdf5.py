"""HDF5 files that are whole or not there, and lists of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from mrihvae.errors import InputError
from mrihvae.io import hdf5
from mrihvae.io.formats import list_files
from mrihvae.io.hdf5 import new_file, read_dataset, write_datasets
from tests.support.files import write_h5


def test_arrays_and_attributes_come_back(tmp_path: Path) -> None:
    path, array = tmp_path / "new" / "a.h5", np.arange(6.0, dtype=np.float32).reshape(2, 3)
    write_datasets(path, {"image": array, "mask": array > 2}, {"method": "tv", "size": 3})
    assert read_dataset(path, "image").dtype == np.float32
    np.testing.assert_array_equal(read_dataset(path, "image"), array)
    np.testing.assert_array_equal(read_dataset(path, "mask"), array > 2)
    with h5py.File(path) as file:
        assert dict(file.attrs) == {"method": "tv", "size": 3}
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_in_between_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "a.h5", image=np.ones(3))
    with pytest.raises(ZeroDivisionError), new_file(path, 100) as file:
        file["image"] = np.zeros(3)
        raise ZeroDivisionError
    np.testing.assert_array_equal(read_dataset(path, "image"), np.ones(3))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_room_is_asked_for_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def refuse(number: int) -> None:
        def allocate(_: int, start: int, size: int) -> None:
            sizes.append(size)
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "posix_fallocate", allocate)

    refuse(errno.ENOSPC)
    with pytest.raises(InputError, match="a.h5: cannot be written .No space left on device."):
        write_datasets(tmp_path / "a.h5", {"image": np.ones(1000)})
    assert sizes == [8000 + hdf5.ROOM_BESIDE] and not list(tmp_path.iterdir())
    refuse(errno.EOPNOTSUPP)  # a file system that cannot say
    write_datasets(tmp_path / "a.h5", {"image": np.ones(1000)})
    assert read_dataset(tmp_path / "a.h5", "image").sum() == 1000


def test_lists(tmp_path: Path) -> None:
    for name in ("b.h5", "a.h5", ".c.h5", "d.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_files(tmp_path)] == ["a.h5", "b.h5"]
    assert list_files(tmp_path / "d.txt") == [tmp_path / "d.txt"]  # the one that is named
    with pytest.raises(InputError, match=r"none: file not found; give a results file or a folder of them"):
        list_files(tmp_path / "none", hint="give a results file or a folder of them")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no .h5 file in this folder; give a fastMRI HDF5 file"):
        list_files(tmp_path / "empty")


@pytest.mark.parametrize("value", [np.nan, np.inf, complex(0, np.nan)])
def test_numbers_that_are_not_finite(value: complex, tmp_path: Path) -> None:
    path = write_h5(tmp_path / "a.h5", image=np.array([0, value]), count=np.array([1, 2]))
    with pytest.raises(InputError, match="a.h5: dataset 'image' holds NaN or infinite values; export the scan again"):
        read_dataset(path, "image")
    assert read_dataset(path, "count").tolist() == [1, 2]
