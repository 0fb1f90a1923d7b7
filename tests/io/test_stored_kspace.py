"""K-space that stays in its file: read slice by slice, ahead, and refused where the file is not what it was."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from mrihvae import open_kspace
from mrihvae.cli.reconstruct_files import reconstruct_file
from mrihvae.errors import InputError
from mrihvae.io.fastmri import read_scan
from mrihvae.io.stored_kspace import StoredKspace
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.catalog import make_method
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume
from tests.support.files import complex_normal, write_scan
from tests.support.small_coils import calibrated

KSPACE = complex_normal((5, 3, 24, 20))


def stored(folder: Path, kspace: np.ndarray = KSPACE) -> Path:
    path = folder / "scan.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
    return path


def test_it_is_indexed_like_an_array(tmp_path: Path) -> None:
    found = StoredKspace(stored(tmp_path, KSPACE.astype(np.complex128)))
    assert (found.shape, found.ndim, len(found)) == (KSPACE.shape, 4, 5)
    assert found.dtype == np.complex64
    indices = (
        0,
        4,
        -1,
        np.int64(2),
        slice(1, 3),
        slice(3, None),
        slice(4, 2),
        slice(None, None, 2),
        slice(None, None, -1),
    )
    for index in (*indices, (2, 1), (slice(1, 4), 0, slice(3, 5)), [0, 2]):
        one = found[index]
        assert isinstance(one, np.ndarray) and one.dtype == np.complex64
        np.testing.assert_array_equal(one, KSPACE[index])
    np.testing.assert_array_equal(np.asarray(found), KSPACE)
    np.testing.assert_array_equal(np.stack(list(found)), KSPACE)
    assert np.asarray(found, np.complex128).dtype == np.complex128
    with pytest.raises(IndexError, match="slice 5 of 5"):
        found[5]


def test_the_next_slices_are_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, asked = StoredKspace(stored(tmp_path)), []
    read = StoredKspace._read

    def counting(self: StoredKspace, begin: int, end: int) -> np.ndarray:
        asked.append((begin, end))
        return read(self, begin, end)

    monkeypatch.setattr(StoredKspace, "_read", counting)
    for begin, end in ((0, 2), (2, 4), (4, 5)):
        np.testing.assert_array_equal(found[begin:end], KSPACE[begin:end])
    assert asked == [(0, 2), (2, 4), (4, 5)]  # each once, and no further
    np.testing.assert_array_equal(found[1], KSPACE[1])  # another one than what comes next
    assert asked[3] == (1, 2)


def test_files_that_are_not_what_they_were(tmp_path: Path) -> None:
    path = stored(tmp_path)
    found = StoredKspace(path)
    with h5py.File(path, "w") as file:
        file["kspace"] = KSPACE[:2]
    with pytest.raises(InputError, match=r"scan.h5: 'kspace' has changed; put back the file that was there"):
        found[3]
    path.unlink()
    with pytest.raises(InputError, match=r"scan.h5: file not found"):
        found[0]
    with pytest.raises(InputError, match="has no dataset 'other'"):
        StoredKspace(stored(tmp_path), "other")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_any_slice_is_found_when_the_file_is_opened(tmp_path: Path, value: float) -> None:
    kspace = KSPACE.copy()
    kspace[4, 1, 3, 2] = value
    for lazy in (False, True):
        with pytest.raises(InputError, match="dataset 'kspace' holds NaN or infinite values; export the scan again"):
            open_kspace(stored(tmp_path, kspace), lazy)
    large = KSPACE * np.float32(1e30)  # whose energy is beyond single precision
    assert len(open_kspace(stored(tmp_path, large), lazy=True)[0].kspace) == 5


@pytest.mark.parametrize("coils", [1, 3])
def test_volumes_are_the_same(tmp_path: Path, coils: int) -> None:
    kspace = KSPACE if coils > 1 else KSPACE[:, 0]
    path = write_scan(tmp_path / "file1.h5", kspace.shape, kspace=kspace)
    (lazy,), whole = open_kspace(path, lazy=True), read_scan(path)
    assert isinstance(lazy.kspace, StoredKspace) and isinstance(whole.kspace, np.ndarray)
    pattern = Undersampling("random", 2, 0.3)
    masks = [mask_of(one, pattern) for one in (lazy, whole)]
    np.testing.assert_array_equal(*masks)
    np.testing.assert_array_equal(lazy.single_slice(2).kspace, whole.single_slice(2).kspace)
    for method in (make_method("zero-filled"), make_method("sense", strength=0.01)):
        found, expected = (reconstruct_volume(one, masks[0], method) for one in (lazy, whole))
        np.testing.assert_array_equal(found, expected)


def test_commands_hold_a_slice_or_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing asks for all of k-space of a masked file of fastMRI."""
    kspace = np.where(calibrated(20).numpy(), KSPACE, 0)
    path = write_scan(tmp_path / "file1.h5", kspace.shape, kspace=kspace, mask=calibrated(20).numpy())
    most: list[int] = []
    read = StoredKspace._read

    def counting(self: StoredKspace, begin: int, end: int) -> np.ndarray:
        most.append(end - begin)
        return read(self, begin, end)

    monkeypatch.setattr(StoredKspace, "_read", counting)
    (row,) = reconstruct_file(path, tmp_path / "out", make_method("sense", strength=0.01), None, 1)
    assert row["slices"] == 5 and max(most) == 1
