"""Headers of .npy files are checked before anything of their size is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrihvae.errors import InputError
from mrihvae.io.npy_array import load_array
from mrihvae.utils import memory
from tests.support.attacks import write_npy_header


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3)), np.zeros((0, 3)), np.array(2)]
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_arrays_are_read(tmp_path: Path, array: np.ndarray, version: tuple[int, int]) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, array, version)
    found = load_array(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype


def test_claims_objects_and_large_arrays_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_npy_header(
        tmp_path / "a.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (1000001,1000001), }"
    )
    with pytest.raises(ValueError, match="it holds 64 of 4000008000004 bytes"):
        load_array(path)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="it holds Python objects"):
        load_array(path)
    np.save(path, np.zeros(100))
    monkeypatch.setenv(memory.LIMIT_VARIABLE, str(100 / memory.GIB))
    with pytest.raises(InputError, match=f"{path}: its array takes"):
        load_array(path)
