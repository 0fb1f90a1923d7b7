"""Images that clients stored, in the order in which they arrived: volumes, their order, values and places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

pytest.importorskip("ismrmrd")

from mrihvae.errors import InputError
from mrihvae.io.mrd.image_files import mrd_image_groups, read_mrd_images, read_mrd_volumes
from mrihvae.utils.notices import collect_notices
from tests.support.stored_images import Stored, marked, store

ORDER = (0, 2, 1)  # in which slices are acquired
RESCALED = {"RescaleSlope": "0.25", "RescaleIntercept": "-3"}


def test_slices_are_sorted_by_their_place(tmp_path: Path) -> None:
    """Interleaved, with and without numbers of slices, and with numbers that count the time."""
    for name, numbers in (("a", ORDER), ("b", (0, 0, 0)), ("c", (0, 1, 2))):
        images = [Stored(marked(10 * k), 3 + 5.5 * k, header={"slice": n}) for k, n in zip(ORDER, numbers, strict=True)]
        found = read_mrd_images(store(tmp_path / f"{name}.h5", images))
        np.testing.assert_array_equal(found.pixels, [marked(0), marked(10), marked(20)])
        assert found.geometry is not None and found.geometry.voxel == (2.0, 1.5, 5.0)
        np.testing.assert_allclose(found.geometry.positions, [[1, 2, 3], [1, 2, 8.5], [1, 2, 14]])


def test_numbers_that_run_downwards_are_kept(tmp_path: Path) -> None:
    """As k-space of the same scan is read; without numbers slices go up the normal."""
    for name, numbers, expected in (("a", (0, 1, 2), [20, 10, 0]), ("b", (0, 0, 0), [0, 10, 20])):
        images = [Stored(marked(10 * k), 5 * k, header={"slice": n}) for k, n in zip((2, 1, 0), numbers, strict=True)]
        found = read_mrd_images(store(tmp_path / f"{name}.h5", images))
        assert found.pixels[:, 3, 3].tolist() == expected and found.geometry is not None
        assert found.geometry.positions[:, 2].tolist() == [k / 2 for k in expected]


def test_each_number_is_a_volume(tmp_path: Path) -> None:
    """Contrasts 1, 0, 0, 1 and mixed repetitions; what differs names a volume."""
    images = [
        Stored(marked(100 * r + 10 * c + k), 5 * k, header={"contrast": c, "repetition": r})
        for r, k, c in ((1, 0, 1), (0, 1, 0), (0, 0, 0), (0, 0, 1), (1, 1, 1), (1, 0, 0), (0, 1, 1), (1, 1, 0))
    ]  # fmt: skip
    path = store(tmp_path / "a.h5", images)
    found = read_mrd_volumes(path)
    assert [one.name for one in found] == [f"repetition{r}_contrast{c}" for r in (0, 1) for c in (0, 1)]
    assert [one.images.pixels[:, 3, 3].tolist() for one in found] == [[0, 1], [10, 11], [100, 101], [110, 111]]
    assert [one.name for one in read_mrd_volumes(path, contrast=1)] == ["repetition0", "repetition1"]
    assert read_mrd_images(path, "image_0", 1, 1).pixels[:, 3, 3].tolist() == [110, 111]
    with pytest.raises(
        InputError, match=r"a.h5: has 4 volumes: repetition0_contrast0 \(2 slices\), repetition0_contra"
    ):
        read_mrd_images(path)
    with pytest.raises(InputError, match=r"a.h5: has no images of contrast 5; those that were chosen have 0, 1"):
        read_mrd_images(path, contrast=5)


def test_phases_sets_and_directions_are_volumes(tmp_path: Path) -> None:
    sagittal = {"read_dir": (0, 1, 0), "phase_dir": (0, 0, 1), "slice_dir": (1, 0, 0)}
    images = [Stored(marked(k), 0, header=header) for k, header in enumerate([{"phase": 1}, {"set": 2}, {}, sagittal])]
    found = read_mrd_volumes(store(tmp_path / "a.h5", images))
    assert [(one.name, float(one.images.pixels.min())) for one in found] == [
        ("phase0_set0_stack0", 2), ("phase0_set0_stack1", 3), ("phase0_set2_stack0", 1), ("phase1_set0_stack0", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("meta", "values"),
    [
        ({}, [0, 40]),
        (RESCALED, [-3, 7]),
        ({"RescaleSlope": "2"}, [0, 80]),
        ({"RescaleIntercept": "5"}, [5, 45]),
        ({"PixelFactor": "4"}, [0, 10]),
        ({**RESCALED, "PixelFactor": "8"}, [-3, 7]),  # not both
    ],
)
def test_values_are_rescaled(meta: dict[str, str], values: list[float], tmp_path: Path) -> None:
    images = [Stored(np.full((8, 6), 40 * k, np.int16), 5 * k, meta=meta) for k in (1, 0)]
    found = read_mrd_images(store(tmp_path / "a.h5", images))
    assert found.pixels.dtype == np.float32 and found.pixels[:, 0, 0].tolist() == values


@pytest.mark.parametrize("meta", [{"RescaleSlope": "0"}, {"PixelFactor": "nan"}, {"RescaleIntercept": "much"}])
def test_rescaling_that_says_nothing(meta: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"a.h5: {next(iter(meta))} of an image is '{next(iter(meta.values()))}'"):
        read_mrd_images(store(tmp_path / "a.h5", [Stored(marked(1), meta=meta)]))


def test_magnitudes_are_taken_where_there_are_other_types(tmp_path: Path) -> None:
    images = [
        Stored(marked(k), 5 * k, series, kind) for k in (1, 0) for series, kind in ((0, "phase"), (1, "magnitude"))
    ]
    path = store(tmp_path / "a.h5", images)
    with collect_notices() as notices:
        found = read_mrd_volumes(path)
    assert [one.name for one in found] == [""] and found[0].images.pixels[:, 3, 3].tolist() == [0, 1]
    assert notices == ["a.h5: magnitude images are used; left out are phase images of dataset/image_0"]
    assert read_mrd_images(path, "0").pixels[:, 3, 3].tolist() == [0, 1]


def test_complex_images(tmp_path: Path) -> None:
    """Stored as such, or as real and imaginary parts."""
    parts = [
        Stored(marked(k + 2 * (kind != "real")), 5 * k, kind=kind) for k in (1, 0) for kind in ("real", "imaginary")
    ]
    whole = [Stored(marked(k) + 1j * marked(k + 2), 5 * k, kind="complex") for k in (1, 0)]
    expected = np.stack([marked(k) + 1j * marked(k + 2) for k in (0, 1)])
    for name, images in (
        ("a", parts),
        ("b", [Stored(one.pixels.astype(np.complex64), one.place, kind="complex") for one in whole]),
    ):
        found = read_mrd_images(store(tmp_path / f"{name}.h5", images))
        assert found.pixels.dtype == np.complex64
        np.testing.assert_array_equal(found.pixels, expected)


def test_uncertainty_goes_with_its_images(tmp_path: Path) -> None:
    role = {"DataRole": ["Image", "Uncertainty"], "ImageProcessingHistory": ["MRIHVAE", "uncertainty"]}
    images = [Stored(marked(k), 5 * k, 1, meta={"ImageProcessingHistory": ["MRIHVAE", "sense"]}) for k in ORDER]
    images += [Stored(marked(100 + k), 5 * k, 2, meta=role) for k in reversed(ORDER)]
    path = store(tmp_path / "a.h5", images)
    found = read_mrd_images(path)
    assert found.uncertainty is not None and found.pixels[:, 3, 3].tolist() == [0, 1, 2]
    assert found.uncertainty[:, 3, 3].tolist() == [100, 101, 102] and found.attributes == {"method": "sense"}
    alone = read_mrd_images(path, "image_2")
    assert alone.dataset == "uncertainty" and alone.pixels[:, 3, 3].tolist() == [100, 101, 102]
    store(path, [Stored(marked(200 + k), 5 * k, 3) for k in ORDER])  # whose uncertainty it is nobody knows
    assert [one.name for one in read_mrd_volumes(path)] == ["image_1", "image_3", "image_2_uncertainty"]


def test_groups_at_the_top_and_of_several_sessions(tmp_path: Path) -> None:
    path = store(tmp_path / "a.h5", [Stored(marked(1))], "first")
    store(path, [Stored(marked(2))], "second")
    assert [one.name for one in read_mrd_volumes(path)] == ["first_image_0", "second_image_0"]
    with h5py.File(path, "a") as file:
        file.move("second/image_0", "image_0")
        del file["second"], file["first"]
    assert mrd_image_groups(path) == ["image_0"] and read_mrd_images(path).pixels.min() == 2


@pytest.mark.parametrize("numbers", [(0, 1, 2), (0, 0, 0)])
def test_uneven_slices_are_warned_of(numbers: tuple[int, ...], tmp_path: Path) -> None:
    images = [Stored(marked(k), z, header={"slice": k}) for k, z in zip(numbers, (0.0, 5.0, 15.0), strict=True)]
    with collect_notices() as notices:
        found = read_mrd_images(store(tmp_path / "a.h5", images))
    assert notices == [
        "dataset/image_0: slices are not evenly spaced: usually 5 mm apart, but 10 mm after slice 1; one may be missing"
    ]
    assert found.geometry is not None and found.geometry.positions[:, 2].tolist() == [0, 5, 15]


def test_images_that_share_positions(tmp_path: Path) -> None:
    images = [Stored(marked(k), z) for k, z in enumerate((0.0, 5.0, 0.0, 5.0))]
    with pytest.raises(
        InputError, match=r"a.h5: dataset/image_0: 3 or more of 4 images share positions, and repetition"
    ):
        read_mrd_images(store(tmp_path / "a.h5", images))
    with collect_notices() as notices:
        found = read_mrd_images(store(tmp_path / "b.h5", [Stored(marked(k), header={"slice": k}) for k in ORDER]))
    assert found.geometry is None and found.pixels[:, 3, 3].tolist() == [0, 1, 2]
    assert notices[0].startswith("dataset/image_0: all of its 3 images are at one position")


@pytest.mark.parametrize("text", ["<ismrmrdMeta><meta>", '<!DOCTYPE a [<!ENTITY b "c">]><ismrmrdMeta/>'])
def test_attributes_that_are_no_xml(text: str, tmp_path: Path) -> None:
    path = store(tmp_path / "a.h5", [Stored(marked(4), meta=RESCALED)])
    with h5py.File(path, "a") as file:
        file["dataset/image_0/attributes"][0] = text
    with collect_notices() as notices:
        found: Any = read_mrd_images(path)
    assert found.pixels.min() == 4 and notices[0].startswith("the meta attributes of images are not XML")
