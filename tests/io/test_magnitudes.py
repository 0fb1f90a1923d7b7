"""How many slices a file has, and which of them are used, without and with its voxels."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from mrihvae.errors import InputError
from mrihvae.io.magnitudes import count_slices, magnitude_slices, usable_slices
from tests.support.small import phantom


def stack(count: int) -> np.ndarray:
    """Draw phantoms, (h, w, count)."""
    return np.stack([phantom(24, 20, k) for k in range(count)], axis=-1)


def nifti(path: Path, volume: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([1, 1, 5, 1])), path)
    return path


@pytest.mark.parametrize("shape", [(24, 20), (24, 20, 4), (24, 20, 4, 3)])
def test_slices_are_counted_as_they_are_read(shape: tuple[int, ...], tmp_path: Path) -> None:
    count = int(np.prod(shape[2:]))
    path = nifti(tmp_path / "a.nii.gz", stack(count).reshape(shape))
    assert count_slices(path) == len(magnitude_slices(path)) == count


def test_a_picture_is_one_slice(tmp_path: Path) -> None:
    Image.fromarray((200 * phantom(24, 20)).astype(np.uint8)).save(tmp_path / "a.png")
    assert count_slices(tmp_path / "a.png") == len(magnitude_slices(tmp_path / "a.png")) == 1


def test_slices_without_an_object_are_left_out_and_the_others_keep_their_place(tmp_path: Path) -> None:
    volume = stack(4)
    volume[..., 1] = 0
    volume[..., 2] *= np.arange(24)[:, None] == 12  # one row
    path = nifti(tmp_path / "a.nii", volume)
    found = usable_slices(path)
    assert list(found) == [0, 3] and count_slices(path) == 4
    for k, image in found.items():
        np.testing.assert_array_equal(image, volume[..., k])
    row = float((volume[..., 2] > 0.1 * np.percentile(volume, 99.5)).mean())
    assert list(usable_slices(path, row)) == [0, 2, 3] and list(usable_slices(path, row + 1e-6)) == [0, 3]


def test_what_cannot_be_counted(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_text("hello")
    with pytest.raises(InputError, match=r"a.nii: not readable \(.*\); copy it again or leave it out"):
        count_slices(tmp_path / "a.nii")
