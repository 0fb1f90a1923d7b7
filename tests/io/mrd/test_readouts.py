"""Readouts whose header and samples disagree: oversampling, the center, and what must not be taken for a half echo."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ismrmrd")

import ismrmrd

from mrihvae.errors import InputError
from mrihvae.io.mrd.header import Encoding, Space
from mrihvae.io.mrd.readouts import readout
from mrihvae.io.partitions import centered_fft
from tests.support import mrd
from tests.support.assembly import phantom, psnr, scan_3d, slab_xml, sort, stacked
from tests.support.files import complex_normal

SHAPE = (2, 3, 32, 12)  # slices, coils, H, W
EQUAL = 100  # dB from which images are the same
BASE = {"encoded": (32, 12, 1), "encoded_fov_mm": (32, 12, 5)}  # what headers have that leave the oversampling out


def images(header: dict[str, Any], lines: list[mrd.Line], early: bool = True) -> tuple[np.ndarray, list[str]]:
    """Sort lines: k-space of the slices, and warnings."""
    sorter, slices = sort(mrd.cartesian_xml(SHAPE, **header), lines, early)
    return stacked(slices), sorter.warnings


@pytest.mark.parametrize("factor", [1.5, 1.75, 2, 3, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"reverse": True}, {"reverse": True, "nominal_center": True}, {"discard": (6, 2)}, {"discard": (0, 9)}],
)
def test_oversampling_that_samples_alone_have(factor: float, options: dict[str, Any]) -> None:
    kspace = phantom(*SHAPE)
    found, warnings = images(BASE, mrd.cartesian_lines(kspace, oversampling=factor, **options))
    assert psnr(found, kspace) > EQUAL
    assert warnings == [
        f"lines have {32 * factor:g} samples, and the header's encodedSpace 32: they are taken as {factor:.3g} times "
        "oversampled"
    ]


def test_oversampling_that_samples_alone_have_in_3d() -> None:
    slices = phantom(6, 2, 32, 12)
    slab = centered_fft(slices, 0)
    xml = slab_xml(slab, encoded=(32, 12, 6), encoded_fov_mm=(32, 12, 12))
    sorter, found = sort(xml, scan_3d(slab), early=True)
    assert psnr(stacked(found), slices) > EQUAL and len(sorter.warnings) == 1
    assert [one.geometry.voxel for one in found] == [(1, 1, 2)] * 6


@pytest.mark.parametrize("discard", [(0, 0), (10, 20)])
def test_asymmetric_echo_of_such_oversampling(discard: tuple[int, int]) -> None:
    """The longer side of the center reaches the end of the readout; what is discarded is of it or was left out."""
    kspace = phantom(*SHAPE)
    whole = mrd.cartesian_lines(kspace)
    if any(discard):
        lines = [replace(line, discard_pre=discard[0], discard_post=discard[1]) for line in whole]
        kept = (np.arange(64) >= 10) & (np.arange(64) < 44)
    else:
        lines, kept = mrd.cartesian_lines(kspace, missing=16), np.arange(64) >= 16
    found, _ = images(BASE, lines)
    truth, _ = images({}, [replace(line, data=line.data * kept) for line in whole])
    assert psnr(found, truth) > EQUAL


def test_center_of_the_base_resolution_beside_oversampled_samples() -> None:
    kspace = complex_normal((2, 16))
    image = centered_fft(kspace, 1, inverse=True)
    samples = centered_fft(np.pad(image, ((0, 0), (8, 8))), 1)
    line = ismrmrd.Acquisition.from_array(samples)
    line.center_sample = 8
    space = Space((16, 12, 1), (16.0, 12.0, 1.0))
    found = readout(line, Encoding(space, space))
    np.testing.assert_allclose(found.data, kspace, atol=1e-5)
    assert found.doubt.endswith("2 times oversampled, with the center in their middle, not at center_sample")


def test_image_that_is_smaller_than_the_base_resolution() -> None:
    """Header of base resolution 32, of which 24 are imaged, and 64 samples."""
    kspace = phantom(2, 3, 24, 12)
    header = BASE | {"recon": (24, 12, 1), "recon_fov_mm": (24, 12, 5)}
    found, _ = images(header, mrd.cartesian_lines(kspace, oversampling=64 / 24))
    assert psnr(found, kspace) > EQUAL


def test_field_of_view_of_the_image_beside_samples_of_the_oversampled_one() -> None:
    """Twice the samples over the same field of view would be half the voxels."""
    kspace = phantom(*SHAPE)
    sorter, slices = sort(mrd.cartesian_xml(SHAPE, encoded_fov_mm=(32, 12, 5)), mrd.cartesian_lines(kspace))
    assert psnr(stacked(slices), kspace) > EQUAL and slices[0].geometry.voxel == (1, 1, 5)
    assert sorter.warnings == [
        "the header has 64 samples in its encodedSpace and 32 in its reconSpace, for the same field of view: the "
        "readout is taken as oversampled"
    ]


def test_matrix_of_the_image_beside_the_field_of_view_of_the_oversampling() -> None:
    kspace = phantom(*SHAPE)
    sorter, slices = sort(mrd.cartesian_xml(SHAPE, encoded=(32, 12, 1)), mrd.cartesian_lines(kspace, discard=(2, 4)))
    assert psnr(stacked(slices), kspace) > EQUAL and slices[0].geometry.voxel == (1, 1, 5)
    assert slices[0].matrix == (32, 12) and len(sorter.warnings) == 1
    interpolated = mrd.cartesian_xml(SHAPE, recon=(64, 24, 1))  # twice the acquired one, so that the matrices are equal
    sorter, slices = sort(interpolated, mrd.cartesian_lines(kspace))
    assert psnr(stacked(slices), kspace) > EQUAL and not sorter.warnings


def test_image_that_is_made_coarser_is_not_oversampled() -> None:
    """Half the matrix along both axes, of the same field of view."""
    kspace = phantom(*SHAPE)
    header = BASE | {"recon": (16, 6, 1), "recon_fov_mm": (32, 12, 5)}
    sorter, slices = sort(mrd.cartesian_xml(SHAPE, **header), mrd.cartesian_lines(kspace, oversampling=1))
    assert psnr(stacked(slices), kspace) > EQUAL and not sorter.warnings


@pytest.mark.parametrize(("center", "discard"), [(0, 0), (15, 0), (17, 0), (32, 0), (0, 3), (16, 3), (32, 3), (35, 3)])
@pytest.mark.parametrize("backwards", [False, True])
def test_center_of_lines_whose_oversampling_was_removed(center: int, discard: int, backwards: bool) -> None:
    """Not set, off by one, kept from before, or counted behind samples to discard: never half an echo."""
    kspace = phantom(*SHAPE)
    options: dict[str, Any] = {"oversampling": 1, "discard": (discard, 0), "reverse": backwards}
    lines = [replace(line, center_sample=center) for line in mrd.cartesian_lines(kspace, **options)]
    found, warnings = images({}, lines)
    assert psnr(found, kspace) > EQUAL
    is_right = backwards and center - discard == 15  # where such a line has it
    text = "lines have 32 samples, and the header 64: their oversampling is taken as already removed"
    assert is_right == (not warnings) and all(warning.startswith(text) for warning in warnings)


def test_center_that_is_counted_behind_samples_to_discard() -> None:
    kspace = phantom(*SHAPE)
    for header in ({}, BASE):
        lines = [replace(line, center_sample=32) for line in mrd.cartesian_lines(kspace, discard=(8, 0))]
        found, warnings = images(header, lines)
        assert psnr(found, kspace) > EQUAL and len(warnings) == 1


def test_center_that_is_not_set_of_lines_with_an_oversampling_of_their_own() -> None:
    kspace = phantom(*SHAPE)
    found, warnings = images(BASE, [replace(line, center_sample=0) for line in mrd.cartesian_lines(kspace)])
    assert psnr(found, kspace) > EQUAL
    assert warnings[0].endswith("center_sample of lines is 0, which is taken as not set: the center is their middle")


@pytest.mark.parametrize("missing", [8, 24, 28])
@pytest.mark.parametrize("backwards", [False, True])
def test_asymmetric_echoes_stay_what_they_are(missing: int, backwards: bool) -> None:
    """The center lies at sample 4 at least, and fewer samples than the readout has: 36 of 64 at least."""
    kspace = phantom(*SHAPE)
    found, warnings = images({}, mrd.cartesian_lines(kspace, missing=missing, reverse=backwards))
    kept = np.arange(64) >= missing
    truth, _ = images({}, [replace(line, data=line.data * kept) for line in mrd.cartesian_lines(kspace)])
    assert psnr(found, truth) > EQUAL and not warnings


def test_asymmetric_echo_whose_oversampling_was_removed() -> None:
    """Its longer side reaches the end of the image's readout, not of the header's."""
    kspace = phantom(*SHAPE)
    found, warnings = images({}, mrd.cartesian_lines(kspace, oversampling=1, missing=6))
    assert psnr(found, kspace * (np.arange(32) >= 6)[:, None]) > EQUAL
    assert warnings == ["lines have 26 samples, and the header 64: their oversampling is taken as already removed"]


@pytest.mark.parametrize(
    ("samples", "center"),
    [(36, 18), (64, 20), (300, 150), (64, 70)],
    ids=["no factor of oversampling", "a center anywhere", "too much", "a center outside"],
)
def test_readouts_that_fit_nothing(samples: int, center: int) -> None:
    lines = mrd.cartesian_lines(phantom(1, 1, samples, 12), oversampling=1)
    lines = [replace(line, center_sample=center) for line in lines]
    with pytest.raises(InputError, match=f"line 0: has {samples} samples to use with the center at {center}"):
        images(BASE, lines)
